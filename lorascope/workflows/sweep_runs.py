"""The runs of a sweep: planned, carried out one after another; one that fails is recorded, and the rest goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lorascope.data.sweeps import Point, Sweep, name_part
from lorascope.errors import ConfigError, LorascopeError, OutputError
from lorascope.measures.registry import MEASURES
from lorascope.schema.recipe import Recipe
from lorascope.schema.sweep import Choose, SweepChoice, SweepTrial
from lorascope.training.cost import TrainingCost
from lorascope.workflows.sweep_stages import Stage, merged_stage
from lorascope.workflows.watch import Watch

RUNS = "runs"
NOT_RUN = "not run yet"
COST = "cost.json"


class Outcome(Protocol):
    """What training gives back; see :func:`lorascope.workflows.train.train_recipe`."""

    @property
    def folder(self) -> Path:
        """The finished run."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """Its last validation numbers, ``eval_<set>_<metric>``."""
        ...

    @property
    def cost(self) -> TrainingCost:
        """What it cost."""
        ...

    @property
    def reused(self) -> bool:
        """Whether it was there already."""
        ...


Train = Callable[..., Outcome]
"""``train(recipe, root=…, overwrite=…, watch=…)``."""


@dataclass(frozen=True)
class Planned:
    """One run to be made. ``settings`` is laid over the point's recipe; ``after`` names the stage it starts from."""

    name: str
    point: Point
    seed: int
    folder: Path
    settings: dict[str, Any]
    stage: str | None = None
    after: str | None = None

    def recipe(self, base: Path | None = None) -> Recipe:
        """Its whole recipe; ``base`` is the model of the stage before."""
        own = {**self.settings, "seed": self.seed, "out": str(self.folder)}
        return self.point.varied(own if base is None else {**own, "base": str(base)}, f"run {self.name}")

    @property
    def finished(self) -> bool:
        """Whether its folder is there, which is so only when it is whole."""
        return (self.folder / COST).is_file()

    @property
    def work(self) -> float:
        """How much there is to train, for estimates of time alone: passes over the whole training set, or steps."""
        recipe = self.recipe()
        return float(recipe.optim.max_steps or recipe.optim.epochs * recipe.task.fraction)


@dataclass(frozen=True)
class Done:
    """A run that was made, or why it was not. ``model`` is what is compared: the run, or what it was merged to."""

    planned: Planned
    outcome: Outcome | None = None
    model: Path | None = None
    failed: str | None = None


@dataclass
class Runner:
    """Carries out runs in order and says how far it is. ``pace`` holds seconds and work of finished runs."""

    sweep: Sweep
    train: Train
    watch: Watch
    overwrite: bool = False
    total: int = 0
    done: int = 0
    left: float = 0.0
    pace: list[tuple[float, float]] = field(default_factory=list)
    made: dict[Path, Done] = field(default_factory=dict)

    def expect(self, runs: Sequence[Planned]) -> None:
        """More runs are coming; those that were made already are not counted again."""
        new = {run.folder: run for run in runs if run.folder not in self.made}
        self.total += len(new)
        self.left += math.fsum(run.work for run in new.values())

    def run(self, planned: Planned, before: Done | None = None) -> Done:
        """Make one run, or take it as it is; a failure is in what comes back.

        Raises:
            OutputError: the disk is full, or the folder is another run's: going on would not help.
        """
        if planned.folder in self.made:
            return replace(self.made[planned.folder], planned=planned)
        self.done += 1
        self.watch.say(f"Run {self.done} of {self.total}: {planned.name}{self._time_left()}")
        done = self._made(planned, before)
        self.left -= planned.work
        if done.outcome is not None:
            self.pace.append((done.outcome.cost.train_seconds, planned.work))
        if done.failed is not None:
            self.watch.say(f"{planned.name} failed: {done.failed}. The sweep goes on.")
        self.made[planned.folder] = done
        return done

    def _made(self, planned: Planned, before: Done | None) -> Done:
        if before is not None and before.model is None:
            return Done(planned, failed=f"the stage before it, {before.planned.name}, was not finished")
        try:
            recipe = planned.recipe(before.model if before else None)
            outcome = self.train(recipe, root=self.sweep.root, overwrite=self.overwrite, watch=self.watch)
            model = outcome.folder
            if planned.stage is not None:
                base = before.model if before and before.model else Path(recipe.base)
                stage = Stage(base, outcome.folder, recipe, self.sweep.root)
                model = merged_stage(stage, watch=self.watch)
        except OutputError:
            raise
        except LorascopeError as error:
            return Done(planned, failed=reason_of(error))
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            return Done(planned, failed="out of memory")
        return Done(planned, outcome, model)

    def _time_left(self) -> str:
        seconds = time_for(self.left, self.pace)
        return "" if seconds is None else f", about {duration(seconds)} left for all runs"


def time_for(work: float, pace: Sequence[tuple[float, float]]) -> float | None:
    """Seconds for so much work at the pace of (seconds, work) of finished runs; None without one."""
    done = math.fsum(part for _, part in pace)
    return math.fsum(seconds for seconds, _ in pace) / done * work if done else None


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def reason_of(error: LorascopeError) -> str:
    """An error in one line."""
    return "; ".join(part for part in (error.problem, error.where) if part).replace("\n", " ")


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def plan_runs(sweep: Sweep, out: Path, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, list[list[Planned]]]:
    """All runs by point: one chain of stages a seed, of a single run where there is no ``sequence``."""
    return {
        point.name: [_chain(sweep, out, point, seed, chosen.get(point.name, {})) for seed in sweep.seeds]
        for point in sweep.points
    }


