"""``lorascope compare``: open and prove, ask, measure, look inside the weights, and write what was found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorascope.checkpoints.lint import lint_weights
from lorascope.data.tasks import LoadedTask
from lorascope.engines.keys import tokenizer_hash
from lorascope.engines.loading import resolve_device
from lorascope.errors import UsageError
from lorascope.schema.comparison import Comparison, Finding, Measurement, Missing
from lorascope.schema.items import content_id
from lorascope.version import __version__
from lorascope.workflows import curves
from lorascope.workflows.asking import NOTHING_ASKED, AskingOptions, Heard, ask_everything, prove_engine
from lorascope.workflows.assembling import assemble, write_assembled
from lorascope.workflows.behaviour import askers
from lorascope.workflows.gate import ProvedPolicy, prove_policy
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.merge_findings import MERGED
from lorascope.workflows.output import RESULT, WEIGHTS, OutputFolder, short_name
from lorascope.workflows.publish import load_result
from lorascope.workflows.subjects import Opened, open_all
from lorascope.workflows.tasks import NOTHING, Questions, load_tasks
from lorascope.workflows.watch import Silent, Watch
from lorascope.workflows.weights import (
    WeightOptions,
    WeightOutcome,
    analyse_weights,
    weight_measurements,
    write_weights,
)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Everything that decides a comparison. Checkpoints are folders or names on the hub.

    ``weights`` and ``behaviour`` switch whole parts off; ``asking`` is who answers and how, ``analysis`` how weights
    are looked at; ``gates`` is a policy to hold the result to.
    """

    base: str
    adapted: tuple[str, ...]
    questions: Questions = field(default_factory=Questions)
    reference: str | None = None
    out: Path | None = None
    asking: AskingOptions = field(default_factory=AskingOptions)
    analysis: WeightOptions = field(default_factory=WeightOptions)
    weights: bool = True
    behaviour: bool = True
    keep_samples: bool = True
    overwrite: bool = False
    allow_pickle: bool = False
    gates: Path | None = None
    command: tuple[str, ...] = ()


@dataclass
class _Run:
    """What has been found so far, on the way to a :class:`Comparison`."""

    options: CompareOptions
    opened: Opened
    tasks: list[LoadedTask]
    folder: OutputFolder
    suite_hash: str | None
    watch: Watch
    timings: dict[str, float] = field(default_factory=dict)
    dtype: str = "none"
    heard: Heard = field(default_factory=Heard)
    weights: WeightOutcome = field(default_factory=WeightOutcome)
    curves: curves.CurveOutcome = field(default_factory=curves.CurveOutcome)
    weight_rows: list[Measurement] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    linted: list[Finding] = field(default_factory=list)


def compare(options: CompareOptions, watch: Watch | None = None) -> Path:
    """Run a whole comparison and return the path of its ``result.json``.

    The output folder also receives ``report.html``, ``samples.parquet`` and ``weights.parquet``. A run that was
    interrupted resumes: answers that were given are not asked for again.
    """
    # What can be wrong without a checkpoint is said now, not after the models have run.
    if options.behaviour:
        prove_engine(options.asking)
    resolve_device(options.asking.device)
    run = _prepare(options, watch or Silent(), prove_policy(options.gates))
    _look_at_weights(run)
    _ask_and_measure(run)
    _read_curves(run)
    return _write(run)


def _prepare(options: CompareOptions, watch: Watch, policy: ProvedPolicy) -> _Run:
    opened = open_all(options.base, options.adapted, allow_pickle=options.allow_pickle, watch=watch)
    names = [info.name for info in opened.infos]
    if options.reference is not None and options.reference not in names:
        raise UsageError(
            f"--reference names {options.reference}, which is none of the checkpoints",
            remedy=f"use one of {', '.join(names)}",
        )
    asked = load_tasks(options.questions, opened.base_info.generation_ready) if options.behaviour else NOTHING
    policy.check_tasks(task.spec.name for task in asked.tasks)
    place = options.out or default_folder(opened, options.questions)
    policy.check_folder(place)
    folder = OutputFolder.claim(
        place,
        _fingerprint(options, opened, asked.tasks),
        overwrite=options.overwrite,
    )
    if folder.resumed:
        watch.say(f"Resuming in {folder.path}: what is finished is kept")
    return _Run(options, opened, asked.tasks, folder, asked.suite_hash, watch)


def default_folder(opened: Opened, questions: Questions) -> Path:
    """``reports/SUBJECT[-SUBJECT ...]-vs-BASE[-DATA]`` below the current folder."""
    names = [subject.name for subject in opened.subjects]
    shown = "-".join(names[:3]) + (f"-and-{len(names) - 3}-more" if len(names) > 3 else "")
    asked = [questions.suite] if questions.suite else [Path(path) for path in questions.data.values()]
    data = "".join(f"-{path.stem}" for path in asked[:2])
    return Path("reports") / short_name(f"{shown}-vs-{opened.base.name}{data}")


