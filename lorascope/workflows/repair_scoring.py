"""From the answers of all variants of a checkpoint to scores on the two axes of a repair scan: target and retention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorascope.data.tasks import LoadedTask
from lorascope.measures.core import Scored
from lorascope.measures.forgetting import score_forgetting
from lorascope.measures.registry import find_spec
from lorascope.measures.statistics import Groups, PairedResult, estimate_many, paired_many
from lorascope.schema.repair import RepairAxis, RepairChange, RepairMetric, RepairValue
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.scoring import Asked, chance, primary_metric, right, same_outputs, score

# Kinds whose items stand for themselves: tasks of one metric can be scored as if they were one task.
_POOLED = frozenset({"generate", "choice", "likelihood"})


@dataclass(frozen=True)
class Board:
    """Everybody's scores on one axis, by name: base, adapted checkpoint and variants, over the same items.

    ``groups`` are those of the items, for clustered errors; ``margin`` is what counts as a difference. ``asked`` are
    the answers behind the scores, task by task, which tell equal answers from answers that score alike.
    """

    axis: RepairAxis
    scores: Mapping[str, Scored]
    groups: Groups | None = None
    margin: float | None = None
    asked: Sequence[Mapping[str, Asked]] = ()

    def same_outputs(self, one: str, other: str) -> bool:
        """Whether both gave the same answers to all items; False where the answers are not at hand."""
        return bool(self.asked) and all(same_outputs(each[one], each[other]) for each in self.asked)


@dataclass(frozen=True)
class Boards:
    """The two axes, where they were measured, and everything else."""

    target: Board | None
    retention: Board | None
    others: list[Board]


def make_boards(answers: Sequence[TaskAnswers], base: str, adapted: str) -> Boards:
    """Score all tasks that the adapted checkpoint answered.

    The target axis is the primary metric of the first target task. The retention axis is that of the first retention
    task, over the items of all retention tasks that share it (the built-in probe in its languages). Other tasks, and
    the share of answers forgotten and retained, stand beside them.
    """
    asked = [each for each in answers if adapted in each.asked]
    targets = [each for each in asked if each.task.spec.role == "target"]
    kept = [each for each in asked if each.task.spec.role == "retention"]
    pool = retention_pool(asked, adapted)
    pooled = {each.task.spec.name for each in pool}
    rest = [*targets[1:], *(each for each in kept if each.task.spec.name not in pooled)]
    return Boards(
        target=_board(targets[:1]) if targets else None,
        retention=_board(pool) if pool else None,
        others=[*(_board([each]) for each in rest), *_flip_boards(kept, base)],
    )


def paired_metrics(board: Board, names: Sequence[str], reference: str, *, seed: int) -> dict[str, RepairMetric]:
    """Value of each name, and its paired difference from ``reference`` where that was measured."""
    known = {name: board.scores[name] for name in names if name in board.scores}
    values = estimate_many(known, seed=seed, groups=board.groups)
    changes: Mapping[str, PairedResult] = {}
    if reference in board.scores:
        others = {name: scored for name, scored in known.items() if name != reference}
        changes = differences(board, {name: (name, reference) for name in others}, board.margin, seed=seed)
    found = {}
    for name, value in values.items():
        shown = None
        if value.value is not None:
            shown = RepairValue(value=value.value, low=value.low, high=value.high, n=value.n)
        found[name] = RepairMetric(axis=board.axis, value=shown, change=change_of(changes.get(name)))
    return found


def differences(
    board: Board, pairs: Mapping[str, tuple[str, str]], margin: float | None, *, seed: int
) -> dict[str, PairedResult]:
    """First minus second of each named pair, all from the same resamples."""
    return paired_many(
        {key: board.scores[second] for key, (_, second) in pairs.items()},
        {key: board.scores[first] for key, (first, _) in pairs.items()},
        margins=dict.fromkeys(pairs, margin),
        seed=seed,
        groups=board.groups,
        same_outputs={key for key, (first, second) in pairs.items() if board.same_outputs(first, second)},
    )


def change_of(result: PairedResult | None) -> RepairChange | None:
    """The result document's form of a paired difference; None where it is undefined."""
    if result is None or result.value is None:
        return None
    return RepairChange(**{name: value for name, value in vars(result).items() if name in RepairChange.model_fields})


