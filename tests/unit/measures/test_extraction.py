"""Taking the answer out of a text by a regular expression."""

from __future__ import annotations

import pytest

from lorascope.measures.extraction import extract_answer
from lorascope.schema.suite import Extract


@pytest.mark.parametrize(
    ("text", "rule", "found"),
    [
        ("so the answer is 42.", {"pattern": r"answer is (\d+)"}, "42"),
        ("1 and 2 and 3", {"pattern": r"\d"}, "1"),
        ("1 and 2 and 3", {"pattern": r"\d", "match": "last"}, "3"),
        ("The Answer: B", {"pattern": "answer: ([A-D])"}, None),
        ("The Answer: B", {"pattern": "answer: ([A-D])", "ignore_case": True}, "B"),
        ("#### 7", {"pattern": r"####(.*)"}, "7"),
        ("####", {"pattern": r"####(.*)"}, ""),
        ("yes", {"pattern": r"(no)|(yes)"}, "yes"),
        ("colour", {"pattern": r"colou?r(ful)?"}, "colour"),
        ("", {"pattern": r"\d+"}, None),
        ("答案：北京。", {"pattern": "答案：(.+?)。"}, "北京"),
        ("first\nsecond", {"pattern": "^second$"}, None),
        ("first\nsecond", {"pattern": "(?m)^second$"}, "second"),
        ("aXbXc", {"pattern": "X(.)", "match": "last"}, "c"),
    ],
)
def test_extraction(text: str, rule: dict[str, object], found: str | None) -> None:
    assert extract_answer(text, Extract.model_validate(rule)) == found
