"""What a finished training run came to: numbers by validation set, cost, and the comparison to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.data.documents import write_yaml
from lorascope.data.logs import Curve, read_log
from lorascope.data.recipes import base_path, data_path
from lorascope.errors import ConfigError, DataError
from lorascope.measures.registry import find_spec
from lorascope.schema.recipe import Recipe

if TYPE_CHECKING:
    from lorascope.training.running import TrainingOutcome

SUITE = "suite.yaml"
_STATE = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class ValidationNumber:
    """One number of one validation set: before the first step, at the last evaluation, at the best one and its step.

    ``split`` is empty for what belongs to no set. ``first`` is None where step 0 was not evaluated. ``best`` is of the
    evaluations after the first step, which alone can be kept; None where it is not known which way is better.
    """

    split: str
    name: str
    first: float | None
    last: float
    best: float | None
    best_step: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """For the terminal and ``--json``; ``compare`` is the command to go on with."""

    folder: str
    fingerprint: str
    reused: bool
    method: str
    trainable_parameters: int
    total_parameters: int
    kept_step: int
    kept: Mapping[str, float]
    validation: tuple[ValidationNumber, ...]
    cost: Mapping[str, Any]
    notes: tuple[str, ...]
    compare: str

    def document(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def summarise(recipe: Recipe, root: Path, outcome: TrainingOutcome) -> TrainingSummary:
    """Read the run's log."""
    cost = outcome.cost
    return TrainingSummary(
        folder=str(outcome.folder),
        fingerprint=outcome.fingerprint,
        reused=outcome.reused,
        method=cost.method,
        trainable_parameters=cost.trainable_parameters,
        total_parameters=cost.total_parameters,
        kept_step=outcome.kept_step,
        kept=dict(outcome.metrics),
        validation=tuple(_validation(outcome.folder, recipe)),
        cost=asdict(cost),
        notes=tuple(outcome.notes),
        compare=_compare_command(recipe, root, outcome.folder),
    )


def _validation(folder: Path, recipe: Recipe) -> Iterator[ValidationNumber]:
    try:
        log = read_log(folder / _STATE)
    except DataError:
        return
    for split in dict.fromkeys([*log.eval, *log.metrics]):
        curves = {**({"loss": log.eval[split]} if split in log.eval else {}), **log.metrics.get(split, {})}
        for name, curve in curves.items():
            # What belongs to no set, as KL to the base and the probe, is logged without the name of one.
            yield from _number(split if split in recipe.validation_sets else "", name, curve)


def _number(split: str, name: str, curve: Curve) -> Iterator[ValidationNumber]:
    known = [(value, step) for step, value in zip(curve.steps, curve.values, strict=True) if value is not None]
    if not known:
        return
    sign = _better(name)
    trained = [point for point in known if point[1] > 0]
    # Of equal values the earliest is the best.
    best = None if sign is None else max(trained, key=lambda point: (sign * point[0], -point[1]), default=None)
    first = next((value for value, step in known if step == 0), None)
    yield ValidationNumber(split, name, first, known[-1][0], best and best[0], best and int(best[1]))


def _better(name: str) -> int | None:
    """1 where higher is better, -1 where lower is."""
    if name == "loss":
        return -1
    try:
        return {"higher": 1, "lower": -1}.get(find_spec(name).direction)
    except ConfigError:
        return None


def _compare_command(recipe: Recipe, root: Path, folder: Path) -> str:
    parts = ["lorascope", "compare", base_path(recipe.base, root), str(folder)]
    if (folder / SUITE).is_file():
        parts += ["--suite", str(folder / SUITE)]
    return shlex.join(parts)


def evaluation_suite(recipe: Recipe, root: Path) -> str:
    """A suite, as YAML, that asks the recipe's validation sets as they were trained for; paths in it are absolute.

    The training file is named for the train/validation gap where all of it was trained on.
    """
    task, sets = recipe.task, recipe.validation_sets
    sources = {name: data_path(source, root) for name, source in sets.items()}
    entry: dict[str, Any] = {
        "name": "validation",
        "kind": task.kind,
        "data": next(iter(sources.values())) if isinstance(task.validation, str) else sources,
    }
    if task.fraction == 1 and task.limit is None:
        entry["train_data"] = data_path(task.train, root)
    for name in ("prompt", "messages", "references", "labels", "multi_label", "chat", "system"):
        value = getattr(task, name)
        if value not in (None, False):
            entry[name] = value
    if task.validation_limit is not None:
        entry["limit"] = task.validation_limit
    return write_yaml({"version": 1, "tasks": [entry]})
