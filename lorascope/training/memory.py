"""Running out of memory: told from other errors, and said with the settings that help."""

from __future__ import annotations

import torch

from lorascope.errors import EvaluationError
from lorascope.schema.recipe import Recipe

_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "DefaultCPUAllocator")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on an accelerator or in main memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def smaller_batches(recipe: Recipe) -> Recipe | None:
    """The recipe with half the batch and twice the accumulation, which trains on the same rows; None below one row."""
    optim = recipe.optim
    if optim.batch_size % 2:
        return None
    halved = optim.model_copy(update={"batch_size": optim.batch_size // 2, "accumulate": optim.accumulate * 2})
    return recipe.model_copy(update={"optim": halved})


def memory_error(recipe: Recipe, *, where: str) -> EvaluationError:
    """The error, with what to lower, the cheapest first."""
    optim, hardware = recipe.optim, recipe.hardware
    ways = []
    if optim.batch_size > 1:
        ways.append(
            f"lower optim.batch_size (now {optim.batch_size}) and raise optim.accumulate, or set "
            "hardware.out_of_memory: accumulate, which does that by itself"
        )
    if not hardware.activation_checkpointing:
        ways.append("set hardware.activation_checkpointing: true")
    ways.append(f"lower task.max_length (now {recipe.task.max_length})")
    if recipe.method.name == "full":
        ways.append("train an adapter (method.name: lora) instead of all weights")
    return EvaluationError("memory ran out in training", where=where, remedy="; or ".join(ways))
