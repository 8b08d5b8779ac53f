"""What is known of a base matrix W0, found out once and used for every subject: leading triplets, R, or all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lorascope.weights.certificate import Axes
from lorascope.weights.krylov import Triplets, all_triplets, leading_triplets
from lorascope.weights.matrices import Matrix, full_precision, is_finite

Side = Literal["left", "right"]
_MOST_LEADING = 32
_ORTHOGONAL = 1e-2
_PARTS = ("left", "values", "right", "residuals", "errors", "gaps")
# Half of the leading vectors to a hundredth: they are judged one by one, the others only as a subspace.
_ACCURATE = 1e-2


def leading_directions(dimensions: int) -> int:
    """How many of the base's directions count as leading: an eighth of the dimensions, at least 1, at most 32.

    So a vector drawn at random has a ``leading_share`` of at most 1/8 on average, in small matrices as in large ones.
    """
    return min(_MOST_LEADING, max(1, dimensions // 8))


@dataclass
class BaseMatrix:
    """W0 (m, n) with what is known of it. Each part is computed when first asked for, or given from an earlier run.

    ``known`` may hold the leading triplets (``leading.left`` …), all triplets (``exact.left`` …) and the square factor
    of its orthogonal decomposition (``factor``): what :meth:`knowledge` gave for the same matrix.
    """

    weight: Tensor
    known: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def leading(self) -> Triplets:
        """The leading singular triplets, as many as count as leading; cut from the exact ones where those are known."""
        known = self._recalled("leading")
        if known is not None:
            return known
        count = leading_directions(min(self.weight.shape))
        if self.is_decomposed:
            return self.exact.first(count)
        return leading_triplets(Matrix(self.weight), count, accuracy=_ACCURATE, needed=count // 2)

    @cached_property
    def exact(self) -> Triplets:
        """All singular triplets by an exact decomposition."""
        known = self._recalled("exact")
        if known is not None:
            return known
        with full_precision():
            return all_triplets(self.weight)

    @property
    def is_decomposed(self) -> bool:
        """Whether the exact decomposition is there already."""
        return "exact" in self.__dict__ or "exact.left" in self.known

    @cached_property
    def factor(self) -> Tensor:
        """R (s, s), s = min(m, n), of the orthogonal decomposition Q·R of W0, or of W0ᵀ where W0 is wide."""
        known = self.known.get("factor")
        if known is not None:
            return known.to(self.weight)
        tall = self.weight if self.weight.shape[0] >= self.weight.shape[1] else self.weight.T
        with full_precision():
            factor: Tensor = torch.linalg.qr(tall, mode="r").R
        return factor

    @cached_property
    def norm(self) -> float:
        """‖W0‖_F."""
        return float(torch.linalg.vector_norm(self.weight, dtype=torch.float64))

    @cached_property
    def is_finite(self) -> bool:
        """Whether W0 has neither NaN nor infinite entries."""
        return is_finite(self.weight)

    @property
    def rank(self) -> int | None:
        """How many singular values lie above rounding, where they have all been computed; None otherwise."""
        return len(self.exact.values) if self.is_decomposed else None

    @property
    def coupling(self) -> Tensor:
        """What deflating each leading vector may perturb the rest of A·Aᵀ by, in units of σ₁² (second order).

        A vector of residual r couples with ‖A·r‖ ≤ σ₁r to the rest, which lies σⱼ² − σᵢ² ≥ σⱼ · distance away.
        """
        found = self.leading
        return found.residuals.square() / (found.gaps * found.values.square()).clamp(
            min=torch.finfo(found.values.dtype).tiny
        )

    @property
    def scale(self) -> float:
        """σ₁ of W0, 0 for a zero matrix."""
        return float(self.leading.values[0]) if self.leading.values.numel() else 0.0

    @property
    def tail(self) -> float:
        """The last of the leading singular values over σ₁, 0–1; 0 for a zero matrix."""
        values = self.leading.values
        return float(values[-1] / values[0]) if values.numel() else 0.0

    def knowledge(self, *, exact: bool = False) -> dict[str, Tensor]:
        """What is worth keeping: the leading triplets, R where it was needed, and on request the exact decomposition.

        Of a matrix of s × s, float32, these are about 256·s, 4·s² and 8·s² bytes.
        """
        parts = {"leading": self.leading} | ({"exact": self.exact} if exact and self.is_decomposed else {})
        kept = {f"{part}.{name}": getattr(triplets, name) for part, triplets in parts.items() for name in _PARTS}
        if "factor" in self.__dict__:
            kept["factor"] = self.factor
        return {name: tensor.contiguous().cpu() for name, tensor in kept.items()}

    def _recalled(self, part: str) -> Triplets | None:
        tensors = [self.known.get(f"{part}.{name}") for name in _PARTS]
        found = [tensor.to(self.weight) for tensor in tensors if tensor is not None]
        return Triplets(*found) if len(found) == len(_PARTS) else None

    def long(self, side: Side) -> bool:
        """Whether this side's vectors are longer than there are singular values: they may leave the range of W0."""
        rows, columns = self.weight.shape
        return rows > columns if side == "left" else columns > rows

    def directions(self, side: Side) -> Tensor:
        """The leading singular vectors of one side."""
        return self.leading.left if side == "left" else self.leading.right

    def axes(self, side: Side) -> Axes:
        """What to judge vectors of ``side`` against; on a long side those in the coordinates of :meth:`coordinates`."""
        if not self.long(side):
            core = self.weight if side == "left" else self.weight.T
            if self.weight.shape[0] != self.weight.shape[1] and "factor" in self.__dict__:
                core = self.factor.T
            return Axes(core, self.directions(side), self.leading.errors, self.coupling, self.scale, self.tail)
        other = self.directions("right" if side == "left" else "left")
        inside = (self.factor @ other) / self.leading.values
        return Axes(self.factor, inside, self.leading.errors, self.coupling, self.scale, self.tail)

    def coordinates(self, side: Side, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Qᵀy of each column (length, k) on a long side, (s, k), and a bound (k,) on its error.

        From R and W0 alone, by the corrected seminormal equations (Björck 1987), so that Q need not be kept: with
        Q ≈ W0·R⁻¹, the second correction measures how far that is from orthonormal. The error is infinite where R is
        too ill-conditioned to tell, as for a W0 that is not of full rank.
        """
        tall = self.weight if side == "left" else self.weight.T
        found = torch.zeros(tall.shape[1], vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
        correction = found
        for _ in range(2):
            image = tall @ torch.linalg.solve_triangular(self.factor, found, upper=True)
            correction = torch.linalg.solve_triangular(self.factor.T, tall.T @ (vectors - image), upper=False)
            found = found + correction
        error = correction.norm(dim=0)
        sound = torch.isfinite(error) & (error <= _ORTHOGONAL)
        found = torch.where(sound, found, torch.zeros_like(found))
        return found, torch.where(sound, 2.0 * error + 1e-5, torch.inf)
