"""Numbers in rows that are longer than any number should be."""

from __future__ import annotations

from typing import Any

import pytest

from lorascope.data import fields
from lorascope.data.readers import Row
from lorascope.errors import DataError


def row(value: Any, *, untyped: bool = False) -> Row:
    return Row(fields={"score": value}, place="a.jsonl, line 7", untyped=untyped)


@pytest.mark.parametrize(("value", "untyped"), [(10**400, False), (-(10**400), False), ("9" * 400, True)])
def test_a_score_beyond_all_numbers_is_told_with_its_line(value: Any, untyped: bool) -> None:
    with pytest.raises(DataError, match="the field 'score' is") as caught:
        fields.number(row(value, untyped=untyped), "score")
    assert caught.value.where == "a.jsonl, line 7"


def test_an_index_and_an_array_of_too_many_digits() -> None:
    with pytest.raises(DataError, match="is no choice"):
        fields.answer_index(row("9" * 5000, untyped=True), "score", ["a", "b"])
    for cell in ("[" + "9" * 5000 + "]", "[" * 100_000):
        with pytest.raises(DataError, match="a JSON array"):
            fields.array(row(cell, untyped=True), "score")