def _chain(sweep: Sweep, out: Path, point: Point, seed: int, chosen: Mapping[str, Any]) -> list[Planned]:
    label = _label(point, chosen)
    name = run_name(sweep, point.name, seed)
    if not sweep.plan.sequence:
        return [Planned(name, point, seed, _folder(out, f"{label}-s{seed}"), dict(chosen))]
    chain: list[Planned] = []
    for place, (stage, settings) in enumerate(sweep.plan.sequence.items(), 1):
        folder = _folder(out, f"{label}-s{seed}-{place}-{stage}")
        before = chain[-1].name if chain else None
        chain.append(Planned(f"{name}-{place}-{stage}", point, seed, folder, {**settings, **chosen}, stage, before))
    return chain


def run_name(sweep: Sweep, point: str, seed: int) -> str:
    """The run's name in results: the point's, with the seed where there are several."""
    return point if len(sweep.seeds) == 1 else f"{point}-s{seed}"


def _label(point: Point, chosen: Mapping[str, Any]) -> str:
    """The point's name with what was chosen for it: another choice is another run, which does not replace the first."""
    return "-".join([point.name, *(name_part(key, value) for key, value in chosen.items())])


def _folder(out: Path, name: str) -> Path:
    return (out / RUNS / name).absolute()


@dataclass(frozen=True)
class Group:
    """Points that share one choice, and those of them at which the values are tried (one, the first)."""

    name: str
    points: tuple[Point, ...]
    values: tuple[Any, ...]


def groups_of(sweep: Sweep, choose: Choose, points: Sequence[Point]) -> list[Group]:
    """The groups of the first stage. A point that ``values`` names stands for itself, the others for their method.

    Raises:
        ConfigError: ``values`` has no list for a method, or names what is neither method nor point.
    """
    named: dict[str, list[Point]] = {}
    lists = choose.values
    for point in sweep.points:
        method = point.recipe.method.name
        alone = choose.per == "point" or (isinstance(lists, dict) and point.name in lists and point.name != method)
        named.setdefault(point.name if alone else method, []).append(point)
    found = []
    for name, members in named.items():
        method = members[0].recipe.method.name
        values = lists.get(name, lists.get(method)) if isinstance(lists, dict) else lists
        if values is None:
            known = ", ".join(lists) if isinstance(lists, dict) else ""
            problem = f"'choose.values' has no list for {name} (it has {known})"
            raise ConfigError(problem, where=str(sweep.path), remedy="give one list for all, or one for each")
        if any(member in points for member in members):
            found.append(Group(name, tuple(members), tuple(values)))
    if isinstance(lists, dict):
        methods = {point.recipe.method.name for point in sweep.points}
        wrong = [name for name in lists if name not in methods | {point.name for point in sweep.points}]
        if wrong and sweep.plan.choose is not None:
            problem = f"'choose.values' names {wrong[0]}, which is neither a method nor a point of this sweep"
            raise ConfigError(problem, where=str(sweep.path), remedy=f"use {', '.join(named)}")
    return found


def plan_trials(sweep: Sweep, out: Path, choose: Choose, groups: Sequence[Group]) -> dict[str, list[Planned]]:
    """The runs of the first stage by group, with the first seed, at the group's first point (its first stage)."""
    first = next(iter(sweep.plan.sequence.items()), None)
    tried = {}
    for group in groups:
        point, seed = group.points[0], sweep.seeds[0]
        runs = []
        for value in group.values:
            setting = {choose.key: value}
            chain = _chain(sweep, out, point, seed, setting)
            own = chain[0].settings if first else setting
            name = f"{_label(point, setting)}-s{seed}"
            runs.append(Planned(name, point, seed, chain[0].folder, dict(own), chain[0].stage))
        tried[group.name] = runs
    return tried


def choose_values(
    sweep: Sweep, choose: Choose, groups: Sequence[Group], runs: Mapping[str, Sequence[Planned]], runner: Runner
) -> Iterator[tuple[Group, SweepChoice]]:
    """Try every value of every group and take the best; a group whose every trial failed has none.

    Raises:
        ConfigError: a run does not report what is to be chosen by.
    """
    way = _direction(choose.by)
    for group in groups:
        trials = []
        for value, planned in zip(group.values, runs[group.name], strict=True):
            done = runner.run(planned)
            score = None if done.outcome is None else _score(sweep, choose, planned, done.outcome)
            trials.append(SweepTrial(value=value, run=planned.name, score=score, failed=done.failed))
        scored = [trial for trial in trials if trial.score is not None]
        best = max(scored, key=lambda trial: way * (trial.score or 0.0), default=None)
        numbers = [value for value in group.values if isinstance(value, int | float)]
        edge = best is not None and len(numbers) > 2 and best.value in (min(numbers), max(numbers))
        yield (
            group,
            SweepChoice(
                group=group.name,
                key=choose.key,
                by=choose.by,
                trials=trials,
                chosen=None if best is None else best.value,
                edge=edge,
            ),
        )


def _direction(by: str) -> float:
    spec = MEASURES.get(by)
    return -1.0 if by == "loss" or (spec is not None and spec.direction == "lower") else 1.0


def _score(sweep: Sweep, choose: Choose, planned: Planned, outcome: Outcome) -> float:
    sets = planned.recipe().validation_sets
    name = choose.set or next(iter(sets), None)
    found = outcome.metrics.get(f"eval_{name}_{choose.by}")
    if found is None:
        known = sorted(key for key in outcome.metrics if key.startswith("eval_"))
        raise ConfigError(
            f"'choose.by' is {choose.by}, which {planned.name} does not report for {name or 'no validation set'}",
            where=str(sweep.path),
            remedy=f"it reports {', '.join(known)}" if known else "give 'task.validation': nothing is evaluated",
        )
    return found
