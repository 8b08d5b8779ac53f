"""Repaired changes: intruder dimensions or a whole ΔW scaled down, and the controls that such a repair stands against.

The intervention is that of Shuttleworth et al. (arXiv 2410.21228, section 5): W = W0 + ΔW + (λ−1)·σᵢuᵢvᵢᵀ, where
(uᵢ, σᵢ, vᵢ) is a singular triplet of the adapted matrix W0 + ΔW that was judged an intruder. Whether it does more than
making ΔW smaller is disputed, so each repair ΔW' has three controls of the very same ‖·‖_F: the whole ΔW shrunk
(:func:`shrink_to_norm`), neighbouring kept vectors scaled in the intruders' place (:func:`scale_neighbours`), and
random directions of ΔW scaled down (:func:`remove_random`).

All results are in float32, on the device of ΔW; norms and inner products are summed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta

LONGER = 1.0 + 1e-6
"""‖ΔW'‖ / ‖ΔW‖ above this is growth; what lies between it and 1 is rounding."""
_STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
           "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # fmt: skip


@dataclass(frozen=True)
class Triplets:
    """Some singular triplets of W0 + ΔW: ``left`` (out, k), ``values`` (k,), ``right`` (in, k), float32.

    The columns of each side are orthonormal; k may be 0.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def count(self) -> int:
        """k."""
        return int(self.values.numel())

    def first(self, count: int) -> Triplets:
        """The first ``count`` of them."""
        return Triplets(self.left[:, :count], self.values[:count], self.right[:, :count])


def scale_intruders(delta: WeightDelta, intruders: Triplets, strength: float) -> WeightDelta:
    """ΔW' = ΔW + (λ−1)·Σ σᵢuᵢvᵢᵀ: in W0 + ΔW' the intruders' singular values are λ times what they were.

    A factored ΔW stays factored, exactly, with rank r + k; a dense one stays dense. At λ = 1, or without intruders, it
    is ``delta`` itself. ‖ΔW'‖ exceeds ‖ΔW‖ where ⟨ΔW, S⟩ < ½(1−λ)‖S‖² for S = Σ σᵢuᵢvᵢᵀ: more than half of such an S is
    W0's, turned by ΔW, and scaling it takes that from the base. Raises ``ValueError`` for a λ that is not finite or for
    shapes that differ.
    """
    _finite(strength)
    return _added(delta, intruders, strength - 1.0)


def scale_strength(delta: WeightDelta, strength: float) -> WeightDelta:
    """λ·ΔW: 0 is the base, 1 the adapted weights, above 1 goes further the same way. Factors keep their tensors."""
    _finite(strength)
    if isinstance(delta, FactoredDelta):
        return replace(delta, scaling=strength * delta.scaling)
    return DenseDelta(strength * delta.matrix)


def shrink_to_norm(delta: WeightDelta, norm: float) -> WeightDelta:
    """Control: ΔW in its own direction with ‖·‖_F = ``norm``, stretched where that is more than ΔW has.

    Raises ``ValueError`` for ΔW = 0 with a norm above 0.
    """
    current = frobenius(delta)
    if norm < 0.0 or (current == 0.0 and norm > 0.0):
        raise ValueError(f"no multiple of a ΔW of norm {current} has the norm {norm}")
    return scale_strength(delta, norm / current if current else 1.0)


def scale_neighbours(delta: WeightDelta, neighbours: Triplets, norm: float, strength: float) -> WeightDelta | None:
    """Control: kept singular vectors of W0 + ΔW scaled by the repair's own λ, at the repair's own norm.

    a·ΔW + (λ−1)·Σ σⱼuⱼvⱼᵀ, with a > 0 the larger root of ‖a·ΔW + (λ−1)·S‖²_F = ``norm``². The neighbours get just what
    the intruders get, and the rest of ΔW is scaled until both stand equally far from the base. A λ for the neighbours
    alone would not do: they hold little of ΔW, so scaling them can hardly shorten it, and such a λ seldom exists.

    None where there is no neighbour, ΔW = 0, or no such a: (1−λ)·S alone is then longer than ``norm``.
    """
    _finite(strength)
    energy = frobenius(delta) ** 2
    if neighbours.count == 0 or energy == 0.0:
        return None
    change = strength - 1.0
    half = change * _inner(delta, neighbours)
    constant = change**2 * float(neighbours.values.double().square().sum()) - norm**2
    discriminant = half**2 - energy * constant
    if discriminant < 0.0:
        return None
    root = (math.sqrt(discriminant) - half) / energy
    return _added(scale_strength(delta, root), neighbours, change) if root > 0.0 else None


def remove_random(delta: WeightDelta, energy: float, *, rank: int, seed: int) -> WeightDelta:
    """Control: ``rank`` random directions of ΔW scaled down until ‖·‖²_F is ``energy`` less.

    ``energy`` is ‖ΔW‖²_F − ‖ΔW'‖²_F of the repair; where it is negative (the repair made ΔW longer) the directions are
    scaled up. The directions are an orthonormal basis Q of ΔW·Ω with Gaussian Ω, so they lie in ΔW's own column space
    and favour what is large in it, as the intruders do; the result is ΔW − (1−f)·QQᵀΔW with
    f = √(1 − energy/‖QᵀΔW‖²). Where ``rank`` directions hold less than ``energy``, twice as many are drawn, and so on.
    A factored ΔW keeps its rank. Raises ``ValueError`` for a rank below 1 or more energy than ΔW has.
    """
    total = frobenius(delta) ** 2
    if rank < 1 or energy > total * (1.0 + 1e-6):
        raise ValueError(f"cannot remove energy {energy} of {total} in {rank} directions")
    if energy == 0.0:
        return delta
    basis, held = _random_directions(delta, rank, seed, energy)
    if held == 0.0:
        raise ValueError("ΔW is zero: it has no random component")
    removed = 1.0 - math.sqrt(max(0.0, 1.0 - energy / held))
    if isinstance(delta, FactoredDelta):
        up = delta.up.double()
        return replace(delta, up=(up - removed * (basis @ (basis.T @ up))).float())
    wide = delta.matrix.double()
    return DenseDelta((wide - removed * (basis @ (basis.T @ wide))).float())


def truncate(delta: WeightDelta, rank: int) -> tuple[FactoredDelta, float]:
    """The best approximation of ΔW of that rank, and what it loses: ‖Δ − Δ_r‖_F / ‖Δ‖_F, 0 to 1 (Eckart–Young).

    Factors that have no more than ``rank`` columns come back as they are, with error 0; a zero ΔW has error 0. The
    scaling of factors is kept, that of a dense ΔW is 1. Raises ``ValueError`` for a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"the rank must be at least 1, not {rank}")
    if isinstance(delta, FactoredDelta) and delta.up.shape[1] <= rank:
        return delta, 0.0
    left, values, right = _decomposed(delta)
    total = float(values.square().sum())
    lost = math.sqrt(float(values[rank:].square().sum()) / total) if total else 0.0
    scaling = delta.scaling if isinstance(delta, FactoredDelta) and delta.scaling else 1.0
    root = (values[:rank] / abs(scaling)).sqrt()
    up = math.copysign(1.0, scaling) * left[:, :rank] * root
    return FactoredDelta(up.float(), (root[:, None] * right[:rank]).float(), scaling), lost


