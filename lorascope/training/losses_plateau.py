"""The base-rate plateau of any loss: the lowest that it gets while every item has the same outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lorascope.errors import DataError
from lorascope.training.label_statistics import BoolArray, FloatArray
from lorascope.training.losses import LossFunction

_MOST_CELLS = 4_000_000


def plateau_loss(
    loss: LossFunction, truth: BoolArray, *, multi: bool, weights: Sequence[float] | FloatArray | None = None
) -> float:
    """Mean ``loss`` over items with true labels ``truth`` (n, L), at the constant logits (L,) that make it lowest.

    For plain BCE the mean entropy of the label frequencies, for cross-entropy the entropy of the classes; for others
    what their weights and factors make of it, found by L-BFGS from the frequencies. ``weights`` (n,) are those by which
    items are drawn or counted (:func:`lorascope.training.sampling.balanced_weights`, sample weights, or their product);
    None: all alike. Their size does not matter. Beyond four million cells a fixed random part of the items stands for
    all, whose plateau is within about 1 %.

    Raises:
        DataError: items without exactly one label where ``multi`` is False.
    """
    if not multi and (truth.sum(axis=1) != 1).any():
        raise DataError("an item of a single-label task has not exactly one label", remedy="give one label an item")
    rows, shares = _distinct(truth, weights)
    frequency = torch.from_numpy(np.clip(shares @ rows / len(rows), 0.5 / len(truth), 1 - 0.5 / len(truth)))
    start = torch.logit(frequency) if multi else torch.log(frequency)
    targets = torch.from_numpy(rows.astype(np.float64) if multi else rows.argmax(axis=1))
    return _lowest(loss, start, targets, torch.from_numpy(shares))


def _distinct(truth: BoolArray, weights: Sequence[float] | FloatArray | None) -> tuple[BoolArray, FloatArray]:
    """Label sets that occur, and their weights of mean 1."""
    given = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    most = max(1, _MOST_CELLS // truth.shape[1])
    if len(truth) > most:
        chosen = np.random.default_rng(0).choice(len(truth), most, replace=False)
        truth, given = truth[chosen], given[chosen]
    rows, place = np.unique(truth, axis=0, return_inverse=True)
    sums = np.bincount(place.reshape(-1), weights=given)
    shares: FloatArray = sums / sums.mean()
    return rows, shares


def _lowest(loss: LossFunction, start: Tensor, targets: Tensor, shares: Tensor) -> float:
    constant = start.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([constant], max_iter=100, tolerance_change=1e-9, line_search_fn="strong_wolfe")
    found: list[float] = []

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(constant.expand(len(targets), -1), targets, weights=shares)
        value.backward()  # type: ignore[no-untyped-call]
        found.append(float(value.detach()))
        return value

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    return min(found)
