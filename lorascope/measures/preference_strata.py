"""Means over items drawn by strata, with intervals that hold for few items, many ties and small strata.

A percentile bootstrap of items is not used here: it is too short for strata of few items, and of width 0 where all
of them agree. The variance is written down instead, and joined to Wilson's interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from scipy import special

from lorascope.errors import DataError
from lorascope.measures.core import BoolArray, FloatArray, IntArray
from lorascope.measures.intervals import FEW_UNITS, Bounds

RATERS_AS_CLUSTERS = 5
"""From this many raters on, their own variation can be estimated and enters the interval."""
_SMALL_STRATUM = 5


@dataclass(frozen=True, eq=False)
class Strata:
    """Which stratum each item was drawn from, and how many items each stratum had to draw from.

    ``of_item`` (items,) holds places in ``populations`` (strata,), which are counts of items above 0. An item weighs
    population / items of its stratum; a stratum without items says nothing and carries no weight.
    """

    of_item: IntArray
    populations: FloatArray

    @classmethod
    def of(cls, names: Sequence[str], populations: Mapping[str, float]) -> Strata:
        """From the stratum's name of each item; DataError for a name without a population above 0."""
        unknown = sorted({name for name in names if not populations.get(name, 0) > 0})
        if unknown:
            raise DataError(f"no population for stratum {unknown[0]!r}", remedy="give each stratum's number of items")
        places = {name: place for place, name in enumerate(populations)}
        of_item = np.array([places[name] for name in names], dtype=np.int64)
        return cls(of_item, np.array(list(populations.values()), dtype=np.float64))

    @classmethod
    def single(cls, items: int) -> Strata:
        """All items in one stratum: every item weighs the same."""
        return cls(np.zeros(items, dtype=np.int64), np.array([float(max(items, 1))]))

    @cached_property
    def counts(self) -> IntArray:
        """Items of each stratum (strata,)."""
        return np.bincount(self.of_item, minlength=len(self.populations)).astype(np.int64)

    @cached_property
    def shares(self) -> FloatArray:
        """Weight of each stratum (strata,): its share of the population, 0 without items; sum 1."""
        sizes = np.where(self.counts > 0, self.populations, 0.0)
        shares: FloatArray = sizes / sizes.sum()
        return shares

    @cached_property
    def weights(self) -> FloatArray:
        """Weight of each item (items,), sum 1."""
        weights: FloatArray = (self.shares / np.maximum(self.counts, 1))[self.of_item]
        return weights

    @property
    def units(self) -> float:
        """Items of equal weight that would be as informative: (Σw)² / Σw² (Kish 1965, Survey Sampling, 11.7)."""
        return float(1 / np.square(self.weights).sum())

    def kept(self, items: BoolArray) -> Strata:
        """The same strata with some of the items."""
        return Strata(self.of_item[items], self.populations)


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate, with its degrees of freedom (Satterthwaite; at least 1)."""

    variance: float
    degrees: float


def item_means(votes: FloatArray) -> FloatArray:
    """Mean over raters (items,) of votes (raters, items); NaN where nobody voted."""
    given = np.isfinite(votes)
    totals = np.where(given, votes, 0.0).sum(axis=0)
    means: FloatArray = np.divide(totals, given.sum(axis=0), out=np.full(totals.shape, np.nan), where=given.any(axis=0))
    return means


def rated(votes: FloatArray, strata: Strata | None) -> tuple[FloatArray, Strata, BoolArray]:
    """Votes (raters, items) and strata of the items with a vote, and which these are of the items given (items,)."""
    votes = np.atleast_2d(np.asarray(votes, dtype=np.float64))
    strata = Strata.single(votes.shape[1]) if strata is None else strata
    if len(strata.of_item) != votes.shape[1]:
        raise DataError(f"{len(strata.of_item)} strata for {votes.shape[1]} items", remedy="give one per item")
    kept: BoolArray = np.asarray(np.isfinite(votes).any(axis=0))
    return votes[:, kept], strata.kept(kept), kept


def spread_of_mean(votes: FloatArray, strata: Strata) -> Spread:
    """Variance of the weighted mean over items, Σ_h W_h · mean_h, each item being its raters' mean.

    ``votes`` (raters, items), NaN where not given; every item has a vote and there are at least two items. The target
    is the mean over items (and, from five raters on, raters) like these. Terms:

    * Σ W_h² s_h² / n_h within strata. A variance from one or two items is none: strata of fewer than five are joined
      for s² (collapsed strata, Cochran 1977, Sampling Techniques, 5A.12), which errs towards long intervals.
    * Σ W_h (mean_h − mean)² / N between strata, since the population of N items is itself a sample (Cochran, 12.2).
    * From five raters on σ² Σ_r c_r² for the raters: c_r is the share of the weight that a rater carries, σ² the
      variance of raters at the same items. Fewer raters tell too little of it: the interval then speaks of these.
    """
    values = item_means(votes)
    pieces = _within_strata(values, strata)
    variance = sum(piece for piece, _ in pieces) + _between_strata(values, strata)
    if np.isfinite(votes).any(axis=1).sum() >= RATERS_AS_CLUSTERS:
        raters = _between_raters(votes, values, strata)
        variance += raters.variance
        pieces.append((raters.upper, raters.degrees))
    squares = sum(piece**2 / degrees for piece, degrees in pieces)
    if squares == 0:
        return Spread(variance, sum(degrees for _, degrees in pieces))
    return Spread(variance, sum(piece for piece, _ in pieces) ** 2 / squares)


def _within_strata(values: FloatArray, strata: Strata) -> list[tuple[float, float]]:
    """(variance, degrees of freedom) of each stratum, or of those joined."""
    counts, shares = strata.counts, strata.shares
    group = _joined_strata(counts)
    of_item = group[strata.of_item]
    items = np.bincount(of_item, minlength=len(counts))
    means = np.bincount(of_item, weights=values, minlength=len(counts)) / np.maximum(items, 1)
    squares = np.bincount(of_item, weights=np.square(values - means[of_item]), minlength=len(counts))
    factor = np.divide(shares**2, counts, out=np.zeros(len(counts)), where=counts > 0)
    coefficients = np.bincount(group, weights=factor, minlength=len(counts))
    return [
        (float(coefficients[one] * squares[one] / (items[one] - 1)), float(items[one] - 1))
        for one in np.flatnonzero(items)
    ]


def _joined_strata(counts: IntArray) -> IntArray:
    """(strata,): the group each stratum's variance is taken from; each group has five items, if there are so many."""
    group = np.arange(len(counts))
    small = np.flatnonzero((counts > 0) & (counts < _SMALL_STRATUM))
    large = np.flatnonzero(counts >= _SMALL_STRATUM)
    if len(small):
        group[small] = small[0]
        if len(large) and counts[small].sum() < _SMALL_STRATUM:
            group[small] = large[np.argmin(counts[large])]
    return group


