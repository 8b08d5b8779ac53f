"""Laws of agreement measures, and where they are undefined."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from lorascope.errors import DataError
from lorascope.measures.agreement import Level, alpha_interval, kendall_tau_b, krippendorff_alpha

LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")
random = np.random.default_rng(0)
RATINGS = np.clip(random.integers(1, 6, 40) + random.integers(-1, 2, (3, 40)), 1, 5).astype(float)
RATINGS[0, :4] = RATINGS[1, :2] = np.nan


@pytest.mark.parametrize("level", LEVELS)
def test_order_of_raters_and_units_is_nothing(level: Level) -> None:
    shuffled = RATINGS[::-1][:, np.random.default_rng(1).permutation(40)]
    assert krippendorff_alpha(shuffled, level=level) == pytest.approx(krippendorff_alpha(RATINGS, level=level))


def test_what_each_level_may_be_changed_by() -> None:
    renamed = 7 - RATINGS
    stretched = RATINGS**3
    mixed = np.where(RATINGS == 1, 9, RATINGS)
    assert krippendorff_alpha(renamed, level="interval") == pytest.approx(krippendorff_alpha(RATINGS, level="interval"))
    assert krippendorff_alpha(stretched, level="ordinal") == pytest.approx(krippendorff_alpha(RATINGS, level="ordinal"))
    assert krippendorff_alpha(mixed, level="nominal") == pytest.approx(krippendorff_alpha(RATINGS, level="nominal"))
    assert krippendorff_alpha(mixed, level="ordinal") != pytest.approx(krippendorff_alpha(RATINGS, level="ordinal"))


@pytest.mark.parametrize("level", LEVELS)
def test_ends_of_the_scale(level: Level) -> None:
    perfect = np.tile([1.0, 2, 3, 4, 5] * 8, (3, 1))
    opposite = np.array([[1.0, 5] * 50, [5.0, 1] * 50])
    assert krippendorff_alpha(perfect, level=level) == 1.0
    assert krippendorff_alpha(opposite, level=level) == pytest.approx(-1, abs=0.02)
    assert krippendorff_alpha(np.random.default_rng(0).integers(1, 6, (3, 4000)).astype(float), level=level) == (
        pytest.approx(0, abs=0.03)
    )


@pytest.mark.parametrize("level", LEVELS)
def test_units_with_one_rating_do_not_count(level: Level) -> None:
    alone = np.full((3, 2), np.nan)
    alone[0] = 5
    longer = np.concatenate([RATINGS, alone], axis=1)
    assert krippendorff_alpha(longer, level=level) == krippendorff_alpha(RATINGS, level=level)
    kept = int((np.isfinite(RATINGS).sum(axis=0) > 1).sum())
    assert alpha_interval(longer, level=level, seed=0, resamples=50).n == kept < 40


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        (np.full((3, 10), 4.0), "same value"),
        (np.array([[1.0, 2, 3]]), "two ratings"),
        (np.full((3, 4), np.nan), "two ratings"),
        (np.zeros((3, 0)), "two ratings"),
        (np.array([[1.0, np.nan], [np.nan, 2.0]]), "two ratings"),
    ],
)
def test_undefined_alpha_has_a_reason(ratings: np.ndarray, reason: str, level: Level) -> None:
    assert krippendorff_alpha(ratings, level=level) is None
    found = alpha_interval(ratings, level=level, seed=0)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.method.startswith("none: ")
    assert reason in found.method


@pytest.mark.parametrize("level", LEVELS)
def test_perfect_agreement_is_no_certainty(level: Level) -> None:
    few = alpha_interval(np.tile([1.0, 2, 3, 4] * 3, (3, 1)), level=level, seed=0, resamples=100)
    many = alpha_interval(np.tile([1.0, 2, 3, 4] * 100, (3, 1)), level=level, seed=0, resamples=100)
    assert few.value == few.high == many.high == 1.0
    assert few.low is not None
    assert many.low is not None
    assert -1 <= few.low < many.low < 1


def test_alpha_interval_holds_alpha_and_repeats() -> None:
    first = alpha_interval(RATINGS, level="ordinal", seed=3, resamples=500)
    assert first == alpha_interval(RATINGS, level="ordinal", seed=3, resamples=500)
    assert first.value == krippendorff_alpha(RATINGS, level="ordinal")
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.value < first.high <= 1


def test_single_unit_has_no_interval() -> None:
    found = alpha_interval(np.array([[1.0], [2.0]]), level="nominal", seed=0)
    assert found.value == pytest.approx(0)
    assert (found.low, found.high, found.n) == (None, None, 1)


def test_tau_mirrors_and_leaves_out_what_is_missing() -> None:
    first = np.random.default_rng(0).normal(size=40)
    second = np.round(first + np.random.default_rng(1).normal(size=40))
    found = kendall_tau_b(first, second, seed=0, resamples=300)
    turned = kendall_tau_b(-first, second, seed=0, resamples=300)
    assert turned.value == pytest.approx(-found.value)
    assert found.low < found.value < found.high
    holes = kendall_tau_b(np.append(first, [np.nan, 1]), np.append(second, [3, np.nan]), seed=0, resamples=300)
    assert holes == found


@pytest.mark.parametrize(
    ("first", "second"), [([1.0, 2, 3], [1.0, 1, 1]), ([1.0], [2.0]), ([np.nan, 1.0], [1.0, 2.0]), ([], [])]
)
def test_undefined_tau(first: list[float], second: list[float]) -> None:
    found = kendall_tau_b(np.array(first), np.array(second), seed=0, resamples=10)
    assert found.value is None
    assert found.method.startswith("none: ")


def test_tau_of_other_items() -> None:
    with pytest.raises(DataError, match="line up"):
        kendall_tau_b(np.zeros(3), np.zeros(4), seed=0)


def test_tau_of_thousands_of_items_takes_little_time_and_memory() -> None:
    """Five metrics of 5,000 items, with ties on one side; a table of all their pairs would take 200 MB each."""
    random = np.random.default_rng(0)
    first = random.normal(size=(5, 5000))
    second = np.round(first + random.normal(size=(5, 5000)))
    tracemalloc.start()
    start = time.process_time()
    found = [kendall_tau_b(a, b, seed=0) for a, b in zip(first, second, strict=True)]
    spent, most = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spent < 10
    assert most < 50e6
    for each, a, b in zip(found, first, second, strict=True):
        assert each.value == pytest.approx(stats.kendalltau(a, b).statistic)
        assert each.low < each.value < each.high < each.low + 0.05


@pytest.mark.parametrize("digits", [0, 6])
def test_tau_has_the_same_interval_by_jackknife_as_by_resampling(digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    first = np.round(random.normal(size=450), digits)
    second = np.round(first / 2 + random.normal(size=450), digits)
    resampled = kendall_tau_b(first, second, seed=0)
    monkeypatch.setattr("lorascope.measures.agreement._MOST_RESAMPLED", 100)
    found = kendall_tau_b(first, second, seed=0)
    assert ("bootstrap" in resampled.method, "jackknife" in found.method) == (True, True)
    assert found.value == resampled.value
    assert (found.low, found.high) == pytest.approx((resampled.low, resampled.high), abs=0.006)


def test_tau_of_many_items_that_all_agree_has_no_interval() -> None:
    first = np.arange(1000.0)
    found = kendall_tau_b(first, -first, seed=0)
    assert (found.value, found.low, found.high) == (pytest.approx(-1), None, None)
    assert found.method.startswith("none: ")
    nearly = kendall_tau_b(first, np.minimum(first, 3), seed=0)
    assert -1 <= nearly.low < nearly.value < nearly.high <= 1
    single = kendall_tau_b(first, (first == 0).astype(float), seed=0)
    assert (single.value is None, single.low) == (False, None)


@pytest.mark.parametrize("level", LEVELS)
def test_units_of_one_group_are_drawn_together(level: Level) -> None:
    thrice = np.tile(RATINGS, 3)
    alone = alpha_interval(RATINGS, level=level, seed=0, resamples=500)
    taken_apart = alpha_interval(thrice, level=level, seed=0, resamples=500)
    together = alpha_interval(thrice, level=level, seed=0, resamples=500, groups=[*range(40)] * 3)
    assert together.n == taken_apart.n == 3 * alone.n
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert taken_apart.high - taken_apart.low < 0.8 * (together.high - together.low)


def test_perfect_agreement_is_bounded_by_groups() -> None:
    ratings = np.tile([1.0, 2, 3, 4] * 3, (3, 1))
    few = alpha_interval(np.tile(ratings, 5), level="nominal", seed=0, resamples=50, groups=[*range(12)] * 5)
    assert few.low == pytest.approx(alpha_interval(ratings, level="nominal", seed=0, resamples=50).low, abs=0.02)
    one = alpha_interval(ratings, level="nominal", seed=0, resamples=50, groups=["q"] * 12)
    assert (one.value, one.low) == (1.0, None)
    with pytest.raises(DataError, match="groups"):
        alpha_interval(ratings, level="nominal", seed=0, groups=["q"])
