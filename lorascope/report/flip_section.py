"""The section on what changed: right and wrong answers counted both ways, and why the broken ones broke."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from lorascope.report.samples import Samples
from lorascope.schema.comparison import Comparison
from lorascope.schema.flips import CauseName, FlipLedger


@dataclass(frozen=True, slots=True)
class Counted:
    """A cause and how many broken answers have it; ``shown`` where the page carries such answers to look at."""

    name: CauseName
    count: int
    shown: bool


@dataclass(frozen=True, slots=True)
class FlipRow:
    """One subject's ledger. ``against`` names the reference where that is not the base."""

    ledger: FlipLedger
    against: str | None
    causes: tuple[Counted, ...]
    shown: frozenset[str]

    @property
    def turned(self) -> int:
        """Items that turned either way."""
        return self.ledger.fixed + self.ledger.broken


@dataclass(frozen=True, slots=True)
class FlipTask:
    """The ledgers of one task."""

    name: str
    items: int
    rows: tuple[FlipRow, ...]


def flip_context(comparison: Comparison, embedded: Samples | None) -> dict[str, Any]:
    """What the section's template needs: ledgers by task, in the order of the tasks, and the causes that occur."""
    names = dict.fromkeys([task.name for task in comparison.tasks] + [ledger.task for ledger in comparison.flips])
    carried = _carried(embedded)
    tasks = []
    for name in names:
        ledgers = [ledger for ledger in comparison.flips if ledger.task == name]
        if ledgers:
            rows = tuple(_row(ledger, comparison.base.name, carried) for ledger in ledgers)
            tasks.append(FlipTask(name, max(ledger.items for ledger in ledgers), rows))
    occurring = {cause.name for task in tasks for row in task.rows for cause in row.causes}
    known: tuple[CauseName, ...] = get_args(CauseName)
    return {
        "flip_tasks": tasks,
        "known_causes": known,
        "cause_names": [name for name in known if name in occurring],
    }


def _row(ledger: FlipLedger, base: str, carried: set[tuple[str, str, str]]) -> FlipRow:
    """Answers in the page stand against the base, so only ledgers against the base lead to them."""
    own = {what for task, subject, what in carried if (task, subject) == (ledger.task, ledger.subject)}
    shown = frozenset(own if ledger.reference == base else ())
    counts = ledger.causes or {}
    found = [Counted(name, counts[name], f"cause:{name}" in shown) for name in get_args(CauseName) if counts.get(name)]
    against = None if ledger.reference == base else ledger.reference
    return FlipRow(ledger, against, tuple(sorted(found, key=lambda each: -each.count)), shown)


def _carried(embedded: Samples | None) -> set[tuple[str, str, str]]:
    """(task, subject, outcome or ``cause:NAME``) of the answers that the page carries."""
    if embedded is None:
        return set()
    data = embedded.data
    found = set()
    for item in data["items"]:
        for answer in item["answers"]:
            place = data["tasks"][item["task"]], data["subjects"][answer["subject"]]
            found.add((*place, str(answer["outcome"])))
            if answer["cause"]:
                found.add((*place, f"cause:{answer['cause']}"))
    return found
