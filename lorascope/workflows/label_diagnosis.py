"""Why label scores are as they are: label sets, thresholds, precision and recall by label, collapsed outputs, heads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lorascope.engines.base import Subject as Asker
from lorascope.measures.core import BoolArray, FloatArray, Scored
from lorascope.measures.label_diagnosis import (
    precision_recall_points,
    score_label_outputs,
    score_label_sets,
    shown_labels,
    worst_labels,
)
from lorascope.measures.label_sums import one_hot
from lorascope.schema.comparison import Finding, Measurement, Series, Slice
from lorascope.schema.items import LabelsItem
from lorascope.schema.values import Estimate
from lorascope.workflows.label_findings import Decided, find_in_labels
from lorascope.workflows.measuring import Key, Pair, TaskAnswers
from lorascope.workflows.pair_measurement import Side, compare_sides, registered, side_of
from lorascope.workflows.scoring import Asked, is_multi, label_arrays, same_outputs, tuned_thresholds

MOST_CURVES = 12
MOST_WORST = 8
_WORST_CURVES = 4
_FIXED = 0.5
_SEVERAL = "multi_label_classification"
_NO_TRAINING = "needs the training file: give the task's train_data"


@dataclass(frozen=True)
class LabelDiagnosis:
    """What the diagnosis adds to a result."""

    measurements: list[Measurement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)


@dataclass(frozen=True)
class _Reading:
    """One checkpoint: decisions at 0.5 over all items, and at tuned thresholds over the items not tuned on."""

    asked: Asked
    fixed: Decided
    whole: Side
    tuned: Decided | None = None
    tuned_side: Side | None = None
    indices: tuple[int, ...] = ()
    thresholds: FloatArray | None = None
    how: str = ""
    tunable: BoolArray | None = None


def diagnose_labels(answers: TaskAnswers, pairs: Sequence[Pair], *, seed: int) -> LabelDiagnosis:
    """Measurements, findings and curves of a label task; nothing for other kinds.

    Thresholds are those of the task's own metrics: tuned on ``tune_on`` and frozen, else cross-fitted. Findings are
    about each pair's subject; series about every checkpoint that answered.
    """
    if answers.task.kind != "labels":
        return LabelDiagnosis()
    known = _known_sets(answers) if is_multi(answers.task) else None
    readings = {name: _read(answers, name, known, seed) for name in answers.asked}
    found = LabelDiagnosis()
    told: set[str] = set()
    for pair in pairs:
        if pair.subject not in readings:
            continue
        rows = list(_measure(answers, pair, readings, known is not None, seed))
        found.measurements.extend(rows)
        if pair.subject not in told:
            reading = readings[pair.subject]
            found.findings.extend(find_in_labels(answers, pair, rows, reading.fixed, reading.tuned, known))
            told.add(pair.subject)
    found.findings.extend(_unused_tuning(answers))
    if is_multi(answers.task) and readings:
        drawn = _drawn_labels([readings[name] for name in (told or readings)])
        for name, reading in readings.items():
            found.series.extend(_series(answers, name, reading, drawn, first=name == next(iter(readings))))
    return found


def _unused_tuning(answers: TaskAnswers) -> Iterator[Finding]:
    """Thresholds were asked for, and items of one label each have none."""
    task = answers.task
    if is_multi(task) or not task.tuning_items:
        return
    yield Finding(
        id=f"labels:unused_tuning:{task.spec.name}",
        severity="warning",
        area=answers.area,
        title=f"The {len(task.tuning_items)} tuning items of {task.spec.name} are not used: its items have one label",
        evidence=["the most probable label is given, by softmax; there is no threshold to tune"],
        advice="If items may have several labels, write lists into the field 'labels', or give multi_label: true; "
        "else leave tune_on out.",
    )


def find_in_heads(answers: TaskAnswers, known: Sequence[Asker]) -> list[Finding]:
    """What stands against the heads of those that answered a label task; ``known`` are all checkpoints.

    An order of labels that only the task's list vouches for, and whether another head's own names contradict it; a head
    that was trained for several labels an item, scored as one of many.
    """
    if answers.task.kind != "labels":
        return []
    asked = [asker for asker in known if asker.name in answers.asked]
    return [*_order_on_trust(answers, asked), *_several_as_one(answers, asked)]


def _order_on_trust(answers: TaskAnswers, asked: Sequence[Asker]) -> Iterator[Finding]:
    listed, task = tuple(answers.task.spec.labels or ()), answers.task.spec.name
    unnamed = ", ".join(asker.name for asker in asked if asker.labels is None)
    if not listed or not unnamed:
        return
    named = [asker for asker in asked if asker.labels is not None and set(asker.labels) == set(listed)]
    other = next((asker for asker in named if asker.labels != listed), None)
    title = f"No label names in {unnamed}: on {task} the order of the list that was given is taken on trust"
    if other is None:
        evidence = [f"it is the order of the own names of {named[0].name}"] if named else []
    else:
        own = other.labels or ()
        place = next(index for index, name in enumerate(listed) if own[index] != name)
        evidence = [
            f"{other.name} names the same labels in another order",
            f"output {place + 1}: {listed[place]} in the list, {own[place]} in the head of {other.name}",
        ]
    yield Finding(
        id=f"labels:trusted_order:{task}",
        severity="info" if other is None else "warning",
        area=answers.area,
        title=title if other is None else f"{title}, and {other.name} has another order",
        evidence=evidence,
        advice=None
        if other is None
        else "Give the labels in the order of the training run's id2label. Heads with names "
        "of their own are matched by name, whatever the order.",
    )


def _several_as_one(answers: TaskAnswers, asked: Sequence[Asker]) -> Iterator[Finding]:
    if is_multi(answers.task):
        return
    for asker in asked:
        if _problem_type(asker.path) == _SEVERAL:
            yield Finding(
                id=f"labels:several_as_one:{answers.task.spec.name}:{asker.name}",
                severity="warning",
                area=answers.area,
                subject=asker.name,
                title=f"{asker.name} was trained for several labels an item, and {answers.task.spec.name} is scored as "
                "one of many",
                evidence=[f"its config.json has problem_type {_SEVERAL}; softmax over its outputs was never trained"],
                advice="Write lists into the field 'labels', or give multi_label: true in the suite.",
            )


def _problem_type(path: Path) -> str | None:
    """What the configuration beside the weights says; None where there is none, as beside most adapters."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    said = config.get("problem_type") if isinstance(config, dict) else None
    return said if isinstance(said, str) else None


