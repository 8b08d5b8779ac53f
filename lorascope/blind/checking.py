"""Filled sheets against the key: every problem is found and said at once, before anything is counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from lorascope.blind.edited_texts import edited_texts
from lorascope.blind.filled_values import is_date, misread_overall, misread_rating, parse_rating, quoted, shown
from lorascope.blind.key import KeyRow, StudyKey, row_digest
from lorascope.blind.rows import OVERALL, RATINGS, FilledRow, FilledSheet, SheetRow
from lorascope.blind.votes import Vote
from lorascope.errors import DataError

_LISTED = 20
_MOST_PLACES = 200
_AS_RETURNED = "give the sheets as the raters returned them"
_OTHER_STUDY = "score each study with the key written with it"
_CHANGED_KEY = "score with the key as the export wrote it"
_ONE_SHEET = "give one sheet of each rater, with that rater's rows alone"
_IDS = "restore the id column from the sheet as it was exported"
_DATES = "format rating cells as text, then enter the rating again"
_VALUES = "correct the cells in the rater's sheet"
_COMPLETE = "have the open rows rated, or score without them with --allow-partial"
_NUMBERED = re.compile(r"(?P<noun>[a-z]+) (?P<number>[0-9]{1,9})")
_RESTORE = (
    "put the missing rows back from the sheet as it was exported and have them rated, or score without them with "
    "--allow-partial"
)
_ENCODING = "save it as 'CSV UTF-8' or as XLSX from the file that the rater filled in, and give that file"
_FRESH = (
    "take the ratings over into a fresh copy of the sheet: spreadsheets rewrite texts that look like dates, numbers "
    "or formulas, and cut long ones"
)


@dataclass(frozen=True, slots=True)
class CheckedSheets:
    """The votes of sheets in which everything was in order.

    ``sheets`` gives each present rater's file name and ``open_rows`` how many of a rater's rows have no choice (only
    where such rows were allowed; raters without any are not in it). ``unverified`` counts rows whose format carries
    no texts, so that an edit could not have been found.
    """

    votes: tuple[Vote, ...]
    sheets: Mapping[str, str]
    open_rows: Mapping[str, int]
    unverified: int


@dataclass(slots=True)
class _Sheet:
    """One sheet while it is checked: its rater, that rater's rows, each once, and what is wrong with a remedy each.

    ``shown`` is what messages call it: its file's name, with the folder where another sheet has the same name.
    """

    name: str
    rater: str | None = None
    shown: str = ""
    encoding: str | None = None
    rows: dict[str, FilledRow] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def refuse(self, problem: str, remedy: str, row: FilledRow | None = None) -> None:
        """Note what is wrong with the sheet, or with one of its rows."""
        place = self.shown if row is None else self.place(row)
        whose = f" ({self.rater})" if self.rater else ""
        self.problems.append((f"{place}{whose}: {problem}", remedy))

    def place(self, row: FilledRow) -> str:
        """A row's place in words that also tell the sheet from others of the same name."""
        if not row.place.startswith(self.name):
            return shown(row.place)
        return f"{self.shown}{shown(row.place.removeprefix(self.name))}"


def check_sheets(sheets: Sequence[FilledSheet], key: StudyKey, *, allow_partial: bool = False) -> CheckedSheets:
    """Compare the sheets with the key and unblind their rows.

    A rater without a sheet is no problem here. ``allow_partial`` leaves a rater's open rows (without an overall choice,
    or missing) out instead of refusing the sheet; a sheet in which nothing is filled in then counts as not given.

    One DataError lists what is wrong in all sheets, at most 20 lines, by sheet, row and rater: rows of another study
    or a changed key, unknown and doubled rows, rows of another rater, two sheets of one rater, missing and open rows,
    choices and ratings that are none, texts that are not those shown. Time and memory grow with the rows alone.
    """
    if not sheets:
        raise DataError("no sheet was given", remedy=_AS_RETURNED)
    known = {row.id: row for row in key.rows}
    expected: dict[str, list[str]] = {}
    for row in key.rows:
        expected.setdefault(row.rater, []).append(row.id)
    commitment = key.commitment
    readings = [_best_reading(sheet, known, key.salt) for sheet in sheets]
    called = _called(readings)
    checked = [
        _own_rows(sheet, name, known, commitment, key.study) for sheet, name in zip(readings, called, strict=True)
    ]
    _one_sheet_each(checked)
    votes: list[Vote] = []
    files: dict[str, str] = {}
    open_rows: dict[str, int] = {}
    for each in checked:
        found = _votes(each, known)
        if each.rater is not None:
            left_open = _open_rows(each, expected[each.rater], allow_partial)
            if found:
                files[each.rater] = shown(each.name)
                open_rows |= {each.rater: left_open} if left_open else {}
        votes += found
    _check_texts(checked, known, key.salt)
    _raise_all(checked)
    if not votes:
        raise DataError("no sheet is filled in", remedy="give the sheets after they were rated")
    unverified = sum(row.texts is None for each in checked for row in each.rows.values())
    return CheckedSheets(tuple(votes), files, open_rows, unverified)


