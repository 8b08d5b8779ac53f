"""Multiple choice from the log-probability of each choice, scored as lm-evaluation-harness scores it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import FloatArray, Scored, item_rows, mean_of_items, same_length
from lorascope.measures.registry import define


def score_choices(
    logprobs: Sequence[Sequence[float]], answers: Sequence[int], choices: Sequence[Sequence[str]]
) -> dict[str, Scored]:
    """``accuracy``, ``accuracy_norm``, ``accuracy_bytes`` (0–1) and ``gold_margin`` (nats); higher is better in all.

    ``logprobs[i][j]`` is the summed log-probability (nats) of choice j of item i, ``answers[i]`` the index of the
    right one. The chosen one has the highest log-probability as it is, per character, or per UTF-8 byte of the
    choice's text (without the space before it); of equal ones the first, as in lm-evaluation-harness. ``gold_margin``
    is the answer's log-probability minus its best rival's: positive when right, and it moves before answers flip.

    Raises DataError for items that do not line up, fewer than two choices, an answer outside them, an empty choice,
    and log-probabilities that are NaN or infinite.
    """
    same_length(logprobs=logprobs, answers=answers, choices=choices)
    plain, by_character, by_byte, margins = [], [], [], []
    for index, (row, answer, texts) in enumerate(zip(logprobs, answers, choices, strict=True)):
        values = _checked(index, row, answer, texts)
        plain.append(values.argmax() == answer)
        by_character.append((values / [len(text) for text in texts]).argmax() == answer)
        by_byte.append((values / [len(text.encode("utf-8")) for text in texts]).argmax() == answer)
        margins.append(values[answer] - np.delete(values, answer).max())
    hits = {"accuracy": plain, "accuracy_norm": by_character, "accuracy_bytes": by_byte}
    scored = {
        name: Scored(define(name, mean_of_items, proportion=True), item_rows(right), f"{name}|choice|ties:first")
        for name, right in hits.items()
    }
    scored["gold_margin"] = Scored(define("gold_margin", mean_of_items), item_rows(margins), "gold_margin|choice|mean")
    return scored


def _checked(index: int, row: Sequence[float], answer: int, texts: Sequence[str]) -> FloatArray:
    values = np.asarray(row, dtype=np.float64)
    problem = None
    if len(values) != len(texts) or len(texts) < 2:
        problem = f"{len(values)} log-probabilities for {len(texts)} choices (two or more are needed)"
    elif not 0 <= answer < len(texts):
        problem = f"the answer's index {answer} is not among {len(texts)} choices"
    elif not all(texts):
        problem = "a choice is an empty text"
    elif not np.isfinite(values).all():
        problem = "a log-probability is NaN or infinite"
    if problem:
        raise DataError(problem, where=f"item {index}", remedy="mend or drop the item")
    return values


def chance_levels(choices: Sequence[Sequence[str]]) -> FloatArray:
    """(n,): each item's chance of being right by guessing, one divided by its number of choices."""
    return np.array([1.0 / len(texts) for texts in choices])