def _between_strata(values: FloatArray, strata: Strata) -> float:
    shares = strata.shares
    sums = np.bincount(strata.of_item, weights=values, minlength=len(shares))
    means = sums / np.maximum(strata.counts, 1)
    population = strata.populations[strata.counts > 0].sum()
    return float((shares * np.square(means - shares @ means)).sum() / population)


@dataclass(frozen=True)
class _Raters:
    """The raters' part: unbiased ``variance``, not below 0; ``upper`` still holds the residual noise."""

    variance: float
    upper: float
    degrees: float


def _between_raters(votes: FloatArray, values: FloatArray, strata: Strata) -> _Raters:
    """Variance through the choice of raters, from a model vote = item + rater + residual fitted with item weights.

    Two-way clustering (Cameron, Gelbach and Miller 2011) would take away each vote's whole variance instead, and with
    it a share 1 / raters of the items' own: too short with a handful of raters. Here the raters' effects solve the
    weighted normal equations after the items are eliminated, and the residual's part in their spread is taken away
    (moments, Searle, Casella and McCulloch 1992, Variance Components, ch. 5).
    """
    given = np.isfinite(votes)
    rated = given.any(axis=1)
    votes, given = votes[rated], given[rated]
    per_item = given.sum(axis=0)
    weights = strata.weights
    carried = (given * (weights / per_item)).sum(axis=1)
    contrasts = np.where(given, votes - values, 0.0)
    inverse = np.linalg.pinv(_laplacian(given, weights, per_item), hermitian=True, rcond=1e-10)
    rank = round(float(np.trace(inverse @ _laplacian(given, weights, per_item))))
    residual_degrees = int(given.sum()) - given.shape[1] - rank
    if rank == 0 or residual_degrees < 1:
        return _raters_apart(votes, given, weights, per_item, carried)
    effects = inverse @ (contrasts @ weights)
    fitted = effects[:, None] - (given * effects[:, None]).sum(axis=0) / per_item
    residual = float(np.square(np.where(given, contrasts - fitted, 0.0)).sum() / residual_degrees)
    observed = float(np.square(effects).sum() / rank)
    noise = residual * float(np.trace(inverse @ _laplacian(given, weights**2, per_item) @ inverse)) / rank
    reach = float(np.square(carried).sum())
    return _Raters(reach * max(observed - noise, 0.0), reach * observed, float(rank))