def _best_reading(sheet: FilledSheet, known: Mapping[str, KeyRow], salt: str) -> FilledSheet:
    """The sheet in the encoding in which most rows have their digest; the first of equals, in the order of reading."""
    if not sheet.otherwise:
        return sheet

    def right(reading: FilledSheet) -> int:
        return sum(
            row.texts is not None
            and row.id in known
            and row_digest(salt, SheetRow(row.id, *row.texts)) == known[row.id].digest
            for row in reading.rows
        )

    best = max((sheet, *sheet.otherwise), key=right)
    return replace(best, folder=sheet.folder, otherwise=())


def _called(sheets: Sequence[FilledSheet]) -> list[str]:
    """What messages call each sheet: its file's name, after its folder where several have that name."""
    counts = Counter(sheet.name for sheet in sheets)
    named = [
        str(PurePath(sheet.folder, sheet.name)) if counts[sheet.name] > 1 and sheet.folder else sheet.name
        for sheet in sheets
    ]
    return [shown(name) for name in named]


def _own_rows(sheet: FilledSheet, called: str, known: Mapping[str, KeyRow], commitment: str, study: str) -> _Sheet:
    """The rows that belong to the study and to the sheet's rater, each once."""
    found = _Sheet(sheet.name, shown=called, encoding=sheet.encoding)
    own = [row for row in sheet.rows if row.commitment == commitment]
    foreign = [row for row in sheet.rows if row.commitment != commitment]
    if not sheet.rows:
        found.refuse("the sheet has no rows", _AS_RETURNED)
    elif not own and any(row.id in known for row in foreign):
        problem = "the rows are this key's, but the study's mark is not: the key was changed after the export"
        found.refuse(problem, _CHANGED_KEY)
    elif not own:
        found.refuse("the sheet belongs to another study than the key", _OTHER_STUDY)
    elif foreign:
        problem = f"{_count(len(foreign), 'row')} without this study's mark ({_places(foreign)}): sheets were mixed, "
        found.refuse(f"{problem}or the study column was edited", _OTHER_STUDY)
    _sort_out(found, own, known)
    _refuse_relabelled(found, sheet, own, study)
    return found


def _sort_out(sheet: _Sheet, rows: Sequence[FilledRow], known: Mapping[str, KeyRow]) -> None:
    """Whose sheet it is, by most of its ids, and which rows cannot be used."""
    owners = Counter(known[row.id].rater for row in rows if row.id in known)
    sheet.rater = owners.most_common(1)[0][0] if owners else None
    strangers: dict[str, list[FilledRow]] = {}
    one_label = len({row.rater for row in rows}) == 1
    for row in rows:
        owner = known[row.id].rater if row.id in known else None
        if owner is None:
            sheet.refuse(f"the study has no row {quoted(row.id)}" if row.id else "the row has no id", _IDS, row)
        elif row.id in sheet.rows:
            first = sheet.place(sheet.rows[row.id])
            sheet.refuse(f"row {row.id} stands twice in the sheet, first in {first}", _IDS, row)
        elif owner != sheet.rater:
            strangers.setdefault(owner, []).append(row)
        else:
            sheet.rows[row.id] = row
            if row.rater != owner and not one_label:
                sheet.refuse(f"the rater column says {quoted(row.rater)}, but row {row.id} is {owner}'s", _IDS, row)
    for owner, found in strangers.items():
        sheet.refuse(f"{_count(len(found), 'row')} of {owner} in this sheet ({_places(found)})", _ONE_SHEET)


def _refuse_relabelled(found: _Sheet, sheet: FilledSheet, own: Sequence[FilledRow], study: str) -> None:
    """A sheet that names one other rater in all its rows, or another study than theirs, is said to once."""
    if not found.rows:
        return
    labels = {row.rater for row in own}
    if len(labels) == 1 and found.rater not in labels:
        problem = f"the sheet says that its rater is {quoted(*labels)}, but its rows are {found.rater}'s"
        found.refuse(problem, _AS_RETURNED)
    if sheet.study is not None and sheet.study != study:
        found.refuse(
            f"the sheet says that its study is {quoted(sheet.study)}, but its rows are of {study}", _AS_RETURNED
        )


