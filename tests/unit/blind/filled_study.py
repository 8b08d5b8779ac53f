"""Keys and filled sheets made by hand, so that checking and scoring are tested without the code that exports studies.

Tests load this file by its path. Every rater rates every item, or in split studies each item has one rater; rows stand
in the order rated, repeats, checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lorascope.blind.key import KeyRow, Stratum, StudyItem, StudyKey, System, row_digest
from lorascope.blind.plan import StudyPlan
from lorascope.blind.rows import FilledRow, FilledSheet, SheetRow

SALT = "5a" * 32
Answer = Callable[[KeyRow, StudyItem], str | Mapping[str, str]]
"""What a rater gives a row: an overall choice, or a mapping with 'overall' and ratings."""


@dataclass(frozen=True)
class Made:
    """A study's key and the rows of each rater's sheet."""

    key: StudyKey
    rows: dict[str, list[SheetRow]]

    @cached_property
    def commitment(self) -> str:
        return self.key.commitment

    def fill(self, answer: Answer, raters: Sequence[str] | None = None) -> list[FilledSheet]:
        return [self.sheet(rater, answer) for rater in raters or self.key.raters]

    def sheet(self, rater: str, answer: Answer, name: str | None = None) -> FilledSheet:
        keyed = {row.id: row for row in self.key.rows}
        name = name or f"{rater}.csv"
        filled = []
        for number, row in enumerate(self.rows[rater], start=2):
            given = answer(keyed[row.id], self.key.items[keyed[row.id].item])
            cells = {"overall": given} if isinstance(given, str) else dict(given)
            overall = cells.pop("overall", "")
            place = f"{name}, row {number}"
            filled.append(FilledRow(place, row.id, self.commitment, rater, overall, cells, "", row.texts))
        return FilledSheet(name, tuple(filled))


def prefer(system: str | None, strength: str = "") -> Answer:
    """A rater who always takes one system's answer (None: always a tie), passes checks and ties identical rows."""

    def answer(row: KeyRow, item: StudyItem) -> str:
        if row.kind == "identical" or (system is None and row.kind != "mismatched"):
            return "tie"
        if row.kind == "mismatched":
            return "B" if row.wrong == "A" else "A"
        return ("A" if row.a == system else "B") + strength

    return answer


def changed(sheet: FilledSheet, number: int, **changes: Any) -> FilledSheet:
    """The sheet with fields of one row (0 is the first) replaced."""
    rows = list(sheet.rows)
    rows[number] = replace(rows[number], **changes)
    return replace(sheet, rows=tuple(rows))


def make_study(
    items: int = 12,
    raters: int = 3,
    *,
    systems: Sequence[str] = ("base", "tuned"),
    identical: int | Collection[int] = 0,
    split: bool = False,
    repeats: int = 4,
    checks: int = 3,
    same: int = 2,
    strata: Mapping[str, tuple[int, int]] | None = None,
    lengths: Callable[[int], tuple[int, int]] = lambda place: (10 + place, 10 + 3 * place % 7),
    plan: StudyPlan | None = None,
    study: str = "study-1",
    salt: str = SALT,
) -> Made:
    """``strata``: name → (population, drawn), the drawn ones in the order of the items; one of all items if None.

    The last ``identical`` items, or those at the places named, have identical answers. With more than two systems the
    pairs take turns. ``split``: the raters take turns at the other items, instead of rating all of them.
    """
    drawn = strata or {"all": (items * 10, items)}
    names = [name for name, (_, count) in drawn.items() for _ in range(count)]
    alike = set(range(items - identical, items)) if isinstance(identical, int) else set(identical)
    pairs = [(systems[j], systems[i]) for i in range(len(systems)) for j in range(i + 1, len(systems))]
    made = [
        StudyItem(
            task="support",
            item_id=f"i{place}",
            stratum=names[place],
            first=pairs[place % len(pairs)][0],
            second=pairs[place % len(pairs)][1],
            lengths=lengths(place),
            identical=place in alike,
        )
        for place in range(items)
    ]
    rows: dict[str, list[SheetRow]] = {}
    keyed: list[KeyRow] = []
    for number in range(raters):
        rater = f"rater-{number + 1}"
        rows[rater] = []
        own = [place for place, item in enumerate(made) if not item.identical]
        own = own[number::raters] if split else own
        for row, shown in _rows(made, own, rater, number, (repeats, checks, same), salt):
            rows[rater].append(shown)
            keyed.append(row)
    key = StudyKey(
        study=study,
        language="en",
        seed=1,
        salt=salt,
        tasks={"support": "f1"},
        systems=[
            System(name=name, role="base" if name == "base" else "adapted", content_hash=f"h-{name}")
            for name in systems
        ],
        strata=[Stratum(name=n, population=p, drawn=d, weight=p / d) for n, (p, d) in drawn.items()],
        items=made,
        raters=list(rows),
        rows=keyed,
        plan=plan,
    )
    return Made(key, rows)


def _rows(
    items: Sequence[StudyItem],
    rated: Sequence[int],
    rater: str,
    number: int,
    extra: tuple[int, int, int],
    salt: str,
) -> list[tuple[KeyRow, SheetRow]]:
    found: list[tuple[KeyRow, SheetRow]] = []

    def add(kind: str, place: int, sides: tuple[str, str], **more: Any) -> None:
        item = items[place]
        texts = [f"answer of {side} to {item.item_id}" for side in sides]
        if kind == "mismatched":
            texts[0 if more["wrong"] == "A" else 1] = f"answer to something else {place}"
        name = "q" + hashlib.sha256(f"{salt}{rater}{len(found)}".encode()).hexdigest()[:12]
        shown = SheetRow(name, f"question {item.item_id}", *texts)
        row = KeyRow.model_validate(
            {"id": name, "rater": rater, "kind": kind, "item": place, "a": sides[0], "b": sides[1],
             "digest": row_digest(salt, shown)} | more
        )  # fmt: skip
        found.append((row, shown))

    repeats, checks, same = extra
    for turn, place in enumerate(rated):
        item = items[place]
        sides = (item.first, item.second) if (turn + number) % 2 else (item.second, item.first)
        add("rated", place, sides)
    originals = [row for row, _ in found[:repeats]]
    for row in originals:
        add("repeat", row.item, (row.b, row.a), of=row.id)
    for turn in range(checks):
        place = rated[turn]
        add("mismatched", place, (items[place].first, items[place].second), wrong="AB"[turn % 2])
    for turn in range(same):
        place = rated[turn]
        add("identical", place, (items[place].first, items[place].first))
    return found
