"""From a comparison of all runs to what the sweep says: values by point and seed, differences, front, advice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lorascope.measures.registry import MEASURES, find_spec
from lorascope.report.lookup import measurements, primary, tasks_of_role
from lorascope.schema.comparison import Comparison, Measurement, TaskInfo
from lorascope.schema.model import Direction
from lorascope.schema.sweep import (
    ForgettingMatrix,
    PresetName,
    SeedValue,
    SweepAdvice,
    SweepChoice,
    SweepDifference,
    SweepMeasure,
    SweepPoint,
    SweepReport,
    SweepRun,
    SweepValue,
)
from lorascope.schema.values import Delta, Estimate
from lorascope.workflows import sweep_statistics as statistics

_WEIGHTS = ("intruder_count", "intruder_energy", "effective_rank", "relative_change")
_COST = ("train_seconds", "tokens_per_second", "trainable_parameters", "peak_memory_bytes")
Numbers = dict[str, dict[str, Estimate]]
"""Measure id → name of the run → its value."""


@dataclass(frozen=True)
class SweepFacts:
    """What the report is made of besides the comparison. ``costs`` holds numbers of ``cost.json`` by run's name.

    The runs of ``points`` name the subjects that they are in the comparison, those of a sequence by stage.
    """

    points: Sequence[SweepPoint]
    seeds: Sequence[int]
    keys: Sequence[str]
    reference: str
    costs: Mapping[str, Mapping[str, float]]
    preset: PresetName | None = None
    choices: Sequence[SweepChoice] = ()
    stages: Sequence[str] = ()
    metric: str | None = None
    margin: float | None = None
    notes: Sequence[str] = ()


def report_of(facts: SweepFacts, comparison: Comparison | None) -> SweepReport:
    """The whole report; without a comparison it holds runs and costs alone."""
    found = _Found(comparison, facts)
    points = [found.filled(point) for point in facts.points]
    points = _on_front(points, found)
    advice = statistics.advise(points, found.learning, found.paired)
    return SweepReport(
        preset=facts.preset,
        seeds=list(facts.seeds),
        keys=list(facts.keys),
        reference=facts.reference,
        measures=list(found.measures.values()),
        learning=_id(found.learning),
        gap=_id(found.gap),
        forgetting=_id(found.forgetting),
        points=points,
        differences=_differences(points, facts.reference, found),
        choices=list(facts.choices),
        matrices=_matrices(points, facts, comparison),
        advice=_with_forgetting(advice, points, found),
        notes=[*facts.notes, *found.notes],
    )


def _id(measure: SweepMeasure | None) -> str | None:
    return None if measure is None else measure.id


class _Found:
    """Every number of every run, by measure."""

    def __init__(self, comparison: Comparison | None, facts: SweepFacts) -> None:
        self.comparison = comparison
        self.facts = facts
        self.measures: dict[str, SweepMeasure] = {}
        self.numbers: Numbers = {}
        self.notes: list[str] = []
        self.retention_tasks: list[str] = []
        self.learning = self.gap = self.forgetting = None
        if comparison is not None:
            self.learning = self._learning(comparison)
            self.gap = self._gap(comparison)
            self.forgetting = self._forgetting(comparison)
            for metric in _WEIGHTS:
                self._add_all("weights", measurements(comparison, area="weights", metric=metric, by=None))
        self._costs()

    learning: SweepMeasure | None
    gap: SweepMeasure | None
    forgetting: SweepMeasure | None

    def _measure(
        self, area: Literal["learning", "gap", "forgetting", "weights", "cost"], found: Measurement, name: str = ""
    ) -> SweepMeasure:
        metric = name or found.metric
        key = f"{area}{f':{found.task}' if found.task else ''}:{metric}"
        if key not in self.measures:
            row = MEASURES.get(found.metric)
            self.measures[key] = SweepMeasure(
                id=key,
                area=area,
                task=found.task,
                metric=metric,
                unit=found.unit,
                scale=found.scale,
                direction=found.direction,
                margin=(found.delta.margin if found.delta else None) or (row.margin if row else None),
            )
        return self.measures[key]

    def _add_all(
        self, area: Literal["learning", "gap", "forgetting", "weights", "cost"], found: Iterable[Measurement]
    ) -> SweepMeasure | None:
        """Keep the values of measurements against the base, one measure or several; the last measure is returned."""
        measure = None
        for each in found:
            if each.adapted is None or self.comparison is None or each.reference != self.comparison.base.name:
                continue
            sliced = f"@{each.slice.value}" if each.slice is not None else ""
            measure = self._measure(area, each, f"{each.metric}{sliced}")
            self.numbers.setdefault(measure.id, {})[each.subject] = each.adapted
        return measure

    def _learning(self, comparison: Comparison) -> SweepMeasure | None:
        """Every metric of the target tasks, whole and by group of labels; the leading one is returned."""
        tasks = tasks_of_role(comparison, "target")
        for task in tasks:
            whole = measurements(comparison, area="task", task=task.name, by=None)
            groups = measurements(comparison, area="task", task=task.name, by="label_group")
            self._add_all("learning", [*whole, *groups])
        for task in tasks[:1]:
            metric = self.facts.metric or _leading(comparison, task)
            measure = self.measures.get(f"learning:{task.name}:{metric}")
            if measure is None and self.facts.metric:
                self.notes.append(f"{self.facts.metric} was not measured on {task.name}: nothing is judged by it.")
            if measure is not None and self.facts.margin is not None:
                measure = self.measures[measure.id] = measure.model_copy(update={"margin": self.facts.margin})
            return measure
        return None

    def _gap(self, comparison: Comparison) -> SweepMeasure | None:
        """Training minus validation in the leading metric, else validation minus training loss at the end."""
        learning = self.learning
        if learning is not None:
            name = f"{learning.metric}_gap"
            found = self._add_all("gap", measurements(comparison, area="gap", task=learning.task, metric=name, by=None))
            if found is not None:
                return found
        losses = measurements(comparison, area="curves", metric="final_gap")
        first = next((each.slice.value for each in losses if each.slice), None)
        return self._add_all("gap", [each for each in losses if each.slice is None or each.slice.value == first])

    def _forgetting(self, comparison: Comparison) -> SweepMeasure | None:
        """The retention tasks' leading metric over all their items; of an encoder how alike its last features are."""
        tasks = tasks_of_role(comparison, "retention")
        metrics = {task.name: _leading(comparison, task) for task in tasks}
        metric = next((name for name in metrics.values() if name is not None), None)
        if metric is None:
            return self._drift(comparison)
        self.retention_tasks = [name for name, own in metrics.items() if own == metric]
        base = comparison.base.name
        found = [
            each
            for task in self.retention_tasks
            for each in measurements(comparison, reference=base, task=task, metric=metric, by=None)
        ]
        if not found:
            return None
        one = self.retention_tasks[0] if len(self.retention_tasks) == 1 else None
        measure = self._measure("forgetting", found[0].model_copy(update={"task": one}))
        for subject in dict.fromkeys(each.subject for each in found):
            values = [each.adapted for each in found if each.subject == subject and each.adapted is not None]
            if len(values) == len(self.retention_tasks):
                self.numbers.setdefault(measure.id, {})[subject] = _pooled(values)
        return measure

    def _drift(self, comparison: Comparison) -> SweepMeasure | None:
        layers = measurements(comparison, area="drift", metric="cka")
        numbered = [each for each in layers if each.slice is not None and each.slice.value.isdecimal()]
        last = max((int(each.slice.value) for each in numbered if each.slice), default=None)
        own = [each for each in numbered if each.slice and each.slice.value == str(last)]
        measure = self._add_all("forgetting", own)
        if measure is None:
            return None
        self.notes.append(
            "This base cannot answer the probe: what stands for forgetting is how alike the last layer's features of "
            "general texts stayed (linear CKA, 1 is unchanged). That is drift; whether anything was lost by it is not "
            "measured."
        )
        measure = self.measures[measure.id] = measure.model_copy(update={"direction": "higher"})
        return measure

    def _costs(self) -> None:
        for metric in _COST:
            values = {name: cost[metric] for name, cost in self.facts.costs.items() if metric in cost}
            if not values:
                continue
            spec = find_spec(metric)
            self.measures[f"cost:{metric}"] = SweepMeasure(
                id=f"cost:{metric}",
                area="cost",
                metric=metric,
                unit=spec.unit,
                scale=spec.scale,
                direction="lower" if metric == "trainable_parameters" else spec.direction,
            )
            self.numbers[f"cost:{metric}"] = {
                name: Estimate(value=value, n=1, method="none") for name, value in values.items()
            }

    def filled(self, point: SweepPoint) -> SweepPoint:
        """The point with its numbers; in a sequence those of the last stage, of costs the sum over the stages."""
        values: dict[str, SweepValue] = {}
        for key, known in self.numbers.items():
            by_seed: dict[int, list[Estimate]] = {}
            for run in point.runs:
                if run.name in known:
                    by_seed.setdefault(run.seed, []).append(known[run.name])
            stages = len(self.facts.stages) or 1
            last = {run.seed: run.name for run in point.runs}
            own = []
            for seed, found in by_seed.items():
                adds_up = key.startswith("cost:") and self.measures[key].unit == "seconds"
                if adds_up and len(found) == stages:
                    own.append(SeedValue(seed=seed, value=math.fsum(each.value for each in found)))
                elif last[seed] in known:
                    own.append(_seed_value(seed, known[last[seed]]))
            if own:
                values[key] = statistics.over_seeds(own)
            if own and key.startswith("cost:"):
                # Two or three times of a run on a machine that others use make no interval to go by.
                values[key] = values[key].model_copy(update={"low": None, "high": None})
        return point.model_copy(update={"values": values})

    def paired(self, run: SweepRun, other: SweepRun, measure: SweepMeasure) -> Delta | None:
        """The comparison's own difference of two runs, turned round where it stands the other way."""
        if self.comparison is None or (measure.area == "forgetting" and len(self.retention_tasks) != 1):
            return None
        for subject, reference, sign in ((run, other, 1), (other, run, -1)):
            found = measurements(
                self.comparison,
                subject=subject.subject or "",
                reference=reference.subject or "",
                task=measure.task,
                metric=measure.metric,
                by=None,
            )
            delta = next((each.delta for each in found if each.delta is not None), None)
            if delta is not None:
                return delta if sign > 0 else _turned(delta)
        return None


