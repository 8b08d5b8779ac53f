"""The weight report: one module's change measured, and a subject's modules summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from lorascope.schema.comparison import ModuleWeights, WeightReport
from lorascope.weights.bases import BaseMatrix
from lorascope.weights.deltas import DenseDelta, WeightDelta
from lorascope.weights.intruders import Judgement, Question, judge_matrix
from lorascope.weights.krylov import leading_triplets
from lorascope.weights.matrices import Matrix, adapted_matrix
from lorascope.weights.null_levels import random_update
from lorascope.weights.spectra import (
    effective_rank,
    frobenius_norm,
    numerical_rank,
    rank_for_energy,
    rounding_floor,
    spectral_change,
    stable_rank,
    unchanged_fraction,
)
from lorascope.weights.subspaces import amplification, principal_directions

_KEPT_VALUES = 64
_WHOLE_SPECTRUM = 2048
SIMILAR_DIRECTIONS = 16
_SATURATED = 0.9


@dataclass(frozen=True)
class AnalysisOptions:
    """What to measure besides ‖ΔW‖ and intruders.

    ``null`` judges a random update of the same norm and rank too; ``full_spectrum`` decomposes a dense ΔW of more than
    2048 dimensions whole, where otherwise only its leading 64 singular values are found.
    """

    question: Question = field(default_factory=Question)
    null: bool = True
    full_spectrum: bool = False
    seed: int = 0


@dataclass(frozen=True)
class ModuleAnalysis:
    """One module of one subject. ``directions`` (m, ≤ 16) are ΔW's leading output directions; no judgement at ΔW = 0.

    ``null`` is the judgement of the random update.
    """

    report: ModuleWeights
    judgement: Judgement | None
    null: Judgement | None
    directions: Tensor


@dataclass(frozen=True)
class _Spectrum:
    """Singular values of ΔW, largest first: all of them, or (``whole`` False) the leading ones; ``norm`` is ‖ΔW‖_F."""

    values: Tensor
    norm: float
    whole: bool

    def rank_for(self, share: float) -> int | None:
        """Directions that hold ``share`` of ‖ΔW‖²_F; None where the known values do not reach it."""
        if self.whole:
            return rank_for_energy(self.values, share)
        reached = self.values.double().square().cumsum(0) >= share * self.norm**2
        return int(reached.int().argmax()) + 1 if bool(reached.any()) else None


def analyse_module(
    name: str,
    base: BaseMatrix,
    delta: WeightDelta,
    *,
    method: str,
    adapter_rank: int | None,
    stored_dtype: str,
    tuned: Tensor | None = None,
    options: AnalysisOptions | None = None,
    subjects: int = 1,
) -> ModuleAnalysis:
    """Measure ΔW of one module against its base matrix; ``subjects`` will be judged against the same base.

    ``tuned`` is the adapted matrix where it is stored itself (a full model): it is judged as it is, and has a rounding
    floor and a share of unchanged entries; factors hold ΔW without the base's rounding. ``relative_change`` is
    ‖ΔW‖_F / ‖W0‖_F.
    """
    options = options or AnalysisOptions()
    spectrum = _spectrum(delta, options.full_spectrum)
    adapted = adapted_matrix(base.weight, delta) if tuned is None else Matrix(tuned)
    judgement = null = None
    if spectrum.norm:
        judgement = judge_matrix(base, adapted, options.question, subjects=subjects)
        null = _judge_null(name, base, delta, spectrum, options, subjects) if options.null else None
    floor = None if tuned is None else rounding_floor(tuned, stored_dtype)
    rank = numerical_rank(spectrum.values, delta.shape, floor=floor, dtype=torch.float32)
    report = ModuleWeights(
        name=name,
        shape=delta.shape,
        method=method,
        adapter_rank=adapter_rank,
        numerical_rank=rank if spectrum.whole or rank < len(spectrum.values) else None,
        rounding_floor=floor,
        exact_zero_fraction=None if tuned is None else unchanged_fraction(base.weight, tuned, stored_dtype),
        intruders=judgement.report if judgement else None,
        null_count=null.report.count if null else None,
        null_energy=null.report.energy if null else None,
        shrink_count=_judge_shrink(base, spectrum.norm, options.question) if null else None,
        notes=_notes(base, spectrum, judgement),
        **_sizes(base, delta, spectrum, rank),
    )
    return ModuleAnalysis(report, judgement, null, _directions(delta, spectrum))


def _directions(delta: WeightDelta, spectrum: _Spectrum) -> Tensor:
    """ΔW's leading output directions, (m, ≤ 16); none for ΔW = 0."""
    if not spectrum.norm:
        return torch.zeros(delta.shape[0], 0)
    if isinstance(delta, DenseDelta):
        return leading_triplets(Matrix(delta.matrix), SIMILAR_DIRECTIONS).left
    return principal_directions(delta, SIMILAR_DIRECTIONS)[0]


