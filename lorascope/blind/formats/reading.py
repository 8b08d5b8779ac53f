"""Reading a filled sheet in whichever format it comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorascope.blind.formats.csv_sheet import read_csv
from lorascope.blind.formats.encoding import marked_encoding
from lorascope.blind.formats.html_sheet import ANSWERS_FORMAT, read_html_answers
from lorascope.blind.formats.label_studio import read_label_studio
from lorascope.blind.formats.xlsx_reading import is_archive, read_xlsx
from lorascope.blind.rows import FilledSheet
from lorascope.errors import DataError

LARGEST_FILE = 64 * 2**20
_FORMATS_READ = "give the ratings that the HTML sheet saved (JSON), an XLSX or CSV sheet, or Label Studio's JSON export"


def read_sheet(path: Path) -> FilledSheet:
    """A rater's filled sheet; the content tells the format, whatever the file is called.

    Rows come back as they stand there: whether they belong to a study and are complete is for the check against its
    key. DataError, with file and row, for what is no sheet or cannot be read as one.
    """
    content = _content(path)
    try:
        return replace(_read(content, path), folder=str(path.parent))
    except DataError as error:
        # Several raters' files may have one name, so the place is said as the file was given.
        where = (
            error.where
            if error.where is None or error.where.startswith(str(path))
            else (f"{path}{error.where.removeprefix(path.name)}")
        )
        raise DataError(error.problem, where=where, remedy=error.remedy) from error


def _read(content: bytes, path: Path) -> FilledSheet:
    if is_archive(content):
        return read_xlsx(content, path.name)
    start = content[:2048].decode(marked_encoding(content), "ignore").lstrip()
    if start.startswith(("{", "[")):
        return _read_json(content, path)
    if start.lower().startswith(("<!doctype html", "<html")):
        raise _page(content, start, path)
    if start.startswith(("<", "%PDF", "PAR1")):
        raise DataError("this is no rating sheet", where=path.name, remedy=_FORMATS_READ)
    return read_csv(content, path.name)


def _page(content: bytes, start: str, path: Path) -> DataError:
    """Which web page it is: a rating page holds its rows under the name of the file that it saves."""
    if f'"{ANSWERS_FORMAT}"'.encode() in content:
        remedy = "open the page, load or enter the ratings, press 'Save ratings' and give the JSON file that it saves"
        return DataError("this is a rating page, which holds no ratings", where=path.name, remedy=remedy)
    if '<meta name="generator" content="lorascope' in start:
        problem = "this is the report of a result, not a rater's sheet"
        return DataError(problem, where=path.name, remedy=_FORMATS_READ)
    return DataError("this is a web page, not a rating sheet", where=path.name, remedy=_FORMATS_READ)


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            problem = f"the file has {size // 2**20:,} MiB, more than any rating sheet needs"
            raise DataError(problem, where=path.name, remedy=_FORMATS_READ)
        content = path.read_bytes()
    except OSError as error:
        remedy = "name the files that the raters filled in, each with its folder"
        raise DataError(f"the sheet cannot be read: {error.strerror}", where=str(path), remedy=remedy) from error
    if not content.strip():
        raise DataError("the sheet is empty", where=path.name, remedy="give the sheet that the rater filled in")
    return content


def _read_json(content: bytes, path: Path) -> FilledSheet:
    try:
        text = content.decode(marked_encoding(content))
        if "\x00" in text:
            problem = "the file is neither UTF-8 nor UTF-16 with a byte-order mark"
            raise DataError(problem, where=path.name, remedy="give the file as it was saved")
        parsed: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = f"the file is not valid JSON: {error}"
        raise DataError(problem, where=path.name, remedy="give the file as it was saved") from error
    if isinstance(parsed, list):
        return read_label_studio(parsed, path.name)
    if "salt" in parsed:
        remedy = "give the key with --key, and the raters' sheets here"
        raise DataError("this is a study's key, not a rater's sheet", where=path.name, remedy=remedy)
    if "format" in parsed:
        return read_html_answers(path)
    if "data" in parsed:
        return read_label_studio([parsed], path.name)
    raise DataError("this JSON file is no rating sheet", where=path.name, remedy=_FORMATS_READ)
