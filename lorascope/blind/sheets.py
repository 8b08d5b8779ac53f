"""The rating sheet: one CSV file a rater, for any spreadsheet program."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorascope.errors import DataError, OutputError

DIMENSIONS = ("accuracy", "completeness", "logic", "fluency")
OVERALL = {"A much": 2, "A": 1, "tie": 0, "both bad": 0, "B": -1, "B much": -2}
RATINGS = tuple(f"{dimension}_{side}" for side in "ab" for dimension in DIMENSIONS)
COLUMNS = ("id", "question", "answer_a", "answer_b", "overall", *RATINGS, "comment", "study")
_REQUIRED = ("id", "overall", *RATINGS, "study")
_CELL_LIMIT = 32_767
# What a spreadsheet takes for a formula, full-width forms too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")

INSTRUCTIONS = """\
Each row of your sheet has one question and two answers, A and B. Read both, then fill in:

overall   which answer you would rather get: A much, A, tie, B, B much, or both bad. Fill this in first.
then, for each answer, a whole number from 1 to 5 (leave a cell empty where it does not apply):
  accuracy       1 wrong or invented      3 right in the main, with errors      5 nothing wrong
  completeness   1 misses the question    3 answers the main part               5 answers all of it
  logic          1 contradicts itself     3 can be followed, with gaps          5 clear and consistent
  fluency        1 hard to read           3 understandable, awkward             5 reads well
comment   anything worth noting; may stay empty.

Judge each row for itself: the sides are shuffled. Rate alone and do not change the id, study or answer cells.
Save as CSV (UTF-8). An apostrophe before an answer's first sign belongs to the sheet, not to the answer.
"""


@dataclass(frozen=True, slots=True)
class FilledRow:
    """One row that a rater has filled in; ``place`` names sheet and row as a spreadsheet counts them."""

    place: str
    id: str
    study: str
    overall: str
    ratings: Mapping[str, str]


def clean(text: str) -> str:
    """An answer as the sheet shows it: without outer white space, which alone can tell models apart, or controls."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return _CONTROL.sub("\ufffd", text)


def cell(text: str) -> str:
    """Cleaned text that no spreadsheet runs as a formula; DataError where a spreadsheet would cut it."""
    text = clean(text)
    text = f"'{text}" if text.startswith(_FORMULA) else text
    if len(text) > _CELL_LIMIT:
        problem = f"a text of {len(text):,} characters does not fit a spreadsheet's cell ({_CELL_LIMIT:,})"
        raise DataError(problem, remedy="choose a task with shorter texts")
    return text


def write_sheet(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a new sheet: every cell quoted, UTF-8 with a byte-order mark so that spreadsheets read it as such."""
    try:
        with path.open("x", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(f"the sheet cannot be written: {error.strerror}", where=str(path)) from error


def read_sheet(path: Path) -> list[FilledRow]:
    """Read a filled sheet, separated by commas, semicolons or tabs; rows that are empty throughout are passed over."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"the sheet cannot be read: {error.strerror}", where=path.name) from error
    except UnicodeDecodeError as error:
        raise DataError("the sheet is not UTF-8", where=path.name, remedy="save it as CSV UTF-8") from error
    separator = max(",;\t", key=text.partition("\n")[0].count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            remedy = "return the sheet with all its columns"
            raise DataError(f"the sheet has no column {', '.join(missing)}", where=path.name, remedy=remedy)
        return [_filled(row, f"{path.name}, row {number}") for number, row in enumerate(reader, start=2) if _any(row)]
    except csv.Error as error:
        raise DataError(f"the sheet is not valid CSV: {error}", where=path.name, remedy="save it as CSV") from error


def _any(row: Mapping[str, str | None]) -> bool:
    return any(isinstance(value, str) and value.strip() for value in row.values())


def _filled(row: Mapping[str, str | None], place: str) -> FilledRow:
    values = {name: (row[name] or "").strip() for name in _REQUIRED}
    ratings = {name: values[name] for name in RATINGS}
    return FilledRow(place, values["id"], values["study"], values["overall"], ratings)