def frobenius(delta: WeightDelta) -> float:
    """‖ΔW‖_F, from the factors' triangles where it is factored: the product is never formed."""
    if isinstance(delta, DenseDelta):
        return float(torch.linalg.vector_norm(delta.matrix, dtype=torch.float64))
    left = torch.linalg.qr(delta.up.double(), mode="r").R
    right = torch.linalg.qr(delta.down.double().T, mode="r").R
    return abs(delta.scaling) * float(torch.linalg.vector_norm(left @ right.T))


def rounding_bound(delta: WeightDelta, stored_dtype: str, base: Tensor | None = None) -> float:
    """The most, in ‖·‖_F, that storing can move ΔW: each stored number by half a unit in its last place.

    Of a factored ΔW the factors are stored. Of a dense one W0 + ΔW is, so ``base`` (W0) is needed; forming that sum and
    taking W0 away again in float32 is counted too. Raises ``KeyError`` for a type that is not a safetensors float.
    """
    limits = torch.finfo(_STORED[stored_dtype])
    unit, least = limits.eps / 2.0, limits.smallest_normal * limits.eps / 2.0
    if isinstance(delta, FactoredDelta):
        up, down = delta.up.double(), delta.down.double()
        first, second = up.norm(dim=0), down.norm(dim=1)
        moved = unit * first + least * math.sqrt(up.shape[0])
        also = unit * second + least * math.sqrt(down.shape[1])
        return abs(delta.scaling) * float((moved * second + first * also + moved * also).sum())
    if base is None:
        raise ValueError("what is stored of a dense ΔW is W0 + ΔW: W0 is needed")
    before, after = float(base.double().norm()), float((base.double() + delta.matrix).norm())
    return unit * after + least * math.sqrt(base.numel()) + torch.finfo(torch.float32).eps * (before + after)


