"""Texts that raters changed, or that their programs rewrote: found by digest, named by what other copies say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from lorascope.blind.filled_values import quoted
from lorascope.blind.key import KeyRow, row_digest
from lorascope.blind.rows import FilledRow, SheetRow

_CELL_LIMIT = 32_767
_NAMED = ("question", "answer A", "answer B")
_TOLD_APART = 20
_ENCODINGS = {"gbk": "GBK", "cp1252": "Windows-1252"}
"""Encodings of text files that hold some characters alone."""
_NAMED_SIGNS = 3
_ANY = "\x00"
_BEFORE, _AFTER = 12, 20


@dataclass(frozen=True, slots=True)
class EditedText:
    """What is wrong with a row's texts. ``lost``: the file's encoding could not hold what was shown."""

    problem: str
    lost: bool = False


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


def edited_texts(
    rows: Iterable[FilledRow], known: Mapping[str, KeyRow], salt: str, encodings: Mapping[str, str | None]
) -> dict[str, EditedText]:
    """What is wrong with the texts of each edited row, by row id. Rows without texts are passed over.

    ``encodings`` gives the encoding of each row's file by row id, None where there is none. Which of the three texts it
    is, and where it differs, is said where unchanged copies of it, in any of the rows, give the row back its digest.
    That takes up to seven digests a row and is done for the first 20 only.
    """
    copies, edited = _Copies(), []
    for row in rows:
        if row.texts is None:
            continue
        if row_digest(salt, SheetRow(row.id, *row.texts)) == known[row.id].digest:
            copies.learn(known[row.id], row.texts)
        else:
            edited.append((row, row.texts))
    found = {
        row.id: _described(row.id, texts, known[row.id], copies, salt, encodings.get(row.id))
        for row, texts in edited[:_TOLD_APART]
    }
    rest = EditedText("the question or an answer is not the text shown")
    return found | {row.id: rest for row, _ in edited[_TOLD_APART:]}


def _described(
    name: str, given: tuple[str, str, str], row: KeyRow, copies: _Copies, salt: str, encoding: str | None
) -> EditedText:
    right = copies.of(row)
    places = _changed(name, given, right, row.digest, salt)
    if not places:
        text = "the question or an answer is not the text shown"
        if encoding in _ENCODINGS and any("?" in each for each in given):
            told = (
                f": it was saved as {_ENCODINGS[encoding]}, where '?' may stand for a character that this cannot hold"
            )
            return EditedText(f"{text}{told}", lost=True)
        return EditedText(f"{text}{_cause([(each, '') for each in given])}")
    pairs = [(_plain(given[place]), _plain(right[place] or "")) for place in places]
    named = " and ".join(_NAMED[place] for place in places)
    are = "are not the texts" if len(places) > 1 else "is not the text"
    lost = [_lost(*pair, encoding) for pair in pairs]
    if encoding is not None and all(lost):
        signs = dict.fromkeys("".join(lost))
        told = f"saved as {_ENCODINGS[encoding]}, which cannot hold {_signs(list(signs))}"
        return EditedText(f"{named} {are} shown: {told}", lost=True)
    cause = _cause(pairs)
    where = " and ".join(f"{_NAMED[place]} {_difference(*pair)}" for place, pair in zip(places, pairs, strict=True))
    return EditedText(f"{named} {are} shown{cause}; {where}")


def _plain(text: str) -> str:
    """The text as its digest sees it."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def _lost(given: str, right: str, encoding: str | None) -> str:
    """The shown characters that the encoding cannot hold, where nothing else differs; '' otherwise.

    Programs write one sign in place of each, or two for a character beyond U+FFFF.
    """
    if encoding not in _ENCODINGS:
        return ""
    for wide in (1, 2):
        text = "".join(sign if _holds(encoding, sign) else _ANY * (wide if ord(sign) > 0xFFFF else 1) for sign in right)
        if len(text) == len(given) and all(b in (a, _ANY) for a, b in zip(given, text, strict=True)):
            return "".join(sign for sign in right if not _holds(encoding, sign))
    return ""


def _holds(encoding: str, sign: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _signs(signs: list[str]) -> str:
    named = [f"U+{ord(sign):04X}" + (f" ({sign})" if sign.isprintable() else "") for sign in signs[:_NAMED_SIGNS]]
    more = len(signs) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _difference(given: str, right: str) -> str:
    """Where the given text first differs from the shown one, and what stands there in each."""
    signs = enumerate(zip(given, right, strict=False))
    place = next((place for place, (now, then) in signs if now != then), min(len(given), len(right)))
    if place == len(given):
        return f"ends after character {place:,} of {len(right):,}"
    start = max(0, place - _BEFORE)
    now, then = (quoted(text[start : place + _AFTER]) for text in (given, right))
    return f"differs from character {place + 1:,} on: {now}, shown was {then}"


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
