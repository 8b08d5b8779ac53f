"""The sheet as a text file for any spreadsheet program."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lorascope.blind.formats.encoding import marked_encoding
from lorascope.blind.formats.table import (
    COLUMNS,
    TEXTS,
    Header,
    filled_row,
    known_columns,
    protect,
    read_header,
    refuse_long_texts,
)
from lorascope.blind.rows import FilledRow, FilledSheet, Sheet
from lorascope.errors import DataError

_SEPARATORS = ",;\t"
_OLDER = ("gbk", "gb18030", "cp1252")
"""What spreadsheets write by default where Chinese, and where Western European languages are spoken."""
# The limit of the csv module unless somebody in the process has raised it.
_LONGEST_CELL = 131_072
_SAVE_AS = "save it as 'CSV UTF-8' (or as XLSX) and give that file"


def csv_bytes(sheet: Sheet) -> bytes:
    """The sheet with every cell quoted, in UTF-8 with a byte-order mark so that spreadsheets read it as such.

    Texts that a spreadsheet would run or rewrite carry an apostrophe. DataError for a text that a cell does not hold.
    """
    refuse_long_texts(sheet, protect)
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in sheet.rows:
        known = {name: protect(text) for name, text in zip(TEXTS, row.texts, strict=True)}
        known |= {"id": row.id, "rater": sheet.rater, "study": sheet.commitment}
        writer.writerow([known.get(name, "") for name in COLUMNS])
    return out.getvalue().encode("utf-8-sig")


def read_csv(content: bytes, name: str) -> FilledSheet:
    """A filled sheet, separated by commas, semicolons or tabs.

    Encodings: UTF-8, UTF-16 with its mark, GBK/GB18030 or Windows-1252, the first in which it can be read. Bytes may be
    valid in both of the last two; the sheet has the second reading under ``otherwise`` then.

    Rows that are empty throughout are passed over. DataError for another encoding, a missing or doubled column, and
    what is not valid CSV.
    """
    found: list[FilledSheet] = []
    refused: DataError | None = None
    for encoding, text in _decoded(content, name):
        try:
            found.append(_read(text, encoding, name))
        except DataError as error:
            refused = refused or error
    if refused is not None and not found:
        raise refused
    return replace(found[0], otherwise=tuple(found[1:]))


def _read(text: str, encoding: str, name: str) -> FilledSheet:
    text, said = _without_separator_line(text)
    separator = said or max(_SEPARATORS, key=lambda sign: len(known_columns(_first_row(text, sign))))
    header = None
    rows = []
    for number, cells in _records(text, separator, name):
        if header is None:
            header = read_header(cells, name)
            width = len(cells)
        elif any(map(str.strip, cells)):
            rows.append(_row(header, cells, width, f"{name}, row {number}"))
    if header is None:
        raise DataError("the sheet is empty", where=name, remedy="give the sheet that the rater filled in")
    return FilledSheet(name, tuple(rows), encoding=encoding)


def _row(header: Header, cells: Sequence[str], width: int, place: str) -> FilledRow:
    if any(map(str.strip, cells[width:])):
        problem = f"the row has {len(cells)} cells and the heading row {width}: a text is not quoted"
        raise DataError(problem, where=place, remedy=_SAVE_AS)
    return filled_row(header, cells, place)


def _decoded(content: bytes, name: str) -> list[tuple[str, str]]:
    """Encoding and text in the one that the first bytes announce, or in each older one that fits.

    Nearly any bytes are valid GB18030 or Windows-1252, so these count only where the heading row comes out in known
    words; whether the texts are right the digests tell.
    """
    marked = marked_encoding(content)
    found = _texts(content, [marked])
    if not found and marked != "utf-16":
        found = [(encoding, text) for encoding, text in _texts(content, _OLDER) if _has_header(text)]
    if not found:
        problem = (
            "the sheet's encoding is not one of UTF-8, UTF-16 with a byte-order mark, GBK/GB18030, and Windows-1252"
        )
        raise DataError(problem, where=name, remedy=_SAVE_AS)
    if [encoding for encoding, _ in found[:2]] == ["gbk", "gb18030"]:
        del found[1]  # the same text: the smaller set of characters says more about what cannot be in it
    return found


def _texts(content: bytes, encodings: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" not in text:
            found.append((encoding, text))
    return found


def _has_header(text: str) -> bool:
    text, _ = _without_separator_line(text)
    return any(len(known_columns(_first_row(text, separator))) > 1 for separator in _SEPARATORS)


def _without_separator_line(text: str) -> tuple[str, str | None]:
    """Take away the line ``sep=;``, with which some programs say the separator and which is none of the rows."""
    first, _, rest = text.partition("\n")
    first = first.strip().strip('"')
    if len(first) == 5 and first.lower().startswith("sep="):
        return rest, first[4]
    return text, None


def _first_row(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:
        return []


def _records(text: str, separator: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the numbers that a spreadsheet gives them; a cell with line breaks is still one row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if any(len(cell) > _LONGEST_CELL for cell in cells):
                raise _too_long(f"{name}, row {number}")
            yield number, cells
    except csv.Error as error:
        where = f"{name}, row {number + 1}"
        if "field limit" in str(error):
            raise _too_long(where) from error
        raise DataError(f"the sheet is not valid CSV: {error}", where=where, remedy=_SAVE_AS) from error


def _too_long(where: str) -> DataError:
    problem = f"a cell has more than {_LONGEST_CELL:,} characters, more than any spreadsheet's cell holds"
    remedy = "shorten the text, or close the quotation mark that is left open in this row"
    return DataError(problem, where=where, remedy=remedy)
