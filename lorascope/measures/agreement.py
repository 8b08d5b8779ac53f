"""Agreement of raters with each other (Krippendorff's α), and of two orderings of the same items (Kendall's τ-b)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from scipy import special, stats

from lorascope.errors import DataError
from lorascope.measures.core import BoolArray, FloatArray, IntArray, Measure, Scored, ratio
from lorascope.measures.intervals import unseen_share
from lorascope.measures.statistics import Interval, estimate

Level = Literal["nominal", "ordinal", "interval"]
RESAMPLES = 2_000
_MOST_RESAMPLED = 500  # items; a resample of a rank correlation costs their square
_NO_PAIRS = "none: no unit has two ratings"
_NO_VARIATION = "none: all ratings are the same value, so that chance agreement is perfect too"


def krippendorff_alpha(ratings: FloatArray, *, level: Level) -> float | None:
    """Krippendorff's α of ratings (raters, units), NaN where not rated: 1 perfect, 0 chance, negative below chance.

    1 − observed / expected disagreement from the coincidence matrix (Krippendorff 2011, Computing Krippendorff's
    alpha-reliability). Units with one rating are left out. ``level`` says how far two values are apart: nominal 0 or
    1, ordinal by the number of ratings from one to the other, interval by their difference; the last two squared.
    None where no unit has two ratings and where all these ratings are the same: there is then nothing to agree about.
    """
    coincidences, values = _coincidences(ratings)
    return _alpha(coincidences, values, level).value if len(coincidences) else None


def alpha_interval(
    ratings: FloatArray,
    *,
    level: Level,
    seed: int,
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """:func:`krippendorff_alpha` with a bootstrap interval over units; ``n`` counts units with two ratings or more.

    ``groups`` names for each unit what it shares with others (answers to one question): groups are then drawn together.

    Units are drawn whole, as in Zapf et al. 2016 (BMC Medical Research Methodology 16, 93): they are the sample, and
    the ratings of one unit depend on each other. Drawing single pairs of ratings instead would take these for
    independent, and holding the expected disagreement fixed would leave out its part. Where the raters always agree no
    draw varies: the lower end is then 1 − u · δ / expected disagreement, u being the share of units that may have gone
    unseen (groups, where given) and δ the largest disagreement of two values. Value None with the reason in ``method``
    where α is undefined.
    """
    coincidences, values = _coincidences(ratings)
    if not len(coincidences):
        return Interval(None, None, None, 0, _NO_PAIRS)
    scored = _alpha(coincidences, values, level)
    if scored.value is None:
        return Interval(None, None, None, scored.n, _NO_VARIATION)
    kept = _groups_of_paired(ratings, groups)
    found = estimate(scored, seed=seed, resamples=resamples, confidence=confidence, groups=kept)
    independent = scored.n if kept is None else len(set(kept))
    if scored.value == 1.0 and found.low is None and independent > 1:
        worst = _worst_alpha(scored, values, level, unseen_share(independent, confidence=confidence))
        return replace(found, low=worst, high=1.0, method=f"score bound, {independent} units alike")
    return found


def _paired(ratings: FloatArray) -> BoolArray:
    """Units with two ratings or more."""
    paired: BoolArray = np.isfinite(np.atleast_2d(ratings)).sum(axis=0) > 1
    return paired


def _groups_of_paired(ratings: FloatArray, groups: Sequence[Hashable] | None) -> list[Hashable] | None:
    if groups is None:
        return None
    paired = _paired(ratings)
    if len(groups) != len(paired):
        raise DataError(f"{len(groups)} groups for {len(paired)} units", remedy="give one per unit")
    return [group for group, kept in zip(groups, paired, strict=True) if kept]


def _coincidences(ratings: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(units, values²) how often two raters of a unit gave each pair of values, and the values (values,).

    Each unit weighs as many as it has ratings; those with fewer than two are left out.
    """
    ratings = np.atleast_2d(np.asarray(ratings, dtype=np.float64))
    ratings = ratings[:, _paired(ratings)]
    values = np.unique(ratings[np.isfinite(ratings)])
    counts = (ratings[:, :, None] == values).sum(axis=0).astype(np.float64)
    pairs = counts[:, :, None] * counts[:, None, :]
    same = np.arange(len(values))
    pairs[:, same, same] -= counts
    coincidences: FloatArray = pairs / (counts.sum(axis=1) - 1)[:, None, None]
    return coincidences.reshape(len(coincidences), len(values) ** 2), values


def _alpha(coincidences: FloatArray, values: FloatArray, level: Level) -> Scored:
    measure = Measure("alpha", "alpha", "-1-1", "higher", additive=True, aggregate=_alpha_of_sums(values, level))
    return Scored(measure, coincidences, f"alpha|{level}")


def _alpha_of_sums(values: FloatArray, level: Level) -> Callable[[FloatArray], FloatArray]:
    def aggregate(sums: FloatArray) -> FloatArray:
        coincidences = sums.reshape(*sums.shape[:-1], len(values), len(values))
        totals = coincidences.sum(axis=-1)
        observed = (coincidences * _disagreement(totals, values, level)).sum(axis=(-2, -1))
        return 1 - ratio(observed, _expected(totals, values, level))

    return aggregate


def _expected(totals: FloatArray, values: FloatArray, level: Level) -> FloatArray:
    """Disagreement to be expected of the same ratings paired at random, on the scale of the coincidences' sum."""
    chance = totals[..., :, None] * totals[..., None, :]
    expected: FloatArray = (chance * _disagreement(totals, values, level)).sum(axis=(-2, -1))
    return np.asarray(expected / (totals.sum(axis=-1) - 1))