def _laplacian(given: BoolArray, weights: FloatArray, per_item: IntArray) -> FloatArray:
    """Normal equations of the raters (raters, raters): Σ_i w_i (diag(g_i) − g_i g_iᵀ / m_i)."""
    shown = given.astype(np.float64)
    laplacian: FloatArray = np.diag(shown @ weights) - (shown * (weights / per_item)) @ shown.T
    return laplacian


def _raters_apart(
    votes: FloatArray, given: BoolArray, weights: FloatArray, per_item: IntArray, carried: FloatArray
) -> _Raters:
    """Where raters share no items: raters as clusters, in which items and raters cannot be told apart."""
    mean = float((np.where(given, votes, 0.0) * (weights / per_item)).sum())
    sums = np.where(given, votes - mean, 0.0) @ (weights / per_item)
    raters = len(carried)
    variance = float(np.square(sums).sum() * raters / (raters - 1))
    return _Raters(variance, variance, float(raters - 1))


@dataclass(frozen=True)
class Variety:
    """How much the items tell about their own variation.

    ``informative`` items differ from the commonest score of their stratum. ``reach``, 0.5–1 of the scale, is how far
    from that commonest score an item could lie at most (quadratic mean over items).
    """

    informative: int
    reach: float


def variety(values: FloatArray, strata: Strata, *, scale: Bounds = (0.0, 1.0)) -> Variety:
    """The :class:`Variety` of item scores (items,) on a scale, small strata being joined as for the variance."""
    scores, code = np.unique(np.round(values, 9), return_inverse=True)
    table = np.zeros((len(strata.counts), len(scores)))
    np.add.at(table, (_joined_strata(strata.counts)[strata.of_item], code), 1.0)
    commonest, items = table.max(axis=1), table.sum(axis=1)
    farthest = np.maximum(scores - scale[0], scale[1] - scores) / (scale[1] - scale[0])
    reach = np.where(table == commonest[:, None], farthest, 0.0).max(axis=1)
    return Variety(int((items - commonest).sum()), float(np.sqrt((items * reach**2).sum() / items.sum())))


def score_interval(
    value: float,
    spread: Spread,
    units: float,
    seen: Variety,
    *,
    scale: Bounds = (0.0, 1.0),
    confidence: float = 0.95,
) -> Bounds:
    """Wilson's interval for the mean of a bounded score with an estimated variance.

    The effective number of trials p (1 − p) / v takes the place of n, and Student's t that of the normal quantile
    (Dean and Pagano 2015, Journal of Survey Statistics and Methodology 3, 484): right/wrong answers of equal weight
    get Wilson's interval nearly, ties and means of raters a shorter one, centred where skewness wants it.

    A variance from fewer than ten informative items is none. It is then at least (z · reach / n)² on a scale of length
    1, n being the ``units``: items that all agree get the score bound for the share of items that may have gone
    unseen, never a width of 0.
    """
    bottom, width = scale[0], scale[1] - scale[0]
    position, variance = (value - bottom) / width, spread.variance / width**2
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    least = (z * seen.reach / units) ** 2
    lacking = max(least - variance, 0.0) if seen.informative < FEW_UNITS else 0.0
    trials = (position * (1 - position) + units * lacking) / (variance + lacking)
    t = float(special.stdtrit(spread.degrees, (1 + confidence) / 2))
    low, high = _wilson(position, trials, t)
    return min(bottom + width * low, value), max(bottom + width * high, value)


def _wilson(share: float, trials: float, quantile: float) -> Bounds:
    """Wilson's interval from any number of trials and any quantile."""
    square = quantile**2
    centre = (share * trials + square / 2) / (trials + square)
    half = quantile * math.sqrt(trials * share * (1 - share) + square / 4) / (trials + square)
    return max(centre - half, 0.0), min(centre + half, 1.0)
