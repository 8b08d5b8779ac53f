"""``lorascope sweep``: many runs of one recipe, compared with their base in one report that says what it rests on."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorascope.data.sweeps import Point, Sweep, load_sweep
from lorascope.errors import EvaluationError, OutputError, UsageError
from lorascope.schema.comparison import Finding, Missing
from lorascope.schema.recipe import LOW_RANK
from lorascope.schema.sweep import SweepChoice, SweepPoint, SweepReport, SweepRun
from lorascope.workflows.output import OutputFolder, naming, write_whole
from lorascope.workflows.publish import load_result, publish
from lorascope.workflows.sweep_evaluation import evaluate, trains_on_all
from lorascope.workflows.sweep_report import SweepFacts, report_of
from lorascope.workflows.sweep_runs import (
    COST,
    NOT_RUN,
    Done,
    Planned,
    Runner,
    Train,
    choose_values,
    groups_of,
    plan_runs,
    plan_trials,
    run_name,
    time_for,
)
from lorascope.workflows.watch import Silent, Watch

CLAIM = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """``out`` in place of the file's; ``only``: points or runs by name; ``runs_only``: train, and compare later."""

    path: Path
    out: Path | None = None
    only: tuple[str, ...] = ()
    runs_only: bool = False
    overwrite: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepOutcome:
    """Where everything is. ``result`` is None after ``runs_only``; ``report`` then holds runs and costs alone."""

    out: Path
    report: SweepReport
    result: Path | None


@dataclass(frozen=True)
class ListedRun:
    """One line of a dry run. ``trial``: of the first stage, which may turn out to be the run itself."""

    name: str
    settings: Mapping[str, Any]
    finished: bool
    trial: bool


@dataclass(frozen=True)
class Listing:
    """What a sweep would do. ``seconds`` is None before the first run is finished."""

    out: Path
    runs: tuple[ListedRun, ...]
    seconds: float | None

    @property
    def to_do(self) -> int:
        """Runs that are not finished."""
        return sum(not run.finished for run in self.runs)


def list_sweep(options: SweepOptions) -> Listing:
    """What would be run, what of it is finished, and how long the rest takes by those; nothing is written."""
    sweep = load_sweep(options.path)
    out, points = options.out or sweep.out, _selected(sweep, options.only)
    trials: list[Planned] = []
    if sweep.choose is not None:
        groups = groups_of(sweep, sweep.choose, points)
        trials = [run for runs in plan_trials(sweep, out, sweep.choose, groups).values() for run in runs]
    planned = plan_runs(sweep, out, {})
    main = [run for point in points for chain in planned[point.name] for run in chain]
    runs = [(run, True) for run in trials] + [(run, False) for run in main if _is_wanted(run, options.only)]
    pace = [(seconds, run.work) for run, _ in runs if run.finished and (seconds := _seconds(run.folder)) is not None]
    left = sum(run.work for run, _ in runs if not run.finished)
    listed = tuple(
        ListedRun(run.name, {**run.point.settings, **run.settings, "seed": run.seed}, run.finished, trial)
        for run, trial in runs
    )
    return Listing(out, listed, time_for(left, pace))


def sweep(options: SweepOptions, *, train: Train | None = None, watch: Watch | None = None) -> SweepOutcome:
    """Make every run that is not finished, compare all finished ones with the base, and write the report.

    A sweep that was interrupted goes on where it stopped; one whose file names more points or seeds adds them. A run
    that fails is recorded with its reason, and tried again the next time.

    Raises:
        ConfigError: the file or a recipe in it is wrong; nothing is run then.
        EvaluationError: every run failed.
        OutputError: the folder is no sweep's, another's, or cannot be written.
        UsageError: ``only`` names nothing.
    """
    watch = watch or Silent()
    plan = load_sweep(options.path)
    points, out = _selected(plan, options.only), options.out or plan.out
    _claim(out, options.path, overwrite=options.overwrite)
    runner = Runner(plan, train or _trainer(), watch, overwrite=options.overwrite)
    chosen, choices = _chosen(plan, out, points, runner)
    done = _make_runs(plan, out, chosen, options.only, points, runner)
    finished = [each for each in done if each.model is not None]
    if not finished:
        reasons = dict.fromkeys(each.failed for each in done if each.failed not in (None, NOT_RUN))
        raise EvaluationError(
            f"no run of the sweep was finished: {next(iter(reasons), NOT_RUN)}",
            where=str(options.path),
            remedy="mend the recipe, and run the same command again",
        )
    facts = _facts(plan, chosen, choices, done)
    if options.runs_only:
        return SweepOutcome(out, report_of(facts, None), None)
    result = evaluate(plan, out, finished, _reference(plan, finished), options.command, watch)
    report = _publish(result, facts, out)
    return SweepOutcome(out, report, result)


