"""Rows for log-probabilities: a context that is read once, and any number of targets asked after it.

The targets of a row lie one behind the other. Each counts its positions from the end of the context, and attention
keeps them apart: a target sees the context and itself. So the context of a multiple-choice item is encoded once for all
of its choices, and a choice of one token costs nothing beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from lorascope.engines.holding import Ready
from lorascope.engines.loading import first_position

_BRANCH_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Row:
    """Given tokens, and targets whose tokens are predicted after them. A target's last token is never read."""

    context: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]

    @property
    def inputs(self) -> list[int]:
        """What the model reads."""
        return [*self.context, *(token for target in self.targets for token in target[:-1])]

    @property
    def length(self) -> int:
        """How many tokens the model reads."""
        return len(self.context) + sum(len(target) - 1 for target in self.targets)

    @property
    def branches(self) -> bool:
        """Whether two targets are read, so that they have to be kept apart."""
        return sum(len(target) > 1 for target in self.targets) > 1

    def asked(self) -> list[tuple[int, int, int]]:
        """Per predicted token: the place whose distribution predicts it, the token, and the number of its target."""
        starts = accumulate((len(target) - 1 for target in self.targets), initial=len(self.context))
        return [
            (len(self.context) - 1 if step == 0 else start + step - 1, token, number)
            for number, (start, target) in enumerate(zip(starts, self.targets, strict=False))
            for step, token in enumerate(target)
        ]


def shared_rows(pairs: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[Row, list[int]]]:
    """Rows in which (context, target) pairs of equal contexts share one, each with the numbers of its pairs.

    The targets of a row are together no longer than its context, or than 256 tokens where that is more: attention
    grows with the square of a row's length.
    """
    by_context: dict[tuple[int, ...], list[list[tuple[int, tuple[int, ...]]]]] = {}
    for number, (context, target) in enumerate(pairs):
        rows = by_context.setdefault(context, [[]])
        read = sum(len(other) - 1 for _, other in rows[-1]) + len(target) - 1
        if rows[-1] and read > max(len(context), _BRANCH_TOKENS):
            rows.append([])
        rows[-1].append((number, target))
    return [
        (Row(context, tuple(target for _, target in members)), [number for number, _ in members])
        for context, rows in by_context.items()
        for members in rows
    ]


def model_inputs(ready: Ready, rows: Sequence[Row], *, skip: int = 0) -> dict[str, Any]:
    """The arguments with which a decoder reads ``rows``, padded on the right, without the first ``skip`` tokens.

    Skipped tokens are taken as read before; every row begins with them and has more context of its own.
    """
    ids, mask = padded([row.inputs[skip:] for row in rows], ready, side="right")
    if not skip and not any(row.branches for row in rows):
        return {"input_ids": ids, "attention_mask": mask}
    positions, branch = (places[:, skip:] for places in _places(rows, skip + ids.shape[1]))
    return {
        "input_ids": ids,
        "attention_mask": _apart(branch.to(ids.device), ready.plain, before=skip),
        "position_ids": positions.to(ids.device) + first_position(ready.plain),
    }


def _places(rows: Sequence[Row], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Position and branch of every token, (rows, width) each: branch 0 is the context, padding has one of its own."""
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    branch = torch.full((len(rows), width), -1, dtype=torch.long)
    for index, row in enumerate(rows):
        begin = len(row.context)
        positions[index, :begin], branch[index, :begin] = torch.arange(begin), 0
        for number, target in enumerate(row.targets, start=1):
            place = slice(begin, begin + len(target) - 1)
            positions[index, place] = torch.arange(len(target) - 1) + len(row.context)
            branch[index, place] = number
            begin = place.stop
    return positions, branch


def _apart(branch: torch.Tensor, model: Any, *, before: int) -> torch.Tensor:
    """The attention mask (rows, 1, width, before + width): what came before, in the context or in one's own branch.

    Padding sees something as well, for a token that sees nothing would become NaN.
    """
    rows, width = branch.shape
    causal = torch.ones((width, width), dtype=torch.bool, device=branch.device).tril()
    own = causal & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    seen = torch.cat([own.new_ones((rows, width, before)), own], dim=-1)[:, None]
    if model.config._attn_implementation == "sdpa":
        return seen
    lowest = torch.finfo(model.dtype).min
    return torch.zeros(seen.shape, dtype=model.dtype, device=branch.device).masked_fill(~seen, lowest)


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
