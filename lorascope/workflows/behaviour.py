"""Ask every checkpoint every task: the base first and plain, then adapters on it, full models after it is let go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tokenizers import has_tokenizer
from lorascope.data.tasks import LoadedTask, sample_items
from lorascope.engines.base import Engine, Progress
from lorascope.engines.base import Subject as Asker
from lorascope.errors import ConfigError, DataError, EvaluationError, ServerGone
from lorascope.schema.items import Item, LabelsItem
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.scoring import Asked
from lorascope.workflows.subjects import Opened, Subject
from lorascope.workflows.watch import Watch

_GENERIC = "LABEL_"


@dataclass
class Behaviour:
    """Answers by task name, and seconds spent by checkpoint."""

    tasks: dict[str, TaskAnswers] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def ask_all(
    engine: Engine, tasks: Sequence[LoadedTask], known: Sequence[Asker], *, seed: int, watch: Watch
) -> Behaviour:
    """Answers of all checkpoints to all tasks; ``known`` are all checkpoints, the base first.

    A checkpoint that cannot do a task (no trained head, no chat template) is recorded with the reason; raises
    :class:`EvaluationError` only where no adapted checkpoint can do a target task.
    """
    outcome = Behaviour({task.spec.name: TaskAnswers(task, _label_order(task, known)) for task in tasks})
    for asker in known:
        started = perf_counter()
        for answers in outcome.tasks.values():
            _ask_one(engine, asker, answers, seed, watch)
        outcome.seconds[asker.name] = perf_counter() - started
    for answers in outcome.tasks.values():
        _somebody_answered(answers, [asker.name for asker in known[1:]])
    return outcome


def askers(opened: Opened, *, allow_pickle: bool) -> list[Asker]:
    """All checkpoints as the engine knows them: the base, its adapters, then full models."""
    ordered = sorted(opened.subjects, key=lambda subject: subject.checkpoint.kind != "adapter")
    base = _base_asker(opened, allow_pickle)
    return [base, *(_asker(subject, opened.base, base, allow_pickle) for subject in ordered)]


def _base_asker(opened: Opened, allow_pickle: bool) -> Asker:
    base = opened.base
    return Asker(
        name=base.name,
        path=base.path,
        kind="model",
        tokenizer_path=base.path,
        content_hash=base.content_hash,
        labels=_named_labels(base.config or {}),
        num_labels=None,
        model_class=_architecture(base.config or {}),
        allow_pickle=allow_pickle,
    )


def _asker(subject: Subject, base: OpenCheckpoint, plain: Asker, allow_pickle: bool) -> Asker:
    checkpoint = subject.checkpoint
    tokenizer = checkpoint.path if has_tokenizer(checkpoint.path) else base.path
    adapter = checkpoint.kind == "adapter"
    return Asker(
        name=checkpoint.name,
        path=checkpoint.path,
        kind=checkpoint.kind,
        tokenizer_path=tokenizer,
        content_hash=checkpoint.content_hash,
        base_path=base.path if adapter else None,
        base_hash=plain.content_hash if adapter else None,
        labels=_labels_of(subject, plain),
        num_labels=_head_rows(subject) if adapter else None,
        model_class=subject.info.architecture,
        allow_pickle=allow_pickle,
    )


def _labels_of(subject: Subject, plain: Asker) -> tuple[str, ...] | None:
    """Names of the head's outputs: a model's own; of an adapter what its run recorded, or the base's head's."""
    checkpoint = subject.checkpoint
    named = _named_labels(checkpoint.config or {})
    if named is not None or checkpoint.kind != "adapter":
        return named
    return _recorded_labels(checkpoint.path) if subject.proof.head else plain.labels


def _recorded_labels(folder: Path) -> tuple[str, ...] | None:
    """The labels that a run of ``lorascope train`` trained the head for, in its order; PEFT keeps none itself."""
    try:
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found: object = record
    for key in ("settings", "task", "labels"):
        found = found.get(key) if isinstance(found, dict) else None
    names = found if isinstance(found, list) else []
    return tuple(names) if names and all(isinstance(name, str) for name in names) else None


def _architecture(config: Mapping[str, object]) -> str | None:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def _named_labels(config: Mapping[str, object]) -> tuple[str, ...] | None:
    """Label names in the order of the head's outputs; None for the generic names that mean nothing."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        return None
    ordered = tuple(str(names[key]) for key in sorted(names, key=int))
    return None if all(name.startswith(_GENERIC) for name in ordered) else ordered


