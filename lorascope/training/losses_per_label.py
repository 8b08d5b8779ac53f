"""One constant a label, at hand on whatever device a loss is computed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lorascope.errors import DataError


class PerLabel:
    """Values (L,) in the order of the head's outputs, or one for all labels; kept on each device once used there."""

    def __init__(self, values: npt.ArrayLike) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        self._placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, logits: Tensor) -> Tensor:
        """The values with the logits' device and precision.

        Raises:
            DataError: the logits (…, L) have another number of labels.
        """
        if self.values.ndim and logits.shape[-1] != len(self.values):
            raise DataError(
                f"the head has {logits.shape[-1]} outputs, the label statistics {len(self.values)} labels",
                remedy="count the labels of the head, in the order of its outputs",
            )
        key = (logits.device, logits.dtype)
        if key not in self._placed:
            self._placed[key] = torch.tensor(self.values, device=logits.device, dtype=logits.dtype)
        return self._placed[key]
