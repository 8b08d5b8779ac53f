"""Whole studies by simulation: key, filled sheets, scores. What the intervals promise, they keep."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lorascope.blind.key import KeyRow, StudyItem
from lorascope.blind.plan import Exclusions, StudyPlan
from lorascope.blind.rows import OVERALL
from lorascope.blind.scoring import score_study
from lorascope.schema.human import HumanStudy

UNIT = Path(__file__).parents[1] / "unit" / "blind"
make = SimpleNamespace(**runpy.run_path(str(UNIT / "filled_study.py")))

# A tenth of the items are flipped; they are drawn three to four times as often, and tuned does far better on them.
STRATA = {"rest": (900, 28), "flipped": (100, 12)}
MEANS = {"rest": 0.55, "flipped": 0.85}
TIES = 0.2
STUDIES_WITHOUT_RATERS = 150
TRUE_WIN_RATE = 0.5 * TIES + (1 - TIES) * (0.9 * MEANS["rest"] + 0.1 * MEANS["flipped"])


class Raters:
    """Raters who see one item alike: its chance of a vote for tuned is drawn once, from a beta distribution."""

    def __init__(self, rng: np.random.Generator, means: dict[str, float], careless: float = 0.0) -> None:
        self.rng = rng
        self.means = means
        self.careless = careless
        self.chances: dict[str, float] = {}
        self.given: dict[str, int] = {}
        self.expected = {"repeats_consistent": 0, "checks_passed": 0, "identical_tied": 0}

    def __call__(self, row: KeyRow, item: StudyItem) -> str:
        """The choice for a row, noting what the quality counts must come to."""
        if row.kind == "mismatched":
            passed = self.rng.random() >= self.careless
            self.expected["checks_passed"] += passed
            return "B" if passed == (row.wrong == "A") else "A"
        if row.kind == "identical":
            tied = self.rng.random() >= self.careless
            self.expected["identical_tied"] += tied
            return "both bad" if tied else "A much"
        preference = self._preference(item)
        self.given[row.id] = preference
        if row.kind == "repeat":
            self.expected["repeats_consistent"] += np.sign(self.given[row.of or ""]) == np.sign(preference)
        for_a = preference if row.a == item.first else -preference
        return next(code for code, value in OVERALL.items() if value == for_a)

    def _preference(self, item: StudyItem) -> int:
        if self.rng.random() < TIES:
            return 0
        if item.item_id not in self.chances:
            mean = self.means[item.stratum]
            self.chances[item.item_id] = self.rng.beta(2 * mean, 2 * (1 - mean))
        strength = 2 if self.rng.random() < 0.3 else 1
        return strength if self.rng.random() < self.chances[item.item_id] else -strength


def click(rng: np.random.Generator) -> Any:
    return lambda row, item: list(OVERALL)[int(rng.integers(6))]


def studies(count: int, means: dict[str, float], seed: int) -> Iterator[tuple[HumanStudy, Raters]]:
    """Each with its own key, salt and sheets; one set of counts is expected of all three raters together."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        made = make.make_study(40, 3, strata=STRATA, repeats=4, checks=2, same=1, salt=f"{number:064x}")
        raters = Raters(rng, means, careless=0.2)
        yield score_study(made.fill(raters), made.key, metrics={}, seed=number, resamples=50), raters


@pytest.mark.slow
def test_a_thousand_studies_cover_the_population_and_count_what_was_done() -> None:
    covered = unweighted = 0
    for study, raters in studies(1000, MEANS, seed=1):
        pair = study.pairs[0]
        low, high = pair.win_rate.low, pair.win_rate.high
        assert low is not None
        assert high is not None
        covered += low <= TRUE_WIN_RATE <= high
        unweighted += (pair.unweighted.low or 0) <= TRUE_WIN_RATE <= (pair.unweighted.high or 1)
        found = {name: sum(getattr(each, name) for each in study.raters) for name in raters.expected}
        assert found == raters.expected
        assert [(each.repeats, each.checks, each.identical) for each in study.raters] == [(4, 2, 1)] * 3
        assert sum(pair.votes.model_dump().values()) == 120
    assert 930 <= covered <= 975
    # What the weights are for: intervals of the drawn items as they are miss the population's value more often.
    assert unweighted < covered - 20


