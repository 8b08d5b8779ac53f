"""LLaMA-Factory: ``generated_predictions.jsonl`` with ``prompt``, ``predict`` and ``label`` on each line.

Items pair by their content, prompt and label, since the file has no ids.
"""

from __future__ import annotations

from pathlib import Path

from lorascope.data.imported.places import records, refuse_other_tool, run_files
from lorascope.data.imported.runs import (
    ImportedItem,
    ImportedRun,
    ImportedTask,
    generate_item,
    numbered_keys,
    with_unique_ids,
)
from lorascope.data.readers import Row
from lorascope.errors import DataError
from lorascope.schema.items import GenerateAnswer

TASK = "predictions"
"""What the task is called: the file does not name its data set."""
_FIELDS = ("prompt", "predict", "label")


def read_llamafactory(path: Path) -> ImportedRun:
    """The predictions of one checkpoint.

    Raises DataError for a missing, empty or truncated file (with its line), several files below a folder, and a line
    without its three texts or with an empty label.
    """
    files = run_files(path, "llamafactory")
    if len(files) > 1:
        listed = ", ".join(str(file.relative_to(path)) for file in files[:4])
        raise DataError(
            f"the folder holds several runs: {listed}", where=str(path), remedy="give one checkpoint's folder"
        )
    [file] = files
    if file.suffix not in {".jsonl", ".json"}:
        raise refuse_other_tool(file, "llamafactory")
    rows = records(file)
    if not set(_FIELDS) & set(rows[0].fields):
        raise refuse_other_tool(file, "llamafactory")
    items = [_item(row) for row in rows]
    keyed = numbered_keys([one.item.item_id for one in items])
    unique = [
        ImportedItem(key=key, item=one.item, answer=one.answer, place=one.place)
        for key, one in zip(keyed, items, strict=True)
    ]
    task = ImportedTask(name=TASK, kind="generate", items=with_unique_ids(unique))
    return ImportedRun(files=(file,), tasks={TASK: task})


def _item(row: Row) -> ImportedItem:
    values = {name: row.fields.get(name) for name in _FIELDS}
    wrong = [name for name, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise DataError(f"the line has no text in {', '.join(wrong)}", where=row.place, remedy="write it again")
    if not str(values["label"]).strip():
        remedy = "predict on data that has answers, or drop the line from both files"
        raise DataError("the label is empty: there is nothing to compare with", where=row.place, remedy=remedy)
    item = generate_item(str(values["prompt"]), [str(values["label"])])
    answer = GenerateAnswer(text=str(values["predict"]), truncated=False)
    return ImportedItem(key=item.item_id, item=item, answer=answer, place=row.place)
