"""ΔW, the difference of weights, either as the product of two factors or as a whole matrix. Always (out, in)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FactoredDelta:
    """ΔW = scaling · up @ down with ``up`` (out, r) and ``down`` (r, in). The product is formed only on request."""

    up: Tensor
    down: Tensor
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.up.shape[0], self.down.shape[1]

    def dense(self) -> Tensor:
        """ΔW as a matrix in the factors' type."""
        return self.scaling * (self.up @ self.down)

    def singular_values(self) -> Tensor:
        """All r singular values, largest first, without forming ΔW.

        With up = Q₁R₁ and downᵀ = Q₂R₂ they are those of the r × r matrix scaling · R₁R₂ᵀ. Formed in float64: a product
        in the stored type would show rounding noise as extra rank.
        """
        left = torch.linalg.qr(self.up.double(), mode="r").R
        right = torch.linalg.qr(self.down.double().T, mode="r").R
        values: Tensor = torch.linalg.svdvals(self.scaling * (left @ right.T))
        return values


@dataclass(frozen=True)
class DenseDelta:
    """ΔW as a whole matrix (out, in)."""

    matrix: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def dense(self) -> Tensor:
        """ΔW itself."""
        return self.matrix

    def singular_values(self) -> Tensor:
        """All min(out, in) singular values, largest first."""
        values: Tensor = torch.linalg.svdvals(self.matrix)
        return values


WeightDelta = FactoredDelta | DenseDelta
