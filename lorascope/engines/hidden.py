"""Hidden states, for the drift of representations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lorascope.engines.base import Size
from lorascope.engines.classification import collate, features
from lorascope.engines.holding import Ready
from lorascope.engines.scoring import not_finite


class HiddenAsker:
    """Per text a (layers, d) array: each layer's states averaged over the text's tokens, special tokens included.

    Layer 0 is the embedding output. Of an encoder–decoder the encoder is read. Long texts lose their right.
    """

    def __init__(self, ready: Ready, texts: Sequence[str]) -> None:
        """Encode the texts."""
        self._ready = ready
        self._rows = [features(ready, text, None)[0] for text in texts]
        self.sizes = [Size(len(row["input_ids"])) for row in self._rows]

    def ask(self, indices: Sequence[int]) -> list[NDArray[np.float32]]:
        """Mean states of the texts at ``indices``."""
        batch = collate(self._ready, [self._rows[index] for index in indices])
        weights = batch["attention_mask"].to(torch.float32)[:, :, None]
        means = [
            (layer[:, -weights.shape[1] :].float() * weights).sum(dim=1) / weights.sum(dim=1)
            for layer in self._states(batch)
        ]
        stacked = torch.stack(means, dim=1).cpu()
        if not torch.isfinite(stacked).all():
            raise not_finite(self._ready)
        return list(stacked.numpy())

    def _states(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        model = self._ready.model
        if self._ready.encoder_decoder:
            model = self._ready.plain.get_encoder()
        states: tuple[torch.Tensor, ...] = model(**batch, output_hidden_states=True).hidden_states
        return states


def by_layer(texts: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """(layers, d) per text into (n, d) per layer."""
    return list(np.stack(texts, axis=1))
