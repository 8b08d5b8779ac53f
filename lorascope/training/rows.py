"""Training rows: a prompt and the answer that is to follow it, and the tokens that they become."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from lorascope.errors import DataError
from lorascope.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label that transformers' losses leave out."""


class PromptAnswer(NamedTuple):
    """One row. ``answer`` starts with whatever separates it from the prompt, as a rule a space."""

    prompt: str
    answer: str


def encode_rows(
    rows: Sequence[PromptAnswer], tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings, *, name: str
) -> list[dict[str, list[int]]]:
    """``input_ids``, ``attention_mask`` and ``labels`` of each row, ending with the end-of-text token.

    Prompt and answer are tokenised as one text. The prompt's part is what both that text and the prompt alone begin
    with: a token that reaches over the border belongs to the answer, as it could not be there when the model is asked.

    Raises:
        DataError: no rows, an empty answer, or a row longer than ``max_length``; ``name`` is that of the data set.
    """
    if not rows:
        raise DataError("there is nothing to train or validate on", where=name, remedy="give at least one row")
    return [_encode(row, tokenizer, settings, f"{name}, row {number}") for number, row in enumerate(rows, start=1)]


def _encode(
    row: PromptAnswer, tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings, place: str
) -> dict[str, list[int]]:
    if not row.answer.strip():
        raise DataError("the answer is empty", where=place, remedy="fill it in or leave the row out")
    alone = tokenizer(row.prompt)["input_ids"]
    ids = [*tokenizer(row.prompt + row.answer)["input_ids"]]
    if tokenizer.eos_token_id is not None and ids[-1] != tokenizer.eos_token_id:
        ids.append(tokenizer.eos_token_id)
    if len(ids) > settings.max_length:
        raise DataError(
            f"the row has {len(ids)} tokens, more than max_length = {settings.max_length}",
            where=place,
            remedy="raise max_length, or shorten the row or leave it out",
        )
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, ids, strict=False)))
    ignored = shared if settings.answer_only else 0
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [IGNORED] * ignored + ids[ignored:]}
