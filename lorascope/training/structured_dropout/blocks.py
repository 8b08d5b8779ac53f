"""The blocks of a transformer and the attention modules in them, found by what transformers makes them of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from lorascope.errors import ConfigError
from lorascope.schema.recipe import Layers

_CROSS = re.compile(r"cross|encoder_attn|encdec", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stack:
    """Blocks that follow one another: ``name`` is that of their list, ``causal`` whether they look back alone."""

    name: str
    blocks: tuple[nn.Module, ...]
    causal: bool


def stacks(base: Any) -> list[Stack]:
    """The stack of a model, or the encoder's and the decoder's.

    Raises:
        ConfigError: no stack of blocks, or several that are not an encoder and a decoder (a vision tower).
    """
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in base.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        if not inside and isinstance(module, nn.ModuleList) and _holds_blocks(module):
            found.append((name, module))
    expected = 2 if base.config.is_encoder_decoder else 1
    if len(found) != expected:
        raise ConfigError(
            f"the layers of {type(base).__name__} are not known: {len(found)} lists of blocks, {expected} expected"
            + (f" ({', '.join(name for name, _ in found)})" if found else ""),
            where="structured_dropout",
            remedy="use another base, or no structured dropout",
        )
    bidirectional = getattr(base.config, "is_causal", True) is False
    return [
        Stack(name, tuple(module), not bidirectional and any(_looks_back(block) for block in module))
        for name, module in found
    ]


def self_attention(block: nn.Module) -> list[nn.Module]:
    """Attention modules of a block that attend to their own sequence; cross attention is left out."""
    return [
        module
        for name, module in block.named_modules()
        if "Attention" in type(module).__name__ and not _CROSS.search(name) and "Cross" not in type(module).__name__
    ]


def chosen(stack: Stack, layers: Layers | list[int]) -> list[int]:
    """Indices of the blocks to drop in. The later half of an odd number holds the middle one.

    Raises:
        ConfigError: an index that the stack does not have.
    """
    count = len(stack.blocks)
    if isinstance(layers, str):
        later = layers == "later-half" or (layers == "auto" and stack.causal)
        return list(range(count // 2 if later else 0, count))
    _check_indices(layers, stack.name, count)
    return sorted(set(layers))


def _check_indices(layers: Sequence[int], name: str, count: int) -> None:
    wrong = [index for index in layers if not 0 <= index < count]
    if wrong or not layers:
        raise ConfigError(
            f"{name} has no layer {', '.join(map(str, wrong))}" if wrong else "no layer is named",
            where="structured_dropout.layers",
            remedy=f"name layers from 0 to {count - 1}",
        )


def _holds_blocks(modules: nn.ModuleList) -> bool:
    return len(modules) > 0 and all(isinstance(module, GradientCheckpointingLayer) for module in modules)


def _looks_back(block: nn.Module) -> bool:
    return any(getattr(module, "is_causal", False) is True for module in self_attention(block))