# Ties of the same text twice: frequent among the rest, rare among the flipped items.
ALIKE = {"rest": 0.4, "flipped": 0.1}
MOSTLY_TUNED = {"rest": 0.85, "flipped": 0.95}
SHARES = {"rest": 0.9, "flipped": 0.1}
TRUE_WITH_ALIKE = sum(
    SHARES[name] * (0.5 * ALIKE[name] + (1 - ALIKE[name]) * (0.5 * TIES + (1 - TIES) * MOSTLY_TUNED[name]))
    for name in SHARES
)


def test_win_rates_of_split_studies_without_some_raters_are_unbiased_and_covered() -> None:
    rng = np.random.default_rng(5)
    values, covered = [], 0
    for number in range(STUDIES_WITHOUT_RATERS):
        strata = {"rest": (900, 60), "flipped": (100, 24)}
        chances = np.repeat([ALIKE[name] for name in strata], [drawn for _, drawn in strata.values()])
        alike = np.flatnonzero(rng.random(len(chances)) < chances)
        made = make.make_study(
            len(chances), 6, strata=strata, identical=set(alike), split=True, repeats=0, checks=0, same=0,
            salt=f"{number:064x}",
        )  # fmt: skip
        present = [made.key.raters[place] for place in np.sort(rng.permutation(6)[: int(rng.integers(2, 6))])]
        pair = score_study(made.fill(Raters(rng, MOSTLY_TUNED), present), made.key, metrics={}, resamples=20).pairs[0]
        values.append(pair.win_rate.value)
        covered += (pair.win_rate.low or 0) <= TRUE_WITH_ALIKE <= (pair.win_rate.high or 1)
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values) - TRUE_WITH_ALIKE) < 3 * error
    assert 0.925 * len(values) <= covered <= 0.99 * len(values)


def test_no_preference_is_found_in_at_most_one_study_of_twenty() -> None:
    found = [study.pairs[0] for study, _ in studies(200, {"rest": 0.5, "flipped": 0.5}, seed=2)]
    significant = sum((pair.sign_test.p_value or 1.0) <= 0.05 for pair in found)
    assert significant <= 16  # 5 % of 200, and two standard errors
    away = sum(not (pair.win_rate.low or 0) <= 0.5 <= (pair.win_rate.high or 1) for pair in found)
    assert 2 <= away <= 19


@pytest.mark.parametrize("registered", [True, False])
def test_a_rater_who_clicks_at_random_is_found(registered: bool) -> None:
    rng = np.random.default_rng(3)
    rules = Exclusions(min_checks_passed=0.6, min_repeat_consistency=0.6)
    plan = StudyPlan(effect=0.65, raters=3, votes_per_item=3, decisive_items=20, items=40, exclusions=rules)
    random, careful = 0, 0
    for _ in range(100):
        made = make.make_study(40, 3, repeats=12, plan=plan if registered else None)
        sheets = [*made.fill(make.prefer("tuned"), ["rater-1", "rater-2"]), made.sheet("rater-3", click(rng))]
        study = score_study(sheets, made.key, metrics={}, resamples=50)
        told = [note for note in study.notes if note.startswith("rater-3")]
        random += study.raters[2].excluded is not None if registered else bool(told)
        careful += any(note.startswith(("rater-1", "rater-2")) for note in study.notes)
        if study.raters[2].excluded:
            assert study.pairs[0].votes.first == 80
            assert study.pairs[0].win_rate.value == pytest.approx(1.0)
    assert random >= 93
    assert careful == 0
