"""Laws of win rates, tests and models of preference, and where they are undefined."""

from __future__ import annotations

import numpy as np
import pytest

from lorascope.errors import DataError
from lorascope.measures.intervals import unseen_share
from lorascope.measures.preference import (
    SignCounts,
    left_rate,
    preference_agreement,
    rating_mean,
    sign_test,
    weighted_ratio,
    wilcoxon_pratt,
    win_rate,
)
from lorascope.measures.preference_models import bradley_terry, length_adjusted_win_rate
from lorascope.measures.preference_strata import Strata
from lorascope.measures.significance import holm
from lorascope.measures.statistics import Interval

random = np.random.default_rng(5)
ITEMS = 60
VOTES = random.choice([0.0, 0.5, 1.0], (3, ITEMS), p=[0.25, 0.2, 0.55])
SEVEN = random.choice([0.0, 0.5, 1.0], (7, ITEMS), p=[0.25, 0.2, 0.55])
STRATA = Strata(np.arange(ITEMS) % 4, np.array([400.0, 100.0, 50.0, 7.0]))
LENGTHS = random.normal(0.2, 0.5, ITEMS)


def ends(found: Interval) -> tuple[float, float, float]:
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    return found.value, found.low, found.high


def mirrored(found: Interval) -> tuple[float, float, float]:
    value, low, high = ends(found)
    return 1 - value, 1 - high, 1 - low


@pytest.mark.parametrize("votes", [VOTES, SEVEN, VOTES[0]], ids=["three", "seven", "one"])
@pytest.mark.parametrize("strata", [None, STRATA], ids=["plain", "strata"])
def test_exchange_of_the_systems_mirrors(votes: np.ndarray, strata: Strata | None) -> None:
    assert ends(win_rate(1 - votes, strata)) == pytest.approx(mirrored(win_rate(votes, strata)))
    adjusted = length_adjusted_win_rate(votes, LENGTHS, strata)
    assert ends(length_adjusted_win_rate(1 - votes, -LENGTHS, strata)) == pytest.approx(mirrored(adjusted))


@pytest.mark.parametrize("votes", [VOTES, SEVEN], ids=["three", "seven"])
def test_order_of_items_and_raters_is_nothing(votes: np.ndarray) -> None:
    places = np.random.default_rng(0).permutation(ITEMS)
    shuffled, strata = votes[::-1][:, places], Strata(STRATA.of_item[places], STRATA.populations)
    assert ends(win_rate(shuffled, strata)) == pytest.approx(ends(win_rate(votes, STRATA)))
    adjusted = length_adjusted_win_rate(votes, LENGTHS, STRATA)
    assert ends(length_adjusted_win_rate(shuffled, LENGTHS[places], strata)) == pytest.approx(ends(adjusted))


def test_win_rate_is_weighted_back_to_the_population() -> None:
    means = VOTES.mean(axis=0)
    shares = STRATA.populations / STRATA.populations.sum()
    expected = sum(shares[h] * means[STRATA.of_item == h].mean() for h in range(4))
    assert win_rate(VOTES, STRATA).value == pytest.approx(expected)
    assert win_rate(VOTES).value == pytest.approx(means.mean())
    assert STRATA.weights.sum() == pytest.approx(1)


def test_names_make_strata() -> None:
    found = Strata.of(["flip", "same", "flip"], {"same": 90, "flip": 10, "unused": 5})
    assert found.shares.tolist() == pytest.approx([0.9, 0.1, 0.0])
    assert found.weights.tolist() == pytest.approx([0.05, 0.9, 0.05])
    for populations in ({"same": 90}, {"same": 90, "flip": 0}):
        with pytest.raises(DataError, match="flip"):
            Strata.of(["flip", "same"], populations)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("items", [2, 5, 40])
@pytest.mark.parametrize("raters", [1, 3, 6])
def test_unanimous_votes_keep_a_width(value: float, items: int, raters: int) -> None:
    found, low, high = ends(win_rate(np.full((raters, items), value)))
    assert found == value
    assert 0 <= low <= value <= high <= 1
    assert high - low >= 0.9 * unseen_share(items) * (0.5 if items < 5 else 1)