def _trainer() -> Train:
    from lorascope.workflows.train import train_recipe

    return train_recipe


def _claim(out: Path, path: Path, *, overwrite: bool) -> None:
    """Take the folder for this sweep file: a new or empty one, or one that it has already, whatever it said then."""
    claim, own = out / CLAIM, {"sweep": str(path.resolve())}
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
        found = _read_claim(claim) if claim.is_file() else None
        if found is None and any(out.iterdir()) and not overwrite:
            raise OutputError(
                "the output folder is not empty and holds no sweep",
                where=str(out),
                remedy="choose another folder with --out, or pass --overwrite to write beside what is there",
            )
    if found is not None and found != own and not overwrite:
        raise OutputError(
            f"the output folder belongs to another sweep, {found.get('sweep', 'which its claim does not name')}",
            where=str(out),
            remedy="choose another folder with --out, or pass --overwrite to take it over",
        )
    text = json.dumps(own, indent=2, ensure_ascii=False) + "\n"
    write_whole(claim, lambda part: part.write_text(text, encoding="utf-8"))


def _read_claim(claim: Path) -> dict[str, Any]:
    """What a claim says; one that is damaged says nothing."""
    try:
        found = json.loads(claim.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _selected(sweep: Sweep, only: Sequence[str]) -> list[Point]:
    """The points that ``only`` names, by themselves or by one of their runs."""
    if not only:
        return list(sweep.points)
    runs = {run_name(sweep, point.name, seed): point for point in sweep.points for seed in sweep.seeds}
    named = {point.name: point for point in sweep.points} | runs
    for name in only:
        if name not in named:
            near = difflib.get_close_matches(name, named, n=1)
            remedy = f"did you mean '{near[0]}'?" if near else f"use {', '.join(named)}"
            raise UsageError(f"--only names {name}, which is neither a point nor a run", remedy=remedy)
    wanted = {named[name].name for name in only}
    return [point for point in sweep.points if point.name in wanted]


def _is_wanted(run: Planned, only: Sequence[str]) -> bool:
    return (
        not only or run.point.name in only or any(run.name == name or run.name.startswith(f"{name}-") for name in only)
    )


def _chosen(
    sweep: Sweep, out: Path, points: Sequence[Point], runner: Runner
) -> tuple[dict[str, dict[str, Any]], list[SweepChoice]]:
    """The first stage: what was chosen for each point, and every trial.

    Of groups without a point that is wanted, those are chosen for whose trials are all there: their runs count.
    """
    chosen: dict[str, dict[str, Any]] = {}
    choices: list[SweepChoice] = []
    choose = sweep.choose
    if choose is None:
        return chosen, choices
    groups = groups_of(sweep, choose, sweep.points)
    trials = plan_trials(sweep, out, choose, groups)
    groups = [
        group
        for group in groups
        if any(point in points for point in group.points) or all(run.finished for run in trials[group.name])
    ]
    trials = {group.name: trials[group.name] for group in groups}
    runner.expect([run for runs in trials.values() for run in runs])
    for group, choice in choose_values(sweep, choose, groups, trials, runner):
        choices.append(choice)
        for point in group.points:
            if choice.chosen is not None:
                chosen[point.name] = {choose.key: choice.chosen}
    return chosen, choices


def _make_runs(
    sweep: Sweep,
    out: Path,
    chosen: Mapping[str, Mapping[str, Any]],
    only: Sequence[str],
    points: Sequence[Point],
    runner: Runner,
) -> list[Done]:
    planned = plan_runs(sweep, out, chosen)
    wanted = {point.name for point in points}
    settled = wanted if sweep.choose is None else wanted & set(chosen)
    chains = [(chain, name) for name in planned for chain in planned[name]]

    def starts(run: Planned, name: str) -> bool:
        return name in settled and _is_wanted(run, only)

    runner.expect([run for chain, name in chains for run in chain if starts(run, name) or run.finished])
    done: list[Done] = []
    for chain, name in chains:
        before: Done | None = None
        for run in chain:
            if starts(run, name) or (run.finished and (before is None or before.model is not None)):
                before = runner.run(run, before)
            else:
                unsettled = name in wanted and name not in settled
                reason = "every value that was tried failed in the first stage" if unsettled else NOT_RUN
                before = Done(run, failed=reason)
            done.append(before)
    return done


def _facts(
    sweep: Sweep, chosen: Mapping[str, dict[str, Any]], choices: Sequence[SweepChoice], done: Sequence[Done]
) -> SweepFacts:
    points = [_point(point, chosen.get(point.name, {}), done) for point in sweep.points]
    costs = {each.planned.name: _numbers(each) for each in done if each.outcome is not None}
    notes = []
    if not trains_on_all(sweep) and sweep.plan.compare.train_gap:
        notes.append(
            "Points were trained on different parts of the training data, so training items are not asked: the gap is "
            "that of the loss."
        )
    return SweepFacts(
        points=points,
        seeds=sweep.seeds,
        keys=sweep.keys,
        reference=sweep.reference,
        costs=costs,
        preset=sweep.plan.preset,
        choices=choices,
        stages=tuple(sweep.plan.sequence),
        metric=sweep.plan.compare.metric,
        margin=sweep.plan.compare.margin,
        notes=notes,
    )


def _point(point: Point, chosen: dict[str, Any], done: Sequence[Done]) -> SweepPoint:
    method = point.recipe.method
    ranked = method.name in LOW_RANK
    return SweepPoint(
        name=point.name,
        settings=point.settings,
        chosen=chosen,
        method=method.name,
        rank=method.rank if ranked else None,
        runs=[_run(each) for each in done if each.planned.point.name == point.name],
    )


def _run(done: Done) -> SweepRun:
    planned = done.planned
    return SweepRun(
        name=planned.name,
        seed=planned.seed,
        stage=planned.stage,
        folder=str(planned.folder),
        subject=planned.name if done.model is not None else None,
        seconds=None if done.outcome is None else done.outcome.cost.train_seconds,
        failed=done.failed,
    )


def _numbers(done: Done) -> dict[str, float]:
    assert done.outcome is not None
    return {name: float(value) for name, value in asdict(done.outcome.cost).items() if isinstance(value, int | float)}


def _seconds(folder: Path) -> float | None:
    """Seconds that a finished run took, from its ``cost.json``."""
    try:
        return float(json.loads((folder / COST).read_text(encoding="utf-8"))["train_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _reference(sweep: Sweep, finished: Sequence[Done]) -> str | None:
    """The run of the reference point that is finished (the last of a sequence), else the first finished run."""
    own = [each for each in finished if each.planned.point.name == sweep.reference]
    first = [each for each in own if each.planned.seed == own[0].planned.seed]
    return (first or list(finished))[-1 if first else 0].planned.name


def _publish(result: Path, facts: SweepFacts, out: Path) -> SweepReport:
    """The comparison with what the sweep adds, in place of the one without."""
    comparison = load_result(result)
    report = report_of(facts, comparison)
    runs = [Missing(area="sweep", reason=f"the run {run.name} has no values: {run.failed}") for run in report.failed]
    full = comparison.model_copy(
        update={
            "sweep": report,
            "findings": [*comparison.findings, *_findings(report)],
            "missing": [*comparison.missing, *runs],
        }
    )
    publish(full, OutputFolder(out, resumed=True))
    return report


def _findings(report: SweepReport) -> list[Finding]:
    from lorascope.report.sweep_words import advice_evidence, advice_title, edge_sentences
    from lorascope.report.texts import load_texts

    words = load_texts("en")
    told = Finding(
        id="sweep",
        severity="info",
        area="sweep",
        title=advice_title(report, words),
        evidence=advice_evidence(report, words),
    )
    edges = [
        Finding(id=f"sweep_edge:{choice.group}", severity="warning", area="sweep", title=sentence)
        for choice, sentence in edge_sentences(report, words)
    ]
    return [told, *edges]
