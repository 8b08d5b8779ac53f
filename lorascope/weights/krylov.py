"""The leading singular triplets of a matrix known by its products: block Krylov with full reorthogonalisation.

Musco & Musco, "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value Decomposition"
(NeurIPS 2015), Algorithm 2, grown one block at a time until the residuals say that it is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lorascope.weights.matrices import Matrix, full_precision, singular_value_decomposition

_WIDTH = 16
_CHECK_EVERY = 3
_MOST_BLOCKS = 80
_STALLED = 0.5


@dataclass(frozen=True)
class Triplets:
    """Singular triplets, largest value first: ``left`` (m, k), ``values`` (k,), ``right`` (n, k), orthonormal.

    ``errors`` (k,) bounds how far each vector may be from the true one: √2 · sin of the angle, which is at most the
    residual ‖A v − σ u‖ over the distance to the nearest other singular value (Wedin 1972). Infinite where a value
    has no distance from the next: single vectors are arbitrary there. ``gaps`` (k,) is that distance relative to σ.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    errors: Tensor
    gaps: Tensor

    def first(self, count: int) -> Triplets:
        """The ``count`` leading ones."""
        parts = (self.left[:, :count], self.values[:count], self.right[:, :count])
        return Triplets(*parts, self.errors[:count], self.gaps[:count])


def leading_triplets(
    matrix: Matrix, count: int, *, accuracy: float = 1e-3, needed: int | None = None, seed: int = 0
) -> Triplets:
    """The ``count`` leading singular triplets, fewer where the rank is lower.

    Iterates until the errors of the first ``needed`` vectors (all of them by default) are at most ``accuracy``, or
    until the residuals no longer fall: near-degenerate values leave larger errors, which are reported, not hidden. A
    Krylov space that would fill half of the whole space is no cheaper than the whole: the matrix is then decomposed
    outright.
    """
    rows, columns = matrix.shape
    if rows < columns:
        found = leading_triplets(matrix.T, count, accuracy=accuracy, needed=needed, seed=seed)
        return Triplets(found.right, found.values, found.left, found.errors, found.gaps)
    with full_precision():
        grown = _grow(matrix, count, accuracy, needed or count, seed)
        return grown if grown is not None else all_triplets(matrix.dense()).first(count)


def all_triplets(matrix: Tensor) -> Triplets:
    """Every triplet by an exact decomposition; values within rounding of zero are dropped, their vectors arbitrary."""
    left, values, right = singular_value_decomposition(matrix)
    rank = significant(values, (matrix.shape[0], matrix.shape[1]))
    rounding = _rounding(matrix.dtype) * (values[:1] if rank else values.new_ones(1))
    errors, gaps = _separation(values[:rank], rounding.expand(rank), values[rank:])
    return Triplets(left[:, :rank], values[:rank], right[:, :rank], errors, gaps)


def significant(values: Tensor, shape: tuple[int, int]) -> int:
    """How many singular values exceed max(m, n) · ε · σ₁, the rounding of the arithmetic."""
    if values.numel() == 0 or float(values[0]) == 0.0:
        return 0
    return int((values > max(shape) * torch.finfo(values.dtype).eps * values[0]).sum())


def _grow(matrix: Matrix, count: int, accuracy: float, needed: int, seed: int) -> Triplets | None:
    """The Krylov iteration, in the space of the right vectors (the shorter side); None where it would fill it."""
    columns, width = matrix.shape[1], _WIDTH
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(columns, width, generator=generator, dtype=matrix.whole.dtype).to(matrix.whole.device)
    if 4 * max(count, width) > columns:
        return None
    block = torch.linalg.qr(matrix.T.times(matrix.times(start))).Q
    basis, images = block, matrix.times(block)
    before = math.inf
    for step in range(1, _MOST_BLOCKS):
        if 2 * (basis.shape[1] + width) > columns:
            return None
        block = _next_block(matrix, basis, images[:, -width:])
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, matrix.times(block)], dim=1)
        if basis.shape[1] < 2 * count or step % _CHECK_EVERY:
            continue
        found, residual = _ritz(matrix, basis, images, count)
        enough = bool((found.errors[:needed] <= accuracy).all())
        if enough or residual == 0.0 or residual > _STALLED * before or residual < _rounding(matrix.whole.dtype):
            return found
        before = residual
    return found


def _next_block(matrix: Matrix, basis: Tensor, image: Tensor) -> Tensor:
    fresh = matrix.T.times(image)
    # Twice is enough (Giraud, Langou & Rozložník 2005): one pass leaves what rounding made of the cancellation.
    for _ in range(2):
        fresh = fresh - basis @ (basis.T @ fresh)
        fresh = torch.linalg.qr(fresh).Q
    return fresh


def _ritz(matrix: Matrix, basis: Tensor, images: Tensor, count: int) -> tuple[Triplets, float]:
    """Rayleigh–Ritz on the basis, in float64: best approximations from it, and the largest residual over σ₁."""
    wide = images.double()
    squares, inner = torch.linalg.eigh(wide.T @ wide)
    values = squares.flip(0).clamp(min=0).sqrt()
    inner = inner.flip(1).to(basis.dtype)
    kept = min(count, significant(values.to(basis.dtype), matrix.shape))
    right = basis @ inner[:, :kept]
    left = (images @ inner[:, :kept]) / values[:kept].to(basis.dtype)
    backward = matrix.T.times(left) - right * values[:kept].to(basis.dtype)
    residuals = backward.norm(dim=0) + _rounding(basis.dtype) * float(values[0])
    errors, gaps = _separation(values[:kept].to(basis.dtype), residuals, values[kept:].to(basis.dtype))
    found = Triplets(left, values[:kept].to(basis.dtype), right, errors, gaps)
    return found, float(backward.norm(dim=0).max() / values[0]) if kept else 0.0


def _separation(values: Tensor, residuals: Tensor, further: Tensor) -> tuple[Tensor, Tensor]:
    """Errors and relative gaps of ``values``; ``further`` are the next smaller singular values, as far as known."""
    if values.numel() == 0:
        return values.clone(), values.clone()
    following = torch.cat([values[1:], further[:1] if further.numel() else values.new_zeros(1)])
    below = values - following
    above = torch.cat([values.new_full((1,), math.inf), below[:-1]])
    nearest = torch.minimum(torch.minimum(above, below), values)
    distance = nearest - residuals
    errors = torch.where(distance > 0, math.sqrt(2.0) * residuals / distance, math.inf)
    return errors, nearest / values


def _rounding(dtype: torch.dtype) -> float:
    """Rounding error of a product relative to σ₁: sums of thousands of terms are blocked, so a few ε, not √n · ε."""
    return 8.0 * torch.finfo(dtype).eps