def test_few_items_unlike_the_rest_do_not_make_it_narrow() -> None:
    """One win among 99 ties: an exact limit of the share of wins alone reaches 5.4 %, of wins less losses 2.7 %."""
    votes = np.full(100, 0.5)
    votes[0] = 1.0
    _, low, high = ends(win_rate(votes))
    assert high > 0.5 + 0.054 / 2 - 0.01
    assert low < 0.5


def test_strata_that_each_agree_are_no_certainty() -> None:
    """All of one stratum won, all of the other lost: by Wilson's limit 11 % of either may still be otherwise."""
    strata = Strata(np.repeat([0, 1], 30), np.array([500.0, 500.0]))
    votes = np.repeat([1.0, 0.0], 30)
    value, low, high = ends(win_rate(votes, strata))
    assert value == 0.5
    assert 0.5 - low == pytest.approx(0.5 * unseen_share(30), rel=0.2)
    assert high - 0.5 == pytest.approx(0.5 - low)


@pytest.mark.parametrize("strata", [Strata(np.arange(12), np.full(12, 9.0)), Strata.single(12)])
def test_strata_of_one_item_each_still_have_an_interval(strata: Strata) -> None:
    value, low, high = ends(win_rate(VOTES[:, :12], strata))
    assert 0 <= low < value < high <= 1
    assert high - low > 0.1


def test_mixed_strata_with_one_small_one() -> None:
    strata = Strata(np.array([0] * 20 + [1] * 30 + [2]), np.array([50.0, 60.0, 5.0]))
    value, low, high = ends(win_rate(VOTES[:, :51], strata))
    assert low < value < high


@pytest.mark.parametrize("function", [win_rate, rating_mean])
def test_one_item_and_none(function: object) -> None:
    assert callable(function)
    one, none = function(np.full((3, 1), 1.0)), function(np.full((3, 2), np.nan))
    assert (one.value, one.low, one.high, one.n) == (1.0, None, None, 1)
    assert (none.value, none.low, none.high, none.n) == (None, None, None, 0)
    assert function(np.zeros((3, 0))).value is None


def test_items_without_votes_are_left_out() -> None:
    holes = np.append(VOTES, np.full((3, 5), np.nan), axis=1)
    strata = Strata(np.append(STRATA.of_item, [0, 1, 2, 3, 3]), STRATA.populations)
    assert win_rate(holes, strata) == win_rate(VOTES, STRATA)
    absent = np.append(VOTES, np.full((4, ITEMS), np.nan), axis=0)
    assert win_rate(absent, STRATA) == win_rate(VOTES, STRATA)


def test_missing_single_votes_do_not_count_as_losses() -> None:
    votes = np.array([[1.0, 1.0, 0.5], [np.nan, 1.0, 0.5]])
    assert win_rate(votes).value == pytest.approx(2.5 / 3)


def test_raters_enter_the_interval_from_five_on() -> None:
    lenient = np.array([0.9, 0.9, 0.5, 0.1, 0.1])[:, None] * np.ones((5, ITEMS))
    _, low, high = ends(win_rate(lenient))
    _, low_of_four, high_of_four = ends(win_rate(lenient[:4]))
    assert high - low > 3 * (high_of_four - low_of_four)
    assert "5 raters" in win_rate(lenient).method
    assert "raters" not in win_rate(lenient[:4]).method


def test_five_raters_who_share_no_item() -> None:
    votes = np.full((5, ITEMS), np.nan)
    for item in range(ITEMS):
        votes[item % 5, item] = VOTES[0, item]
    value, low, high = ends(win_rate(votes, STRATA))
    assert 0 <= low < value < high <= 1


def test_votes_off_the_scale_and_strata_of_other_items() -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        win_rate(np.array([[0.5, 2.0]]))
    with pytest.raises(DataError, match="strata"):
        win_rate(VOTES[:, :5], STRATA)


