"""The sheet as tasks for Label Studio, the labelling interface for them, and what Label Studio exports.

Formats as documented under "Label Studio JSON format of annotated tasks" and "Export annotations" (labelstud.io).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from pydantic import BaseModel, Field, ValidationError

from lorascope.blind.filled_values import shown
from lorascope.blind.formats.table import TEXTS, overall_code, rating_text
from lorascope.blind.rows import RATINGS, FilledRow, FilledSheet, Language, Sheet
from lorascope.blind.scales import words
from lorascope.errors import DataError
from lorascope.schema.human import DIMENSIONS

ROW = "row"
"""Where a task keeps the row's id: not under ``id``, which the JSON-MIN export overwrites with its own number."""
_EXPORT = "export the project as JSON or JSON-MIN and give that file"
_STYLE = (
    ".htx-text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6 } "
    ".answers { display: flex; gap: 1.5em } .answers > * { flex: 1 1 0; min-width: 0 }"
)


class _Result(BaseModel):
    """One control's value within an annotation."""

    from_name: str | None = None
    value: dict[str, Any] = Field(default_factory=dict)


class _Annotation(BaseModel):
    """One rater's submission for a task; a skipped task keeps one that was cancelled."""

    result: list[_Result] = Field(default_factory=list)
    was_cancelled: bool = False


class _Task(BaseModel):
    """A task of the JSON export, or of the file that was imported, which has no annotations."""

    id: int | str | None = None
    data: dict[str, Any]
    annotations: list[_Annotation] = Field(default_factory=list)


def label_studio_tasks(sheet: Sheet) -> bytes:
    """The rows as a JSON list of tasks for Label Studio's import; texts of any length."""
    shared = {"rater": sheet.rater, "study": sheet.commitment}
    tasks = [{"data": {ROW: row.id} | dict(zip(TEXTS, row.texts, strict=True)) | shared} for row in sheet.rows]
    return (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def label_config(language: Language) -> str:
    """The labelling interface (XML) for the tasks: overall choice, ratings and comment, in the rater's language."""
    said = words(language)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Style").text = _STYLE
    _header(view, said.title)
    for sentence in said.instructions:
        _header(view, sentence, size=6)
    _header(view, said.question)
    _text(view, "question")
    answers = ElementTree.SubElement(view, "View", className="answers")
    for name, title in (("answer_a", said.answer_a), ("answer_b", said.answer_b)):
        side = ElementTree.SubElement(answers, "View")
        _header(side, title)
        _text(side, name)
    _header(view, said.overall_title)
    attributes = {"name": "overall", "toName": "question", "choice": "single", "showInline": "true", "required": "true"}
    choices = ElementTree.SubElement(view, "Choices", attributes)
    for code, label in said.overall.items():
        ElementTree.SubElement(choices, "Choice", value=label, alias=code)
    for dimension in DIMENSIONS:
        scale = said.scales[dimension]
        low, middle, high = scale.anchors
        _header(view, f"{scale.name}: {scale.question} (1 {low} · 3 {middle} · 5 {high})", size=5)
        both = ElementTree.SubElement(view, "View", className="answers")
        for side_name in "ab":
            one = ElementTree.SubElement(both, "View")
            _header(one, side_name.upper(), size=6)
            attributes = {"name": f"{dimension}_{side_name}", "toName": f"answer_{side_name}", "maxRating": "5"}
            ElementTree.SubElement(one, "Rating", attributes)
    _header(view, said.comment)
    ElementTree.SubElement(view, "TextArea", name="comment", toName="question", rows="2", maxSubmissions="1")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _header(parent: ElementTree.Element, text: str, size: int = 4) -> None:
    ElementTree.SubElement(parent, "Header", value=text, size=str(size))


def _text(parent: ElementTree.Element, name: str) -> None:
    attributes = {"name": name, "value": f"${name}", "valueType": "text", "selectionEnabled": "false"}
    ElementTree.SubElement(parent, "Text", attributes)


def read_label_studio(entries: Sequence[Any], name: str) -> FilledSheet:
    """The rows of a parsed JSON or JSON-MIN export; the imported task file itself counts as not rated.

    Skipped tasks are open rows. A task with several annotations is a DataError: which of them counts is for people to
    say.
    """
    if not entries:
        raise DataError("the file has no tasks", where=name, remedy=_EXPORT)
    full = [isinstance(entry, dict) and "data" in entry for entry in entries]
    numbers = [_number(entry, place) for place, entry in enumerate(entries, start=1)]
    places = [f"{name}, task {shown(number)}" for number in numbers]
    if all(full):
        rows = [_from_task(_task(entry, place), place) for entry, place in zip(entries, places, strict=True)]
    elif any(full):
        raise DataError("the file mixes tasks of two kinds of export", where=name, remedy=_EXPORT)
    else:
        _refuse_several(numbers, places)
        rows = [_from_record(entry, place) for entry, place in zip(entries, places, strict=True)]
    return FilledSheet(name, tuple(rows))


def _number(entry: Any, place: int) -> str:
    """The number that Label Studio gives the task, as it stands there; its place in the file where it has none yet."""
    known = entry.get("id") if isinstance(entry, dict) else None
    return str(place if known is None else known)


def _task(entry: Any, place: str) -> _Task:
    try:
        return _Task.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"this is no task of Label Studio: {where}: {first['msg']}", where=place, remedy=_EXPORT
        ) from error


