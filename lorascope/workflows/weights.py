"""ΔW of every subject, module by module: one base matrix serves all subjects, and one module is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lorascope.checkpoints.changes import AdapterChanges, Changes
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.others import OtherChange
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Measurement, Missing, Series, WeightReport
from lorascope.schema.values import Estimate
from lorascope.weights.analysis import AnalysisOptions, summarise
from lorascope.weights.bases import Side
from lorascope.weights.intruders import Question
from lorascope.workflows.base_cache import BaseCache
from lorascope.workflows.output import naming, write_whole
from lorascope.workflows.run_steps import run_step
from lorascope.workflows.weight_findings import other_changes_note
from lorascope.workflows.weight_modules import Arithmetic, ModuleOutcome, User, ahead, analyse_users, loads
from lorascope.workflows.weight_series import weight_series

Progress = Callable[[int, int], None]
_AGAINST_BASE = "measured against the base: the base itself has no value"


@dataclass(frozen=True)
class WeightOptions:
    """What to measure of ΔW and how.

    ``epsilons``: the first is the report's, every one is decided; ``exact`` decomposes everything (the reference);
    ``fallback`` False leaves undecided vectors undecided; ``null`` judges random updates too; ``full_spectrum``
    decomposes large dense ΔW whole; ``cache_dir`` keeps what is found out of base matrices; ``sequence`` takes the
    subjects, in the order given, as stages of one sequence of tasks.
    """

    k: int = 10
    epsilons: tuple[float, ...] = (0.5,)
    sides: tuple[Side, ...] = ("left", "right")
    exact: bool = False
    fallback: bool = True
    null: bool = True
    full_spectrum: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    cache_dir: Path | None = None
    sequence: bool = False

    def analysis(self, seed: int) -> AnalysisOptions:
        """The same for one module."""
        # Exact values, but the base is decomposed once: only its leading vectors are needed of an adapted matrix.
        engine: Literal["svd", "base_svd"] | None = None
        if self.exact:
            engine = "svd" if self.cache_dir is None else "base_svd"
        question = Question(self.k, self.epsilons, self.sides, engine, self.fallback)
        return AnalysisOptions(question, self.null, self.full_spectrum, seed)


@dataclass
class WeightOutcome:
    """Reports by subject, rows of ``weights.parquet``, curves, and what could not be analysed."""

    reports: dict[str, WeightReport] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


def analyse_weights(
    base: str,
    subjects: Sequence[tuple[OpenCheckpoint, Changes]],
    options: WeightOptions,
    *,
    on_progress: Progress,
    device: str = "cpu",
    seed: int = 0,
    journal: Path | None = None,
) -> WeightOutcome:
    """Measure every linear module that any subject changes.

    Modules are named by the base's file keys, so that subjects trained under different head classes line up. Each
    finished module is written to ``journal``; what stands there already is not computed again.
    """
    import torch

    arithmetic = Arithmetic(torch.device(device), options.dtype, BaseCache(options.cache_dir))
    runs = _runs(subjects)
    chains = {f"run:{run}": sorted(steps, key=lambda name: steps[name]) for run, steps in runs.items()}
    if options.sequence:
        chains["sequence"] = [subject.name for subject, _ in subjects]
    plan = _plan(subjects)
    done = _journalled(journal)
    pending = {name: users for name, users in plan.items() if name not in done}
    stream = ahead(chain.from_iterable(loads(users) for users in pending.values()))
    for name, users in pending.items():
        on_progress(len(done), len(plan))
        done[name] = analyse_users(name, users, stream, options.analysis(seed), arithmetic, chains)
        _write_down(done[name], journal)
    on_progress(len(plan), len(plan))
    found = _gathered(base, subjects, [done[name] for name in plan], runs, options)
    found.missing += [Missing(area="weights", reason=reason) for reason in arithmetic.cache.failures]
    return found


def write_weights(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write ``weights.parquet``: one row a judged vector."""
    import pyarrow
    import pyarrow.parquet

    numbers = ("singular_value_base", "singular_value_adapted", "low", "high", "leading_share")
    schema = pyarrow.schema(
        [("subject", pyarrow.string()), ("module", pyarrow.string()), ("layer", pyarrow.int64())]
        + [("kind", pyarrow.string()), ("side", pyarrow.string()), ("index", pyarrow.int64())]
        + [(name, pyarrow.float64()) for name in numbers]
        + [("verdict", pyarrow.string())]
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


def weight_measurements(base: str, reports: dict[str, WeightReport], options: WeightOptions) -> list[Measurement]:
    """The totals as measurements. The base is what they are measured against, so it has no value of its own."""
    judged = f"{options.dtype}|k:{options.k}|eps:{options.epsilons[0]:g}|left"
    table = [
        ("intruder_count", "count", "0-inf", judged),
        ("intruder_energy", "fraction", "0-1", judged),
        ("relative_change", "fraction", "0-inf", "frobenius|compared linear modules"),
        ("effective_rank", "dimensions", "0-inf", "exp entropy of sigma|mean over modules"),
        ("stable_rank", "dimensions", "0-inf", "frobenius^2/spectral^2|mean over modules"),
    ]
    found = []
    for subject, report in reports.items():
        modules = int(report.totals["modules"] or 0)
        for metric, unit, scale, signature in table:
            value = report.totals[metric]
            found.append(
                Measurement(
                    subject=subject,
                    reference=base,
                    area="weights",
                    metric=metric,
                    unit=unit,
                    scale=scale,
                    direction=find_spec(metric).direction,
                    adapted=None if value is None else Estimate(value=value, n=modules, method="none"),
                    signature=signature,
                    missing_reason=_no_value(report, metric) if value is None else _AGAINST_BASE,
                )
            )
    return found


def _no_value(report: WeightReport, metric: str) -> str:
    if metric == "effective_rank" and report.totals["changed_modules"]:
        return "ΔW's whole spectrum was not computed (--full-spectrum)"
    return "no linear module with ΔW ≠ 0"


def _runs(subjects: Sequence[tuple[OpenCheckpoint, Changes]]) -> dict[str, dict[str, int]]:
    """Run → its subjects with their steps, for runs of which at least two checkpoints are given."""
    found = {subject.name: run_step(subject.path) for subject, _ in subjects}
    known = {name: step for name, step in found.items() if step is not None}
    folders = {step.run for step in known.values()}
    runs: dict[str, dict[str, int]] = {}
    for name, step in known.items():
        alone = sum(folder.name == step.run.name for folder in folders) == 1
        runs.setdefault(step.run.name if alone else str(step.run), {})[name] = step.step
    return {run: steps for run, steps in runs.items() if len(steps) > 1}


def _plan(subjects: Sequence[tuple[OpenCheckpoint, Changes]]) -> dict[str, list[User]]:
    """Module → the subjects that change it; each subject's modules are in the base's order."""
    plan: dict[str, list[User]] = {}
    for subject, changes in subjects:
        for module in changes.modules():
            plan.setdefault(changes.base.label(module), []).append(User(subject.name, changes, module))
    return plan


def _journalled(journal: Path | None) -> dict[str, ModuleOutcome]:
    """Modules that an interrupted run has finished; a last line that was cut off is none."""
    if journal is None or not journal.is_file():
        return {}
    found = {}
    whole = b""
    content = journal.read_bytes()
    for line in content.split(b"\n")[:-1]:
        try:
            outcome = ModuleOutcome.model_validate_json(line)
        except ValidationError:
            break
        found[outcome.module] = outcome
        whole += line + b"\n"
    if whole != content:
        write_whole(journal, lambda part: part.write_bytes(whole))
    return found


def _write_down(outcome: ModuleOutcome, journal: Path | None) -> None:
    if journal is not None:
        with naming(journal), journal.open("ab") as file:
            file.write(outcome.model_dump_json().encode() + b"\n")


def _gathered(
    base: str,
    subjects: Sequence[tuple[OpenCheckpoint, Changes]],
    outcomes: Sequence[ModuleOutcome],
    runs: Mapping[str, Mapping[str, int]],
    options: WeightOptions,
) -> WeightOutcome:
    found = WeightOutcome(rows=[row for outcome in outcomes for row in outcome.rows])
    for subject, changes in subjects:
        own = [outcome for outcome in outcomes if subject.name in outcome.reports]
        found.missing += _missing(subject, changes, bool(own))
        notes = [f"not analysed: {name}" for name in changes.base.skeleton.unread] + _other_changes(changes)
        modules = [outcome.reports[subject.name] for outcome in own]
        found.reports[subject.name] = summarise(modules, [outcome.base_norm for outcome in own], notes)
    sequence = [subject.name for subject, _ in subjects] if options.sequence else []
    found.series = weight_series(base, found.reports, outcomes, runs, sequence)
    return found


def _other_changes(changes: Changes) -> list[str]:
    """One line a kind of parameter that changed and has no ΔW of a linear module."""
    kinds: dict[str, list[OtherChange]] = {}
    for change in changes.others():
        rounded = change.note is not None and change.note.startswith("the base's, rounded")
        kinds.setdefault("rounded" if rounded else change.kind, []).append(change)
    lines = []
    for kind, changed in kinds.items():
        largest = max(changed, key=lambda change: change.relative_change or 0.0)
        lines.append(other_changes_note(kind, len(changed), largest.name, largest.relative_change))
    return lines


def _missing(subject: OpenCheckpoint, changes: Changes, analysed: bool) -> list[Missing]:
    found = []
    if not analysed:
        reason = _why_nothing(subject, changes)
        found.append(Missing(area="weights", subject=subject.name, reason=reason))
    if changes.base.skeleton.unread:
        count = len(changes.base.skeleton.unread)
        reason = f"{count} stacks of matrices are not analysed (first: {changes.base.skeleton.unread[0]})"
        found.append(Missing(area="weights", subject=subject.name, reason=reason))
    return found


def _why_nothing(subject: OpenCheckpoint, changes: Changes) -> str:
    reason = changes.why_none if isinstance(changes, AdapterChanges) else None
    method = subject.adapter.method if subject.adapter else "full"
    return reason or f"{method} changes no linear module of the base"
