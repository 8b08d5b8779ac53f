"""What a training run cost, as it stands in ``cost.json``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """Cost of the steps that made the result; work that a kill threw away is not in it.

    ``tokens`` are those of the training rows in all steps, padding left out; an encoder–decoder's are those that it
    reads and those that it learns to write. ``train_seconds`` is wall time with evaluations and checkpoints.
    ``tokens_per_second`` are ``tokens`` over the time inside training steps alone. ``peak_memory_bytes`` is, by
    ``memory_kind``, the peak of the accelerator's allocator (``cuda``), or the largest resident size of the process at
    the end of a step (``process``): all of the process, libraries and earlier runs in it included. ``energy_joules`` is
    the driver's count for the whole boards; null where it did not count the run from its first step to its last.
    """

    method: str
    trainable_parameters: int
    total_parameters: int
    steps: int
    tokens: int
    train_seconds: float
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    memory_kind: str | None
    energy_joules: float | None
    devices: int
