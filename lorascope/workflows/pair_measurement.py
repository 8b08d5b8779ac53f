"""Statistics of two checkpoints over the same items into measurements, for numbers beside a task's own metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorascope.data.tasks import LoadedTask
from lorascope.measures.core import Measure, Scored
from lorascope.measures.registry import find_spec
from lorascope.measures.statistics import Interval, PairedResult, estimate_many, paired_many
from lorascope.schema.comparison import Area, Measurement, Slice
from lorascope.schema.items import Item
from lorascope.workflows.estimates import delta_of, estimate_of, groups_of, margin_of
from lorascope.workflows.measuring import Key, Pair, TaskAnswers

RESAMPLES = 2_000


@dataclass(frozen=True)
class Side:
    """One checkpoint's numbers over one set of items: statistics and intervals by (slice, its value, metric)."""

    scored: Mapping[Key, Scored]
    estimates: Mapping[Key, Interval]


def side_of(task: LoadedTask, scored: Mapping[Key, Scored], items: Sequence[Item], *, seed: int) -> Side:
    """The numbers with their intervals, clustered where the items carry groups."""
    return Side(scored, estimate_many(scored, seed=seed, resamples=RESAMPLES, groups=groups_of(task, items)))


def compare_sides(
    answers: TaskAnswers,
    pair: Pair,
    before: Side | None,
    after: Side,
    items: Sequence[Item],
    *,
    seed: int,
    unchanged: bool = False,
) -> Iterator[Measurement]:
    """A measurement for each number of the subject, with the paired difference where the reference has it too.

    ``unchanged`` says that both gave the same answers item by item.
    """
    shared = [key for key in after.scored if before is not None and key in before.scored]
    results: Mapping[Key, PairedResult] = {}
    if before is not None and shared:
        results = paired_many(
            {key: before.scored[key] for key in shared},
            {key: after.scored[key] for key in shared},
            margins={key: margin_of(answers.task, key[2]) for key in shared},
            seed=seed,
            resamples=RESAMPLES,
            groups=groups_of(answers.task, items),
            same_outputs=shared if unchanged else (),
        )
    for key, scored in after.scored.items():
        yield _measurement(answers, pair, key, scored, before, after, results.get(key))


def _measurement(
    answers: TaskAnswers,
    pair: Pair,
    key: Key,
    scored: Scored,
    before: Side | None,
    after: Side,
    result: PairedResult | None,
) -> Measurement:
    by, value, metric = key
    reference = before.estimates.get(key) if before is not None else None
    adapted = estimate_of(after.estimates[key])
    reason = None
    if reference is None:
        reason = f"{pair.reference}: {answers.absent.get(pair.reference, 'not measured on these items')}"
    elif adapted is None:
        reason = "undefined on these items"
    elif reference.value is None:
        reason = f"{pair.reference}: undefined on these items"
    return _row(
        pair,
        answers.task.spec.name,
        answers.area,
        scored.measure,
        slice=Slice.model_validate({"by": by, "value": value}) if by else None,
        metric=metric,
        base=estimate_of(reference) if reference else None,
        adapted=adapted,
        delta=delta_of(result) if result else None,
        signature=scored.signature,
        missing_reason=reason,
    )


def _row(pair: Pair, task: str, area: Area, measure: Measure, **fields: object) -> Measurement:
    named = {"subject": pair.subject, "reference": pair.reference, "area": area, "task": task}
    scales = {"unit": measure.unit, "scale": measure.scale, "direction": measure.direction}
    return Measurement.model_validate(named | scales | fields)


def registered(pair: Pair, task: str, area: Area, metric: str, **fields: object) -> Measurement:
    """A measurement of a registered metric that was not made from statistics of items."""
    spec = find_spec(metric)
    named = {"subject": pair.subject, "reference": pair.reference, "area": area, "task": task, "metric": metric}
    scales = {"unit": spec.unit, "scale": spec.scale, "direction": spec.direction}
    return Measurement.model_validate(named | scales | {"signature": metric} | fields)
