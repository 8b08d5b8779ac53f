"""Tasks and interface for Label Studio, and its two JSON exports."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from lorascope.blind.formats.label_studio import label_config, label_studio_tasks, read_label_studio
from lorascope.blind.rows import OVERALL, RATINGS, FilledRow, Sheet, SheetRow
from lorascope.blind.scales import words
from lorascope.errors import DataError

COMMITMENT = "hmac-" + "0f" * 32
ROWS = (SheetRow("q00f", "=Q?", "yes\n" * 20_000, "no"), SheetRow("q01f", "问", "答", ""))
SHEET = Sheet("study", COMMITMENT, "rater-2", "zh", ROWS)


def _tasks() -> list[dict[str, Any]]:
    return json.loads(label_studio_tasks(SHEET))


def _result(name: str, **value: Any) -> dict[str, Any]:
    kind = next(iter(value))
    return {"id": "Dx1", "type": kind, "from_name": name, "to_name": "question", "origin": "manual", "value": value}


def _annotation(*results: dict[str, Any], cancelled: bool = False) -> dict[str, Any]:
    return {"id": 5, "completed_by": 1, "was_cancelled": cancelled, "result": list(results), "lead_time": 9.1}


def _exported(*annotations: dict[str, Any], number: int = 71) -> dict[str, Any]:
    """The first task as the JSON export gives it."""
    return {"id": number, "annotations": list(annotations), "drafts": [], "predictions": [], "meta": {}} | _tasks()[0]


def _one(*annotations: dict[str, Any]) -> FilledRow:
    (row,) = read_label_studio([_exported(*annotations)], "export.json").rows
    return row


def test_each_row_is_a_task_with_nothing_but_what_the_rater_sees():
    assert [task["data"] for task in _tasks()] == [
        {
            **{"row": row.id, "question": row.question, "answer_a": row.answer_a, "answer_b": row.answer_b},
            **{"rater": "rater-2", "study": COMMITMENT},
        }
        for row in ROWS
    ]
    assert all(set(task) == {"data"} for task in _tasks())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_interface_asks_for_everything_in_the_language(language: str):
    view, said = ElementTree.fromstring(label_config(language)), words(language)
    named = {element.get("name"): element for element in view.iter() if element.get("name")}
    assert set(named) == {"question", "answer_a", "answer_b", "overall", *RATINGS, "comment"}
    assert [named[name].get("value") for name in ("question", "answer_a", "answer_b")] == [
        "$question",
        "$answer_a",
        "$answer_b",
    ]
    assert {choice.get("alias"): choice.get("value") for choice in view.iter("Choice")} == said.overall
    assert {named[name].get("maxRating") for name in RATINGS} == {"5"}
    assert {named[name].get("toName") for name in RATINGS} == {"answer_a", "answer_b"}
    headings = [header.get("value") for header in view.iter("Header")]
    assert {said.title, *said.instructions} <= set(headings)
    for scale in said.scales.values():
        assert any(all(anchor in heading for anchor in scale.anchors) for heading in headings)


def test_the_overall_choice_comes_before_the_ratings():
    names = [element.get("name") for element in ElementTree.fromstring(label_config("en")).iter()]
    assert names.index("overall") < min(names.index(name) for name in RATINGS)


@pytest.mark.parametrize("code", list(OVERALL))
@pytest.mark.parametrize("said", ["code", "label"])
def test_the_json_export(code: str, said: str):
    choice = code if said == "code" else words("zh").overall[code]
    row = _one(
        _annotation(
            _result("overall", choices=[choice]),
            _result("accuracy_a", rating=4),
            _result("fluency_b", rating=1),
            _result("comment", text=["好"]),
        )
    )
    assert (row.overall, row.ratings["accuracy_a"], row.ratings["fluency_b"], row.comment) == (code, "4", "1", "好")
    assert row.ratings["logic_a"] == ""
    assert (row.id, row.rater, row.commitment) == ("q00f", "rater-2", COMMITMENT)
    assert row.texts == ROWS[0].texts
    assert row.place == "export.json, task 71"


def test_the_json_min_export():
    record = {
        **_tasks()[1]["data"],
        **{"id": 72, "overall": "B much", "accuracy_a": [{"rating": 5}], "logic_b": 2, "comment": "ok"},
        **{"annotator": 1, "annotation_id": 9, "created_at": "2026-01-01T00:00:00Z", "lead_time": 3.2},
    }
    (row,) = read_label_studio([record], "min.json").rows
    assert (row.id, row.overall, row.comment, row.place) == ("q01f", "B much", "ok", "min.json, task 72")
    assert (row.ratings["accuracy_a"], row.ratings["logic_b"], row.ratings["fluency_a"]) == ("5", "2", "")
    assert row.texts == ROWS[1].texts


def test_tasks_that_nobody_rated_are_open_rows():
    rows = read_label_studio(_tasks(), "rater-2.label-studio.json").rows
    assert [(row.id, row.overall) for row in rows] == [("q00f", ""), ("q01f", "")]
    assert rows[1].place == "rater-2.label-studio.json, task 2"


def test_a_skipped_annotation_does_not_count():
    kept, skipped = _annotation(_result("overall", choices=["A"])), _annotation(cancelled=True)
    assert _one(skipped, kept).overall == "A"
    assert _one(skipped).overall == ""


def test_several_annotations_are_refused_with_the_task():
    once = _annotation(_result("overall", choices=["A"]))
    with pytest.raises(DataError, match="has 2 annotations") as caught:
        _one(once, once)
    assert "export.json, task 71" in str(caught.value)
    record = _tasks()[0]["data"] | {"id": 8}
    with pytest.raises(DataError, match="has 2 annotations") as caught:
        read_label_studio([record, record], "min.json")
    assert "min.json, task 8" in str(caught.value)


def test_a_tasks_number_is_shown_short_and_on_one_line():
    first, second = ({**_tasks()[0]["data"], "id": "9\n\x1b[2J" * 1000 + end} for end in "ab")
    rows = read_label_studio([first, second], "min.json").rows
    assert all(row.place.isprintable() and len(row.place) < 300 for row in rows)
    with pytest.raises(DataError, match="has 2 annotations") as caught:
        read_label_studio([first, second, second], "min.json")
    assert "\x1b" not in str(caught.value)


def test_several_choices_are_left_for_the_check():
    assert _one(_annotation(_result("overall", choices=["A", "B"]))).overall == "A; B"


def test_no_star_is_no_rating():
    assert _one(_annotation(_result("logic_a", rating=0))).ratings["logic_a"] == ""


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([], "no tasks"),
        ([1], "no task of Label Studio"),
        ([{"data": 3}], "data"),
        ([{"data": {"text": "x"}}], "no row, question, answer_a, answer_b, rater, study"),
        ([{"text": "x"}], "no row"),
        ([_tasks()[0] | {"annotations": [{"result": "x"}]}], "annotations.0.result"),
        ([_tasks()[0], _tasks()[0]["data"]], "two kinds"),
    ],
)
def test_other_json_lists_are_refused(entries: list[Any], problem: str):
    with pytest.raises(DataError, match=problem) as caught:
        read_label_studio(entries, "list.json")
    assert "list.json" in str(caught.value)
