"""Batches of similar length under a token budget, which follows the memory there is.

On a CPU the budget is fixed, at a size that keeps a batch's activations near the processor: larger batches are not
faster there. On a CUDA device it starts small and grows as far as the peak of the batches that ran lets expect room for
(:class:`Gauge`). On every device it is halved when memory runs out.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import psutil
import torch

from lorascope.engines.base import Size
from lorascope.errors import EvaluationError

_Result = TypeVar("_Result")
_SHARE_OF_FREE = 0.7
_MOST_GROWTH = 4
_MOST_TOKENS = 2**18
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


class Gauge:
    """The token budget that a CUDA device has room for, by the peaks of the batches that ran.

    The longest batch runs first and is the probe: memory per padded token falls from then on, so what is expected from
    it holds for all later ones. A budget grows at most fourfold at once and never after memory has run out.
    """

    def __init__(self, device: torch.device) -> None:
        """Look at ``device``, which has to be a CUDA device."""
        self._device = device
        self._before = 0

    def begin(self) -> None:
        """A batch begins."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def grown(self, tokens: int, budget: int) -> int:
        """The budget after a batch of ``tokens`` has run: the old one, or more."""
        used = torch.cuda.max_memory_allocated(self._device) - self._before
        return grown_budget(tokens, used, free_memory(self._device), budget)


def grown_budget(tokens: int, used: int, free: int, budget: int) -> int:
    """The budget that ``free`` bytes allow after ``tokens`` took ``used``; the old one where that batch was small."""
    if 2 * tokens < budget or used <= 0:
        return budget
    fitting = int(_SHARE_OF_FREE * free * tokens / used)
    return max(budget, min(fitting, _MOST_GROWTH * tokens, _MOST_TOKENS))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had: of a CUDA device with what its allocator holds unused, else of the machine."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + held)
    return int(psutil.virtual_memory().available)


def run_batches(
    indices: Sequence[int],
    sizes: Sequence[Size],
    ask: Callable[[Sequence[int]], list[_Result]],
    on_batch: Callable[[Sequence[int], list[_Result]], None],
    *,
    budget: int,
    cap: int | None = None,
    gauge: Gauge | None = None,
) -> None:
    """Ask all items batch by batch and hand each batch's results to ``on_batch``.

    When memory runs out, what remains is planned anew with half of the failed batch's items and tokens. With a
    ``gauge``, the budget grows while there is room.

    Raises:
        EvaluationError: memory runs out on a single item.
    """
    pending = plan(indices, sizes, budget=budget, cap=cap)
    while pending:
        batch = pending.pop(0)
        if gauge is not None:
            gauge.begin()
        results = _ask_or_none(ask, batch, sizes)
        tokens = padded_tokens(batch, sizes)
        if results is None:
            release_memory()
            budget, cap, gauge = tokens // 2, len(batch) // 2, None
            pending = _planned_again([batch, *pending], sizes, budget, cap)
            continue
        on_batch(batch, results)
        if gauge is not None and (larger := gauge.grown(tokens, budget)) > budget:
            budget = larger
            pending = _planned_again(pending, sizes, budget, cap)


def _planned_again(
    batches: Sequence[Sequence[int]], sizes: Sequence[Size], budget: int, cap: int | None
) -> list[list[int]]:
    return plan([index for batch in batches for index in batch], sizes, budget=budget, cap=cap)


class Stream(Protocol[_Result]):
    """Answers items as they get finished, ``rows`` answers being written at a time."""

    def __call__(
        self, indices: Sequence[int], *, rows: int, tokens_at_once: int
    ) -> Iterator[list[tuple[int, _Result]]]:
        """Groups of items' numbers and results; ``tokens_at_once`` bounds a pass over prompts."""


def run_stream(
    indices: Sequence[int],
    sizes: Sequence[Size],
    stream: Stream[_Result],
    on_batch: Callable[[Sequence[int], list[_Result]], None],
    *,
    rows: int,
    budget: int,
) -> None:
    """Ask all items as one stream and hand results to ``on_batch`` as they come.

    When memory runs out, what is unanswered begins anew with half of the rows and of the tokens read at once.

    Raises:
        EvaluationError: memory runs out on a single item.
    """
    waiting = dict.fromkeys(indices)
    while waiting:
        if _streamed(stream, waiting, on_batch, rows, budget):
            return
        release_memory()
        if rows == 1:
            raise _single(Size(max(sizes[index].length for index in waiting)))
        rows, budget = rows // 2, budget // 2


def _streamed(
    stream: Stream[_Result],
    waiting: dict[int, None],
    on_batch: Callable[[Sequence[int], list[_Result]], None],
    rows: int,
    budget: int,
) -> bool:
    """Whether all went through; items that are answered leave ``waiting`` in any case."""
    parts = stream(list(waiting), rows=rows, tokens_at_once=budget)
    while True:
        done = _next_or_none(parts)
        if done is None:
            return False
        if not done:
            return True
        on_batch([index for index, _ in done], [result for _, result in done])
        for index, _ in done:
            del waiting[index]


def _next_or_none(parts: Iterator[list[tuple[int, _Result]]]) -> list[tuple[int, _Result]] | None:
    """The next part, an empty one at the end, None when memory ran out; see :func:`_ask_or_none`."""
    try:
        return next(parts, [])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


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
            raise _single(sizes[batch[0]]) from error
        return None


def _single(size: Size) -> EvaluationError:
    return EvaluationError(
        f"memory runs out on a single item of {size.rows} × {size.length} tokens",
        remedy="shorten the item, lower max_new_tokens, use --dtype bfloat16 or another device",
    )


def release_memory() -> None:
    """Give memory that is no longer referenced back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
