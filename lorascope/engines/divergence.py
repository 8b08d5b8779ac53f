"""KL divergence of an adapted model from the plain base, over the whole vocabulary, on a task's own inputs.

Both models read the same tokens, those of the adapted one's tokenizer. "Before" is always the plain base: with an
adapter on a base in memory, the same model with the adapter disabled, once a trial has shown that it answers as it did
before the adapter came; otherwise a second model beside the first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lorascope.engines.base import Outcome, Size, Subject
from lorascope.engines.holding import Holder, Ready
from lorascope.engines.loading import Need, model_path, need_of
from lorascope.engines.logprob_reading import Reader, Reading, places_at_once
from lorascope.engines.logprob_rows import Row
from lorascope.engines.prompts import Pair, choice_delimiter, encode_pair, prompt_of, reference_separator
from lorascope.engines.scoring import windows
from lorascope.errors import EvaluationError
from lorascope.schema.items import DivergenceAnswer, Item
from lorascope.schema.suite import SuiteTask

_PREDICTING = {"generate", "choice", "likelihood"}
_TRIAL_TOKENS = 8
_EQUAL = 1e-6


@dataclass(frozen=True, slots=True)
class Sides:
    """An adapted model and the plain base, each in the state in which it is read."""

    adapted: Reader
    base: Reader


def open_sides(holder: Holder, beside: Holder, base: Subject, subject: Subject, task: SuiteTask) -> Sides:
    """Both models, ready to be read. ``holder`` has the subject; ``beside`` the base where one model is not enough.

    Raises:
        EvaluationError: the task predicts no text, the two have different vocabularies, or one cannot be loaded.
    """
    if task.kind not in _PREDICTING:
        raise EvaluationError(
            f"a task of kind '{task.kind}' predicts no text, so that no KL divergence from the base is defined",
            where=f"task '{task.name}'",
        )
    base_need, need = need_of(base, task), need_of(subject, task)
    if _on_this_base(base, subject) and base_need == need:
        found = _with_adapter_disabled(holder, base, subject, need)
        if found is not None:
            return found
    adapted, plain = Reader(holder.ready(subject, need)), Reader(beside.ready(base, base_need))
    _refuse_other_vocabulary(plain.ready, adapted.ready)
    _refuse_other_width(_trial(plain), adapted)
    return Sides(adapted, plain)


def _on_this_base(base: Subject, subject: Subject) -> bool:
    same_bytes = base.kind == "model" and subject.base_hash == base.content_hash
    return subject.kind == "adapter" and same_bytes and model_path(subject) == model_path(base)


def _with_adapter_disabled(holder: Holder, base: Subject, subject: Subject, need: Need) -> Sides | None:
    """None where the model without its adapter is not the plain base, as where a method has changed the base itself."""
    before = holder.ready(base, need)
    trial = _trial(Reader(before))
    ready = holder.ready(subject, need)
    _refuse_other_vocabulary(before, ready)
    adapted = Reader(ready)
    _refuse_other_width(trial, adapted)
    if not hasattr(ready.model, "disable_adapter"):
        return None
    if any(getattr(module, "merged", False) for module in ready.model.modules()):
        return None
    plain = Reader(ready, partial(_disabled, ready.model))
    again = _trial(plain)
    scale = max(1.0, float(trial.abs().max()))
    equal = again.shape == trial.shape and bool((again - trial).abs().max() <= _EQUAL * scale)
    return Sides(adapted, plain) if equal else None


@contextmanager
def _disabled(model: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        # What peft may warn of, trained biases that stay in the base, is what the trial looks for.
        warnings.filterwarnings("ignore", message="Careful, disabling adapter layers")
        with model.disable_adapter():
            yield


def _trial(reader: Reader) -> torch.Tensor:
    """Logits (tokens, vocabulary) on a few tokens: the first and the last of the embedding, and some between them."""
    rows = reader.ready.rows
    between = range(0, rows, max(1, rows // _TRIAL_TOKENS))
    tokens = [*range(min(_TRIAL_TOKENS, rows)), *between[:_TRIAL_TOKENS], *range(max(0, rows - _TRIAL_TOKENS), rows)]
    read = tuple(tokens[-reader.ready.context :])
    with torch.inference_mode():
        return _logits(reader, Row(read[:1], ((*read[1:], read[0]),)))


def _logits(reader: Reader, row: Row) -> torch.Tensor:
    return reader.read([row]).logits([0] * len(row.targets[0]), [place for place, *_ in reader.asked(row)])


def _refuse_other_width(base: torch.Tensor, adapted: Reader) -> None:
    width = int(_trial(adapted).shape[-1])
    if width != base.shape[-1]:
        raise EvaluationError(
            f"'{adapted.ready.subject.name}' chooses among {width} tokens and its base among {base.shape[-1]}: between "
            "different vocabularies no KL divergence is defined",
            where=str(adapted.ready.subject.path),
            remedy="compare bits per byte, which needs no common vocabulary",
        )


def _refuse_other_vocabulary(base: Ready, adapted: Ready) -> None:
    """The same number has to be the same token; tokens that only one tokenizer knows are no matter."""
    if base.subject.tokenizer_path == adapted.subject.tokenizer_path:
        return
    known = base.tokenizer.get_vocab()
    for token, number in adapted.tokenizer.get_vocab().items():
        if known.get(token, number) != number:
            raise EvaluationError(
                f"token {token!r} is number {number} for '{adapted.subject.name}' and {known[token]} for its base: "
                "between different vocabularies no KL divergence is defined",
                where=str(adapted.subject.tokenizer_path),
                remedy="compare bits per byte, which needs no common vocabulary",
            )


class DivergenceAsker:
    """KL(adapted‖base) at the positions that predict an item's text.

    These are the tokens of the first reference given the prompt, of the right choice given its context, or all tokens
    of a running text. An item whose text is empty or does not fit into the context has no position (``tokens`` is 0).
    """

    def __init__(self, sides: Sides, task: SuiteTask, items: Sequence[Item]) -> None:
        """Encode all items."""
        self._sides = sides
        self._pairs = [predicted_text(sides.adapted.ready, task, item) for item in items]
        self.sizes = [
            Size(max((len(pair.context) + len(pair.target) for pair in pairs), default=1), max(1, len(pairs)))
            for pairs in self._pairs
        ]

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Summed divergence (nats) and number of positions of the items at ``indices``."""
        owners = [index for index in indices for _ in self._pairs[index]]
        rows = [Row(pair.context, (pair.target,)) for index in indices for pair in self._pairs[index]]
        at_once = min(side.rows_at_once(rows, readers=2) for side in (self._sides.adapted, self._sides.base))
        sums = dict.fromkeys(indices, 0.0)
        for begin in range(0, len(rows), at_once):
            part = slice(begin, begin + at_once)
            for owner, kl in zip(owners[part], row_divergences(self._sides, rows[part]), strict=True):
                sums[owner] += kl
        return [self._outcome(index, sums[index]) for index in indices]

    def _outcome(self, index: int, kl: float) -> Outcome:
        pairs = self._pairs[index]
        tokens = sum(len(pair.target) for pair in pairs)
        return Outcome(DivergenceAnswer(kl=kl, tokens=tokens), max((pair.cut for pair in pairs), default=0))


