"""The loss that a recipe names, as a function of logits and targets.

What a probability means after training depends on the loss; see :func:`decision_probability`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lorascope.errors import ConfigError, DataError
from lorascope.schema.recipe import Loss, LossName, TrainedKind
from lorascope.training.encoding_parts import IGNORED
from lorascope.training.label_statistics import FloatArray, LabelStatistics
from lorascope.training.losses_multi_label import (
    Asymmetric,
    BinaryCrossEntropy,
    Focal,
    Zlpr,
    distribution_balanced,
    positive_weights,
)
from lorascope.training.losses_per_label import PerLabel
from lorascope.training.losses_single_label import CrossEntropy, SingleFocal, class_weights

_MULTI: tuple[LossName, ...] = ("bce", "focal", "asymmetric", "distribution_balanced", "zlpr")
_SINGLE: tuple[LossName, ...] = ("cross_entropy", "label_smoothing", "focal")
_TOKENS: tuple[LossName, ...] = ("cross_entropy", "label_smoothing")


class LossFunction(Protocol):
    """A loss of a batch (nats, or squared units of a score), a scalar with gradients, computed in float32 at least.

    ``logits`` and ``targets``: (n, L) and (n, L) of 0 and 1 for several labels; (n, C) and (n,) for one; (n,) or (n, 1)
    each for scores; (n, T, C) and (n, T) with −100 where nothing is asked, for tokens and texts.

    The mean over items: over rows (and over the labels of a row, except in ZLPR), or over the tokens that are asked.
    ``weights`` (n,) multiplies each row's loss before that mean and does not change what is divided by, or batches of
    one row would undo it: give weights of mean 1 over the training data (:func:`normalised_weights`); all ones are no
    weights. ``count`` divides the sum in place of the batch's own number of rows or asked tokens: that of the whole
    step, where several batches make one. A batch in which no token is asked has the loss 0.

    Raises DataError where the shapes do not belong together.
    """

    def __call__(
        self, logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, count: Tensor | int | None = None
    ) -> Tensor:
        """The loss of the batch."""


_Elementwise = Callable[[Tensor, Tensor], Tensor]


def build_loss(
    loss: Loss,
    kind: TrainedKind,
    *,
    multi_label: bool,
    statistics: LabelStatistics | None = None,
    shifted: bool = True,
) -> LossFunction:
    """The loss of a recipe for one kind of task.

    ``statistics`` are those of the training data, for what is weighted by them. ``shifted`` says of texts that the
    logits at one position are for the token at the next, as in decoders; False for encoder–decoders.

    Raises:
        ConfigError: a loss or weights that the task cannot have, or statistics missing that they need.
    """
    name = resolved_loss(loss, kind, multi_label=multi_label)
    if kind == "score":
        return _ItemLoss(_squared_error, _as_scores)
    smoothing = loss.smoothing if name == "label_smoothing" else 0.0
    if kind in ("generate", "tokens"):
        return _TokenLoss(CrossEntropy(smoothing), shifted=shifted and kind == "generate")
    if multi_label:
        return _ItemLoss(_multi_label(loss, name, statistics), _as_cells)
    if name == "focal":
        return _ItemLoss(SingleFocal(loss.gamma), _as_classes)
    weight = None if loss.class_weights is None else PerLabel(class_weights(_needed(statistics, "loss.class_weights")))
    return _ItemLoss(CrossEntropy(smoothing, weight), _as_classes)


def resolved_loss(loss: Loss, kind: TrainedKind, *, multi_label: bool) -> LossName:
    """The loss's name, with the default of the kind of task where the recipe leaves it out.

    Raises:
        ConfigError: a loss or weights that the task cannot have.
    """
    several = kind == "labels" and multi_label
    allowed, default = _choice(kind, several)
    name = loss.name or default
    what = "several labels an item" if several else f"kind {kind}" + (" with one label an item" * (kind == "labels"))
    if name not in allowed:
        raise ConfigError(
            f"the loss {name} does not go with tasks of {what}",
            where="loss.name",
            remedy=f"use {' or '.join(allowed)}",
        )
    if loss.pos_weight is not None and not several:
        raise ConfigError(
            f"'pos_weight' does not go with tasks of {what}",
            where="loss.pos_weight",
            remedy="leave it out" + ("; 'class_weights: balanced' weighs classes" * (kind == "labels")),
        )
    if loss.class_weights is not None and (kind != "labels" or several):
        raise ConfigError(
            f"'class_weights' does not go with tasks of {what}",
            where="loss.class_weights",
            remedy="leave it out" + ("; 'pos_weight: balanced' weighs labels" * several),
        )
    return name


def _choice(kind: TrainedKind, several: bool) -> tuple[tuple[LossName, ...], LossName]:
    if kind == "score":
        return ("mse",), "mse"
    if several:
        return _MULTI, "bce"
    return (_SINGLE if kind == "labels" else _TOKENS), "cross_entropy"


def _multi_label(loss: Loss, name: LossName, statistics: LabelStatistics | None) -> _Elementwise:
    if name == "focal":
        return Focal(loss.gamma)
    if name == "asymmetric":
        return Asymmetric(loss.gamma_negative, loss.gamma_positive, loss.clip)
    if name == "zlpr":
        return Zlpr()
    if name == "distribution_balanced":
        return distribution_balanced(_needed(statistics, "loss.name"), loss.gamma)
    if loss.pos_weight is None:
        return BinaryCrossEntropy()
    if loss.pos_weight == "balanced":
        counted = _needed(statistics, "loss.pos_weight")
        return BinaryCrossEntropy(PerLabel(positive_weights(counted, loss.pos_weight_cap)))
    return BinaryCrossEntropy(PerLabel(loss.pos_weight))


def _needed(statistics: LabelStatistics | None, where: str) -> LabelStatistics:
    if statistics is None:
        raise ConfigError(
            "this weighs by how often labels stand in the training data, which were not counted",
            where=where,
            remedy="give the label statistics of the training data",
        )
    return statistics


def decision_probability(name: LossName) -> float | None:
    """The sigmoid from which an output of several labels says yes; None for losses of other tasks.

    It is 0.5 for all: ZLPR's threshold is a logit of 0, which is that. What 0.5 means differs. After ``bce`` it is an
    even chance. ``pos_weight`` w puts 0.5 where the chance is 1/(1 + w), so that far more is said yes to.
    ``asymmetric`` with its defaults puts an even chance at an output of 0.68 and 0.5 at a chance of 0.13, and says yes
    too often as well; ``distribution_balanced`` shifts each label by its frequency; ``focal`` leaves even chances at
    0.5 and pulls all others towards it. After any loss but plain ``bce`` tune thresholds on validation items, and do
    not read outputs as chances.
    """
    return 0.5 if name in _MULTI else None


def normalised_weights(weights: Sequence[float] | FloatArray) -> FloatArray:
    """The weights of all training rows, scaled to a mean of 1: the size of the loss then does not depend on their unit.

    Raises:
        DataError: a weight that is negative or not finite, with its row; or none above 0.
    """
    given = np.asarray(weights, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(given) | (given < 0))
    if len(wrong):
        raise DataError(
            f"the sample weight {given[wrong[0]]} is not a number from 0 up",
            where=f"item {wrong[0] + 1}",
            remedy="give finite weights of 0 or more; 0 leaves an item out of the loss",
        )
    if not given.any():
        raise DataError("no sample weight is above 0", where="loss.sample_weights", remedy="give weights above 0")
    scaled: FloatArray = given / given.mean()
    return scaled


@dataclass(frozen=True, slots=True)
class _ItemLoss:
    """Mean over rows of a loss of rows (n,) or cells (n, L)."""

    elementwise: _Elementwise
    aligned: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __call__(
        self, logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, count: Tensor | int | None = None
    ) -> Tensor:
        losses = self.elementwise(*self.aligned(_precise(logits), targets))
        if weights is None and count is None:
            return losses.mean()
        rows = losses.mean(dim=1) if losses.dim() == 2 else losses
        if weights is not None:
            rows = rows * _row_weights(weights, rows)
        return rows.mean() if count is None else rows.sum() / count


def _as_cells(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if logits.dim() != 2 or targets.shape != logits.shape:
        raise _misfit(logits, targets)
    return logits, targets.to(logits.dtype)


def _as_classes(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if logits.dim() != 2 or targets.shape != logits.shape[:1] or targets.is_floating_point():
        raise _misfit(logits, targets)
    return logits, targets.long()


def _as_scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both (n,): a difference of (n, 1) and (n,) would silently be a matrix."""
    if logits.numel() != len(logits) or targets.numel() != len(targets) or len(targets) != len(logits):
        raise _misfit(logits, targets)
    return logits.reshape(-1), targets.reshape(-1).to(logits.dtype)


