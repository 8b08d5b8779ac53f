"""What structured dropout drops: random masks, True where something is dropped.

Every mask is drawn from torch's default generator of its device. That generator is what activation checkpointing saves
and restores around a recomputation, and what a trainer's checkpoint keeps, so a recomputed or resumed pass drops the
same things. In every structure each position is dropped with probability ``rate``; the structures differ in what is
dropped together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorascope.schema.recipe import Structure


def dropped_keys(
    structure: Structure,
    *,
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    rate: float,
    span: float,
    device: torch.device,
) -> Tensor:
    """Keys dropped in attention: bool, shaped to broadcast over (batch, heads, queries, keys).

    ``element``: each pair of query and key in each head by itself. ``column``: a key is dropped for all queries and
    heads of its row of the batch; the shape is (batch, 1, 1, keys). ``span``: as element, in runs of neighbouring keys
    of ``span`` · ``keys`` (arXiv 2403.00812, section 3; the runs are those of DropAttention's windows).
    """
    if structure == "column":
        return _independent((batch, 1, 1, keys), rate, device)
    if structure == "element":
        return _independent((batch, heads, queries, keys), rate, device)
    return _runs((batch, heads, queries), keys, rate, span, device)


def dropped_hidden(
    structure: Structure, *, batch: int, tokens: int, features: int, rate: float, span: float, device: torch.device
) -> Tensor:
    """What is dropped of hidden states: bool, shaped to broadcast over (batch, tokens, features).

    ``element``: each number by itself. ``column``: a feature is dropped for all tokens of a row of the batch.
    ``span``: whole hidden states of runs of neighbouring tokens, ``span`` · ``tokens`` long (HiddenCut's own form).
    """
    if structure == "element":
        return _independent((batch, tokens, features), rate, device)
    if structure == "column":
        return _independent((batch, 1, features), rate, device)
    return _runs((batch,), tokens, rate, span, device).unsqueeze(-1)


def span_length(positions: int, span: float) -> int:
    """Positions in one run: ``span`` as a share of all, at least one."""
    return min(positions, max(1, round(span * positions)))


def _independent(shape: tuple[int, ...], rate: float, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(rate)


def _runs(leading: tuple[int, ...], positions: int, rate: float, span: float, device: torch.device) -> Tensor:
    """Runs that may begin before the first position and end after the last, so that every position is alike.

    Each position is covered by as many possible starts as a run is long; a start has the probability that makes
    ``rate`` of that, 1 − (1 − rate)^(1/length). Runs may overlap, and those at the two ends are cut.
    """
    length = span_length(positions, span)
    starts = _independent((*leading, positions + length - 1), 1.0 - (1.0 - rate) ** (1.0 / length), device)
    before = torch.nn.functional.pad(starts.cumsum(-1, dtype=torch.int32), (1, 0))
    return before[..., length:] > before[..., :-length]