def _one_sheet_each(sheets: Iterable[_Sheet]) -> None:
    """A second sheet is refused as a whole, and not looked into: it would repeat what is said of the first."""
    first: dict[str, _Sheet] = {}
    for sheet in sheets:
        if sheet.rater is None or (other := first.setdefault(sheet.rater, sheet)) is sheet:
            continue
        how = "with the same choices" if _choices(sheet) == _choices(other) else "with other choices"
        sheet.problems.clear()
        sheet.refuse(f"a second sheet of this rater, {how}; the first is {other.shown}", _ONE_SHEET)
        sheet.rater = None
        sheet.rows = {}


def _choices(sheet: _Sheet) -> dict[str, tuple[str, ...]]:
    return {name: (row.overall, *(row.ratings.get(cell, "") for cell in RATINGS)) for name, row in sheet.rows.items()}


def _votes(sheet: _Sheet, known: Mapping[str, KeyRow]) -> list[Vote]:
    """Rows with a choice, unblinded. Ratings of open rows are checked too: they will be needed."""
    votes = []
    for row in sheet.rows.values():
        if row.overall and row.overall not in OVERALL:
            sheet.refuse(misread_overall(row.overall), _VALUES, row)
        ratings = {}
        for name in RATINGS:
            text = row.ratings.get(name, "")
            rating = parse_rating(text)
            if rating is not None:
                ratings[name] = rating
            elif text:
                sheet.refuse(f"{name} {misread_rating(text)}", _DATES if is_date(text) else _VALUES, row)
        if row.overall in OVERALL:
            votes.append(Vote(known[row.id], row.overall, ratings))
    return votes


def _open_rows(sheet: _Sheet, expected: Sequence[str], allow_partial: bool) -> int:
    """How many of the rater's rows are open or missing; a problem unless they are allowed."""
    missing = [name for name in expected if name not in sheet.rows]
    empty = [row for row in sheet.rows.values() if not row.overall]
    untouched = len(empty) == len(sheet.rows) and not any(any(row.ratings.values()) for row in empty)
    if not allow_partial and missing:
        many = "a row is" if len(missing) == 1 else f"{len(missing)} rows are"
        sheet.refuse(f"{many} missing, of {len(expected)} ({_listed(missing)})", _RESTORE)
    if not allow_partial and empty:
        problem = f"overall is empty in {_count(len(empty), 'row')} ({_places(empty)})"
        sheet.refuse("the sheet is not filled in" if untouched else problem, _COMPLETE)
    return len(missing) + len(empty)


def _check_texts(sheets: Iterable[_Sheet], known: Mapping[str, KeyRow], salt: str) -> None:
    owners = {name: sheet for sheet in sheets for name in sheet.rows}
    encodings = {name: sheet.encoding for name, sheet in owners.items()}
    wrong = edited_texts((sheet.rows[name] for name, sheet in owners.items()), known, salt, encodings)
    for name, edited in wrong.items():
        owners[name].refuse(edited.problem, _ENCODING if edited.lost else _FRESH, owners[name].rows[name])


def _raise_all(sheets: Iterable[_Sheet]) -> None:
    """One error for all. Every sheet's first problem comes before any sheet's later ones, so that none is hidden."""
    ranked = sorted(
        (rank, number, *problem) for number, each in enumerate(sheets) for rank, problem in enumerate(each.problems)
    )
    if not ranked:
        return
    chosen = sorted(ranked[:_LISTED], key=lambda each: (each[1], each[0]))
    lines = [f"  - {problem}" for _, _, problem, _ in chosen]
    if len(ranked) > len(chosen):
        lines.append(f"  … and {len(ranked) - len(chosen)} more")
    remedies = dict.fromkeys(remedy for *_, remedy in ranked)
    head = f"the sheets cannot be scored: {_count(len(ranked), 'problem')}"
    raise DataError("\n".join([head, *lines]), remedy="; ".join(remedies))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(names: Sequence[str]) -> str:
    """All of them, for the rater needs every one; cut only where nobody would read on."""
    return ", ".join(names[:_MOST_PLACES]) + (", …" if len(names) > _MOST_PLACES else "")


def _places(rows: Sequence[FilledRow]) -> str:
    """The rows' places without the sheet's name that stands before them, runs of them in short: 'rows 2–5, 9'."""
    places = [shown(row.place).rpartition(", ")[2] for row in rows]
    numbered = [_NUMBERED.fullmatch(place) for place in places]
    nouns = {found["noun"] for found in numbered if found}
    if None in numbered or len(nouns) != 1:
        return _listed(places)
    numbers = sorted({int(found["number"]) for found in numbered if found})
    known = set(numbers)
    starts = [number for number in numbers if number - 1 not in known]
    ends = [number for number in numbers if number + 1 not in known]
    runs = [str(low) if low == high else f"{low}–{high}" for low, high in zip(starts, ends, strict=True)]
    return f"{nouns.pop()}{'s' if len(numbers) > 1 else ''} {_listed(runs)}"
