"""From all checkpoints' answers to a task to its measurements: estimates, paired deltas, verdicts, slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lorascope.data.tasks import LoadedTask
from lorascope.errors import DataError, LorascopeError
from lorascope.measures.core import Scored
from lorascope.measures.forgetting import score_forgetting
from lorascope.measures.registry import find_spec
from lorascope.measures.significance import benjamini_hochberg
from lorascope.measures.statistics import (
    Interval,
    PairedResult,
    estimate_many,
    paired_many,
    unpaired_difference,
)
from lorascope.schema.comparison import Area, Measurement, Slice
from lorascope.schema.items import Item, LabelsItem
from lorascope.workflows.estimates import OF_THE_PAIR, delta_of, estimate_of, groups_of, margin_of
from lorascope.workflows.scoring import (
    Asked,
    at_thresholds,
    chance,
    is_multi,
    label_slices,
    primary_metric,
    right,
    same_outputs,
    score,
    tuned_thresholds,
)

Key = tuple[str, str, str]
"""(by, value, metric) of one number; by and value are empty for the whole task."""

WHOLE = ("", "")
_NOT_ABOVE_CHANCE = "the base is not shown to be above chance here, so what it retains is not defined"


@dataclass
class TaskAnswers:
    """Everything said to one task, by checkpoint name.

    ``labels`` is the order in which every checkpoint's labels stand; ``absent`` holds why a checkpoint could not
    answer, and ``errors`` the error it comes from; ``notes`` what a reader has to know.
    """

    task: LoadedTask
    labels: tuple[str, ...] = ()
    asked: dict[str, Asked] = field(default_factory=dict)
    train: dict[str, Asked] = field(default_factory=dict)
    tuning: dict[str, Asked] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    errors: dict[str, LorascopeError] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def area(self) -> Area:
        """Where the task's own metrics are reported."""
        return "task" if self.task.spec.role == "target" else "forgetting"


@dataclass(frozen=True)
class Pair:
    """Whose difference is taken: ``subject`` minus ``reference``."""

    subject: str
    reference: str


@dataclass(frozen=True)
class _Block:
    """Numbers over one set of items, which can share resamples. ``indices`` are the items' places in the task."""

    indices: tuple[int, ...]
    scored: Mapping[Key, Scored]
    estimates: Mapping[Key, Interval]


def plan_pairs(base: str, subjects: Sequence[str], reference: str | None, base_can: bool) -> list[Pair]:
    """Each subject against the base; against ``reference`` too; all pairs where the base cannot do the task."""
    pairs = [Pair(subject, base) for subject in subjects]
    if reference is not None and reference != base:
        return pairs + [Pair(subject, reference) for subject in subjects if subject != reference]
    if not base_can:
        pairs += [Pair(later, earlier) for place, earlier in enumerate(subjects) for later in subjects[place + 1 :]]
    return pairs


def measure_task(answers: TaskAnswers, pairs: Sequence[Pair], *, seed: int) -> list[Measurement]:
    """All measurements of one task for the given pairs."""
    blocks = {name: list(_blocks(answers, name, seed)) for name in answers.asked}
    found: list[Measurement] = []
    for pair in pairs:
        if pair.subject not in blocks:
            found.append(_unanswered(answers, pair))
        elif pair.reference not in blocks:
            found += _alone(answers, pair, blocks[pair.subject])
        else:
            found += _paired(answers, pair, blocks[pair.reference], blocks[pair.subject], seed)
            found += _forgetting(answers, pair, seed)
    found += _gaps(answers, pairs, seed)
    return found


