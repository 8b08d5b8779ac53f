"""Multiple choice by log-likelihood: the context of an item is encoded once for all of its choices."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch

from lorascope.engines.base import Outcome, Size
from lorascope.engines.holding import Ready
from lorascope.engines.logprob_rows import Row, shared_rows
from lorascope.engines.prefix import Prefix, common_beginning, read_prefix
from lorascope.engines.prompts import Pair, choice_delimiter, encode_pairs, prompt_of
from lorascope.engines.scoring import row_logprobs
from lorascope.errors import EvaluationError
from lorascope.schema.items import ChoiceAnswer, ChoiceItem
from lorascope.schema.suite import SuiteTask

_TOLERANCE = {torch.float32: (1e-4, 1e-5), torch.float64: (1e-4, 1e-5)}
_HALF_TOLERANCE = (0.1, 0.02)
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)
"""What a model may raise that does not take such masks, positions or caches; it is then asked in the plain way."""
_FULL = "full_attention"
_SLIDING = "sliding_attention"


class ChoiceAsker:
    """Summed log-probabilities of choices, as lm-evaluation-harness scores them.

    Choices that follow the same context tokens share one row, and contexts that all begin alike (few-shot examples)
    share that beginning, where the model allows it (see :func:`may_share`) and gives the same scores so: the longest
    item is scored both ways. Otherwise each choice has a row of its own. Contexts differ where they are cut on the left
    to make room for choices of different lengths.
    """

    def __init__(self, ready: Ready, task: SuiteTask, items: Sequence[ChoiceItem]) -> None:
        """Encode all choices after their contexts; an EvaluationError for one that is empty or exceeds the context."""
        self._ready = ready
        self._pairs = [encode_choices(ready, task, item) for item in items]
        longest = max((len(pair.context) + len(pair.target) for pairs in self._pairs for pair in pairs), default=0)
        self._sharing = may_share(ready, longest)
        rows = [row for pairs in self._pairs for row, _ in self._rows(pairs)]
        self._prefix = self._shared_beginning(rows) if self._sharing else None
        branched = [row for row in rows if row.branches and not self._known(row)]
        if branched:
            self._sharing = shares_exactly(ready, max(branched, key=lambda row: row.length))
        self.sizes = [self._size(pairs) for pairs in self._pairs]

    def _shared_beginning(self, rows: Sequence[Row]) -> Prefix | None:
        tokens = common_beginning(pair.context for pairs in self._pairs for pair in pairs if not pair.cut)
        if not tokens:
            return None
        try:
            prefix = read_prefix(self._ready, tokens)
        except _FAILURES:
            return None
        if prefix is None:
            return None
        behind = [row for row in rows if prefix.begins(row.context)]
        longest = max(behind, key=lambda row: (row.branches, row.length))
        return prefix if shares_exactly(self._ready, longest, prefix) else None

    def _size(self, pairs: Sequence[Pair]) -> Size:
        rows = self._rows(pairs)
        return Size(max(self._length(row) for row, _ in rows), len(rows))

    def _length(self, row: Row) -> int:
        """A prefix is encoded once; of what it costs each row, attention to it, an eighth of its tokens is reckoned."""
        known = self._known(row)
        return row.length + 1 - known + known // 8

    def _known(self, row: Row) -> int:
        """How many tokens of a row the prefix has."""
        return len(self._prefix.tokens) if self._prefix and self._prefix.begins(row.context) else 0

    def _rows(self, pairs: Sequence[Pair]) -> list[tuple[Row, list[int]]]:
        if self._sharing:
            return shared_rows((pair.context, pair.target) for pair in pairs)
        return [(Row(pair.context, (pair.target,)), [number]) for number, pair in enumerate(pairs)]

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Summed log-probabilities of all choices of the items at ``indices``."""
        placed = [(index, row, numbers) for index in indices for row, numbers in self._rows(self._pairs[index])]
        logprobs = {index: [0.0] * len(self._pairs[index]) for index in indices}
        for (index, _, numbers), values in zip(placed, self._score([row for _, row, _ in placed]), strict=True):
            for number, value in zip(numbers, values, strict=True):
                logprobs[index][number] = value
        return [
            Outcome(ChoiceAnswer(logprobs=tuple(logprobs[index])), max(pair.cut for pair in self._pairs[index]))
            for index in indices
        ]

    def _score(self, rows: Sequence[Row]) -> list[list[float]]:
        prefix = self._prefix
        if prefix is None:
            return row_logprobs(self._ready, rows)
        behind = [number for number, row in enumerate(rows) if self._known(row)]
        others = [number for number, row in enumerate(rows) if not self._known(row)]
        found = dict(zip(behind, row_logprobs(self._ready, [rows[number] for number in behind], prefix), strict=True))
        found |= zip(others, row_logprobs(self._ready, [rows[number] for number in others]), strict=True)
        return [found[number] for number in range(len(rows))]


def encode_choices(ready: Ready, task: SuiteTask, item: ChoiceItem) -> list[Pair]:
    """An item's choices after its context; an EvaluationError for one that is empty or exceeds the model's context."""
    prompt = prompt_of(ready, item.context, item.messages)
    delimiter = choice_delimiter(prompt, task.delimiter)
    found = encode_pairs(ready, prompt, [delimiter + choice for choice in item.choices])
    both = zip(item.choices, found, strict=True)
    if any(not choice or (pair is None and not choice.strip()) for choice, pair in both):
        raise EvaluationError(
            "a choice is empty, so that there is no token whose probability could be asked",
            where=f"item {item.item_id}",
            remedy="give the choice a text, or leave the item out",
        )
    pairs = [pair for pair in found if pair is not None]
    if len(pairs) != len(item.choices):
        raise EvaluationError(
            f"a choice is longer than the model's context of {ready.context} tokens",
            where=f"item {item.item_id}",
            remedy="leave the item out",
        )
    return pairs


def may_share(ready: Ready, longest: int) -> bool:
    """Whether a model's attention can keep the choices of one row apart, for sequences up to ``longest`` tokens.

    Not so for encoder–decoders, virtual tokens in front of the text, adapters that wake at a token, models that take no
    positions, attention kernels without masks of their own, windows or recurrent states shorter than a sequence, and
    rotary factors that follow the longest sequence of a batch.
    """
    placed = "position_ids" in inspect.signature(ready.plain.forward).parameters
    if ready.encoder_decoder or ready.virtual or not placed or ready.follows_length(longest):
        return False
    if getattr(getattr(ready.model, "active_peft_config", None), "alora_invocation_tokens", None):
        return False
    if ready.plain.config._attn_implementation not in {"sdpa", "eager"}:
        return False
    config = ready.plain.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [_FULL])
    reaches = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return kinds <= {_FULL, _SLIDING} and all(reach is None or reach > longest for reach in reaches)


def shares_exactly(ready: Ready, row: Row, prefix: Prefix | None = None) -> bool:
    """Whether a row's last target of several tokens (else its last) is scored as it is in a row of its own."""
    number = max(range(len(row.targets)), key=lambda number: (len(row.targets[number]) > 1, number))
    try:
        with torch.inference_mode():
            alone = row_logprobs(ready, [Row(row.context, (row.targets[number],))])[0][0]
            shared = row_logprobs(ready, [row], prefix)[0][number]
    except (*_FAILURES, EvaluationError):
        return False
    absolute, relative = _TOLERANCE.get(ready.plain.dtype, _HALF_TOLERANCE)
    return abs(shared - alone) <= absolute + relative * abs(alone)
