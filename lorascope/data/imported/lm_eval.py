"""lm-evaluation-harness: ``samples_TASK_DATE.jsonl`` and the ``results_DATE.json`` beside it (written by 0.4.13).

Items pair by ``doc_hash``. What was scored is ``filtered_resps``; a task with several filters becomes one task a
filter, or the one that was chosen.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorascope.data.imported.lm_eval_choices import choices_of
from lorascope.data.imported.lm_eval_rows import (
    NEEDED,
    Form,
    arguments_of,
    form_of,
    keys_of,
    logprob,
    metric_names,
    scores_of,
)
from lorascope.data.imported.places import DATE, chosen, json_object, one_each, records, refuse_other_tool, run_files
from lorascope.data.imported.runs import (
    ImportedItem,
    ImportedRun,
    ImportedTask,
    Setting,
    ToolMetric,
    generate_item,
    kept_metrics,
    likelihood_item,
    section,
    shown,
    text_metrics,
    with_unique_ids,
)
from lorascope.data.readers import Row
from lorascope.errors import DataError
from lorascope.schema.items import GenerateAnswer, LikelihoodAnswer
from lorascope.schema.model import Direction

_EXACT = "lm-eval compares texts as its task says (case counts by default); ours ignores case and white space"
_OURS: dict[Form, dict[str, tuple[str, str | None]]] = {
    "multiple_choice": {
        "acc": ("accuracy", None),
        "acc_norm": ("accuracy_norm", "lengths without the delimiter may differ"),
        "acc_bytes": ("accuracy_bytes", "lengths without the delimiter may differ"),
    },
    "generate_until": {"exact_match": ("exact_match", _EXACT), "em": ("exact_match", _EXACT)},
    "loglikelihood_rolling": {"bits_per_byte": ("bits_per_byte", None)},
    "loglikelihood": {},
}
_PERPLEXITIES = {"word_perplexity", "byte_perplexity", "perplexity"}


def read_lm_eval(path: Path, *, filter_name: str | None = None, tasks: Sequence[str] = ()) -> ImportedRun:
    """All tasks below ``path``, or those named in ``tasks``; ``filter_name`` chooses where a task has several filters.

    Raises DataError for a file that is missing, empty, truncated (with its line) or another tool's, for two runs of
    one task, an item that stands twice, and a filter that a task does not have. Tasks whose right answers the log does
    not tell are left out, with the reason.
    """
    named = [(_task_of(file), file) for file in run_files(path, "lm-eval")]
    files = one_each(chosen(named, tasks, path), "lm-eval")
    found: dict[str, ImportedTask] = {}
    left_out: dict[str, str] = {}
    notes: list[str] = []
    used: list[Path] = []
    header: dict[str, Any] = {}
    for task, file in files.items():
        header, results = _header(file)
        used += [file, *([results] if results else [])]
        if results is None:
            notes.append(f"{file.name} has no results file beside it: how the task was run is not known")
        for name, rows in _by_filter(task, records(file), file, filter_name).items():
            read = _task(name, task, rows, header, notes)
            if isinstance(read, str):
                left_out[name] = read
            else:
                found[name] = read
    dtype, parameters = (section(header, "config").get(name) for name in ("model_dtype", "model_num_parameters"))
    return ImportedRun(
        files=tuple(dict.fromkeys(used)),
        tasks=found,
        left_out=left_out,
        notes=tuple(notes),
        dtype=str(dtype).removeprefix("torch.") if dtype else None,
        parameters=parameters if isinstance(parameters, int) and 0 < parameters < 2**63 else None,
    )


def _task_of(file: Path) -> str:
    return DATE.sub("", file.stem).removeprefix("samples_")


def _header(file: Path) -> tuple[dict[str, Any], Path | None]:
    """The results of the same date in the same folder."""
    dated = DATE.search(file.stem)
    results = file.parent / f"results_{dated[1]}.json" if dated else None
    if results is None or not results.is_file():
        return {}, None
    return json_object(results), results


def _by_filter(task: str, rows: Sequence[Row], file: Path, wanted: str | None) -> dict[str, list[Row]]:
    for row in rows:
        lacking = [name for name in NEEDED if name not in row.fields]
        if lacking == list(NEEDED):
            raise refuse_other_tool(file, "lm-eval")
        if lacking:
            raise DataError(f"the sample lacks {', '.join(lacking)}", where=row.place, remedy="run lm_eval again")
    filters: dict[str, list[Row]] = {}
    for row in rows:
        filters.setdefault(str(row.fields.get("filter", "none")), []).append(row)
    if len(filters) == 1:
        return {task: next(iter(filters.values()))}
    if wanted is None:
        return {f"{task}-{name}": part for name, part in filters.items()}
    if wanted not in filters:
        problem = f"{task} has no filter named {wanted!r}"
        raise DataError(problem, where=str(file), remedy=f"choose from {', '.join(filters)}")
    return {task: filters[wanted]}


def _task(name: str, task: str, rows: Sequence[Row], header: Mapping[str, Any], notes: list[str]) -> ImportedTask | str:
    """The task, or why it cannot be taken in."""
    forms = {form_of(row) for row in rows}
    if len(forms) > 1:
        return "its samples are of several kinds"
    form = forms.pop()
    config = section(header, "configs", task)
    directions = section(header, "higher_is_better", task)
    keys = keys_of(rows)
    names = metric_names(rows)
    usable: tuple[str, ...] | None = None
    if form == "multiple_choice":
        built = choices_of(rows, keys, config, notes)
    elif form == "generate_until":
        built, usable = _generated(name, rows, keys, notes), text_metrics(names)
    else:
        built, usable = _likelihoods(rows, keys), ("bits_per_byte",)
    if isinstance(built, str):
        return built
    metrics = {metric: _metric(form, metric, directions.get(metric)) for metric in names}
    kept = kept_metrics(built, metrics)
    dropped = [metric for metric in names if metric not in kept]
    if dropped:
        notes.append(f"{name}: {', '.join(dropped)} of lm-eval are not numbers of single items and were left out")
    return ImportedTask(
        name=name,
        kind={"generate_until": "generate", "multiple_choice": "choice"}.get(form, "likelihood"),  # type: ignore[arg-type]
        items=with_unique_ids(built),
        settings={"filter": Setting(str(rows[0].fields.get("filter", "none")), "refuse")}
        | _settings(task, config, header),
        metrics=kept,
        usable=usable,
        primary="accuracy" if form == "multiple_choice" else usable[0] if usable else None,
    )


def _metric(form: Form, name: str, higher: object) -> ToolMetric:
    direction: Direction = "higher" if higher is True else "lower" if higher is False else "none"
    ours, why = _OURS[form].get(name, (None, None))
    return ToolMetric(direction, ours, why, "exp" if name in _PERPLEXITIES else "mean")


def _generated(name: str, rows: Sequence[Row], keys: Sequence[str], notes: list[str]) -> list[ImportedItem] | str:
    references = [_references(row) for row in rows]
    if not all(references):
        return "an item has no target to be compared with"
    listed = sum(len(one) > 1 for one in references)
    if listed:
        notes.append(f"{name}: {listed} targets are lists; each entry counts as a reference")
    if len(rows) > 1 and len(set(references)) == 1:
        notes.append(
            f"{name}: all targets are {references[0][0]!r}; metrics against it say little, lm-eval's own count"
        )
    items = []
    for row, key, accepted in zip(rows, keys, references, strict=True):
        said = _texts(row)
        answer = GenerateAnswer(text=said[0], truncated=False, others=tuple(said[1:]))
        item = generate_item(arguments_of(row)[0][0], accepted)
        items.append(ImportedItem(key=key, item=item, answer=answer, scores=scores_of(row), place=row.place))
    return items


def _texts(row: Row) -> list[str]:
    """What was scored: one text, or several where the task repeats its question."""
    filtered = row.fields["filtered_resps"]
    said = filtered[0] if isinstance(filtered, list) and filtered else None
    listed: list[Any] = said if isinstance(said, list) else [said]
    texts = [text for text in listed if isinstance(text, str)]
    if not texts or len(texts) < len(listed):
        raise DataError("filtered_resps holds no text", where=row.place, remedy="check the task's filter")
    return texts


def _references(row: Row) -> tuple[str, ...]:
    """The target; a list of targets is written as Python writes it."""
    target = row.fields["target"]
    if isinstance(target, str) and target.startswith("["):
        try:
            listed = ast.literal_eval(target)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            listed = None
        if isinstance(listed, list) and listed and all(isinstance(one, str) for one in listed):
            target = listed
    texts = target if isinstance(target, list) else [target]
    return tuple(str(text) for text in texts if text is not None and str(text).strip())


def _likelihoods(rows: Sequence[Row], keys: Sequence[str]) -> list[ImportedItem]:
    """Texts, or continuations after a context. Bits per byte count the bytes that were predicted, without the context.

    The log does not say how many tokens were predicted. The answer's count is that of bytes, and perplexity, which is
    per token, is not among the usable metrics.
    """
    items = []
    for row, key in zip(rows, keys, strict=True):
        *context, text = (str(part) for part in arguments_of(row)[0])
        filtered = row.fields["filtered_resps"]
        if not isinstance(filtered, list) or not filtered:
            raise DataError("the sample has no log-probability", where=row.place, remedy="run the task again")
        scores = scores_of(row)
        size = int(scores["bits_per_byte"][1]) if "bits_per_byte" in scores else len(text.encode("utf-8"))
        answer = LikelihoodAnswer(logprob=logprob(filtered[0], row), tokens=size, bytes=size)
        item = likelihood_item("".join([*context, text]))
        items.append(ImportedItem(key=key, item=item, answer=answer, scores=scores, place=row.place))
    return items


def _settings(task: str, config: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Setting]:
    if not header:
        return {}
    how = section(header, "config")
    return {
        "task version": Setting(shown(section(header, "versions").get(task)), "refuse"),
        "few-shot examples": Setting(shown(section(header, "n-shot").get(task)), "refuse"),
        "generation settings": Setting(shown(config.get("generation_kwargs")), "refuse"),
        "filters": Setting(shown(config.get("filter_list")), "refuse"),
        "prompt template": Setting(shown([config.get("description"), config.get("doc_to_text")])),
        "chat template": Setting(shown(header.get("chat_template_sha"))),
        "system instruction": Setting(shown(header.get("system_instruction_sha"))),
        "limit": Setting(shown(how.get("limit"))),
        "number type": Setting(shown(how.get("model_dtype"))),
        "lm-eval version": Setting(shown(header.get("lm_eval_version"))),
    }
