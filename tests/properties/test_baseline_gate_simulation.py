"""How often a gate with a baseline fails and passes, over simulated pairs of runs: right/wrong, continuous, corpus."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom, multinomial

from lorascope.gates import bounds
from lorascope.gates.bounds import paired_difference
from lorascope.gates.judging import judge
from lorascope.measures.bleu import bleu_from_sums
from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.label_sums import f1_from_totals
from lorascope.measures.registry import define

Array = npt.NDArray[np.float64]
Pairs = Iterator[tuple[Scored, Scored]]
ITEMS = 500
DISCORDANT = 0.10
DRAWS = 300
# Three standard errors of 300 draws around 5 %.
SLACK = 3 * math.sqrt(0.05 * 0.95 / DRAWS)


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound from fewer resamples is as right on average, and much quicker."""
    monkeypatch.setattr(bounds, "RESAMPLES", 400)


def right(values: npt.ArrayLike) -> Scored:
    return Scored(define("exact_match", mean_of_items, proportion=True), item_rows(values), "right")


def mean(values: npt.ArrayLike) -> Scored:
    return Scored(define("rougeL", mean_of_items), item_rows(values), "mean")


def outcome(before: Scored, after: Scored, max_drop: float, groups: list[str] | None = None) -> str:
    reading = paired_difference(before, after, groups, 0.95, "test")
    return judge(reading, "max_drop", max_drop, "significant", 0.95).outcome


def table(broken: int, fixed: int, items: int, both: float) -> str:
    """The outcome for a table of answers, ``both`` being the share of the unchanged ones that are right."""
    kept = items - broken - fixed
    stay = round(kept * both)
    before = np.repeat([1.0, 0.0, 1.0, 0.0], [broken, fixed, stay, kept - stay])
    after = np.repeat([0.0, 1.0, 1.0, 0.0], [broken, fixed, stay, kept - stay])
    return outcome(right(before), right(after), 0.02)


def exactly(drop: float) -> Counter[str]:
    """Probability of each outcome at 500 items, summed over all tables of broken and fixed answers."""
    chances = [(DISCORDANT + drop) / 2, (DISCORDANT - drop) / 2, 1 - DISCORDANT]
    found: Counter[str] = Counter()
    for broken in range(10, 75):
        for fixed in range(60):
            weight = float(multinomial.pmf([broken, fixed, ITEMS - broken - fixed], ITEMS, chances))
            if weight > 1e-5:
                found[table(broken, fixed, ITEMS, 0.7)] += weight  # type: ignore[assignment]
    return found


def test_right_and_wrong_at_five_hundred_items() -> None:
    assert exactly(0.05)["FAIL"] >= 0.95
    unchanged = exactly(0.0)
    assert unchanged["FAIL"] <= 0.05
    assert unchanged["PASS"] == pytest.approx(0.41, abs=0.02)


@pytest.mark.parametrize("items", [50, 100])
@pytest.mark.parametrize("share", [0.02, 0.06, 0.15])
@pytest.mark.parametrize("both", [0.5, 0.95])
def test_few_items_of_which_few_changed_rarely_fail_for_nothing(items: int, share: float, both: float) -> None:
    failed = 0.0
    for changed in range(items + 1):
        weight = float(binom.pmf(changed, items, share))
        if weight < 1e-5:
            continue
        for broken in range(changed + 1):
            if table(broken, changed - broken, items, both) == "FAIL":
                failed += weight * float(binom.pmf(broken, changed, 0.5))
    assert failed <= 0.05


def rates(pairs: Pairs, max_drop: float, groups: list[str] | None = None) -> Counter[str]:
    counts = Counter(outcome(before, after, max_drop, groups) for before, after in pairs)
    return Counter({name: count / DRAWS for name, count in counts.items()})  # type: ignore[arg-type]


def continuous(drop: float, items: int, seed: int) -> Pairs:
    """Scores in 0–1 of which a tenth change, by anything up to the whole scale; ``drop`` in their mean."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        before = rng.beta(4, 2, items)
        changed = rng.random(items) < DISCORDANT
        noise = rng.normal(0, 0.35, items) - drop / DISCORDANT
        yield mean(before), mean(np.where(changed, before + noise, before))


def bleu_counts(drop: float, items: int, seed: int) -> Pairs:
    """Matches among the words of answers; ``drop`` in the probability of a match, as in points of BLEU over 100."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        lengths = rng.integers(8, 30, items).astype(float)
        skill = rng.beta(8, 3, items)
        yield _bleu(rng, lengths, skill), _bleu(rng, lengths, np.clip(skill - drop, 0.01, 1))


