"""The numbers of a task that training logs at its evaluations, by the same measures as a comparison's."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lorascope.errors import ConfigError, DataError
from lorascope.measures.core import Scored
from lorascope.measures.labels import score_label_groups, score_labels
from lorascope.measures.regression import score_regression
from lorascope.measures.tokens import score_entities
from lorascope.schema.items import LabelsItem
from lorascope.schema.recipe import Recipe
from lorascope.training.data import TrainingData
from lorascope.training.encoding_parts import IGNORED

Array = npt.NDArray[Any]
Score = Callable[[Array, Array], Mapping[str, float]]
_OF_LABELS = ("f1_micro", "f1_macro", "f1_samples", "lrap", "accuracy", "mcc")


def score_of(recipe: Recipe, data: TrainingData) -> Score | None:
    """The function that a run calls with predictions and targets of a validation set; None where nothing can be told.

    Predictions are best tokens for language models (where the answers alone are trained on, so that a row has one
    answer), logits otherwise. Undefined numbers are left out of the log.
    """
    kind = recipe.task.kind
    if kind == "generate":
        return _exact_match if recipe.task.answer_only and not recipe.task.packing else None
    if kind == "score":
        return lambda predicted, targets: _defined(score_regression(predicted.reshape(-1), targets.reshape(-1)))
    if kind == "tokens":
        names = np.array(data.labels, dtype=object)
        return lambda predicted, targets: _entities(predicted, targets, names)
    support = _support(data)
    return lambda predicted, targets: _labels(predicted, targets, data, support)


def logged_names(recipe: Recipe, data: TrainingData) -> tuple[str, ...]:
    """What an evaluation of this recipe can log of each validation set: the loss, and the task's metrics by name.

    On some validation sets one of them may be undefined; a metric that no data could define is not among them.
    """
    score, kind, count = score_of(recipe, data), recipe.task.kind, len(data.labels)
    if score is None:
        return ("loss",)
    # Asked of a flawless answer that has every label, which leaves nothing undefined.
    sure = 20.0 * np.eye(count) - 10.0
    flawless: dict[str, tuple[Array, Array]] = {
        "generate": (np.array([[1]]), np.array([[1]])),
        "score": (np.array([0.0, 1.0]), np.array([0.0, 1.0])),
        "tokens": (sure[None], np.arange(count)[None]),
        "labels": (sure, np.eye(count) if data.multi_label else np.arange(count)),
    }
    return ("loss", *score(*flawless[kind]))


def check_metric(recipe: Recipe, data: TrainingData) -> None:
    """Refuse, before training, a metric that its evaluations do not log.

    Raises:
        ConfigError: ``evaluation.metric`` is none of :func:`logged_names`.
    """
    metric = recipe.evaluation.metric
    if metric is None or not recipe.validation_sets:
        return
    known = logged_names(recipe, data)
    if metric in known:
        return
    near = difflib.get_close_matches(metric, known, n=1)
    nearest = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"the evaluations of this task log no '{metric}'",
        where="evaluation.metric",
        remedy=f"{nearest}choose one of: {', '.join(known)}",
    )


def _exact_match(best: Array, targets: Array) -> Mapping[str, float]:
    """Greedy decoding gives an answer exactly when, fed that answer, the best token is the right one everywhere."""
    return {"exact_match": float(((best == targets) | (targets == IGNORED)).all(axis=1).mean())}


def _support(data: TrainingData) -> Array:
    """How often each label occurs in the training data: head, mid and tail are thirds of that."""
    place = {name: index for index, name in enumerate(data.labels)}
    counts = np.zeros(len(data.labels), dtype=np.int64)
    for item in data.train:
        if isinstance(item, LabelsItem):
            for label in item.labels:
                counts[place[label]] += 1
    return counts


def _labels(logits: Array, targets: Array, data: TrainingData, support: Array) -> Mapping[str, float]:
    multi, names = data.multi_label, data.labels
    logits = logits.astype(np.float64)
    if multi:
        probabilities, truth = 1 / (1 + np.exp(-np.clip(logits, -700, 700))), targets > 0.5
    else:
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = np.clip(raised / raised.sum(axis=1, keepdims=True), 0, 1)
        truth = np.eye(len(names), dtype=bool)[targets.astype(np.int64).reshape(-1)]
    found = _defined(score_labels(probabilities, truth, multi=multi, label_names=names), _OF_LABELS)
    groups = score_label_groups(probabilities, truth, multi=multi, label_names=names, support_counts=support)
    return {**found, **{f"f1_macro_{group}": value for group, value in _defined(groups).items()}}


def _entities(logits: Array, targets: Array, names: Array) -> Mapping[str, float]:
    best, known = logits.argmax(axis=-1), targets != IGNORED
    predicted = [names[row[mask]].tolist() for row, mask in zip(best, known, strict=True)]
    truth = [names[row[mask]].tolist() for row, mask in zip(targets, known, strict=True)]
    try:
        return _defined(score_entities(predicted, truth))
    except DataError:  # tags of another form, such as parts of speech; the data's notes say so
        return {}


def _defined(scored: Mapping[str, Scored], wanted: tuple[str, ...] | None = None) -> dict[str, float]:
    values = {name: each.value for name, each in scored.items() if wanted is None or name in wanted}
    return {name: value for name, value in values.items() if value is not None}