def _known_sets(answers: TaskAnswers) -> BoolArray | None:
    """(m, L): the label sets of the training file; sets with a label outside of the task's list cannot be predicted."""
    place = {label: index for index, label in enumerate(answers.labels)}
    sets = [item.labels for item in answers.task.train_items if isinstance(item, LabelsItem)]
    inside = [[place[label] for label in labels] for labels in sets if all(label in place for label in labels)]
    if not inside:
        return None
    known = np.zeros((len(inside), len(place)), dtype=np.bool_)
    for row, labels in zip(known, inside, strict=True):
        row[labels] = True
    return known


def _read(answers: TaskAnswers, name: str, known: BoolArray | None, seed: int) -> _Reading:
    asked = answers.asked[name]
    probabilities, truth = label_arrays(asked)
    multi = is_multi(answers.task)
    decided = probabilities >= _FIXED if multi else one_hot(probabilities.argmax(axis=1), truth.shape[1])
    scored: dict[Key, Scored] = {
        ("", "", metric): scores for metric, scores in score_label_outputs(probabilities, truth, multi=multi).items()
    }
    fixed = Decided(probabilities, decided, truth)
    if not multi:
        return _Reading(asked, fixed, side_of(answers.task, scored, asked.items, seed=seed))
    sets = score_label_sets(decided, truth, decision=f"probability>={_FIXED:g}", known_sets=known)
    scored |= {("", "", metric): scores for metric, scores in sets.items()}
    whole = side_of(answers.task, scored, asked.items, seed=seed)
    return _tuned(answers, name, _Reading(asked, fixed, whole), known, seed)


def _tuned(answers: TaskAnswers, name: str, reading: _Reading, known: BoolArray | None, seed: int) -> _Reading:
    tuning = answers.tuning.get(name)
    used = {item.item_id for item in tuning.items} if tuning else set()
    indices = [index for index, item in enumerate(reading.asked.items) if item.item_id not in used]
    if not indices:
        indices, tuning = list(range(len(reading.asked.items))), None
    part = reading.asked.subset(indices)
    found = tuned_thresholds(part, tuning, seed)
    if found is None:
        return reading
    thresholds, how = found
    probabilities, truth = reading.fixed.probabilities[indices], reading.fixed.truth[indices]
    decided = probabilities >= thresholds
    sets = score_label_sets(decided, truth, decision=how, known_sets=known)
    scored: dict[Key, Scored] = {("threshold", "tuned", metric): scores for metric, scores in sets.items()}
    return _Reading(
        asked=reading.asked,
        fixed=reading.fixed,
        whole=reading.whole,
        tuned=Decided(probabilities, decided, truth),
        tuned_side=side_of(answers.task, scored, part.items, seed=seed),
        indices=tuple(indices),
        thresholds=thresholds,
        tunable=np.asarray((label_arrays(tuning)[1] if tuning is not None else truth).any(axis=0)),
        how=how if tuning is None else f"{how}: {len(tuning.items)} items",
    )


