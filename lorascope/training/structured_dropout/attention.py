"""Attention that drops keys while training, as an implementation that transformers can be told to use.

DropKey removes keys before the softmax, so the rest is normalised anew; DropAttention removes weights after it and
divides by their sum, through which no gradient flows: the same output, another gradient (arXiv 2403.00812, section 3).
A query that would lose every key it may see keeps them all: nothing else is free of NaN, of the future and of padding.

Outside training, and in attention that nothing is dropped in, transformers' SDPA function answers unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lorascope.schema.recipe import AttentionDrop
from lorascope.training.structured_dropout import masks

IMPLEMENTATION = "lorascope_structured_dropout"
MARK = "_lorascope_attention_drop"  # the attribute of an attention module that says what it drops
FEATURE_FROM = 512  # keys from which a CPU is faster with a feature than with a mask (at 256 a little slower)
PENALTY = 1024.0  # taken from a dropped key's logit: exp(−1024) is 0, and float32 still tells logits apart to 1e-4
LARGEST = 32768.0  # of a feature before scaling: float16 ends at 65504
LANES = 8  # head sizes that are no multiple of this lose the fast kernels


def register() -> None:
    """Make the implementation known by its name. Without a mask function of its own every mask would become None."""
    AttentionInterface.register(IMPLEMENTATION, structured_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def kept_keys(visible: Tensor, dropped: Tensor) -> Tensor:
    """Keys each query attends to: those it may see and that are not dropped, or all it may see where none is left.

    Both are bool and broadcast over (batch, heads, queries, keys).
    """
    kept = visible & ~dropped
    return kept | (visible & ~kept.any(-1, keepdim=True))


def structured_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of ``module``, with the drop that it is marked with while it trains.

    ``query`` is (batch, heads, queries, head size); ``key`` and ``value`` may have fewer heads (GQA). Returns
    (batch, queries, heads, head size) and no weights. ``softcap`` among ``options`` has no SDPA: it is computed here.
    """
    drop = _active_drop(module)
    softcap: float | None = options.get("softcap")
    if drop is None and softcap is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal,
            position_bias=position_bias, **options,
        )  # fmt: skip
        return output, None
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    call = _Call(module, query, key, value, dropout, scale, softcap)
    dropped = None if drop is None else call.draw(drop)
    if dropped is not None and attention_mask is None and position_bias is None and call.takes_feature(drop, causal):
        return call.with_feature(dropped), None
    visible, bias = _visible(attention_mask, causal, query, key)
    if position_bias is not None:
        bias = position_bias if bias is None else bias + position_bias
    kept = visible if dropped is None else kept_keys(visible, dropped)
    if drop is not None and drop.kind == "dropattention":
        return call.dense(visible, bias, kept), None
    return (call.fused(kept, bias) if softcap is None else call.dense(kept, bias, None)), None


def _active_drop(module: nn.Module) -> AttentionDrop | None:
    drop: AttentionDrop | None = getattr(module, MARK, None)
    return drop if drop is not None and module.training and drop.rate else None


def _visible(attention_mask: Tensor | None, causal: bool, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor | None]:
    """What each query may see, and what a mask of numbers adds to the logits of that."""
    queries, keys = query.shape[2], key.shape[2]
    if attention_mask is None:
        every = torch.ones((1, 1, queries, keys), dtype=torch.bool, device=query.device)
        return (every.tril() if causal and queries > 1 else every), None
    if attention_mask.dtype == torch.bool:
        return attention_mask, None
    visible = attention_mask > torch.finfo(attention_mask.dtype).min / 2
    return visible, attention_mask.masked_fill(~visible, 0.0)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a module's attention."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    dropout: float
    scale: float
    softcap: float | None

    def draw(self, drop: AttentionDrop) -> Tensor:
        batch, heads, queries, _ = self.query.shape
        return masks.dropped_keys(
            drop.structure, batch=batch, heads=heads, queries=queries, keys=self.key.shape[2], rate=drop.rate or 0.0,
            span=drop.span, device=self.query.device,
        )  # fmt: skip

    def takes_feature(self, drop: AttentionDrop | None, causal: bool) -> bool:
        """Whether dropped columns can be said with a feature, which leaves the kernels their causal flag."""
        queries, keys = self.query.shape[2], self.key.shape[2]
        fits = drop is not None and drop.kind == "dropkey" and drop.structure == "column" and self.softcap is None
        fits = fits and causal and queries == keys > 1 and self.scale * LARGEST >= PENALTY
        return fits and (self.query.is_cuda or keys >= FEATURE_FROM)

    def with_feature(self, dropped: Tensor) -> Tensor:
        """Column DropKey without any mask: a feature that is 1 in queries and −penalty in dropped keys.

        A query all of whose visible keys are dropped loses the same from each of them, which the softmax does not
        see: its drop is undone by itself. ``dropped`` is (batch, 1, 1, keys).
        """
        size = self.query.shape[-1]
        added = LANES - size % LANES
        first = torch.arange(added, device=self.query.device) == 0
        ones = first.to(self.query.dtype).expand(*self.query.shape[:-1], added)
        penalty = (dropped.transpose(-1, -2) & first).to(self.key.dtype) * (-PENALTY / self.scale)
        query = torch.cat([self.query, ones], dim=-1)
        key = torch.cat([self.key, penalty.expand(*self.key.shape[:-1], added)], dim=-1)
        value = functional.pad(self.value, (0, added))
        output, _ = sdpa_attention_forward(
            self.module, query, key, value, None, dropout=self.dropout, scaling=self.scale, is_causal=True
        )
        narrowed: Tensor = output[..., :size]
        return narrowed

    def fused(self, kept: Tensor, bias: Tensor | None) -> Tensor:
        """SDPA over the kept keys alone."""
        output: Tensor
        output, _ = sdpa_attention_forward(
            self.module, self.query, self.key, self.value, kept, dropout=self.dropout, scaling=self.scale,
            is_causal=False, position_bias=bias,
        )  # fmt: skip
        return output

    def dense(self, visible: Tensor, bias: Tensor | None, kept: Tensor | None) -> Tensor:
        """The same written out: softmax over ``visible``, then the weights of ``kept`` divided by their sum."""
        weights = self._weights(visible, bias)
        if kept is not None:
            held = weights * kept
            total = held.detach().sum(-1, keepdim=True)
            # a sum of zero: no key is visible, or what is kept weighs less than float32 can hold; the drop is undone
            weights = torch.where(total > 0, held / total.masked_fill(total == 0, 1.0), weights)
        weights = functional.dropout(weights.to(self.value.dtype), p=self.dropout, training=self.module.training)
        output: Tensor = weights @ repeat_kv(self.value, self._groups())
        return output.transpose(1, 2).contiguous()

    def _weights(self, visible: Tensor, bias: Tensor | None) -> Tensor:
        key = repeat_kv(self.key, self._groups())
        scores = (self.query @ key.transpose(-1, -2)).float() * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if bias is not None:
            scores = scores + bias
        # multiplied once more, so that a query that sees nothing (padding) has weights of zero, as SDPA gives it
        weights: Tensor = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
        return weights * visible

    def _groups(self) -> int:
        return self.query.shape[1] // self.key.shape[1]
