"""Coverage of the intervals and error rates of the verdicts, by simulation with known truth.

Bounds allow for the noise of the simulation itself: with 300 repetitions a rate of 95 % has a standard error of 1.3
points, so a bound of 91 % is missed by chance once in more than five hundred runs. Seeds are fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.labels import score_labels
from lorascope.measures.registry import define
from lorascope.measures.regression import score_regression
from lorascope.measures.statistics import estimate, paired, unpaired_difference

REPETITIONS = 300
RESAMPLES = 400
MARGIN = 0.02
ROUGE = define("rougeL", mean_of_items)
MATCH = define("exact_match", mean_of_items, proportion=True)
Draw = Callable[[np.random.Generator], Scored]


def mean(values: np.ndarray) -> Scored:
    return Scored(ROUGE, item_rows(values), "rougeL")


def share(values: np.ndarray) -> Scored:
    return Scored(MATCH, item_rows(values), "exact_match")


def coverage(draw: Draw, truth: float, *, seed: int = 0, repetitions: int = REPETITIONS) -> float:
    random = np.random.default_rng(seed)
    hits = 0
    for repetition in range(repetitions):
        found = estimate(draw(random), seed=repetition, resamples=RESAMPLES)
        hits += found.low is not None and found.high is not None and found.low <= truth <= found.high
    return hits / repetitions


@pytest.mark.parametrize("items", [8, 15, 40, 150])
def test_means_are_covered(items: int) -> None:
    assert coverage(lambda random: mean(random.beta(2, 2, size=items)), 0.5) >= 0.91


@pytest.mark.parametrize("items", [40, 150])
def test_skewed_means_are_covered(items: int) -> None:
    assert coverage(lambda random: mean(random.beta(0.5, 2, size=items)), 0.2) >= 0.90


@pytest.mark.parametrize(("items", "chance"), [(10, 0.5), (25, 0.9), (60, 0.97), (200, 0.3)])
def test_shares_are_covered(items: int, chance: float) -> None:
    assert coverage(lambda random: share(random.random(items) < chance), chance) >= 0.90


def test_macro_f1_is_covered() -> None:
    def draw(random: np.random.Generator, items: int = 150) -> Scored:
        truth = random.random((items, 3)) < [0.5, 0.3, 0.2]
        probabilities = np.where(random.random((items, 3)) < 0.8, truth, ~truth).astype(float)
        return score_labels(probabilities, truth, multi=True, label_names=["a", "b", "c"])["f1_macro"]

    # A decision is right with probability 0.8: F1 = 2·0.8·q / (0.8·q + 0.2·(1 − q) + q) for a label of frequency q.
    truth = np.mean([1.6 * q / (0.8 * q + 0.2 * (1 - q) + q) for q in (0.5, 0.3, 0.2)])
    assert coverage(draw, float(truth), repetitions=200) >= 0.90


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_correlations_are_covered(name: str) -> None:
    rho = 0.6

    def draw(random: np.random.Generator) -> Scored:
        target = random.normal(size=60)
        return score_regression(rho * target + 0.8 * random.normal(size=60), target)[name]

    truth = rho if name == "pearson" else 6 / np.pi * np.arcsin(rho / 2)
    assert coverage(draw, float(truth), repetitions=200) >= 0.90


def test_grouped_means_are_covered_and_ungrouped_are_not() -> None:
    random, source = np.random.default_rng(1), np.repeat(np.arange(25), 8)
    hits = Counter[str]()
    for repetition in range(150):
        values = np.clip(0.5 + random.normal(0, 0.1, size=25)[source] + random.normal(0, 0.03, size=200), 0, 1)
        for name, groups in (("grouped", source.tolist()), ("alone", None)):
            found = estimate(mean(values), seed=repetition, resamples=RESAMPLES, groups=groups)
            assert found.low is not None
            assert found.high is not None
            hits[name] += found.low <= 0.5 <= found.high
    assert hits["grouped"] / 150 >= 0.89
    assert hits["alone"] / 150 <= 0.70


def test_gaps_between_sets_are_covered() -> None:
    random = np.random.default_rng(2)
    hits = 0
    for repetition in range(REPETITIONS):
        train, validation = mean(random.beta(3, 2, size=90)), mean(random.beta(2, 2, size=40))
        found = unpaired_difference(train, validation, seed=repetition, resamples=RESAMPLES)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.1 <= found.high
    assert hits / REPETITIONS >= 0.91


def _verdicts(pair: Callable[[np.random.Generator], tuple[Scored, Scored]], truth: float, seed: int) -> Counter[str]:
    """Rates of the verdicts, of coverage, and of p < 0.05."""
    random = np.random.default_rng(seed)
    rates = Counter[str]()
    for repetition in range(REPETITIONS):
        found = paired(*pair(random), margin=MARGIN, seed=repetition, resamples=RESAMPLES)
        assert found.p_value is not None
        rates[str(found.verdict)] += 1
        rates["significant"] += found.p_value < 0.05
        rates["covered"] += found.low is not None and found.high is not None and found.low <= truth <= found.high
    return rates


def _flipped(items: int, fixed: float, broken: float) -> Callable[[np.random.Generator], tuple[Scored, Scored]]:
    """Right and wrong answers: of all items a share ``fixed`` turns right and a share ``broken`` turns wrong."""

    def pair(random: np.random.Generator) -> tuple[Scored, Scored]:
        place = random.random(items)
        before = place < 0.6
        after = np.where(before, place >= broken, place < 0.6 + fixed)
        return share(before), share(after)

    return pair


def _moved(items: int, rate: float, shift: float) -> Callable[[np.random.Generator], tuple[Scored, Scored]]:
    """Scores of which a share ``rate`` moves by ``shift`` on average."""

    def pair(random: np.random.Generator) -> tuple[Scored, Scored]:
        before = random.random(items)
        return mean(before), mean(before + (random.random(items) < rate) * random.normal(shift, 0.25, size=items))

    return pair


@pytest.mark.parametrize("items", [30, 200])
@pytest.mark.parametrize("kind", ["shares", "scores"])
def test_no_change_is_seldom_called_a_change(kind: str, items: int) -> None:
    pair = _flipped(items, 0.05, 0.05) if kind == "shares" else _moved(items, 0.3, 0.0)
    rates = _verdicts(pair, 0.0, seed=3)
    assert (rates["improved"] + rates["regressed"]) / REPETITIONS <= 0.08
    assert rates["significant"] / REPETITIONS <= 0.08
    assert rates["covered"] / REPETITIONS >= 0.91


@pytest.mark.parametrize("kind", ["shares", "scores"])
def test_a_loss_of_the_margin_is_seldom_called_equivalent(kind: str) -> None:
    pair = _flipped(2000, 0.03, 0.05) if kind == "shares" else _moved(400, 0.2, -0.1)
    rates = _verdicts(pair, -0.02, seed=4)
    assert rates["equivalent"] / REPETITIONS <= 0.05
    assert rates["improved"] == 0
    assert rates["covered"] / REPETITIONS >= 0.91


@pytest.mark.parametrize("kind", ["shares", "scores"])
def test_a_clear_loss_is_found(kind: str) -> None:
    pair = _flipped(500, 0.03, 0.10) if kind == "shares" else _moved(300, 0.5, -0.12)
    rates = _verdicts(pair, -0.07 if kind == "shares" else -0.06, seed=5)
    assert rates["regressed"] / REPETITIONS >= 0.95
    assert rates["covered"] / REPETITIONS >= 0.91


def test_no_change_over_many_items_is_equivalent() -> None:
    assert _verdicts(_flipped(3000, 0.05, 0.05), 0.0, seed=6)["equivalent"] / REPETITIONS >= 0.80
    assert _verdicts(_moved(800, 0.2, 0.0), 0.0, seed=6)["equivalent"] / REPETITIONS >= 0.90


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_few_changed_items_do_not_mislead(rate: float) -> None:
    """With one to ten changed items a percentile interval is too short; here it still covers."""
    rates = _verdicts(_moved(100, rate, 0.0), 0.0, seed=7)
    assert (rates["improved"] + rates["regressed"]) / REPETITIONS <= 0.05
    assert rates["covered"] / REPETITIONS >= 0.93


def _rarely(kind: str, items: int, rate: float, loss: float) -> Callable[[np.random.Generator], tuple[Scored, Scored]]:
    """Answers of which a share ``rate`` loses ``loss``, and the others score as before: mostly, no change is seen."""
    side = share if kind == "shares" else mean

    def pair(random: np.random.Generator) -> tuple[Scored, Scored]:
        before = np.ones(items)
        return side(before), side(before - loss * (random.random(items) < rate))

    return pair


@pytest.mark.parametrize("items", [4, 10, 40, 500])
@pytest.mark.parametrize("changes", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("kind", ["shares", "scores"])
def test_changes_too_rare_to_be_seen_are_covered(kind: str, changes: float, items: int) -> None:
    """On average half a change to three among all items: with intervals of width 0 coverage would be 5 to 60 %."""
    rate = changes / items
    rates = _verdicts(_rarely(kind, items, rate, 1.0), -rate, seed=8)
    assert rates["covered"] / REPETITIONS >= 0.91
    assert rates["improved"] == 0


@pytest.mark.parametrize("kind", ["shares", "scores"])
@pytest.mark.parametrize(("items", "most"), [(4, 0.0), (10, 0.0), (40, 0.0), (189, 0.05), (500, 0.05)])
def test_a_loss_of_the_margin_that_went_unseen_is_seldom_equivalent(kind: str, items: int, most: float) -> None:
    """One answer in fifty turns wrong: four items mostly show nothing of it, and must not be called equivalent."""
    assert _verdicts(_rarely(kind, items, MARGIN, 1.0), -MARGIN, seed=9)["equivalent"] / REPETITIONS <= most


@pytest.mark.parametrize("items", [5, 6, 12])
def test_even_losses_with_exceptions_are_covered(items: int) -> None:
    """Most answers lose everything and some gain everything: a sample without one of the latter still allows for it."""

    def pair(random: np.random.Generator) -> tuple[Scored, Scored]:
        lost = random.random(items) < 0.85
        return mean(lost.astype(float)), mean((~lost).astype(float))

    rates = _verdicts(pair, -0.7, seed=10)
    assert rates["covered"] / REPETITIONS >= 0.90
    assert rates["improved"] == 0
