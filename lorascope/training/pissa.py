"""PiSSA's start: what it took out of the base, to put it back for the base's own answers and for a portable adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

_A, _B = "pissa_start_a", "pissa_start_b"


def remember_start(model: Any) -> None:
    """Keep the factors that PiSSA begins with beside the adapter's own, as buffers that no checkpoint holds."""
    for _, layer in lora_layers(model):
        layer.register_buffer(_A, layer.lora_A["default"].weight.detach().clone(), persistent=False)
        layer.register_buffer(_B, layer.lora_B["default"].weight.detach().clone(), persistent=False)


def lora_layers(model: Any) -> list[tuple[str, Any]]:
    """Names and layers of a LoRA kind in the model."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def start_of(layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The factors A₀ and B₀ that PiSSA took out of this layer; None for layers of other methods."""
    return (getattr(layer, _A), getattr(layer, _B)) if hasattr(layer, _A) else None


def against_base(state: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors as a plain LoRA of twice the rank on the unchanged base: BA − B₀A₀ = [B, −B₀]·[A; A₀]."""
    converted = dict(state)
    for name, layer in lora_layers(model):
        first, second = (f"{name}.lora_{factor}.weight" for factor in "AB")
        start_a, start_b = (part.to(state[first].device) for part in (getattr(layer, _A), getattr(layer, _B)))
        converted[first] = torch.cat([state[first], start_a], dim=0)
        converted[second] = torch.cat([state[second], -start_b], dim=1)
    return converted


@contextmanager
def base_weights(model: Any) -> Iterator[None]:
    """The model answers as its base in here; an adapter is switched off, and PiSSA's start put back.

    Prompt methods can be switched off in language models alone. While PiSSA's base answers, its adapted weights are
    there twice.

    Raises:
        ValueError: the model has no adapter: what was the base has been trained away.
    """
    if not hasattr(model, "peft_config"):
        raise ValueError("a model without an adapter holds its base no more")
    started = [(layer, start) for _, layer in lora_layers(model) if (start := start_of(layer)) is not None]
    with model.disable_adapter(), _put_back(started):
        yield


@contextmanager
def _put_back(started: list[tuple[Any, tuple[torch.Tensor, torch.Tensor]]]) -> Iterator[None]:
    weights = [layer.get_base_layer().weight for layer, _ in started]
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, (layer, (first, second)) in zip(weights, started, strict=True):
            whole = layer.scaling["default"] * (second @ first)
            weight.add_((whole.T if layer.fan_in_fan_out else whole).to(weight.dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
