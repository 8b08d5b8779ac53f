"""Rows from files: JSONL, a JSON array, CSV, Parquet, or a dataset of the ``datasets`` library.

A row keeps the place it came from, so that whatever is wrong with it later is reported with its file and line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.errors import DataError

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_DATASET = re.compile(r"^hf:(?P<name>[^:@]+)(?::(?P<config>[^:@]+))?@(?P<split>.+)$")
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One record. ``place`` names its file and line (or row number, where a format has no lines), for messages."""

    fields: dict[str, Any]
    place: str
    untyped: bool = False
    """True for CSV, where every value is text and numbers cannot be told from words."""


def is_dataset_name(source: str) -> bool:
    """True when ``source`` is written ``hf:…`` and so is no path."""
    return source.startswith("hf:")


def read_rows(source: str, *, root: Path) -> list[Row]:
    """All rows of ``source``, at least one, in file order.

    ``source`` is a path (relative to ``root`` unless absolute) with one of :data:`EXTENSIONS`, or
    ``hf:NAME[:CONFIG]@SPLIT``. Text is UTF-8, with or without a byte-order mark; blank lines are skipped.

    Raises:
        DataError: missing or unreadable file, unknown extension, a broken line, no rows.
    """
    if is_dataset_name(source):
        rows = list(_dataset_rows(source))
    else:
        rows = list(_file_rows(_existing_file(root / source, source)))
    if not rows:
        raise DataError("the data holds no items", where=source, remedy="give a file with at least one record")
    return rows


def _existing_file(path: Path, source: str) -> Path:
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.suffix.lower() in EXTENSIONS)
        remedy = f"name one file in it: {', '.join(inside[:5])}" if inside else f"give a {', '.join(EXTENSIONS)} file"
        raise DataError("a folder was given where a data file is needed", where=source, remedy=remedy)
    if not path.is_file():
        raise DataError(
            "there is no such data file", where=source, remedy="check the path; it is relative to the suite"
        )
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(
            f"data files of type '{path.suffix or 'without extension'}' are not read",
            where=source,
            remedy=f"use one of {', '.join(EXTENSIONS)}, or hf:NAME[:CONFIG]@SPLIT",
        )
    return path


def _file_rows(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    text = read_text(path)
    if suffix == ".csv":
        return _csv_rows(text, str(path))
    if suffix == ".json":
        return _json_rows(text, str(path))
    return _jsonl_rows(text, str(path))


def read_text(path: Path) -> str:
    """The file's text, decoded as UTF-8 with an optional byte-order mark; a DataError names the line of a bad byte."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8",
            where=f"{path}, line {line}",
            remedy="convert the file, for example: iconv -f GB18030 -t UTF-8 old > new",
        ) from error


def _record(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"a record must be a JSON object, not {type(value).__name__}",
            where=place,
            remedy='write one object per record, like {"prompt": "…", "reference": "…"}',
        )
    return value


def _encodable(value: dict[str, Any], place: str) -> dict[str, Any]:
    r"""Refuse half a character (a lone surrogate such as ``\ud83d``): no tokenizer and no file can take it."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the record holds half a character ({error.object[error.start : error.end]!a})",
            where=place,
            remedy="cut texts between characters, or drop the record",
        ) from error
    return value


_BEYOND_JSON = (RecursionError, ValueError)


def _beyond(error: Exception, place: str) -> DataError:
    """Nested deeper than Python reads, or a whole number of thousands of digits."""
    what = "the JSON is nested too deeply" if isinstance(error, RecursionError) else "the JSON holds too long a number"
    return DataError(what, where=place, remedy="mend the record or leave it out")


def _jsonl_rows(text: str, source: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"broken JSON: {error.msg} at column {error.colno}",
                where=place,
                remedy="each line must be one whole JSON object",
            ) from error
        except _BEYOND_JSON as error:
            raise _beyond(error, place) from error
        yield Row(_encodable(_record(value, place), place), place)


def _json_rows(text: str, source: str) -> Iterator[Row]:
    try:
        values = json.loads(text) if text.strip() else []
    except _BEYOND_JSON as error:
        if not isinstance(error, json.JSONDecodeError):
            raise _beyond(error, source) from error
        raise DataError(
            f"broken JSON: {error.msg} at column {error.colno}",
            where=f"{source}, line {error.lineno}",
            remedy="a .json file must be one array of objects; name a file with one object per line .jsonl",
        ) from error
    if not isinstance(values, list):
        raise DataError(
            f"the file holds one {type(values).__name__}, not an array of objects",
            where=source,
            remedy="put the records into one JSON array, or write one object per line into a .jsonl file",
        )
    for number, value in enumerate(values, start=1):
        place = f"{source}, element {number}"
        yield Row(_encodable(_record(value, place), place), place)


def _csv_rows(text: str, source: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    first_line = 2
    try:
        _check_header(reader.fieldnames or [], source)
        for cells in reader:
            place = f"{source}, line {first_line}"
            first_line = reader.line_num + 1
            if None in cells or None in cells.values():
                raise DataError(
                    f"the row has another number of cells than the header's {len(reader.fieldnames or [])}",
                    where=place,
                    remedy="quote cells that hold commas or line breaks",
                )
            yield Row(dict(cells), place, untyped=True)
    except csv.Error as error:
        raise DataError(f"broken CSV: {error}", where=f"{source}, line {reader.line_num}") from error


def _check_header(names: Sequence[str], source: str) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(f"the header names a column twice: {', '.join(doubled)}", where=f"{source}, line 1")


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        records = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"the Parquet file cannot be read: {error}", where=str(path)) from error
    for number, record in enumerate(records, start=1):
        yield Row(record, f"{path}, row {number}")


def _dataset_rows(source: str) -> Iterator[Row]:
    matched = _DATASET.match(source)
    if matched is None:
        raise DataError(
            "a dataset is written hf:NAME[:CONFIG]@SPLIT", where=source, remedy="for example hf:squad@train"
        )
    dataset = _load_dataset(source, matched["name"], matched["config"], matched["split"])
    readers = {name: _class_names(feature) for name, feature in dataset.features.items()}
    for number, record in enumerate(dataset, start=1):
        fields = {name: _named(value, readers[name]) for name, value in record.items()}
        yield Row(fields, f"{source}, row {number}")


def _load_dataset(source: str, name: str, config: str | None, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"the dataset cannot be loaded: {error}",
            where=source,
            remedy="check name, configuration and split; without a network, load it once with one or use a local file",
        ) from error


def _class_names(feature: Any) -> list[str] | None:
    """The class names that the dataset itself declares for a column (or for the elements of a list column)."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return list(names) if names else None


def _named(value: Any, names: list[str] | None) -> Any:
    """Class numbers as their declared names; -1, the library's mark of a missing label, as None."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if not isinstance(value, int):
        return value
    return names[value] if value >= 0 else None
