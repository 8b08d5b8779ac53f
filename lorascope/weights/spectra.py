"""Measures of a spectrum: how large a change is, and over how many directions it spreads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_ROWS = 512


def frobenius_norm(singular_values: Tensor) -> float:
    """‖A‖_F = √Σσ². Range 0 to ∞, in the units of the weights."""
    return float(singular_values.double().square().sum().sqrt())


def spectral_change(delta_values: Tensor, base_values: Tensor) -> float | None:
    """‖ΔW‖₂ / ‖W0‖₂ from both matrices' singular values, largest first: 0 to ∞; None for a zero or empty base.

    The largest step along one direction, against the base's longest direction; the relative change ‖ΔW‖_F/‖W0‖_F
    weighs all directions alike.
    """
    if base_values.numel() == 0 or float(base_values[0]) == 0.0:
        return None
    return float(delta_values[0]) / float(base_values[0]) if delta_values.numel() else 0.0


def unchanged_fraction(base: Tensor, adapted: Tensor, stored_dtype: str) -> float | None:
    """Share of the entries that are exactly the base's, from 0 to 1; None for a matrix without entries.

    The base is rounded to the type that the adapted matrix is stored in first, so that a base of higher precision does
    not hide what storage swallowed. High where only a part of a matrix was trained, or where updates were smaller than
    the rounding of low-precision weights.
    """
    if not adapted.numel():
        return None
    rounded = base.to(_TYPES[stored_dtype]).to(adapted.dtype) if stored_dtype in _TYPES else base
    return int((rounded == adapted).sum()) / adapted.numel()


def stable_rank(singular_values: Tensor) -> float | None:
    """‖A‖²_F / ‖A‖²₂, from 1 to the rank; None for a zero matrix (Rudelson & Vershynin 2007)."""
    values = singular_values.double()
    if values.numel() == 0 or float(values[0]) == 0.0:
        return None
    return float((values / values[0]).square().sum())


def effective_rank(singular_values: Tensor) -> float | None:
    """exp of the entropy of σ/Σσ, from 1 to the rank; None for a zero matrix (Roy & Vetterli 2007, section 2)."""
    values = singular_values.double()
    total = float(values.sum())
    if total == 0.0:
        return None
    share = values / total
    return math.exp(float(torch.special.entr(share).sum()))


def rank_for_energy(singular_values: Tensor, share: float) -> int | None:
    """The fewest leading directions that hold ``share`` (0–1) of Σσ²; None for a zero matrix."""
    energy = singular_values.double().square()
    total = float(energy.sum())
    if total == 0.0:
        return None
    return min(int((energy.cumsum(0) < share * total).sum()) + 1, energy.numel())


def numerical_rank(singular_values: Tensor, shape: tuple[int, int], *, floor: float | None, dtype: torch.dtype) -> int:
    """Singular values above the noise: max(m, n) · ε · σ₁ of the arithmetic, or the rounding floor where higher."""
    if singular_values.numel() == 0:
        return 0
    noise = max(shape) * torch.finfo(dtype).eps * float(singular_values[0])
    return int((singular_values > max(noise, floor or 0.0)).sum())


def rounding_floor(weight: Tensor, stored_dtype: str) -> float | None:
    """Largest singular value that storing ``weight`` in ``stored_dtype`` alone would give to ΔW.

    Rounding to the nearest moves each entry by up to half a unit in the last place, uniformly, so with variance
    (ulp)²/12, where ulp = 2^(⌊log₂|w|⌋ − digits), and no less than the type's smallest subnormal. A matrix of
    independent errors of standard deviations s_ij has a largest singular value of at most about
    max_i √Σ_j s²_ij + max_j √Σ_i s²_ij (Bandeira & van Handel 2016, Theorem 3.1); s·(√m + √n) where all are equal.
    None for types other than F64, F32, F16 and BF16.
    """
    if stored_dtype not in _TYPES:
        return None
    limits = torch.finfo(_TYPES[stored_dtype])
    digits, smallest = -round(math.log2(limits.eps)), math.frexp(limits.smallest_normal)[1] - 1
    largest_row, columns = 0.0, torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    # By blocks of rows: whole copies in float64 would be the largest thing in memory.
    for block in torch.split(weight, _ROWS):
        exponent = (torch.frexp(block)[1] - 1).clamp(min=smallest)
        ulp = torch.exp2((exponent - digits).double()).masked_fill_(block == 0, 0.0)
        variance = ulp.square_() / 12.0
        largest_row = max(largest_row, float(variance.sum(dim=1).max()))
        columns += variance.sum(dim=0)
    return math.sqrt(largest_row) + math.sqrt(float(columns.max()))