def _bleu(rng: np.random.Generator, lengths: Array, skill: Array) -> Scored:
    totals = np.stack([lengths - less for less in range(4)], axis=1)
    matches = np.stack([rng.binomial(totals[:, order].astype(int), skill ** (1 + order)) for order in range(4)], axis=1)
    rows = np.hstack([lengths[:, None], lengths[:, None], matches, totals])
    return Scored(define("bleu", bleu_from_sums), rows.astype(np.float64), "bleu")


def label_counts(drop: float, items: int, seed: int) -> Pairs:
    """Decisions of a task with many labels: true ones found with a probability that drops."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        true = rng.integers(1, 5, items)
        sides = []
        for chance in (0.8, 0.8 - drop):
            found = rng.binomial(true, chance)
            rows = np.stack([found, found + rng.binomial(2, 0.2, items), true], axis=1).astype(np.float64)
            sides.append(Scored(define("f1_micro", f1_from_totals), rows, "f1"))
        yield sides[0], sides[1]


CASES: dict[str, tuple[Callable[[float, int, int], Pairs], float, float]] = {
    # (pairs of runs, the drop that must be seen at 500 items, max_drop in the metric's scale)
    "continuous": (continuous, 0.05, 0.02),
    "bleu": (bleu_counts, 0.05, 2.0),
    "f1": (label_counts, 0.08, 0.02),
}


@pytest.mark.parametrize("case", CASES)
def test_drops_fail_and_no_change_does_not(case: str) -> None:
    pairs, drop, limit = CASES[case]
    assert rates(pairs(drop, ITEMS, 1), limit)["FAIL"] >= 0.95 - SLACK
    assert rates(pairs(0.0, ITEMS, 2), limit)["FAIL"] <= 0.05 + SLACK


@pytest.mark.parametrize("case", CASES)
def test_few_items_do_not_fail_for_nothing(case: str) -> None:
    # Without room for a drop, so that the bound alone decides.
    assert rates(CASES[case][0](0.0, 50, 3), 0.0)["FAIL"] <= 0.05 + SLACK


def test_items_of_one_group_count_as_one() -> None:
    rng = np.random.default_rng(4)
    groups = [f"g{place // 10}" for place in range(ITEMS)]

    def pairs() -> Pairs:
        for _ in range(DRAWS):
            before = (rng.random(ITEMS) < 0.7).astype(float)
            shared = np.repeat(rng.normal(0, 0.2, ITEMS // 10), 10)
            yield mean(before), mean(before + shared + rng.normal(0, 0.05, ITEMS))

    found = list(pairs())
    assert rates(iter(found), 0.0, groups)["FAIL"] <= 0.05 + SLACK
    assert rates(iter(found), 0.0)["FAIL"] > 0.15


@pytest.mark.parametrize("case", ["continuous", "bleu"])
def test_order_of_the_table_does_not_matter_once_items_are_sorted(case: str) -> None:
    before, after = next(CASES[case][0](0.02, ITEMS, 5))
    order: Any = np.random.default_rng(6).permutation(ITEMS)
    back = np.argsort(order)
    one = paired_difference(before, after, None, 0.95, "test")
    two = paired_difference(before.subset(order).subset(back), after.subset(order).subset(back), None, 0.95, "test")
    assert one == two


def rare_drops(share: float, items: int, seed: int) -> Pairs:
    """Scores that all change by a hair, and a few that lose everything."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        before = rng.random(items)
        yield mean(before), mean(before + rng.normal(0, 1e-4, items) - (rng.random(items) < share))


@pytest.mark.parametrize("items", [50, 200, 500])
@pytest.mark.parametrize("share", [0.005, 0.02])
def test_rare_drops_do_not_hide_behind_small_changes_of_all_items(items: int, share: float) -> None:
    assert rates(rare_drops(share, items, 7), share / 2)["PASS"] <= 0.06
    assert rates(rare_drops(share, items, 8), share)["PASS"] <= 0.06 + SLACK


def test_scores_that_change_as_usual_still_pass() -> None:
    assert rates(continuous(0.0, ITEMS, 9), 0.02)["PASS"] >= 0.95