def flipped(answers: TaskAnswers, base: str, adapted: str) -> list[int]:
    """Places of the items that base and adapted checkpoint do not both have right or both wrong.

    None of them for kinds without right and wrong, and where the base cannot answer.
    """
    if base not in answers.asked or adapted not in answers.asked:
        return []
    before, after = right(answers.task, answers.asked[base]), right(answers.task, answers.asked[adapted])
    if before is None or after is None:
        return []
    return [place for place, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]


def retention_pool(answers: Sequence[TaskAnswers], adapted: str) -> list[TaskAnswers]:
    """The tasks whose items are the retention axis: those of the first retention task's kind and primary metric."""
    return _pool([each for each in answers if adapted in each.asked and each.task.spec.role == "retention"])


def knows_right(answers: TaskAnswers, name: str) -> bool:
    """Whether the task tells right from wrong in what this checkpoint answered."""
    return name in answers.asked and right(answers.task, answers.asked[name]) is not None


def _pool(tasks: Sequence[TaskAnswers]) -> list[TaskAnswers]:
    if not tasks:
        return []
    first = tasks[0].task
    alike = [
        each for each in tasks if each.task.kind == first.kind and primary_metric(each.task) == primary_metric(first)
    ]
    return alike if first.kind in _POOLED else [tasks[0]]


def _board(pool: Sequence[TaskAnswers]) -> Board:
    metric = primary_metric(pool[0].task)
    names = [name for name in pool[0].asked if all(name in each.asked for each in pool)]
    scores = {name: _joined([_scored(each, name, metric) for each in pool]) for name in names}
    measure = next(iter(scores.values())).measure
    said = pool[0].task.spec.margin
    return Board(
        axis=RepairAxis(
            tasks=[each.task.spec.name for each in pool],
            metric=metric,
            unit=measure.unit,
            scale=measure.scale,
            direction=measure.direction,
        ),
        scores=scores,
        groups=_groups(pool),
        asked=[each.asked for each in pool],
        margin=said if said is not None else find_spec(metric).margin,
    )


def _scored(answers: TaskAnswers, name: str, metric: str) -> Scored:
    narrow = answers.task.spec.model_copy(update={"metrics": [metric]})
    return score(replace(answers.task, spec=narrow), answers.asked[name])[metric]


def _joined(parts: Sequence[Scored]) -> Scored:
    if len(parts) == 1:
        return parts[0]
    return replace(parts[0], statistics=np.concatenate([part.statistics for part in parts]))


def _groups(pool: Sequence[TaskAnswers]) -> list[str | None] | None:
    """Names of the items' groups over all tasks; the probe's groups do not count (see ``measuring``)."""
    names = [
        None if item.group is None or _is_probe(each.task) else f"{each.task.spec.name}:{item.group}"
        for each in pool
        for item in each.task.items
    ]
    return names if any(name is not None for name in names) else None


def _is_probe(task: LoadedTask) -> bool:
    return str(task.spec.data).startswith("builtin:")


def _flip_boards(tasks: Sequence[TaskAnswers], base: str) -> Iterator[Board]:
    """``forgotten_rate`` and ``retained_fraction`` over all retention tasks that know right from wrong."""
    pool = [each for each in tasks if base in each.asked and right(each.task, each.asked[base]) is not None]
    if not pool:
        return
    before = _right(pool, base)
    levels = [float(level) for each in pool for level in chance(each.task, each.task.items, each.labels)]
    names = [name for name in pool[0].asked if all(name in each.asked for each in pool)]
    scores = {name: score_forgetting(before, _right(pool, name), chance=levels) for name in names}
    for metric in ("forgotten_rate", "retained_fraction"):
        spec = find_spec(metric)
        axis = RepairAxis(
            tasks=[each.task.spec.name for each in pool],
            metric=metric,
            unit=spec.unit,
            scale=spec.scale,
            direction=spec.direction,
        )
        known = {name: scored[metric] for name, scored in scores.items() if metric in scored}
        if known:
            yield Board(axis, known, _groups(pool), spec.margin, [each.asked for each in pool])


def _right(pool: Sequence[TaskAnswers], name: str) -> list[bool]:
    return [flag for each in pool for flag in right(each.task, each.asked[name]) or []]
