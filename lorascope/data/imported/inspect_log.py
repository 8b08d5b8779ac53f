"""Inspect: ``.eval`` logs (written by inspect-ai 0.3.285). The library itself is not needed.

Items pair by the sample's id. Scored is the model's completion; with a single scorer that extracts an answer
(``choice``, ``answer``, ``pattern``) it is that answer, so that being right means the same here as there. Samples that
were not scored are left out.
"""

from __future__ import annotations

import math
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
_Sample = tuple[dict[str, Any], str]
"""What is kept of a sample, and its place."""
_JUDGED = "inspect's scorer judges the answer in its own way; ours compares the whole answer"
_EXACT = "inspect's match looks for the target at a place of the answer; ours compares the whole answer"


def read_inspect(path: Path, *, tasks: Sequence[str] = ()) -> ImportedRun:
    """All logs below ``path``, or those of the named tasks; one log for each task.

    Several epochs of a sample are several answers to one item, in their order, its scores their means. Raises
    DataError for what is no whole log of a finished run, for an archive that unpacks beyond measure, for a log without
    any score, and for two logs of one task.
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
    every = _epochs(file)
    epochs = _judged(file, every) if scorers else every
    lost = len(every) - len(epochs)
    dropped = f"{lost} of {len(every)} samples of {file} have no score and are left out" if lost else None
    if dropped:
        notes.append(f"{name}: {dropped}")
    items = [_item(key, samples, extracts) for key, samples in epochs.items()]
    names = list(dict.fromkeys(metric for one in items for metric in one.scores))
    lettered = _lettered(epochs)
    usable = text_metrics(names, extracted=extracts)
    metrics = {metric: _metric(metric, extracts, metric in lettered, len(names) == 1) for metric in names}
    kept = kept_metrics(items, metrics)
    if set(names) - set(kept):
        notes.append(f"{name}: {', '.join(sorted(set(names) - set(kept)))} of inspect are missing for some samples")
    return ImportedTask(
        name=name, kind="generate", items=with_unique_ids(items), settings=_settings(header), metrics=kept,
        usable=usable, primary=usable[0] if usable else None, dropped=dropped,
    )  # fmt: skip


def _epochs(file: Path) -> dict[str, list[_Sample]]:
    """The samples of each id, in the order of their epochs, which is not that of the archive."""
    found: dict[str, list[_Sample]] = {}
    for sample, place in _samples(file):
        found.setdefault(str(sample["id"]), []).append((sample, place))
    if not found:
        raise DataError("the log holds no samples", where=str(file), remedy="run it with log_samples on")
    return {key: sorted(samples, key=lambda one: int(one[0]["epoch"])) for key, samples in found.items()}


def _judged(file: Path, epochs: Mapping[str, list[_Sample]]) -> dict[str, list[_Sample]]:
    """The ids whose every sample has a score: one that was not scored is neither right nor wrong."""
    kept = {key: samples for key, samples in epochs.items() if all(_has_score(sample) for sample, _ in samples)}
    if not kept:
        raise DataError("no sample of the log has a score", where=str(file), remedy="score it first: inspect score")
    return kept


def _has_score(sample: Mapping[str, Any]) -> bool:
    values = [section(score).get("value") for score in section(sample, "scores").values()]
    return any(value is not None and not (isinstance(value, float) and math.isnan(value)) for value in values)


def _epoch(sample: Mapping[str, Any], place: str) -> int:
    epoch = 1 if sample.get("epoch") is None else sample["epoch"]
    if type(epoch) is not int:
        raise DataError(f"the sample's epoch is no number: {shown(epoch)[:80]}", where=place)
    return epoch


def _samples(file: Path) -> Iterator[_Sample]:
    """What is needed of each sample, with its place; the transcripts, which are most of a log, are let go at once."""
    seen: dict[tuple[str, int], str] = {}
    with closing(EvalArchive(file)) as archive:
        for name in archive.names("samples/"):
            sample = archive.document(name)
            place = f"{file}, {name}"
            if sample.get("error"):
                raise DataError("the sample ended in an error", where=place, remedy="run it again: inspect eval-retry")
            if "id" not in sample or "target" not in sample:
                raise DataError("the sample has no id or no target", where=place)
            turn = (str(sample["id"]), _epoch(sample, place))
            if turn in seen:
                raise DataError(f"the sample {turn[0]} stands twice", where=f"{place} (first: {seen[turn]})")
            seen[turn] = place
            kept = {part: sample.get(part) for part in ("id", "target", "output", "scores")}
            yield kept | {"epoch": turn[1], "asked": _asked(sample, place)}, place


def _item(key: str, samples: Sequence[_Sample], extracts: bool) -> ImportedItem:
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
    return ImportedItem(
        key=key, item=item, answer=answer, scores=_mean_scores(samples), first=_mean_scores(samples[:1]), place=place,
        turns=tuple(sample["epoch"] for sample, _ in samples),
    )  # fmt: skip


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
    parts = [(part.get("type"), part.get("text")) for part in mappings(content)]
    return "\n".join(
        _text(text, attached) if kind == "text" and isinstance(text, str) else f"[{kind}]" for kind, text in parts
    )


def _said(sample: Mapping[str, Any], extracts: bool, place: str) -> str:
    if extracts:
        answers = [section(score).get("answer") for score in section(sample, "scores").values()]
        return str(answers[0] or "") if answers else ""
    completion = section(sample, "output").get("completion")
    if not isinstance(completion, str):
        raise DataError("the sample has no completion", where=place, remedy="run it again: inspect eval-retry")
    return completion


def _mean_scores(samples: Sequence[_Sample]) -> dict[str, Score]:
    """Each scorer's value, or each entry of one that gives several; the mean over epochs."""
    rows = [dict(_values(sample, place)) for sample, place in samples]
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: (sum(row[name] for row in rows) / len(rows), 1.0) for name in shared}


def _values(sample: Mapping[str, Any], place: str) -> Iterator[tuple[str, float]]:
    for scorer, score in section(sample, "scores").items():
        value = section(score).get("value")
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, one in parts:
            found = _WORDS.get(one) if isinstance(one, str) else number(one, place)
            if found is not None:
                yield (f"{scorer}_{part}" if part else str(scorer)), found


def _lettered(epochs: Mapping[str, Sequence[_Sample]]) -> set[str]:
    """Scorers that say correct or incorrect, and so which way is better."""
    found = []
    for sample in (sample for several in epochs.values() for sample, _ in several):
        values = {name: section(score).get("value") for name, score in section(sample, "scores").items()}
        found.append({name for name, value in values.items() if isinstance(value, str) and value in _WORDS})
    return set.intersection(*found)


def _metric(name: str, extracts: bool, lettered: bool, alone: bool) -> ToolMetric:
    """``match``, and a scorer that is alone to say correct or incorrect, is what right means in the log."""
    direct = extracts or name == "match" or (lettered and alone)
    why = None if extracts or not direct else _EXACT if name == "match" else _JUDGED
    return ToolMetric("higher" if lettered else "none", "exact_match" if direct else None, why, share=lettered)


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