def _precise(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _misfit(logits: Tensor, targets: Tensor) -> DataError:
    return DataError(
        f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(targets.shape)} and type {targets.dtype} "
        "do not belong together",
        remedy="give one target a row, or one of 0 or 1 a row and label",
    )


def _row_weights(weights: Tensor, rows: Tensor) -> Tensor:
    if weights.shape != rows.shape[:1]:
        raise DataError(
            f"{tuple(weights.shape)} sample weights for {len(rows)} rows", remedy="give exactly one weight a row"
        )
    return weights.to(device=rows.device, dtype=rows.dtype)


@dataclass(frozen=True, slots=True)
class _TokenLoss:
    """Mean over the tokens that are asked."""

    elementwise: _Elementwise
    shifted: bool

    def __call__(
        self, logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, count: Tensor | int | None = None
    ) -> Tensor:
        if targets.shape != logits.shape[:-1] or logits.dim() != 3:
            raise _misfit(logits, targets)
        # The targets move and not the logits, which over a whole vocabulary are too large to copy.
        asked = functional.pad(targets, (0, 1), value=IGNORED)[:, 1:] if self.shifted else targets
        losses = self.elementwise(_precise(logits).flatten(0, 1), asked.flatten()).view_as(asked)
        if weights is not None:
            losses = losses * _row_weights(weights, losses)[:, None]
        return losses.sum() / ((asked != IGNORED).sum().clamp(min=1) if count is None else count)


def _squared_error(predicted: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(predicted, targets, reduction="none")
