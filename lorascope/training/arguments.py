"""A recipe in the words of transformers' ``TrainingArguments``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from lorascope.errors import ConfigError
from lorascope.schema.recipe import Recipe
from lorascope.training.stopping import is_higher_better, judged_metric


def training_arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """The arguments with which the trainer works in ``folder``; every evaluation leaves a checkpoint to resume from.

    Raises:
        ConfigError: ``hardware.device`` names nothing that there is here.
    """
    validated = bool(recipe.validation_sets)
    with _on_device(recipe.hardware.device):
        arguments = TrainingArguments(
            output_dir=str(folder),
            **_optimisation(recipe),
            **_hardware(recipe),
            logging_steps=recipe.evaluation.log_every,
            eval_strategy="steps" if validated else "no",
            eval_steps=recipe.evaluation.every,
            eval_on_start=validated and recipe.evaluation.at_start,
            save_strategy="steps",
            save_steps=recipe.evaluation.every,
            save_total_limit=1,
            **_kept(recipe),
            include_num_input_tokens_seen="non_padding",
            logging_nan_inf_filter=False,
            label_names=["labels"],
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
            seed=recipe.seed,
        )
        # Several visible GPUs without a launcher: one of them is used. DataParallel would change the batch size.
        arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _optimisation(recipe: Recipe) -> dict[str, Any]:
    optim = recipe.optim
    return {
        "num_train_epochs": optim.epochs,
        "max_steps": optim.max_steps or -1,
        "learning_rate": optim.learning_rate,
        "per_device_train_batch_size": optim.batch_size,
        "per_device_eval_batch_size": recipe.evaluation.batch_size,
        "gradient_accumulation_steps": optim.accumulate,
        "warmup_steps": optim.warmup,
        "lr_scheduler_type": optim.scheduler,
        "lr_scheduler_kwargs": dict(optim.scheduler_options),
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.clip or 0.0,
        "neftune_noise_alpha": optim.neftune,
    }


def _hardware(recipe: Recipe) -> dict[str, Any]:
    hardware, on_cpu = recipe.hardware, not uses_cuda(recipe.hardware.device)
    precision = chosen_precision(recipe)
    settings: dict[str, Any] = {
        "use_cpu": on_cpu,
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "torch_compile": hardware.compile,
        "dataloader_num_workers": hardware.workers,
        "dataloader_pin_memory": not on_cpu,
        "ddp_find_unused_parameters": False,
    }
    if hardware.sharding == "fsdp" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        settings["fsdp"] = True
        settings["fsdp_config"] = {"activation_checkpointing": hardware.activation_checkpointing}
    elif hardware.activation_checkpointing:
        settings["activation_checkpointing"] = True
        settings["activation_checkpointing_kwargs"] = {"use_reentrant": False}
    return settings


def _kept(recipe: Recipe) -> dict[str, Any]:
    if recipe.evaluation.keep != "best":
        return {}
    return {
        "load_best_model_at_end": True,
        "metric_for_best_model": judged_metric(recipe),
        "greater_is_better": is_higher_better(recipe),
    }


def uses_cuda(device: str) -> bool:
    """Whether a recipe's ``hardware.device`` means a CUDA device here."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def device_of(device: str) -> torch.device:
    """Where weights are loaded to: the launcher's own GPU in each of its processes, else the one that is named."""
    if not uses_cuda(device):
        return torch.device("cpu")
    if device in ("auto", "cuda"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(device)


def chosen_precision(recipe: Recipe) -> str:
    """``auto`` is bfloat16 where CUDA computes in it, and float32 elsewhere."""
    if recipe.optim.precision != "auto":
        return recipe.optim.precision
    return "bfloat16" if uses_cuda(recipe.hardware.device) and torch.cuda.is_bf16_supported() else "float32"


@contextmanager
def _on_device(device: str) -> Iterator[None]:
    """Accelerate reads from the environment which of several GPUs is meant."""
    if device in ("auto", "cpu"):
        yield
        return
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"'{device}' is no device", where="hardware.device", remedy="use auto, cpu or cuda"
        ) from error
    if resolved.type != "cuda" or (resolved.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"there is no device '{device}' to train on",
            where="hardware.device",
            remedy=f"use auto, cpu{', cuda' if torch.cuda.is_available() else ''}",
        )
    before = os.environ.get("ACCELERATE_TORCH_DEVICE")
    os.environ["ACCELERATE_TORCH_DEVICE"] = device
    try:
        yield
    finally:
        if before is None:
            del os.environ["ACCELERATE_TORCH_DEVICE"]
        else:
            os.environ["ACCELERATE_TORCH_DEVICE"] = before


def total_steps(recipe: Recipe, rows: int) -> int:
    """Optimiser steps of the whole run over ``rows`` rows, as the trainer counts them, over all processes."""
    if recipe.optim.max_steps is not None:
        return recipe.optim.max_steps
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batches = math.ceil(math.ceil(rows / recipe.optim.batch_size) / processes)
    return math.ceil(recipe.optim.epochs * max(1, math.ceil(batches / recipe.optim.accumulate)))
