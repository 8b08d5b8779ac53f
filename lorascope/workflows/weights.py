"""ΔW of every subject, module by module: one base decomposition serves all subjects, one module is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorascope.checkpoints.changes import AdapterChanges, Changes, ModuleChange
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import (
    Estimate,
    IntruderReport,
    Measurement,
    Missing,
    ModuleWeights,
    Series,
    WeightReport,
)
from lorascope.schema.names import position
from lorascope.weights.analysis import analyse_module, summarise
from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta
from lorascope.weights.intruders import BaseSpectrum, Judgement, base_spectrum
from lorascope.weights.spectra import frobenius_norm

Progress = Callable[[int, int], None]
_SHOWN = 32
_AGAINST_BASE = "measured against the base: the base itself has no value"


@dataclass
class WeightOutcome:
    """Reports by subject, rows of ``weights.parquet``, the base's leading spectra, and what could not be analysed."""

    reports: dict[str, WeightReport] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


def analyse_weights(
    base: str, subjects: Sequence[tuple[OpenCheckpoint, Changes]], *, k: int, epsilon: float, on_progress: Progress
) -> WeightOutcome:
    """Measure every linear module that any subject changes.

    Modules are named by the base's file keys, so that subjects trained under different head classes line up.
    """
    outcome = WeightOutcome()
    norms: dict[str, list[float]] = {subject.name: [] for subject, _ in subjects}
    reports: dict[str, list[ModuleWeights]] = {subject.name: [] for subject, _ in subjects}
    plan = _plan(subjects)
    for done, (key, users) in enumerate(plan.items(), 1):
        name = key.removesuffix(".weight")
        spectrum: BaseSpectrum | None = None
        for subject, changes, module in users:
            if spectrum is None:
                spectrum = base_spectrum(changes.base.weight(module))
            report, judgement = _one_module(name, spectrum, changes.change(module), k, epsilon)
            reports[subject.name].append(report)
            norms[subject.name].append(frobenius_norm(spectrum.values))
            if judgement is not None:
                outcome.rows += _rows(subject.name, name, spectrum, judgement)
        if spectrum is not None:
            outcome.series.append(_base_series(base, name, spectrum))
        on_progress(done, len(plan))
    for subject, changes in subjects:
        outcome.missing += _missing(subject, changes, bool(reports[subject.name]))
        notes = [f"not analysed: {name}" for name in changes.base.skeleton.unread]
        outcome.reports[subject.name] = summarise(reports[subject.name], norms[subject.name], notes)
    return outcome


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


def weight_measurements(base: str, reports: dict[str, WeightReport], k: int, epsilon: float) -> list[Measurement]:
    """The totals as measurements. The base is what they are measured against, so it has no value of its own."""
    judged = f"exact SVD float32|k:{k}|eps:{epsilon:g}|left"
    table = [
        ("intruder_count", "count", "0-inf", judged),
        ("intruder_energy", "fraction", "0-1", judged),
        ("relative_change", "fraction", "0-inf", "frobenius|changed linear modules"),
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
                    missing_reason="no linear module with ΔW ≠ 0" if value is None else _AGAINST_BASE,
                )
            )
    return found


def _base_series(base: str, module: str, spectrum: BaseSpectrum) -> Series:
    values = [float(value) for value in spectrum.values[:_SHOWN]]
    ranks = [float(rank) for rank in range(1, len(values) + 1)]
    return Series(subject=base, name=f"spectrum:{module}", x_name="index", x=ranks, y=list(values))


def _plan(
    subjects: Sequence[tuple[OpenCheckpoint, Changes]],
) -> dict[str, list[tuple[OpenCheckpoint, Changes, str]]]:
    """Base file key → the subjects that change it, with their name of the module, in the base's order."""
    plan: dict[str, list[tuple[OpenCheckpoint, Changes, str]]] = {}
    for subject, changes in subjects:
        for module in changes.modules():
            plan.setdefault(changes.base.keys[module], []).append((subject, changes, module))
    return plan


def _one_module(
    name: str, base: BaseSpectrum, change: ModuleChange, k: int, epsilon: float
) -> tuple[ModuleWeights, Judgement | None]:
    delta: WeightDelta
    if change.factors is not None:
        delta = FactoredDelta(change.factors.up, change.factors.down, change.factors.scaling)
    else:
        assert change.adapted is not None
        delta = DenseDelta(change.adapted - base.weight)
    return analyse_module(
        name,
        base,
        delta,
        method=change.method,
        adapter_rank=change.rank,
        stored_dtype=change.stored_dtype,
        k=k,
        epsilon=epsilon,
    )


def _rows(subject: str, module: str, base: BaseSpectrum, judgement: Judgement) -> list[dict[str, Any]]:
    _, layer, kind = position(module)
    rows = []
    sides: list[IntruderReport] = [judgement.report]
    if judgement.report.right is not None:
        sides.append(judgement.report.right)
    for side in sides:
        for vector in side.vectors:
            known = vector.index < len(base.values)
            rows.append(
                {"subject": subject, "module": module, "layer": layer, "kind": kind, "side": side.side}
                | {"index": vector.index}
                | {"singular_value_base": float(base.values[vector.index]) if known else None}
                | {"singular_value_adapted": vector.singular_value}
                | vector.model_dump(include={"low", "high", "leading_share", "verdict"})
            )
    return rows


def _missing(subject: OpenCheckpoint, changes: Changes, analysed: bool) -> list[Missing]:
    found = []
    if not analysed:
        reason = _why_nothing(subject, changes)
        found.append(Missing(area="weights", subject=subject.name, reason=reason))
    if changes.base.skeleton.unread:
        count = len(changes.base.skeleton.unread)
        found.append(
            Missing(
                area="weights",
                subject=subject.name,
                reason=f"{count} three-dimensional expert weights are not analysed (first: "
                f"{changes.base.skeleton.unread[0]})",
            )
        )
    return found


def _why_nothing(subject: OpenCheckpoint, changes: Changes) -> str:
    method = subject.adapter.method if subject.adapter else "full"
    if subject.adapter is not None and subject.adapter.is_prompt_method:
        return f"{method} adds tokens, not weights: there is no ΔW"
    if isinstance(changes, AdapterChanges) and changes.has_no_merge:
        return f"{method} has no merge: its change depends on the input, so there is no ΔW"
    return f"{method} changes no linear module of the base"
