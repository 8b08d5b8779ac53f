"""Measures of ranking: average precision per label, label ranking average precision per item."""

from __future__ import annotations

import numpy as np

from lorascope.measures.core import BoolArray, FloatArray, ratio


def label_ranking_precision(scores: FloatArray, truth: BoolArray) -> FloatArray:
    """(n,): for each item the mean, over its true labels, of the share of true labels among those ranked as high.

    1 is best. Items whose labels are all true, or none, count 1, as in scikit-learn.
    """
    from scipy.stats import rankdata

    rank = rankdata(-scores, method="max", axis=1)
    rank_among_true = rankdata(np.where(truth, -scores, np.inf), method="max", axis=1)
    true_labels = truth.sum(axis=1)
    share = np.where(truth, rank_among_true / rank, 0.0).sum(axis=1)
    settled = (true_labels == 0) | (true_labels == truth.shape[1])
    return np.where(settled, 1.0, share / np.maximum(true_labels, 1))


def average_precisions(scores: FloatArray, truth: BoolArray) -> FloatArray:
    """(L,): Σ (recall step · precision) over descending distinct scores; NaN for labels that no item truly has."""
    counts = np.ones((1, len(scores)))
    columns = [_counted_average_precision(scores[:, label], truth[:, label], counts) for label in range(truth.shape[1])]
    return np.concatenate(columns)


def _counted_average_precision(score: FloatArray, truth: BoolArray, counts: FloatArray) -> FloatArray:
    """(r,): average precision of one label in each of r multisets of items, item i drawn counts[r, i] times.

    One sort serves all multisets. Items with equal scores enter together, as one threshold, and only thresholds at
    which a true item enters are looked at: at the others the recall does not move.
    """
    if not truth.any():
        return np.full(len(counts), np.nan)
    order = np.argsort(-score, kind="stable")
    ordered, ordered_truth = score[order], truth[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(order) - 1)
    true_places = np.flatnonzero(ordered_truth)
    threshold_of_true = np.searchsorted(last_of_tie, true_places)
    used, first_true = np.unique(threshold_of_true, return_index=True)
    ends = last_of_tie[used] + 1
    starts = np.concatenate([[0], ends[:-1]])
    entered = np.add.reduceat(counts[:, order[: ends[-1]]], starts, axis=1)
    steps = np.add.reduceat(counts[:, order[true_places]], first_true, axis=1)
    hits = np.cumsum(steps, axis=1)
    seen = np.cumsum(entered, axis=1)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return ratio((steps * precision).sum(axis=1), hits[:, -1])


def macro_average_precision(rows: FloatArray) -> FloatArray:
    """Mean average precision over the labels with support; rows (n, 2L) hold scores, then truth as 0 and 1."""
    whole: FloatArray = resampled_macro_average_precision(rows, np.ones((1, len(rows))))[0]
    return whole


def resampled_macro_average_precision(rows: FloatArray, counts: FloatArray) -> FloatArray:
    """:func:`macro_average_precision` of the multisets that the item counts (r, n) describe."""
    scores, truth = np.split(rows, 2, axis=1)
    total, supported = np.zeros(len(counts)), np.zeros(len(counts))
    for label in range(scores.shape[1]):
        value = _counted_average_precision(scores[:, label], truth[:, label] > 0, counts)
        total += np.nan_to_num(value, nan=0.0)
        supported += np.isfinite(value)
    return ratio(total, supported)
