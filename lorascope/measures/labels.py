"""Scores of label predictions, multi-label (any number per item) and single-label (exactly one).

The label set is fixed: it comes from the caller and not from what happens to occur. Macro averages cover the
*supported* labels, those that at least one item truly has, and the signature says how many those are: an average over
labels that cannot be right would read 0.333 for a model without a single mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorascope.errors import DataError
from lorascope.measures import label_sums, ranking
from lorascope.measures.core import BoolArray, FloatArray, IntArray, Measure, Scored, defined, item_rows, mean_of_items
from lorascope.measures.registry import define

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class LabelRow:
    """One label: how many items truly have it (support), how many were predicted to, and its scores in 0–1.

    ``precision`` is None when nothing was predicted, ``recall`` and ``average_precision`` when nothing is true,
    ``f1`` when both.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None


def score_labels(
    probabilities: FloatArray,
    truth: BoolArray,
    *,
    thresholds: float | FloatArray = 0.5,
    multi: bool,
    label_names: Sequence[str],
) -> dict[str, Scored]:
    """All label measures of one checkpoint from probabilities (n, L) and true labels (n, L).

    Multi-label decisions are ``probability >= threshold``; thresholds are one number, one per label (L,) or one per
    item and label (n, L). Single-label decisions are the most probable label and take no threshold. An item without
    true and predicted labels counts 1 in ``f1_samples``. All in 0–1 except ``mcc`` (−1 to 1); ``hamming_loss`` and
    ``ece`` fall, the others rise. Undefined (None) where a quotient has nothing below: a precision with nothing
    predicted, macro averages without a supported label.

    Raises DataError for shapes that differ, probabilities outside 0–1, and single-label items with more or fewer
    than one true label.
    """
    probabilities, truth = _checked(probabilities, truth, label_names)
    decided = _decide(probabilities, truth, thresholds, multi)
    supported = int(truth.any(axis=0).sum())
    rule = _threshold_text(thresholds) if multi else "argmax"
    signature = f"labels:{truth.shape[1]}|supported:{supported}|decision:{rule}"
    counts = label_sums.label_counts(decided, truth)
    totals = label_sums.total_counts(decided, truth)
    found = _count_scores(counts, totals)
    found |= _multi_scores(probabilities, decided, truth) if multi else _single_scores(decided, truth)
    found["ece"] = _calibration_rows(probabilities, decided, truth, multi)
    return {
        measure.name: Scored(measure, rows, f"{measure.name}|{signature}{_suffix(measure.name)}")
        for measure, rows in found.values()
    }


_MeasureRows = tuple[Measure, FloatArray]


def _suffix(name: str) -> str:
    if name == "ece":
        return f"|bins:{CALIBRATION_BINS}"
    return "|empty-sets:1" if name == "f1_samples" else ""


def _threshold_text(thresholds: float | FloatArray) -> str:
    """The rule itself: one threshold for all labels is that number, whether it came as one or once for each label."""
    if np.ndim(thresholds) < 2 and len(np.unique(thresholds)) == 1:
        return f"probability>={float(np.ravel(thresholds)[0]):g}"
    return "tuned-per-label" if np.ndim(thresholds) == 1 else "cross-fitted-per-label"


def _checked(probabilities: FloatArray, truth: BoolArray, label_names: Sequence[str]) -> tuple[FloatArray, BoolArray]:
    probabilities, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(truth, dtype=np.bool_)
    if probabilities.ndim != 2 or probabilities.shape != truth.shape or truth.shape[1] != len(label_names):
        raise DataError(
            f"label arrays do not fit: probabilities {probabilities.shape}, truth {truth.shape}, "
            f"{len(label_names)} label names",
            remedy="give arrays of shape (items, labels) in the order of the label names",
        )
    if len(set(label_names)) != len(label_names):
        raise DataError("label names must be unique", remedy="name each label once")
    if truth.size == 0:
        raise DataError("there are no items or no labels to score", remedy="give at least one of each")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise DataError("probabilities must lie in 0–1", remedy="apply a sigmoid or softmax to the logits")
    return probabilities, truth


def _decide(probabilities: FloatArray, truth: BoolArray, thresholds: float | FloatArray, multi: bool) -> BoolArray:
    if multi:
        limits = np.asarray(thresholds, dtype=np.float64)
        if limits.ndim and limits.shape not in {probabilities.shape[1:], probabilities.shape}:
            raise DataError(f"thresholds of shape {limits.shape} do not fit probabilities {probabilities.shape}")
        return probabilities >= limits
    wrong = np.flatnonzero(truth.sum(axis=1) != 1)
    if len(wrong):
        raise DataError(
            f"{len(wrong)} items do not have exactly one true label", where=f"item {wrong[0]}",
            remedy="declare the task multi-label, or mend the items",
        )  # fmt: skip
    return label_sums.one_hot(probabilities.argmax(axis=1), probabilities.shape[1])


def _count_scores(counts: FloatArray, totals: FloatArray) -> dict[str, _MeasureRows]:
    return {
        "f1_micro": (define("f1_micro", label_sums.f1_from_totals), totals),
        "f1_macro": (define("f1_macro", label_sums.macro_f1_from_counts, carriers=label_sums.rarest_label), counts),
        "f1_weighted": (define("f1_weighted", label_sums.weighted_f1_from_counts), counts),
    }


