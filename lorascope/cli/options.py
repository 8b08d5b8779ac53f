"""Options that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from rich.console import Console

from lorascope.cli.progress import TerminalWatch
from lorascope.workflows.watch import Silent, Watch

_Command = TypeVar("_Command", bound=Callable[..., Any])


def common(command: _Command) -> _Command:
    """``--seed --quiet --json --debug``: every command that measures something has them."""
    for option in reversed(
        (
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of sampling and resampling."),
            click.option("--quiet", is_flag=True, help="No progress and no table; errors are still shown."),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table."),
            click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        )
    ):
        command = option(command)
    return command


def running(command: _Command) -> _Command:
    """``--device --dtype --batch-size --limit --fraction``: how and on how many items models are run."""
    for option in reversed(
        (
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …"),
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                default="auto",
                show_default=True,
                help="Type to compute in; auto: as stored.",
            ),
            click.option("--batch-size", type=click.IntRange(1), help="Largest batch. Default: by length and memory."),
            click.option("--limit", type=click.IntRange(1), help="Items a task at most, sampled with the seed."),
            click.option(
                "--fraction", type=click.FloatRange(0, 1, min_open=True), help="Share of the items, sampled likewise."
            ),
        )
    ):
        command = option(command)
    return command


def writing(command: _Command) -> _Command:
    """``--out --overwrite``: where results go."""
    for option in reversed(
        (
            click.option("--out", type=click.Path(path_type=Path), help="Output folder. Default: reports/NAME."),
            click.option("--overwrite", is_flag=True, help="Replace another command's results in that folder."),
        )
    ):
        command = option(command)
    return command


def opening(command: _Command) -> _Command:
    """``--allow-pickle``: what may be opened."""
    return click.option(
        "--allow-pickle", is_flag=True, help="Read .bin weights, as plain tensors only. Default: refuse them."
    )(command)


def watcher(quiet: bool) -> Watch:
    """Progress on standard error, or none."""
    return Silent() if quiet else TerminalWatch(Console(stderr=True))
