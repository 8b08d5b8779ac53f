"""Distributions over the vocabulary at chosen places, without logits for all others.

A model is run for its hidden states, and its head is applied to the asked places alone, a fixed number at a time; so
memory does not grow with vocabulary × length × items. Models that do more to their logits than the head does, found by
a trial on a short text, give logits themselves, for as few rows at once as keep those below a fixed size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lorascope.engines.holding import Ready
from lorascope.engines.logprob_rows import Row, model_inputs, padded
from lorascope.engines.prefix import Prefix

VALUES_AT_ONCE = 2**25
_LOGITS_AT_ONCE = 2**28
_TRIAL_TOKENS = 8
_by_head: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Reader:
    """A model, the state in which it is read, such as with its adapter disabled, and what it has read before."""

    ready: Ready
    state: Callable[[], AbstractContextManager[Any]] = nullcontext
    prefix: Prefix | None = None

    def rows_at_once(self, rows: Sequence[Row], *, readers: int = 1) -> int:
        """How many of ``rows`` may be read in one pass, where as many ``readers`` keep what they have read."""
        if rows and self.ready.follows_length(max(row.length for row in rows)):
            return 1
        if not rows or applies_head_alone(self.ready):
            return max(1, len(rows))
        vocabulary = int(self.ready.plain.config.get_text_config().vocab_size)
        return max(1, _LOGITS_AT_ONCE // (readers * max(row.length for row in rows) * vocabulary))

    def asked(self, row: Row) -> list[tuple[int, int, int]]:
        """As :meth:`Row.asked`; an encoder–decoder's places are those of what it writes."""
        begin = len(row.context) - 1 if self.ready.encoder_decoder else 0
        return [(place - begin, token, number) for place, token, number in row.asked()]

    def read(self, rows: Sequence[Row]) -> Reading:
        """One pass over ``rows``."""
        with self.state():
            if self.ready.encoder_decoder:
                return Reading(self, *_decoder_logits(self.ready, rows), given=True)
            skip = len(self.prefix.tokens) if self.prefix else 0
            inputs = model_inputs(self.ready, rows, skip=skip)
            width = int(inputs["input_ids"].shape[1])
            inputs |= {"past_key_values": self.prefix.cache()} if self.prefix else {"use_cache": False}
            if applies_head_alone(self.ready):
                states = _hidden_states(self.ready, inputs)
                return Reading(self, states, states.shape[1] - width - skip, given=False)
            keep = width + skip - min(len(row.context) for row in rows) + 1
            logits = self.ready.model(**inputs, **_keeping(self.ready, keep)).logits[:, -keep:]
            return Reading(self, logits, keep - width - skip, given=True)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a pass left: logits where ``given``, else hidden states. Place p of a row is at index p + ``shift``."""

    reader: Reader
    states: torch.Tensor
    shift: int
    given: bool

    def logits(self, rows: Sequence[int], places: Sequence[int]) -> torch.Tensor:
        """Logits (n, vocabulary) in float32 at the n places of the rows."""
        device = self.states.device
        index = torch.tensor(places, device=device) + self.shift
        chosen = self.states[torch.tensor(rows, device=device), index]
        if self.given:
            return chosen.float()
        with self.reader.state():
            logits: torch.Tensor = self.reader.ready.plain.get_output_embeddings()(chosen)
        return logits.float()


def places_at_once(ready: Ready) -> int:
    """How many distributions are in memory at once."""
    return max(1, VALUES_AT_ONCE // int(ready.plain.config.get_text_config().vocab_size))


def applies_head_alone(ready: Ready) -> bool:
    """Whether the logits of a decoder are its head applied to its last hidden states, and nothing more.

    Tried once for each model in memory, on a few tokens.
    """
    model = ready.plain
    if model not in _by_head:
        _by_head[model] = _may_apply_head(ready) and _head_gives_logits(ready)
    return _by_head[model]


def _may_apply_head(ready: Ready) -> bool:
    model = ready.plain
    if ready.encoder_decoder or model.base_model is model or model.get_output_embeddings() is None:
        return False
    # Soft caps leave small logits nearly as they are, so that a trial could miss them.
    capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return not capped and "logits_to_keep" in inspect.signature(model.forward).parameters


def _head_gives_logits(ready: Ready) -> bool:
    ids = [number * max(1, ready.rows // _TRIAL_TOKENS) % ready.rows for number in range(_TRIAL_TOKENS)]
    tensor, mask = padded([ids], ready, side="right")
    with torch.inference_mode(), _captured(ready.plain.base_model) as states:
        logits = ready.model(input_ids=tensor, attention_mask=mask, use_cache=False).logits.float()
        if len(states) != 1 or states[0].shape[:2] != logits.shape[:2]:
            return False
        by_head = ready.plain.get_output_embeddings()(states[0]).float()
    if by_head.shape != logits.shape:
        return False
    tolerance = 1e-4 if ready.plain.dtype == torch.float32 else 2e-2
    return bool((by_head - logits).abs().max() <= tolerance * logits.abs().max())


def _hidden_states(ready: Ready, inputs: dict[str, Any]) -> torch.Tensor:
    with _captured(ready.plain.base_model) as states:
        ready.model(**inputs, logits_to_keep=1)
    return states[-1]


@contextmanager
def _captured(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The last hidden states that a module gives in here."""
    found: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        found.append(output[0])

    handle = module.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _keeping(ready: Ready, keep: int) -> dict[str, int]:
    narrowed = "logits_to_keep" in inspect.signature(ready.plain.forward).parameters
    return {"logits_to_keep": keep} if narrowed else {}


def _decoder_logits(ready: Ready, rows: Sequence[Row]) -> tuple[torch.Tensor, int]:
    """Logits of an encoder–decoder that reads contexts and writes targets, one in each row."""
    ids, mask = padded([row.context for row in rows], ready, side="right")
    labels, _ = padded([row.targets[0] for row in rows], ready, side="right")
    read = ready.plain.prepare_decoder_input_ids_from_labels(labels=labels)
    logits = ready.model(input_ids=ids, attention_mask=mask, decoder_input_ids=read, use_cache=False).logits
    return logits[:, -labels.shape[1] :], 0
