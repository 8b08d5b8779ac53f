"""What of a whole model is trained: its head, its last layers, its biases, or parameters by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from lorascope.errors import ConfigError
from lorascope.schema.recipe import Freeze
from lorascope.training.architecture import blocks, head_modules, is_within, unknown_name


def freeze_but(model: Any, freeze: Freeze, new_weights: Sequence[str] = ()) -> None:
    """Train what ``freeze.train`` names and freeze the rest; ``new_weights`` are always trained.

    ``head`` is the classification head, or a language model's output layer where that is a weight of its own.
    ``last-layers`` are the last ``freeze.layers`` blocks (of an encoder–decoder: of its decoder) and that head; the
    norm behind the last block stays. Patterns (``*``, ``?``, ``[…]``) are matched with whole names of parameters.

    Raises:
        ConfigError: a pattern matches nothing, there are fewer blocks, or the output layer is the input embedding too.
    """
    if freeze.train == "head":
        wanted = _head(model, needed=True)
    elif freeze.train == "last-layers":
        wanted = (*_last_blocks(model, freeze.layers or 0), *_head(model, needed=False))
    else:
        _train(model, _by_patterns(model, freeze.train), new_weights)
        return
    _train(model, lambda name: is_within(name, wanted), new_weights)


def train_biases(model: Any, new_weights: Sequence[str] = ()) -> None:
    """BitFit: train every bias and the head.

    Raises:
        ConfigError: the model has no biases, as Llama and its kin.
    """
    heads = head_modules(model)
    names = [name for name, _ in model.named_parameters()]
    if not any(name.endswith("bias") for name in names if not is_within(name, heads)):
        raise ConfigError(
            f"a {model.config.model_type} model has no biases, which are all that bitfit trains",
            where="method.name",
            remedy="use lora, or freeze with 'train: last-layers'",
        )
    _train(model, lambda name: name.endswith("bias") or is_within(name, heads), new_weights)


def _train(model: Any, is_wanted: Callable[[str], bool], new_weights: Sequence[str]) -> None:
    new = set(new_weights)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_wanted(name) or name in new)


def _head(model: Any, *, needed: bool) -> tuple[str, ...]:
    heads = head_modules(model)
    output = None if heads else model.get_output_embeddings()
    if output is None:
        return heads
    inputs = model.get_input_embeddings()
    if inputs is not None and output.weight is inputs.weight:
        if not needed:
            return ()
        raise ConfigError(
            "the output layer is the input embedding as well, so it cannot be trained alone",
            where="freeze.train",
            remedy="use 'last-layers', or patterns of names",
        )
    return tuple(name for name, module in model.named_modules() if module is output)


def _last_blocks(model: Any, count: int) -> tuple[str, ...]:
    name, found = blocks(model)
    if count > len(found):
        raise ConfigError(
            f"the model has {len(found)} layers, fewer than {count}",
            where="freeze.layers",
            remedy=f"give 1 to {len(found)}",
        )
    return tuple(f"{name}.{index}" for index in range(len(found) - count, len(found)))


def _by_patterns(model: Any, patterns: Sequence[str]) -> Callable[[str], bool]:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown_name(pattern, names, what="parameter", where="freeze.train")
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)
