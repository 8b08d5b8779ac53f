"""Which training items an epoch shows: draws by the inverse frequency of the rarest label, the same for one seed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import WeightedRandomSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lorascope.errors import DataError
from lorascope.training.label_statistics import FloatArray, LabelStatistics, label_matrix


def balanced_weights(
    items: Sequence[Collection[str]] | npt.NDArray[np.generic], statistics: LabelStatistics
) -> FloatArray:
    """(n,): how likely each item is drawn, mean 1: the inverse frequency of its rarest label.

    ``items`` are label sets or a matrix (n, L), those that ``statistics`` were counted in. An item without labels has
    the weight of an item with the commonest label alone: it stands for no label that is short of items, and weights by
    the number of such items would draw a single one of them as often as all the items of a label.

    A label on few items is drawn by showing those again and again: watch for over-fitting on them.

    Raises:
        DataError: as :func:`lorascope.training.label_statistics.label_matrix`; an item carries a label that the
            statistics have on none; or no item carries any label.
    """
    matrix = label_matrix(items, statistics.labels)
    uncounted = matrix.any(axis=0) & (statistics.counts == 0)
    if uncounted.any():
        raise DataError(
            f"items carry the label '{statistics.labels[int(uncounted.argmax())]}', which the statistics have on none",
            remedy="count the statistics in the same items",
        )
    if not matrix.any():
        raise DataError(
            "no training item has a label, so there is nothing to balance",
            where="loss.sampler",
            remedy="use 'sampler: shuffled'",
        )
    rarest = np.where(matrix, statistics.counts, statistics.counts.max()).min(axis=1)
    weights: FloatArray = 1.0 / rarest
    scaled: FloatArray = weights / weights.mean()
    return scaled


class BalancedSampler(WeightedRandomSampler):
    """Draws as many items as there are (or ``draws``), with replacement, in proportion to ``weights``.

    The order is a function of the seed and the epoch alone: an epoch begun again after an interruption draws the same
    items, so that skipping its first batches continues where it stopped; every process draws the same order.
    ``set_epoch`` chooses the epoch, from 0; accelerate's data loaders call it on a sampler that has it.
    """

    def __init__(self, weights: Sequence[float] | FloatArray, *, seed: int, draws: int | None = None) -> None:
        super().__init__(
            np.asarray(weights, dtype=np.float64),  # type: ignore[arg-type]  # any array-like is taken
            num_samples=len(weights) if draws is None else draws,
            replacement=True,
            generator=torch.Generator(),
        )
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose items are drawn next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # Neighbouring seeds and epochs would share draws if they were added.
        mixed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
        self.generator.manual_seed(int(mixed[0]))
        yield from super().__iter__()


class HasEpochs(Protocol):
    """What draws anew in each epoch: a sampler, or rows that are masked."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""


class EpochTold(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Tells which epoch begins; the loaders of several processes do not, nor do they after a resume."""

    def __init__(self, told: Sequence[HasEpochs]) -> None:
        """``told`` are the run's own objects."""
        self._told = tuple(told)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose the epoch that begins, or goes on."""
        for each in self._told:
            each.set_epoch(int(state.epoch or 0))