def adjust_p_values(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Benjamini-Hochberg over all measurements without a slice of each (subject, reference)."""
    adjusted = list(measurements)
    families: dict[tuple[str, str], list[int]] = {}
    for index, found in enumerate(adjusted):
        if found.slice is None and found.delta is not None and found.delta.p_value is not None:
            families.setdefault((found.subject, found.reference), []).append(index)
    for places in families.values():
        deltas = [adjusted[index].delta for index in places]
        values = benjamini_hochberg([delta.p_value if delta else None for delta in deltas])
        for index, delta, value in zip(places, deltas, values, strict=True):
            assert delta is not None
            adjusted[index] = adjusted[index].model_copy(
                update={"delta": delta.model_copy(update={"p_adjusted": value})}
            )
    return adjusted


def _blocks(answers: TaskAnswers, name: str, seed: int) -> Iterator[_Block]:
    asked = answers.asked[name]
    everything = tuple(range(len(asked.items)))
    yield _block(answers, asked, everything, _whole(answers, name), seed)
    if answers.task.kind == "labels" and is_multi(answers.task):
        yield from _tuned(answers, name, seed)
    for by, value, indices in _item_slices(asked.items):
        part = asked.subset(indices)
        try:
            scored = {(by, value, metric): scores for metric, scores in score(answers.task, part).items()}
        except DataError as error:
            note = f"{answers.task.spec.name}, {by} {value}: {error.problem}"
            if note not in answers.notes:
                answers.notes.append(note)
            continue
        yield _block(answers, part, tuple(indices), scored, seed)


def _tuned(answers: TaskAnswers, name: str, seed: int) -> Iterator[_Block]:
    """Metrics at tuned thresholds, over the items that the thresholds were not tuned on."""
    asked, tuning = answers.asked[name], answers.tuning.get(name)
    used = {item.item_id for item in tuning.items} if tuning else set()
    indices = [index for index, item in enumerate(asked.items) if item.item_id not in used]
    if not indices:
        indices, tuning = list(range(len(asked.items))), None
    part = asked.subset(indices)
    found = tuned_thresholds(part, tuning, seed)
    if found is None:
        return
    thresholds, how = found
    scored: dict[Key, Scored] = {
        ("threshold", "tuned", metric): Scored(scores.measure, scores.statistics, f"{scores.signature}|{how}")
        for metric, scores in at_thresholds(part, thresholds).items()
    }
    yield _block(answers, part, tuple(indices), scored, seed)


def _block(
    answers: TaskAnswers, asked: Asked, indices: tuple[int, ...], scored: Mapping[Key, Scored], seed: int
) -> _Block:
    return _Block(indices, scored, estimate_many(scored, seed=seed, groups=groups_of(answers.task, asked.items)))


def _whole(answers: TaskAnswers, name: str) -> dict[Key, Scored]:
    """The whole task, and the slices that cover all of its items: labels, groups of labels, the fixed threshold."""
    task, asked = answers.task, answers.asked[name]
    scored: dict[Key, Scored] = {(*WHOLE, metric): scores for metric, scores in score(task, asked).items()}
    if task.kind != "labels":
        return scored
    sliced = label_slices(asked, is_multi(task), _train_support(task, asked.labels))
    scored |= {(by, value, scores.measure.name): scores for (by, value), scores in sliced.items()}
    if is_multi(task):
        scored |= {("threshold", "0.5", metric): scores for metric, scores in _fixed(asked).items()}
    return scored


def _fixed(asked: Asked) -> dict[str, Scored]:
    import numpy as np

    return at_thresholds(asked, np.full(len(asked.labels), 0.5))


def _item_slices(items: Sequence[Item]) -> Iterator[tuple[str, str, list[int]]]:
    """(by, value, indices) for the named sets and for the categories, where there is more than one."""
    for by, names in (("split", [item.split for item in items]), ("category", [item.category for item in items])):
        values = list(dict.fromkeys(name for name in names if name is not None))
        if len(values) < 2:
            continue
        for value in values:
            yield by, value, [index for index, name in enumerate(names) if name == value]


def _train_support(task: LoadedTask, labels: Sequence[str]) -> list[int] | None:
    counts = Counter(label for item in task.train_items if isinstance(item, LabelsItem) for label in item.labels)
    return [counts[label] for label in labels] if counts else None


def _paired(
    answers: TaskAnswers, pair: Pair, reference: Sequence[_Block], subject: Sequence[_Block], seed: int
) -> Iterator[Measurement]:
    earlier, later = answers.asked[pair.reference], answers.asked[pair.subject]
    for before, after in zip(reference, subject, strict=True):
        keys = [key for key in after.scored if key in before.scored]
        unchanged = same_outputs(earlier.subset(after.indices), later.subset(after.indices))
        results = paired_many(
            {key: before.scored[key] for key in keys},
            {key: after.scored[key] for key in keys},
            margins={key: margin_of(answers.task, key[2]) for key in keys},
            seed=seed,
            groups=groups_of(answers.task, [later.items[index] for index in after.indices]),
            same_outputs=keys if unchanged else (),
        )
        for key in keys:
            yield _measurement(
                answers, pair, key, after.scored[key], before.estimates[key], after.estimates[key], results[key]
            )


def _alone(answers: TaskAnswers, pair: Pair, subject: Sequence[_Block]) -> Iterator[Measurement]:
    for block in subject:
        for key, scored in block.scored.items():
            yield _measurement(answers, pair, key, scored, None, block.estimates[key], None)


def _measurement(
    answers: TaskAnswers,
    pair: Pair,
    key: Key,
    scored: Scored,
    reference: Interval | None,
    subject: Interval,
    result: PairedResult | None,
) -> Measurement:
    by, value, metric = key
    adapted = estimate_of(subject)
    reason = None
    if reference is None:
        reason = f"{pair.reference}: {answers.absent.get(pair.reference, 'not asked')}"
    elif adapted is None:
        reason = "undefined on these items"
    elif reference.value is None:
        reason = f"{pair.reference}: undefined on these items"
    return Measurement(
        subject=pair.subject,
        reference=pair.reference,
        area=answers.area,
        task=answers.task.spec.name,
        slice=Slice.model_validate({"by": by, "value": value}) if by else None,
        metric=metric,
        unit=scored.measure.unit,
        scale=scored.measure.scale,
        direction=scored.measure.direction,
        base=estimate_of(reference) if reference else None,
        adapted=adapted,
        delta=delta_of(result) if result else None,
        signature=scored.signature,
        missing_reason=reason,
    )


def _unanswered(answers: TaskAnswers, pair: Pair) -> Measurement:
    metric = primary_metric(answers.task)
    spec = find_spec(metric)
    return Measurement(
        subject=pair.subject,
        reference=pair.reference,
        area=answers.area,
        task=answers.task.spec.name,
        metric=metric,
        unit=spec.unit,
        scale=spec.scale,
        direction=spec.direction,
        signature=metric,
        missing_reason=answers.absent.get(pair.subject, "not asked"),
    )


def _forgetting(answers: TaskAnswers, pair: Pair, seed: int) -> Iterator[Measurement]:
    """Flips and retention of a retention task, whole and by category."""
    if answers.task.spec.role != "retention":
        return
    before, after = answers.asked[pair.reference], answers.asked[pair.subject]
    base_right, adapted_right = right(answers.task, before), right(answers.task, after)
    if base_right is None or adapted_right is None:
        return
    levels = chance(answers.task, after.items, answers.labels)
    categories = [(by, value, indices) for by, value, indices in _item_slices(after.items) if by == "category"]
    for by, value, indices in [(*WHOLE, list(range(len(after.items)))), *categories]:
        scored = score_forgetting(
            [base_right[index] for index in indices],
            [adapted_right[index] for index in indices],
            chance=[float(level) for level in levels[indices]],
        )
        groups = groups_of(answers.task, [after.items[index] for index in indices])
        estimates = estimate_many(scored, seed=seed, groups=groups)
        for metric in ("retained_fraction", "forgotten_rate", "gained_rate"):
            yield _change(answers, pair, (by, value, metric), scored.get(metric), estimates.get(metric))


def _change(
    answers: TaskAnswers, pair: Pair, key: Key, scored: Scored | None, interval: Interval | None
) -> Measurement:
    """A number about the change itself: it has a value for the pair, and none for the base alone."""
    by, value, metric = key
    spec = find_spec(metric)
    adapted = estimate_of(interval) if interval else None
    undefined = _NOT_ABOVE_CHANCE if scored is None else "no item to count"
    return Measurement(
        subject=pair.subject,
        reference=pair.reference,
        area="forgetting",
        task=answers.task.spec.name,
        slice=Slice.model_validate({"by": by, "value": value}) if by else None,
        metric=metric,
        unit=spec.unit,
        scale=spec.scale,
        direction=spec.direction,
        adapted=adapted,
        signature=scored.signature if scored else metric,
        missing_reason=OF_THE_PAIR if adapted else undefined,
    )


def _gaps(answers: TaskAnswers, pairs: Sequence[Pair], seed: int) -> Iterator[Measurement]:
    """Metric on training items minus metric on evaluation items, for each pair's subject and reference."""
    known: dict[str, dict[str, tuple[Scored, Interval]]] = {}
    for name, trained in answers.train.items():
        if name not in answers.asked:
            continue
        whole = score(answers.task, answers.asked[name])
        groups = groups_of(answers.task, trained.items), groups_of(answers.task, answers.asked[name].items)
        known[name] = {
            metric: (scored, unpaired_difference(scored, whole[metric], seed=seed, groups=groups))
            for metric, scored in score(answers.task, trained).items()
            if metric in whole
        }
    for pair in pairs:
        for metric, (scored, gap) in known.get(pair.subject, {}).items():
            spec = find_spec(f"{metric}_gap")
            reference = known.get(pair.reference, {}).get(metric)
            yield Measurement(
                subject=pair.subject,
                reference=pair.reference,
                area="gap",
                task=answers.task.spec.name,
                metric=spec.name,
                unit=spec.unit,
                scale=spec.scale,
                direction=spec.direction,
                base=estimate_of(reference[1]) if reference else None,
                adapted=estimate_of(gap),
                signature=f"{scored.signature}|train minus evaluation items",
                missing_reason=_gap_reason(answers, pair, gap, reference is not None),
            )


def _gap_reason(answers: TaskAnswers, pair: Pair, gap: Interval, has_reference: bool) -> str | None:
    if gap.value is None:
        return "undefined on these items"
    return None if has_reference else f"{pair.reference}: {answers.absent.get(pair.reference, 'not asked')}"
