"""What a training run cost, as it stands in ``cost.json``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """Cost of the steps that made the result; work that a kill threw away is not in it.

    ``train_seconds`` is wall time with evaluations and checkpoints. ``tokens_per_second`` counts the training rows'
    tokens, padding left out, over the time inside training steps alone. ``peak_memory_bytes`` is the accelerator's
    allocator's peak, None on a CPU, where a process has no peak of its own for one run.
    """

    method: str
    trainable_parameters: int
    total_parameters: int
    steps: int
    tokens: int
    train_seconds: float
    tokens_per_second: float | None
    peak_memory_bytes: int | None
