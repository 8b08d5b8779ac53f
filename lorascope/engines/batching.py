"""Batches of similar length under a token budget, shrinking when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from lorascope.engines.base import Size
from lorascope.errors import EvaluationError

_Result = TypeVar("_Result")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the machine has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY)


def plan(indices: Sequence[int], sizes: Sequence[Size], *, budget: int, cap: int | None) -> list[list[int]]:
    """Split ``indices`` into batches, longest items first (memory runs out early or not at all).

    A batch holds at most ``budget`` padded tokens and ``cap`` items, but always one item.
    """
    ordered = sorted(indices, key=lambda index: (-sizes[index].length, index))
    batches: list[list[int]] = []
    longest = rows = 0
    for index in ordered:
        size = sizes[index]
        if batches and (rows + size.rows) * longest <= budget and (cap is None or len(batches[-1]) < cap):
            batches[-1].append(index)
            rows += size.rows
        else:
            batches.append([index])
            longest, rows = size.length, size.rows
    return batches


def padded_tokens(batch: Sequence[int], sizes: Sequence[Size]) -> int:
    """Tokens of a batch after padding all its rows to the longest one."""
    return max(sizes[index].length for index in batch) * sum(sizes[index].rows for index in batch)


def run_batches(
    indices: Sequence[int],
    sizes: Sequence[Size],
    ask: Callable[[Sequence[int]], list[_Result]],
    on_batch: Callable[[Sequence[int], list[_Result]], None],
    *,
    budget: int,
    cap: int | None = None,
) -> None:
    """Ask all items batch by batch and hand each batch's results to ``on_batch``.

    When memory runs out, what remains is planned anew with half of the failed batch's items and tokens.

    Raises:
        EvaluationError: memory runs out on a single item.
    """
    pending = plan(indices, sizes, budget=budget, cap=cap)
    while pending:
        batch = pending.pop(0)
        results = _ask_or_none(ask, batch, sizes)
        if results is None:
            release_memory()
            budget, cap = padded_tokens(batch, sizes) // 2, len(batch) // 2
            remaining = [index for waiting in [batch, *pending] for index in waiting]
            pending = plan(remaining, sizes, budget=budget, cap=cap)
        else:
            on_batch(batch, results)


def _ask_or_none(
    ask: Callable[[Sequence[int]], list[_Result]], batch: Sequence[int], sizes: Sequence[Size]
) -> list[_Result] | None:
    """None when memory ran out and a smaller batch is possible.

    The exception ends here, for its traceback would keep the tensors of the failed batch alive.
    """
    try:
        return ask(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            size = sizes[batch[0]]
            raise EvaluationError(
                f"memory runs out on a single item of {size.rows} × {size.length} tokens",
                remedy="shorten the item, lower max_new_tokens, use --dtype bfloat16 or another device",
            ) from error
        return None


def release_memory() -> None:
    """Give memory that is no longer referenced back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
