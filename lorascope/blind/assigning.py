"""Who rates which item, and on which side each system's answer stands.

Everything here takes its chance from the operating system (``secrets.SystemRandom``); no seed repeats it. Sides come
from constraints of the kind "these two rows have opposite sides" alone, so a study and the same study with all sides
exchanged are equally likely: sides, orders and the pattern over raters say nothing of which system is which.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from lorascope.blind.drawing import Drawn

Cell = tuple[int, int]
"""A rater's place and an item's place in the study: one rated row."""


def share_items(items: Mapping[int, Drawn], raters: int, shared: int | None, chance: random.Random) -> list[list[int]]:
    """The items that each rater rates, by their place in the study.

    ``shared`` None: every rater rates all. Else so many items (all, where there are fewer) are everybody's, the
    others one rater's each; both are spread over pairs of systems and strata, and raters get as many items to within
    one. Which raters get one more of a pair goes by a random order of the pairs: by that of their names, it would tell
    a reader who sorts texts by author which pair is which.
    """
    if shared is None or shared >= len(items):
        return [list(items) for _ in range(raters)]
    spread = list(items)
    chance.shuffle(spread)
    pairs = sorted({items[place].pair for place in spread})
    ranks = dict(zip(pairs, chance.sample(range(len(pairs)), len(pairs)), strict=True))
    spread.sort(key=lambda place: (ranks[items[place].pair], items[place].stratum))
    start = chance.random()
    common = {int((number + start) * len(spread) / shared) for number in range(shared)}
    rest = [place for at, place in enumerate(spread) if at not in common]
    order = chance.sample(range(raters), raters)
    own = {rater: rest[turn::raters] for turn, rater in enumerate(order)}
    return [[spread[at] for at in sorted(common)] + own[rater] for rater in range(raters)]


def balanced_sides(
    shares: Sequence[Sequence[int]], items: Mapping[int, Drawn], chance: random.Random
) -> dict[Cell, bool]:
    """Whether the first system stands on side A, for every rated row.

    To within one, it does so in half of each rater's rows of one pair of systems and of each item's rows over its
    raters, both at the same time; so the counts of both sides over all rows of a rater differ by at most the number of
    pairs. The rows of each of these sets are coupled two by two as opposites, in the rater's sets and in the item's
    sets apart. Then every row has at most two opposites, and going from one to the next either ends or comes back after
    an even number of steps, so that the sides can always be kept; each such chain starts with a toss of a coin.

    Every set is of one pair: were rows of two pairs coupled, the balance would hold only for the true choice of the
    first system in each, and a reader who sorts texts by author could tell which of three systems is which.
    """
    by_rater: dict[Cell, Cell] = {}
    by_item: dict[Cell, Cell] = {}
    raters_of: dict[int, list[Cell]] = {}
    for rater, places in enumerate(shares):
        by_pair: dict[object, list[Cell]] = {}
        for place in places:
            by_pair.setdefault(items[place].pair, []).append((rater, place))
            raters_of.setdefault(place, []).append((rater, place))
        for cells in by_pair.values():
            _couple(cells, by_rater, chance)
    for cells in raters_of.values():
        _couple(cells, by_item, chance)
    sides: dict[Cell, bool] = {}
    for cells in raters_of.values():
        for cell in cells:
            if cell not in sides:
                _colour(cell, chance.random() < 0.5, (by_rater, by_item), sides)
    return sides


def _couple(cells: Iterable[Cell], opposites: dict[Cell, Cell], chance: random.Random) -> None:
    """Make the cells opposites two by two, at random; of an odd number one has none."""
    order = list(cells)
    chance.shuffle(order)
    for one, other in zip(order[0::2], order[1::2], strict=False):
        opposites[one], opposites[other] = other, one


def _colour(start: Cell, side: bool, opposites: Sequence[Mapping[Cell, Cell]], sides: dict[Cell, bool]) -> None:
    open_cells = [(start, side)]
    while open_cells:
        cell, side = open_cells.pop()
        if cell not in sides:
            sides[cell] = side
            open_cells += [(links[cell], not side) for links in opposites if cell in links]
