"""Multiple choice in lm-eval's samples: choices without their delimiter, log-probabilities, and which one is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorascope.data.imported.lm_eval_rows import arguments_of, logprob, metric_names, scores_of
from lorascope.data.imported.runs import ImportedItem, choice_item, number
from lorascope.data.readers import Row
from lorascope.errors import DataError
from lorascope.schema.items import ChoiceAnswer


def choices_of(
    rows: Sequence[Row], keys: Sequence[str], config: Mapping[str, Any], notes: list[str]
) -> list[ImportedItem] | str:
    """All items of a task, or why they cannot be read; what had to be assumed goes to ``notes``."""
    contexts: list[str] = []
    choices: list[list[str]] = []
    logprobs: list[list[float]] = []
    for row in rows:
        arguments = arguments_of(row)
        if "acc_mutual_info" in metric_names([row]):
            arguments = arguments[: len(arguments) // 2]
        if len({one[0] for one in arguments}) > 1:
            return "its choices are contexts, and the log does not say which of them is right"
        contexts.append(arguments[0][0])
        choices.append([str(one[1]) for one in arguments])
        filtered = row.fields["filtered_resps"]
        if not isinstance(filtered, list) or len(filtered) < len(arguments):
            raise DataError("a choice has no log-probability", where=row.place, remedy="run the task again")
        logprobs.append([logprob(value, row) for value in filtered[: len(arguments)]])
    choices = _without_delimiter(choices, config, notes)
    if any(not choice for texts in choices for choice in texts) or any(len(texts) < 2 for texts in choices):
        return "an item has an empty choice or only one"
    golds = _golds(rows, choices, logprobs)
    if isinstance(golds, str):
        return golds
    return [
        ImportedItem(
            key=key,
            item=choice_item(context, texts, gold),
            answer=ChoiceAnswer(logprobs=tuple(values)),
            scores=scores_of(row),
            place=row.place,
        )
        for row, key, context, texts, gold, values in zip(rows, keys, contexts, choices, golds, logprobs, strict=True)
    ]


def _without_delimiter(choices: list[list[str]], config: Mapping[str, Any], notes: list[str]) -> list[list[str]]:
    """Choices without what stands between context and choice; lengths are counted without it."""
    delimiter = config.get("target_delimiter")
    if not isinstance(delimiter, str):
        delimiter = " "
        notes.append("the delimiter before a choice is taken for a space, lm-eval's default: no results file says it")
    if delimiter and all(choice.startswith(delimiter) for texts in choices for choice in texts):
        return [[choice.removeprefix(delimiter) for choice in texts] for texts in choices]
    return choices


def _golds(
    rows: Sequence[Row], choices: Sequence[Sequence[str]], logprobs: Sequence[Sequence[float]]
) -> list[int] | str:
    """Index of the right choice: the target is an index or a choice's text; lm-eval's own ``acc`` decides a doubt."""
    targets = [str(row.fields["target"]).strip() for row in rows]
    readings = []
    if all(text.isdecimal() and int(text) < len(texts) for text, texts in zip(targets, choices, strict=True)):
        readings.append([int(text) for text in targets])
    stripped = [[choice.strip() for choice in texts] for texts in choices]
    if all(texts.count(text) == 1 for text, texts in zip(targets, stripped, strict=True)):
        readings.append([texts.index(text) for text, texts in zip(targets, stripped, strict=True)])
    distinct = [reading for place, reading in enumerate(readings) if reading not in readings[:place]]
    if len(distinct) > 1:
        distinct = [reading for reading in distinct if _agrees(rows, reading, logprobs)]
    if len(distinct) == 1:
        return distinct[0]
    return "its targets name several right choices, or none, or fit two readings"


def _agrees(rows: Sequence[Row], golds: Sequence[int], logprobs: Sequence[Sequence[float]]) -> bool:
    pairs = zip(rows, golds, logprobs, strict=True)
    return all(number(row.fields.get("acc")) == float(max(values) == values[gold]) for row, gold, values in pairs)