def _from_task(task: _Task, place: str) -> FilledRow:
    submitted = [one for one in task.annotations if not one.was_cancelled]
    if len(submitted) > 1:
        raise _several(place, len(submitted))
    results = submitted[0].result if submitted else []
    values: dict[str, list[Any]] = {}
    for result in results:
        values.setdefault(result.from_name or "", []).append(result.value)
    return _row(task.data, values, place)


def _refuse_several(numbers: Sequence[str], places: Sequence[str]) -> None:
    """JSON-MIN has one record for each annotation, so several of one task show as its number coming twice."""
    number, count = Counter(numbers).most_common(1)[0]
    if count > 1:
        raise _several(places[numbers.index(number)], count)


def _several(place: str, count: int) -> DataError:
    remedy = "keep the rater's own annotation in Label Studio, delete the others, and export again"
    return DataError(f"the task has {count} annotations, and one rater gives one", where=place, remedy=remedy)


def _from_record(record: Any, place: str) -> FilledRow:
    """A record of JSON-MIN: the task's data, and each control's value under the control's name."""
    if not isinstance(record, dict):
        raise DataError("this is no task of Label Studio", where=place, remedy=_EXPORT)
    names = ("overall", *RATINGS, "comment")
    values = {name: _listed(record[name]) for name in names if record.get(name) is not None}
    return _row(record, values, place)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _row(data: Mapping[str, Any], values: Mapping[str, Sequence[Any]], place: str) -> FilledRow:
    missing = [key for key in (ROW, *TEXTS, "rater", "study") if not isinstance(data.get(key), str)]
    if missing:
        problem = f"the task has no {', '.join(missing)} of a rating sheet"
        raise DataError(
            problem, where=place, remedy="export the project into which the sheet's own tasks were imported"
        )
    question, answer_a, answer_b = (data[name] for name in TEXTS)
    return FilledRow(
        place=place,
        id=data[ROW].strip(),
        commitment=data["study"].strip(),
        rater=data["rater"].strip(),
        overall=overall_code(_said(values.get("overall", ()), "choices")),
        ratings={name: _stars(_said(values.get(name, ()), "rating")) for name in RATINGS},
        comment=_said(values.get("comment", ()), "text"),
        texts=(question, answer_a, answer_b),
    )


def _said(values: Sequence[Any], key: str) -> str:
    """What a control holds, whether bare or within its value object; several parts are joined and judged later."""
    parts: list[str] = []
    for value in values:
        bare = value.get(key) if isinstance(value, dict) else value
        parts += [str(part).strip() for part in _listed(bare) if part is not None]
    return "; ".join(parts)


def _stars(text: str) -> str:
    """A rating; no star at all is no rating, for the scale of stars begins at one."""
    plain = rating_text(text)
    return "" if plain == "0" else plain
