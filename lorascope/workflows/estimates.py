"""The result document's form of intervals and paired differences, and what they are computed with: groups, margins."""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.data.tasks import LoadedTask
from lorascope.measures.registry import find_spec
from lorascope.measures.statistics import Interval, PairedResult
from lorascope.schema.items import Item
from lorascope.schema.values import Delta, Estimate
from lorascope.workflows.scoring import primary_metric

OF_THE_PAIR = "a number about the change itself: the base alone has none"
"""Why a measurement of a pair has no estimate of the base."""


def estimate_of(interval: Interval) -> Estimate | None:
    """The result document's form of an interval; None where the value is undefined."""
    if interval.value is None:
        return None
    return Estimate(value=interval.value, low=interval.low, high=interval.high, n=interval.n, method=interval.method)


def groups_of(task: LoadedTask, items: Sequence[Item]) -> list[str | None] | None:
    """Names of the items' groups, for clustered errors; None where items stand for themselves.

    The built-in probe's groups of four share their choices by design, which makes items repel each other rather than
    agree; treating its items as independent errs on the safe side.
    """
    if str(task.spec.data).startswith("builtin:") or all(item.group is None for item in items):
        return None
    return [item.group for item in items]


def delta_of(result: PairedResult) -> Delta | None:
    """The result document's form of a paired difference; None where it is undefined."""
    if result.value is None:
        return None
    return Delta(
        value=result.value,
        low=result.low,
        high=result.high,
        n=result.n,
        p_value=result.p_value,
        test=result.test,
        margin=result.margin,
        verdict=result.verdict,
        detectable=result.detectable,
        needed_n=result.needed_n,
    )


def margin_of(task: LoadedTask, metric: str) -> float | None:
    """The suite's margin for metrics on the primary metric's scale, the registry's default for the rest."""
    spec = find_spec(metric)
    said = task.spec.margin
    return said if said is not None and spec.scale == find_spec(primary_metric(task)).scale else spec.margin
