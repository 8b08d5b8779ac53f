"""``lorascope repair BASE ADAPTED --scan``: is the link between intruder dimensions and forgetting there, here?

Every variant of the adapted checkpoint (the whole ΔW scaled, its intruders scaled, and controls of equal ‖ΔW‖) is
applied in memory and asked the same questions. Answers are kept, so a scan that was killed goes on where it stopped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from lorascope.checkpoints.new_folder import RECORD
from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Subject as Asker
from lorascope.engines.cache import AnswerCache
from lorascope.engines.loading import resolve_device
from lorascope.engines.overriding import OverridingEngine
from lorascope.engines.transformers_engine import tokenizer_hash
from lorascope.errors import EvaluationError, OutputError, UsageError
from lorascope.schema.comparison import Comparison, Provenance
from lorascope.schema.repair import (
    RepairAdvice,
    RepairContrast,
    RepairMetric,
    RepairPoint,
    RepairReport,
    RepairRow,
    RepairVerdict,
    strength_text,
)
from lorascope.version import __version__
from lorascope.workflows import findings
from lorascope.workflows.behaviour import Behaviour, ask_all, askers
from lorascope.workflows.measuring import Pair, TaskAnswers, adjust_p_values, measure_task
from lorascope.workflows.output import RESULT, OutputFolder
from lorascope.workflows.provenance import git_state, libraries
from lorascope.workflows.publish import publish
from lorascope.workflows.repair_asking import Asking
from lorascope.workflows.repair_result import (
    finding_of,
    has_only_factors,
    notes_on,
    pareto_series,
    same_tokenizer,
    what_is_missing,
)
from lorascope.workflows.repair_scoring import Boards, make_boards, paired_metrics
from lorascope.workflows.repair_variants import ScannedChanges, Variant
from lorascope.workflows.repair_verdict import (
    RELEVANT_SHARE,
    choose,
    contrast,
    judge_repairs,
    lost_on,
    trials_of,
    units_of,
    with_front,
)
from lorascope.workflows.scoring import task_info
from lorascope.workflows.subjects import Opened, open_all
from lorascope.workflows.tasks import Questions, load_tasks
from lorascope.workflows.watch import Silent, Watch

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25)
LAMBDAS = (0.1, 0.3, 0.5, 0.7, 0.9)
_USUAL_K, _USUAL_EPSILON = 10, 0.5
_ENOUGH_FOR_A_PACE = 20


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """Everything that decides a scan. ``base`` and ``adapted`` are folders or names on the hub.

    ``strengths`` are the λ of the whole ΔW, ``lambdas`` those of the intruders; ``k`` and ``epsilon`` say what an
    intruder is. ``questions`` also holds the limit and the seed, which decides the random control and all resampling.
    """

    base: str
    adapted: str
    questions: Questions = field(default_factory=Questions)
    strengths: tuple[float, ...] = STRENGTHS
    lambdas: tuple[float, ...] = LAMBDAS
    k: int = _USUAL_K
    epsilon: float = _USUAL_EPSILON
    out: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    overwrite: bool = False
    allow_pickle: bool = False
    command: tuple[str, ...] = ()


@dataclass
class _Scan:
    """What has been found so far."""

    options: ScanOptions
    opened: Opened
    tasks: list[LoadedTask]
    suite_hash: str | None
    folder: OutputFolder
    watch: Watch
    changes: ScannedChanges
    variants: list[Variant]
    behaviour: Behaviour = field(default_factory=Behaviour)
    asking: Asking | None = None
    timings: dict[str, float] = field(default_factory=dict)
    device: str = "none"
    notes: list[str] = field(default_factory=list)
    tokenizers_differ: bool = False

    @property
    def base(self) -> str:
        """The base's name."""
        return self.opened.base.name

    @property
    def adapted(self) -> str:
        """The adapted checkpoint's name."""
        return self.opened.subjects[0].name

    @property
    def seed(self) -> int:
        """The one seed."""
        return self.options.questions.seed


def scan(options: ScanOptions, watch: Watch | None = None) -> Path:
    """Run a whole scan and return the path of its ``result.json``, with ``report.html`` beside it.

    Raises:
        UsageError: a strength that is no finite number of 0 or more, a λ outside [0, 1), or nothing to ask.
        EvaluationError: the adapted checkpoint changes no linear module, or cannot do its task.
    """
    resolve_device(options.device)
    _check(options)
    run = _prepare(options, watch or Silent())
    _ask(run)
    started = perf_counter()
    with run.watch.stage("Statistics"):
        report = _evaluate(run)
    run.timings["statistics"] = perf_counter() - started
    publish(_assemble(run, report), run.folder)
    return run.folder.path / RESULT


def _check(options: ScanOptions) -> None:
    for strength in options.strengths:
        if not math.isfinite(strength) or strength < 0:
            raise UsageError(f"{strength} is no adapter strength", remedy="give numbers from 0 on; 1 is unchanged")
    for strength in options.lambdas:
        if not 0 <= strength < 1:
            raise UsageError(f"{strength} is no intruder strength", remedy="give numbers from 0 on, below 1")


