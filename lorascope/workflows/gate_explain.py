"""Print what a gate policy means, and what it can see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

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
_TWO_QUESTIONS = (
    '"Items for 80 % PASS" is asked of a model that did not change. The "items would decide" of an INCONCLUSIVE row is '
    "another question: it takes the measured value for the true one."
)


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
    found = explain(policy, comparison, baseline, name=name)
    for each in found:
        _show(each, console, name)
    if any(each.seen for each in found):
        console.print(Text(_TWO_QUESTIONS))
    return 0


def _show(each: Explanation, console: Console, name: str) -> None:
    where = one_line(f" ({name}, line {each.line})") if each.line else ""
    console.print(Text.assemble((one_line(f"{each.metric}: {each.rule}"), "bold"), where))
    for doubt in each.doubts:
        console.print(Padding(Text(one_line(f"doubt: {doubt}"), style="yellow"), (0, 0, 0, 2)))
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
    drops = sorted({each.drop for each in seen} - {0.0})
    fallen = [f"drop {drop:.4g}: FAIL" for drop in drops]
    for place, title in enumerate(("Items that", "Items", "no drop: PASS", "no drop: FAIL", *fallen, _TITLES[-1])):
        table.add_column(title, overflow="fold", no_wrap=place == 0, justify="left" if place == 0 else "right")
    for _, group in groupby(seen, key=lambda each: (each.discordant, each.n)):
        by_drop = {each.drop: each for each in group}
        still = by_drop[0.0]
        failed = [by_drop[drop].chances.failed if drop in by_drop else None for drop in (0.0, *drops)]
        told = ["–" if chance is None else f"{100 * chance:.1f} %" for chance in (still.chances.passed, *failed)]
        table.add_row(Text(still.address), f"{still.n:,}", *told, _items(still.needed))
    return table


def _items(needed: int | None) -> str:
    return "none would do" if needed is None else f"{needed:,}"
