"""Resampling of statistics: bootstrap draws and swaps, in chunks of bounded memory, shared by many measures.

One draw of items serves every measure over them: the draw is a vector of counts, and the sums of all measures under
it are matrix products. Units are items, or clusters of items that share a source (Miller, arXiv 2411.00640).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import FloatArray, IntArray, Scored
from lorascope.measures.significance import bootstrap_p, sign_flip_p

K = TypeVar("K", bound=Hashable)

_CELLS = 4_000_000  # counts held at once: 32 MB, with working copies well below 200 MB
_NON_ADDITIVE_CELLS = 500_000
_NON_ADDITIVE_WORK = 800_000_000  # resamples × statistics that one non-additive measure may cost
_NON_ADDITIVE_RESAMPLES = (500, 2_000)


@dataclass(frozen=True)
class Units:
    """What is drawn: ``count`` units, and the unit of each item (None where every item is its own)."""

    count: int
    of_item: IntArray | None = None

    @classmethod
    def of(cls, items: int, groups: Sequence[Hashable | None] | None) -> Units:
        """Units from one group name per item; an item without a group (None) is a unit of its own."""
        if groups is None:
            return cls(items)
        if len(groups) != items:
            raise DataError(f"{len(groups)} groups for {items} items", remedy="give one group, or None, per item")
        places: dict[Hashable, int] = {}
        keys = [("alone", index) if group is None else ("group", group) for index, group in enumerate(groups)]
        of_item = np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)
        return cls(items) if len(places) == items else cls(len(places), of_item)

    def sums(self, rows: FloatArray) -> FloatArray:
        """Statistics summed within units: (count, k)."""
        if self.of_item is None:
            return rows
        totals = np.zeros((self.count, rows.shape[1]))
        np.add.at(totals, self.of_item, rows)
        return totals

    def item_counts(self, counts: FloatArray) -> FloatArray:
        """Counts of units (r, count) as counts of items (r, n)."""
        return counts if self.of_item is None else counts[:, self.of_item]


def _draw_counts(units: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Chunks (r, units) of how often each unit is drawn when ``units`` are drawn with replacement."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CELLS // units)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, units, size=(rows, units), dtype=np.int32)
        counts = np.empty((rows, units))
        for row, units_drawn in enumerate(drawn):
            counts[row] = np.bincount(units_drawn, minlength=units)
        yield counts


def bootstrap(scores: Mapping[K, Scored], units: Units, *, resamples: int, seed: int) -> dict[K, FloatArray]:
    """Values of each measure under the same ``resamples`` draws of units; NaN where a draw leaves it undefined.

    Measures that are not additive take the first 500 to 2,000 draws alone, fewer the larger they are: each draw costs
    them a pass over all items instead of a sum.
    """
    values: dict[K, list[FloatArray]] = {key: [] for key in scores}
    blocks = {id(s.statistics): units.sums(s.statistics) for s in scores.values() if s.measure.additive}
    done = 0
    for counts in _draw_counts(units.count, resamples, seed):
        sums = {key: counts @ block for key, block in blocks.items()}
        for key, scored in scores.items():
            if scored.measure.additive:
                values[key].append(scored.measure.aggregate(sums[id(scored.statistics)]))
            elif done < _most_resamples(scored):
                values[key].append(_non_additive(scored, units, counts[: _most_resamples(scored) - done]))
        done += len(counts)
    return {key: np.concatenate(parts) for key, parts in values.items()}


def _most_resamples(scored: Scored) -> int:
    fewest, most = _NON_ADDITIVE_RESAMPLES
    return min(max(_NON_ADDITIVE_WORK // scored.statistics.size, fewest), most)


def _non_additive(scored: Scored, units: Units, counts: FloatArray) -> FloatArray:
    resampled = scored.measure.resampled
    assert resampled is not None  # Measure guarantees it where additive is False
    chunk = max(1, _NON_ADDITIVE_CELLS // scored.n)
    parts = [
        resampled(scored.statistics, units.item_counts(counts[start : start + chunk]))
        for start in range(0, len(counts), chunk)
    ]
    return np.concatenate(parts)


def differing_units(base: Scored, adapted: Scored, units: Units) -> IntArray:
    """Units with at least one item whose statistics differ."""
    items = np.flatnonzero((base.statistics != adapted.statistics).any(axis=1))
    return items if units.of_item is None else np.unique(units.of_item[items])


def swapped_differences(
    pairs: Mapping[K, tuple[Scored, Scored]], units: Units, *, resamples: int, seed: int
) -> dict[K, FloatArray]:
    """Adapted minus base of additive measures when each unit's two sides are swapped with probability ½.

    Units in which no pair differs are left out: swapping them changes nothing.
    """
    values: dict[K, list[FloatArray]] = {key: [] for key in pairs}
    changed = np.unique(np.concatenate([differing_units(*pair, units) for pair in pairs.values()]))
    totals = {key: (pair[0].statistics.sum(axis=0), pair[1].statistics.sum(axis=0)) for key, pair in pairs.items()}
    moves = {key: units.sums(pair[1].statistics - pair[0].statistics)[changed] for key, pair in pairs.items()}
    generator = np.random.default_rng([seed, 1])  # another stream than the bootstrap's
    chunk = max(1, _CELLS // max(len(changed), 1))
    for start in range(0, resamples, chunk):
        swaps = _coin_tosses(generator, min(chunk, resamples - start), len(changed))
        for key, (base, adapted) in pairs.items():
            moved = swaps @ moves[key]
            before = base.measure.aggregate(totals[key][0] + moved)
            after = adapted.measure.aggregate(totals[key][1] - moved)
            with np.errstate(invalid="ignore"):
                values[key].append(after - before)
    return {key: np.concatenate(parts) for key, parts in values.items()}


def _coin_tosses(generator: np.random.Generator, rows: int, columns: int) -> FloatArray:
    packed = np.frombuffer(generator.bytes(rows * ((columns + 7) // 8)), dtype=np.uint8).reshape(rows, -1)
    return np.unpackbits(packed, axis=1, count=columns).astype(np.float64)


@dataclass(frozen=True)
class Evidence:
    """Resampled differences of one pair, adapted minus base, and its p-value with the name of the test."""

    draws: FloatArray
    p_value: float
    test: str


def resample_pairs(
    pairs: Mapping[K, tuple[Scored, Scored]], units: Units, *, resamples: int, seed: int
) -> dict[K, Evidence]:
    """Differences under shared draws, with approximate randomisation as test; measures that are not additive take the
    bootstrap's own p-value. Both values of a pair must be defined."""
    if not pairs:
        return {}
    sides = {(side, key): pair[side] for key, pair in pairs.items() for side in (0, 1)}
    values = bootstrap(sides, units, resamples=resamples, seed=seed)
    with np.errstate(invalid="ignore"):  # an overflowed perplexity on both sides: undefined, and left out later
        differences = {key: values[1, key] - values[0, key] for key in pairs}
    additive = {key: pair for key, pair in pairs.items() if pair[0].measure.additive}
    swapped = swapped_differences(additive, units, resamples=resamples, seed=seed) if additive else {}
    found: dict[K, Evidence] = {}
    for key, (base, adapted) in pairs.items():
        if key in swapped:
            assert base.value is not None
            assert adapted.value is not None
            p_value = sign_flip_p(adapted.value - base.value, swapped[key])
            found[key] = Evidence(differences[key], p_value, "approximate randomisation")
        else:
            found[key] = Evidence(differences[key], bootstrap_p(differences[key]), "paired bootstrap")
    return found
