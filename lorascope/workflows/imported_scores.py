"""The numbers that another tool gave its items: held against ours where both exist, measured as its own elsewhere."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorascope.data.imported.pairing import PairedTask
from lorascope.data.imported.runs import Score, Tool, ToolMetric
from lorascope.measures.core import FloatArray, Measure, Scored, mean_of_items
from lorascope.measures.registry import MEASURES
from lorascope.measures.statistics import Interval, PairedResult, estimate_many, paired_many
from lorascope.schema.comparison import Finding, Measurement
from lorascope.workflows.estimates import delta_of, estimate_of
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import same_outputs, score

_TOLERANCE = 1e-6
_SHARE_MARGIN = 0.02
"""The public default margin of metrics from 0 to 1."""


@dataclass(frozen=True)
class Agreement:
    """A metric of the tool against ours, item by item, over all runs of a task."""

    task: str
    metric: str
    ours: str
    items: int
    differing: int
    largest: float
    example: str
    why: str | None


def compare_scores(answers: TaskAnswers, paired: PairedTask) -> list[Agreement]:
    """Each metric of the tool that has a counterpart of ours here, on all items of all runs."""
    scored = {run: score(answers.task, answers.asked[run]) for run in paired.runs}
    found = []
    for name, metric in _shared(paired).items():
        if metric.ours is not None and all(metric.ours in own for own in scored.values()):
            values = {run: own[metric.ours].item_values() for run, own in scored.items()}
            found.append(_agreement(name, metric, answers, paired, values))
    return found


def _agreement(
    name: str, metric: ToolMetric, answers: TaskAnswers, paired: PairedTask, ours: Mapping[str, FloatArray]
) -> Agreement:
    rows = [
        (abs(_value(one.scores[name]) - float(own)), one.place)
        for run, items in paired.runs.items()
        for one, own in zip(items, ours[run], strict=True)
        if np.isfinite(own)
    ]
    largest, place = max(rows, default=(0.0, ""))
    differing = sum(distance > _TOLERANCE for distance, _ in rows)
    assert metric.ours is not None
    return Agreement(
        answers.task.spec.name, name, metric.ours, len(rows), differing, largest, place, metric.why
    )  # fmt: skip


def _value(given: Score) -> float:
    total, weight = given
    return total / weight


def _shared(paired: PairedTask) -> dict[str, ToolMetric]:
    """The tool's metrics that every run has for every item."""
    first, *rest = paired.tasks.values()
    return {name: metric for name, metric in first.metrics.items() if all(name in task.metrics for task in rest)}


def agreement_findings(tool: Tool, agreements: Sequence[Agreement]) -> Iterator[Finding]:
    """One finding for all metrics that agree, one for each that does not."""
    same = [one for one in agreements if one.items and not one.differing]
    if same:
        yield Finding(
            id="import:agreement",
            severity="good",
            area="task",
            title=f"{tool}'s own values equal ours on every item",
            evidence=[f"{one.task}: {one.metric} is our {one.ours} on all {one.items} answers" for one in same],
        )
    for one in agreements:
        if one.differing:
            shown = f"{one.differing} of {one.items} answers differ, by {one.largest:.4g} at most ({one.example})"
            yield Finding(
                id=f"import:agreement:{one.task}:{one.metric}",
                severity="info",
                area="task",
                title=f"{tool}'s {one.metric} is not our {one.ours} on {one.task}: both are reported",
                evidence=[shown, *([one.why] if one.why else [])],
            )


@dataclass(frozen=True)
class OwnMetrics:
    """The tool's metrics under its names: measurements, and values by name and run, one an item."""

    measurements: list[Measurement]
    values: dict[str, dict[str, list[float]]]