def _head_rows(subject: Subject) -> int | None:
    """Outputs of the adapter's trained head, from the stored shape of its last layer; None where it has no head.

    The last layer is the one that the architecture lists last: ``classifier`` after ``pre_classifier``.
    """
    specs = subject.checkpoint.tensors.specs
    order = [f"{name}.weight" for name in subject.changes.skeleton.linear]
    weights = {key: _place(key, order) for key in subject.proof.head if key.endswith(".weight")}
    matrices = [key for key in weights if len(specs[key].shape) == 2]
    return specs[max(matrices, key=weights.__getitem__)].shape[0] if matrices else None


def _place(key: str, order: Sequence[str]) -> int:
    return max((index for index, name in enumerate(order) if key.endswith(name)), default=-1)


def _ask_one(engine: Engine, asker: Asker, answers: TaskAnswers, seed: int, watch: Watch) -> None:
    """Answers of one checkpoint to one task; what it cannot do is recorded with the reason, not raised.

    A head that knows other labels than the data is such a reason too: a base may have been trained for another task.
    """
    task = answers.task
    seen = sample_items(task.train_items, limit=len(task.items), seed=seed) if task.train_items else []
    sets = (("", task.items, answers.asked), (", training items", seen, answers.train),
            (", tuning items", task.tuning_items, answers.tuning))  # fmt: skip
    for title, items, place in sets:
        if not items:
            continue
        told = len(engine.notes)
        try:
            with watch.stage(f"{asker.name}: {task.spec.name}{title}") as report:
                place[asker.name] = ask_task(engine, asker, answers, items, report)
            _name_the_set(engine.notes, told, f"{task.spec.name}, {asker.name}", title or ", evaluation items")
        except ServerGone:
            raise
        except (EvaluationError, ConfigError, DataError) as error:
            watch.say(f"{asker.name} cannot do {task.spec.name}{title}: {error.problem}")
            if place is answers.asked:
                answers.absent[asker.name] = error.problem
                answers.errors[asker.name] = error
                return
            answers.notes.append(f"{task.spec.name}, {asker.name}{title}: {error.problem}")


def _name_the_set(notes: list[str], begin: int, about: str, title: str) -> None:
    """Say in the notes from ``begin`` on which of the task's sets they are about."""
    for place in range(begin, len(notes)):
        if notes[place].startswith(f"{about}: "):
            notes[place] = f"{about}{title}{notes[place].removeprefix(about)}"


def ask_task(engine: Engine, asker: Asker, answers: TaskAnswers, items: Sequence[Item], report: Progress) -> Asked:
    """Answers of one checkpoint to some items of a task, its labels in the task's own order."""
    task = answers.task
    if task.kind != "labels":
        return Asked(items, engine.answer(asker, task.spec, items, report))
    # Every head is asked in one order, by name; a head with generic names has no names to be matched by.
    ordered = task.spec if asker.labels is None else task.spec.model_copy(update={"labels": list(answers.labels)})
    return Asked(items, engine.answer(asker, ordered, items, report), answers.labels)


def _label_order(task: LoadedTask, known: Sequence[Asker]) -> tuple[str, ...]:
    """The one order in which all checkpoints' labels are scored: the suite's, else sorted names of a head.

    That is the first head that knows all labels of the data, else the first that names its outputs.
    """
    if task.kind != "labels" or task.spec.labels:
        return tuple(task.spec.labels or ())
    occurring = {label for item in task.items if isinstance(item, LabelsItem) for label in item.labels}
    named = [asker.labels for asker in known if asker.labels]
    fitting = [names for names in named if occurring <= set(names)]
    return tuple(sorted((fitting or named or [()])[0]))


def _somebody_answered(answers: TaskAnswers, names: Sequence[str]) -> None:
    if answers.task.spec.role != "target":
        return
    if any(name in answers.asked for name in names):
        return
    first = next((answers.errors[name] for name in names if name in answers.errors), None)
    if isinstance(first, ConfigError | DataError):
        raise first
    reasons = "; ".join(f"{name}: {answers.absent.get(name, 'not asked')}" for name in names)
    raise EvaluationError(
        f"no adapted checkpoint can do the task {answers.task.spec.name}",
        where=reasons,
        remedy=(first.remedy if first else None)
        or "check that the task's kind fits the checkpoints, and that their heads were saved",
    )
