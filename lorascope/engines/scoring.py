"""Log-probabilities of given texts: choices, references, running text.

Rows are padded on the right, so positions and scores do not depend on what shares their batch. Logits are kept only
from the first position that is asked for, turned into log-probabilities in float32, and let go with the batch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import torch

from lorascope.engines.base import Outcome, Size
from lorascope.engines.holding import Ready
from lorascope.engines.prompts import Pair, choice_delimiter, encode, encode_pair, prompt_of, start_token
from lorascope.errors import EvaluationError
from lorascope.schema.items import ChoiceAnswer, ChoiceItem, LikelihoodAnswer, LikelihoodItem

LONGEST_WINDOW = 2048
_POSITIONS_AT_ONCE = 512
_LOGITS_AT_ONCE = 2**28


def target_logprobs(ready: Ready, pairs: Sequence[Pair]) -> list[float]:
    """Per pair, the summed log-probability (nats, ≤ 0) of its target given its context.

    Raises:
        EvaluationError: the model gives NaN or infinity.
    """
    found: list[float] = []
    at_once = _rows_at_once(ready, pairs) if pairs else 1
    for begin in range(0, len(pairs), at_once):
        found += _one_pass(ready, pairs[begin : begin + at_once])
    if not all(math.isfinite(value) for value in found):
        raise not_finite(ready)
    return found


def _rows_at_once(ready: Ready, pairs: Sequence[Pair]) -> int:
    """Rows whose logits stay below a fixed size: vocabularies are so large that logits outgrow everything else."""
    longest = max(len(pair.context) + len(pair.target) for pair in pairs)
    vocabulary = int(ready.plain.config.get_text_config().vocab_size)
    return max(1, _LOGITS_AT_ONCE // (longest * vocabulary))


def _one_pass(ready: Ready, pairs: Sequence[Pair]) -> list[float]:
    logits, first = _decoder_logits(ready, pairs) if ready.encoder_decoder else _causal_logits(ready, pairs)
    rows: list[int] = []
    positions: list[int] = []
    tokens: list[int] = []
    for row, (pair, start) in enumerate(zip(pairs, first, strict=True)):
        rows += [row] * len(pair.target)
        positions += range(start, start + len(pair.target))
        tokens += pair.target
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    for begin in range(0, len(rows), _POSITIONS_AT_ONCE):
        part = slice(begin, begin + _POSITIONS_AT_ONCE)
        row_index = torch.tensor(rows[part])
        asked = torch.tensor(tokens[part], device=logits.device)[:, None]
        kept = logits[row_index.to(logits.device), torch.tensor(positions[part], device=logits.device)].float()
        sums.index_add_(0, row_index, torch.log_softmax(kept, dim=-1).gather(1, asked)[:, 0].double().cpu())
    return [float(value) for value in sums]


def not_finite(ready: Ready) -> EvaluationError:
    """The error for a model whose outputs are NaN or infinite."""
    return EvaluationError(
        f"'{ready.subject.name}' gives NaN or infinite values",
        where=str(ready.subject.path),
        remedy="try --dtype float32; if it stays, the weights are damaged",
    )


def _causal_logits(ready: Ready, pairs: Sequence[Pair]) -> tuple[torch.Tensor, list[int]]:
    """Logits of the last positions of the padded batch, and per row where its first asked position is in them."""
    inputs = [[*pair.context, *pair.target][:-1] for pair in pairs]
    ids, mask = padded(inputs, ready, side="right")
    keep = ids.shape[1] - min(len(pair.context) for pair in pairs) + 1
    narrowed = "logits_to_keep" in inspect.signature(ready.plain.forward).parameters
    options = {"logits_to_keep": keep} if narrowed else {}
    logits = ready.model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits[:, -keep:]
    return logits, [len(pair.context) - 1 - (ids.shape[1] - keep) for pair in pairs]


def _decoder_logits(ready: Ready, pairs: Sequence[Pair]) -> tuple[torch.Tensor, list[int]]:
    ids, mask = padded([pair.context for pair in pairs], ready, side="right")
    labels, _ = padded([pair.target for pair in pairs], ready, side="right")
    read = ready.plain.prepare_decoder_input_ids_from_labels(labels=labels)
    logits = ready.model(input_ids=ids, attention_mask=mask, decoder_input_ids=read, use_cache=False).logits
    return logits[:, -labels.shape[1] :], [0] * len(pairs)


def padded(rows: Sequence[Sequence[int]], ready: Ready, *, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, longest), on the model's device."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), ready.pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ready.refuse_unknown(row)
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    return ids.to(ready.device), mask.to(ready.device)


class ChoiceAsker:
    """Multiple choice by log-likelihood, as lm-evaluation-harness scores it; the choices of an item share a batch."""

    def __init__(self, ready: Ready, items: Sequence[ChoiceItem]) -> None:
        """Encode all choices after their contexts."""
        self._ready = ready
        self._pairs = [self._encoded(item) for item in items]
        self.sizes = [
            Size(max(len(pair.context) + len(pair.target) for pair in pairs), len(pairs)) for pairs in self._pairs
        ]

    def _encoded(self, item: ChoiceItem) -> list[Pair]:
        prompt = prompt_of(self._ready, item.context, item.messages)
        delimiter = choice_delimiter(prompt)
        found = [encode_pair(self._ready, prompt, delimiter + choice) for choice in item.choices]
        pairs = [pair for pair in found if pair is not None]
        if len(pairs) != len(item.choices):
            raise EvaluationError(
                f"a choice is longer than the model's context of {self._ready.context} tokens",
                where=f"item {item.item_id}",
                remedy="leave the item out",
            )
        return pairs

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Summed log-probabilities of all choices of the items at ``indices``."""
        found = iter(target_logprobs(self._ready, [pair for index in indices for pair in self._pairs[index]]))
        outcomes = []
        for index in indices:
            logprobs = tuple(next(found) for _ in self._pairs[index])
            outcomes.append(Outcome(ChoiceAnswer(logprobs=logprobs), max(pair.cut for pair in self._pairs[index])))
        return outcomes


class LikelihoodAsker:
    """Log-likelihood of running text, every token predicted once.

    A text begins after the beginning-of-text token (else end-of-text; without either, its first token is not
    predicted). Texts longer than a window, which is the model's context and at most 2,048 tokens, are read in
    overlapping windows: each but the first predicts half a window, given the half before it.
    """

    def __init__(self, ready: Ready, items: Sequence[LikelihoodItem]) -> None:
        """Cut all texts into windows; an EvaluationError when the model is an encoder–decoder."""
        if ready.encoder_decoder:
            raise EvaluationError(
                f"'{ready.subject.name}' is an encoder–decoder, where running text has no likelihood",
                remedy="use a task of kind generate or choice",
            )
        self._ready = ready
        self._items = items
        self._window = min(ready.context, LONGEST_WINDOW)
        self._pairs = [self._windows(encode(ready, item.text, special=False)) for item in items]
        self.sizes = [
            Size(max((len(pair.context) + len(pair.target) for pair in pairs), default=1), max(1, len(pairs)))
            for pairs in self._pairs
        ]

    def _windows(self, ids: list[int]) -> list[Pair]:
        start = start_token(self._ready.tokenizer)
        tokens = ids if start is None or ids[:1] == [start] else [start, *ids]
        pairs = []
        begin, end = 1, min(len(tokens), self._window + 1)
        while begin < len(tokens):
            given = tokens[max(0, end - self._window - 1) : begin]
            pairs.append(Pair(tuple(given), tuple(tokens[begin:end])))
            begin, end = end, min(len(tokens), end + max(1, self._window // 2))
        return pairs

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
