"""Concurrent work behind an iterator: order of arrival, failures, and giving up in the middle."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from lorascope.engines.streaming import Emit, ask_each, streamed


def test_results_come_as_they_arrive_and_in_the_callers_thread() -> None:
    async def ask(number: int) -> int:
        await asyncio.sleep(0.02 * number)
        return threading.get_ident()

    async def produce(emit: Emit[tuple[int, int]]) -> None:
        await ask_each([3, 1, 2], ask, emit, concurrency=3)

    found = list(streamed(produce))
    assert [number for number, _ in found] == [1, 2, 3]
    assert threading.get_ident() not in {thread for _, thread in found}


def test_a_failure_comes_after_what_was_found_and_ends_the_rest() -> None:
    asked: list[int] = []

    async def ask(number: int) -> int:
        asked.append(number)
        if number == 2:
            raise ValueError("two")
        return number

    async def produce(emit: Emit[tuple[int, int]]) -> None:
        await ask_each(range(10), ask, emit, concurrency=1)

    found = []
    with pytest.raises(ValueError, match="two"):
        found.extend(streamed(produce))
    assert found == [(0, 0), (1, 1)]
    assert asked == [0, 1, 2]


def test_giving_up_cancels_what_waits() -> None:
    cancelled = threading.Event()

    async def produce(emit: Emit[int]) -> None:
        emit(1)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    started = time.monotonic()
    iterator = streamed(produce)
    assert next(iterator) == 1
    iterator.close()
    assert cancelled.is_set()
    assert time.monotonic() - started < 30
