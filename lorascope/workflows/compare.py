"""``lorascope compare``: open and prove, ask, measure, look inside the weights, and write what was found."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lorascope.checkpoints.lint import lint_weights
from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Subject as Asker
from lorascope.engines.cache import AnswerCache
from lorascope.engines.loading import resolve_device
from lorascope.engines.transformers_engine import TransformersEngine, tokenizer_hash
from lorascope.errors import UsageError
from lorascope.schema.comparison import Comparison, Finding, Missing, Provenance
from lorascope.schema.items import ChoiceItem, GenerateItem, content_id
from lorascope.version import __version__
from lorascope.workflows import curves, findings
from lorascope.workflows.behaviour import Behaviour, ask_all, askers
from lorascope.workflows.cost import measure_costs
from lorascope.workflows.drift import measure_drift
from lorascope.workflows.gate import judge, read_policy
from lorascope.workflows.measuring import adjust_p_values, measure_task, plan_pairs
from lorascope.workflows.output import RESULT, SAMPLES, WEIGHTS, OutputFolder
from lorascope.workflows.provenance import git_state, libraries
from lorascope.workflows.publish import load_result, publish
from lorascope.workflows.samples import sample_rows, write_samples
from lorascope.workflows.scoring import Asked, task_info
from lorascope.workflows.subjects import Opened, open_all
from lorascope.workflows.tasks import NOTHING, Questions, load_probes, load_tasks
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

    ``weights`` and ``behaviour`` switch whole parts off; ``analysis`` is how weights are looked at; ``gates`` is a
    policy to hold the result to.
    """

    base: str
    adapted: tuple[str, ...]
    questions: Questions = field(default_factory=Questions)
    reference: str | None = None
    out: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
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
    device: str = "none"
    dtype: str = "none"
    notes: list[str] = field(default_factory=list)
    behaviour: Behaviour = field(default_factory=Behaviour)
    weights: WeightOutcome = field(default_factory=WeightOutcome)
    curves: curves.CurveOutcome = field(default_factory=curves.CurveOutcome)
    parts: dict[str, list[Any]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    linted: list[Finding] = field(default_factory=list)


def compare(options: CompareOptions, watch: Watch | None = None) -> Path:
    """Run a whole comparison and return the path of its ``result.json``.

    The output folder also receives ``report.html``, ``samples.parquet`` and ``weights.parquet``. A run that was
    interrupted resumes: answers that were given are not asked for again.
    """
    # What can be wrong without a checkpoint is said now, not after the models have run.
    resolve_device(options.device)
    if options.gates is not None:
        read_policy(options.gates)
    run = _prepare(options, watch or Silent())
    _look_at_weights(run)
    _ask_and_measure(run)
    _read_curves(run)
    return _write(run)


def _prepare(options: CompareOptions, watch: Watch) -> _Run:
    opened = open_all(options.base, options.adapted, allow_pickle=options.allow_pickle, watch=watch)
    names = [info.name for info in opened.infos]
    if options.reference is not None and options.reference not in names:
        raise UsageError(
            f"--reference names {options.reference}, which is none of the checkpoints",
            remedy=f"use one of {', '.join(names)}",
        )
    asked = load_tasks(options.questions, opened.base_info.generation_ready) if options.behaviour else NOTHING
    folder = OutputFolder.claim(
        options.out or default_folder(opened, options.questions),
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
    return Path("reports") / re.sub(r"[^\w.-]+", "-", f"{shown}-vs-{opened.base.name}{data}")


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
        "dtype": options.dtype,
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
    judged = task.spec.model_dump(exclude={"data", "train_data", "tune_on"})
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
            device=str(resolve_device(run.options.device)),
            seed=run.options.questions.seed,
            journal=run.folder.modules,
            on_progress=report,
        )
    run.folder.write_with(WEIGHTS, lambda part: write_weights(run.weights.rows, part))
    run.missing += run.weights.missing
    for subject in run.opened.subjects:
        run.linted += lint_weights(subject.checkpoint, run.weights.reports[subject.name].modules)
    run.parts["weights"] = list(weight_measurements(run.opened.base.name, run.weights.reports, run.options.analysis))
    run.timings["weights"] = time.perf_counter() - started


def _ask_and_measure(run: _Run) -> None:
    options = run.options
    if not options.behaviour:
        return
    started = time.perf_counter()
    with (
        AnswerCache(run.folder.answers) as cache,
        closing(
            TransformersEngine(device=options.device, dtype=options.dtype, batch_size=options.batch_size, cache=cache)
        ) as engine,
    ):
        stored = f"auto (base stored as {run.opened.base.dtype})"
        run.device, run.dtype = str(engine.device), stored if options.dtype == "auto" else options.dtype
        _ask(run, engine)
        run.notes = list(engine.notes)
    run.timings["behaviour"] = time.perf_counter() - started
    started = time.perf_counter()
    run.parts["tasks"] = _measurements(run)
    run.timings["statistics"] = time.perf_counter() - started


def _ask(run: _Run, engine: TransformersEngine) -> None:
    known = askers(run.opened, allow_pickle=run.options.allow_pickle)
    run.behaviour = ask_all(engine, run.opened, run.tasks, known, seed=run.options.questions.seed, watch=run.watch)
    run.timings |= {f"answers:{name}": seconds for name, seconds in run.behaviour.seconds.items()}
    if not run.opened.base_info.generation_ready:
        _drift(run, engine, known)
    with run.watch.stage("Latency and memory") as report:
        run.parts["cost"], absent = measure_costs(engine, known, run.behaviour, report)
    run.missing += absent


def _measurements(run: _Run) -> list[Any]:
    base = run.opened.base.name
    subjects = [subject.name for subject in run.opened.subjects]
    found = []
    with run.watch.stage("Statistics") as report:
        for done, answers in enumerate(run.behaviour.tasks.values(), 1):
            pairs = plan_pairs(base, subjects, run.options.reference, base in answers.asked)
            found += measure_task(answers, pairs, seed=run.options.questions.seed)
            report(done, len(run.behaviour.tasks))
    return found


def _drift(run: _Run, engine: TransformersEngine, known: Sequence[Asker]) -> None:
    """Encoders cannot answer the probe; their representations of its texts are compared instead."""
    texts = _probe_texts(run)
    instead = "representation drift is measured instead" if texts else "and --probe none leaves drift out"
    head = f"{run.opened.base_info.architecture} has no language-model head"
    run.missing.append(Missing(area="forgetting", reason=f"{head}: no general-knowledge probe, {instead}"))
    if texts:
        measured, missing = measure_drift(engine, known, texts, watch=run.watch)
        run.parts["drift"] = list(measured)
        run.missing += missing


def _probe_texts(run: _Run) -> list[str]:
    items = [item for task in load_probes(run.options.questions) for item in task.items]
    questions = [item.question for item in items if isinstance(item, ChoiceItem)]
    return questions + [str(item.prompt) for item in items if isinstance(item, GenerateItem)]


def _read_curves(run: _Run) -> None:
    for subject in run.opened.subjects:
        read = curves.read_folder(subject.name, run.opened.base.name, subject.checkpoint.path)
        run.curves.series += read.series
        run.curves.measurements += read.measurements
        run.curves.findings += read.findings
        run.curves.missing += read.missing


def _write(run: _Run) -> Path:
    comparison = _with_human(_assemble(run), run.folder)
    if run.options.keep_samples and run.behaviour.tasks:
        rows = _sample_rows(run)
        run.folder.write_with(SAMPLES, lambda part: write_samples(rows, part))
    publish(comparison, run.folder)
    result = run.folder.path / RESULT
    if run.options.gates is not None:
        report = judge(result, run.options.gates)
        publish(comparison.model_copy(update={"gates": report}), run.folder)
    if not run.options.keep_samples:
        run.folder.forget_answers()
    return result


def _with_human(comparison: Comparison, folder: OutputFolder) -> Comparison:
    """Keep what raters said of the same answers: running the same command again must not lose a study."""
    earlier = folder.path / RESULT
    if not (folder.resumed and earlier.is_file()):
        return comparison
    known = load_result(earlier)
    rated = [found for found in known.measurements if found.area == "human"]
    return comparison.model_copy(update={"human": known.human, "measurements": [*comparison.measurements, *rated]})


def _sample_rows(run: _Run) -> list[dict[str, Any]]:
    base = run.opened.base.name
    return [
        row
        for answers in run.behaviour.tasks.values()
        for subject in run.opened.subjects
        if subject.name in answers.asked
        for row in sample_rows(answers.task, subject.name, answers.asked.get(base), answers.asked[subject.name])
    ]


def _assemble(run: _Run) -> Comparison:
    measurements = [found for part in ("tasks", "drift", "weights", "cost") for found in run.parts.get(part, [])]
    comparison = Comparison(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=list(run.options.command),
        seed=run.options.questions.seed,
        lorascope_version=__version__,
        provenance=Provenance(
            libraries=libraries(),
            git=git_state(),
            device=run.device,
            dtype=run.dtype,
            timings={name: round(seconds, 3) for name, seconds in run.timings.items()},
            suite_hash=run.suite_hash,
        ),
        checkpoints=run.opened.infos,
        tasks=[task_info(task, _first_asked(run, task)) for task in run.tasks],
        measurements=adjust_p_values([*measurements, *run.curves.measurements]),
        weights=run.weights.reports,
        series=[*run.curves.series, *run.weights.series],
        missing=[*run.missing, *run.curves.missing],
    )
    told = findings.find(comparison, list(run.behaviour.tasks.values()), run.notes)
    every: list[Finding] = [*run.opened.findings, *run.linted, *told, *run.curves.findings]
    return comparison.model_copy(update={"findings": findings.by_severity(every)})


def _first_asked(run: _Run, task: LoadedTask) -> Asked | None:
    """What some checkpoint answered: all of them are scored by the same metrics."""
    return next(iter(run.behaviour.tasks[task.spec.name].asked.values()), None)
