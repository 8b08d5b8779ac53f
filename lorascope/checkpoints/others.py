"""Parameters that a subject changes and that are no linear module's weight: they are named, with how far they moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorascope.checkpoints.modules import ParameterKind

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OtherChange:
    """One parameter of a subject that differs from the base's and has no ΔW of a linear module.

    ``name`` is the base file's key, ``shape`` the subject's. ``relative_change`` is ‖new − old‖_F / ‖old‖_F (0 or more)
    over what both have; None where the base has no such parameter or only zeros. ``note`` says what else to know.
    """

    name: str
    kind: ParameterKind
    shape: tuple[int, ...]
    relative_change: float | None
    note: str | None = None


def compared(name: str, kind: ParameterKind, old: Tensor | None, new: Tensor) -> OtherChange | None:
    """Compare stored values exactly, both widened to float32; None where they are equal.

    Of a parameter with more or fewer rows (a resized vocabulary), the leading rows that both have are compared.
    """
    shape = tuple(new.shape)
    if old is None:
        return OtherChange(name, kind, shape, None, "the base has none")
    if old.shape == new.shape:
        if old.float().equal(new.float()):
            return None
        return OtherChange(name, kind, shape, _relative(old, new), _note(kind, old, new))
    if old.ndim != new.ndim or old.shape[1:] != new.shape[1:]:
        sizes = ["×".join(map(str, tensor.shape)) for tensor in (old, new)]
        return OtherChange(name, kind, shape, None, f"{sizes[0]} in the base, {sizes[1]} here: not compared")
    rows = min(len(old), len(new))
    note = f"{len(old)} rows in the base, {len(new)} here: the first {rows} compared"
    return OtherChange(name, kind, shape, _relative(old[:rows], new[:rows]), note)


def _relative(old: Tensor, new: Tensor) -> float | None:
    norm = float(old.float().norm())
    return float((new.float() - old.float()).norm()) / norm if norm > 0 else None


def _note(kind: ParameterKind, old: Tensor, new: Tensor) -> str | None:
    if new.dtype != old.dtype and old.to(new.dtype).equal(new):
        return f"the base's, rounded to {str(new.dtype).removeprefix('torch.')}"
    if kind == "embedding" and new.ndim == 2:
        return f"{int((old.float() != new.float()).any(dim=1).sum())} of {len(new)} rows differ"
    return None
