"""lighteval: ``details_TASK_DATE.parquet`` and the ``results_DATE.json`` of the same date (written by 0.13).

Items pair by the document's id, its place in the data set. Scored is the answer after lighteval's post-processing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorascope.data.imported.places import DATE, chosen, json_object, one_each, records, refuse_other_tool, run_files
from lorascope.data.imported.runs import (
    ImportedItem,
    ImportedRun,
    ImportedTask,
    Score,
    Setting,
    ToolMetric,
    choice_item,
    generate_item,
    kept_metrics,
    mappings,
    number,
    refuse_doubled,
    section,
    shown,
    text_metrics,
    with_unique_ids,
)
from lorascope.data.readers import Row
from lorascope.errors import DataError
from lorascope.schema.items import ChoiceAnswer, GenerateAnswer
from lorascope.schema.model import Direction

_OURS = {
    "LOGPROBS": {"acc": "accuracy", "acc_norm": "accuracy_norm"},
    "GENERATIVE": {"em": "exact_match", "exact_match": "exact_match"},
}
_WHY = {
    "accuracy": "lighteval may normalise log-probabilities",
    "accuracy_norm": "lighteval may count the space before a choice, or tokens",
    "exact_match": "lighteval compares as its metric says (case counts by default); ours ignores case and white space",
}


def read_lighteval(path: Path, *, tasks: Sequence[str] = ()) -> ImportedRun:
    """All tasks below ``path``, or those named. Multiple choice by log-probabilities, and generation.

    Raises DataError for files of another layout, two runs of one task, and a document that stands twice. Tasks of
    other kinds, and those with several right choices, are left out with the reason.
    """
    named: list[tuple[str, Path]] = []
    rows: dict[Path, list[Row]] = {}
    for file in run_files(path, "lighteval"):
        if file.suffix != ".parquet":
            raise refuse_other_tool(file, "lighteval")
        rows[file] = _rows(file)
        name = rows[file][0].fields["doc"].get("task_name") or DATE.sub("", file.stem).removeprefix("details_")
        named.append((str(name), file))
    files = one_each(chosen(named, tasks, path), "lighteval")
    found: dict[str, ImportedTask] = {}
    left_out: dict[str, str] = {}
    notes: list[str] = []
    used: list[Path] = []
    header: dict[str, Any] = {}
    for name, file in files.items():
        header, results = _header(file, path)
        used += [file, *([results] if results else [])]
        if results is None:
            notes.append(f"{file.name} has no results file beside it: how the task was run is not known")
        task = _task(name, rows[file], header, notes)
        if isinstance(task, str):
            left_out[name] = task
        else:
            found[name] = task
    dtype = section(header, "config_general", "model_config").get("dtype")
    return ImportedRun(
        files=tuple(dict.fromkeys(used)), tasks=found, left_out=left_out, notes=tuple(notes),
        dtype=dtype if isinstance(dtype, str) else None,
    )  # fmt: skip


def _rows(file: Path) -> list[Row]:
    rows = records(file)
    for row in rows:
        if not all(isinstance(row.fields.get(name), Mapping) for name in ("doc", "metric", "model_response")):
            raise DataError(
                f"the columns are {', '.join(row.fields)}, not lighteval's doc, metric and model_response",
                where=str(file),
                remedy="evaluate again with lighteval 0.13; earlier layouts are not read",
            )
    return rows


def _header(file: Path, given: Path) -> tuple[dict[str, Any], Path | None]:
    """The results of the same date, beside the details or below the folder that was given."""
    dated = DATE.search(file.stem)
    name = f"results_{dated[1]}.json" if dated else None
    places = [file.parent, *([given] if given.is_dir() else [])]
    found = next((one for place in places if name for one in sorted(place.rglob(name))), None)
    if found is None:
        return {}, None
    return json_object(found), found


def _task(name: str, rows: Sequence[Row], header: Mapping[str, Any], notes: list[str]) -> ImportedTask | str:
    """The task, or why it cannot be taken in."""
    methods = {shown(row.fields["doc"].get("sampling_methods")) for row in rows}
    method = next((name for name in _OURS if methods == {shown([name])}), None)
    if method is None:
        return f"its documents are asked by {' or '.join(sorted(methods))}, which is not read"
    golds = [_golds(row) for row in rows]
    chosen = method == "LOGPROBS"
    if chosen and any(len(gold) != 1 for gold in golds):
        return "an item has several right choices, or none"
    items = [_choice(row, gold[0]) if chosen else _generated(row, gold) for row, gold in zip(rows, golds, strict=True)]
    refuse_doubled(items, "the document")
    config = section(header, "config_tasks", name)
    names = list(dict.fromkeys(metric for row in rows for metric in row.fields["metric"]))
    kept = kept_metrics(items, {metric: _metric(metric, method, config) for metric in names})
    if set(names) - set(kept):
        notes.append(f"{name}: {', '.join(sorted(set(names) - set(kept)))} of lighteval are no numbers of single items")
    usable = None if chosen else text_metrics(names)
    return ImportedTask(
        name=name,
        kind="choice" if chosen else "generate",
        items=with_unique_ids(items),
        settings=_settings(config, header),
        metrics=kept,
        usable=usable,
        primary="accuracy" if chosen else usable[0] if usable else None,
    )


def _golds(row: Row) -> list[int]:
    doc = row.fields["doc"]
    gold, choices = doc.get("gold_index"), doc.get("choices")
    listed = gold if isinstance(gold, list) else [gold]
    if not isinstance(choices, list) or not all(type(one) is int and 0 <= one < len(choices) for one in listed):
        raise DataError("the right answer is not among the document's choices", where=row.place)
    return listed


def _choice(row: Row, gold: int) -> ImportedItem:
    doc, said = row.fields["doc"], row.fields["model_response"]
    logged = said.get("logprobs")
    values = [number(value, row.place) for value in logged] if isinstance(logged, list) else []
    known = [value for value in values if value is not None]
    if len(known) != len(doc["choices"]) or len(known) != len(values):
        raise DataError(f"{len(known)} finite log-probabilities for {len(doc['choices'])} choices", where=row.place)
    choices = [str(choice).removeprefix(" ") for choice in doc["choices"]]
    if len(choices) < 2 or not all(choices):
        raise DataError("a document has an empty choice or only one", where=row.place)
    item = choice_item(_asked(doc), choices, gold)
    return ImportedItem(
        key=_key(row), item=item, answer=ChoiceAnswer(logprobs=tuple(known)), scores=_scores(row), place=row.place
    )


def _generated(row: Row, golds: Sequence[int]) -> ImportedItem:
    doc, said = row.fields["doc"], row.fields["model_response"]
    texts = said.get("text_post_processed") or said.get("text")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError("the document has no generated text", where=row.place)
    references = [str(doc["choices"][gold]) for gold in golds]
    if not references or not all(reference.strip() for reference in references):
        raise DataError("a reference is empty: there is nothing to compare with", where=row.place)
    answer = GenerateAnswer(text=texts[0], truncated=False, others=tuple(texts[1:]))
    item = generate_item(_asked(doc), references)
    return ImportedItem(key=_key(row), item=item, answer=answer, scores=_scores(row), place=row.place)


def _asked(doc: Mapping[str, Any]) -> str:
    """The query after the task's instruction. Few-shot examples are compared as a setting."""
    return "\n".join(str(part) for part in (doc.get("instruction"), doc.get("query")) if part)


