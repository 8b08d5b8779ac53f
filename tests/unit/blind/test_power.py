"""Planned items against sums of binomials written out, and against simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lorascope.blind.plan import StudyPlan
from lorascope.blind.power import (
    ENOUGH,
    detectable_effect,
    effective_votes,
    item_effect,
    plan_power,
    plan_study,
    power_table,
    reading_load,
    sign_test_items,
    sign_test_power,
    study_power,
)
from lorascope.errors import UsageError


def written_out(n: int, effect: float, alpha: float) -> float:
    """Power by listing every number of losses."""
    tails = [sum(math.comb(n, i) for i in range(k + 1)) / 2**n for k in range(n + 1)]
    return sum(
        math.comb(n, losses) * effect ** (n - losses) * (1 - effect) ** losses
        for losses in range(n + 1)
        if 2 * losses < n and 2 * tails[losses] <= alpha
    )


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.2])
@pytest.mark.parametrize("effect", [0.5, 0.6, 0.83])
def test_power_is_the_sum_over_all_outcomes(effect: float, alpha: float) -> None:
    for n in (0, 1, 2, 5, 6, 7, 8, 9, 20, 53, 54, 101):
        assert sign_test_power(n, effect, alpha) == pytest.approx(written_out(n, effect, alpha), abs=1e-12)


@pytest.mark.parametrize(("effect", "items"), [(0.55, 820), (0.6, 210), (0.65, 97), (0.7, 54), (0.75, 35)])
def test_items_are_those_from_which_on_power_stays(effect: float, items: int) -> None:
    assert sign_test_items(effect) == items
    assert sign_test_power(items - 1, effect) < 0.8
    assert all(sign_test_power(n, effect) >= 0.8 for n in range(items, 3 * items))


def test_the_first_number_that_touches_the_power_is_smaller() -> None:
    first = next(n for n in range(1, 1000) if sign_test_power(n, 0.55) >= 0.8)
    assert first == 786
    assert any(sign_test_power(n, 0.55) < 0.8 for n in range(first, sign_test_items(0.55)))


@pytest.mark.parametrize(("alpha", "power"), [(0.01, 0.9), (0.1, 0.5), (0.001, 0.99), (0.3, 0.95)])
def test_items_for_other_errors(alpha: float, power: float) -> None:
    for effect in (0.58, 0.7, 0.95):
        items = sign_test_items(effect, alpha=alpha, power=power)
        assert items == 1 or sign_test_power(items - 1, effect, alpha) < power
        assert all(sign_test_power(n, effect, alpha) >= power for n in range(items, items + 200))


def test_no_effect_is_found_as_often_as_alpha_allows() -> None:
    for n in range(1, 300, 7):
        assert sign_test_power(n, 0.5) <= 0.025


def test_a_majority_of_votes() -> None:
    assert item_effect(0.6, 1, 0.0) == item_effect(0.6, 3, 1.0)
    independent = item_effect(0.6, 3, 0.0)
    assert independent.effect == pytest.approx(0.6**3 + 3 * 0.6**2 * 0.4)
    assert independent.split == 0.0
    even = item_effect(0.6, 2, 0.0)
    assert even.split == pytest.approx(2 * 0.6 * 0.4)
    assert even.effect == pytest.approx(0.36 / (0.36 + 0.16))
    between = [item_effect(0.6, 3, rho).effect for rho in (1.0, 0.7, 0.3, 0.01, 0.0)]
    assert between == sorted(between)
    for nearly in (1e-300, 1e-12, 1e-9, 1e-6):
        assert item_effect(0.6, 3, nearly).effect == pytest.approx(independent.effect, abs=1e-5)
    for nearly in (1 - 1e-15, 1 - 1e-9):
        assert item_effect(0.6, 4, nearly).effect == pytest.approx(0.6, abs=1e-6)


def test_the_model_of_votes_against_drawn_votes() -> None:
    source = np.random.default_rng(5)
    chance = source.beta(0.6 * 0.7 / 0.3, 0.4 * 0.7 / 0.3, size=200_000)
    votes = source.random((200_000, 4)) < chance[:, None]
    assert np.corrcoef(votes[:, 0], votes[:, 1])[0, 1] == pytest.approx(0.3, abs=0.01)
    wins = votes.sum(axis=1)
    joined = item_effect(0.6, 4, 0.3)
    assert (wins == 2).mean() == pytest.approx(joined.split, abs=0.005)
    assert (wins > 2).sum() / (wins != 2).sum() == pytest.approx(joined.effect, abs=0.005)


def test_whole_studies_have_the_power_that_is_planned() -> None:
    source = np.random.default_rng(11)
    plan = plan_study(0.62, ties=0.25, raters=3, correlation=0.4)
    studies = 4_000
    chance = source.beta(0.62 * 0.6 / 0.4, 0.38 * 0.6 / 0.4, size=(studies, plan.items))
    wins = source.binomial(3, chance) >= 2
    decided = source.random((studies, plan.items)) >= 0.25
    won, trials = (wins & decided).sum(axis=1), decided.sum(axis=1)
    critical = {n: _losses_affordable(n) for n in map(int, np.unique(trials))}
    found = np.mean([n - w <= critical[int(n)] for w, n in zip(won, trials, strict=True)])
    assert found == pytest.approx(plan_power(plan), abs=0.025)
    assert plan_power(plan) >= plan.power
    assert np.mean(trials >= plan.decisive_items) >= ENOUGH - 0.015


def _losses_affordable(n: int) -> int:
    tail, losses = 0.0, -1
    while (tail := tail + math.comb(n, losses + 1) / 2**n) * 2 <= 0.05:
        losses += 1
    return losses


def test_certain_majorities_still_need_the_fewest_items_that_can_be_significant() -> None:
    assert plan_study(0.999999, raters=101, correlation=0.0).items == 6


def test_ties_come_on_top_and_not_only_on_average() -> None:
    none, some = plan_study(0.6), plan_study(0.6, ties=0.2)
    assert (none.items, none.decisive_items) == (210, 210)
    assert some.decisive_items == 210
    assert some.items > 210 / 0.8
    assert study_power(some.items, 0.6, ties=0.2) == pytest.approx(plan_power(some))
    assert plan_power(some) >= 0.8


@pytest.mark.parametrize("effect", [0.55, 0.63, 0.8, 0.97])
@pytest.mark.parametrize(("votes", "correlation"), [(1, 1.0), (2, 0.5), (3, 0.0), (4, 0.2)])
def test_every_plan_has_its_power(effect: float, votes: int, correlation: float) -> None:
    for ties in (0.0, 0.1, 0.6):
        plan = plan_study(effect, ties=ties, raters=5, votes_per_item=votes, correlation=correlation)
        assert plan_power(plan) >= 0.8
        assert plan.items >= plan.decisive_items >= 6


def test_further_raters_help_less_than_their_number_and_less_than_to_a_mean() -> None:
    one, three, copies = (
        plan_study(0.6, raters=raters, correlation=rho) for raters, rho in ((1, 0.3), (3, 0.3), (3, 1.0))
    )
    assert copies.items == one.items
    assert one.items / effective_votes(1, 3, 0.3) < three.items < one.items
    assert effective_votes(100, 3, 0.3) == pytest.approx(300 / 1.6)
    assert effective_votes(100, 3, 1.0) == 100
    assert effective_votes(100, 3, 0.0) == 300


def test_the_detectable_effect_turns_the_plan_round() -> None:
    for items in (40, 120, 600):
        effect = detectable_effect(items, ties=0.2)
        assert effect is not None
        assert study_power(items, effect, ties=0.2) == pytest.approx(0.8, abs=1e-3)
        assert study_power(items, effect - 0.01, ties=0.2) < 0.8
    assert detectable_effect(5) is None
    assert detectable_effect(0) is None
    wide, narrow = detectable_effect(120, votes_per_item=3), detectable_effect(120, votes_per_item=3, correlation=0.0)
    assert wide is not None
    assert narrow is not None
    assert narrow < wide


def test_the_table_agrees_with_the_plans() -> None:
    rows = power_table((0.6, 0.7), (60, 120), ties=0.2)
    assert [row.effect for row in rows] == [0.6, 0.7]
    for row in rows:
        plan = plan_study(row.effect, ties=0.2)
        assert (row.items, row.decisive_items) == (plan.items, plan.decisive_items)
        assert row.powers == tuple(study_power(n, row.effect, ties=0.2) for n in (60, 120))


def test_reading_counts_repeats_and_checks() -> None:
    plan = StudyPlan(effect=0.6, raters=4, votes_per_item=2, decisive_items=100, items=121)
    load = reading_load(plan)
    assert load.rows_per_rater == 61 + 8 + 6
    assert load.rows == 4 * load.rows_per_rater
    assert load.hours == pytest.approx(75 / 40)


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"effect": 0.5}, "effect"),
        ({"effect": 0.505}, "effect"),
        ({"effect": math.nan}, "effect"),
        ({"effect": 1.2}, "effect"),
        ({"effect": 1.0}, "effect"),
        ({"alpha": 0.0}, "alpha"),
        ({"power": 1.0}, "power"),
        ({"power": 0.05}, "power"),
        ({"ties": 1.0}, "ties"),
        ({"ties": -0.1}, "ties"),
        ({"correlation": 1.1}, "correlation"),
        ({"raters": 0}, "raters"),
        ({"raters": 2, "votes_per_item": 3}, "votes per item"),
        ({"votes_per_item": 0}, "votes per item"),
    ],
)
def test_what_cannot_be_planned_is_said(wrong: dict[str, float], place: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_study(**{"effect": 0.6, **wrong})  # type: ignore[arg-type]
    assert caught.value.where == place
    assert caught.value.remedy
