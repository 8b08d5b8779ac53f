"""Whether automatic metrics prefer what the raters prefer, item by item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lorascope.blind.key import StudyKey
from lorascope.blind.votes import PairVotes
from lorascope.errors import ConfigError
from lorascope.measures.agreement import kendall_tau_b
from lorascope.measures.core import FloatArray
from lorascope.measures.preference import preference_agreement
from lorascope.measures.preference_strata import Strata, item_means
from lorascope.measures.registry import find_spec
from lorascope.measures.statistics import Interval
from lorascope.schema.comparison import Comparison
from lorascope.schema.human import MetricAgreement
from lorascope.schema.model import Direction
from lorascope.schema.values import Estimate

if TYPE_CHECKING:
    import pyarrow

ItemMetrics = Mapping[tuple[str, str], Mapping[tuple[str, str], float]]
"""(task, metric) → (item id, system) → the metric of that system's answer, turned so that higher is better."""
_BASE, _ADAPTED = "_base", "_adapted"
_DIGITS = 12  # equal differences of decimal numbers differ in the last places, so that ties would be none


def item_metrics(samples: pyarrow.Table, comparison: Comparison, key: StudyKey) -> ItemMetrics:
    """Per-item metrics of the answers that were shown, from the columns ``<metric>_base`` and ``<metric>_adapted``.

    The base's come from the rows of any subject. Metrics of direction 'lower' are negated, those of direction 'none'
    and of no known direction are left out; so are items that the study does not show. Where an item id occurs more
    than once, its first value counts, as its first answer was shown.
    """
    shown = {(item.task, item.item_id) for item in key.items}
    base = {system.name for system in key.systems if system.role == "base"}
    systems = {system.name for system in key.systems}
    metrics = _directed(samples.column_names, comparison)
    ids = [samples.column(name).to_pylist() for name in ("subject", "task", "item_id")]
    rows = [(place, *row) for place, row in enumerate(zip(*ids, strict=True)) if (row[1], row[2]) in shown]
    found: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for metric, sign in metrics.items():
        for side in (_BASE, _ADAPTED):
            values = samples.column(f"{metric}{side}").take([row[0] for row in rows]).to_pylist()
            for (_, subject, task, item_id), value in zip(rows, values, strict=True):
                owners = base if side == _BASE else {subject} & systems
                if value is not None and math.isfinite(value):
                    for owner in owners:
                        found.setdefault((task, metric), {}).setdefault((item_id, owner), sign * float(value))
    return found


def _directed(columns: Iterable[str], comparison: Comparison) -> dict[str, float]:
    """Sign that turns each metric so that higher is better, for metrics with columns of both sides."""
    names = set(columns)
    measured: dict[str, Direction] = {each.metric: each.direction for each in comparison.measurements}
    found = {}
    for column in sorted(names):
        metric = column.removesuffix(_BASE)
        if metric != column and f"{metric}{_ADAPTED}" in names:
            direction = measured.get(metric) or _registered(metric)
            if direction != "none":
                found[metric] = 1.0 if direction == "higher" else -1.0
    return found


def _registered(metric: str) -> Direction:
    """A metric that no table knows has no direction that could be relied on."""
    try:
        return find_spec(metric).direction
    except ConfigError:
        return "none"


def metric_agreements(
    pair: PairVotes, strata: Strata, key: StudyKey, metrics: ItemMetrics, *, seed: int, resamples: int
) -> list[MetricAgreement]:
    """Agreement of each metric of the pair's tasks with the raters, on items that they rated (identical ones out)."""
    tasks = {key.items[place].task for place in pair.items}
    return [
        _agreement(pair, strata, _differences(pair, key, task, values), (task, metric), seed, resamples)
        for (task, metric), values in sorted(metrics.items())
        if task in tasks
    ]


def _differences(pair: PairVotes, key: StudyKey, task: str, values: Mapping[tuple[str, str], float]) -> FloatArray:
    """(items,): first minus second, NaN where a value is missing and on items of other tasks."""
    found = np.full(len(pair.items), np.nan)
    for column, place in enumerate(pair.items):
        item = key.items[place]
        first, second = (values.get((item.item_id, system)) for system in (pair.first, pair.second))
        if item.task == task and not item.identical and first is not None and second is not None:
            found[column] = round(first - second, _DIGITS)
    return found


def _agreement(
    pair: PairVotes, strata: Strata, differences: FloatArray, name: tuple[str, str], seed: int, resamples: int
) -> MetricAgreement:
    both = np.isfinite(differences)
    items = int(both.sum())
    agreement = preference_agreement(differences, pair.rated_wins, strata)
    preferences = np.where(both, item_means(pair.preferences), np.nan)
    correlation = kendall_tau_b(differences, preferences, seed=seed, resamples=resamples)
    reasons = [found.method.removeprefix("none: ") for found in (agreement, correlation) if found.value is None]
    if not items:
        reasons = ["no rated item has the metric of both answers"]
    return MetricAgreement(
        task=name[0],
        metric=name[1],
        items=items,
        agreement=as_estimate(agreement),
        correlation=as_estimate(correlation),
        missing_reason="; ".join(dict.fromkeys(reasons)) or None,
    )


def as_estimate(found: Interval) -> Estimate | None:
    """The interval as it stands in a result; None where there is no value."""
    if found.value is None:
        return None
    return Estimate(value=found.value, low=found.low, high=found.high, n=found.n, method=found.method)
