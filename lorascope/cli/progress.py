"""Progress in a terminal: one bar a stage, with the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lorascope.workflows.watch import Progress as Report


class TerminalWatch:
    """Draws bars on ``console``; plain lines where it is no terminal, so that logs stay readable."""

    def __init__(self, console: Console) -> None:
        """``console`` should write to standard error: standard output carries results alone."""
        self._console = console

    def say(self, text: str) -> None:
        """One line, as it is."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Report]:
        """A bar for one stage; it stays, finished, with the time that it took."""
        if not self._console.is_terminal:
            self.say(f"{title} …")
            yield lambda done, total: None
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
