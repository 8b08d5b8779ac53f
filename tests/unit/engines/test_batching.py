from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from lorascope.engines.base import Size
from lorascope.engines.batching import (
    Gauge,
    free_memory,
    grown_budget,
    is_out_of_memory,
    padded_tokens,
    plan,
    run_batches,
    run_stream,
)
from lorascope.errors import EvaluationError

SIZES = [Size(3), Size(10), Size(1), Size(7), Size(10), Size(2, rows=4)]


def test_plan_takes_every_item_once_longest_first_within_the_budget() -> None:
    batches = plan(range(len(SIZES)), SIZES, budget=20, cap=None)
    assert sorted(index for batch in batches for index in batch) == list(range(len(SIZES)))
    assert batches[0] == [1, 4]
    assert all(len(batch) == 1 or padded_tokens(batch, SIZES) <= 20 for batch in batches)


def test_plan_counts_all_rows_of_an_item() -> None:
    assert plan([2, 5], SIZES, budget=9, cap=None) == [[5], [2]]
    assert plan([2, 5], SIZES, budget=10, cap=None) == [[5, 2]]


def test_plan_keeps_the_cap_and_never_leaves_an_item_out() -> None:
    assert [len(batch) for batch in plan(range(6), SIZES, budget=10**6, cap=4)] == [4, 2]
    assert plan([1], SIZES, budget=1, cap=None) == [[1]]


class Memory:
    """A device that fails above ``room`` items, and remembers what it was asked."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error = room, error
        self.asked: list[list[int]] = []

    def ask(self, batch: Sequence[int]) -> list[int]:
        self.asked.append(list(batch))
        if len(batch) > self.room:
            raise self.error
        return [10 * index for index in batch]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory"),
        MemoryError(),
    ],
)
def test_batches_shrink_when_memory_runs_out(error: Exception) -> None:
    device, found = Memory(2, error), {}
    sizes = [Size(5)] * 8
    run_batches(range(8), sizes, device.ask, lambda batch, got: found.update(zip(batch, got, strict=True)), budget=1000)
    assert found == {index: 10 * index for index in range(8)}
    assert [len(batch) for batch in device.asked] == [8, 4, 2, 2, 2, 2]


def test_a_single_item_without_memory_is_an_error_with_a_remedy() -> None:
    device = Memory(0, MemoryError())
    with pytest.raises(EvaluationError, match="single item") as caught:
        run_batches([0, 1], [Size(5), Size(9)], device.ask, lambda batch, got: None, budget=100)
    assert "max_new_tokens" in (caught.value.remedy or "")


def test_other_errors_are_not_taken_for_memory() -> None:
    device = Memory(0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        run_batches([0, 1], [Size(5)] * 2, device.ask, lambda batch, got: None, budget=100)
    assert len(device.asked) == 1
    assert not is_out_of_memory(ValueError("out of memory"))


class Stream:
    """Answers one item after the other, and fails once at each of the given numbers of rows."""

    def __init__(self, *failures: int) -> None:
        self.failures = list(failures)
        self.asked: list[tuple[list[int], int, int]] = []

    def __call__(self, indices: Sequence[int], *, rows: int, tokens_at_once: int) -> Iterator[list[tuple[int, int]]]:
        self.asked.append((list(indices), rows, tokens_at_once))
        for count, index in enumerate(indices):
            if count == 2 and rows in self.failures:
                raise torch.OutOfMemoryError("CUDA")
            yield [(index, 10 * index)]


def test_a_stream_goes_on_with_what_is_unanswered_when_memory_runs_out() -> None:
    stream, found = Stream(8, 4), {}
    keep = lambda batch, got: found.update(zip(batch, got, strict=True))  # noqa: E731
    run_stream(range(6), [Size(5)] * 6, stream, keep, rows=8, budget=100)
    assert found == {index: 10 * index for index in range(6)}
    assert stream.asked == [([0, 1, 2, 3, 4, 5], 8, 100), ([2, 3, 4, 5], 4, 50), ([4, 5], 2, 25)]


def test_a_single_row_without_memory_is_an_error_and_other_errors_are_not_memory() -> None:
    with pytest.raises(EvaluationError, match="single item of 1 × 7 tokens"):
        run_stream(range(4), [Size(5), Size(5), Size(7), Size(6)], Stream(1), lambda *_: None, rows=1, budget=9)

    def broken(indices: Sequence[int], *, rows: int, tokens_at_once: int) -> Iterator[list[tuple[int, int]]]:
        raise RuntimeError("shapes cannot be multiplied")
        yield []

    with pytest.raises(RuntimeError, match="multiplied"):
        run_stream(range(4), [Size(5)] * 4, broken, lambda *_: None, rows=4, budget=9)


def test_a_budget_grows_as_free_memory_allows() -> None:
    assert grown_budget(1000, used=1000, free=100_000, budget=1000) == 4000  # fourfold at most
    assert grown_budget(1000, used=1000, free=2000, budget=1000) == 1400  # 70 % of what is free
    assert grown_budget(1000, used=1000, free=1000, budget=1000) == 1000  # never less
    assert grown_budget(100, used=1, free=100_000, budget=1000) == 1000  # a small batch proves nothing
    assert grown_budget(2**18, used=1, free=2**60, budget=2**18) == 2**18


class Roomy(Gauge):
    """Says that four times the tokens fit."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def begin(self) -> None:
        pass

    def grown(self, tokens: int, budget: int) -> int:
        return 4 * budget


def test_batches_grow_with_the_budget_until_memory_runs_out() -> None:
    device, found = Memory(8, MemoryError()), {}
    keep = lambda batch, got: found.update(zip(batch, got, strict=True))  # noqa: E731
    run_batches(range(40), [Size(5)] * 40, device.ask, keep, budget=10, gauge=Roomy())
    assert found == {index: 10 * index for index in range(40)}
    assert [len(batch) for batch in device.asked] == [2, 8, 30, 15, 7, 7, 7, 7, 2]


def test_free_memory_is_a_number_of_bytes() -> None:
    assert free_memory(torch.device("cpu")) > 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gauge_reads_the_peak_of_a_batch() -> None:
    device = torch.device("cuda", 0)
    gauge = Gauge(device)
    gauge.begin()
    torch.empty(2**26, dtype=torch.uint8, device=device)
    assert gauge.grown(2**10, 2**10) == 2**12
