from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lorascope.errors import ConfigError, DataError, InvalidComparison
from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.forgetting import score_forgetting
from lorascope.measures.intervals import (
    bootstrap_interval,
    do_not_vary,
    newcombe_paired,
    standard_error,
    unseen_share,
    unvarying_interval,
    wilson,
)
from lorascope.measures.label_sums import precision_from_totals
from lorascope.measures.labels import score_labels
from lorascope.measures.likelihood import score_kl, score_likelihood
from lorascope.measures.registry import define
from lorascope.measures.regression import score_regression
from lorascope.measures.resampling import Units, bootstrap, swapped_differences
from lorascope.measures.significance import bootstrap_p, sign_flip_p
from lorascope.measures.statistics import (
    Interval,
    estimate,
    estimate_many,
    paired,
    paired_many,
    unpaired_difference,
)
from lorascope.measures.text import score_text
from lorascope.measures.verdicts import detectable_difference, items_needed, judge

ROUGE = define("rougeL", mean_of_items)
MATCH = define("exact_match", mean_of_items, proportion=True)
LOSS = define("hamming_loss", mean_of_items)


def mean(values: object) -> Scored:
    return Scored(ROUGE, item_rows(values), "rougeL")  # type: ignore[arg-type]


def share(values: object) -> Scored:
    return Scored(MATCH, item_rows(values), "exact_match")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.05, 0.01, 0.09, "improved"),
        (-0.05, -0.09, -0.01, "regressed"),
        (0.0, -0.019, 0.019, "equivalent"),
        (0.01, 0.005, 0.015, "equivalent"),  # significant, but smaller than the margin
        (0.015, 0.001, 0.029, "inconclusive"),  # significant, below the margin, interval crosses it
        (0.05, -0.01, 0.11, "inconclusive"),
        (0.0, -0.02, 0.01, "inconclusive"),  # touching the margin is not inside it
        (0.02, 0.001, 0.039, "improved"),  # exactly the margin
        (0.05, 0.0, 0.10, "inconclusive"),
        (0.0, None, None, "inconclusive"),
    ],
)
def test_verdict_table(value: float, low: float | None, high: float | None, verdict: str) -> None:
    assert judge(value, low, high, margin=0.02, direction="higher") == verdict
    turned = {"improved": "regressed", "regressed": "improved"}.get(verdict, verdict)
    assert judge(value, low, high, margin=0.02, direction="lower") == turned
    assert judge(value, low, high, margin=0.02, direction="none") is None
    assert judge(value, low, high, margin=None, direction="higher") is None


def test_needed_items_of_an_unchanged_model() -> None:
    """500 items, 10 % discordant, margin 0.02: equivalence needs (1.96 + 1.28)² · 0.1 / 0.02² ≈ 2,627 items."""
    error = np.sqrt(0.1 / 500)
    assert items_needed(0.0, error, n=500, margin=0.02) == pytest.approx(2627, abs=10)
    assert detectable_difference(error) == pytest.approx(2.8016 * error, rel=1e-4)


def test_needed_items_at_the_margin_do_not_exist() -> None:
    assert items_needed(0.02, 0.01, n=500, margin=0.02) is None
    assert items_needed(0.01, None, n=500, margin=0.02) is None
    assert items_needed(0.01, 0.0, n=500, margin=0.02) is None
    assert detectable_difference(0.0) is None


def test_needed_items_do_decide() -> None:
    random = np.random.default_rng(0)
    before, change = random.random(60), 0.05 + 0.3 * stats.norm.ppf(random.permutation(60) / 60 + 1 / 120)
    found = paired(mean(before), mean(before + change), margin=0.02, seed=0, resamples=500)
    assert found.verdict == "inconclusive"
    assert found.needed_n is not None
    decided = 0
    for seed in range(40):
        more = np.random.default_rng(100 + seed).choice(change, size=found.needed_n)
        base = np.zeros(found.needed_n)
        verdict = paired(mean(base), mean(more), margin=0.02, seed=seed, resamples=300).verdict
        decided += verdict != "inconclusive"
    assert 0.6 <= decided / 40 <= 0.98