def test_ratings_and_their_differences_keep_to_their_scale() -> None:
    ratings = np.random.default_rng(0).integers(1, 6, (3, 30)).astype(float)
    value, low, high = ends(rating_mean(ratings, scale=(1, 5)))
    assert value == pytest.approx(ratings.mean())
    scaled = ends(win_rate((ratings - 1) / 4))
    assert (value, low, high) == pytest.approx(tuple(1 + 4 * end for end in scaled))
    delta = ends(rating_mean(ratings - 3, scale=(-4, 4)))
    assert delta[0] == pytest.approx(value - 3)
    assert delta[2] - delta[1] == pytest.approx(high - low, rel=0.06)


def test_left_rate_counts_decided_votes() -> None:
    found = left_rate(np.array([3.0, 0, 2, 0]), np.array([3.0, 3, 2, 0]))
    assert (found.value, found.n) == (pytest.approx(5 / 8), 3)
    assert left_rate(np.zeros(0), np.zeros(0)).value is None
    assert left_rate(np.zeros(4), np.zeros(4)) == Interval(None, None, None, 0, "none: no item decides")
    _, low, high = ends(left_rate(np.full(50, 3.0), np.full(50, 3.0)))
    assert (low, high) == (pytest.approx(0.93, abs=0.02), 1.0)


def test_votes_of_one_item_are_not_independent() -> None:
    left = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    once, thrice = ends(left_rate(left, np.ones(60))), ends(left_rate(3 * left, np.full(60, 3.0)))
    assert once == pytest.approx(thrice)


def test_agreement_of_a_metric() -> None:
    scores = np.array([1.0, 1.0, 0.0, 0.5, 0.2, np.nan])
    metric = np.array([0.3, -0.1, -2.0, 1.0, 0.0, 1.0])
    found = preference_agreement(metric, scores)
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert preference_agreement(-metric, scores).value == pytest.approx(1 / 3)
    assert preference_agreement(np.full(6, np.nan), scores).value is None
    weighted = preference_agreement(metric, scores, Strata(np.array([0, 0, 0, 1, 1, 1]), np.array([9.0, 1.0])))
    assert weighted.value == pytest.approx(2 / 3)
    single = weighted_ratio(np.array([1.0, 0]), np.array([1.0, 0]))
    assert (single.value, single.low, single.n) == (1.0, None, 1)


def test_sign_test_without_a_decided_item_and_mirrored() -> None:
    assert sign_test(np.array([0.5, 0.5, np.nan])) == SignCounts(0, 0, 2, None)
    found, turned = sign_test(VOTES.mean(axis=0)), sign_test(1 - VOTES.mean(axis=0))
    assert (found.wins, found.losses, found.p_value) == (turned.losses, turned.wins, turned.p_value)


def test_wilcoxon_without_a_difference() -> None:
    assert wilcoxon_pratt(np.array([])) is None
    assert wilcoxon_pratt(np.array([np.nan])) is None
    assert wilcoxon_pratt(np.zeros(5)) == 1.0
    assert wilcoxon_pratt(np.array([np.nan, 1.0, 2, 3, 4, 5])) == pytest.approx(2 / 32)
    assert wilcoxon_pratt(-VOTES[0] + VOTES[1]) == pytest.approx(wilcoxon_pratt(VOTES[0] - VOTES[1]))


def test_wilcoxon_takes_equal_means_for_equal() -> None:
    """0.1 + 0.2 − 0.3 is not 0, and thirds summed in another order differ in the last place."""
    thirds = np.array([1 / 3, 2 / 3 - 1 / 3, 1 - 2 / 3, -1 / 3, 2 / 3, 1.0])
    exact = np.array([1, 1, 1, -1, 2, 3]) / 3
    assert wilcoxon_pratt(thirds) == wilcoxon_pratt(exact)
    assert wilcoxon_pratt(np.array([0.1 + 0.2 - 0.3, 1.0])) == wilcoxon_pratt(np.array([0.0, 1.0]))


def test_holm_of_none() -> None:
    assert holm([]) == []
    assert holm([None, None]) == [None, None]
    assert holm([0.4, 0.9]) == [0.8, 0.9]