def distance(one: WeightDelta, other: WeightDelta) -> float:
    """‖ΔW₁ − ΔW₂‖_F; between two factored changes without forming either."""
    if isinstance(one, FactoredDelta) and isinstance(other, FactoredDelta):
        up = torch.cat([one.scaling * one.up.double(), -other.scaling * other.up.double()], dim=1)
        return frobenius(FactoredDelta(up, torch.cat([one.down, other.down], dim=0), 1.0))
    return float(torch.linalg.vector_norm(one.dense() - other.dense(), dtype=torch.float64))


def _finite(strength: float) -> None:
    if not math.isfinite(strength):
        raise ValueError(f"a strength must be a finite number, not {strength}")


def _added(delta: WeightDelta, triplets: Triplets, weight: float) -> WeightDelta:
    """ΔW + weight · Σ σ·u·vᵀ."""
    if tuple(delta.shape) != (triplets.left.shape[0], triplets.right.shape[0]):
        raise ValueError(f"ΔW is {delta.shape}, the triplets {triplets.left.shape[0]} × {triplets.right.shape[0]}")
    if weight == 0.0 or triplets.count == 0:
        return delta
    if isinstance(delta, DenseDelta):
        return DenseDelta(delta.matrix + (weight * triplets.values * triplets.left) @ triplets.right.T)
    scaling = delta.scaling or 1.0
    up = delta.up if delta.scaling else torch.zeros_like(delta.up)
    # Both factors take the root of the size, so that neither leaves the range of a narrow type they may be stored in.
    root = (triplets.values * abs(weight / scaling)).sqrt()
    sign = math.copysign(1.0, weight / scaling)
    more = sign * triplets.left * root
    return FactoredDelta(
        torch.cat([up, more], dim=1), torch.cat([delta.down, (triplets.right * root).T], dim=0), scaling
    )


def _inner(delta: WeightDelta, triplets: Triplets) -> float:
    """⟨ΔW, Σ σ·u·vᵀ⟩."""
    left, values, right = triplets.left.double(), triplets.values.double(), triplets.right.double()
    if isinstance(delta, DenseDelta):
        return float((values * (left * (delta.matrix.double() @ right)).sum(dim=0)).sum())
    through = (left.T @ delta.up.double()) * (delta.down.double() @ right).T
    return delta.scaling * float((values * through.sum(dim=1)).sum())


def _random_directions(delta: WeightDelta, rank: int, seed: int, energy: float) -> tuple[Tensor, float]:
    """Orthonormal directions (out, ·) in ΔW's column space that hold more than ``energy``, and what they hold."""
    if isinstance(delta, FactoredDelta):
        axes, triangle = torch.linalg.qr(delta.up.double())
        inner = delta.scaling * (triangle @ delta.down.double())
    else:
        axes, inner = None, delta.matrix.double()
    generator = torch.Generator().manual_seed(seed)
    most = min(inner.shape)
    drawn = torch.empty((0, inner.shape[1]), dtype=torch.float64)
    count = min(rank, most)
    while True:
        more = torch.randn((count - len(drawn), inner.shape[1]), dtype=torch.float64, generator=generator)
        drawn = torch.cat([drawn, more])
        basis = torch.linalg.qr(inner @ drawn.T.to(inner.device)).Q
        held = float(torch.linalg.vector_norm(basis.T @ inner) ** 2)
        if held >= energy or count == most:
            return (basis if axes is None else axes @ basis), held
        count = min(2 * count, most)


def _decomposed(delta: WeightDelta) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD of ΔW (U, σ, Vᵀ) in float64, by way of an r × r matrix where it is factored."""
    if isinstance(delta, DenseDelta):
        left, values, right = torch.linalg.svd(delta.matrix.double(), full_matrices=False)
        return left, values, right
    first, upper = torch.linalg.qr(delta.up.double())
    second, lower = torch.linalg.qr(delta.down.double().T)
    left, values, right = torch.linalg.svd(delta.scaling * (upper @ lower.T), full_matrices=False)
    return first @ left, values, right @ second.T
