"""Ask every checkpoint every task: the base first and plain, then adapters on it, full models after it is let go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tokenizers import has_tokenizer
from lorascope.data.tasks import LoadedTask, sample_items
from lorascope.engines.base import Engine, Progress
from lorascope.engines.base import Subject as Asker
from lorascope.errors import EvaluationError
from lorascope.schema.items import Item
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
    engine: Engine, opened: Opened, tasks: Sequence[LoadedTask], known: Sequence[Asker], *, seed: int, watch: Watch
) -> Behaviour:
    """Answers of all checkpoints to all tasks; ``known`` are those of :func:`askers`, the base first.

    A checkpoint that cannot do a task (no trained head, no chat template) is recorded with the reason; raises
    :class:`EvaluationError` only where no adapted checkpoint can do a target task.
    """
    outcome = Behaviour({task.spec.name: TaskAnswers(task) for task in tasks})
    for asker in known:
        started = perf_counter()
        for answers in outcome.tasks.values():
            _ask_one(engine, asker, answers, seed, watch)
        outcome.seconds[asker.name] = perf_counter() - started
    for answers in outcome.tasks.values():
        _somebody_answered(answers, opened)
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
        labels=_named_labels(checkpoint.config or {}) or (plain.labels if adapter and not subject.proof.head else None),
        num_labels=_head_rows(subject) if adapter else None,
        model_class=subject.info.architecture,
        allow_pickle=allow_pickle,
    )


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
    """Outputs of the adapter's trained head, from the stored shape of its last layer; None where it has no head."""
    specs = subject.checkpoint.tensors.specs
    weights = [key for key in subject.proof.head if key.endswith(".weight") and len(specs[key].shape) == 2]
    last = [key for key in weights if key.endswith("out_proj.weight")] or weights
    return specs[last[0]].shape[0] if len(last) == 1 else None


def _ask_one(engine: Engine, asker: Asker, answers: TaskAnswers, seed: int, watch: Watch) -> None:
    task = answers.task
    try:
        with watch.stage(f"{asker.name}: {task.spec.name}") as report:
            answers.asked[asker.name] = _ask(engine, asker, task, task.items, report)
        if task.train_items:
            seen = sample_items(task.train_items, limit=len(task.items), seed=seed)
            with watch.stage(f"{asker.name}: {task.spec.name}, training items") as report:
                answers.train[asker.name] = _ask(engine, asker, task, seen, report)
        if task.tuning_items:
            with watch.stage(f"{asker.name}: {task.spec.name}, tuning items") as report:
                answers.tuning[asker.name] = _ask(engine, asker, task, task.tuning_items, report)
    except EvaluationError as error:
        answers.asked.pop(asker.name, None)
        answers.absent[asker.name] = error.problem
        watch.say(f"{asker.name} cannot do {task.spec.name}: {error.problem}")


def _ask(engine: Engine, asker: Asker, task: LoadedTask, items: Sequence[Item], report: Progress) -> Asked:
    answers = engine.answer(asker, task.spec, items, report)
    return Asked(items, answers, tuple(task.spec.labels or asker.labels or ()) if task.kind == "labels" else ())


def _somebody_answered(answers: TaskAnswers, opened: Opened) -> None:
    if answers.task.spec.role != "target":
        return
    names = [subject.name for subject in opened.subjects]
    if any(name in answers.asked for name in names):
        return
    reasons = "; ".join(f"{name}: {answers.absent.get(name, 'not asked')}" for name in names)
    raise EvaluationError(
        f"no adapted checkpoint can do the task {answers.task.spec.name}",
        where=reasons,
        remedy="check that the task's kind fits the checkpoints, and that their heads were saved",
    )
