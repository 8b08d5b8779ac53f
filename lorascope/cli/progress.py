"""Progress: in a terminal one bar a stage, with the time left; elsewhere a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lorascope.workflows.watch import Progress as Report

_EVERY = 30.0
"""Seconds between two plain lines of one stage."""
_FIRST = 10.0
"""Seconds after which a stage that will go on for more than :data:`_LONG` says so."""
_LONG = 60.0


class TerminalWatch:
    """Draws bars on ``console``; plain lines where it is no terminal, so that logs stay readable."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """``console`` should write to standard error: standard output carries results alone. ``clock`` in seconds."""
        self._console = console
        self._clock = clock

    def say(self, text: str) -> None:
        """One line, as it is."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Report]:
        """A bar for one stage; it stays, finished, with the time that it took."""
        if not self._console.is_terminal:
            self.say(f"{title} …")
            yield _PlainStage(title, self.say, self._clock).report
            return
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        ) as bars:
            task = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


class _PlainStage:
    """One stage in a log: a line every half minute, and an early one where the stage will take long.

    The time left is the pace so far times what is left: neither what an earlier run had done counts, nor what comes
    before the first step, up to the last report of nothing done.
    """

    def __init__(self, title: str, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._title, self._say, self._clock = title, say, clock
        self._began = clock()
        self._spoke: float | None = None
        self._start: tuple[float, int] | None = None

    def report(self, done: int, total: int) -> None:
        """``done`` of ``total`` steps are finished."""
        now = self._clock()
        if not done:
            self._start = (now, 0)
        elif self._start is None:
            # A stage that begins with more than one step done has them from an earlier run.
            self._start = (self._began, 0) if done == 1 else (now, done)
        since, before = self._start
        left = (now - since) / (done - before) * (total - done) if done > before else None
        if done >= total or not self._is_due(now, left):
            return
        self._spoke = now
        self._say(f"{self._title}: {done} of {total}" + (f", about {_duration(left)} left" if left else ""))

    def _is_due(self, now: float, left: float | None) -> bool:
        if self._spoke is not None:
            return now - self._spoke >= _EVERY
        waited = now - self._began
        return waited >= _EVERY or (waited >= _FIRST and left is not None and left > _LONG)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
