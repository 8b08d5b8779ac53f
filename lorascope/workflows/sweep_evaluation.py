"""The finished runs of a sweep against their base: one comparison, on the points' own validation sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorascope.data.documents import write_yaml
from lorascope.data.recipes import data_path
from lorascope.data.sweeps import Sweep
from lorascope.schema.recipe import Recipe
from lorascope.workflows.asking import AskingOptions
from lorascope.workflows.compare import CompareOptions, compare
from lorascope.workflows.output import write_whole
from lorascope.workflows.sweep_runs import Done
from lorascope.workflows.tasks import Questions
from lorascope.workflows.training_data import load_training_data
from lorascope.workflows.watch import Watch
from lorascope.workflows.weights import WeightOptions

SUITE = "suite.yaml"
TASK = "task"


def evaluate(
    sweep: Sweep, out: Path, done: Sequence[Done], reference: str | None, command: Sequence[str], watch: Watch
) -> Path:
    """Compare all finished runs with the base and return the path of ``result.json`` in ``out``.

    ``reference`` is the run that stands beside the base as a second reference: a base without a head cannot do a task
    of labels, and all pairs of many runs would cost more than they tell.
    """
    wanted, first = sweep.plan.compare, sweep.points[0].recipe
    suite = _suite(sweep, out)
    names = [each.planned.name for each in done]
    base = f"base={sweep.base}" if Path(sweep.base).name in names else sweep.base
    options = CompareOptions(
        base=base,
        adapted=tuple(f"{each.planned.name}={each.model}" for each in done),
        questions=Questions(suite=suite, probe=tuple(wanted.probe), limit=wanted.limit, seed=sweep.seeds[0]),
        reference=reference,
        out=out,
        asking=AskingOptions(device=first.hardware.device, measure_cost=False),
        analysis=WeightOptions(sequence=_one_chain(sweep)),
        weights=wanted.weights,
        # The folder is the sweep's, and its result is made anew when more runs are finished; answers stay in the cache.
        overwrite=True,
        command=tuple(command),
    )
    return compare(options, watch)


def _one_chain(sweep: Sweep) -> bool:
    """Whether all runs follow each other, so that the births of intruders can be told stage by stage."""
    return bool(sweep.plan.sequence) and len(sweep.points) == len(sweep.seeds) == 1


def _suite(sweep: Sweep, out: Path) -> Path | None:
    """The suite that is asked: the one named, else one made of the validation sets; None where there is nothing."""
    wanted = sweep.plan.compare
    if wanted.suite is not None:
        return sweep.path.parent / wanted.suite
    tasks = [task for name, recipe in _recipes(sweep).items() if (task := _task(name, recipe, sweep)) is not None]
    if not tasks:
        return None
    text = write_yaml({"version": 1, "tasks": tasks})
    return write_whole(out / SUITE, lambda part: part.write_text(text, encoding="utf-8"))


def _recipes(sweep: Sweep) -> dict[str, Recipe]:
    """One recipe a task: the stages of a sequence by name, else one for each way of asking among the points."""
    if sweep.plan.sequence:
        point = sweep.points[0]
        return {name: point.varied(own, f"sequence, {name}") for name, own in sweep.plan.sequence.items()}
    asked: dict[str, Recipe] = {}
    for point in sweep.points:
        task = point.recipe.task
        fields = ("kind", "validation", "prompt", "messages", "chat", "system", "references", "labels", "multi_label")
        asked.setdefault(repr([getattr(task, field) for field in fields]), point.recipe)
    several = len(asked) > 1
    return {f"{TASK}-{place}" if several else TASK: recipe for place, recipe in enumerate(asked.values(), 1)}


def _task(name: str, recipe: Recipe, sweep: Sweep) -> dict[str, Any] | None:
    task, wanted = recipe.task, sweep.plan.compare
    sets = {own: data_path(source, sweep.root) for own, source in recipe.validation_sets.items()}
    if not sets:
        return None
    plain = isinstance(task.validation, str)
    made: dict[str, Any] = {"name": name, "kind": task.kind, "data": next(iter(sets.values())) if plain else sets}
    given: Mapping[str, Any] = {
        "prompt": task.prompt,
        "messages": task.messages,
        "system": task.system,
        "references": task.references,
        "chat": task.chat or None,
        "margin": wanted.margin,
        "train_data": data_path(task.train, sweep.root) if trains_on_all(sweep) and wanted.train_gap else None,
        "max_new_tokens": wanted.max_new_tokens if task.kind == "generate" else None,
        "limit": task.validation_limit if wanted.limit is None else None,
    }
    made |= {key: value for key, value in given.items() if value is not None}
    return made | (_labels(recipe, sweep) if task.kind == "labels" else {})


def _labels(recipe: Recipe, sweep: Sweep) -> dict[str, Any]:
    """The labels in the order of the head's outputs, which adapters do not carry themselves."""
    data = load_training_data(recipe, sweep.root).data
    return {"labels": list(data.labels), "multi_label": data.multi_label}


def trains_on_all(sweep: Sweep) -> bool:
    """Whether every point is trained on all training items: only then do they all tell how well it knows them."""
    return all(point.recipe.task.fraction == 1.0 and point.recipe.task.limit is None for point in sweep.points)
