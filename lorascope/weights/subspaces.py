"""Directions of a change: what ΔW amplifies, and how far two changes move a module along the same directions.

Single singular vectors are arbitrary inside a group of equal singular values, subspaces are not: compare the curves
over several dimensions, not one direction with one other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta
from lorascope.weights.spectra import frobenius_norm, numerical_rank

_TOLERANCE = 1e-4
_ROUNDING = 8
_LANCZOS_FROM = 512
_LANCZOS_PART = 8


def principal_directions(delta: WeightDelta, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Leading singular directions of ΔW: left (m, c), values (c,) largest first, right (n, c), all in float64.

    c is ``count``, or fewer where ΔW has a lower numerical rank in float32: beyond it directions are rounding noise.
    ΔW = 0 has none (c = 0). Factors are decomposed without forming their product (QR of both, then an SVD of r × r).
    A large matrix of which few directions are asked for goes through implicitly restarted Lanczos (ARPACK) to machine
    precision from a fixed start, others through a full SVD. Signs are arbitrary, in pairs. Raises ``ValueError`` for
    a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    left, values, right = _decomposed(delta, count)
    kept = min(count, numerical_rank(values, delta.shape, floor=None, dtype=torch.float32))
    return left[:, :kept], values[:kept], right[:, :kept]


def _decomposed(delta: WeightDelta, count: int) -> tuple[Tensor, Tensor, Tensor]:
    if isinstance(delta, FactoredDelta):
        first, second = torch.linalg.qr(delta.up.double()), torch.linalg.qr(delta.down.double().T)
        left, values, right = torch.linalg.svd(delta.scaling * (first.R @ second.R.T), full_matrices=False)
        return first.Q @ left, values, second.Q @ right.T
    if min(delta.shape) >= _LANCZOS_FROM and count * _LANCZOS_PART <= min(delta.shape) and bool(delta.matrix.any()):
        return _lanczos(delta.matrix, count)
    left, values, right = torch.linalg.svd(delta.matrix.double(), full_matrices=False)
    return left, values, right.T


def _lanczos(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    from scipy.sparse.linalg import svds

    array = matrix.detach().cpu().double().numpy()
    start = torch.randn(min(array.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    found: tuple[Any, Any, Any] = svds(array, k=count, v0=start, solver="arpack")
    order = found[1].argsort()[::-1].copy()
    left, values, right = (torch.from_numpy(part) for part in (found[0][:, order], found[1][order], found[2][order]))
    return left.to(matrix.device), values.to(matrix.device), right.T.to(matrix.device)


def amplification(delta: WeightDelta, base_weight: Tensor, *, rank: int | None = None) -> float | None:
    """‖ΔW‖_F / ‖UᵀW0V‖_F, with U and V the r leading singular directions of ΔW (arXiv 2106.09685, section 7.3).

    How much stronger the change is along its own directions than the base was there: 0 to ∞; the source finds 21.5
    at r = 4 in a query projection. ``rank`` is r, by default the numerical rank of ΔW in float32; give the rank above
    the rounding floor for stored matrices. At full rank in a square matrix the directions are the whole space and
    the value is the relative change. None for ΔW = 0, and where the base has nothing along these directions beyond
    rounding. Raises ``ValueError`` for shapes that differ.
    """
    if delta.shape != tuple(base_weight.shape):
        raise ValueError(f"ΔW is {delta.shape}, the base weight {tuple(base_weight.shape)}")
    norm = _norm(delta)
    if norm == 0.0 or rank == 0:
        return None
    weight = base_weight if base_weight.dtype in (torch.float32, torch.float64) else base_weight.float()
    if isinstance(delta, DenseDelta) and rank == min(delta.shape):
        along = _along_full_rank(delta.matrix, weight)
    else:
        left, _, right = principal_directions(delta, min(delta.shape) if rank is None else rank)
        along = float((left.T.to(weight) @ weight @ right.to(weight)).norm())
    rounding = _ROUNDING * torch.finfo(weight.dtype).eps * float(weight.norm())
    return norm / along if along > rounding else None


def _norm(delta: WeightDelta) -> float:
    if isinstance(delta, FactoredDelta):
        return frobenius_norm(delta.singular_values())
    return float(delta.matrix.double().norm())


def _along_full_rank(matrix: Tensor, weight: Tensor) -> float:
    """‖UᵀW0V‖_F where ΔW has full rank: on the shorter side its directions are the whole space, and drop out."""
    rows, columns = matrix.shape
    if rows == columns:
        return float(weight.norm())
    tall, base = (matrix, weight) if rows > columns else (matrix.T, weight.T)
    return float((torch.linalg.qr(tall.to(weight)).Q.T @ base).norm())


def subspace_similarity(left_a: Tensor, left_b: Tensor) -> Tensor:
    """φ(i, j) = ‖U_A[:, :i]ᵀ U_B[:, :j]‖²_F / min(i, j) for all i and j, as a matrix (a, b), row i - 1, column j - 1.

    From 0 (orthogonal) to 1 (the smaller subspace lies inside the larger one); arXiv 2106.09685, section 7.2.
    ``left_a`` (m, a) and ``left_b`` (m, b) hold orthonormal columns, leading first; right directions do as well. Raises
    ``ValueError`` for different m and ``ArithmeticError`` where a value exceeds 1 + 1e-4 (columns not orthonormal).
    """
    if left_a.shape[0] != left_b.shape[0]:
        raise ValueError(f"directions of {left_a.shape[0]} and {left_b.shape[0]} dimensions cannot be compared")
    shared = (left_a.double().T @ left_b.double()).square().cumsum(0).cumsum(1)
    rows = torch.arange(1, left_a.shape[1] + 1, device=shared.device, dtype=shared.dtype)
    columns = torch.arange(1, left_b.shape[1] + 1, device=shared.device, dtype=shared.dtype)
    similarity = shared / torch.minimum(rows[:, None], columns[None, :])
    if bool((similarity > 1.0 + _TOLERANCE).any()):
        raise ArithmeticError(f"a similarity of {float(similarity.max()):.6f}: the directions are not orthonormal")
    return similarity.clamp(max=1.0)


def similarity_curve(left_a: Tensor, left_b: Tensor) -> list[float]:
    """φ(i, i) for i from 1 to the smaller number of directions: subspaces of equal size, 0 to 1."""
    return [float(value) for value in subspace_similarity(left_a, left_b).diagonal()]


def random_similarity(i: int, j: int, dimensions: int) -> float:
    """Mean φ(i, j) of two independent random subspaces of i and j in ``dimensions`` dimensions: max(i, j)/dimensions.

    A fixed unit vector has i/n of its squared length in a Haar-random subspace of i dimensions, so the j directions
    together i·j/n, which min(i, j) divides. Raises ``ValueError`` unless 1 ≤ i, j ≤ dimensions.
    """
    if not (1 <= i <= dimensions and 1 <= j <= dimensions):
        raise ValueError(f"subspaces of {i} and {j} do not fit into {dimensions} dimensions")
    return max(i, j) / dimensions
