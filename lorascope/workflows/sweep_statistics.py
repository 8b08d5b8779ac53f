"""What several runs of a point say together: means over seeds, differences between points, the front, the advice.

Values in, values out; nothing here opens a file. Between points with two seeds or more in common, a difference is the
mean of the differences seed by seed, with its t-interval: it covers how training varies, on the same validation items.
With one seed the interval covers the items instead, and says nothing of another seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from lorascope.measures.verdicts import judge
from lorascope.schema.model import Direction
from lorascope.schema.sweep import (
    SeedValue,
    SweepAdvice,
    SweepDifference,
    SweepMeasure,
    SweepPoint,
    SweepRun,
    SweepValue,
)
from lorascope.schema.values import Delta

Paired = Callable[[SweepRun, SweepRun, SweepMeasure], Delta | None]
"""The comparison's own paired difference of two runs: the first minus the second; None where it has none."""


def over_seeds(values: Sequence[SeedValue]) -> SweepValue:
    """The mean of one value a seed, with its 95 % t-interval; no interval with one seed."""
    mean, low, high = _t_interval([each.value for each in values])
    return SweepValue(values=list(values), mean=mean, low=low, high=high)


def _t_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    from scipy.stats import t

    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None, None
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    reach = float(t.ppf(0.975, n - 1)) * error
    return mean, mean - reach, mean + reach


def difference(point: SweepPoint, other: SweepPoint, measure: SweepMeasure, paired: Paired) -> SweepDifference | None:
    """``point`` minus ``other``; None where one of them has no value."""
    ours, theirs = point.values.get(measure.id), other.values.get(measure.id)
    if ours is None or theirs is None:
        return None
    basis: Literal["seeds", "items", "items_unpaired", "none"] = "none"
    left, right = ({each.seed: each for each in value.values} for value in (ours, theirs))
    common = [seed for seed in left if seed in right]
    value, low, high, n = ours.mean - theirs.mean, None, None, len(common)
    if len(common) > 1:
        basis = "seeds"
        value, low, high = _t_interval([left[seed].value - right[seed].value for seed in common])
    elif common:
        seed = common[0]
        runs = [next(run for run in each.runs if run.seed == seed) for each in (point, other)]
        known = paired(runs[0], runs[1], measure)
        if known is not None:
            basis, value, low, high, n = "items", known.value, known.low, known.high, known.n
        else:
            value = left[seed].value - right[seed].value
            low, high = _unpaired(value, left[seed], right[seed])
            basis, n = ("none" if low is None else "items_unpaired"), min(left[seed].n or 0, right[seed].n or 0)
    return SweepDifference(
        point=point.name,
        reference=other.name,
        measure=measure.id,
        value=value,
        low=low,
        high=high,
        n=n,
        basis=basis,
        margin=measure.margin,
        verdict=judge(value, low, high, margin=measure.margin, direction=measure.direction),
    )


def _unpaired(value: float, left: SeedValue, right: SeedValue) -> tuple[float | None, float | None]:
    """Two intervals put together as if on different items (Newcombe 1998, method 10's rule of squares)."""
    if left.low is None or left.high is None or right.low is None or right.high is None:
        return None, None
    down = math.hypot(left.value - left.low, right.high - right.value)
    up = math.hypot(left.high - left.value, right.value - right.low)
    return value - down, value + up


def better(value: float, other: float, direction: Direction) -> bool:
    """Whether ``value`` is the better one; never where no direction is."""
    return value > other if direction == "higher" else value < other if direction == "lower" else False


def front(places: Mapping[str, tuple[float, float]], directions: tuple[Direction, Direction]) -> set[str]:
    """Names that no other surpasses: at least as good on both axes and better on one."""

    def surpassed(name: str) -> bool:
        own = places[name]
        for other, place in places.items():
            axes = list(zip(place, own, directions, strict=True))
            as_good = all(there == here or better(there, here, way) for there, here, way in axes)
            if other != name and as_good and place != own:
                return True
        return False

    return {name for name in places if not surpassed(name)}


def cost_order(point: SweepPoint) -> tuple[float, float]:
    """Cheaper first: by trainable parameters, then by seconds; what is unknown comes last."""
    known = (point.values.get(f"cost:{name}") for name in ("trainable_parameters", "train_seconds"))
    parameters, seconds = (math.inf if value is None else value.mean for value in known)
    return parameters, seconds


def advise(points: Sequence[SweepPoint], measure: SweepMeasure | None, paired: Paired) -> SweepAdvice:
    """The point to take: the cheapest that is equivalent to the best, else the best where it beats all cheaper ones.

    The best mean of many is chosen on the same items that it is judged by, and intervals are not widened for the
    number of points: an advice is to be confirmed on other data.
    """
    measured = [point for point in points if measure is not None and measure.id in point.values]
    if measure is None or not measured:
        return SweepAdvice(outcome="nothing")
    sign = -1.0 if measure.direction == "lower" else 1.0
    best = max(measured, key=lambda point: (sign * point.values[measure.id].mean, *(-x for x in cost_order(point))))
    seeds = min(len(point.values[measure.id].values) for point in measured)
    told: dict[str, Any] = {"best": best.name, "measure": measure.id, "seeds": seeds}
    if len(measured) == 1:
        return SweepAdvice(outcome="alone", point=best.name, **told)
    cheaper = sorted((point for point in measured if cost_order(point) < cost_order(best)), key=cost_order)
    found = {point.name: difference(best, point, measure, paired) for point in cheaper}
    rests_on = [each for each in found.values() if each is not None]
    undecided = [each.reference for each in rests_on if each.verdict not in ("improved", "equivalent")]
    equivalent = next((each.reference for each in rests_on if each.verdict == "equivalent"), None)
    if equivalent is not None:
        return SweepAdvice(outcome="cheaper", point=equivalent, rests_on=rests_on, open=undecided, **told)
    if not undecided and rests_on:
        return SweepAdvice(outcome="better", point=best.name, rests_on=rests_on, **told)
    if rests_on:
        return SweepAdvice(outcome="inconclusive", rests_on=rests_on, open=undecided, **told)
    return _cheapest_and_best(best, measured, measure, paired, told)


def _cheapest_and_best(
    best: SweepPoint,
    measured: Iterable[SweepPoint],
    measure: SweepMeasure,
    paired: Paired,
    told: Mapping[str, Any],
) -> SweepAdvice:
    """Nothing is cheaper than the best: it is the one to take, unless a dearer one may be better by the margin."""
    others = [difference(best, point, measure, paired) for point in measured if point is not best]
    rests_on = [each for each in others if each is not None]
    undecided = [each.reference for each in rests_on if _may_be_worse(each, measure)]
    return SweepAdvice.model_validate(
        {
            "outcome": "inconclusive" if undecided else "better",
            "point": None if undecided else best.name,
            "rests_on": rests_on,
            "open": undecided,
            **told,
        }
    )


def _may_be_worse(found: SweepDifference, measure: SweepMeasure) -> bool:
    """Whether the interval leaves room for the point being worse by the margin."""
    worst = found.high if measure.direction == "lower" else found.low
    if worst is None:
        return True
    return (-worst if measure.direction == "lower" else worst) <= -(measure.margin or 0.0)
