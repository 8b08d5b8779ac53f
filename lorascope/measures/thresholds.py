"""Decision thresholds for multi-label probabilities, tuned on items that the thresholds will not be judged on."""

from __future__ import annotations

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import BoolArray, FloatArray, ratio

_UNTUNED = 0.5


def tune_thresholds(probabilities: FloatArray, truth: BoolArray) -> FloatArray:
    """(L,): for each label the threshold with the highest F1 on these items; labels without a true item keep 0.5.

    Use it as ``probability >= threshold``, on other items than these. The threshold lies midway between the lowest
    accepted and the highest refused probability. Of equally good ones the highest is taken.
    """
    probabilities, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(truth, dtype=np.bool_)
    if probabilities.shape != truth.shape or probabilities.ndim != 2 or len(truth) == 0:
        raise DataError(f"cannot tune thresholds: probabilities {probabilities.shape}, truth {truth.shape}")
    labels = range(truth.shape[1])
    return np.array([_best_threshold(probabilities[:, label], truth[:, label]) for label in labels])


def _best_threshold(probability: FloatArray, truth: BoolArray) -> float:
    from sklearn.metrics import precision_recall_curve

    if not truth.any():
        return _UNTUNED
    precision, recall, accepted_from = precision_recall_curve(truth, probability)
    f1 = np.nan_to_num(ratio(2 * precision * recall, precision + recall)[:-1], nan=0.0)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    refused = accepted_from[best - 1] if best > 0 else 0.0
    return float((accepted_from[best] + refused) / 2)


def cross_fitted_thresholds(probabilities: FloatArray, truth: BoolArray, *, folds: int = 5, seed: int) -> FloatArray:
    """(n, L): thresholds tuned by :func:`tune_thresholds` on the other folds, for when there is no separate tuning set.

    No item's threshold has seen the item. The same seed and number of items give the same folds, for base and
    adapted alike. Fewer items than two per fold are refused (DataError).
    """
    from sklearn.model_selection import KFold

    probabilities, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(truth, dtype=np.bool_)
    items = len(truth)
    if folds < 2 or items < 2 * folds:
        raise DataError(
            f"cannot cross-fit thresholds over {folds} folds with {items} items",
            remedy="give a separate tuning set, or more items",
        )
    thresholds = np.empty(np.shape(truth), dtype=np.float64)
    splitter = KFold(folds, shuffle=True, random_state=seed)
    for others, held_out in splitter.split(np.empty((items, 1))):
        thresholds[held_out] = tune_thresholds(probabilities[others], truth[others])
    return thresholds