def _measure(
    answers: TaskAnswers, pair: Pair, readings: Mapping[str, _Reading], knows_sets: bool, seed: int
) -> Iterator[Measurement]:
    after, before = readings[pair.subject], readings.get(pair.reference)
    items = after.asked.items
    unchanged = before is not None and same_outputs(before.asked, after.asked)
    yield from compare_sides(
        answers, pair, before.whole if before else None, after.whole, items, seed=seed, unchanged=unchanged
    )
    if is_multi(answers.task) and not knows_sets:
        yield registered(pair, answers.task.spec.name, answers.area, "unseen_set_rate", missing_reason=_NO_TRAINING)
    if after.tuned_side is None:
        return
    alike = before is not None and (before.indices, before.how) == (after.indices, after.how)
    earlier = before.tuned_side if before is not None and alike else None
    part = [items[index] for index in after.indices]
    # Thresholds are tuned for each checkpoint, from its own answers: equal answers have equal thresholds.
    yield from compare_sides(answers, pair, earlier, after.tuned_side, part, seed=seed, unchanged=unchanged)
    yield from _thresholds(answers, pair, before, after)


def _thresholds(answers: TaskAnswers, pair: Pair, before: _Reading | None, after: _Reading) -> Iterator[Measurement]:
    """The threshold of every label, whether or not an item has it: all of them were used."""
    own, reference = _threshold_estimates(after), _threshold_estimates(before)
    for index, label in enumerate(answers.labels):
        absent = answers.absent.get(pair.reference, "no thresholds were tuned")
        yield registered(
            pair,
            answers.task.spec.name,
            answers.area,
            "tuned_threshold",
            slice=Slice(by="label", value=label),
            base=reference[index] if reference else None,
            adapted=own[index],
            signature=f"tuned_threshold|best F1 of the label|{after.how}",
            missing_reason=None if reference else f"{pair.reference}: {absent}",
        )


def _threshold_estimates(reading: _Reading | None) -> list[Estimate]:
    """One per label: the threshold itself, or mean, lowest and highest of those of the folds."""
    if reading is None or reading.thresholds is None or reading.tunable is None:
        return []
    limits, items = reading.thresholds, len(reading.indices)
    if limits.ndim == 1:
        methods = [reading.how if tuned else "kept at 0.5, no tuning item has the label" for tuned in reading.tunable]
        return [
            Estimate(value=float(limit), n=items, method=f"none: {method}")
            for limit, method in zip(limits, methods, strict=True)
        ]
    return [
        Estimate(
            value=float(column.mean()),
            low=float(column.min()),
            high=float(column.max()),
            n=items,
            method=f"mean and range of the folds, {reading.how}",
        )
        for column in limits.T
    ]


def _drawn_labels(readings: Sequence[_Reading]) -> list[int]:
    """The labels that get curves, the same for all checkpoints: some of the worst, the others spread by frequency."""
    worst = [worst_labels(each.fixed.decided, each.fixed.truth, MOST_WORST) for each in readings]
    in_turn = [tallies[place].label for place in range(MOST_WORST) for tallies in worst if place < len(tallies)]
    chosen = list(dict.fromkeys(in_turn))[:_WORST_CURVES]
    return [int(index) for index in shown_labels(readings[0].fixed.truth, MOST_CURVES, chosen)]


def _series(
    answers: TaskAnswers, name: str, reading: _Reading, drawn: Sequence[int], *, first: bool
) -> Iterator[Series]:
    """Curves of the labels drawn, tallies of the worst ones, how many items have how many labels; the truth's once."""
    task, (probabilities, decided, truth) = answers.task.spec.name, reading.fixed.arrays
    for index in drawn:
        points = precision_recall_points(probabilities[:, index], truth[:, index]).round(4)
        label = f"precision_recall:{task}:{answers.labels[index]}"
        yield Series(subject=name, name=label, x_name="recall", x=points[:, 0].tolist(), y=points[:, 1].tolist())
    for tally in worst_labels(decided, truth, MOST_WORST):
        label = f"worst_label:{task}:{answers.labels[tally.label]}"
        counts = [float(count) for count in (tally.support, tally.given, tally.right)]
        yield Series(subject=name, name=label, x_name="items: true, given, right", x=[0.0, 1.0, 2.0], y=[*counts])
    longest = int(max(decided.sum(axis=1).max(), truth.sum(axis=1).max()))
    yield _sizes(name, f"label_count:{task}", decided, longest)
    if first:
        yield _sizes(name, f"true_label_count:{task}", truth, longest)


def _sizes(subject: str, name: str, sets: BoolArray, longest: int) -> Series:
    shares = np.bincount(sets.sum(axis=1), minlength=longest + 1) / len(sets)
    values = [float(value) for value in shares]
    return Series(
        subject=subject, name=name, x_name="labels", x=[float(size) for size in range(len(values))], y=[*values]
    )
