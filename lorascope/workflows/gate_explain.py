"""Print what a gate policy means, and what it can see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lorascope.gates.explaining import Explanation, Seen, explain
from lorascope.gates.outputs import one_line
from lorascope.gates.pairing import Baseline
from lorascope.schema.comparison import Comparison
from lorascope.schema.policy import GatePolicy

_TITLES = ("Items", "True drop", "PASS", "FAIL", "INCONCLUSIVE", "Items for 80 % PASS")


def run_explain(
    policy: GatePolicy,
    console: Console,
    comparison: Comparison | None = None,
    baseline: Baseline | None = None,
    *,
    name: str = "gates.toml",
) -> int:
    """Print every limit in words with its table of chances; returns 0.

    ``comparison`` makes the numbers those of this result's items; see :func:`~lorascope.gates.explaining.explain`.
    """
    for each in explain(policy, comparison, baseline, name=name):
        _show(each, console, Path(name).name)
    return 0


def _show(each: Explanation, console: Console, name: str) -> None:
    where = one_line(f" ({name}, line {each.line})") if each.line else ""
    console.print(Text.assemble((one_line(f"{each.metric}: {each.rule}"), "bold"), where))
    for sentence in each.sentences:
        console.print(Padding(Text(one_line(sentence)), (0, 0, 0, 2)))
    if each.seen and each.seen[0].discordant is not None:
        console.print(Padding(_assumed(each.seen), (0, 0, 0, 2)))
        console.print()
        return
    for address, rows in groupby(each.seen, key=lambda seen: seen.address):
        console.print(Padding(Text(one_line(address), style="bold"), (1, 0, 0, 2)))
        console.print(Padding(_measured(list(rows)), (0, 0, 0, 2)))
    console.print()


def _measured(seen: Sequence[Seen]) -> Table:
    """One line a true drop of one measurement."""
    table = Table(box=None, pad_edge=False)
    for title in _TITLES:
        table.add_column(title, justify="right")
    for each in seen:
        chances = (each.chances.passed, each.chances.failed, each.chances.inconclusive)
        shares = [f"{100 * chance:.1f} %" for chance in chances]
        table.add_row(f"{each.n:,}", f"{each.drop:.4g}", *shares, _items(each.needed))
    return table


def _assumed(seen: Sequence[Seen]) -> Table:
    """One line a number of items, by the share of differing items that was assumed."""
    table = Table(box=None, pad_edge=False)
    drop = max(each.drop for each in seen)
    titles = ("Items that", "Items", "unchanged: PASS", "unchanged: FAIL", f"drop of {drop:.4g}: FAIL", _TITLES[-1])
    for place, title in enumerate(titles):
        table.add_column(title, overflow="fold", justify="left" if place == 0 else "right")
    for _, pair in groupby(seen, key=lambda each: (each.discordant, each.n)):
        still, fallen = pair
        chances = (still.chances.passed, still.chances.failed, fallen.chances.failed)
        told = [f"{100 * chance:.1f} %" for chance in chances]
        table.add_row(Text(still.address), f"{still.n:,}", *told, _items(still.needed))
    return table


def _items(needed: int | None) -> str:
    return "none would do" if needed is None else f"{needed:,}"