def _leading(comparison: Comparison, task: TaskInfo) -> str | None:
    """The task's leading metric, by the first subject that has one."""
    for subject in comparison.subjects:
        found = primary(comparison, task, subject.name, comparison.base.name)
        if found is not None:
            return found.metric
    return None


def _seed_value(seed: int, found: Estimate) -> SeedValue:
    return SeedValue(seed=seed, value=found.value, low=found.low, high=found.high, n=found.n)


def _pooled(values: Sequence[Estimate]) -> Estimate:
    """One value over the items of several tasks, with the interval that their own, independent ones amount to."""
    n = sum(each.n for each in values)
    if n == 0 or len(values) == 1:
        return values[0]
    value = math.fsum(each.n * each.value for each in values) / n
    low = high = None
    if all(each.low is not None and each.high is not None for each in values):
        low = value - math.hypot(*(each.n / n * (each.value - (each.low or 0.0)) for each in values))
        high = value + math.hypot(*(each.n / n * ((each.high or 0.0) - each.value) for each in values))
    return Estimate(value=value, low=low, high=high, n=n, method="items of several tasks")


def _turned(delta: Delta) -> Delta:
    """The difference the other way round."""
    low, high = (None if bound is None else -bound for bound in (delta.high, delta.low))
    return delta.model_copy(update={"value": -delta.value, "low": low, "high": high, "verdict": None})


