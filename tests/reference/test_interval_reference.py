"""Intervals and tests equal SciPy, or numbers published with the method."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.drift import linear_cka
from lorascope.measures.intervals import newcombe_paired, newcombe_unpaired, unseen_share, wilson
from lorascope.measures.registry import define
from lorascope.measures.significance import benjamini_hochberg, mcnemar
from lorascope.measures.statistics import estimate, paired


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (81, 263), (1, 29)])
@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_wilson_is_scipys(successes: int, trials: int, confidence: float) -> None:
    direct = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson(successes, trials, confidence=confidence) == pytest.approx((direct.low, direct.high), abs=1e-9)


def test_newcombe_unpaired_as_published() -> None:
    """Newcombe 1998, Table II, example (a): 56/70 against 48/80, method 10 gives 0.0524 to 0.3339."""
    assert newcombe_unpaired(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("items", [8, 40, 189, 500])
@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_no_discordant_pairs_as_in_tangos_score_test(items: int, confidence: float) -> None:
    """Tango 1998: the differences that the score statistic of 0 against 0 discordant pairs does not reject."""

    def statistic(difference: float) -> float:
        linear = 2 * items * difference
        nuisance = (abs(linear) - linear) / (4 * items)  # share of losses: 0 for differences above 0
        return items * difference / np.sqrt(items * (2 * nuisance + difference * (1 - difference)))

    z = stats.norm.ppf((1 + confidence) / 2)
    limit = optimize.brentq(lambda difference: statistic(difference) - z, 1e-9, 1 - 1e-9)
    assert unseen_share(items, confidence=confidence) == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_a_larger_share_would_have_been_seen(confidence: float) -> None:
    """Rule of three: with the limit's own share of changed items, none of them in the sample is unlikely enough."""
    for items in range(1, 200):
        assert (1 - unseen_share(items, confidence=confidence)) ** items <= 1 - confidence + 1e-12
    assert unseen_share(4) == pytest.approx(1 - 0.05**0.25)
    assert unseen_share(1000) == pytest.approx(3.84e-3, abs=2e-5)


def test_newcombe_paired_contains_wald_for_many_items() -> None:
    """With many balanced items the score interval and the normal interval meet."""
    both, only_base, only_adapted, neither = 40_000, 8_000, 9_000, 43_000
    items = 100_000
    share = (only_adapted - only_base) / items
    error = np.sqrt(((only_base + only_adapted) / items - share**2) / items)
    expected = (share - 1.959964 * error, share + 1.959964 * error)
    assert newcombe_paired(both, only_base, only_adapted, neither) == pytest.approx(expected, abs=2e-5)


def test_mcnemar_of_the_known_example() -> None:
    """500 items, 40 gained and 20 lost: p = 0.013, where an unpaired z-test gives 0.159."""
    assert mcnemar(20, 40) == pytest.approx(0.0135, abs=5e-4)
    assert mcnemar(0, 0) == 1.0


def test_benjamini_hochberg_by_hand() -> None:
    assert benjamini_hochberg([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.04, 0.04])
    assert benjamini_hochberg([None]) == [None]
    assert benjamini_hochberg([]) == []


def test_bootstrap_of_a_mean_meets_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, size=60)
    found = estimate(Scored(define("rougeL", mean_of_items), item_rows(values), "x"), seed=0)
    direct = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((direct.low, direct.high), abs=2e-3)


def test_randomisation_meets_scipys_permutation_test() -> None:
    random = np.random.default_rng(1)
    before = random.random(40)
    after = before + random.normal(0.05, 0.15, size=40)
    measure = define("rougeL", mean_of_items)
    found = paired(Scored(measure, item_rows(before), "x"), Scored(measure, item_rows(after), "x"), margin=0.02, seed=0)
    direct = stats.permutation_test(
        (after, before), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=20_000, rng=random
    )
    assert found.p_value == pytest.approx(direct.pvalue, abs=0.015)


def test_linear_cka_both_ways_round() -> None:
    """Feature and item forms are the same number (Kornblith 2019); the second computed here from kernels."""
    random = np.random.default_rng(2)
    x = random.normal(size=(30, 5))
    y = x @ random.normal(size=(5, 50)) + random.normal(size=(30, 50))
    centring = np.eye(30) - 1 / 30
    k, kk = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    expected = np.trace(k @ kk) / np.sqrt(np.trace(k @ k) * np.trace(kk @ kk))
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)
    assert linear_cka(x, y[:, :8]) == pytest.approx(linear_cka(y[:, :8], x), abs=1e-12)
