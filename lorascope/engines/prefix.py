"""A beginning that many rows have in common, such as few-shot examples, encoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from lorascope.engines.holding import Ready
from lorascope.engines.logprob_rows import padded

LEAST_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens, and per layer of the model their keys and values, (1, heads, tokens, size) each."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def cache(self) -> Cache:
        """The keys and values as a cache for any number of rows, which reads on from them and keeps nothing."""
        return Cache(layers=[_Behind(keys, values) for keys, values in self.layers])

    def begins(self, context: Sequence[int]) -> bool:
        """Whether a context begins with these tokens and goes on."""
        return len(context) > len(self.tokens) and tuple(context[: len(self.tokens)]) == self.tokens


class _Behind(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values. New ones stand behind them for one pass and are not kept."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the prefix and of what follows it."""
        rows = key_states.shape[0]
        keys, values = (kept.expand(rows, -1, -1, -1) for kept in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def common_beginning(contexts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The tokens with which all contexts begin, leaving each at least one of its own; none below 32 of them."""
    different = set(contexts)
    if len(different) < 2:
        return ()
    first, last = min(different), max(different)
    most = min(len(context) for context in different) - 1
    alike = next((place for place in range(most) if first[place] != last[place]), most)
    return first[:alike] if alike >= LEAST_TOKENS else ()


def read_prefix(ready: Ready, tokens: tuple[int, ...]) -> Prefix | None:
    """Encode a beginning; None where the model keeps anything but the keys and values of all its tokens."""
    ids, mask = padded([tokens], ready, side="right")
    with torch.inference_mode():
        kept = ready.plain.base_model(input_ids=ids, attention_mask=mask, use_cache=True).past_key_values
    if type(kept) is not DynamicCache or not all(_keeps(layer, len(tokens)) for layer in kept.layers):
        return None
    return Prefix(tokens, tuple((layer.keys, layer.values) for layer in kept.layers))


def _keeps(layer: Any, tokens: int) -> bool:
    """A layer with a sliding window keeps all tokens while they fit into it; one that shares another's has none."""
    plain = type(layer) in {DynamicLayer, DynamicSlidingWindowLayer}
    return plain and layer.is_initialized and layer.keys.shape[-2] == tokens
