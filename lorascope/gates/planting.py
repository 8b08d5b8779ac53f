"""Readings of results that never were: the same items drawn anew, without any change or with a drop planted.

No change is made by drawing units (items, or groups of items) with replacement and exchanging base and adapted of
every drawn one with probability ½, so that the spread of the differences stays and their mean goes. All metrics over
the same units share the draws, and so keep what they have in common. Sums alone are kept of each draw.

A drop makes answers worthless: every drawn item, in a group or not, loses all that its score can lose with the chance
that makes the drop. So it is the share of worthless answers that grows with the drop, and not what each of them loses:
a step that grew without end would carry its own spread with it, and no drop however large would be found for certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from lorascope.gates.judging import BoolArray, FloatArray, quantile
from lorascope.gates.power import right_wrong_bounds
from lorascope.measures.core import IntArray, Scored, mean_of_items
from lorascope.measures.resampling import Units

_CELLS = 2_000_000  # counts held at once: 16 MB, and a few copies of them
_STEP = 1e-4


class Readings(NamedTuple):
    """Improvements (better is positive) with their one-sided bounds, one entry a resample."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, eq=False)
class Answers:
    """Right and wrong answers of both sides, (items,) each."""

    base: BoolArray
    adapted: BoolArray

    @property
    def share(self) -> float:
        """Share of right answers where nothing changed, 0–1."""
        return (float(self.base.mean()) + float(self.adapted.mean())) / 2


@dataclass(frozen=True, eq=False)
class Changes:
    """Improvement of each unit, summed over its items (better is positive), and the items in each unit.

    ``room`` is what each item can lose with the base's answer and with the adapted checkpoint's, (items, 2), the items
    in the order of their units; ``drops`` are planted as far as that goes, in the scale of the mean over items.
    """

    sums: FloatArray
    sizes: FloatArray
    room: FloatArray | None = None
    drops: tuple[float, ...] = ()

    @property
    def most(self) -> float:
        """The drop with which everything is lost."""
        return 0.0 if self.room is None else float(self.room.mean())

    @property
    def chances(self) -> dict[float, float]:
        """The chance of each item to become worthless, by the drops that are not more than there is to lose."""
        return {drop: drop / self.most for drop in self.drops if 0 < drop <= self.most}


@dataclass(frozen=True, eq=False)
class Tables:
    """Right and wrong answers in every draw, without any change: counts of items, (resamples,) each."""

    both: FloatArray
    broken: FloatArray
    fixed: FloatArray
    neither: FloatArray
    right_share: float
    """Share of right answers where nothing changed, 0–1."""

    def readings(self, confidence: float) -> Readings:
        """Newcombe's paired bounds of each table."""
        return Readings(*right_wrong_bounds(self.both, self.broken, self.fixed, self.neither, confidence))

    def with_drop(self, drop: float, generator: np.random.Generator) -> Tables | None:
        """The same with right answers of the adapted side turned wrong at random, ``drop`` of all items on average.

        None where there are not so many right answers.
        """
        if drop > self.right_share:
            return None
        chance = drop / self.right_share
        lost = generator.binomial(self.both.astype(np.int64), chance).astype(np.float64)
        undone = generator.binomial(self.fixed.astype(np.int64), chance).astype(np.float64)
        return Tables(
            self.both - lost, self.broken + lost, self.fixed - undone, self.neither + undone, self.right_share
        )


