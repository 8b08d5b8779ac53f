"""Intruder dimensions (Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv 2410.21228).

Definition 3.1: the j-th left singular vector y_j of W = W0 + ΔW is an *intruder* when max_i |⟨y_j, x_i⟩| < ε over all
left singular vectors x_i of W0. The paper judges the k = 10 leading vectors at ε = 0.5. The same on the right side is
shown apart and never added in.

A low cosine is not "outside the span of W0": in n dimensions the largest of n cosines can be as low as 1/√n for a
vector that lies wholly inside. And inside a group of nearly equal singular values, single vectors may rotate freely:
``leading_share``, the squared length of y_j inside the base's leading directions, tells such a rotation (share near 1)
from a new direction (share near 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorascope.schema.comparison import IntruderReport, IntruderVector
from lorascope.weights.deltas import WeightDelta

_MOST_LEADING = 32
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class BaseSpectrum:
    """The base's thin SVD, made once and used for every subject. ``left`` (m, r) and ``right`` (n, r) orthonormal.

    Vectors whose singular value is within rounding of zero are dropped: there, single vectors are arbitrary.
    """

    weight: Tensor
    left: Tensor
    values: Tensor
    right: Tensor


@dataclass(frozen=True)
class Judgement:
    """Intruder report (left, with right inside) and the leading singular values of the adapted matrix."""

    report: IntruderReport
    adapted_values: Tensor


def leading_directions(dimensions: int) -> int:
    """How many of the base's directions count as leading: an eighth of the dimensions, at least 1, at most 32.

    So a vector drawn at random has a ``leading_share`` of at most 1/8 on average, in small matrices as in large ones.
    """
    return min(_MOST_LEADING, max(1, dimensions // 8))


def base_spectrum(weight: Tensor) -> BaseSpectrum:
    """Exact thin SVD of W0 (out, in), in the type of ``weight``."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    kept = _significant(values, weight)
    return BaseSpectrum(weight, left[:, :kept], values[:kept], right[:kept].T)


def judge_matrix(base: BaseSpectrum, delta: WeightDelta, *, k: int = 10, epsilon: float = 0.5) -> Judgement:
    """Judge the k leading singular vectors of W0 + ΔW on both sides by an exact SVD.

    Fewer than k are judged when the adapted matrix has a lower rank. Raises ``ValueError`` for ε outside (0, 1], k < 1
    or shapes that differ, and ``ArithmeticError`` when a cosine exceeds 1 + 1e-4 (vectors that are not orthonormal).
    """
    if not 0.0 < epsilon <= 1.0 or k < 1:
        raise ValueError(f"epsilon must lie in (0, 1] and k be at least 1, not {epsilon} and {k}")
    if tuple(delta.shape) != tuple(base.weight.shape):
        raise ValueError(f"ΔW is {tuple(delta.shape)}, the base weight {tuple(base.weight.shape)}")
    adapted = base.weight + delta.dense().to(base.weight.dtype)
    left, values, right = torch.linalg.svd(adapted, full_matrices=False)
    count = min(k, _significant(values, adapted))
    sides = [
        _judge_side(side, axes, vectors[:, :count], values[:count], k, epsilon)
        for side, axes, vectors in (("left", base.left, left), ("right", base.right, right.T))
    ]
    report = sides[0].model_copy(update={"right": sides[1]})
    return Judgement(report, values)


def _judge_side(side: str, axes: Tensor, vectors: Tensor, values: Tensor, k: int, epsilon: float) -> IntruderReport:
    cosines = (axes.T @ vectors).abs()
    if cosines.numel() == 0:
        largest = leading = torch.zeros(vectors.shape[1])
    else:
        largest = cosines.max(dim=0).values
        leading = cosines[: leading_directions(len(axes))].square().sum(dim=0)
    if bool((largest > 1.0 + _TOLERANCE).any()):
        raise ArithmeticError(f"a cosine of {float(largest.max()):.6f}: the singular vectors are not orthonormal")
    judged = [
        IntruderVector(
            index=index,
            singular_value=float(values[index]),
            low=min(float(largest[index]), 1.0),
            high=min(float(largest[index]), 1.0),
            leading_share=min(float(leading[index]), 1.0),
            verdict="intruder" if float(largest[index]) < epsilon else "kept",
        )
        for index in range(vectors.shape[1])
    ]
    return IntruderReport(
        k=k,
        epsilon=epsilon,
        side="left" if side == "left" else "right",
        count=sum(vector.verdict == "intruder" for vector in judged),
        undecided=0,
        exact=True,
        energy=_energy_share(judged),
        vectors=judged,
    )


def _energy_share(vectors: list[IntruderVector]) -> float | None:
    """Share of Σσ² of the judged vectors that intruders carry, 0–1; None for a zero matrix."""
    total = sum(vector.singular_value**2 for vector in vectors)
    if total == 0.0:
        return None
    return sum(vector.singular_value**2 for vector in vectors if vector.verdict == "intruder") / total


def _significant(values: Tensor, matrix: Tensor) -> int:
    if values.numel() == 0 or float(values[0]) == 0.0:
        return 0
    return int((values > max(matrix.shape) * torch.finfo(matrix.dtype).eps * values[0]).sum())