def _prepare(options: ScanOptions, watch: Watch) -> _Scan:
    opened = open_all(options.base, (options.adapted,), allow_pickle=options.allow_pickle, watch=watch)
    asked = load_tasks(options.questions, opened.base_info.generation_ready)
    # Gaps to the training data and tuned thresholds are no part of a scan: only the questions themselves are asked.
    tasks = [replace(task, train_items=(), tuning_items=()) for task in asked.tasks]
    if not tasks:
        raise UsageError("there is nothing to ask", remedy="give --data or --suite, or leave the probe on")
    out = options.out or _default_folder(opened)
    _is_no_checkpoint(out)
    folder = OutputFolder.claim(out, _fingerprint(options, opened, tasks), overwrite=options.overwrite)
    if folder.resumed:
        watch.say(f"Resuming in {folder.path}: what is finished is kept")
    subject = opened.subjects[0]
    started = perf_counter()
    with watch.stage("Intruders, module by module") as report:
        changes = ScannedChanges(
            subject.changes,
            options.lambdas,
            k=options.k,
            epsilon=options.epsilon,
            seed=options.questions.seed,
            on_progress=report,
        )
    if not changes.modules:
        raise EvaluationError(
            f"{subject.name} changes no linear module of the base: there is no ΔW to scale",
            where=str(subject.checkpoint.path),
            remedy="a repair needs an adapter with a ΔW, or a full fine-tune",
        )
    variants = changes.variants(options.strengths, options.lambdas)
    run = _Scan(options, opened, tasks, asked.suite_hash, folder, watch, changes, variants)
    run.timings["intruders"] = perf_counter() - started
    return run


def _is_no_checkpoint(out: Path) -> None:
    """A scan's files beside a repaired checkpoint would be taken for its parts, and keep it from being replaced."""
    if (out / RECORD).exists():
        raise OutputError(
            "the folder holds a repaired checkpoint, and a scan writes a report",
            where=str(out),
            remedy="choose another folder with --out",
        )


def _default_folder(opened: Opened) -> Path:
    """``reports/SUBJECT-repair-scan-vs-BASE`` below the current folder."""
    return Path("reports") / _file_name(f"{opened.subjects[0].name}-repair-scan-vs-{opened.base.name}")


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def _fingerprint(options: ScanOptions, opened: Opened, tasks: Sequence[LoadedTask]) -> dict[str, Any]:
    """What makes two scans the same: contents, not paths; nothing about speed."""
    folders = [opened.base.path, opened.subjects[0].checkpoint.path]
    judged = {"data", "train_data", "tune_on", "few_shot_data"}
    return {
        "workflow": "repair scan",
        "lorascope": __version__,
        "checkpoints": [[info.name, info.content_hash] for info in opened.infos],
        "tokenizers": [tokenizer_hash(folder) for folder in folders],
        "tasks": [task.spec.model_dump(exclude=judged) | {"items": task.fingerprint} for task in tasks],
        "strengths": list(options.strengths),
        "lambdas": list(options.lambdas),
        "k": options.k,
        "epsilon": options.epsilon,
        "dtype": options.dtype,
        "seed": options.questions.seed,
    }


def _ask(run: _Scan) -> None:
    options = run.options
    with (
        AnswerCache(run.folder.answers) as cache,
        closing(
            OverridingEngine(device=options.device, dtype=options.dtype, batch_size=options.batch_size, cache=cache)
        ) as engine,
    ):
        run.device = str(engine.device)
        known = askers(run.opened, allow_pickle=options.allow_pickle)
        before, started = len(cache), perf_counter()
        run.behaviour = ask_all(engine, run.tasks, known, seed=run.seed, watch=run.watch)
        seconds, asked = perf_counter() - started, len(cache) - before
        run.timings["answers:checkpoints"] = seconds
        started = perf_counter()
        run.tokenizers_differ = not same_tokenizer(*known[:2])
        run.asking = Asking(
            engine=engine,
            original=known[1],
            base=run.base,
            changes=run.changes,
            variants=run.variants,
            tasks=_copies(run.behaviour, known[1]),
            pace=seconds / asked if asked >= _ENOUGH_FOR_A_PACE else None,
            base_is_strength_0=has_only_factors(run.opened.subjects[0].changes) and not run.tokenizers_differ,
            watch=run.watch,
            settings={"k": options.k, "epsilon": options.epsilon},
        )
        run.asking.ask_all()
        run.timings["answers:variants"] = perf_counter() - started
        run.notes = list(engine.notes)


def _copies(behaviour: Behaviour, adapted: Asker) -> dict[str, TaskAnswers]:
    """The tasks that the adapted checkpoint can do, to be filled with the variants' answers."""
    return {
        name: replace(answers, asked=dict(answers.asked))
        for name, answers in behaviour.tasks.items()
        if adapted.name in answers.asked
    }