def test_identical_outputs_are_equivalent_and_not_significant() -> None:
    """A dead adapter: a strict comparison elsewhere reports p = 0.0001 here."""
    scored = score_text(["a b c d e", "f g h i"], [["a b c d x"], ["f g h i"]], ["bleu", "rougeL", "exact_match"])
    for found in paired_many(scored, scored, seed=0, resamples=100, same_outputs=scored).values():
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
        assert (found.p_value, found.verdict, found.needed_n) == (1.0, "equivalent", None)


def test_the_same_outputs_are_known_key_by_key() -> None:
    scores = {"a": share([1, 0, 1, 1]), "b": share([1, 0, 1, 1])}
    found = paired_many(scores, scores, seed=0, same_outputs={"a"})
    assert (found["a"].verdict, found["b"].verdict) == ("equivalent", "inconclusive")


def test_the_same_outputs_do_not_hide_scores_that_differ() -> None:
    """The same probabilities at thresholds of each checkpoint's own are other decisions."""
    found = paired(share([1, 0, 1, 1]), share([1, 0, 0, 1]), margin=0.02, seed=0, same_outputs=True)
    assert (found.value, found.verdict) == (-0.25, "inconclusive")


@pytest.mark.parametrize("items", [4, 40])
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_equal_scores_of_other_outputs_are_no_certainty(items: int, score: float) -> None:
    """All right or all wrong on both sides: as uncertain as a share of 0 changed items, shares and means alike."""
    for side in (share, mean):
        found = paired(side(np.full(items, score)), side(np.full(items, score)), margin=0.02, seed=0)
        assert (found.value, found.p_value, found.verdict) == (0.0, 1.0, "inconclusive")
        assert found.high == pytest.approx(unseen_share(items))
        assert found.low == pytest.approx(-unseen_share(items))
        assert (found.test, found.needed_n) == ("no item changed", 189)


def test_as_many_unchanged_items_as_needed_are_equivalent() -> None:
    values = np.arange(189) % 3 / 2
    assert paired(mean(values), mean(values), margin=0.02, seed=0).verdict == "equivalent"
    assert paired(mean(values[1:]), mean(values[1:]), margin=0.02, seed=0).verdict == "inconclusive"


def test_only_items_that_carry_the_value_count() -> None:
    """Of a hundred items the base had four right: a forgotten rate of 0 rests on those."""
    right = np.arange(100) < 4
    rate = score_forgetting(right, right, chance=0.0)["forgotten_rate"]  # type: ignore[arg-type]
    assert paired(rate, rate, margin=0.02, seed=0).high == pytest.approx(unseen_share(4))
    truth = np.arange(3)[(np.arange(100) < 10) + (np.arange(100) < 4).astype(int)]
    decided = np.eye(3, dtype=bool)[truth]
    found = score_labels(decided.astype(float), decided, multi=False, label_names=["a", "b", "c"])
    compared = paired_many(found, found, seed=0)
    assert compared["f1_micro"].high == pytest.approx(unseen_share(100))
    assert compared["f1_macro"].high == pytest.approx(unseen_share(4))
    assert compared["mcc"].high == pytest.approx(2 * unseen_share(4))
    assert compared["f1_macro"].needed_n == 189 * 100 // 4


