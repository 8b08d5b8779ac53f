"""Packing: several items in one row, each on its own.

A packed row carries ``position_ids`` that start again with each item and no mask of padding. From them transformers
draws the border between items in its causal masks, for eager attention, SDPA and flex attention; flash attention takes
the lengths from them where a batch is a single row. Whether a model keeps items apart is not believed but measured, by
:func:`check_packing`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lorascope.errors import ConfigError
from lorascope.training.encoding_parts import IGNORED, Row

_FIRST, _SECOND = 7, 5
_REMEDY = "leave task.packing out"


@dataclass(frozen=True, slots=True)
class Packed:
    """Packed rows. ``fill`` (0–1] is the share of their places that hold a token, in rows of the full length."""

    rows: list[Row]
    fill: float
    notes: tuple[str, ...]


def pack_rows(rows: Sequence[Row], length: int, *, seed: int) -> Packed:
    """Decoder rows (``input_ids`` and ``labels``) joined into rows of at most ``length`` tokens.

    Long rows first, each where it leaves the least room (best fit decreasing); which of equally long rows come first,
    the order in a packed row and that of the packed rows are drawn with the seed. The label of each item's first token
    is left out: the token before it is another item's. Columns other than the two cannot be packed.

    Raises:
        ConfigError: a row longer than ``length``, or one with other columns (weights, token types).
    """
    for row in rows:
        others = set(row) - {"input_ids", "labels"}
        if others:
            raise ConfigError(f"rows with {', '.join(sorted(others))} cannot be packed", remedy=_REMEDY)
    lengths = [len(row["input_ids"]) for row in rows]
    if lengths and max(lengths) > length:
        raise ConfigError(f"a row of {max(lengths)} tokens does not fit into packed rows of {length}", remedy=_REMEDY)
    draws = np.random.default_rng(seed)
    groups = _best_fit([int(index) for index in draws.permutation(len(rows))], lengths, length)
    packed = [_joined([rows[index] for index in draws.permutation(group)]) for group in groups]
    ordered = [packed[index] for index in draws.permutation(len(packed))]
    fill = sum(lengths) / (length * len(ordered)) if ordered else 1.0
    note = f"{len(rows)} items are packed into {len(ordered)} rows of {length} tokens, which are {fill:.0%} full"
    return Packed(ordered, fill, (note,))


def _best_fit(order: Sequence[int], lengths: Sequence[int], length: int) -> list[list[int]]:
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for index in sorted(order, key=lambda one: -lengths[one]):
        needed = lengths[index]
        at = bisect.bisect_left(rooms, (needed, -1))
        if at < len(rooms):
            room, group = rooms.pop(at)
        else:
            room, group = length, len(groups)
            groups.append([])
        groups[group].append(index)
        if room > needed:
            bisect.insort(rooms, (room - needed, group))
    return groups


def _joined(rows: Sequence[Row]) -> Row:
    joined: Row = {"input_ids": [], "labels": [], "position_ids": []}
    for row in rows:
        joined["input_ids"] += row["input_ids"]
        joined["labels"] += [IGNORED, *row["labels"][1:]]
        joined["position_ids"] += range(len(row["input_ids"]))
    return joined


def check_packing(model: Any) -> None:
    """Refuse a model in which packed items would see each other or count their positions from elsewhere.

    Two items of random tokens are read packed, once with another first item and once alone: the second one's logits
    may not depend on the first. One short pass each, without gradients; neither weights nor random state change.

    Raises:
        ConfigError: an encoder–decoder, a prompt-learning adapter, or a model that fails the measurement.
    """
    name = type(_plain(model)).__name__
    if model.config.is_encoder_decoder:
        raise ConfigError(f"{name} is an encoder–decoder, whose rows are not packed", remedy=_REMEDY)
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        raise ConfigError(
            "the virtual tokens of a prompt method stand before a row, not before each of its packed items",
            remedy=_REMEDY,
        )
    try:
        leak, shift = _measured(model)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"{name} cannot read packed rows: {error}", remedy=_REMEDY) from error
    exact = next(model.parameters()).dtype == torch.float32
    if not leak <= (1e-5 if exact else 1e-2):
        raise ConfigError(f"in {name} packed items see each other", remedy=_REMEDY)
    if not shift <= (1e-2 if exact else 5e-2):
        raise ConfigError(f"{name} gives packed items other positions than single ones", remedy=_REMEDY)


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _measured(model: Any) -> tuple[float, float]:
    """How far an item's logits move with the item before it, and from those it has alone; in units of their size."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, rows, (2 * _FIRST + _SECOND,), generator=draws)
    first, other, second = tokens[:_FIRST], tokens[_FIRST : 2 * _FIRST], tokens[2 * _FIRST :]
    alone = _logits(model, [second])
    beside = _logits(model, [first, second])[_FIRST:]
    beside_other = _logits(model, [other, second])[_FIRST:]
    size = float(alone.abs().max()) or 1.0
    return float((beside - beside_other).abs().max()) / size, float((beside - alone).abs().max()) / size


def _logits(model: Any, items: Sequence[torch.Tensor]) -> torch.Tensor:
    device = model.get_input_embeddings().weight.device
    ids = torch.cat(list(items))[None].to(device)
    positions = torch.cat([torch.arange(len(item)) for item in items])[None].to(device)
    with torch.no_grad(), in_inference(model):
        logits: torch.Tensor = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return logits[0].float()


@contextmanager
def in_inference(model: Any) -> Iterator[None]:
    """The model without its dropouts; each module goes back to the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
