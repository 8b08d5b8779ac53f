"""Typed access to the fields of a row: each function returns what its name says or tells what is wrong and where."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from lorascope.data.readers import Row
from lorascope.errors import DataError
from lorascope.schema.suite import labels_in_words, right_labels

_LONGEST_INDEX = 18


def _wrong(row: Row, name: str, expected: str, remedy: str | None = None) -> DataError:
    found = type(row.fields.get(name)).__name__
    return DataError(f"the field '{name}' must be {expected}, not {found}", where=row.place, remedy=remedy)


def required(row: Row, name: str) -> Any:
    """The field's value; a DataError when the row lacks it."""
    if name not in row.fields:
        raise DataError(
            f"the field '{name}' is missing",
            where=row.place,
            remedy=f"the row has {', '.join(row.fields) or 'no fields'}",
        )
    return row.fields[name]


def text(row: Row, name: str) -> str:
    """The field as a non-empty string."""
    value = required(row, name)
    if not isinstance(value, str):
        raise _wrong(row, name, "text")
    if not value.strip():
        raise DataError(f"the field '{name}' is empty", where=row.place, remedy="fill it in or leave the record out")
    return value


def optional_text(row: Row, name: str) -> str | None:
    """The field as text, numbers written out; None when it is missing, null or empty."""
    value = row.fields.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _wrong(row, name, "text or a number")
    return str(value)


def array(row: Row, name: str) -> list[Any]:
    """The field as a list; in a CSV cell it is written as a JSON array."""
    value = required(row, name)
    if row.untyped and isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _wrong(row, name, "a JSON array", 'write ["a", "b"] in the cell') from None
    if not isinstance(value, (list, tuple)):
        raise _wrong(row, name, "a list")
    return list(value)


def texts(row: Row, name: str) -> tuple[str, ...]:
    """The field as a list of strings (which may be empty)."""
    values = array(row, name)
    for value in values:
        if not isinstance(value, str):
            raise _wrong(row, name, f"a list of strings (it holds {value!r})")
    return tuple(values)


def references(row: Row, name: str) -> tuple[str, ...]:
    """Accepted answers: one text or number, or a list of them; none of them empty, at least one."""
    value = required(row, name)
    listed = isinstance(value, (list, tuple)) or (row.untyped and name == "references")
    values = array(row, name) if listed else [value]
    written = []
    for one in values:
        if isinstance(one, bool) or not isinstance(one, (str, int, float)):
            raise _wrong(row, name, f"text, or a list of texts (it holds {one!r})")
        if not str(one).strip():
            raise DataError(
                f"the field '{name}' holds an empty reference", where=row.place, remedy="leave the record out"
            )
        written.append(str(one))
    if not written:
        raise DataError(f"the field '{name}' holds no reference", where=row.place, remedy="give at least one")
    return tuple(written)


def number(row: Row, name: str) -> float:
    """The field as a finite real number."""
    value = required(row, name)
    if row.untyped and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _wrong(row, name, "a number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(row, name, "a number")
    try:
        found = float(value)
    except OverflowError:
        raise DataError(f"the field '{name}' is a number beyond 1e308", where=row.place) from None
    if not math.isfinite(found):
        raise DataError(f"the field '{name}' is {found}, not a finite number", where=row.place)
    return found


def class_name(row: Row, name: str, value: Any, labels: Sequence[str] | None) -> str:
    """One class: a string, or a number when ``labels`` says what the numbers stand for.

    With ``labels`` given, a class outside of it is an error.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if labels is None:
            raise DataError(
                f"the field '{name}' holds the class number {value}, and nothing says what it stands for",
                where=row.place,
                remedy="give the task's 'labels' in the suite (else --labels), or write class names into the data",
            )
        if not 0 <= value < len(labels):
            raise DataError(
                f"class number {value} is outside of the {len(labels)} labels",
                where=row.place,
                remedy=f"numbers count from 0; the labels are {labels_in_words(labels)}",
            )
        return labels[value]
    if not isinstance(value, str) or not value:
        raise _wrong(row, name, f"a class name (it holds {value!r})")
    if labels is not None and value not in labels:
        raise DataError(
            f"the label '{value}' is not among the task's {len(labels)} labels",
            where=row.place,
            remedy=right_labels(value, labels),
        )
    return value


def answer_index(row: Row, name: str, choices: Sequence[str]) -> int:
    """Index of the right choice, from a 0-based number, a letter (A is the first), or the choice's own text.

    A value that fits two of these differently is refused.
    """
    value = required(row, name)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(choices):
            raise DataError(
                f"answer {value} is outside of the {len(choices)} choices",
                where=row.place,
                remedy="numbers count from 0",
            )
        return value
    if not isinstance(value, str):
        raise _wrong(row, name, "an index, a letter or a choice's text")
    readings = {index for index, choice in enumerate(choices) if choice == value}
    if len(value) == 1 and 0 <= ord(value) - ord("A") < len(choices):
        readings.add(ord(value) - ord("A"))
    if not readings and row.untyped and value.isdecimal() and len(value) < _LONGEST_INDEX and int(value) < len(choices):
        readings.add(int(value))
    if len(readings) != 1:
        problem = "is no choice" if not readings else "names more than one choice"
        raise DataError(f"the answer {value!r} {problem}", where=row.place, remedy="give the 0-based index as a number")
    return readings.pop()
