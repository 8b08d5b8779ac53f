"""Log-probabilities of given texts: choices, references, running text.

Rows are padded on the right, so positions and scores do not depend on what shares their batch. Distributions are taken
at the asked places alone, turned into log-probabilities in float32 a fixed number at a time, and let go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lorascope.engines.base import Outcome, Size
from lorascope.engines.holding import Ready
from lorascope.engines.logprob_reading import Reader, places_at_once
from lorascope.engines.logprob_rows import Row, padded
from lorascope.engines.prefix import Prefix
from lorascope.engines.prompts import Pair, encode, start_token
from lorascope.errors import EvaluationError
from lorascope.schema.items import LikelihoodAnswer, LikelihoodItem

__all__ = ["LONGEST_WINDOW", "LikelihoodAsker", "not_finite", "padded", "row_logprobs", "target_logprobs", "windows"]

LONGEST_WINDOW = 2048


def target_logprobs(ready: Ready, pairs: Sequence[Pair]) -> list[float]:
    """Per pair, the summed log-probability (nats, ≤ 0) of its target given its context.

    Raises:
        EvaluationError: the model gives NaN or infinity.
    """
    return [found for (found,) in row_logprobs(ready, [Row(pair.context, (pair.target,)) for pair in pairs])]


def row_logprobs(ready: Ready, rows: Sequence[Row], prefix: Prefix | None = None) -> list[list[float]]:
    """Per row and target, the summed log-probability (nats, ≤ 0) of the target given the row's context.

    With a ``prefix``, with which every context begins, only what follows it is read.

    Raises:
        EvaluationError: the model gives NaN or infinity.
    """
    reader = Reader(ready, prefix=prefix)
    at_once = reader.rows_at_once(rows)
    found: list[list[float]] = []
    for begin in range(0, len(rows), at_once):
        found += _one_pass(reader, rows[begin : begin + at_once])
    if not all(math.isfinite(value) for values in found for value in values):
        raise not_finite(ready)
    return found


def _one_pass(reader: Reader, rows: Sequence[Row]) -> list[list[float]]:
    reading = reader.read(rows)
    asked = [(index, *one) for index, row in enumerate(rows) for one in reader.asked(row)]
    sums = [[0.0] * len(row.targets) for row in rows]
    at_once = places_at_once(reader.ready)
    for begin in range(0, len(asked), at_once):
        part = asked[begin : begin + at_once]
        logits = reading.logits([row for row, *_ in part], [place for _, place, *_ in part])
        tokens = torch.tensor([token for *_, token, _ in part], device=logits.device)[:, None]
        logprobs = torch.log_softmax(logits, dim=-1).gather(1, tokens)[:, 0].tolist()
        for (row, *_, number), logprob in zip(part, logprobs, strict=True):
            sums[row][number] += logprob
    return sums


def not_finite(ready: Ready) -> EvaluationError:
    """The error for a model whose outputs are NaN or infinite."""
    return EvaluationError(
        f"'{ready.subject.name}' gives NaN or infinite values",
        where=str(ready.subject.path),
        remedy="try --dtype float32; if it stays, the weights are damaged",
    )


def windows(ready: Ready, text: str) -> list[Pair]:
    """A text's tokens, each predicted once; see :class:`LikelihoodAsker`.

    Raises:
        EvaluationError: the model is an encoder–decoder.
    """
    if ready.encoder_decoder:
        raise EvaluationError(
            f"'{ready.subject.name}' is an encoder–decoder, where running text has no likelihood",
            remedy="use a task of kind generate or choice",
        )
    window = min(ready.context, LONGEST_WINDOW)
    ids, start = encode(ready, text, special=False), start_token(ready.tokenizer)
    tokens = ids if start is None or ids[:1] == [start] else [start, *ids]
    pairs = []
    begin, end = 1, min(len(tokens), window + 1)
    while begin < len(tokens):
        given = tokens[max(0, end - window - 1) : begin]
        pairs.append(Pair(tuple(given), tuple(tokens[begin:end])))
        begin, end = end, min(len(tokens), end + max(1, window // 2))
    return pairs


class LikelihoodAsker:
    """Log-likelihood of running text, every token predicted once.

    A text begins after the beginning-of-text token (else end-of-text; without either, its first token is not
    predicted). Texts longer than a window, which is the model's context and at most 2,048 tokens, are read in
    overlapping windows: each but the first predicts half a window, given the half before it.
    """

    def __init__(self, ready: Ready, items: Sequence[LikelihoodItem]) -> None:
        """Cut all texts into windows; an EvaluationError when the model is an encoder–decoder."""
        self._ready = ready
        self._items = items
        self._pairs = [windows(ready, item.text) for item in items]
        self.sizes = [
            Size(max((len(pair.context) + len(pair.target) for pair in pairs), default=1), max(1, len(pairs)))
            for pairs in self._pairs
        ]

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Summed log-probability, predicted tokens and UTF-8 bytes of the texts at ``indices``."""
        owners = [index for index in indices for _ in self._pairs[index]]
        scored = target_logprobs(self._ready, [pair for index in indices for pair in self._pairs[index]])
        logprobs = dict.fromkeys(indices, 0.0)
        for owner, logprob in zip(owners, scored, strict=True):
            logprobs[owner] += logprob
        return [Outcome(self._answer(index, logprobs[index])) for index in indices]

    def _answer(self, index: int, logprob: float) -> LikelihoodAnswer:
        predicted = sum(len(pair.target) for pair in self._pairs[index])
        return LikelihoodAnswer(logprob=logprob, tokens=predicted, bytes=len(self._items[index].text.encode("utf-8")))