def _evaluate(run: _Scan) -> RepairReport:
    assert run.asking is not None
    boards = make_boards(list(run.asking.tasks.values()), run.base, run.adapted)
    names = [run.base, run.adapted, *(variant.name for variant in run.variants)]
    metrics = [
        paired_metrics(board, names, run.adapted, seed=run.seed) if board is not None else {}
        for board in (boards.target, boards.retention, *boards.others)
    ]
    base, adapted = (RepairPoint(target=metrics[0].get(name), retention=metrics[1].get(name)) for name in names[:2])
    rows = with_front([_row(run, variant, metrics) for variant in run.variants])
    contrasts, verdict = _judge(run, boards, metrics[1])
    return RepairReport(
        subject=run.adapted,
        k=run.options.k,
        epsilon=run.options.epsilon,
        modules=len(run.changes.modules),
        intruders={"top": run.changes.intruders("top"), "all": run.changes.intruders("all")},
        target=boards.target.axis if boards.target else None,
        retention=boards.retention.axis if boards.retention else None,
        base=base,
        adapted=adapted,
        flipped_items=run.asking.flipped_items,
        rows=rows,
        contrasts=contrasts,
        verdict=verdict,
        advice=_advice(run, choose(rows)),
        notes=notes_on(run.changes, run.tokenizers_differ),
    )


def _judge(
    run: _Scan, boards: Boards, retained: Mapping[str, RepairMetric]
) -> tuple[list[RepairContrast], RepairVerdict]:
    assert run.asking is not None
    intruders = run.changes.intruders("all")
    kept, trials = boards.retention, trials_of(run.variants, run.changes, run.asking.dropped)
    if kept is None:
        return [], judge_repairs(None, None, [], {}, trials, intruders=intruders, margin=None, units=0)
    changes = {name: metric.change for name, metric in retained.items() if metric.change is not None}
    forgotten = changes.get(run.base)
    lost = lost_on(kept.axis, forgotten)
    margin = RELEVANT_SHARE * lost if lost is not None else None
    contrasts = contrast(kept, boards.target, trials, margin=margin, seed=run.seed)
    units = units_of(kept, forgotten.n if forgotten is not None else 0)
    return contrasts, judge_repairs(
        kept.axis, forgotten, contrasts, changes, trials, intruders=intruders, margin=margin, units=units
    )


def _row(run: _Scan, variant: Variant, metrics: Sequence[Mapping[str, RepairMetric]]) -> RepairRow:
    assert run.asking is not None
    target, retention, *others = (found.get(variant.name) for found in metrics)
    return RepairRow(
        name=variant.name,
        family=variant.family,
        strength=variant.strength,
        control=variant.control,
        relative_norm=run.changes.relative_norm(variant),
        target=target,
        retention=retention,
        others=[each for each in others if each is not None],
        grew=run.changes.grew(variant),
        screened_out=variant.name in run.asking.dropped,
        note=run.asking.failed.get(variant.name) or run.changes.note(variant),
    )


def _advice(run: _Scan, chosen: RepairRow | None) -> RepairAdvice | None:
    """The command that writes the chosen variant."""
    if chosen is None:
        return None
    options = run.options
    command = ["lorascope", "repair", options.base, options.adapted]
    if chosen.family == "strength":
        command += ["--strength", strength_text(chosen.strength)]
    else:
        command += ["--intruders", strength_text(chosen.strength), "--which", chosen.family]
        command += ["--k", str(options.k)] if options.k != _USUAL_K else []
        command += ["--epsilon", strength_text(options.epsilon)] if options.epsilon != _USUAL_EPSILON else []
    command += ["--allow-pickle"] if options.allow_pickle else []
    return RepairAdvice(name=chosen.name, command=[*command, "--out", f"{_file_name(run.adapted)}-repaired"])


def _assemble(run: _Scan, report: RepairReport) -> Comparison:
    pair = [Pair(run.adapted, run.base)]
    answers = list(run.behaviour.tasks.values())
    measured = [found for each in answers for found in measure_task(each, pair, seed=run.seed)]
    comparison = Comparison(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=list(run.options.command),
        seed=run.seed,
        lorascope_version=__version__,
        provenance=Provenance(
            libraries=libraries(),
            git=git_state(),
            device=run.device,
            dtype=f"auto (base stored as {run.opened.base.dtype})"
            if run.options.dtype == "auto"
            else run.options.dtype,
            engine="transformers",
            timings={name: round(seconds, 3) for name, seconds in run.timings.items()},
            suite_hash=run.suite_hash,
        ),
        checkpoints=run.opened.infos,
        tasks=[task_info(each.task, each.asked.get(run.adapted)) for each in answers],
        measurements=adjust_p_values(measured),
        series=pareto_series(report),
        repair=report,
        missing=what_is_missing(report, run.opened.base_info),
    )
    told = [finding_of(report), *run.opened.findings, *findings.find(comparison, answers, run.notes)]
    return comparison.model_copy(update={"findings": findings.by_severity(told)})
