"""Where a module sits in a model, read from its name."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """``stack`` is what comes before the layer's number, ``kind`` what comes after; ``layer`` is None without one."""

    stack: str
    layer: int | None
    kind: str


def position(name: str) -> Position:
    """Read stack, layer and kind from a module's dotted name; the first whole number is the layer.

    ``model.layers.3.mlp.up_proj`` is layer 3 of ``model.layers``, kind ``mlp.up_proj``. A name without a number is all
    kind.
    """
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdigit():
            return Position(".".join(parts[:place]), int(part), ".".join(parts[place + 1 :]) or parts[place - 1])
    return Position("", None, name)
