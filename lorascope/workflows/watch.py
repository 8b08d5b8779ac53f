"""How a workflow tells what it is doing. Workflows never print: the command line, a notebook or a test watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class Watch(Protocol):
    """Whoever looks on."""

    def stage(self, title: str) -> AbstractContextManager[Progress]:
        """A stage begins; inside it, the callable is told (done, total)."""
        ...

    def say(self, text: str) -> None:
        """One line that a person should read."""
        ...


class Silent:
    """Nobody looks on."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Count nothing."""
        yield lambda done, total: None

    def say(self, text: str) -> None:
        """Say nothing."""