def _spectrum(delta: WeightDelta, full: bool) -> _Spectrum:
    if not isinstance(delta, DenseDelta) or full or min(delta.shape) <= _WHOLE_SPECTRUM:
        values = delta.singular_values()
        return _Spectrum(values, frobenius_norm(values), True)
    norm = float(torch.linalg.vector_norm(delta.matrix, dtype=torch.float64))
    values = (
        leading_triplets(Matrix(delta.matrix), _KEPT_VALUES, needed=1).values if norm else delta.matrix.new_zeros(0)
    )
    return _Spectrum(values, norm, False)


def _sizes(base: BaseMatrix, delta: WeightDelta, spectrum: _Spectrum, rank: int) -> dict[str, Any]:
    """How large ΔW is, and over how many directions it spreads."""
    norm, values = spectrum.norm, spectrum.values
    tail = values.numel() and float(values[0]) > 0.0
    return {
        "frobenius": norm,
        "relative_change": norm / base.norm if base.norm else None,
        "spectral_change": spectral_change(values, base.leading.values),
        "stable_rank": (norm / float(values[0])) ** 2 if tail and not spectrum.whole else stable_rank(values),
        "effective_rank": effective_rank(values) if spectrum.whole else None,
        "rank_90": spectrum.rank_for(0.90),
        "rank_95": spectrum.rank_for(0.95),
        "rank_99": spectrum.rank_for(0.99),
        "amplification": amplification(delta, base.weight, rank=rank) if spectrum.whole and rank else None,
        "singular_values": [float(value) for value in values[:_KEPT_VALUES]],
    }


def _judge_null(
    name: str, base: BaseMatrix, delta: WeightDelta, spectrum: _Spectrum, options: AnalysisOptions, subjects: int
) -> Judgement:
    """The same question for a random update: what a change of this size does to any matrix, whatever was learnt."""
    update = random_update(delta, seed=options.seed + crc32(name.encode()), values=spectrum.values, norm=spectrum.norm)
    return judge_matrix(base, adapted_matrix(base.weight, update), options.question, subjects=subjects)


def _judge_shrink(base: BaseMatrix, norm: float, question: Question) -> int | None:
    """Intruders of W0·(1 − ‖ΔW‖/‖W0‖), a change of equal norm that adds no direction."""
    if norm >= base.norm:
        return None
    shrunk = Matrix(base.weight * (1.0 - norm / base.norm))
    return judge_matrix(base, shrunk, replace(question, sides=("left",), fallback=False)).report.count


def _notes(base: BaseMatrix, spectrum: _Spectrum, judgement: Judgement | None) -> list[str]:
    notes = [] if spectrum.norm else ["ΔW is exactly zero: nothing to judge"]
    if base.norm == 0.0:
        notes.append("the base matrix is zero: no relative change")
    if not spectrum.whole and spectrum.norm:
        notes.append(
            f"only the {len(spectrum.values)} leading singular values of ΔW were computed: no effective rank and no "
            "amplification (--full-spectrum computes all)"
        )
    if judgement is not None:
        notes += _ambiguities(judgement)
        judged = len(judgement.report.vectors)
        if judged < judgement.report.k:
            notes.append(f"{judged} vectors judged of k = {judgement.report.k}: the adapted matrix has no more")
    if base.rank is not None and 0 < base.rank < min(base.weight.shape):
        notes.append(
            f"the base matrix has rank {base.rank} of {min(base.weight.shape)}: only directions with a singular value "
            "above rounding count as its own"
        )
    return notes