def test_length_adjustment_takes_length_out() -> None:
    """Raters who like length alone: first wins because it is longer, and no more."""
    random = np.random.default_rng(0)
    lengths = random.normal(0.5, 0.5, 400)
    votes = (random.random(400) < 1 / (1 + np.exp(-3 * lengths))).astype(float)
    value, low, high = ends(length_adjusted_win_rate(votes, lengths))
    plain = win_rate(votes).value
    assert plain is not None
    assert plain > 0.7
    assert low < 0.5 < high
    assert abs(value - 0.5) < 0.08


@pytest.mark.parametrize(
    ("votes", "lengths", "reason"),
    [
        (VOTES[:, :9], LENGTHS[:9], "fewer than 10"),
        (VOTES, np.zeros(ITEMS), "does not vary"),
        (VOTES, np.full(ITEMS, 0.3), "does not vary"),
        (VOTES, np.abs(LENGTHS) + 0.1, "longer in 60 of 60 items: equal length lies at the edge"),
        (VOTES, np.where(np.arange(ITEMS) < 5, -0.1, np.abs(LENGTHS) + 0.1), "longer in 55 of 60 items"),
        (VOTES, np.where(np.arange(ITEMS) < 5, 0.1, -np.abs(LENGTHS) - 0.1), "longer in 55 of 60 items"),
        (np.ones(ITEMS), LENGTHS, "commonest vote"),
        (np.full((3, ITEMS), 0.5), LENGTHS, "commonest vote"),
        ((LENGTHS > 0.1).astype(float), LENGTHS, "parts wins from losses"),
        ((LENGTHS < 0.1).astype(float), LENGTHS, "parts wins from losses"),
    ],
)
def test_length_adjustment_that_cannot_be_had(votes: np.ndarray, lengths: np.ndarray, reason: str) -> None:
    found = length_adjusted_win_rate(votes, lengths)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.method.startswith("none: ")
    assert reason in found.method


def test_length_adjustment_wants_lengths_of_all() -> None:
    for lengths in (LENGTHS[:5], np.append(LENGTHS[1:], np.inf)):
        with pytest.raises(DataError, match="lengths"):
            length_adjusted_win_rate(VOTES, lengths)


SYSTEMS = [(a, b) for a, b in (("base", "x"), ("base", "y"), ("x", "y")) for _ in range(20)]
FIRST, SECOND = [a for a, _ in SYSTEMS], [b for _, b in SYSTEMS]
PREFERRED = np.random.default_rng(2).choice([0, 0.5, 1], 60, p=[0.5, 0.2, 0.3])
SHARED = [index % 20 for index in range(60)]


def test_bradley_terry_does_not_see_order_or_side() -> None:
    found = bradley_terry(FIRST, SECOND, PREFERRED, items=SHARED, reference="base")
    turned = bradley_terry(SECOND, FIRST, 1 - PREFERRED, items=SHARED, reference="base")
    places = np.random.default_rng(0).permutation(60)
    shuffled = bradley_terry(
        [FIRST[i] for i in places],
        [SECOND[i] for i in places],
        PREFERRED[places],
        items=[f"item {SHARED[i]}" for i in places],
        weights=np.full(60, 7.0),
        reference="base",
    )
    assert found["base"] == Interval(0.0, 0.0, 0.0, 20, "reference")
    for name in ("x", "y"):
        assert ends(found[name]) == pytest.approx(ends(turned[name]))
        assert ends(found[name]) == pytest.approx(ends(shuffled[name]))
        assert found[name].n == 20


def test_bradley_terry_from_another_reference() -> None:
    found = bradley_terry(FIRST, SECOND, PREFERRED, items=SHARED, reference="base")
    other = bradley_terry(FIRST, SECOND, PREFERRED, items=SHARED, reference="x")
    assert ends(other["y"])[0] == pytest.approx(ends(found["y"])[0] - ends(found["x"])[0])
    assert ends(other["base"]) == pytest.approx((-ends(found["x"])[0], -ends(found["x"])[2], -ends(found["x"])[1]))


