from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from lorascope.engines.base import Size
from lorascope.engines.batching import is_out_of_memory, padded_tokens, plan, run_batches
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
