"""Concurrent requests behind a plain iterator: an event loop in a thread, its results in the caller's thread.

The caller's thread keeps what only it may touch (the answer cache's connection, the progress bar), works inside a
notebook, whose own event loop is running already, and can be interrupted: what waits is then cancelled.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

_Asked = TypeVar("_Asked")
_Found = TypeVar("_Found")

Emit = Callable[[_Found], None]
"""Hands one result over; may be called any number of times."""


def streamed(produce: Callable[[Emit[_Found]], Coroutine[Any, Any, None]]) -> Iterator[_Found]:
    """What ``produce`` emits, as it comes. Its exception is raised here, after all that was emitted before it."""
    found: queue.SimpleQueue[tuple[_Found] | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(produce(lambda one: found.put((one,))))
    task.add_done_callback(lambda _: found.put(None))
    thread = threading.Thread(target=_run, args=(loop, task), daemon=True)
    thread.start()
    try:
        while (entry := found.get()) is not None:
            yield entry[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
    task.result()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    loop.run_until_complete(asyncio.wait([task]))
    loop.run_until_complete(loop.shutdown_asyncgens())


async def ask_each(
    waiting: Iterable[_Asked],
    ask: Callable[[_Asked], Awaitable[_Found]],
    emit: Emit[tuple[_Asked, _Found]],
    *,
    concurrency: int,
) -> None:
    """Ask for everything in ``waiting``, at most ``concurrency`` at a time; the first failure ends the rest."""
    remaining = iter(waiting)

    async def work() -> None:
        for one in remaining:
            emit((one, await ask(one)))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
