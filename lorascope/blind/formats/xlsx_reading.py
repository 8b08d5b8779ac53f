"""Reading a workbook back, as a spreadsheet program has saved it."""

from __future__ import annotations

import datetime
import io
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import Any

from openpyxl.cell.text import Text
from openpyxl.reader.excel import ExcelReader
from openpyxl.utils import get_column_letter
from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS
from openpyxl.xml.functions import iterparse

from lorascope.blind.formats.table import Header, filled_row, known_columns, read_header
from lorascope.blind.formats.xlsx_sheet import TABS
from lorascope.blind.formats.xlsx_text import unescaped
from lorascope.blind.rows import RATINGS, FilledRow, FilledSheet
from lorascope.errors import DataError

LARGEST_UNPACKED = 256 * 2**20
MOST_MARKS = 1_000_000
"""Signs ``<`` in all parts of a workbook: read, each may take hundreds of bytes of memory."""
MOST_ROWS = 20_000
MOST_TEXT = 64 * 2**20
"""Characters in all cells that are read; cells may share one string, so the unpacked size does not bound them."""
_LAST_ROW = 2**20
_LAST_HEADING_COLUMN = 64
_OURS = "give the sheet that the rater filled in"
_SAVE_AS = "open it in a spreadsheet program, save it as XLSX, and give that file"
_LAST_HEADING_ROW = 10
_OLE = b"\xd0\xcf\x11\xe0"
_BAD_ARCHIVE = (EOFError, NotImplementedError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile lets through for an archive that is cut off, damaged, encrypted or packed in an unknown way."""
_BAD_PARTS = (*_BAD_ARCHIVE, IndexError, KeyError, SyntaxError, TypeError, ValueError)
"""What openpyxl lets through besides when a part is missing, is no XML or has values out of range.

They are caught around its own calls alone: what goes wrong in this module is no fault of the rater's file.
"""


class _Reader(ExcelReader):
    """openpyxl's reader without its own unescaping of strings, which takes every literal ``x005F_`` out of them.

    It keeps formulas as such, so they can be told from values.
    """

    def read_strings(self) -> None:
        """Read the strings that cells share, as they stand in the file."""
        for part in self.package.Override:
            if part.ContentType != SHARED_STRINGS:
                continue
            with self.archive.open(part.PartName.removeprefix("/")) as source:
                for _, node in iterparse(source):
                    if node.tag == f"{{{SHEET_MAIN_NS}}}si":
                        text = Text.from_tree(node)
                        self.shared_strings.append(text.content if text else "")
                        node.clear()


def is_archive(content: bytes) -> bool:
    """Whether the content is a workbook's archive or one of the older and locked forms that are refused by name."""
    return content.startswith((b"PK\x03\x04", b"PK\x05\x06", _OLE))


def read_xlsx(content: bytes, name: str) -> FilledSheet:
    """A filled workbook; macros, links to other files and other tabs are left alone.

    Numbers in the rater's cells come back as digits; a date says that it is one; a formula for a rating is a DataError,
    as are an encrypted workbook, OpenDocument, the older binary forms and an archive that unpacks to an unlikely size.
    """
    _refuse_others(content, name)
    header: Header | None = None
    rows: list[FilledRow] = []
    for number, texts, formulas in _read_rows(content, name):
        if header is None:
            header = read_header(texts, name)
        else:
            _refuse_formulas(header, formulas, f"{name}, row {number}")
            rows.append(filled_row(header, texts, f"{name}, row {number}"))
    if header is None:
        raise DataError("the workbook is empty", where=name, remedy=_OURS)
    return FilledSheet(name, tuple(rows))


def _refuse_others(content: bytes, name: str) -> None:
    if content.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in content:
            remedy = "remove the password (in Excel: File, Info, Protect Workbook) and save it again"
            raise DataError("the workbook is encrypted with a password", where=name, remedy=remedy)
        raise DataError("this is an old binary workbook (.xls), which is not read", where=name, remedy=_SAVE_AS)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _refuse_archive(archive, name)
    except _BAD_ARCHIVE as error:
        raise _damaged(name, error) from error


def _refuse_archive(archive: zipfile.ZipFile, name: str) -> None:
    parts = {entry.filename: entry for entry in archive.infolist()}
    kind = None
    if "mimetype" in parts and "content.xml" in parts:
        kind = "an OpenDocument sheet (.ods)"
    elif "xl/workbook.bin" in parts:
        kind = "a binary workbook (.xlsb)"
    elif not any(part.startswith("xl/") for part in parts):
        kind = "an archive, but no Excel workbook"
    if kind is not None:
        raise DataError(f"this is {kind}, which is not read", where=name, remedy=_SAVE_AS)
    size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST_UNPACKED:
        problem = f"the workbook unpacks to {size // 2**20:,} MiB, more than any rating sheet needs"
        raise DataError(problem, where=name, remedy=_OURS)
    marks = 0
    for part, entry in parts.items():
        # A workbook has no document type; one that has could define entities that grow without end.
        if part.endswith((".xml", ".rels")) and b"<!DOCTYPE" in archive.open(entry).read(4096).upper():
            raise DataError("the workbook has a part with a document type", where=f"{name}, {part}", remedy=_SAVE_AS)
        with archive.open(entry) as file:
            marks += sum(block.count(b"<") for block in iter(lambda: file.read(2**20), b""))
        if marks > MOST_MARKS:
            remedy = "remove formatted empty rows and columns, or take the ratings over into a fresh copy of the sheet"
            raise DataError("the workbook has more cells than any rating sheet needs", where=name, remedy=remedy)


def _read_rows(content: bytes, name: str) -> list[tuple[int, list[str], set[int]]]:
    """Rows of the tab with the ratings that hold anything, hidden ones too.

    Number, texts of the cells as far as the headings go, and the places of those that are formulas. DataError for more
    rows or text than a rating sheet has.
    """
    found: list[tuple[int, list[str], set[int]]] = []
    length = 0
    with warnings.catch_warnings():
        # openpyxl warns of what it does not carry over on saving, and nothing is saved here.
        warnings.simplefilter("ignore")
        for number, texts, formulas in _filled_rows(_tab_with_ratings(_opened(content, name), name), name):
            length += sum(map(len, texts))
            if len(found) > MOST_ROWS or length > MOST_TEXT:
                problem = f"the workbook has more than {MOST_ROWS:,} rows or {MOST_TEXT:,} characters of text"
                raise DataError(problem, where=f"{name}, row {number}", remedy=_OURS)
            found.append((number, texts, formulas))
    return found


def _opened(content: bytes, name: str) -> Any:
    try:
        reader = _Reader(io.BytesIO(content), read_only=True, keep_links=False)
        reader.read()
    except _BAD_PARTS as error:
        raise _damaged(name, error) from error
    if not reader.wb.worksheets:
        raise DataError("the workbook has no tab with cells", where=name, remedy=_OURS)
    return reader.wb


def _rows(tab: Any, name: str, last: int) -> Iterator[tuple[Any, ...]]:
    """The tab's rows up to ``last`` as openpyxl reads them, one after the other."""
    rows = tab.iter_rows(max_row=last, max_col=_LAST_HEADING_COLUMN)
    while True:
        try:
            row = next(rows, None)
        except _BAD_PARTS as error:
            raise _damaged(name, error) from error
        if row is None:
            return
        yield row


def _filled_rows(tab: Any, name: str) -> Iterator[tuple[int, list[str], set[int]]]:
    """Rows that hold anything within the width of the first of them, which has the headings."""
    width, before = 0, None
    for number, row in enumerate(_rows(tab, name, _LAST_ROW), start=1):
        if row is before:
            continue  # openpyxl fills a gap between rows with one and the same empty row, up to a million times
        before = row
        texts = [_text(cell.value) for cell in row[: width or None]]
        if not any(map(str.strip, texts)):
            continue
        width = width or max(place for place, text in enumerate(texts, start=1) if text.strip())
        yield number, texts[:width], {place for place, cell in enumerate(row[:width]) if cell.data_type == "f"}


def _tab_with_ratings(book: Any, name: str) -> Any:
    """The tab with that name in any language, or the first with the headings: a CSV sheet saved as a workbook."""
    named = {ratings for ratings, _ in TABS.values()}
    tabs = [tab for tab in book.worksheets if tab.title in named] + list(book.worksheets)
    for tab in tabs:
        tab.reset_dimensions()  # what the file says of its own size may be wrong
        rows = ([_text(cell.value) for cell in row] for row in _rows(tab, name, _LAST_HEADING_ROW))
        if known_columns(next(filter(any, rows), [])):
            return tab
    return tabs[0]


def _refuse_formulas(header: Header, formulas: Collection[int], place: str) -> None:
    for column in ("overall", *RATINGS):
        position = header.places.get(column, -1)
        if position in formulas:
            problem = f"{column} (column {get_column_letter(position + 1)}) is a formula, not a rating"
            raise DataError(problem, where=place, remedy="put the rating itself into the cell")


def _text(value: Any) -> str:
    """A cell's value as text: whole numbers as digits, dates and times named as such."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return f"a date: {value.date().isoformat() if midnight else value.isoformat(sep=' ')}"
    if isinstance(value, datetime.time | datetime.timedelta):
        return f"a time: {value}"
    return unescaped(str(value))


def _damaged(name: str, error: Exception) -> DataError:
    problem = f"the workbook is damaged and cannot be read ({type(error).__name__})"
    return DataError(problem, where=name, remedy=_SAVE_AS)
