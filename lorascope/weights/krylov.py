"""The leading singular triplets of a matrix known by its products: block Krylov with full reorthogonalisation.

Musco & Musco, "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value Decomposition"
(NeurIPS 2015), Algorithm 2, grown one block at a time until the residuals say that it is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorascope.weights.matrices import Matrix, full_precision, singular_value_decomposition

_WIDTH = 16
_CHECK_EVERY = 3
_MOST_BLOCKS = 80
_STALLED = 0.5
_COPY = 0.5
_ROWS = 8192


@dataclass(frozen=True)
class Triplets:
    """Singular triplets, largest value first: ``left`` (m, k), ``values`` (k,), ``right`` (n, k), orthonormal.

    ``errors`` (k,) bounds how far each vector may be from the true one: √2 · sin of the angle, which is at most the
    residual ‖A v − σ u‖ over the distance to the nearest other singular value (Wedin 1972). Infinite where a value
    has no distance from the next: single vectors are arbitrary there. ``residuals`` (k,) are those norms, ``gaps`` (k,)
    that distance relative to σ. Distances are to the singular values that were found: a direction that the random
    start of the iteration has no part of is not, which happens with probability 0.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    residuals: Tensor
    errors: Tensor
    gaps: Tensor

    def first(self, count: int) -> Triplets:
        """The ``count`` leading ones."""
        sides = self.left[:, :count], self.values[:count], self.right[:, :count]
        return Triplets(*sides, self.residuals[:count], self.errors[:count], self.gaps[:count])


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
        return replace(found, left=found.right, right=found.left)
    with full_precision():
        grown = _grow(matrix, count, accuracy, needed or count, seed)
        return grown if grown is not None else all_triplets(matrix.dense()).first(count)


def all_triplets(matrix: Tensor) -> Triplets:
    """Every triplet by an exact decomposition; values within rounding of zero are dropped, their vectors arbitrary."""
    left, values, right = singular_value_decomposition(matrix)
    rank = significant(values)
    residuals = (_rounding(matrix.dtype) * values[:1]).expand(rank)
    errors, gaps = _separation(values[:rank], residuals, values[rank:])
    return Triplets(left[:, :rank], values[:rank], right[:, :rank], residuals, errors, gaps)


def significant(values: Tensor) -> int:
    """How many singular values, largest first, exceed 32 ε σ₁: below that they are rounding, their vectors arbitrary.

    The usual max(m, n) · ε · σ₁ is 5e-4 of σ₁ for 4096 columns in float32: it would drop directions that real weights
    use and that a decomposition determines well.
    """
    if values.numel() == 0 or float(values[0]) == 0.0:
        return 0
    return int((values > 32.0 * torch.finfo(values.dtype).eps * values[0]).sum())


def _grow(matrix: Matrix, count: int, accuracy: float, needed: int, seed: int) -> Triplets | None:
    """The Krylov iteration, in the space of the right vectors (the shorter side); None where it would fill it."""
    columns, width = matrix.shape[1], _WIDTH
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(columns, width, generator=generator, dtype=matrix.whole.dtype).to(matrix.whole.device)
    if 4 * max(count, width) > columns:
        return None
    image = matrix.times(start)
    # Norms of second powers of weights would leave the range of float32.
    unit = float(image.abs().max()) or 1.0
    block = torch.linalg.qr(matrix.T.times(image / unit)).Q
    basis, images = block, matrix.times(block)
    before, found = math.inf, None
    for step in range(1, _MOST_BLOCKS):
        if 2 * (basis.shape[1] + width) > columns:
            return None
        block = _orthonormal(matrix.T.times(images[:, -width:] / unit), basis, generator)
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, matrix.times(block)], dim=1)
        if basis.shape[1] < 2 * count or step % _CHECK_EVERY:
            continue
        found = _ritz(matrix, basis, images, count)
        if bool((found.errors[:needed] <= accuracy).all()):
            return found
        # Rounding is part of every residual: at twice that, nothing is left to gain.
        largest = float(found.residuals[:needed].max()) / float(found.values[0])
        if largest > _STALLED * before or largest < 2.0 * _rounding(basis.dtype):
            return found
        before = largest
    return found


def _orthonormal(fresh: Tensor, basis: Tensor, generator: torch.Generator) -> Tensor:
    """``fresh`` made orthonormal, to ``basis`` too; random columns where the Krylov space is exhausted.

    What is left of an exhausted direction is rounding, inside the basis; normalising that would put a copy there. A
    unit vector that a second projection shortens by half was such a one (Daniel, Gragg, Kaufman & Stewart 1976).
    """
    unit = torch.linalg.qr(fresh - basis @ (basis.T @ fresh)).Q
    left = unit - basis @ (basis.T @ unit)
    drawn = torch.randn(fresh.shape, generator=generator, dtype=fresh.dtype).to(fresh.device)
    found: Tensor = torch.where(left.norm(dim=0) < _COPY, drawn, left)
    # Twice is enough (Giraud, Langou & Rozložník 2005): one pass leaves what rounding made of the cancellation.
    for _ in range(2):
        found = torch.linalg.qr(found - basis @ (basis.T @ found)).Q
    return found


def _ritz(matrix: Matrix, basis: Tensor, images: Tensor, count: int) -> Triplets:
    """Rayleigh–Ritz on the basis, the small problem in float64: the best approximations that it holds."""
    gram = torch.zeros(basis.shape[1], basis.shape[1], dtype=torch.float64, device=basis.device)
    for rows in torch.split(images, _ROWS):
        gram += rows.double().T @ rows.double()
    squares, inner = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp(min=0).sqrt().to(basis.dtype)
    inner = inner.flip(1).to(basis.dtype)
    kept = min(count, significant(values))
    right = basis @ inner[:, :kept]
    left = (images @ inner[:, :kept]) / values[:kept]
    residuals = (matrix.T.times(left) - right * values[:kept]).norm(dim=0) + _rounding(basis.dtype) * values[:1]
    errors, gaps = _separation(values[:kept], residuals, values[kept:])
    return Triplets(left, values[:kept], right, residuals, errors, gaps)


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
