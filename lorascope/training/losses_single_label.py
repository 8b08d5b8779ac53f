"""Losses of one label an item, or a word, or a token: logits (n, C) and class numbers (n,) in, (n,) out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lorascope.errors import DataError
from lorascope.training.encoding_parts import IGNORED
from lorascope.training.label_statistics import FloatArray, LabelStatistics
from lorascope.training.losses_per_label import PerLabel


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """−log p of the true class (n,), 0 for targets of −100.

    ``smoothing`` ε (Szegedy et al. 2016) mixes the truth with the uniform distribution over all C classes, the true
    one included, as torch does: (1 − ε)·loss + ε·(mean of −log p over the classes). ``class_weight`` multiplies an
    item's loss by the weight of its class; the mean later is over items and not over weights, so that a rare class
    counts in a batch of two as it does in one of two hundred.
    """

    smoothing: float = 0.0
    class_weight: PerLabel | None = None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n,)."""
        losses = functional.cross_entropy(
            logits, targets, reduction="none", ignore_index=IGNORED, label_smoothing=self.smoothing
        )
        return losses if self.class_weight is None else losses * self.class_weight.on(logits)[targets]


@dataclass(frozen=True, slots=True)
class SingleFocal:
    """−(1 − pₜ)^γ·log pₜ with the softmax's probability of the true class (Lin et al. 2017); γ = 0: cross-entropy."""

    gamma: float

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n,).

        Raises:
            DataError: fewer than two classes.
        """
        if logits.shape[-1] < 2:
            raise DataError("a single class leaves nothing to learn", remedy="give at least two labels")
        total = torch.logsumexp(logits, dim=-1)
        true = targets[:, None]
        given = logits.gather(1, true)[:, 0] - total
        # log(1 − pₜ) from the other classes: 1 − pₜ itself would round to 0.
        missed = torch.logsumexp(logits.scatter(1, true, -math.inf), dim=-1) - total
        return -torch.exp(self.gamma * missed) * given


def class_weights(statistics: LabelStatistics) -> FloatArray:
    """(C,): inverse frequency, scaled so that the mean over the training items is 1 (scikit-learn's ``balanced``).

    A class that no item carries gets the weight of one with a single item.
    """
    occurring = int((statistics.counts > 0).sum())
    weights: FloatArray = statistics.counts.sum() / (occurring * np.maximum(statistics.counts, 1))
    return weights
