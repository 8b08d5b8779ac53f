"""``lorascope cache``."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from lorascope.cli.options import Place

if TYPE_CHECKING:
    from lorascope.engines.cache import Context, Damage, Holding
    from lorascope.workflows.answer_cache import Pruned

DAMAGED = 2
"""Exit code of ``verify`` where damage was found and left: as for any unreadable input."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SHOWN_DAMAGE = 20
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _seconds(context: click.Context, parameter: click.Parameter, written: str | None) -> float | None:
    """A time span written as a number and a unit: ``90m``, ``12h``, ``30d``, ``4w``."""
    if written is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", written.strip().lower())
    if found is None:
        raise click.BadParameter(
            f"{written!r} is no time span; write a number and a unit, like 12h, 30d or 4w.", context, parameter
        )
    span = float(found[1]) * _UNITS[found[2]]
    if not math.isfinite(span):
        raise click.BadParameter("longer than any time there was.", context, parameter)
    return span


def _shared_options(command: _Command) -> _Command:
    for option in reversed(
        (
            click.option(
                "--cache-dir",
                type=Place(file_okay=False),
                help="Folder of the cache. Default: LORASCOPE_CACHE_DIR, else the user's cache folder.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text."),
            click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        )
    ):
        command = option(command)
    return command


@click.group()
def cache() -> None:
    """Look into the kept answers: what a checkpoint has said once is not asked again.

    All runs share one cache, keyed by the content of weights, tokenizer and question and by the settings of decoding.
    An answer of a changed checkpoint is never found, wherever the checkpoint lies.
    """


@cache.command()
@_shared_options
def show(cache_dir: Path | None, as_json: bool, debug: bool) -> int:
    """Where the cache is, how large, and how many answers of which checkpoint to which task it holds.

    \b
    lorascope cache show
    """
    from lorascope.workflows.answer_cache import cache_path, existing_cache, file_bytes

    path = cache_path(cache_dir)
    with existing_cache(cache_dir) as opened:
        holdings = [] if opened is None else opened.holdings()
    if as_json:
        rows = [asdict(holding) for holding in holdings]
        answers = sum(holding.answers for holding in holdings)
        _print_json({"path": str(path), "bytes": file_bytes(path), "answers": answers, "holdings": rows})
    else:
        _print_holdings(path, file_bytes(path), holdings)
    return 0


@cache.command()
@click.option("--drop", "dropping", is_flag=True, help="Remove damaged answers; they are computed again when needed.")
@_shared_options
def verify(dropping: bool, cache_dir: Path | None, as_json: bool, debug: bool) -> int:
    """Recompute every checksum and decode every answer; exit 2 where one is damaged and not dropped.

    \b
    lorascope cache verify --drop
    """
    from lorascope.workflows.answer_cache import cache_path, drop, existing_cache

    with existing_cache(cache_dir) as opened:
        checked = 0 if opened is None else len(opened)
        damaged = [] if opened is None else opened.verify()
        if opened is not None and damaged and dropping:
            drop(opened, damaged)
    if as_json:
        rows = [asdict(one) for one in damaged]
        _print_json({"path": str(cache_path(cache_dir)), "answers": checked, "damaged": rows, "dropped": dropping})
    else:
        _print_damage(cache_path(cache_dir), checked, damaged, dropped=dropping)
    return DAMAGED if damaged and not dropping else 0


@cache.command()
@click.option(
    "--older-than", metavar="AGE", callback=_seconds, help="Answers stored longer ago than this: 12h, 30d, 4w."
)
@click.option("--checkpoint", help="Answers of this checkpoint: its name, or 8 or more digits of its content hash.")
@click.option("--all", "everything", is_flag=True, help="All answers.")
@click.option("--yes", is_flag=True, help="Do not ask before removing all.")
@_shared_options
def prune(
    older_than: float | None,
    checkpoint: str | None,
    everything: bool,
    yes: bool,
    cache_dir: Path | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Remove answers and give their room back to the disk; --older-than and --checkpoint together mean both at once.

    \b
    lorascope cache prune --older-than 30d
    lorascope cache prune --checkpoint lora
    """
    from lorascope.workflows.answer_cache import Pruned, existing_cache
    from lorascope.workflows.answer_cache import prune as run

    if everything == (older_than is not None or checkpoint is not None):
        raise click.UsageError("say what to remove: --older-than, --checkpoint or both; or --all, alone")
    with existing_cache(cache_dir) as opened:
        if opened is not None and everything and not yes:
            _ask(len(opened), opened.path)
        removed = Pruned(0, 0) if opened is None else run(opened, older_than=older_than, checkpoint=checkpoint)
    if as_json:
        _print_json(asdict(removed))
    else:
        click.echo(_told(removed))
    return 0


def _ask(answers: int, path: Path) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("--all needs --yes where nobody can be asked")
    click.confirm(f"Remove all {answers:,} answers of {path}?", abort=True)


def _told(removed: Pruned) -> str:
    from lorascope.report.numbers import byte_size

    if removed.answers == 0:
        return "Nothing to remove."
    return f"Removed {_counted(removed.answers)}, freed {byte_size(removed.bytes)}."


def _print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def _print_holdings(path: Path, size: int, holdings: Sequence[Holding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lorascope.report.numbers import byte_size

    if not holdings:
        click.echo(f"{path}: {'empty' if path.is_file() else 'no answers were kept yet'}")
        return
    total = sum(holding.answers for holding in holdings)
    click.echo(f"{path}: {_counted(total)}, {byte_size(size)}")
    table = Table()
    for title in ("checkpoint", "content", "task", "engine", "stored"):
        table.add_column(title, overflow="fold")
    table.add_column("answers", justify="right")
    for holding in holdings:
        cells = (*_named(holding.context), _age(holding.newest))
        table.add_row(*(Text(cell) for cell in cells), f"{holding.answers:,}")
    Console(emoji=False).print(table)


def _named(context: Context | None) -> tuple[str, str, str, str]:
    if context is None:
        return "not noted (an older lorascope)", "", "", ""
    engine = f"{context.engine}, {context.dtype}, {context.device}"
    return context.subject, context.content_hash[:12], f"{context.task} ({context.kind})", engine


def _age(stored: float | None) -> str:
    from lorascope.report.numbers import duration

    if stored is None:
        return "not noted"
    passed = max(time.time() - stored, 0)
    days = int(passed // _UNITS["d"])
    return f"{days:,} days ago" if days > 1 else f"{duration(passed)} ago"


def _print_damage(path: Path, checked: int, damaged: Sequence[Damage], *, dropped: bool) -> None:
    if not damaged:
        click.echo(f"{path}: {_counted(checked)}, none damaged")
        return
    click.echo(f"{path}: {len(damaged):,} of {_counted(checked)} damaged" + (" and removed" if dropped else ""))
    for one in damaged[:_SHOWN_DAMAGE]:
        of = "" if one.context is None else f" ({one.context.subject}, {one.context.task})"
        click.echo(f"  {one.key[:16]}{of}: {one.reason}")
    if len(damaged) > _SHOWN_DAMAGE:
        click.echo(f"  and {len(damaged) - _SHOWN_DAMAGE:,} more")
    if not dropped:
        click.echo("  what to do: lorascope cache verify --drop removes them; they are computed again when needed")


def _counted(answers: int) -> str:
    return f"{answers:,} answer" + ("" if answers == 1 else "s")