class Losses(NamedTuple):
    """What a drop takes from the drawn units, (resamples,) each: with the loss L of a unit ΣL, ΣL², ΣSDL and ΣLm."""

    drop: float
    total: FloatArray
    square: FloatArray
    cross: FloatArray
    product: FloatArray


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the drawn units from which mean and spread of a metric follow, (resamples,) each.

    Over drawn units with the sign S (exchanged or not), the change D and the size m: ΣSD, ΣD², ΣSDm, Σm and Σm².
    """

    change: FloatArray
    square: FloatArray
    product: FloatArray
    size: FloatArray
    size_square: FloatArray
    units: int
    losses: tuple[Losses, ...] = ()

    def readings(self, confidence: float, lost: Losses | None = None) -> Readings:
        """Mean of the items, without any change or after the losses of a drop.

        The bounds are a t-interval of 95 %, scaled to one side: quicker than a result's own bootstrap, and close to it.
        """
        total, square, product = self.change, self.square, self.product
        if lost is not None:
            total, square = total - lost.total, square - 2 * lost.cross + lost.square
            product = product - lost.product
        value = total / self.size
        residual = np.maximum(square - 2 * value * product + value**2 * self.size_square, 0.0)
        # Sums of squares that cancel leave rounding behind, which must not pass for variance.
        residual = np.where(residual <= 1e-12 * np.maximum(square, 1e-300), 0.0, residual)
        freedom = max(self.units - 1, 1)
        reach = quantile(confidence) * float(special.stdtrit(freedom, 0.975)) / quantile(0.975)
        half = reach * np.sqrt(residual * self.units / freedom) / self.size
        return Readings(value, value - half, value + half)


def draw(
    answers: Sequence[Answers], changes: Sequence[Changes], *, resamples: int, seed: Sequence[int]
) -> tuple[list[Tables], list[Sums]]:
    """Draw the units that all of these share, and keep the sums of each metric."""
    sizes = changes[0].sizes if changes else np.ones(len(answers[0].base))
    signed = np.stack([each.sums for each in changes], axis=1) if changes else np.empty((len(sizes), 0))
    cells = np.concatenate([_cells(each) for each in answers], axis=1) if answers else np.empty((len(sizes), 0))
    flips = np.stack([each.adapted.astype(float) - each.base for each in answers], axis=1) if answers else cells
    column = sizes[:, np.newaxis]
    generator = np.random.default_rng([*seed, 1])
    parts: list[tuple[FloatArray, ...]] = []
    lost: list[list[list[Losses]]] = [[] for _ in changes]
    for each in _draws(len(sizes), int(sizes.sum()), resamples, seed):
        parts.append((
            each.exchanged @ signed, each.counts @ signed**2, each.exchanged @ (signed * column),
            each.counts @ column, each.counts @ column**2, each.counts @ cells, each.exchanged @ flips,
        ))  # fmt: skip
        if any(change.chances for change in changes):
            items = _items_of(each, sizes.astype(np.int64), generator)
            for place, change in enumerate(changes):
                lost[place].append(list(_losses(change, each, items)))
    whole = [np.concatenate(each) for each in zip(*parts, strict=True)]
    size, size_square = (each[:, 0] for each in whole[3:5])
    sums = []
    for place, losses in enumerate(lost):
        own, square, product = (each[:, place] for each in whole[:3])
        sums.append(Sums(own, square, product, size, size_square, len(sizes), _all_chunks(losses)))
    return [_table(each, place, whole[5], whole[6]) for place, each in enumerate(answers)], sums


def _all_chunks(chunks: Sequence[Sequence[Losses]]) -> tuple[Losses, ...]:
    """The losses of each drop over all chunks of draws."""
    return tuple(
        Losses(same[0].drop, *(np.concatenate(each) for each in zip(*(one[1:] for one in same), strict=True)))
        for same in zip(*chunks, strict=True)
    )


def _cells(answers: Answers) -> FloatArray:
    """Marks of the items that both sides have right, that differ, and that both have wrong, (items, 3)."""
    both, differ = answers.base & answers.adapted, answers.base ^ answers.adapted
    return np.stack([both, differ, ~(both | differ)], axis=1).astype(np.float64)


def _table(answers: Answers, place: int, cells: FloatArray, flips: FloatArray) -> Tables:
    both, differ, neither = (np.rint(cells[:, 3 * place + each]) for each in range(3))
    fixed = np.rint((differ + flips[:, place]) / 2)
    return Tables(both, differ - fixed, fixed, neither, answers.share)


class _Draw(NamedTuple):
    """Units drawn with the signs of these copies, and per unit the copies and the sum of their signs."""

    drawn: IntArray
    signs: FloatArray
    counts: FloatArray
    exchanged: FloatArray


def _draws(units: int, items: int, resamples: int, seed: Sequence[int]) -> Iterator[_Draw]:
    """Chunks of draws, all (resamples, units). Every copy of a unit has a sign ±1 (exchanged or not) of its own.

    One sign for all copies of a unit would make them one cluster: the mean would vary twice as much as its own
    standard error says, and "no change" would fail far too often.
    """
    generator = np.random.default_rng(list(seed))
    chunk = max(1, _CELLS // max(units, items))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, units, size=(rows, units), dtype=np.int64)
        noise = np.frombuffer(generator.bytes(rows * units), dtype=np.uint8).reshape(rows, units)
        signs = np.where(noise & 1, 1.0, -1.0)
        counts, exchanged = np.empty((2, rows, units))
        for row, copies in enumerate(drawn):
            counts[row] = np.bincount(copies, minlength=units)
            exchanged[row] = np.bincount(copies, weights=signs[row], minlength=units)
        yield _Draw(drawn, signs, counts, exchanged)


class _Items(NamedTuple):
    """The items of all drawn copies: the copy's place among the draws, the item's place, and its random number."""

    copy: IntArray
    item: IntArray
    number: FloatArray


def _items_of(draws: _Draw, sizes: IntArray, generator: np.random.Generator) -> _Items:
    units = draws.drawn.ravel()
    own = sizes[units]
    copy = np.repeat(np.arange(len(units)), own)
    within = np.arange(len(copy)) - np.repeat(np.cumsum(own) - own, own)
    item = (np.cumsum(sizes) - sizes)[units][copy] + within
    return _Items(copy, item, generator.random(len(copy)))


def _losses(change: Changes, draws: _Draw, items: _Items) -> Iterator[Losses]:
    """The losses of each drop. An item that a drop makes worthless is so after every larger drop, too."""
    rows, units = draws.drawn.shape
    room, chances = change.room, change.chances
    if room is None or not chances:
        return
    moved = np.flatnonzero(items.number < max(chances.values()))
    copy, number = items.copy[moved], items.number[moved]
    amount = room[items.item[moved], (draws.signs.ravel()[copy] > 0).astype(np.int64)]
    signed, sizes = draws.signs.ravel(), change.sizes
    for drop, chance in chances.items():
        hit = number < chance
        by_copy = np.bincount(copy[hit], weights=amount[hit], minlength=rows * units)
        losing = np.flatnonzero(by_copy)
        row, unit, loss = losing // units, draws.drawn.ravel()[losing], by_copy[losing]
        cross, product = signed[losing] * change.sums[unit] * loss, sizes[unit] * loss
        total, square, crossed, weighed = (
            np.bincount(row, weights=each, minlength=rows).astype(np.float64)
            for each in (loss, loss**2, cross, product)
        )
        yield Losses(drop, total, square, crossed, weighed)


def changes_of(
    base: Scored,
    adapted: Scored,
    units: Units,
    *,
    better: int,
    end: float | None = None,
    drops: Sequence[float] = (),
) -> Changes:
    """Each unit's share of the difference: their sum over the number of items is adapted minus base.

    Exact for means. Any other measure that is a function f of summed statistics is taken as linear between its two
    sums, with the gradient in their middle: item i contributes n · ∇f · (adapted statistics − base statistics). What
    is left out is of third order in the difference. ``better`` is 1 or −1, the sign that makes improvements positive.

    ``end`` is the worst value of the scale. An item of a mean can lose what lies between its score and the end, one of
    any other measure an equal share of what the whole can lose. On a scale without such an end (None) it is twice the
    largest of the ``drops`` to be planted, so that this one takes half of the items.
    """
    middle = (base.statistics.sum(axis=0) + adapted.statistics.sum(axis=0)) / 2
    slope = _gradient(base, middle)
    items = base.n * ((adapted.statistics - base.statistics) @ slope)
    sizes = units.sums(np.ones((base.n, 1)))[:, 0]
    room = _room(base, adapted, slope, better, end, drops)
    if units.of_item is not None:
        room = room[np.argsort(units.of_item, kind="stable")]
    return Changes(better * units.sums(items[:, np.newaxis])[:, 0], sizes, room, tuple(drops))


def _room(
    base: Scored, adapted: Scored, slope: FloatArray, better: int, end: float | None, drops: Sequence[float]
) -> FloatArray:
    """What each item can lose, with the answer of either side; (items, 2)."""
    if end is None:
        return np.full((base.n, 2), 2 * max(drops, default=0.0))
    if base.measure.aggregate is mean_of_items:
        left = [(each.statistics[:, 0] - end * each.statistics[:, 1]) * slope[0] for each in (base, adapted)]
        return np.asarray(np.maximum(better * base.n * np.stack(left, axis=1), 0.0))
    values = [each.value for each in (base, adapted)]
    left_over = [0.0 if value is None else max(better * (value - end), 0.0) for value in values]
    return np.full((base.n, 2), sum(left_over) / 2)


def _gradient(scored: Scored, place: FloatArray) -> FloatArray:
    """Central differences; a sum that is 0 on both sides has no items that could differ in it."""
    steps = _STEP * np.abs(place)
    shift = np.diag(steps)
    with np.errstate(invalid="ignore", divide="ignore"):
        rise = scored.measure.aggregate(place + shift) - scored.measure.aggregate(place - shift)
        slope = rise / (2 * steps)
    return np.where((steps > 0) & np.isfinite(slope), slope, 0.0)
