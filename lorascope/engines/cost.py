"""What an answer costs: time per item and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from lorascope.engines.base import Asker
from lorascope.engines.holding import Ready

MOST_ITEMS = 16
_TIMED_PASSES = 3


class Cost(NamedTuple):
    """Milliseconds per item, bytes, and one sentence on how both were measured."""

    latency_ms_per_item: float
    memory_bytes: int
    method: str


def measure(ready: Ready, asker: Asker, count: int, *, merged: bool) -> Cost:
    """Time ``count`` items one at a time: a warm-up pass, then the median of three passes.

    Memory is the peak of what was allocated during the timed passes on CUDA, and the size of all parameters and buffers
    on a CPU. ``merged`` only says in the method text that the adapter has been merged before.
    """
    _one_pass(ready, asker, range(count))
    if ready.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ready.device)
    seconds = [_one_pass(ready, asker, range(count)) for _ in range(_TIMED_PASSES)]
    state = "adapter merged" if merged else "as loaded"
    memory = "peak allocated on the device" if ready.device.type == "cuda" else "parameters and buffers"
    return Cost(
        latency_ms_per_item=1000 * statistics.median(seconds) / count,
        memory_bytes=_memory(ready),
        method=f"{count} items one by one, 1 warm-up and median of {_TIMED_PASSES} passes, {state}; memory: {memory}",
    )


def _one_pass(ready: Ready, asker: Asker, indices: Sequence[int]) -> float:
    _synchronise(ready)
    start = time.perf_counter()
    for index in indices:
        asker.ask([index])
    _synchronise(ready)
    return time.perf_counter() - start


def _synchronise(ready: Ready) -> None:
    if ready.device.type == "cuda":
        torch.cuda.synchronize(ready.device)


def _memory(ready: Ready) -> int:
    if ready.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(ready.device))
    tensors = {tensor.data_ptr(): tensor for tensor in [*ready.model.parameters(), *ready.model.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