def test_bradley_terry_of_two_is_the_log_odds() -> None:
    found = bradley_terry(
        ["x"] * 40, ["base"] * 40, np.repeat([1.0, 0.5, 0.0], [24, 8, 8]), items=range(40), reference="base"
    )
    assert found["x"].value == pytest.approx(np.log(28 / 12))


def test_bradley_terry_gives_no_infinity() -> None:
    first, second = ["base"] * 6 + ["x"] * 6 + ["p"] * 2, ["x"] * 6 + ["y"] * 6 + ["q"] * 2
    scores = np.array([1.0, 0, 0.5, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0.5, 1])
    found = bradley_terry(first, second, scores, items=range(14), reference="base")
    alone = bradley_terry(first[:6], second[:6], scores[:6], items=range(6), reference="base")
    assert ends(found["x"]) == pytest.approx(ends(alone["x"]))
    assert found["y"].value is found["p"].value is found["q"].value is None
    assert "both ways" in found["y"].method
    assert "no comparisons join" in found["p"].method


def test_bradley_terry_of_ties_alone_is_no_certainty() -> None:
    found = bradley_terry(["x"] * 30, ["base"] * 30, np.full(30, 0.5), items=range(30), reference="base")
    assert (found["x"].value, found["x"].low, found["x"].high) == (pytest.approx(0), None, None)


def test_bradley_terry_of_nothing_or_itself() -> None:
    empty = bradley_terry(["a"], ["b"], np.array([np.nan]), items=["i"], reference="a")
    assert (empty["b"].value, empty["a"].value) == (None, 0.0)
    with pytest.raises(DataError, match="itself"):
        bradley_terry(["a"], ["a"], np.array([1.0]), items=["i"], reference="a")
    with pytest.raises(DataError, match="line up"):
        bradley_terry(["a"], ["b"], np.array([1.0, 0.0]), items=["i"], reference="a")


@pytest.mark.parametrize("items", [6, 49, 93, 194, 196])
def test_as_many_wins_as_losses_are_exactly_a_draw(items: int) -> None:
    """In these numbers the sum of the items' weights is off in its last places."""
    halves = np.tile([1.0, 0.0], items)
    assert win_rate(halves).value == 0.5
    assert win_rate(halves, Strata(np.tile([0, 0, 1, 1], items)[: 2 * items], np.array([7.0, 300.0]))).value == 0.5
    assert win_rate(np.full((3, items), 0.5)).value == 0.5
    assert rating_mean(4 * halves + 1).value == 3.0
    delta = rating_mean(np.tile([1 / 3, -1 / 3], items), scale=(-4, 4))
    assert str(delta.value) == "0.0"
    assert left_rate(halves, np.ones(2 * items)).value == 0.5


def test_length_adjustment_does_not_leave_what_was_seen() -> None:
    """First is nearly always the shorter and wins nearly always: at equal length the model would say 99.9 %."""
    random = np.random.default_rng(0)
    lengths = np.where(np.arange(80) < 6, 0.05, -random.uniform(0.3, 1.5, 80))
    votes = (random.random((3, 80)) < 1 / (1 + np.exp(-6 - 4 * lengths))).astype(float)
    found = length_adjusted_win_rate(votes, lengths)
    assert (found.value, found.method) == (
        None, "none: one side is longer in 74 of 80 items: equal length lies at the edge of what was seen",
    )  # fmt: skip
    balanced = np.where(np.arange(80) < 8, 0.05, lengths)
    assert length_adjusted_win_rate(votes, balanced).value is not None


def test_equal_length_is_inside_where_preferences_were_seen_there() -> None:
    lengths = np.where(np.arange(ITEMS) < 20, 0.0, np.abs(LENGTHS) + 0.1)
    assert length_adjusted_win_rate(VOTES, lengths).value is not None
    same_texts = np.where(np.arange(ITEMS) < 20, 0.5, VOTES)
    assert "longer in 40 of 40 items" in length_adjusted_win_rate(same_texts, lengths).method
