"""Token masking as augmentation: a share of the input is hidden, anew in each pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lorascope.training.encoding_parts import Row


class MaskedRows(Dataset[Row]):
    """Training rows with each input token replaced with probability ``share``; special tokens and labels stay.

    The mask token comes in their place; with a tokenizer that has none, as decoders' have, a token drawn with the
    frequency it has in these rows (unigram noise, Xie et al., arXiv 1703.02573). Labels keep the true token.

    What is replaced depends on the seed, the epoch and the row's place alone: it is new in each epoch, and the same
    after a resume, in any worker process and in any batch. Within an epoch a row that is drawn again is the same.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: Any, share: float, *, seed: int) -> None:
        """Hide ``share`` (0–1) of the tokens of ``rows``."""
        self._rows, self._share, self._seed, self._epoch = rows, share, seed, 0
        self._special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
        self._mask: int | None = tokenizer.mask_token_id
        self._noise = self._frequencies() if self._mask is None else None

    def _frequencies(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ordinary tokens of the rows and the cumulative shares of each."""
        counts = np.zeros(1, dtype=np.int64)
        for row in self._rows:
            own = np.bincount(row["input_ids"], minlength=len(counts))
            own[: len(counts)] += counts
            counts = own
        counts[self._special[self._special < len(counts)]] = 0
        tokens = np.flatnonzero(counts)
        return tokens, np.cumsum(counts[tokens]) / max(1, counts.sum())

    @property
    def note(self) -> str:
        """What is done, for the run's log."""
        by = "the mask token" if self._mask is not None else "tokens drawn from the training data"
        return f"{self._share:.0%} of the input tokens are replaced by {by}, anew in each epoch"

    def set_epoch(self, epoch: int) -> None:
        """Draw anew from now on; the loader calls it before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        row = self._rows[index]
        draws = np.random.default_rng((self._seed, self._epoch, index))
        ids = np.array(row["input_ids"], dtype=np.int64)
        hidden = (draws.random(len(ids)) < self._share) & ~np.isin(ids, self._special)
        if not hidden.any():
            return row
        if self._mask is not None:
            ids[hidden] = self._mask
        elif self._noise is not None:
            tokens, cumulative = self._noise
            drawn = np.searchsorted(cumulative, draws.random(int(hidden.sum())), side="right")
            ids[hidden] = tokens[drawn.clip(max=len(tokens) - 1)]
        return {**row, "input_ids": ids.tolist()}
