"""``lorascope curves``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

if TYPE_CHECKING:
    from rich.console import Console

    from lorascope.data.logs import Curve, TrainingLog
    from lorascope.schema.comparison import Finding
    from lorascope.workflows.following import Follower, ReadRun

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 32
_STYLES = {"critical": "bold red", "warning": "yellow", "good": "green", "info": "cyan"}
_EVERY = 30.0
"""Seconds between two plain status lines of one run, where the output is no terminal."""


def _finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number", context, parameter)
    return value


@click.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--follow", is_flag=True, help="Read on while the run goes on; print each finding when it appears.")
@click.option(
    "--plateau-loss",
    type=float,
    callback=_finite,
    metavar="LOSS",
    help="Label tasks: the training loss of a model that knows the label frequencies alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the readings as JSON; with --follow one line a finding.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def curves(logs: tuple[Path, ...], follow: bool, plateau_loss: float | None, as_json: bool, debug: bool) -> int:
    """Diagnose training from its LOGS: run folders, folders of runs, or log files.

    Read are trainer_state.json, LLaMA-Factory's trainer_log.jsonl, ms-swift's logging.jsonl, TensorBoard event files,
    W&B chart exports, CSV with columns of steps and losses, and the output in which a trainer printed its rows.

    \b
    lorascope curves runs/lora runs/full
    lorascope curves runs/lora --follow
    """
    import json

    from rich.console import Console

    from lorascope.workflows.following import read_runs

    console = Console(emoji=False)
    if follow:
        _follow(logs, plateau_loss, as_json, console)
        return 0
    runs = read_runs(logs, plateau_loss=plateau_loss)
    if as_json:
        click.echo(json.dumps({run.name: run.document() for run in runs}, indent=1))
        return 0
    for run in runs:
        _print_run(run, console)
    return 0


def _print_run(run: ReadRun, console: Console) -> None:
    from lorascope.report.readings import print_readings

    print_readings(run.name, run.outcome.measurements, run.outcome.findings, run.outcome.missing, console)
    _print_curves(run.log, console)


def _print_curves(log: TrainingLog, console: Console) -> None:
    """A small chart of each loss on one scale, its first, lowest and last value, and what was passed over."""
    from rich.table import Table
    from rich.text import Text

    named = {"train": log.train, **log.eval}
    width = min(_WIDTH, max((len(curve.steps) for curve in named.values()), default=1))
    scale = _scale(list(named.values()), width)
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for column in ("", "loss", "over the run", "first", "lowest", "at", "last"):
        table.add_column(column, no_wrap=True)
    for name, curve in named.items():
        known = [(value, step) for step, value in zip(curve.steps, curve.values, strict=True) if value is not None]
        if not known or scale is None:
            continue
        lowest, at = min(known)
        drawn = sparkline(curve, log.train.steps or curve.steps, scale, width) if _can_draw(console) else ""
        numbers = (f"{known[0][0]:.4g}", f"{lowest:.4g}", f"{log.x_name} {at}", f"{known[-1][0]:.4g}")
        table.add_row("", Text(name), drawn, *numbers)
    console.print(table)
    console.print(Text(f"  read as {log.format}, {len(log.train.steps)} training rows", style="dim"))
    for note in log.notes:
        console.print(Text(f"  note: {note}", style="dim"))
    console.print()


def _can_draw(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _bins(curve: Curve, span: Sequence[int], width: int) -> list[float | None]:
    """Medians of the values in equal stretches of the span's steps; None for a stretch without any."""
    from statistics import median_high, median_low

    first, last = min(span[0], curve.steps[0]), max(span[-1], curve.steps[-1])
    inside: list[list[float]] = [[] for _ in range(width)]
    for step, value in zip(curve.steps, curve.values, strict=True):
        if value is not None:
            inside[min((step - first) * width // max(last - first, 1), width - 1)].append(value)
    return [median_low(values) / 2 + median_high(values) / 2 if values else None for values in inside]  # no overflow


def _scale(curves: Sequence[Curve], width: int) -> tuple[float, float] | None:
    """Lowest and highest of what is drawn of all curves, so that they can be compared by eye.

    Of many points the highest in thirty is left out: a spike would make all else flat.
    """
    drawn = [value for curve in curves if curve.steps for value in _bins(curve, curve.steps, width)]
    known = sorted(value for value in drawn if value is not None)
    return (known[0], known[-1 - len(known) // 30]) if known else None


def sparkline(curve: Curve, span: Sequence[int], scale: tuple[float, float], width: int) -> str:
    """The curve in blocks over the steps of ``span``; a blank where nothing was logged."""
    low, high = scale
    levels = []
    for value in _bins(curve, span, width):
        share = 0.0 if value is None or high <= low else (value / 2 - low / 2) / (high / 2 - low / 2)
        levels.append(" " if value is None else _BLOCKS[min(max(int(share * len(_BLOCKS)), 0), len(_BLOCKS) - 1)])
    return "".join(levels)


def _follow(logs: Sequence[Path], plateau_loss: float | None, as_json: bool, console: Console) -> None:
    from rich.live import Live
    from rich.text import Text

    from lorascope.workflows.following import ReadRun, follow, start_following

    followers = start_following(logs, plateau_loss=plateau_loss)
    if as_json:
        follow(followers, _show_json)
        return
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:

            def redraw(follower: Follower, news: list[Finding]) -> None:
                _print_news(follower, news, console)
                live.update(Text("\n".join(each.status() for each in followers), style="dim"), refresh=True)

            follow(followers, redraw)
    else:
        follow(followers, _PlainStatus(console).show)
    for follower in followers:
        if follower.log is not None and follower.outcome is not None:
            console.print(f"{follower.name}: the run has ended", highlight=False, markup=False, soft_wrap=True)
            _print_run(ReadRun(follower.name, follower.log, follower.outcome), console)


def _show_json(follower: Follower, news: list[Finding]) -> None:
    import json

    for finding in news:
        row = {"name": follower.name, "step": follower.step, "finding": finding.model_dump(mode="json")}
        click.echo(json.dumps(row))


def _print_news(follower: Follower, news: Sequence[Finding], console: Console) -> None:
    from rich.text import Text

    for finding in news:
        where = f"{follower.log.x_name if follower.log else 'step'} {follower.step}"
        console.print(Text(f"{where}: {finding.severity}: {finding.title}", style=_STYLES[finding.severity]))
        for text in [*finding.evidence, *([finding.advice] if finding.advice else [])]:
            console.print(Text(f"    {text}"))


class _PlainStatus:
    """Status lines in an output that is no terminal: the first at once, then one every half minute."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spoke: dict[str, tuple[float, str]] = {}

    def show(self, follower: Follower, news: list[Finding]) -> None:
        """Print what is new."""
        _print_news(follower, news, self._console)
        now, status = time.monotonic(), follower.status()
        spoke, said = self._spoke.get(follower.name, (float("-inf"), ""))
        if status != said and (now - spoke >= _EVERY or follower.ended):
            self._console.print(status, highlight=False, markup=False, soft_wrap=True)
            self._spoke[follower.name] = (now, status)
