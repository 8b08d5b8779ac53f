"""The weight report: one module's change measured, and a subject's modules summed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lorascope.schema.comparison import ModuleWeights, WeightReport
from lorascope.weights.deltas import WeightDelta
from lorascope.weights.intruders import BaseSpectrum, Judgement, judge_matrix
from lorascope.weights.spectra import effective_rank, frobenius_norm, numerical_rank, rounding_floor, stable_rank

_KEPT_VALUES = 64


def analyse_module(
    name: str,
    base: BaseSpectrum,
    delta: WeightDelta,
    *,
    method: str,
    adapter_rank: int | None,
    stored_dtype: str,
    k: int = 10,
    epsilon: float = 0.5,
) -> tuple[ModuleWeights, Judgement | None]:
    """Measure ΔW of one module against its base matrix. The judgement is None where ΔW is exactly zero.

    ``relative_change`` is ‖ΔW‖_F / ‖W0‖_F; the rounding floor is given where the adapted matrix itself is stored
    (a full model, ``adapter_rank`` None), since factors hold ΔW without it.
    """
    values = delta.singular_values()
    norm, base_norm = frobenius_norm(values), frobenius_norm(base.values)
    floor = None if adapter_rank is not None else rounding_floor(base.weight + delta.dense(), stored_dtype)
    notes = [] if norm else ["ΔW is exactly zero: nothing to judge"]
    if base_norm == 0.0:
        notes.append("the base matrix is zero: no relative change")
    judgement = judge_matrix(base, delta, k=k, epsilon=epsilon) if norm else None
    report = ModuleWeights(
        name=name,
        shape=delta.shape,
        method=method,
        adapter_rank=adapter_rank,
        numerical_rank=numerical_rank(values, delta.shape, floor=floor, dtype=torch.float32),
        frobenius=norm,
        relative_change=norm / base_norm if base_norm else None,
        stable_rank=stable_rank(values),
        effective_rank=effective_rank(values),
        rounding_floor=floor,
        singular_values=[float(value) for value in values[:_KEPT_VALUES]],
        intruders=judgement.report if judgement else None,
        notes=notes,
    )
    return report, judgement


def summarise(modules: Sequence[ModuleWeights], base_norms: Sequence[float], notes: Sequence[str]) -> WeightReport:
    """Totals over the modules.

    ``relative_change`` is √Σ‖ΔW‖² / √Σ‖W0‖² over the changed modules; ``effective_rank`` and ``stable_rank`` are means
    over modules with ΔW ≠ 0; ``intruder_energy`` is the share of Σσ² of all judged left vectors that intruders carry.
    """
    judged = [module.intruders for module in modules if module.intruders is not None]
    right = [report.right for report in judged if report.right is not None]
    vectors = [vector for report in judged for vector in report.vectors]
    energy = sum(vector.singular_value**2 for vector in vectors)
    intruding = sum(vector.singular_value**2 for vector in vectors if vector.verdict == "intruder")
    base_total = math.sqrt(sum(norm**2 for norm in base_norms))
    delta_total = math.sqrt(sum(module.frobenius**2 for module in modules))
    return WeightReport(
        modules=list(modules),
        totals={
            "modules": float(len(modules)),
            "changed_modules": float(len(judged)),
            "frobenius": delta_total,
            "relative_change": delta_total / base_total if base_total else None,
            "effective_rank": _mean([module.effective_rank for module in modules]),
            "stable_rank": _mean([module.stable_rank for module in modules]),
            "intruder_count": float(sum(report.count for report in judged)) if judged else None,
            "intruder_count_right": float(sum(report.count for report in right)) if right else None,
            "intruder_energy": intruding / energy if energy else None,
            "judged_vectors": float(len(vectors)),
        },
        notes=list(notes),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
