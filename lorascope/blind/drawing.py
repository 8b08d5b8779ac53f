"""Which items are drawn, and which two systems are compared on each."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from lorascope.blind.candidates import Candidate
from lorascope.blind.strata import Layer

Pair = tuple[str, str]
"""Two systems, the one whose wins are counted first."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn item, its stratum's name and the systems compared on it."""

    candidate: Candidate
    stratum: str
    pair: Pair

    @property
    def answers(self) -> tuple[str, str]:
        """The two answers, first's and second's."""
        first, second = self.pair
        return self.candidate.answers[first], self.candidate.answers[second]

    @property
    def identical(self) -> bool:
        """Whether both systems gave the same text, as shown."""
        return self.answers[0] == self.answers[1]


def allocate(layers: Sequence[Layer], *, total: int, pairs: int, flip_weight: float) -> list[int]:
    """How many items to draw from each stratum: ``total`` in all, never more than a stratum has.

    In proportion to the strata's sizes, with those of flipped items counted ``flip_weight`` times, but at least two
    items for each pair of systems from every stratum (all of it where it has fewer), as far as ``total`` reaches.
    """
    sizes = [len(layer.items) for layer in layers]
    shares = [size * (flip_weight if layer.flipped else 1.0) for layer, size in zip(layers, sizes, strict=True)]
    least = [min(2 * pairs, size) for size in sizes]
    if sum(least) > total:
        least = [0] * len(sizes)
    exact = _filled(shares, least, sizes, total)
    counts = [math.floor(amount + 1e-9) for amount in exact]
    rest = sorted(range(len(sizes)), key=lambda place: (counts[place] - exact[place], place))
    for place in [place for place in rest if counts[place] < sizes[place]][: total - sum(counts)]:
        counts[place] += 1
    return counts


def _filled(shares: Sequence[float], least: Sequence[int], most: Sequence[int], total: int) -> list[float]:
    """Shares scaled by one factor and held between bounds, so that they sum to ``total``; found by bisection."""
    limits = list(zip(shares, least, most, strict=True))

    def at(factor: float) -> list[float]:
        return [min(max(factor * share, low), high) for share, low, high in limits]

    below, above = 0.0, 1.0  # at 1 every stratum is drawn whole: a share is never less than a stratum's size
    for _ in range(100):
        middle = (below + above) / 2
        below, above = (middle, above) if sum(at(middle)) < total else (below, middle)
    return at(above)


def draw(layers: Sequence[Layer], counts: Sequence[int], seed: int) -> list[tuple[Layer, list[Candidate]]]:
    """Items of each stratum, without replacement. This is the only thing that the seed decides."""
    chosen = random.Random(seed)
    return [(layer, chosen.sample(layer.items, count)) for layer, count in zip(layers, counts, strict=True)]


def deal_pairs(
    drawn: Sequence[tuple[Layer, Sequence[Candidate]]], pairs: Sequence[Pair], chance: random.Random
) -> list[Drawn]:
    """Give each item one pair: every pair gets as many items, within each stratum and in all, to within one."""
    order = list(pairs)
    chance.shuffle(order)
    dealt: list[Drawn] = []
    for layer, items in drawn:
        shuffled = list(items)
        chance.shuffle(shuffled)
        dealt += [Drawn(item, layer.name, order[(len(dealt) + at) % len(order)]) for at, item in enumerate(shuffled)]
    return dealt
