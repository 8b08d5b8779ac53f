"""What is added to the loss so that weights stay small or near the base: L1, L2-SP, EWC, AdaLoRA's orthogonality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lorascope.errors import ConfigError
from lorascope.schema.recipe import LOW_RANK, Recipe
from lorascope.training.adalora import ORTHOGONALITY
from lorascope.training.architecture import is_divided
from lorascope.training.pissa import lora_layers
from lorascope.training.shifts import squared_shift

NEW_LAYER_BETA = 0.01
"""β of L2-SP: the plain L2 of layers that the base does not have, where it was fixed at this value."""
_WHOLE = ("full", "bitfit")
_ADAPTER_PARTS = ("lora_", "ia3_", "peanut_", "prompt_encoder.")

Term = Callable[[], torch.Tensor]
_Place = tuple[nn.Module, str]
"""A parameter by its module and name there, so that it is found after sharding or casting has put another in place."""


class Penalties:
    """Called at every batch for the scalar that is added to the mean loss.

    ``last_values`` has each term as it was added last, weights included: ``l1``, ``l2_sp``, ``l2_new``, ``ewc``,
    ``orthogonality``.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        """``terms`` give their weighted value each."""
        self._terms = dict(terms)
        self._last: dict[str, torch.Tensor] = {}

    @classmethod
    def from_recipe(
        cls,
        model: Any,
        recipe: Recipe,
        *,
        new_weights: Sequence[str] = (),
        fisher: Mapping[str, torch.Tensor] | None = None,
    ) -> Penalties | None:
        """What the recipe asks for; None where that is nothing.

        ``model`` is what :func:`prepare_model` gave, with the base's values: it is to be asked before the trainer reads
        a checkpoint. ``new_weights`` are those of :class:`LoadedBase`.

        - ``l1``: l1·Σ|θ| of all that is trained; of an adapter these are its factors.
        - ``l2_sp`` (arXiv 1802.01483): l2_sp·½‖θ − θ₀‖² of the trained parameters that the base has; for a low-rank
          adapter ‖ΔW‖² of each adapted layer, exactly, from its factors. Layers that are new have no start to stay near
          and get β·½‖θ‖² instead, β = 0.01.
        - ``ewc`` (Kirkpatrick et al. 2017): weight·½ΣF(θ − θ₀)² with ``fisher`` from :func:`diagonal_fisher`. Whole
          parameters only: for an adapter it would need ΔW and F of every layer in full.
        - AdaLoRA: its orthogonality, ½ of the mean ‖P·Pᵀ − I‖ over its factors.

        Raises:
            ConfigError: a penalty does not go with the method, with a new head, or with sharded parameters.
        """
        check_penalties(recipe, new_weights)
        terms: dict[str, Term] = {}
        if recipe.optim.l1:
            terms["l1"] = _l1(_trained(model), recipe.optim.l1)
        if recipe.optim.l2_sp:
            terms |= _l2_sp(model, recipe.optim.l2_sp, new_weights)
        if recipe.optim.ewc is not None:
            if fisher is None:
                raise ConfigError("elastic weight consolidation needs the base's Fisher information", where="optim.ewc")
            terms["ewc"] = _ewc(_trained(model), fisher, recipe.optim.ewc.weight)
        if recipe.method.name == "adalora":
            terms["orthogonality"] = _orthogonality(model)
        return cls(terms) if terms else None

    def __call__(self, model: Any = None) -> torch.Tensor:
        """The sum of all terms, float32, on the model's device; ``model`` is the one it was made from."""
        values = {}
        for name, term in self._terms.items():
            values[name] = term()
        self._last = {name: value.detach() for name, value in values.items()}
        return torch.stack(list(values.values())).sum()

    @property
    def last_values(self) -> dict[str, float]:
        """The terms of the last call; empty before the first."""
        return {name: float(value) for name, value in self._last.items()}


