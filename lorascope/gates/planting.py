"""Readings of results that never were: the same items drawn anew, without any change or with a drop planted.

No change is made by drawing units (items, or groups of items) with replacement and exchanging base and adapted of
every drawn one with probability ½, so that the spread of the differences stays and their mean goes. All metrics over
the same units share the draws, and so keep what they have in common. Sums alone are kept of each draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from lorascope.gates.judging import BoolArray, FloatArray, quantile
from lorascope.gates.power import right_wrong_bounds
from lorascope.measures.core import Scored
from lorascope.measures.resampling import Units

_CELLS = 2_000_000  # counts held at once: 16 MB, and a few copies of them
_BYTE = 256
_MOVED = 26  # of 256 values of a random byte: about a tenth of the units
MOVED_SHARE = _MOVED / _BYTE
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


@dataclass(frozen=True, eq=False)
class Changes:
    """Improvement of each unit, summed over its items (better is positive), and the items in each unit."""

    sums: FloatArray
    sizes: FloatArray


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


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the drawn units from which mean and spread of a metric follow with any drop, (resamples,) each.

    Over drawn units with the sign S (exchanged or not), the mark M (moved or not), the change D and the size m:
    ΣSD, ΣD², ΣSDm, ΣMSDm, and the sums of the sizes Σm, Σm², ΣMm, ΣMm².
    """

    change: FloatArray
    square: FloatArray
    product: FloatArray
    moved_product: FloatArray
    size: FloatArray
    size_square: FloatArray
    moved_size: FloatArray
    moved_square: FloatArray
    units: int

    def readings(self, drop: float, confidence: float) -> Readings:
        """Mean of the items, after every item of the moved units lost ``drop`` / their share.

        The bounds are as a result has them: a t-interval of 95 %, scaled to one side like any other.
        """
        step = drop / MOVED_SHARE
        total = self.change - step * self.moved_size
        value = total / self.size
        square = self.square - 2 * step * self.moved_product + step**2 * self.moved_square
        product = self.product - step * self.moved_square
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
    parts: list[tuple[FloatArray, ...]] = []
    for counts, exchanged, moved, both in _draws(len(sizes), resamples, seed):
        parts.append((
            exchanged @ signed, counts @ signed**2, exchanged @ (signed * column), both @ (signed * column),
            counts @ column, counts @ column**2, moved @ column, moved @ column**2, counts @ cells, exchanged @ flips,
        ))  # fmt: skip
    whole = [np.concatenate(each) for each in zip(*parts, strict=True)]
    common = [each[:, 0] for each in whole[4:8]]
    sums = [_sums_of(whole[:4], common, place, len(sizes)) for place in range(len(changes))]
    return [_table(each, place, whole[8], whole[9]) for place, each in enumerate(answers)], sums


def _sums_of(own: Sequence[FloatArray], common: Sequence[FloatArray], place: int, units: int) -> Sums:
    change, square, product, moved_product = (each[:, place] for each in own)
    size, size_square, moved_size, moved_square = common
    return Sums(change, square, product, moved_product, size, size_square, moved_size, moved_square, units)


def _cells(answers: Answers) -> FloatArray:
    """Marks of the items that both sides have right, that differ, and that both have wrong, (items, 3)."""
    both, differ = answers.base & answers.adapted, answers.base ^ answers.adapted
    return np.stack([both, differ, ~(both | differ)], axis=1).astype(np.float64)


def _table(answers: Answers, place: int, cells: FloatArray, flips: FloatArray) -> Tables:
    both, differ, neither = (np.rint(cells[:, 3 * place + each]) for each in range(3))
    fixed = np.rint((differ + flips[:, place]) / 2)
    share = (float(answers.base.mean()) + float(answers.adapted.mean())) / 2
    return Tables(both, differ - fixed, fixed, neither, share)


class _Draw(NamedTuple):
    """Per draw and unit, (resamples, units): copies drawn, and sums of their signs, of their marks and of both."""

    counts: FloatArray
    exchanged: FloatArray
    moved: FloatArray
    exchanged_moved: FloatArray


def _draws(units: int, resamples: int, seed: Sequence[int]) -> Iterator[_Draw]:
    """Chunks of draws. Every copy of a unit has a sign ±1 (exchanged or not) and a mark (moved or not) of its own.

    One sign for all copies of a unit would make them one cluster: the mean would vary twice as much as its own
    standard error says, and "no change" would fail far too often.
    """
    generator = np.random.default_rng(list(seed))
    chunk = max(1, _CELLS // units)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, units, size=(rows, units), dtype=np.int32)
        noise = np.frombuffer(generator.bytes(2 * rows * units), dtype=np.uint8).reshape(2, rows, units)
        signs, marks = np.where(noise[0] & 1, 1.0, -1.0), (noise[1] < _MOVED).astype(np.float64)
        found = _Draw(*np.empty((4, rows, units)))
        for row, copies in enumerate(drawn):
            found.counts[row] = np.bincount(copies, minlength=units)
            found.exchanged[row] = np.bincount(copies, weights=signs[row], minlength=units)
            found.moved[row] = np.bincount(copies, weights=marks[row], minlength=units)
            found.exchanged_moved[row] = np.bincount(copies, weights=signs[row] * marks[row], minlength=units)
        yield found


def changes_of(base: Scored, adapted: Scored, units: Units, *, better: int) -> Changes:
    """Each unit's share of the difference: their sum over the number of items is adapted minus base.

    Exact for means. Any other measure that is a function f of summed statistics is taken as linear between its two
    sums, with the gradient in their middle: item i contributes n · ∇f · (adapted statistics − base statistics). What
    is left out is of third order in the difference. ``better`` is 1 or −1, the sign that makes improvements positive.
    """
    middle = (base.statistics.sum(axis=0) + adapted.statistics.sum(axis=0)) / 2
    slope = _gradient(base, middle)
    items = base.n * ((adapted.statistics - base.statistics) @ slope)
    sizes = units.sums(np.ones((base.n, 1)))[:, 0]
    return Changes(better * units.sums(items[:, np.newaxis])[:, 0], sizes)


def _gradient(scored: Scored, place: FloatArray) -> FloatArray:
    """Central differences; a sum that is 0 on both sides has no items that could differ in it."""
    steps = _STEP * np.abs(place)
    shift = np.diag(steps)
    with np.errstate(invalid="ignore", divide="ignore"):
        rise = scored.measure.aggregate(place + shift) - scored.measure.aggregate(place - shift)
        slope = rise / (2 * steps)
    return np.where((steps > 0) & np.isfinite(slope), slope, 0.0)
