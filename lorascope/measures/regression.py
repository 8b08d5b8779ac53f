"""Scores of real-valued predictions: Pearson, Spearman, mean squared error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorascope.measures.core import FloatArray, Scored, item_rows, mean_of_items, ratio, same_length
from lorascope.measures.registry import define

_FLAT = 1e-12  # a variance below this share of the mean square is rounding


def score_regression(
    predictions: Sequence[float] | FloatArray, targets: Sequence[float] | FloatArray
) -> dict[str, Scored]:
    """``pearson`` and ``spearman`` (−1 to 1, higher is better) and ``mse`` (squared units, lower is better).

    Correlations are undefined (None) for fewer than two items and where predictions or targets are all the same: a
    collapsed model has no correlation, not a correlation of 0. Spearman is a function of ranks, so not additive.
    """
    same_length(predictions=predictions, targets=targets)
    predicted, target = np.asarray(predictions, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    # Centred on the targets' mean, which base and adapted share: sums stay small, and swapping rows stays fair.
    x, y = predicted - target.mean(), target - target.mean()
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    ranks = define("spearman", _spearman, resampled=_resampled_spearman)
    return {
        "pearson": Scored(define("pearson", _pearson_from_sums), moments, "pearson"),
        "spearman": Scored(ranks, np.stack([predicted, target], axis=1), "spearman|ties:mid-rank"),
        "mse": Scored(define("mse", mean_of_items), item_rows((predicted - target) ** 2), "mse"),
    }


def _correlation(count: FloatArray, sums: tuple[FloatArray, ...]) -> FloatArray:
    x, y, xx, yy, xy = sums
    spread_x, spread_y = count * xx - x * x, count * yy - y * y
    varied = (spread_x > _FLAT * count * xx) & (spread_y > _FLAT * count * yy)
    product = np.sqrt(np.where(varied, spread_x, 0.0) * np.where(varied, spread_y, 0.0))
    return np.clip(ratio(count * xy - x * y, product), -1.0, 1.0)


def _pearson_from_sums(sums: FloatArray) -> FloatArray:
    return _correlation(sums[..., 0], tuple(sums[..., column] for column in range(1, 6)))


def _spearman(rows: FloatArray) -> FloatArray:
    whole: FloatArray = _resampled_spearman(rows, np.ones((1, len(rows))))[0]
    return whole


def _resampled_spearman(rows: FloatArray, counts: FloatArray) -> FloatArray:
    """Pearson's correlation of the mid-ranks within each multiset of items."""
    total = counts.sum(axis=1)
    x = _counted_ranks(rows[:, 0], counts) - (total[:, None] + 1) / 2
    y = _counted_ranks(rows[:, 1], counts) - (total[:, None] + 1) / 2
    sums = tuple((counts * term).sum(axis=1) for term in (x, y, x * x, y * y, x * y))
    return _correlation(total, sums)


def _counted_ranks(values: FloatArray, counts: FloatArray) -> FloatArray:
    """(r, n): mid-rank of each item in each multiset; one sort serves all."""
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    starts = np.concatenate([[0], np.cumsum(size)[:-1]])
    drawn = np.add.reduceat(counts[:, order], starts, axis=1)
    middle = np.cumsum(drawn, axis=1) - (drawn - 1) / 2
    ranks: FloatArray = middle[:, place]
    return ranks