def check_penalties(recipe: Recipe, new_weights: Sequence[str] = ()) -> None:
    """Refuse what cannot be had, before anything is computed for it.

    Raises:
        ConfigError: a penalty does not go with the method, with a new head, or with sharded parameters.
    """
    optim, method = recipe.optim, recipe.method.name
    asked = [name for name in ("l1", "l2_sp", "ewc") if getattr(optim, name)]
    if not asked and method != "adalora":
        return
    if is_divided(recipe):
        raise ConfigError(
            f"{asked[0] if asked else 'AdaLoRA'} needs whole parameters, which FSDP divides",
            where="hardware.sharding",
            remedy="use ddp",
        )
    if optim.l2_sp and method not in LOW_RANK | set(_WHOLE):
        raise ConfigError(
            f"the method {method} has no factors of a ΔW to keep small",
            where="optim.l2_sp",
            remedy="leave it out, or use a method of the LoRA kind, full or bitfit",
        )
    if optim.ewc is None:
        return
    if method not in _WHOLE:
        raise ConfigError(
            "elastic weight consolidation weighs each parameter of the base, and an adapter moves none of them alone",
            where="optim.ewc",
            remedy="use optim.l2_sp, which is exact for adapters, or the method full",
        )
    if new_weights:
        raise ConfigError(
            "the base has no head for this task, so there is no Fisher information of its answers",
            where="optim.ewc",
            remedy="use optim.l2_sp, or a base whose head has these labels",
        )


def _trained(model: Any) -> dict[str, _Place]:
    """Trained parameters by name; one that stands in two places is there once, under its first name."""
    modules = dict(model.named_modules())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: (modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in names}


def _now(place: _Place) -> torch.Tensor:
    module, name = place
    value: torch.Tensor = getattr(module, name)
    return value.float()


def _l1(trained: Mapping[str, _Place], weight: float) -> Term:
    return lambda: weight * torch.stack([_now(place).abs().sum() for place in trained.values()]).sum()


def _l2_sp(model: Any, weight: float, new_weights: Sequence[str]) -> dict[str, Term]:
    new, fresh = set(new_weights), []
    near: list[tuple[_Place, torch.Tensor]] = []
    for name, place in _trained(model).items():
        if any(part in name for part in _ADAPTER_PARTS):
            continue
        if _plain_name(name) in new:
            fresh.append(place)
        else:
            near.append((place, _now(place).detach().clone()))
    layers = [layer for _, layer in lora_layers(model)]

    def distance() -> torch.Tensor:
        parts = [(_now(place) - start).square().sum() for place, start in near]
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            parts += [squared_shift(layer) for layer in layers]
        return 0.5 * weight * torch.stack(parts).sum()

    terms: dict[str, Term] = {"l2_sp": distance} if near or layers else {}
    if fresh:
        terms["l2_new"] = lambda: (
            0.5 * NEW_LAYER_BETA * torch.stack([_now(place).square().sum() for place in fresh]).sum()
        )
    return terms


def _plain_name(name: str) -> str:
    """A parameter's name without PEFT's wrappers."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")


def _ewc(trained: Mapping[str, _Place], fisher: Mapping[str, torch.Tensor], weight: float) -> Term:
    parts = [
        (place, _now(place).detach().clone(), fisher[name].to(_now(place).device)) for name, place in trained.items()
    ]

    def distance() -> torch.Tensor:
        return (
            0.5 * weight * torch.stack([(info * (_now(at) - start).square()).sum() for at, start, info in parts]).sum()
        )

    return distance


def _orthogonality(model: Any) -> Term:
    layers = [layer for _, layer in lora_layers(model)]

    def distance() -> torch.Tensor:
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            grams = []
            for layer in layers:
                down, up = layer.lora_A["default"].float(), layer.lora_B["default"].float()
                grams += [down @ down.T, up.T @ up]
            away = [torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
            return ORTHOGONALITY * torch.stack(away).mean()

    return distance
