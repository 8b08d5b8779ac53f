"""Parameters in groups with their own learning rates, the optimiser over them, and the schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import Adafactor, SchedulerType, get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_pt_utils import get_parameter_names

from lorascope.errors import ConfigError
from lorascope.schema.recipe import Hardware, Optim
from lorascope.training.architecture import head_parameters

# transformers' Trainer leaves these out of weight decay.
_NOT_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
_LATER_FACTOR = ("lora_B.", "lora_embedding_B.")
_SET_HERE = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "args", "kwargs")


def parameter_groups(model: Any, optim: Optim, *, new_weights: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The trained parameters in groups with ``name``, ``params``, ``lr`` and ``weight_decay``; none is empty.

    Names: ``head`` for a classification head (and what holds ``new_weights``) at ``head_learning_rate``; ``factor B``
    for LoRA's second factors at ``lora_plus_ratio`` times the learning rate, where that is given (LoRA+, arXiv
    2402.12354; PEFT's own optimiser gives that rate to vectors too, here biases and DoRA's magnitudes keep theirs);
    ``weights`` for the rest. Biases and norms are not decayed, which ``, no decay`` says behind the name.

    Raises:
        ConfigError: nothing is trained.
    """
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _NOT_DECAYED))
    heads = head_parameters(model, new_weights)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, rate = _part(name, id(parameter) in heads, optim)
        decays = name in decayed
        title = part if decays else f"{part}, no decay"
        group = {"name": title, "params": [], "lr": rate, "weight_decay": optim.weight_decay if decays else 0.0}
        groups.setdefault(title, group)["params"].append(parameter)
    if not groups:
        raise ConfigError("no parameter is trained", where="method")
    return list(groups.values())


def _part(name: str, is_head: bool, optim: Optim) -> tuple[str, float]:
    if is_head:
        return "head", optim.head_learning_rate or optim.learning_rate
    if optim.lora_plus_ratio is not None and any(factor in name for factor in _LATER_FACTOR):
        return "factor B", optim.learning_rate * optim.lora_plus_ratio
    return "weights", optim.learning_rate


def build_optimizer(
    model: Any, optim: Optim, hardware: Hardware, device: torch.device, *, new_weights: Sequence[str] = ()
) -> torch.optim.Optimizer:
    """The recipe's optimiser over :func:`parameter_groups`.

    ``adamw`` is torch's, fused on CUDA unless ``hardware.fused_optimizer`` says otherwise; ``adafactor`` is
    transformers' with the recipe's learning rate instead of its own relative one, and without a first moment;
    ``sgd`` has ``beta1`` for its momentum.
    """
    groups = parameter_groups(model, optim, new_weights=new_weights)
    if optim.optimizer == "adafactor":
        return Adafactor(groups, lr=optim.learning_rate, scale_parameter=False, relative_step=False)  # type: ignore[no-any-return]
    fused = hardware.fused_optimizer if hardware.fused_optimizer is not None else device.type == "cuda"
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.learning_rate, momentum=optim.beta1, fused=fused or None)
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=(optim.beta1, optim.beta2), fused=fused or None)


def warmup_steps(optim: Optim, total_steps: int) -> int:
    """Steps of the warm-up: a ``warmup`` below 1 is a share of all, rounded up."""
    return int(optim.warmup) if optim.warmup >= 1 else math.ceil(total_steps * optim.warmup)


def build_scheduler(optimizer: torch.optim.Optimizer, optim: Optim, total_steps: int) -> Any:
    """The schedule of all groups' learning rates, by transformers' ``get_scheduler``.

    ``constant`` has no warm-up; ``constant_with_warmup`` has.

    Raises:
        ConfigError: ``scheduler_options`` that this scheduler does not take, or that it lacks.
    """
    taken = _options(optim.scheduler)
    for name in optim.scheduler_options:
        if name not in taken:
            raise ConfigError(
                f"the scheduler {optim.scheduler} takes no option '{name}'",
                where="optim.scheduler_options",
                remedy=f"it takes: {', '.join(taken)}" if taken else "leave the options out",
            )
    try:
        return get_scheduler(
            optim.scheduler,
            optimizer,
            num_warmup_steps=warmup_steps(optim, total_steps),
            num_training_steps=total_steps,
            scheduler_specific_kwargs=dict(optim.scheduler_options),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the scheduler {optim.scheduler} cannot be set up: {error}",
            where="optim.scheduler_options",
            remedy=f"it takes: {', '.join(taken)}" if taken else None,
        ) from error


def _options(scheduler: str) -> list[str]:
    if scheduler in ("constant", "constant_with_warmup"):
        return []
    parameters = inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(scheduler)]).parameters
    return [name for name in parameters if name not in _SET_HERE]