def _multi_scores(probabilities: FloatArray, decided: BoolArray, truth: BoolArray) -> dict[str, _MeasureRows]:
    totals = label_sums.total_counts(decided, truth)
    whole = (decided == truth).all(axis=1)
    sets = np.where(totals[:, 1:].any(axis=1), label_sums.f1_from_totals(totals), 1.0)
    precision = define("average_precision_macro", ranking.macro_average_precision,
                       resampled=ranking.resampled_macro_average_precision)  # fmt: skip
    return {
        "f1_samples": (define("f1_samples", mean_of_items), item_rows(sets)),
        "precision_micro": (define("precision_micro", label_sums.precision_from_totals), totals),
        "recall_micro": (define("recall_micro", label_sums.recall_from_totals), totals),
        "subset_accuracy": (define("subset_accuracy", mean_of_items, proportion=True), item_rows(whole)),
        "hamming_loss": (define("hamming_loss", mean_of_items), item_rows((decided != truth).mean(axis=1))),
        "lrap": (define("lrap", mean_of_items), item_rows(ranking.label_ranking_precision(probabilities, truth))),
        "average_precision_macro": (precision, np.hstack([probabilities, truth.astype(np.float64)])),
    }


def _single_scores(decided: BoolArray, truth: BoolArray) -> dict[str, _MeasureRows]:
    right = (decided & truth).any(axis=1)
    classes = np.hstack([item_rows(right), decided, truth]).astype(np.float64)
    return {
        "accuracy": (define("accuracy", mean_of_items, proportion=True), item_rows(right)),
        "mcc": (define("mcc", label_sums.matthews_from_sums, carriers=label_sums.rarest_class), classes),
    }


def _calibration_rows(probabilities: FloatArray, decided: BoolArray, truth: BoolArray, multi: bool) -> _MeasureRows:
    """Multi-label: every label decision's probability; single-label: the probability of the predicted label alone."""
    confidence = probabilities if multi else probabilities.max(axis=1, keepdims=True)
    right = truth if multi else np.asarray((decided & truth).any(axis=1, keepdims=True))
    rows = label_sums.calibration_counts(confidence, right, CALIBRATION_BINS)
    return define("ece", label_sums.calibration_error_from_sums), rows


def per_label(
    probabilities: FloatArray,
    truth: BoolArray,
    *,
    thresholds: float | FloatArray = 0.5,
    multi: bool,
    label_names: Sequence[str],
) -> list[LabelRow]:
    """One row per label of the fixed label set, in its order, with the decisions of :func:`score_labels`."""
    probabilities, truth = _checked(probabilities, truth, label_names)
    decided = _decide(probabilities, truth, thresholds, multi)
    sums = label_sums.label_counts(decided, truth).sum(axis=0).reshape(3, -1)
    precisions = ranking.average_precisions(probabilities, truth)
    return [
        LabelRow(
            name=name,
            support=int(actual),
            predicted=int(predicted),
            precision=_quotient(right, predicted),
            recall=_quotient(right, actual),
            f1=_quotient(2 * right, predicted + actual),
            average_precision=defined(float(precisions[index])),
        )
        for index, (name, right, predicted, actual) in enumerate(zip(label_names, *sums, strict=True))
    ]


def _quotient(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator else None


def label_scores(
    probabilities: FloatArray,
    truth: BoolArray,
    *,
    thresholds: float | FloatArray = 0.5,
    multi: bool,
    label_names: Sequence[str],
) -> dict[str, Scored]:
    """The F1 of each label by name, as statistics, so that a single label's F1 gets an interval and a test.

    The measure is named ``f1_micro``: the micro F1 of a label set of one.
    """
    probabilities, truth = _checked(probabilities, truth, label_names)
    decided = _decide(probabilities, truth, thresholds, multi)
    rule = _threshold_text(thresholds) if multi else "argmax"
    measure = define("f1_micro", label_sums.f1_from_totals)
    return {
        name: Scored(
            measure,
            label_sums.total_counts(decided[:, [index]], truth[:, [index]]),
            f"f1_micro|label:{name}|support:{int(truth[:, index].sum())}|decision:{rule}",
        )
        for index, name in enumerate(label_names)
    }


def label_groups(support_counts: Sequence[int] | IntArray) -> dict[str, IntArray]:
    """Head, mid and tail labels as index arrays: thirds of the supported labels by support, most frequent first.

    Ties keep the order of the label set; where the thirds are uneven the head is the larger. Labels without support
    are in no group; with fewer than three supported labels there are no groups (empty dict).
    """
    support = np.asarray(support_counts, dtype=np.int64)
    ranked = np.argsort(-support, kind="stable")
    ranked = ranked[support[ranked] > 0]
    if len(ranked) < 3:
        return {}
    head, mid, tail = np.array_split(ranked, 3)
    return {"head": np.sort(head), "mid": np.sort(mid), "tail": np.sort(tail)}


def score_label_groups(
    probabilities: FloatArray,
    truth: BoolArray,
    *,
    thresholds: float | FloatArray = 0.5,
    multi: bool,
    label_names: Sequence[str],
    support_counts: Sequence[int] | IntArray | None = None,
) -> dict[str, Scored]:
    """Macro F1 over head, mid and tail labels (:func:`label_groups`), decisions as in :func:`score_labels`.

    ``support_counts`` are each label's counts in the training data; without them the evaluated items decide.
    """
    probabilities, truth = _checked(probabilities, truth, label_names)
    decided = _decide(probabilities, truth, thresholds, multi)
    groups = label_groups(truth.sum(axis=0) if support_counts is None else support_counts)
    measure = define("f1_macro", label_sums.macro_f1_from_counts, carriers=label_sums.rarest_label)
    rule = _threshold_text(thresholds) if multi else "argmax"
    scored: dict[str, Scored] = {}
    for group, labels in groups.items():
        supported = int(truth[:, labels].any(axis=0).sum())
        signature = f"f1_macro|group:{group}|labels:{len(labels)}|supported:{supported}|decision:{rule}"
        scored[group] = Scored(measure, label_sums.label_counts(decided[:, labels], truth[:, labels]), signature)
    return scored
