"""Where a model has its head, its linear layers and its blocks, and names that were meant when one is not found."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lorascope.errors import ConfigError
from lorascope.schema.recipe import Recipe

_HEADED = ("ForSequenceClassification", "ForTokenClassification")
_SHOWN = 6


def unwrapped(model: Any) -> Any:
    """The transformers model under PEFT's wrappers, with the adapter's layers still in it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def head_modules(model: Any) -> tuple[str, ...]:
    """Names of the direct children that make up a classification head; empty for language models.

    The head is all that has parameters and is not the base model: ``classifier``, ``score``, DistilBERT's
    ``pre_classifier``, DeBERTa's ``pooler``.
    """
    plain = unwrapped(model)
    if not any(kind.__name__.endswith(_HEADED) for kind in type(plain).__mro__):
        return ()
    return tuple(
        name
        for name, child in plain.named_children()
        if name != plain.base_model_prefix and next(child.parameters(), None) is not None
    )


def head_parameters(model: Any, new_weights: Sequence[str] = ()) -> set[int]:
    """``id`` of every parameter of the head and of the layers that hold ``new_weights``."""
    plain = unwrapped(model)
    names = [*head_modules(model), *modules_of(new_weights)]
    return {id(parameter) for name in names for parameter in plain.get_submodule(name).parameters()}


def is_divided(recipe: Recipe) -> bool:
    """Whether FSDP divides the parameters among processes; a single process keeps them whole."""
    return recipe.hardware.sharding == "fsdp" and int(os.environ.get("WORLD_SIZE", "1")) > 1


def modules_of(parameters: Iterable[str]) -> tuple[str, ...]:
    """The modules that hold these parameters, each once, in order."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in parameters))


def is_within(name: str, outer: Iterable[str]) -> bool:
    """Whether a module or parameter is one of ``outer`` or inside one of them."""
    return any(name == other or name.startswith(f"{other}.") for other in outer)


def linear_modules(model: Any, *, without: Sequence[str] = ()) -> list[str]:
    """Full names of all linear layers but the head, the output layer of a language model, and ``without``."""
    output = model.get_output_embeddings()
    outside = (*head_modules(model), *without)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not output and not is_within(name, outside)
    ]


def blocks(model: Any) -> tuple[str, nn.ModuleList]:
    """Name and list of the model's layers; of an encoder–decoder those of the decoder.

    Raises:
        ConfigError: the model has no list of layers.
    """
    part = model.get_decoder() if model.config.is_encoder_decoder else model
    prefix = next((name for name, module in model.named_modules() if module is part), "")
    lists = [(name, module) for name, module in part.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ConfigError(f"a {model.config.model_type} model has no list of layers to count from", where="freeze")
    name, found = max(lists, key=lambda pair: sum(parameter.numel() for parameter in pair[1].parameters()))
    return ".".join(filter(None, (prefix, name))), found


def unknown_name(wrong: str, known: Iterable[str], *, what: str, where: str) -> ConfigError:
    """The error for a name that the model does not have, with the nearest ones, or else with some of its own."""
    names = sorted(set(known))
    ends = {name.rpartition(".")[2]: name for name in names}
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.7) or difflib.get_close_matches(wrong, ends, n=3)
    shown = near or sorted(ends)[:_SHOWN]
    said = "the nearest are" if near else "it has"
    return ConfigError(f"the model has no {what} '{wrong}'", where=where, remedy=f"{said}: {', '.join(shown)}")