def _ambiguities(judgement: Judgement) -> list[str]:
    sides = [judgement.report, *([judgement.report.right] if judgement.report.right else [])]
    unclear = [(side.side, vector.index + 1) for side in sides for vector in side.vectors if vector.degenerate]
    if not unclear:
        return []
    named = ", ".join(f"{side} {index}" for side, index in unclear[:4]) + (" …" if len(unclear) > 4 else "")
    return [
        f"nearly equal singular values: {len(unclear)} judged vectors ({named}) are determined only up to a rotation, "
        "another decomposition may judge them otherwise"
    ]


def summarise(modules: Sequence[ModuleWeights], base_norms: Sequence[float], notes: Sequence[str]) -> WeightReport:
    """Totals over the modules.

    ``relative_change`` is √Σ‖ΔW‖² / √Σ‖W0‖² over all these modules, unchanged ones included; ``effective_rank``,
    ``stable_rank`` and the ranks for 90, 95 and 99 % of the energy are means over modules with ΔW ≠ 0,
    ``amplification`` is their median; ``intruder_energy`` is the share of Σσ² of all judged left vectors that
    intruders carry. ``saturated_modules`` have nine in ten of the intruders that they can have (as many as vectors
    are judged, or as an adapter has ranks): their counts can hardly grow, only the energy can. ``intruder_count@ε``
    counts at each further ε that was asked for.
    """
    judged = [module.intruders for module in modules if module.intruders is not None]
    right = [report.right for report in judged if report.right is not None]
    base_total = math.sqrt(sum(norm**2 for norm in base_norms))
    delta_total = math.sqrt(sum(module.frobenius**2 for module in modules))
    full = [module for module in modules if _is_saturated(module)]
    count, rotations = sum(report.count for report in judged), sum(report.rotations or 0 for report in judged)
    totals: dict[str, float | None] = {
        "modules": float(len(modules)),
        "changed_modules": float(len(judged)),
        "frobenius": delta_total,
        "relative_change": delta_total / base_total if base_total else None,
        "amplification": _over(modules, "amplification", median),
        "intruder_count": float(count) if judged else None,
        "intruder_new": float(count - rotations) if judged else None,
        "intruder_rotations": float(rotations) if judged else None,
        "intruder_count_right": float(sum(report.count for report in right)) if right else None,
        "intruder_energy": _energy(modules),
        "undecided": float(sum(report.undecided for report in judged)) if judged else None,
        "judged_vectors": float(sum(len(report.vectors) for report in judged)),
        "saturated_modules": float(len(full)) if judged else None,
        "null_intruder_count": _over(modules, "null_count", sum),
        "null_intruder_energy": _null_energy(modules),
        "shrink_intruder_count": _over(modules, "shrink_count", sum),
    }
    for epsilon in dict.fromkeys(epsilon for report in judged for epsilon in report.further_epsilons):
        vectors = [vector for report in judged for vector in report.vectors]
        totals[f"intruder_count@{epsilon:g}"] = float(sum(vector.high < epsilon for vector in vectors))
    totals |= {
        name: _over(modules, name, _mean) for name in ("effective_rank", "stable_rank", "rank_90", "rank_95", "rank_99")
    }
    return WeightReport(modules=list(modules), totals=totals, notes=list(notes))


def _is_saturated(module: ModuleWeights) -> bool:
    report = module.intruders
    if report is None or not report.vectors:
        return False
    most = min(len(report.vectors), module.adapter_rank or len(report.vectors))
    return report.count >= _SATURATED * most


def _energy(modules: Sequence[ModuleWeights]) -> float | None:
    vectors = [vector for module in modules if module.intruders for vector in module.intruders.vectors]
    total = sum(vector.singular_value**2 for vector in vectors)
    intruding = sum(vector.singular_value**2 for vector in vectors if vector.verdict == "intruder")
    return intruding / total if total else None


def _null_energy(modules: Sequence[ModuleWeights]) -> float | None:
    """As ``intruder_energy``, each module weighed by the energy of its own judged vectors: the updates are as large."""
    known = [
        (module.null_energy, sum(vector.singular_value**2 for vector in module.intruders.vectors))
        for module in modules
        if module.null_energy is not None and module.intruders is not None
    ]
    total = sum(weight for _, weight in known)
    return sum(share * weight for share, weight in known) / total if total else None


def _over(modules: Sequence[ModuleWeights], name: str, combine: Callable[[Sequence[float]], float]) -> float | None:
    """``combine`` over the modules that have a value of this name."""
    known = [float(value) for value in (getattr(module, name) for module in modules) if value is not None]
    return float(combine(known)) if known else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
