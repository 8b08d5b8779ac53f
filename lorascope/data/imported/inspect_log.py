"""Inspect: ``.eval`` logs (written by inspect-ai 0.3.285). The library itself is not needed.

Items pair by the sample's id. Scored is the model's completion; with a single scorer that extracts an answer
(``choice``, ``answer``, ``pattern``) it is that answer, so that being right means the same here as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lorascope.data.imported.eval_archive import EvalArchive
from lorascope.data.imported.places import chosen, one_each, refuse_other_tool, run_files
from lorascope.data.imported.runs import (
    ImportedItem,
    ImportedRun,
    ImportedTask,
    Score,
    Setting,
    ToolMetric,
    generate_item,
    kept_metrics,
    mappings,
    number,
    section,
    shown,
    text_metrics,
    with_unique_ids,
)
from lorascope.errors import DataError
from lorascope.schema.items import GenerateAnswer

_WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's words for correct, partly correct, incorrect and no answer, with the values that it gives them."""
_EXTRACTING = {"choice", "answer", "pattern"}
_EXACT = "inspect's match looks for the target at a place of the answer; ours compares the whole answer"


def read_inspect(path: Path, *, tasks: Sequence[str] = ()) -> ImportedRun:
    """All logs below ``path``, or those of the named tasks; one log for each task.

    Several epochs of a sample are several answers to one item, its scores their means. Raises DataError for what is no
    whole log of a finished run, for an archive that unpacks beyond measure, and for two logs of one task.
    """
    headers = [(file, _header(file)) for file in run_files(path, "inspect")]
    named = [(str(header["eval"]["task"]), file) for file, header in headers]
    files = one_each(chosen(named, tasks, path), "inspect")
    known = dict(headers)
    found: dict[str, ImportedTask] = {}
    notes: list[str] = []
    for name, file in files.items():
        found[name] = _task(name, file, known[file], notes)
    return ImportedRun(files=tuple(files.values()), tasks=found, notes=tuple(notes))


def _header(file: Path) -> dict[str, Any]:
    if file.suffix != ".eval":
        raise refuse_other_tool(file, "inspect")
    with closing(EvalArchive(file)) as archive:
        header = archive.document("header.json")
    described = header.get("eval")
    if not isinstance(described, dict) or not isinstance(described.get("task"), str):
        raise DataError("the log's header does not name a task", where=f"{file}, header.json")
    if header.get("status") != "success" or header.get("invalidated"):
        state = "marked as invalid" if header.get("invalidated") else f"of status {header.get('status')}"
        remedy = "finish it with inspect eval-retry, and give that log"
        raise DataError(f"the run did not come to a good end: it is {state}", where=str(file), remedy=remedy)
    return header


def _task(name: str, file: Path, header: Mapping[str, Any], notes: list[str]) -> ImportedTask:
    scorers = [str(one.get("name")) for one in mappings(header["eval"].get("scorers"))]
    extracts = len(scorers) == 1 and scorers[0].split("/")[-1] in _EXTRACTING
    epochs: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for sample, place in _samples(file):
        epochs.setdefault(str(sample["id"]), []).append((sample, place))
    if not epochs:
        raise DataError("the log holds no samples", where=str(file), remedy="run it with log_samples on")
    items = [_item(key, samples, extracts) for key, samples in epochs.items()]
    names = list(dict.fromkeys(metric for one in items for metric in one.scores))
    lettered = _lettered(epochs)
    usable = text_metrics(names, extracted=extracts)
    metrics = {metric: _metric(metric, extracts, metric in lettered) for metric in names}
    kept = kept_metrics(items, metrics)
    if set(names) - set(kept):
        notes.append(f"{name}: {', '.join(sorted(set(names) - set(kept)))} of inspect are missing for some samples")
    return ImportedTask(
        name=name, kind="generate", items=with_unique_ids(items), settings=_settings(header), metrics=kept,
        usable=usable, primary=usable[0] if usable else None,
    )  # fmt: skip