def test_groups_are_the_units_of_an_unchanged_score() -> None:
    values = np.arange(40) % 2
    found = paired(share(values), share(values), margin=0.02, seed=0, groups=[index // 10 for index in range(40)])
    assert found.high == pytest.approx(unseen_share(4))


def test_a_scale_without_ends_bounds_nothing() -> None:
    loss = score_likelihood([-1.0, -2.0, -3.0], [1, 2, 3], [4, 8, 12])["perplexity"]
    found = paired(loss, loss, margin=1.0, seed=0)
    assert (found.value, found.low, found.p_value, found.verdict) == (0.0, None, 1.0, "inconclusive")
    assert found.method.startswith("none: every item changed alike")
    assert found.needed_n is None
    assert paired(loss, loss, margin=1.0, seed=0, same_outputs=True).verdict == "equivalent"


def test_no_direction_has_no_verdict_without_change_either() -> None:
    divergence = score_kl([0.1, 0.2, 0.3], [1, 2, 3])
    found = paired(divergence, divergence, margin=None, seed=0)
    assert (found.value, found.verdict, found.needed_n) == (0.0, None, None)


def test_one_item_decides_nothing_even_when_identical() -> None:
    for scored in (mean([0.5]), share([1])):
        found = paired(scored, scored, margin=0.02, seed=0)
        assert (found.low, found.high, found.p_value, found.verdict) == (None, None, None, "inconclusive")
        assert estimate(scored, seed=0).low is None


def test_all_items_gained_is_no_interval_of_width_zero() -> None:
    found = paired(share([0] * 5), share([1] * 5), margin=0.02, seed=0)
    assert found.value == 1.0
    assert found.low is not None
    assert 0.0 < found.low < 0.7
    assert found.p_value == pytest.approx(2 * 0.5**5)


def test_the_same_gain_everywhere_allows_for_unlike_items() -> None:
    before = np.linspace(0, 0.5, 40)
    found = paired(mean(before), mean(before + 0.25), margin=0.02, seed=0, resamples=200)
    assert found.value == pytest.approx(0.25)
    unlike = 1.959964**2 / (40 + 1.959964**2)
    assert (found.low, found.high) == pytest.approx((0.25 - 1.25 * unlike, 0.25 + 0.75 * unlike))
    assert (found.verdict, found.method) == ("improved", "score bound, 40 units alike")


def test_a_loss_of_everything_on_six_items_is_a_loss_in_scores_as_in_shares() -> None:
    for side in (mean, share):
        found = paired(side(np.ones(6)), side(np.zeros(6)), margin=0.02, seed=0)
        assert (found.value, found.low, found.verdict) == (-1.0, -1.0, "regressed")
        assert found.high is not None
        assert -0.6 < found.high < -0.15
        assert paired(side(np.ones(3)), side(np.zeros(3)), margin=0.02, seed=0, resamples=99).low == -1.0


def test_a_small_even_loss_needs_more_items() -> None:
    before = np.linspace(0.5, 1, 12)
    found = paired(mean(before), mean(before - 0.1), margin=0.02, seed=0, resamples=200)
    assert found.verdict == "inconclusive"
    assert found.needed_n is not None
    more = np.resize(before, found.needed_n)
    assert paired(mean(more), mean(more - 0.1), margin=0.02, seed=0, resamples=99).verdict == "regressed"
    assert paired(mean(more[1:]), mean(more[1:] - 0.1), margin=0.02, seed=0, resamples=99).verdict == "inconclusive"


def test_differences_stay_on_the_scale() -> None:
    found = paired(mean([1, 1, 1, 1, 0.2]), mean([0, 0, 0, 0, 0.3]), margin=0.02, seed=0, resamples=500)
    assert found.low == -1.0
    gap = unpaired_difference(mean([1.0, 1.0, 0.3]), mean([0.0, 0.4]), seed=0, resamples=500)
    assert gap.high == 1.0


@pytest.mark.parametrize("changed", [1, 2, 3, 4, 5])
def test_fewer_than_six_changed_items_never_decide_by_sign(changed: int) -> None:
    """Up to five changes, all for the better, have p ≥ 0.0625; plain percentiles would exclude 0 from four on."""
    before = np.linspace(0.2, 0.4, 30)
    after = before + 0.4 * (np.arange(30) < changed)
    found = paired(mean(before), mean(after), margin=0.01, seed=0, resamples=2000)
    assert found.low is not None
    assert found.low <= 0
    assert found.p_value is not None
    assert found.p_value > 0.05


def test_few_changed_items_in_one_direction_for_shares() -> None:
    before = np.arange(30) < 20
    found = paired(share(before), share(np.arange(30) < 24), margin=0.02, seed=0)
    assert found.p_value == pytest.approx(0.125)
    assert found.test == "exact McNemar"
    assert found.low is not None
    assert found.low < 0
    assert found.verdict == "inconclusive"


def test_known_counts_of_gained_and_lost() -> None:
    before = np.concatenate([np.ones(320), np.zeros(180)])
    after = before.copy()
    after[300:320] = 0
    after[320:360] = 1
    found = paired(share(before), share(after), margin=0.02, seed=0)
    assert found.value == pytest.approx(0.04)
    assert found.p_value == pytest.approx(0.0135, abs=5e-4)
    assert found.low is not None
    assert found.low > 0
    assert found.verdict == "improved"


def test_falling_measure_turns_the_verdict() -> None:
    random = np.random.default_rng(0)
    before = Scored(LOSS, item_rows(random.random(200) * 0.5), "hamming_loss")
    after = Scored(LOSS, before.statistics - [0.2, 0] * (1 + 0.1 * random.random((200, 1))), "hamming_loss")
    found = paired(before, after, margin=0.02, seed=0, resamples=500)
    assert found.value is not None
    assert found.value < 0
    assert found.verdict == "improved"
    assert paired(after, before, margin=0.02, seed=0, resamples=500).verdict == "regressed"


def test_paired_is_sharper_than_unpaired() -> None:
    random = np.random.default_rng(1)
    before = random.random(300)
    after = np.clip(before + random.normal(0.03, 0.05, size=300), 0, 1)
    together = paired(mean(before), mean(after), margin=0.02, seed=0, resamples=1000)
    apart = unpaired_difference(mean(after), mean(before), seed=0, resamples=1000)
    assert together.value == pytest.approx(apart.value)
    assert together.high - together.low < 0.5 * (apart.high - apart.low)  # type: ignore[operator]


def test_undefined_stays_undefined() -> None:
    nothing = Scored(define("precision_micro", precision_from_totals), np.array([[0.0, 0, 1], [0, 0, 1]]), "x")
    found = paired(nothing, nothing, margin=0.02, seed=0)
    assert (found.value, found.low, found.p_value, found.verdict) == (None, None, None, None)
    assert estimate(nothing, seed=0).value is None


def test_mostly_undefined_resamples_give_no_interval() -> None:
    rows = np.zeros((30, 3))
    rows[0] = [1, 1, 1]
    rare = Scored(define("precision_micro", precision_from_totals), rows, "x")
    found = estimate(rare, seed=0, resamples=500)
    assert found.value == 1.0
    assert (found.low, found.method) == (None, "none: resamples do not vary or are undefined")


def test_a_perfect_mean_of_scores_has_no_interval() -> None:
    assert estimate(mean(np.ones(20)), seed=0, resamples=100).low is None


def test_wilson_where_the_bootstrap_collapses() -> None:
    assert estimate(share(np.ones(200)), seed=0).method == "wilson"
    assert estimate(share(np.arange(20) < 7), seed=0).method == "wilson"
    many = estimate(share(np.arange(200) < 70), seed=0, resamples=2000)
    assert many.method.startswith("bias-corrected")
    assert (many.low, many.high) == pytest.approx(wilson(70, 200), abs=0.012)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def test_intervals_stay_on_the_scale() -> None:
    found = estimate(mean([0.0, 0.0, 0.9, 1.0]), seed=0, resamples=500)
    assert (found.low, found.high) == (0.0, 1.0)


def test_same_seed_same_numbers() -> None:
    values = np.random.default_rng(3).random(50)
    first, again, other = (estimate(mean(values), seed=seed, resamples=300) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_order_of_items_moves_no_more_than_noise() -> None:
    random = np.random.default_rng(4)
    before, after = random.random(200), random.random(200)
    order = random.permutation(200)
    first = paired(mean(before), mean(after), margin=0.02, seed=0)
    second = paired(mean(before[order]), mean(after[order]), margin=0.02, seed=0)
    assert (second.low, second.high) == pytest.approx((first.low, first.high), abs=3e-3)


def test_many_share_the_resamples_of_one() -> None:
    random = np.random.default_rng(5)
    scores = {"x": mean(random.random(60)), "y": mean(random.random(60))}
    together = estimate_many(scores, seed=1, resamples=200)
    assert together["x"] == estimate(scores["x"], seed=1, resamples=200)
    assert estimate_many({}, seed=0) == {}
    assert paired_many({}, {}, seed=0) == {}


def test_default_margins_come_from_the_table() -> None:
    scored = score_text(["a b c d", "x y"], [["a b c d"], ["x z"]], ["bleu", "rougeL"])
    other = score_text(["a b c", "x z"], [["a b c d"], ["x z"]], ["bleu", "rougeL"])
    found = paired_many(scored, other, seed=0, resamples=100, margins={"rougeL": 0.3})
    assert (found["bleu"].margin, found["rougeL"].margin) == (2.0, 0.3)


def test_comparisons_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InvalidComparison, match="not scored alike"):
        paired(mean([1, 0]), share([1, 0]), margin=0.02, seed=0)
    with pytest.raises(InvalidComparison, match="not scored alike"):
        paired(mean([1, 0]), mean([1, 0, 1]), margin=0.02, seed=0)
    with pytest.raises(InvalidComparison, match="different measures"):
        paired_many({"x": mean([1, 0])}, {"y": mean([1, 0])}, seed=0)
    with pytest.raises(InvalidComparison, match="different numbers of items"):
        estimate_many({"x": mean([1, 0]), "y": mean([1, 0, 1])}, seed=0)
    with pytest.raises(InvalidComparison, match="one measure"):
        unpaired_difference(mean([1, 0]), share([1, 0]), seed=0)
    with pytest.raises(ConfigError, match="above 0"):
        paired(mean([1, 0]), mean([0, 1]), margin=0.0, seed=0)


def test_groups_widen_the_interval() -> None:
    """Twenty sources of ten items that answer alike are twenty observations and not two hundred."""
    random = np.random.default_rng(6)
    source = np.repeat(np.arange(20), 10)
    values = np.clip(random.random(20)[source] + random.normal(0, 0.02, size=200), 0, 1)
    names = [f"source-{index}" for index in source]
    alone = estimate(mean(values), seed=0, resamples=1000)
    grouped = estimate(mean(values), seed=0, resamples=1000, groups=names)
    assert (grouped.high - grouped.low) > 2.5 * (alone.high - alone.low)  # type: ignore[operator]
    assert "20 groups" in grouped.method
    assert grouped.n == 200


def test_groups_take_shares_off_mcnemar() -> None:
    before, after = np.arange(40) % 2, (np.arange(40) % 3) > 0
    found = paired(share(before), share(after), margin=0.02, seed=0, resamples=200, groups=[i // 4 for i in range(40)])
    assert found.test == "approximate randomisation"
    assert "10 groups" in found.method


def test_groups_of_one_are_items() -> None:
    values = np.random.default_rng(7).random(30)
    named = estimate(mean(values), seed=0, resamples=200, groups=[None] * 30)
    assert named == estimate(mean(values), seed=0, resamples=200)
    one_group = estimate(mean(values), seed=0, groups=["same"] * 30)
    assert (one_group.low, one_group.method) == (None, "none: fewer than two units")
    with pytest.raises(DataError, match="2 groups for 30 items"):
        estimate(mean(values), seed=0, groups=["a", "b"])


def test_units_sum_items_and_spread_counts() -> None:
    units = Units.of(4, ["a", None, "a", None])
    assert units.count == 3
    assert units.sums(np.array([[1.0], [2.0], [4.0], [8.0]])).tolist() == [[5.0], [2.0], [8.0]]
    assert units.item_counts(np.array([[2.0, 0.0, 1.0]])).tolist() == [[2.0, 0.0, 2.0, 1.0]]


def test_non_additive_measures_take_fewer_resamples_and_say_so() -> None:
    random = np.random.default_rng(8)
    target = random.normal(size=50)
    before, after = (score_regression(target + random.normal(size=50) * s, target)["spearman"] for s in (1.0, 0.3))
    found = paired(before, after, margin=0.02, seed=0, resamples=3000)
    assert found.test == "paired bootstrap"
    assert "2000 resamples" in found.method
    assert found.verdict == "improved"
    grouped = estimate(before, seed=0, resamples=300, groups=[index // 5 for index in range(50)])
    assert grouped.low is not None


def test_swaps_leave_the_total_alone() -> None:
    before, after = mean([0.1, 0.5, 0.9]), mean([0.2, 0.5, 0.4])
    found = swapped_differences({0: (before, after)}, Units(3), resamples=200, seed=0)[0]
    steps = np.array([0.1, -0.5]) / 3
    possible = {round(float(sign @ steps), 9) for sign in np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])}
    assert {round(float(value), 9) for value in found} == possible


def test_chunks_do_not_change_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = {0: mean(np.random.default_rng(9).random(40))}
    whole = bootstrap(scored, Units(40), resamples=64, seed=0)[0]
    monkeypatch.setattr("lorascope.measures.resampling._CELLS", 400)
    np.testing.assert_allclose(bootstrap(scored, Units(40), resamples=64, seed=0)[0], whole)


def test_p_values_include_equality() -> None:
    assert sign_flip_p(0.5, np.array([0.5, -0.5, 0.1])) == pytest.approx(3 / 4)
    assert sign_flip_p(0.5, np.array([np.nan, 0.1, 0.1])) == pytest.approx(2 / 4)
    assert sign_flip_p(0.0, np.zeros(9)) == 1.0
    assert bootstrap_p(np.zeros(9)) == 1.0
    assert bootstrap_p(np.ones(99)) == pytest.approx(0.02)


def test_biased_resamples_keep_the_value_inside() -> None:
    """Resamples that all lie above the value, as those of a calibration error do."""
    draws = 0.1 + np.abs(np.random.default_rng(0).normal(size=999)) * 0.01
    bounds, _ = bootstrap_interval(0.09, draws, 50, informative=50)
    assert bounds is not None
    assert bounds[0] <= 0.09 <= bounds[1]


def test_overflowing_resamples_are_left_out() -> None:
    """A perplexity that overflows in most resamples has no interval, and no warning either."""
    found = [
        score_likelihood([-1.0, -1420.0, -1.0, nats], [1, 1, 1, 1], [1] * 4)["perplexity"] for nats in (-1.0, -2.0)
    ]
    result = paired(found[0], found[1], margin=1.0, seed=0, resamples=200)
    assert result.value is not None
    assert (result.low, result.verdict) == (None, "inconclusive")


def test_standard_error_needs_units_and_variation() -> None:
    assert standard_error(np.array([1.0, 2.0, 3.0]), 1) is None
    assert standard_error(np.full(10, 0.1 + 0.2), 5) is None
    assert standard_error(np.array([1.0] * 9 + [np.nan]), 5) is None
    assert standard_error(np.array([0.0, 1.0]), 2) == pytest.approx(1.0)
    assert do_not_vary(np.full(10, 0.1 + 0.2))
    assert not do_not_vary(np.array([1.0, 2.0, 3.0]))
    assert not do_not_vary(np.array([1.0] * 9 + [np.nan])), "undefined is not unvarying"


def test_an_unvarying_interval_holds_the_value_and_stays_on_the_scale() -> None:
    for value in (-1.0, -0.3, 0.0, 0.7, 1.0):
        low, high = unvarying_interval(value, 1.0, 7) or (None, None)
        assert low is not None
        assert high is not None
        assert -1.0 <= low <= value <= high <= 1.0
    assert unvarying_interval(0.0, np.inf, 7) is None
    assert unvarying_interval(0.0, 1.0, 1) is None


def test_newcombe_is_symmetric() -> None:
    low, high = newcombe_paired(40, 10, 3, 47)
    assert newcombe_paired(40, 3, 10, 47) == pytest.approx((-high, -low))
    assert newcombe_paired(0, 0, 5, 0)[1] == 1.0


def test_gap_between_training_and_validation() -> None:
    found = unpaired_difference(share(np.arange(100) < 90), share(np.arange(50) < 30), seed=0)
    assert found.value == pytest.approx(0.3)
    assert found.low is not None
    assert found.low > 0.1
    assert (found.n, found.method) == (150, "unpaired newcombe score")
    means = unpaired_difference(mean(np.linspace(0, 1, 60)), mean(np.linspace(0, 0.6, 40)), seed=0, resamples=500)
    assert means.value == pytest.approx(0.2)
    assert means.low is not None
    assert 0 < means.low < 0.2
    assert unpaired_difference(mean([1.0]), mean([0.5, 0.2]), seed=0).low is None


def test_a_gap_over_groups_is_less_certain_than_over_as_many_single_items() -> None:
    """Forty copies of five items are five pieces of evidence, on either side."""
    trained, unseen = np.tile([1.0, 0.8, 0.9, 0.4, 0.7], 8), np.tile([0.2, 0.6, 0.1, 0.5, 0.3], 8)
    names = [str(index % 5) for index in range(40)]
    alone = unpaired_difference(mean(trained), mean(unseen), seed=0, resamples=500)
    grouped = unpaired_difference(mean(trained), mean(unseen), seed=0, resamples=500, groups=(names, names))
    shares = unpaired_difference(share(trained > 0.5), share(unseen > 0.5), seed=0, resamples=500, groups=(names, None))
    assert grouped.value == alone.value
    assert width(grouped) > 2 * width(alone)
    assert "score" not in shares.method
    one_group = unpaired_difference(mean(trained), mean(unseen), seed=0, groups=(["same"] * 40, None))
    assert one_group.low is None
    assert "fewer than two units" in one_group.method


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low