def _key(row: Row) -> str:
    found = row.fields["doc"].get("id")
    if found in (None, ""):
        raise DataError("the document has no id", where=row.place)
    return str(found)


def _scores(row: Row) -> dict[str, Score]:
    found = {name: number(value, row.place) for name, value in row.fields["metric"].items()}
    return {name: (value, 1.0) for name, value in found.items() if value is not None}


def _metric(name: str, method: str, config: Mapping[str, Any]) -> ToolMetric:
    ours = _OURS[method].get(name)
    return ToolMetric(_direction(name, config), ours, _WHY.get(ours or ""))


def _direction(name: str, config: Mapping[str, Any]) -> Direction:
    for metric in mappings(config.get("metrics")):
        said = metric.get("higher_is_better") if metric.get("metric_name") == name else None
        if isinstance(said, bool):
            return "higher" if said else "lower"
    return "none"


def _settings(config: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Setting]:
    if not header:
        return {}
    general, model = section(header, "config_general"), section(header, "config_general", "model_config")
    generation = [config.get("generation_size"), config.get("stop_sequence"), config.get("num_samples"),
                  model.get("generation_parameters")]  # fmt: skip
    return {
        "task version": Setting(shown(config.get("version")), "refuse"),
        "few-shot examples": Setting(shown(config.get("num_fewshots")), "refuse"),
        "generation settings": Setting(shown(generation), "refuse"),
        "metrics": Setting(shown(config.get("metrics")), "refuse"),
        "prompt function": Setting(shown(config.get("prompt_function"))),
        "system prompt": Setting(shown(model.get("system_prompt"))),
        "chat template": Setting(shown(model.get("override_chat_template"))),
        "limit": Setting(shown(general.get("max_samples"))),
        "number type": Setting(shown(model.get("dtype"))),
    }
