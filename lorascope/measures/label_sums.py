"""Counts of label decisions per item, and the scores that follow from their sums."""

from __future__ import annotations

import numpy as np

from lorascope.measures.core import BoolArray, FloatArray, IntArray, ratio


def one_hot(classes: IntArray, labels: int) -> BoolArray:
    """Boolean (n, L) with one True per item."""
    marked: BoolArray = np.arange(labels) == np.asarray(classes)[:, None]
    return marked


def label_counts(decided: BoolArray, truth: BoolArray) -> FloatArray:
    """(n, 3L): right, predicted and true per item and label, three blocks of L columns."""
    return np.hstack([decided & truth, decided, truth]).astype(np.float64)


def total_counts(decided: BoolArray, truth: BoolArray) -> FloatArray:
    """(n, 3): right, predicted and true label decisions per item."""
    return np.stack([(decided & truth).sum(axis=1), decided.sum(axis=1), truth.sum(axis=1)], axis=1).astype(np.float64)


def f1_from_totals(sums: FloatArray) -> FloatArray:
    """F1 = 2·right / (predicted + true) from (…, 3); NaN when nothing is predicted and nothing true."""
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def precision_from_totals(sums: FloatArray) -> FloatArray:
    """Share of predictions that are right; NaN when nothing is predicted."""
    return ratio(sums[..., 0], sums[..., 1])


def recall_from_totals(sums: FloatArray) -> FloatArray:
    """Share of what is true that was predicted; NaN when nothing is true."""
    return ratio(sums[..., 0], sums[..., 2])


def _label_f1(sums: FloatArray) -> tuple[FloatArray, FloatArray]:
    blocks = sums.reshape(*sums.shape[:-1], 3, -1)
    right, predicted, actual = blocks[..., 0, :], blocks[..., 1, :], blocks[..., 2, :]
    return np.nan_to_num(ratio(2 * right, predicted + actual), nan=0.0), actual


def macro_f1_from_counts(sums: FloatArray) -> FloatArray:
    """Mean F1 of the labels with support in these sums (…, 3L); NaN when none has."""
    scores, actual = _label_f1(sums)
    supported = actual > 0
    return ratio((scores * supported).sum(axis=-1), supported.sum(axis=-1))


def weighted_f1_from_counts(sums: FloatArray) -> FloatArray:
    """Mean F1 weighted by support; NaN when no label has any."""
    scores, actual = _label_f1(sums)
    return ratio((scores * actual).sum(axis=-1), actual.sum(axis=-1))


def rarest_label(rows: FloatArray) -> int:
    """Rows (n, 3L) with anything of the rarest supported label: right, predicted or true; 0 without a supported one."""
    right, predicted, actual = np.split(rows.astype(np.bool_), 3, axis=1)
    carried = (right | predicted | actual).sum(axis=0)[actual.sum(axis=0) > 0]
    return int(carried.min()) if len(carried) else 0


def rarest_class(rows: FloatArray) -> int:
    """Rows (n, 2 + 2L) whose true class is the rarest that occurs, or which were predicted to be in it."""
    predicted, actual = np.split(rows[:, 2:].astype(np.bool_), 2, axis=1)
    carried = (predicted | actual).sum(axis=0)[actual.sum(axis=0) > 0]
    return int(carried.min()) if len(carried) else 0


def matthews_from_sums(sums: FloatArray) -> FloatArray:
    """Multi-class Matthews correlation from (…, 2 + 2L): right, items, predicted per class, true per class.

    NaN when all predictions, or all true classes, are the same: the correlation has no meaning there.
    """
    right, items = sums[..., 0], sums[..., 1]
    predicted, actual = np.split(sums[..., 2:], 2, axis=-1)
    covariance = right * items - (predicted * actual).sum(axis=-1)
    spread = (items**2 - (predicted**2).sum(axis=-1)) * (items**2 - (actual**2).sum(axis=-1))
    return ratio(covariance, np.sqrt(np.maximum(spread, 0.0)))


def calibration_counts(confidence: FloatArray, right: BoolArray, bins: int) -> FloatArray:
    """(n, 3·bins): per item and equal-width bin, decisions, summed confidence, and how many came true.

    Bins are half-open on the left, (low, high], and the first holds 0 (Guo et al. 2017).
    """
    items, decisions = confidence.shape
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    flat = (np.arange(items)[:, None] * bins + place).ravel()
    columns = [np.ones(items * decisions), confidence.ravel(), right.ravel().astype(np.float64)]
    blocks = [np.bincount(flat, weights=column, minlength=items * bins).reshape(items, bins) for column in columns]
    return np.hstack(blocks)


def calibration_error_from_sums(sums: FloatArray) -> FloatArray:
    """Expected calibration error: mean over decisions of |confidence − frequency| of their bin."""
    blocks = sums.reshape(*sums.shape[:-1], 3, -1)
    decisions, confidence, right = blocks[..., 0, :], blocks[..., 1, :], blocks[..., 2, :]
    return ratio(np.abs(confidence - right).sum(axis=-1), decisions.sum(axis=-1))