def predicted_text(ready: Ready, task: SuiteTask, item: Any) -> list[Pair]:
    """The text of an item that is predicted, with what stands before it; nothing where it is empty or does not fit."""
    if task.kind == "likelihood":
        return windows(ready, item.text)
    if task.kind == "choice":
        prompt, right = prompt_of(ready, item.context, item.messages), item.choices[item.answer]
        delimiter = choice_delimiter(prompt, task.delimiter)
    else:
        prompt, right = prompt_of(ready, item.prompt, item.messages), item.references[0]
        delimiter = reference_separator(prompt, right)
    pair = encode_pair(ready, prompt, delimiter + right) if right.strip() else None
    return [] if pair is None else [pair]


def row_divergences(sides: Sides, rows: Sequence[Row]) -> list[float]:
    """Per row, KL(adapted‖base) in nats, ≥ 0, summed over the positions that predict its targets' tokens.

    The sum runs over the whole vocabulary at each position; a token's position is the one whose distribution predicts
    it, the place before the token.

    Raises:
        EvaluationError: a model gives NaN, or the base gives probability 0 where the adapted one does not.
    """
    adapted, base = sides.adapted.read(rows), sides.base.read(rows)
    asked = [(index, place) for index, row in enumerate(rows) for place, *_ in sides.adapted.asked(row)]
    at_once = max(1, places_at_once(sides.adapted.ready) // 2)
    sums = [0.0] * len(rows)
    for begin in range(0, len(asked), at_once):
        part = asked[begin : begin + at_once]
        for (row, _), kl in zip(part, _divergences(adapted, base, part), strict=True):
            sums[row] += kl
    if not all(math.isfinite(kl) for kl in sums):
        raise EvaluationError(
            f"the KL divergence of '{sides.adapted.ready.subject.name}' from '{sides.base.ready.subject.name}' is not "
            "finite",
            where=str(sides.adapted.ready.subject.path),
            remedy="try --dtype float32; if it stays, the weights are damaged or the vocabularies differ",
        )
    # The true value is never negative; its rounding may be.
    return [max(0.0, kl) for kl in sums]


def _divergences(adapted: Reading, base: Reading, asked: Sequence[tuple[int, int]]) -> list[float]:
    rows, places = [row for row, _ in asked], [place for _, place in asked]
    new = torch.log_softmax(adapted.logits(rows, places), dim=-1)
    old = torch.log_softmax(base.logits(rows, places), dim=-1)
    # A token that the adapted model rules out adds nothing, even where the base rules it out too (∞ − ∞).
    terms = torch.where(new.isneginf(), 0.0, new.exp() * (new - old))
    found: list[float] = terms.sum(dim=-1).tolist()
    return found
