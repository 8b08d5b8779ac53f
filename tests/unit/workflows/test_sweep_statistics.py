"""Means over seeds, differences between points, the front, and the cases of the recommendation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from lorascope.schema.sweep import SeedValue, SweepMeasure, SweepPoint, SweepRun, SweepValue
from lorascope.schema.values import Delta
from lorascope.workflows.sweep_report import backward_transfer
from lorascope.workflows.sweep_statistics import advise, cost_order, difference, front, over_seeds

F1 = SweepMeasure(
    id="learning:task:f1", area="learning", metric="f1", unit="fraction", scale="0-1", direction="higher", margin=0.02
)
LOSS = F1.model_copy(update={"direction": "lower"})


def nothing(one: SweepRun, other: SweepRun, measure: SweepMeasure) -> Delta | None:
    return None


def point(name: str, values: Sequence[float], parameters: float = 10, spread: float | None = None) -> SweepPoint:
    seeds = list(range(len(values)))
    reach = 0.0 if spread is None else spread
    known = [
        SeedValue(seed=seed, value=value, low=None if spread is None else value - reach, n=100)
        if spread is None
        else SeedValue(seed=seed, value=value, low=value - reach, high=value + reach, n=100)
        for seed, value in zip(seeds, values, strict=True)
    ]
    cost = SweepValue(values=[SeedValue(seed=0, value=parameters)], mean=parameters)
    return SweepPoint(
        name=name,
        settings={},
        method="lora",
        runs=[SweepRun(name=f"{name}-s{seed}", seed=seed, folder="x", subject=f"{name}-s{seed}") for seed in seeds],
        values={F1.id: over_seeds(known), "cost:trainable_parameters": cost},
    )


def test_the_interval_over_seeds_is_the_t_interval() -> None:
    values = [0.5, 0.53, 0.49]
    found = over_seeds([SeedValue(seed=seed, value=value) for seed, value in enumerate(values)])
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    one = over_seeds([SeedValue(seed=0, value=0.5, low=0.4, high=0.6)])
    assert (one.mean, one.low, one.high) == (0.5, None, None)


def test_differences_are_paired_by_seed() -> None:
    ours, theirs = [0.60, 0.70, 0.65], [0.50, 0.61, 0.55]
    found = difference(point("a", ours), point("b", theirs), F1, nothing)
    assert found is not None
    steps = np.subtract(ours, theirs)
    low, high = stats.t.interval(0.95, 2, loc=steps.mean(), scale=stats.sem(steps))
    assert (found.basis, found.n) == ("seeds", 3)
    assert (found.value, found.low, found.high) == pytest.approx((steps.mean(), low, high))
    assert found.verdict == "improved"


def test_one_seed_takes_the_items_and_says_so() -> None:
    def paired(one: SweepRun, other: SweepRun, measure: SweepMeasure) -> Delta:
        assert (one.name, other.name) == ("a-s0", "b-s0")
        return Delta(value=0.1, low=0.05, high=0.15, n=96)

    left, right = point("a", [0.6], spread=0.03), point("b", [0.5], spread=0.04)
    found = difference(left, right, F1, paired)
    assert found is not None
    assert (found.basis, found.n, found.low) == ("items", 96, 0.05)
    unpaired = difference(left, right, F1, nothing)
    assert unpaired is not None
    assert unpaired.basis == "items_unpaired"
    assert (unpaired.low, unpaired.high) == pytest.approx((0.05, 0.15))
    bare = difference(point("a", [0.6]), point("b", [0.5]), F1, nothing)
    assert bare is not None
    assert (bare.basis, bare.low, bare.verdict) == ("none", None, "inconclusive")


def test_a_point_without_a_value_has_no_difference() -> None:
    empty = SweepPoint(name="b", settings={}, method="lora", runs=[])
    assert difference(point("a", [0.6]), empty, F1, nothing) is None


def test_the_front() -> None:
    places = {"a": (0.9, 0.1), "b": (0.5, 0.5), "c": (0.4, 0.4), "d": (0.5, 0.5), "e": (0.1, 0.9)}
    assert front(places, ("higher", "higher")) == {"a", "b", "d", "e"}
    assert front({"a": (1.0, 1.0), "b": (2.0, 1.0)}, ("lower", "higher")) == {"a"}


def test_cheaper_wins_where_it_is_equivalent() -> None:
    points = [
        point("full", [0.600, 0.601, 0.602], 1000),
        point("r8", [0.599, 0.600, 0.601], 80),
        point("r1", [0.400, 0.401, 0.402], 10),
    ]
    advice = advise(points, F1, nothing)
    assert (advice.outcome, advice.point, advice.best, advice.seeds) == ("cheaper", "r8", "full", 3)
    assert {each.reference: each.verdict for each in advice.rests_on} == {"r1": "improved", "r8": "equivalent"}
    assert advice.open == []


def test_the_best_is_taken_where_it_beats_every_cheaper_point() -> None:
    advice = advise([point("full", [0.60, 0.61], 1000), point("r1", [0.40, 0.41], 10)], F1, nothing)
    assert (advice.outcome, advice.point) == ("better", "full")


def test_what_cannot_be_told_is_inconclusive() -> None:
    points = [point("full", [0.60, 0.70], 1000), point("r1", [0.62, 0.60], 10)]
    advice = advise(points, F1, nothing)
    assert (advice.outcome, advice.point, advice.best, advice.open) == ("inconclusive", None, "full", ["r1"])


def test_the_cheapest_that_is_best_is_taken_unless_a_dearer_one_may_be_better_by_the_margin() -> None:
    sure = advise([point("full", [0.600, 0.601], 1000), point("r1", [0.601, 0.602], 10)], F1, nothing)
    assert (sure.outcome, sure.point) == ("better", "r1")
    assert [each.verdict for each in sure.rests_on] == ["equivalent"]
    unsure = advise([point("full", [0.50, 0.65], 1000), point("r1", [0.65, 0.60], 10)], F1, nothing)
    assert (unsure.outcome, unsure.point, unsure.open) == ("inconclusive", None, ["full"])


def test_a_lower_metric_is_turned() -> None:
    points = [point("full", [0.300, 0.301], 1000), point("r1", [0.500, 0.502], 10)]
    advice = advise(points, LOSS, nothing)
    assert (advice.outcome, advice.point) == ("better", "full")


def test_nothing_and_one_point() -> None:
    empty = SweepPoint(name="b", settings={}, method="lora", runs=[])
    assert advise([empty], F1, nothing).outcome == "nothing"
    assert advise([point("a", [0.5])], None, nothing).outcome == "nothing"
    assert advise([point("a", [0.5]), empty], F1, nothing).outcome == "alone"


def test_cost_goes_by_trainable_parameters_and_the_unknown_comes_last() -> None:
    unknown = SweepPoint(name="b", settings={}, method="lora", runs=[])
    points = [unknown, point("large", [0.5], 100), point("small", [0.5], 10)]
    assert [each.name for each in sorted(points, key=cost_order)] == ["small", "large", "b"]


def test_backward_transfer() -> None:
    values = [[0.8, 0.1, 0.2], [0.6, 0.9, 0.2], [0.5, 0.8, 0.7]]
    assert backward_transfer(values) == pytest.approx(((0.5 - 0.8) + (0.8 - 0.9)) / 2)
    assert backward_transfer([[0.8, None], [None, 0.7]]) is None
    assert backward_transfer([[0.8, 0.1]]) is None
