"""Plain files of predictions: records with ``prediction`` and ``reference``, or one prediction a line.

Records pair by ``id`` where they have one, else by prompt and references, else (as lines of text do) by their place in
the file, where both files must then have as many records and the same references in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorascope.data import fields
from lorascope.data.imported.places import records, run_files
from lorascope.data.imported.runs import (
    ImportedItem,
    ImportedRun,
    ImportedTask,
    generate_item,
    numbered_keys,
    refuse_doubled,
    with_unique_ids,
)
from lorascope.data.readers import EXTENSIONS, Row, read_text
from lorascope.errors import DataError
from lorascope.schema.items import GenerateAnswer, GenerateItem

TASK = "predictions"


def read_files(path: Path, *, references: Path | None = None) -> ImportedRun:
    """One checkpoint's predictions: JSONL, JSON, CSV, Parquet, or ``.txt`` with one prediction a line.

    ``references`` is a file of the same forms with ``reference`` (or ``references``), for predictions without their
    own: lines of text and records without ids stand in its order and must be as many, records with ids are looked up.
    A line of text has no line breaks in it; an empty line is an empty prediction.

    Raises DataError for a missing, empty or broken file (with its line), a record without a prediction or reference,
    and an id that stands twice.
    """
    [file] = run_files(path, "files")
    rows = _records(file, "prediction")
    if references is None and not {"reference", "references"} & set(rows[0].fields):
        remedy = "give the right answers with --references FILE, or a field reference in each record"
        raise DataError("the predictions have no references beside them", where=rows[0].place, remedy=remedy)
    golds = rows if references is None else _matched(rows, _records(_existing(references), "reference"), references)
    named = ["id" in row.fields for row in rows]
    if any(named) and not all(named):
        row = rows[named.index(False)]
        raise DataError("the record has no id, others have", where=row.place, remedy="give every record an id or none")
    items = [_item(row, gold) for row, gold in zip(rows, golds, strict=True)]
    keys = _keys(rows, items)
    keyed = [
        ImportedItem(key=key, item=one.item, answer=one.answer, place=one.place)
        for key, one in zip(keys, items, strict=True)
    ]
    refuse_doubled(keyed, "the id")
    task = ImportedTask(
        name=TASK, kind="generate", items=with_unique_ids(keyed), by_place=not (any(named) or _all_asked(items))
    )
    return ImportedRun(files=(file, *([references] if references else [])), tasks={TASK: task})


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError("there is no such file of references", where=str(path), remedy="check the path")
    return path


def _records(file: Path, field: str) -> list[Row]:
    """Records of any data file; a line of text is a record with the one ``field``."""
    if file.suffix.lower() != ".txt":
        if file.is_file() and file.suffix.lower() not in EXTENSIONS:
            remedy = f"use one of {', '.join((*EXTENSIONS, '.txt'))}"
            raise DataError(
                f"files of type {file.suffix or 'without extension'} are not read", where=str(file), remedy=remedy
            )
        return records(file)
    lines = read_text(file).replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError("the file is empty", where=str(file))
    return [Row({field: line}, f"{file}, line {number}") for number, line in enumerate(lines, 1)]


def _matched(rows: Sequence[Row], golds: Sequence[Row], source: Path) -> list[Row]:
    """The reference record of each prediction: by id where both have ids, else by place."""
    if all("id" in row.fields for row in rows) and all("id" in gold.fields for gold in golds):
        known: dict[str, Row] = {}
        for gold in golds:
            key = str(gold.fields["id"])
            if key in known:
                raise DataError(f"the id {key} stands twice", where=f"{gold.place} (first: {known[key].place})")
            known[key] = gold
        for row in rows:
            if str(row.fields["id"]) not in known:
                raise DataError(f"the id {row.fields['id']} has no reference in {source}", where=row.place)
        return [known[str(row.fields["id"])] for row in rows]
    if len(rows) != len(golds):
        raise DataError(
            f"{len(rows)} predictions, but {len(golds)} references",
            where=f"{rows[0].place.split(', ')[0]} and {source}",
            remedy="give one reference a prediction, in the same order, or ids in both files",
        )
    return list(golds)


def _item(row: Row, gold: Row) -> ImportedItem:
    prediction = fields.required(row, "prediction")
    if not isinstance(prediction, str):
        raise DataError("the field 'prediction' must be text", where=row.place, remedy='write null answers as ""')
    name = "references" if "references" in gold.fields else "reference"
    asked = row.fields.get("prompt", gold.fields.get("prompt"))
    if asked is not None and not isinstance(asked, str):
        raise DataError("the field 'prompt' must be text", where=row.place)
    item = generate_item(
        asked or "",
        fields.references(gold, name),
        group=fields.optional_text(row, "group") or fields.optional_text(gold, "group"),
        category=fields.optional_text(row, "category") or fields.optional_text(gold, "category"),
    )
    answer = GenerateAnswer(text=prediction, truncated=False)
    return ImportedItem(key="", item=item, answer=answer, place=row.place)


def _keys(rows: Sequence[Row], items: Sequence[ImportedItem]) -> list[str]:
    if "id" in rows[0].fields:
        return [fields.optional_text(row, "id") or _no_id(row) for row in rows]
    if _all_asked(items):
        return numbered_keys([one.item.item_id for one in items])
    return [str(place) for place in range(1, len(rows) + 1)]


def _all_asked(items: Sequence[ImportedItem]) -> bool:
    return all(isinstance(one.item, GenerateItem) and one.item.prompt for one in items)


def _no_id(row: Row) -> str:
    raise DataError("the id is empty", where=row.place, remedy="give every record an id or none")