def _fingerprint(options: CompareOptions, opened: Opened, tasks: Sequence[LoadedTask]) -> dict[str, Any]:
    """What makes two commands the same: contents, not paths; nothing about speed."""
    folders = [opened.base.path, *(subject.checkpoint.path for subject in opened.subjects)]
    return {
        "lorascope": __version__,
        "checkpoints": [[info.name, info.content_hash] for info in opened.infos],
        "tokenizers": [tokenizer_hash(folder) for folder in folders],
        "tasks": [_asked(task) for task in tasks],
        "probe": [list(options.questions.probe), options.questions.limit, options.questions.fraction],
        "reference": options.reference,
        "dtype": options.asking.dtype,
        "engine": [options.asking.engine, options.asking.url],
        "noise_floor": options.asking.noise_floor,
        "seed": options.questions.seed,
        "analysis": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(options.analysis).items()
            if name != "cache_dir"
        },
        "weights": options.weights,
        "behaviour": options.behaviour,
        "samples": options.keep_samples,
    }


def _asked(task: LoadedTask) -> dict[str, Any]:
    """A task by what it asks and how it is judged; its files by their items."""
    judged = task.spec.model_dump(exclude={"data", "train_data", "tune_on", "few_shot_data"})
    sets = {"train": task.train_items, "tuning": task.tuning_items}
    return (
        judged
        | {"items": task.fingerprint}
        | {name: content_id({"items": [item.item_id for item in items]}) for name, items in sets.items()}
    )


def _look_at_weights(run: _Run) -> None:
    if not run.options.weights:
        run.missing.append(Missing(area="weights", reason="switched off with --no-weights"))
        return
    started = time.perf_counter()
    pairs = [(subject.checkpoint, subject.changes) for subject in run.opened.subjects]
    with run.watch.stage("Weights, module by module") as report:
        run.weights = analyse_weights(
            run.opened.base.name,
            pairs,
            run.options.analysis,
            device=str(resolve_device(run.options.asking.device)),
            seed=run.options.questions.seed,
            journal=run.folder.modules,
            on_progress=report,
        )
    run.folder.write_with(WEIGHTS, lambda part: write_weights(run.weights.rows, part))
    run.missing += run.weights.missing
    for subject in run.opened.subjects:
        run.linted += lint_weights(subject.checkpoint, run.weights.reports[subject.name].modules)
    run.weight_rows = list(weight_measurements(run.opened.base.name, run.weights.reports, run.options.analysis))
    run.timings["weights"] = time.perf_counter() - started


def _ask_and_measure(run: _Run) -> None:
    options = run.options
    if not options.behaviour:
        return
    asking = replace(options.asking, shared_cache=options.asking.shared_cache and options.keep_samples)
    headless = None if run.opened.base_info.generation_ready else run.opened.base_info.architecture
    known = askers(run.opened, allow_pickle=options.allow_pickle)
    run.heard = ask_everything(asking, known, run.tasks, options.questions, run.folder, run.watch, headless=headless)
    if run.heard.asked_nothing:
        _keep_costs(run)
    stored = f"auto (base stored as {run.opened.base.dtype})"
    run.dtype = stored if asking.dtype == "auto" else asking.dtype
    run.timings |= run.heard.timings


def _keep_costs(run: _Run) -> None:
    """Costs and merging as the run measured them that gave the answers, where its result is in this folder."""
    earlier = run.folder.path / RESULT
    if not (run.folder.resumed and earlier.is_file()):
        return
    known = load_result(earlier)
    costs = [found for found in known.measurements if found.area == "cost"]
    if costs:
        run.heard.measurements += costs
        run.heard.missing = [each for each in run.heard.missing if each.reason != NOTHING_ASKED]
    run.heard.findings += [finding for finding in known.findings if finding.id.startswith(MERGED)]


def _read_curves(run: _Run) -> None:
    for subject in run.opened.subjects:
        read = curves.read_folder(subject.name, run.opened.base.name, subject.checkpoint.path)
        run.curves.series += read.series
        run.curves.measurements += read.measurements
        run.curves.findings += read.findings
        run.curves.missing += read.missing


def _write(run: _Run) -> Path:
    options, answers = run.options, list(run.heard.behaviour.tasks.values())
    return write_assembled(
        _assemble(run, answers), answers, run.folder, keep_samples=options.keep_samples, gates=options.gates
    )


def _assemble(run: _Run, answers: Sequence[TaskAnswers]) -> Comparison:
    return assemble(
        run.opened.base_info,
        [subject.info for subject in run.opened.subjects],
        answers,
        seed=run.options.questions.seed,
        command=run.options.command,
        device=run.heard.device,
        dtype=run.dtype,
        engine="transformers" if answers else None,
        timings=run.timings,
        findings=[*run.opened.findings, *run.linted, *run.heard.findings, *run.curves.findings],
        missing=[*run.missing, *run.heard.missing, *run.curves.missing],
        notes=run.heard.notes,
        measurements=[*run.weight_rows, *run.heard.measurements, *run.curves.measurements],
        series=[*run.curves.series, *run.weights.series],
        weights=run.weights.reports,
        reference=run.options.reference,
        suite_hash=run.suite_hash,
        noise=run.heard.noise,
        how_again=run.heard.how_again,
        watch=run.watch,
    )
