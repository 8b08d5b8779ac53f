"""What raters preferred: win rates, ratings, sides, and tests of them. Items are the unit, raters of one are averaged.

Votes are arrays (raters, items): 1 where ``first`` is preferred, ½ for a tie, 0 where ``second`` is, NaN where a rater
gave none. An array (items,) is taken as one rater's. An item that counts as a tie without having been rated
(identical answers) has ½ from every rater: as NaN it would be left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from lorascope.errors import DataError
from lorascope.measures.core import FloatArray
from lorascope.measures.intervals import Bounds
from lorascope.measures.preference_strata import (
    RATERS_AS_CLUSTERS,
    Spread,
    Strata,
    item_means,
    rated,
    score_interval,
    spread_of_mean,
    variety,
)
from lorascope.measures.significance import mcnemar
from lorascope.measures.statistics import Interval

_EXACT_WILCOXON = 400
_DIGITS = 12  # sums of weights are off in the last places, so that a draw would be none


@dataclass(frozen=True)
class SignCounts:
    """Items won, lost and undecided (a mean of exactly ½), and the exact two-sided p-value; None with none decided."""

    wins: int
    losses: int
    undecided: int
    p_value: float | None


def win_rate(votes: FloatArray, strata: Strata | None = None, *, confidence: float = 0.95) -> Interval:
    """(wins + ½ ties) / items of ``first``, 0 to 1, 0.5 a draw, weighted back to the strata's populations.

    Below five raters the interval speaks of items like these under these raters; from five on of raters like these
    too. Without ``strata`` every item weighs the same. See :func:`rating_mean` for what is left out and undefined.
    """
    return rating_mean(votes, strata, scale=(0.0, 1.0), confidence=confidence)


def rating_mean(
    votes: FloatArray, strata: Strata | None = None, *, scale: Bounds = (1.0, 5.0), confidence: float = 0.95
) -> Interval:
    """Weighted mean over items of votes on a bounded ``scale``: ratings (1, 5), differences of ratings (−4, 4).

    Items without a vote are left out. None without items; no interval for a single one. DataError for votes outside
    the scale. Variance: :func:`~lorascope.measures.preference_strata.spread_of_mean`; interval:
    :func:`~lorascope.measures.preference_strata.score_interval`.
    """
    votes, strata, _ = rated(votes, strata)
    if votes.size and not (scale[0] <= np.nanmin(votes) and np.nanmax(votes) <= scale[1]):
        raise DataError(f"votes must lie between {scale[0]:g} and {scale[1]:g}")
    items = votes.shape[1]
    if items == 0:
        return Interval(None, None, None, 0, "none: no item has a vote")
    means = item_means(votes)
    value = _rounded(float(strata.weights @ means))
    if items < 2:
        return Interval(value, None, None, items, "none: a single item")
    low, high = score_interval(
        value,
        spread_of_mean(votes, strata),
        strata.units,
        variety(means, strata, scale=scale),
        scale=scale,
        confidence=confidence,
    )
    return Interval(value, low, high, items, _described(votes, strata))


def _rounded(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # no −0


def _described(votes: FloatArray, strata: Strata) -> str:
    used = int(np.count_nonzero(strata.counts))
    raters = int(np.isfinite(votes).any(axis=1).sum())
    by = f"items and {raters} raters" if raters >= RATERS_AS_CLUSTERS else "items"
    return f"score interval over {by}" + (f", {used} strata" if used > 1 else "")


def left_rate(left: FloatArray, decided: FloatArray, *, confidence: float = 0.95) -> Interval:
    """Share (0–1, unbiased 0.5) of decided votes that went to the answer on the left, clustered by item.

    ``left`` and ``decided`` (items,) count an item's votes for side A and for either side. The items are those shown,
    unweighted: this is about raters. ``n`` counts items with a decided vote; None without one.
    """
    return weighted_ratio(left, decided, confidence=confidence)


def preference_agreement(
    metric_differences: FloatArray, votes: FloatArray, strata: Strata | None = None, *, confidence: float = 0.95
) -> Interval:
    """Share (0–1, chance 0.5) of items on which metric and raters both prefer a side that prefer the same one.

    ``metric_differences`` (items,): first minus second, turned so that higher is better; NaN where there is none.
    Raters prefer the side on which the mean of their votes lies. Weighted back to the strata's populations. ``n``
    counts items that both decide; None without one.
    """
    direction = np.sign(item_means(np.atleast_2d(votes)) - 0.5)
    metric = np.sign(metric_differences)
    decided = np.isfinite(direction) & np.isfinite(metric) & (direction != 0) & (metric != 0)
    agreed = decided & (direction == metric)
    return weighted_ratio(agreed.astype(np.float64), decided.astype(np.float64), strata, confidence=confidence)


def weighted_ratio(
    parts: FloatArray, wholes: FloatArray, strata: Strata | None = None, *, confidence: float = 0.95
) -> Interval:
    """Σ w · part / Σ w · whole over items, 0 to 1, where 0 ≤ part ≤ whole: a share among votes or a kind of items.

    The variance is that of the linearised ratio (Cochran 1977, 6.4 and 6.11), the unit the item. ``n`` counts items
    with a whole above 0; None without one, no interval with a single one.
    """
    strata = Strata.single(len(wholes)) if strata is None else strata
    used = wholes > 0
    items = int(used.sum())
    if items == 0:
        return Interval(None, None, None, 0, "none: no item decides")
    weights = strata.weights
    total = float(weights @ wholes)
    value = _rounded(min(float(weights @ parts) / total, 1.0))
    if items < 2:
        return Interval(value, None, None, items, "none: a single item")
    spread = spread_of_mean(np.atleast_2d((parts - value * wholes) / total), strata)
    spread = Spread(spread.variance, min(spread.degrees, items - 1.0))
    units = total**2 / float(np.square(weights * wholes).sum())
    seen = variety(parts[used] / wholes[used], strata.kept(used))
    low, high = score_interval(value, spread, units, seen, confidence=confidence)
    return Interval(value, low, high, items, "score interval over items")


def sign_test(scores: FloatArray) -> SignCounts:
    """Exact two-sided sign test over items: (items,) means of votes against ½. NaN items are left out.

    It counts the items of the sample as they are: under over-sampled strata it tests these, not their population.
    """
    wins, losses = int((scores > 0.5).sum()), int((scores < 0.5).sum())
    p_value = mcnemar(losses, wins) if wins + losses else None
    return SignCounts(wins, losses, int((scores == 0.5).sum()), p_value)


def wilcoxon_pratt(differences: FloatArray) -> float | None:
    """Two-sided p-value of Wilcoxon's signed-rank test over items, zeros ranked and then dropped (Pratt 1959).

    Exact given ties and zeros up to 400 items that differ, beyond that the normal approximation. NaN differences are
    left out; None without any, 1 when all are zero.
    """
    # Means of three votes that are equal may differ in their last place.
    differences = np.round(differences[np.isfinite(differences)], _DIGITS)
    moved = differences != 0
    if not len(differences):
        return None
    if not moved.any():
        return 1.0
    if moved.sum() > _EXACT_WILCOXON:
        return float(stats.wilcoxon(differences, zero_method="pratt", method="approx").pvalue)
    # Mid-ranks are whole or half: doubled, they index the distribution of their sum over all signs.
    ranks = np.rint(2 * stats.rankdata(np.abs(differences))).astype(np.int64)
    chances = np.ones(1)
    for rank in ranks[moved]:
        grown = np.zeros(len(chances) + rank)
        grown[: len(chances)] = chances
        grown[rank:] += chances
        chances = grown / 2
    positive = int(ranks[differences > 0].sum())
    tail = min(chances[: positive + 1].sum(), chances[positive:].sum())
    return float(min(1.0, 2 * tail))
