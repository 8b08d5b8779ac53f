"""Where a module sits in a model, read from its name."""

from __future__ import annotations


def module_place(name: str) -> tuple[int | None, str]:
    """(layer, kind) of a module's dotted name: ``model.layers.3.mlp.up_proj`` is layer 3, kind ``mlp.up_proj``.

    The layer is the first purely numeric part; the kind is what follows it. Names without a number have layer None and
    their last two parts as kind.
    """
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return int(part), ".".join(parts[index + 1 :]) or part
    return None, ".".join(parts[-2:])
