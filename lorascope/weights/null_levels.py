"""Null levels: changes as large as ΔW that carry nothing learnt, to hold a measure of ΔW against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta
from lorascope.weights.spectra import numerical_rank

_EXACT_PART = 4
_MOST_EXACT = 128


def random_update(
    delta: WeightDelta, *, seed: int, values: Tensor | None = None, norm: float | None = None
) -> WeightDelta:
    """A random update of the same norm, rank and singular values as ΔW, along Haar-random directions.

    Says what the size and rank of a change alone would do. Factors give factors. A whole matrix of numerical rank (in
    float32) up to a quarter of its smaller side gives factors too; of a higher rank that quarter of leading singular
    values, at most 128, is kept exactly, and the rest of ‖ΔW‖²_F is spread as Gaussian noise over the directions that
    are left, so the tail is flatter than ΔW's own. ``values`` are ΔW's singular values, largest first, where they are
    known already; for a whole matrix the leading ones suffice where ``norm``, ‖ΔW‖_F, is given. Equal seeds give equal
    updates; the type and device are ΔW's. Raises ``ValueError`` for some of the values without the norm.
    """
    known = (delta.singular_values() if values is None else values).double().cpu()
    generator = torch.Generator().manual_seed(seed)
    if isinstance(delta, FactoredDelta):
        return _random_factors(known, delta.shape, delta.up, generator)
    complete = len(known) == min(delta.shape)
    if not complete and norm is None:
        raise ValueError(f"{len(known)} of {min(delta.shape)} singular values say too little without the norm")
    rank = numerical_rank(known, delta.shape, floor=None, dtype=torch.float32)
    exact = max(1, min(delta.shape) // _EXACT_PART)
    if complete and rank <= exact:
        return _random_factors(known[:rank], delta.shape, delta.matrix, generator)
    kept = known[: min(rank, exact, _MOST_EXACT)]
    energy = float(known.square().sum()) if norm is None else norm**2
    rest = math.sqrt(max(energy - float(kept.square().sum()), 0.0))
    return _random_matrix(kept, rest, delta.matrix, generator)


def _random_factors(values: Tensor, shape: tuple[int, int], like: Tensor, generator: torch.Generator) -> FactoredDelta:
    rows, columns = shape
    left, right = _haar(rows, len(values), generator), _haar(columns, len(values), generator)
    return FactoredDelta((left * values).to(like), right.T.to(like).contiguous(), 1.0)


def _random_matrix(values: Tensor, rest: float, like: Tensor, generator: torch.Generator) -> DenseDelta:
    """The given singular values along random directions, and Gaussian noise of norm ``rest`` orthogonal to them."""
    rows, columns = like.shape
    wide = torch.promote_types(like.dtype, torch.float32)
    left, right = (_haar(size, len(values), generator).to(wide) for size in (rows, columns))
    # In place: one matrix of this size, whatever the size.
    noise = torch.randn(rows, columns, generator=generator, dtype=wide)
    noise.addmm_(left, left.T @ noise, alpha=-1.0)
    noise.addmm_(noise @ right, right.T, alpha=-1.0)
    noise *= rest / float(torch.linalg.vector_norm(noise, dtype=torch.float64))
    noise.addmm_(left * values.to(wide), right.T)
    return DenseDelta(noise.to(like))


def _haar(dimensions: int, count: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns, uniformly distributed: QR of a Gaussian matrix with R's diagonal made positive."""
    basis = torch.linalg.qr(torch.randn(dimensions, count, generator=generator, dtype=torch.float64))
    turned: Tensor = basis.Q * torch.where(basis.R.diagonal() < 0, -1.0, 1.0)
    return turned
