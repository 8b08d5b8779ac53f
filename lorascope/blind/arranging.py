"""The order of a sheet: rated rows at random, the rows that watch over quality among them, far from their originals."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

APART = 10
"""Rated rows that stand between a repeat and its original, where the sheet is long enough."""

RowT = TypeVar("RowT")


def reach(rank: int, rated: int) -> int:
    """Most rated rows that can stand between the rated row at ``rank`` (from 0) and another row of its item."""
    return max(rank, rated - 1 - rank)


@dataclass(frozen=True, slots=True)
class Extra(Generic[RowT]):
    """A row to be put among the rated ones.

    ``rank``: of the rated row of the same item, None where there is none; ``apart``: how many rated rows are to stand
    between the two.
    """

    row: RowT
    rank: int | None
    apart: int = APART


def arrange(rated: Sequence[RowT], extras: Iterable[Extra[RowT]], chance: random.Random) -> list[RowT]:
    """Put the extra rows among the rated ones, which keep their order.

    Each goes to a random place before or after the rated row of its item, at least ``apart`` rated rows away or as
    far as the sheet allows. It comes before its original as readily as after it: a rater who recognises an item cannot
    tell by the order which of its rows counts. Rows that keep far from others stand a little oftener near the ends of
    a sheet than in its middle, the more so the shorter it is.
    """
    before: list[list[RowT]] = [[] for _ in range(len(rated) + 1)]
    for extra in extras:
        gap = chance.choice(_gaps(extra, len(rated)))
        before[gap].insert(chance.randrange(len(before[gap]) + 1), extra.row)
    rows = [row for inserted, own in zip(before, rated, strict=False) for row in (*inserted, own)]
    return rows + before[-1]


def _gaps(extra: Extra[RowT], rated: int) -> list[int]:
    """Gaps that are far enough from the rated row of the same item; gap g has g rated rows before it."""
    if extra.rank is None:
        return list(range(rated + 1))
    apart = min(extra.apart, reach(extra.rank, rated))
    return [*range(extra.rank - apart + 1), *range(extra.rank + apart + 1, rated + 1)]