def _differences(points: Sequence[SweepPoint], reference: str, found: _Found) -> list[SweepDifference]:
    against = next((point for point in points if point.name == reference), None)
    leading = [measure for measure in (found.learning, found.forgetting, found.gap) if measure is not None]
    if against is None:
        return []
    made = (
        statistics.difference(point, against, measure, found.paired)
        for measure in leading
        for point in points
        if point is not against
    )
    return [each for each in made if each is not None]


def _on_front(points: Sequence[SweepPoint], found: _Found) -> list[SweepPoint]:
    learning, forgetting = found.learning, found.forgetting
    if learning is None or forgetting is None:
        return list(points)
    places = {
        point.name: (point.values[learning.id].mean, point.values[forgetting.id].mean)
        for point in points
        if learning.id in point.values and forgetting.id in point.values
    }
    best = statistics.front(places, (learning.direction, forgetting.direction))
    return [
        point.model_copy(update={"front": point.name in best}) if point.name in places else point for point in points
    ]


def _with_forgetting(advice: SweepAdvice, points: Sequence[SweepPoint], found: _Found) -> SweepAdvice:
    """Whether the point that is advised forgets more or less than the best one, or than the reference."""
    named = {point.name: point for point in points}
    taken = named.get(advice.point or "")
    other = named.get((advice.best or "") if advice.best != advice.point else found.facts.reference)
    if taken is None or other is None or taken is other or found.forgetting is None:
        return advice
    return advice.model_copy(update={"forgets": statistics.difference(taken, other, found.forgetting, found.paired)})