def _disagreement(totals: FloatArray, values: FloatArray, level: Level) -> FloatArray:
    """δ² (…, values, values) of every two values, given how many ratings each value has (…, values)."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    # Ordinal: the ratings between two values and half of those at either end, a difference of mid-ranks.
    place = np.cumsum(totals, axis=-1) - totals / 2 if level == "ordinal" else values
    apart: FloatArray = np.square(place[..., :, None] - place[..., None, :])
    return apart


def _worst_alpha(scored: Scored, values: FloatArray, level: Level, share: float) -> float:
    """α if a ``share`` of units disagreed as far as two of the values lie apart, with the same values in all."""
    totals = scored.statistics.sum(axis=0).reshape(len(values), len(values)).sum(axis=1)
    expected = float(_expected(totals, values, level)) / float(totals.sum())
    worst = float(_disagreement(totals, values, level).max())
    return max(1 - share * worst / expected, -1.0)


def kendall_tau_b(
    first: FloatArray, second: FloatArray, *, seed: int, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Kendall's τ-b of two values of each item (items,), −1 to 1, with an interval over items.

    (concordant − discordant pairs) / √(pairs not tied in first · pairs not tied in second) (Kendall 1945). Items with
    a NaN are left out; ``n`` counts the others. Interval: bootstrap up to 500 items; beyond that delete-one jackknife
    on the scale of Fisher's z with Student's t, its degrees of freedom those items less one that differ from the
    commonest value of the side that varies less. None, with the reason in ``method``, for fewer than two items and
    where one side does not vary; no interval where resamples or jackknife do not.
    """
    if first.shape != second.shape:
        raise DataError(f"items do not line up: {len(first)} and {len(second)}", remedy="give one value each per item")
    rows = np.stack([first, second], axis=1)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < 2:
        return Interval(None, None, None, len(rows), "none: fewer than two items")
    measure = Measure(
        "kendall_tau_b", "correlation", "-1-1", "higher", additive=False, aggregate=_tau, resampled=_resampled_tau
    )
    scored = Scored(measure, rows, "kendall_tau_b")
    if scored.value is None:
        return Interval(None, None, None, scored.n, "none: one side does not vary")
    if len(rows) > _MOST_RESAMPLED:
        return _jackknifed_tau(scored.value, rows[:, 0], rows[:, 1], confidence)
    return estimate(scored, seed=seed, resamples=resamples, confidence=confidence)


def _tau(rows: FloatArray) -> FloatArray:
    return np.asarray(stats.kendalltau(rows[:, 0], rows[:, 1]).statistic)


def _resampled_tau(rows: FloatArray, counts: FloatArray) -> FloatArray:
    """τ-b (r,) of the multisets of items that counts (r, items) describe; copies of one item are tied."""
    x, y = (np.sign(side[:, None] - side[None, :]) for side in rows.T)
    agreed, untied_x, untied_y = (((counts @ pairs) * counts).sum(axis=1) for pairs in (x * y, np.abs(x), np.abs(y)))
    return np.clip(ratio(agreed, np.sqrt(untied_x * untied_y)), -1.0, 1.0)


def _jackknifed_tau(value: float, x: FloatArray, y: FloatArray, confidence: float) -> Interval:
    items = len(x)
    # Pairs of each item: concordant less discordant ones, and those that are not tied on either side.
    agreed = sum(_below(a, b) for a, b in ((x, y), (-x, -y))) - sum(_below(a, b) for a, b in ((x, -y), (-x, y)))
    counts = np.stack([agreed, items - _alike(x), items - _alike(y)]).astype(np.float64)
    without = counts.sum(axis=1, keepdims=True) - 2 * counts
    left = ratio(without[0], np.sqrt(without[1] * without[2]))
    informative = items - int(max(_alike(x).max(), _alike(y).max()))
    error = math.sqrt((items - 1) * float(np.var(left))) if np.isfinite(left).all() else 0.0
    if error < 1e-9 or informative < 2 or abs(value) > 1 - 1e-12:
        return Interval(value, None, None, items, "none: leaving out single items does not change it")
    reach = float(special.stdtrit(informative - 1, (1 + confidence) / 2)) * error / (1 - value**2)
    low, high = (math.tanh(math.atanh(value) + end) for end in (-reach, reach))
    return Interval(value, low, high, items, "delete-one jackknife on Fisher's z")


def _alike(values: FloatArray) -> IntArray:
    """(items,) how many items have the same value, each itself included."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    alike: IntArray = counts[place]
    return alike


def _below(x: FloatArray, y: FloatArray) -> IntArray:
    """(items,) how many others are smaller on both sides, by merging: O(n log² n) time and O(n) memory."""
    # Ties in x stand with falling y, so that among earlier items only those of smaller x have a smaller y.
    order = np.lexsort((-y, x))
    ranks = np.unique(y, return_inverse=True)[1][order].astype(np.int64)
    places, span = np.arange(len(ranks)), int(ranks.max()) + 1
    counts = np.zeros(len(ranks), dtype=np.int64)
    half = 1
    while half < len(ranks):
        block = places // (2 * half) * span
        right = places // half % 2 == 1
        earlier = np.sort((block + ranks)[~right])
        found = np.searchsorted(earlier, (block + ranks)[right]) - np.searchsorted(earlier, block[right])
        counts[right] += found
        half *= 2
    below: IntArray = np.empty_like(counts)
    below[order] = counts
    return below
