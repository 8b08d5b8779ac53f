"""Losses of several labels an item: logits (n, L) and targets (n, L) of 0 and 1 in, one value a cell or a row out.

All are computed from log-sigmoids, so that logits of any size give finite values and gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lorascope.training.label_statistics import FloatArray, LabelStatistics
from lorascope.training.losses_per_label import PerLabel

# Under a power below 1 the slope at 0 is infinite; so small a probability changes no value.
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy:
    """−[w·y·log p + (1 − y)·log(1 − p)] of each cell (n, L), p the sigmoid of the logit; ``weight`` None is w = 1.

    At its optimum an output gives p = w·q/(w·q + 1 − q) where q is the share of such items that carry the label.
    """

    weight: PerLabel | None = None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n, L)."""
        weight = None if self.weight is None else self.weight.on(logits)
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")


@dataclass(frozen=True, slots=True)
class Focal:
    """−(1 − pₜ)^γ·log pₜ of each cell, pₜ the probability given to the truth (Lin et al. 2017, arXiv 1708.02002).

    γ ≥ 0 turns away from what is already right; 0 is binary cross-entropy. Without the α that the paper has beside it:
    that is a ``pos_weight`` in other words.
    """

    gamma: float

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n, L)."""
        signed = logits * (2 * targets - 1)
        return -_power_of_miss(signed, self.gamma) * functional.logsigmoid(signed)


def _power_of_miss(signed: Tensor, gamma: float) -> Tensor:
    """(1 − sigmoid)^γ; its logarithm is what stays finite and has a finite slope."""
    return torch.exp(gamma * functional.logsigmoid(-signed))


@dataclass(frozen=True, slots=True)
class Asymmetric:
    """Asymmetric loss of each cell (Ridnik et al. 2021, arXiv 2009.14119).

    −(1 − p)^γ⁺·log p where the label is true, −p_m^γ⁻·log(1 − p_m) with p_m = max(p − m, 0) where it is not; m is
    ``clip``. A false label with p ≤ m costs nothing, and one with p near 1 is taken for an error of the data: its slope
    goes to 0. γ⁺ = γ⁻ = m = 0 is binary cross-entropy.
    """

    gamma_negative: float
    gamma_positive: float
    clip: float

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n, L)."""
        positive = -_power_of_miss(logits, self.gamma_positive) * functional.logsigmoid(logits)
        return torch.where(targets > 0.5, positive, self._of_negative(logits))

    def _of_negative(self, logits: Tensor) -> Tensor:
        if self.clip == 0:
            return -_power_of_miss(-logits, self.gamma_negative) * functional.logsigmoid(-logits)
        shifted = (torch.sigmoid(logits) - self.clip).clamp(min=_SMALLEST)
        # 1 − p taken from the other side: near p = 1 the difference would have lost its digits.
        kept = (torch.sigmoid(-logits) + self.clip).clamp(max=1.0)
        return -shifted.pow(self.gamma_negative) * torch.log(kept)


@dataclass(frozen=True, slots=True)
class Zlpr:
    """log(1 + Σ_false e^s) + log(1 + Σ_true e^(−s)) of each row, s its logits (Su et al. 2022, arXiv 2208.02955).

    A zero-bounded log-sum-exp of pairwise ranking: true labels are pushed above 0 and false ones below, each against
    its hardest rivals and not cell by cell. The sum over labels is inside: values grow with log L and not with L. An
    output above 0 says yes; sigmoids of the outputs are no frequencies.
    """

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n,)."""
        true = targets > 0.5
        zero = torch.zeros_like(logits[:, :1])
        below = torch.cat([zero, logits.masked_fill(true, -math.inf)], dim=1)
        above = torch.cat([zero, (-logits).masked_fill(~true, -math.inf)], dim=1)
        return torch.logsumexp(below, dim=1) + torch.logsumexp(above, dim=1)


@dataclass(frozen=True, slots=True)
class BalanceConstants:
    """Constants of :class:`DistributionBalanced`, by default those of the authors' code for COCO-MLT with 80 labels.

    ``floor`` α, ``steepness`` β and ``centre`` μ of the weights' mapping; ``negative_scale`` λ and ``bias`` κ of the
    regularisation. For VOC-MLT with 20 labels they have μ 0.3 and λ 5.
    """

    floor: float = 0.1
    steepness: float = 10.0
    centre: float = 0.2
    negative_scale: float = 2.0
    bias: float = 0.05


@dataclass(frozen=True, slots=True)
class DistributionBalanced:
    """Distribution-balanced loss of each cell (Wu et al. 2020, arXiv 2007.09654), made for long tails.

    Weight of cell (k, i): r̂ = α + σ(β·(r − μ)) with r = (1/n_i) / Σ_{j true in k} (1/n_j), the frequency with which
    balanced draws of label i alone would show item k, over that with which draws of all its labels do. Regularisation:
    logits get the bias −(κ/λ)·log(1/f_i − 1), as in the authors' code, f_i the label's frequency, and false labels
    enter as log(1 + e^(λz))/λ, so that they stop pushing early. Then the focal factor (1 − pₜ)^γ on the shifted,
    scaled logit, which their runs use with γ = 2; γ = 0 is the loss without it. Their constant factor 2 is left out.

    Of an item without labels r is unbounded and r̂ = 1 + α, its limit. A label that training never shows counts as if
    one item had it; frequencies are kept half an item away from 0 and 1.
    """

    rarity: PerLabel
    bias: PerLabel
    gamma: float
    constants: BalanceConstants

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(n, L)."""
        true = targets > 0.5
        scale = self.constants.negative_scale
        shifted = logits + self.bias.on(logits)
        signed = torch.where(true, shifted, -scale * shifted)
        cells = -_power_of_miss(signed, self.gamma) * functional.logsigmoid(signed)
        return self._weights(logits, targets) * torch.where(true, cells, cells / scale)

    def _weights(self, logits: Tensor, targets: Tensor) -> Tensor:
        rarity = self.rarity.on(logits)
        shown = targets.to(rarity.dtype) @ rarity
        ratio = rarity / shown[:, None]
        return self.constants.floor + torch.sigmoid(self.constants.steepness * (ratio - self.constants.centre))


def distribution_balanced(
    statistics: LabelStatistics, gamma: float, constants: BalanceConstants | None = None
) -> DistributionBalanced:
    """The loss with the frequencies of the training data."""
    chosen = constants or BalanceConstants()
    half = 0.5 / statistics.items
    frequency = np.clip(statistics.frequencies, half, 1 - half)
    bias = -chosen.bias / chosen.negative_scale * np.log(1 / frequency - 1)
    rarity = 1 / np.maximum(statistics.counts, 1)
    return DistributionBalanced(PerLabel(rarity), PerLabel(bias), gamma, chosen)


def positive_weights(statistics: LabelStatistics, cap: float) -> FloatArray:
    """(L,): items without the label over items with it, at most ``cap``; the weight that makes both sides equal.

    ``cap`` also for a label that no item carries. A label that all carry counts as if one item lacked it, for 0 would
    switch its output off.
    """
    without = np.maximum(statistics.items - statistics.counts, 1)
    ratio = without / np.maximum(statistics.counts, 1)
    weights: FloatArray = np.where(statistics.counts > 0, np.minimum(ratio, cap), cap)
    return weights
