"""Matrices known by their products, so that W0 + B·A is never formed, and arithmetic without shortened mantissas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta

_NARROW = 16


@dataclass(frozen=True)
class Matrix:
    """``whole`` (m, n), plus ``scaling · up @ down`` where ``added`` is given. All on one device, in one type."""

    whole: Tensor
    added: FactoredDelta | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.whole.shape[0], self.whole.shape[1]

    @property
    def T(self) -> Matrix:
        """The transpose, as products."""
        added = self.added
        swapped = None if added is None else FactoredDelta(added.down.T, added.up.T, added.scaling)
        return Matrix(self.whole.T, swapped)

    def times(self, right: Tensor) -> Tensor:
        """The product with ``right`` (n, c), as (m, c)."""
        # BLAS is four times slower on a transposed matrix times few columns than on few rows times a matrix.
        narrow = right.shape[1] < _NARROW
        product: Tensor = (right.T @ self.whole.T).T if narrow else self.whole @ right
        if self.added is not None:
            product += self.added.up @ (self.added.scaling * (self.added.down @ right))
        return product

    def dense(self) -> Tensor:
        """The matrix itself; ``whole`` without a copy where nothing is added."""
        return self.whole if self.added is None else self.whole + self.added.dense()


def adapted_matrix(base: Tensor, delta: WeightDelta) -> Matrix:
    """W0 + ΔW in the type and on the device of ``base``; a factored ΔW stays factored.

    Raises ``ValueError`` for shapes that differ.
    """
    if tuple(delta.shape) != tuple(base.shape):
        raise ValueError(f"ΔW is {tuple(delta.shape)}, the base weight {tuple(base.shape)}")
    if isinstance(delta, DenseDelta):
        return Matrix(base + delta.matrix.to(base))
    return Matrix(base, FactoredDelta(delta.up.to(base), delta.down.to(base), delta.scaling))


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 in float32: on a GPU, TF32 keeps 10 bits of the mantissa, too few to orthogonalise with."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def is_finite(matrix: Tensor) -> bool:
    """Whether no entry is NaN or infinite. One such entry shows in the sum, which needs no copy of the matrix."""
    return bool(torch.isfinite(matrix.sum())) or bool(torch.isfinite(matrix).all())


def singular_value_decomposition(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD (left (m, s), values (s,), right (n, s)) on the matrix's device.

    Where the device's routine does not converge (cuSOLVER on some matrices), LAPACK on the CPU decides.
    """
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if matrix.device.type == "cpu":
            raise
        left, values, right = (part.to(matrix.device) for part in torch.linalg.svd(matrix.cpu(), full_matrices=False))
    return left, values, right.mT
