"""Texts that raters changed, or that their programs rewrote: found by digest, named by what other copies say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from lorascope.blind.key import KeyRow, row_digest
from lorascope.blind.rows import FilledRow, SheetRow

_CELL_LIMIT = 32_767
_NAMED = ("question", "answer A", "answer B")
_TOLD_APART = 20


@dataclass(slots=True)
class _Copies:
    """What unchanged rows say that an item's question and its systems' answers are."""

    questions: dict[int, str] = field(default_factory=dict)
    answers: dict[tuple[int, str], str] = field(default_factory=dict)

    def learn(self, row: KeyRow, texts: tuple[str, str, str]) -> None:
        """Keep the texts of an unchanged row; a check's answers are not those of its item."""
        self.questions[row.item] = texts[0]
        if row.kind in ("rated", "repeat"):
            self.answers[row.item, row.a], self.answers[row.item, row.b] = texts[1:]

    def of(self, row: KeyRow) -> tuple[str | None, str | None, str | None]:
        """Question, answer A and answer B of a row; None where no copy tells."""
        a, b = (self.answers.get((row.item, system)) for system in (row.a, row.b))
        return self.questions.get(row.item), None if row.wrong == "A" else a, None if row.wrong == "B" else b


def edited_texts(rows: Iterable[FilledRow], known: Mapping[str, KeyRow], salt: str) -> dict[str, str]:
    """What is wrong with the texts of each edited row, by row id. Rows without texts are passed over.

    Which of the three texts it is, is said where unchanged copies of it, in any of the rows, give the row back its
    digest. That takes up to seven digests a row and is done for the first 20 only.
    """
    copies, edited = _Copies(), []
    for row in rows:
        if row.texts is None:
            continue
        if row_digest(salt, SheetRow(row.id, *row.texts)) == known[row.id].digest:
            copies.learn(known[row.id], row.texts)
        else:
            edited.append((row, row.texts))
    found = {row.id: _described(row.id, texts, known[row.id], copies, salt) for row, texts in edited[:_TOLD_APART]}
    return found | {row.id: "the question or an answer is not the text shown" for row, _ in edited[_TOLD_APART:]}


def _described(name: str, given: tuple[str, str, str], row: KeyRow, copies: _Copies, salt: str) -> str:
    right = copies.of(row)
    places = _changed(name, given, right, row.digest, salt)
    named = " and ".join(_NAMED[place] for place in places) or "the question or an answer"
    are = "are not the texts" if len(places) > 1 else "is not the text"
    return f"{named} {are} shown{_cause([(given[place], right[place] or '') for place in places or range(3)])}"


def _changed(
    name: str, given: tuple[str, str, str], right: tuple[str | None, str | None, str | None], digest: str, salt: str
) -> tuple[int, ...]:
    """Places of the fewest texts that, put right, give the row back its digest; () where none do."""
    known = {place: text for place, text in enumerate(right) if text is not None}
    for count in range(1, len(known) + 1):
        for places in combinations(known, count):
            question, a, b = (known[place] if place in places else given[place] for place in range(3))
            if row_digest(salt, SheetRow(name, question, a, b)) == digest:
                return places
    return ()


def _cause(texts: Iterable[tuple[str, str]]) -> str:
    """What the look of a changed text, beside the right one, says about how it came about; nothing where nothing."""
    for given, right in texts:
        if len(given) == _CELL_LIMIT:
            return f": a spreadsheet cut it at {_CELL_LIMIT:,} characters"
        if any(sign in given and sign not in right for sign in ("\ufffd", "锟斤拷")):
            return ": characters were lost when the file was saved in another encoding"
        if given.startswith(("#NAME?", "#VALUE!", "#REF!", "Err:5")):
            return ": a spreadsheet took it for a formula"
    return ""
