"""‖ΔW‖² of adapted layers from their factors, differentiable, without ΔW itself."""

from __future__ import annotations

from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight

from lorascope.training.pissa import start_of


def squared_shift(layer: Any, adapter: str = "default") -> torch.Tensor:
    """‖ΔW‖²_F of one layer of LoRA, rsLoRA, PiSSA, DoRA or AdaLoRA against the base's weight, in float32.

    LoRA: s²·tr(BᵀB·AAᵀ). AdaLoRA has diag(E)·A for A and s over the number of ranks. PiSSA moves by BA − B₀A₀ =
    (B − B₀)A + B₀(A − A₀), whose parts are small where the whole is. DoRA: row i moves by (g − 1)·w + g·s·(BA) with
    g = m/‖w + s·(BA)‖.
    """
    down, up = _factors(layer, adapter)
    start = start_of(layer)
    if start is not None:
        first, second = (part.float() for part in start)
        down, up = torch.cat([down, down - first]), torch.cat([up - second, second], dim=1)
    scale = float(layer.scaling[adapter])
    if hasattr(layer, "ranknum"):
        scale /= float(layer.ranknum[adapter]) + 1e-5
    if adapter in getattr(layer, "lora_magnitude_vector", {}):
        return _dora(layer, down, up * scale, layer.lora_magnitude_vector[adapter].weight.float())
    return scale**2 * _product_norm(down, up).sum()


def _product_norm(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """‖row of up·down‖² for every row."""
    return (up @ (down @ down.T) * up).sum(dim=1)


def _factors(layer: Any, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
    if adapter in getattr(layer, "lora_embedding_A", {}):
        return layer.lora_embedding_A[adapter].float(), layer.lora_embedding_B[adapter].float()
    down, up = layer.lora_A[adapter], layer.lora_B[adapter]
    if hasattr(layer, "lora_E"):
        return (down * layer.lora_E[adapter]).float(), up.float()
    return down.weight.float(), up.weight.float()


def _dora(layer: Any, down: torch.Tensor, up: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    weight: torch.Tensor = dequantize_module_weight(layer.get_base_layer()).detach().float()
    weight = weight.T if layer.fan_in_fan_out else weight
    own = weight.square().sum(dim=1)
    across = (up * (weight @ down.T)).sum(dim=1)
    moved = _product_norm(down, up)
    gain = magnitude.flatten() / (own + 2 * across + moved).sqrt()
    return ((gain - 1).square() * own + 2 * (gain - 1) * gain * across + gain.square() * moved).sum()