def _matrices(points: Sequence[SweepPoint], facts: SweepFacts, comparison: Comparison | None) -> list[ForgettingMatrix]:
    if not facts.stages or comparison is None:
        return []
    tasks = [task for name in facts.stages for task in comparison.tasks if task.name == name]
    metric = _leading(comparison, tasks[0]) if tasks else None
    if metric is None:
        return []
    names = [task.name for task in tasks]
    chains = [
        (point, seed, [run for run in point.runs if run.seed == seed]) for point in points for seed in facts.seeds
    ]
    return [_matrix(point, seed, chain, names, metric, comparison) for point, seed, chain in chains]


def _matrix(
    point: SweepPoint, seed: int, chain: Sequence[SweepRun], tasks: list[str], metric: str, comparison: Comparison
) -> ForgettingMatrix:
    def cell(subject: str, **wanted: Any) -> float | None:
        own = measurements(comparison, subject=subject, reference=comparison.base.name, by=None, **wanted)
        return next((each.adapted.value for each in own if each.adapted is not None), None)

    values = [[cell(run.subject or "", task=task, metric=metric) for task in tasks] for run in chain]
    known = [each for task in tasks for each in measurements(comparison, task=task, metric=metric, by=None)]
    base = comparison.base.name
    before = {each.task: each.base.value for each in known if each.reference == base and each.base is not None}
    direction: Direction = known[0].direction if known else "none"
    return ForgettingMatrix(
        point=point.name,
        seed=seed,
        metric=metric,
        direction=direction,
        stages=[run.stage or run.name for run in chain],
        tasks=tasks,
        base=[before.get(task) for task in tasks],
        values=values,
        backward_transfer=backward_transfer(values),
        intruders=[cell(run.subject or "", area="weights", metric="intruder_count") for run in chain],
        relative_change=[cell(run.subject or "", area="weights", metric="relative_change") for run in chain],
    )


def backward_transfer(values: Sequence[Sequence[float | None]]) -> float | None:
    """Mean over tasks but the last of R[last][j] − R[j][j]; None where any of these was not measured."""
    if len(values) < 2 or any(len(row) != len(values) for row in values):
        return None
    changes = []
    for task in range(len(values) - 1):
        after, own = values[-1][task], values[task][task]
        if after is None or own is None:
            return None
        changes.append(after - own)
    return math.fsum(changes) / len(changes)