def own_metrics(
    answers: TaskAnswers, paired: PairedTask, pairs: Sequence[Pair], tool: Tool, *, same: Container[str], seed: int
) -> OwnMetrics:
    """Measure the tool's per-item numbers, but for those in ``same``, which equal one of ours.

    A name that is also one of ours gets the tool's name behind it. Shares of items whose better direction the tool
    knows are judged by the default margin of such shares; other numbers have a difference and no verdict.
    """
    wanted = {name: metric for name, metric in _shared(paired).items() if name not in same}
    if not wanted:
        return OwnMetrics([], {})
    scored = {run: _scored_run(paired, run, wanted, tool) for run in paired.runs}
    named = [one.item.group for one in next(iter(paired.runs.values()))]
    groups = named if any(named) else None
    estimates = {run: estimate_many(own, seed=seed, groups=groups) for run, own in scored.items()}
    found: list[Measurement] = []
    for pair in pairs:
        if pair.subject not in scored:
            continue
        base, adapted = scored[pair.reference], scored[pair.subject]
        alike = same_outputs(answers.asked[pair.reference], answers.asked[pair.subject])
        margins = {name: _margin(one.measure) for name, one in adapted.items()}
        results = paired_many(
            base, adapted, margins=margins, seed=seed, groups=groups, same_outputs=list(base) if alike else ()
        )
        before, after = estimates[pair.reference], estimates[pair.subject]
        found += [
            _measurement(answers, pair, one, before[name], after[name], results[name]) for name, one in adapted.items()
        ]
    values = {
        own_name(name, tool): {run: [_value(one.scores[name]) for one in own] for run, own in paired.runs.items()}
        for name, metric in wanted.items()
        if metric.form == "mean"
    }
    return OwnMetrics(found, values)


def _measurement(
    answers: TaskAnswers, pair: Pair, scored: Scored, base: Interval, adapted: Interval, result: PairedResult
) -> Measurement:
    undefined = [run for run, found in ((pair.reference, base), (pair.subject, adapted)) if found.value is None]
    return Measurement(
        subject=pair.subject,
        reference=pair.reference,
        area=answers.area,
        task=answers.task.spec.name,
        metric=scored.measure.name,
        unit=scored.measure.unit,
        scale=scored.measure.scale,
        direction=scored.measure.direction,
        base=estimate_of(base),
        adapted=estimate_of(adapted),
        delta=delta_of(result),
        signature=scored.signature,
        missing_reason=f"{' and '.join(undefined)}: undefined on these items" if undefined else None,
    )


def _margin(measure: Measure) -> float | None:
    return _SHARE_MARGIN if measure.proportion and measure.direction != "none" else None


def _scored_run(paired: PairedTask, run: str, wanted: Mapping[str, ToolMetric], tool: Tool) -> dict[str, Scored]:
    return {own_name(name, tool): _scored(name, metric, paired, run, tool) for name, metric in wanted.items()}


def own_name(name: str, tool: Tool) -> str:
    """The tool's name for its metric, apart from ours: what we call ``exact_match`` is another's only by that name."""
    plain = re.sub(r"[@:*\s]+", "-", name)
    return f"{plain}_{tool.replace('-', '_')}" if plain in MEASURES else plain


def _scored(original: str, metric: ToolMetric, paired: PairedTask, run: str, tool: Tool) -> Scored:
    """One run's statistics. A number that is 0 or 1 for every item of every run is a share of items."""
    name = own_name(original, tool)
    rows = np.array([one.scores[original] for one in paired.runs[run]], dtype=np.float64)
    every = np.array([one.scores[original] for items in paired.runs.values() for one in items], dtype=np.float64)
    binary = bool(np.isin(every[:, 0], (0.0, 1.0)).all() and (every[:, 1] == 1.0).all())
    perplexity = metric.form == "exp"
    if perplexity:
        rows[:, 0] *= -1
    measure = Measure(
        name=name,
        unit="fraction" if binary else "perplexity" if perplexity else "points",
        scale="0-1" if binary else "0-inf" if perplexity else "unbounded",
        direction=metric.direction,
        additive=True,
        aggregate=_perplexity if perplexity else mean_of_items,
        proportion=binary,
    )
    return Scored(measure, rows, f"{name}|as recorded by {tool}|{'exp of mean' if perplexity else 'mean'}")


def _perplexity(sums: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # infinite here, undefined outside
        return np.asarray(np.exp(mean_of_items(sums)), dtype=np.float64)
