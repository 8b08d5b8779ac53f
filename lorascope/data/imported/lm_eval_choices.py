"""Multiple choice in lm-eval's samples: choices without their delimiter, log-probabilities, and which one is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorascope.data.imported.lm_eval_rows import arguments_of, logprob, metric_names, scores_of
from lorascope.data.imported.runs import ImportedItem, choice_item, number
from lorascope.data.readers import Row
from lorascope.errors import DataError
from lorascope.schema.items import ChoiceAnswer

_MOST_DIGITS = 6


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
    """Index of the right choice: the target is an index or a choice's text, whichever gives lm-eval's own ``acc``.

    Of equal choices the first is the right one, as lm-eval has it.
    """
    targets = [str(row.fields["target"]).strip() for row in rows]
    stripped = [[choice.strip() for choice in texts] for texts in choices]
    pairs = list(zip(targets, stripped, strict=True))
    readings: list[list[int]] = []
    if all(_is_index(text, texts) for text, texts in pairs):
        readings.append([int(text) for text in targets])
    if all(text in texts for text, texts in pairs):
        by_text = [texts.index(text) for text, texts in pairs]
        readings += [by_text] if by_text not in readings else []
    if not readings:
        return "its targets name several right choices, or none"
    if not any("acc" in row.fields for row in rows):
        doubtful = len(readings) > 1 or any(_reads_twice(text, texts) for text, texts in pairs)
        return "its targets fit two readings, and no accuracy is recorded that tells which" if doubtful else readings[0]
    agreeing = [reading for reading in readings if _agrees(rows, reading, logprobs)]
    if len(agreeing) == 1:
        return agreeing[0]
    fits = "more than one reading" if agreeing else "no reading"
    return f"the accuracy that lm-eval recorded fits {fits} of its targets: the right choice is not known"


def _is_index(target: str, texts: Sequence[str]) -> bool:
    return target.isdecimal() and len(target) <= _MOST_DIGITS and int(target) < len(texts)


def _reads_twice(target: str, texts: Sequence[str]) -> bool:
    return target in texts and _is_index(target, texts) and texts.index(target) != int(target)


def _agrees(rows: Sequence[Row], golds: Sequence[int], logprobs: Sequence[Sequence[float]]) -> bool:
    """Whether these right choices give the recorded accuracy for every row; of equal log-probabilities the first."""
    pairs = zip(rows, golds, logprobs, strict=True)
    return all(
        number(row.fields.get("acc"), row.place) == float(values.index(max(values)) == gold)
        for row, gold, values in pairs
    )