def _samples(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """What is needed of each sample, with its place; the transcripts, which are most of a log, are let go at once."""
    seen: dict[tuple[str, str], str] = {}
    with closing(EvalArchive(file)) as archive:
        for name in archive.names("samples/"):
            sample = archive.document(name)
            place = f"{file}, {name}"
            if sample.get("error"):
                raise DataError("the sample ended in an error", where=place, remedy="run it again: inspect eval-retry")
            if "id" not in sample or "target" not in sample:
                raise DataError("the sample has no id or no target", where=place)
            turn = (str(sample["id"]), shown(sample.get("epoch")))
            if turn in seen:
                raise DataError(f"the sample {turn[0]} stands twice", where=f"{place} (first: {seen[turn]})")
            seen[turn] = place
            kept = {part: sample.get(part) for part in ("id", "target", "output", "scores")}
            yield kept | {"asked": _asked(sample, place)}, place


def _item(key: str, samples: Sequence[tuple[dict[str, Any], str]], extracts: bool) -> ImportedItem:
    first, place = samples[0]
    target = first["target"]
    references = [str(one) for one in (target if isinstance(target, list) else [target]) if str(one).strip()]
    if not references:
        raise DataError("the sample's target is empty: there is nothing to compare with", where=place)
    turns = first["asked"]
    single = turns[0]["content"] if len(turns) == 1 and turns[0]["role"] == "user" else None
    item = generate_item(single, references, messages=None if single is not None else turns)
    answers = [_said(sample, extracts, where) for sample, where in samples]
    stopped = [choice.get("stop_reason") for choice in mappings(section(first, "output").get("choices"))]
    answer = GenerateAnswer(text=answers[0], truncated=stopped[:1] == ["max_tokens"], others=tuple(answers[1:]))
    return ImportedItem(key=key, item=item, answer=answer, scores=_mean_scores(samples), place=place)


def _asked(sample: Mapping[str, Any], place: str) -> list[dict[str, str]]:
    """The turns before the model's first answer; the input where no turn is logged."""
    given = sample.get("input")
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else mappings(given)
    before: list[Mapping[str, Any]] = []
    for message in mappings(sample.get("messages")):
        if message.get("role") == "assistant" and message.get("source") != "input":
            break
        before.append(message)
    attached = section(sample, "attachments")
    read = [{"role": str(one.get("role")), "content": _text(one.get("content"), attached)} for one in before or turns]
    if not read:
        raise DataError("the sample does not say what was asked", where=place)
    return read


def _text(content: object, attached: Mapping[str, Any]) -> str:
    """The text parts of a message; images and other media are named by their kind."""
    if isinstance(content, str):
        name = content.removeprefix("attachment://")
        return str(attached.get(name, content)) if name != content else content
    parts = mappings(content)
    return "\n".join(
        _text(part.get("text"), attached) if part.get("type") == "text" else f"[{part.get('type')}]" for part in parts
    )


def _said(sample: Mapping[str, Any], extracts: bool, place: str) -> str:
    if extracts:
        answers = [section(score).get("answer") for score in section(sample, "scores").values()]
        return str(answers[0] or "") if answers else ""
    completion = section(sample, "output").get("completion")
    if not isinstance(completion, str):
        raise DataError("the sample has no completion", where=place, remedy="run it again: inspect eval-retry")
    return completion


def _mean_scores(samples: Sequence[tuple[dict[str, Any], str]]) -> dict[str, Score]:
    """Each scorer's value, or each entry of one that gives several; the mean over epochs."""
    rows = [dict(_values(sample)) for sample, _ in samples]
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: (sum(row[name] for row in rows) / len(rows), 1.0) for name in shared}


def _values(sample: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for scorer, score in section(sample, "scores").items():
        value = section(score).get("value")
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, one in parts:
            found = _WORDS.get(one) if isinstance(one, str) else number(one)
            if found is not None:
                yield (f"{scorer}_{part}" if part else str(scorer)), found


def _lettered(epochs: Mapping[str, Sequence[tuple[dict[str, Any], str]]]) -> set[str]:
    """Scorers that say correct or incorrect, and so which way is better."""
    found = []
    for sample in (sample for several in epochs.values() for sample, _ in several):
        values = {name: section(score).get("value") for name, score in section(sample, "scores").items()}
        found.append({name for name, value in values.items() if isinstance(value, str) and value in _WORDS})
    return set.intersection(*found)


def _metric(name: str, extracts: bool, lettered: bool) -> ToolMetric:
    direct = extracts or name == "match"
    why = None if extracts else _EXACT
    return ToolMetric("higher" if lettered else "none", "exact_match" if direct else None, why if direct else None)


def _settings(header: Mapping[str, Any]) -> dict[str, Setting]:
    described, plan = header["eval"], section(header, "plan")
    config = section(described, "config")
    generation = {**section(described, "model_generate_config"), **section(plan, "config")}
    speed = {"max_connections", "max_retries", "timeout", "attempt_timeout", "batch", "cache"}
    steps = [[step.get("solver"), step.get("params")] for step in mappings(plan.get("steps"))]
    return {
        "task version": Setting(shown(described.get("task_version")), "refuse"),
        "task arguments": Setting(shown(described.get("task_args")), "refuse"),
        "epochs": Setting(shown(config.get("epochs")), "refuse"),
        "solver": Setting(shown(steps), "refuse"),
        "scorers": Setting(shown([[one.get("name"), one.get("options")] for one in mappings(described.get("scorers"))]),
                           "refuse"),
        "generation settings": Setting(shown({key: value for key, value in generation.items() if key not in speed}),
                                       "refuse"),
        "limit": Setting(shown(config.get("limit"))),
        "inspect version": Setting(shown(section(described, "packages").get("inspect_ai"))),
    }  # fmt: skip
