"""Sampling that an item decides alone: its draws do not depend on what shares its batch.

Every answer has its own stream of uniform numbers, made from the seed, the item's content and the answer's number.
A token is the inverse of the cumulative distribution, in the vocabulary's order, at the next of these numbers. So base
and adapted checkpoint meet the same chance, and where their distributions are equal they write the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorascope.schema.suite import Sampling

_VALUES_AT_ONCE = 2**23


def rows_at_once(vocabulary: int) -> int:
    """Of how many rows the next tokens are drawn at once, so that the distributions' copies stay small."""
    return max(1, _VALUES_AT_ONCE // vocabulary)


class Pick(Protocol):
    """Chooses the next token of every row."""

    def __call__(self, logits: Tensor, chances: Sequence[float]) -> list[int]:
        """One token per row of ``logits`` (rows, vocabulary), given one uniform number in [0, 1) per row."""


def greedy(logits: Tensor, chances: Sequence[float]) -> list[int]:
    """The most probable token of each row, the first of equals; chance has no part in it."""
    return [int(token) for token in logits.argmax(dim=-1).tolist()]


class Sampler:
    """Draws from the distribution after temperature, then ``top_k``, then ``top_p``, in that order as is usual.

    Tokens as probable as the last one that a limit keeps are kept too, so no choice is left to the order of sorting.
    """

    def __init__(self, sampling: Sampling) -> None:
        """Draw as ``sampling`` says; its ``seed`` and ``n`` are for :func:`uniform_numbers`."""
        self._sampling = sampling

    def __call__(self, logits: Tensor, chances: Sequence[float]) -> list[int]:
        """One token per row of ``logits`` (rows, vocabulary), given one uniform number in [0, 1) per row."""
        at_once = rows_at_once(logits.shape[-1])
        parts = [slice(begin, begin + at_once) for begin in range(0, len(logits), at_once)]
        return [token for part in parts for token in self._drawn(logits[part], chances[part])]

    def _drawn(self, logits: Tensor, chances: Sequence[float]) -> list[int]:
        # Float64, which not every device has, keeps rounding away from the steps of the cumulative distribution.
        exact = logits.double() if logits.device.type in {"cpu", "cuda"} else logits.cpu().double()
        probabilities = self._kept(exact / self._sampling.temperature)
        cumulative = probabilities.cumsum(dim=-1)
        aims = torch.tensor(chances, dtype=torch.float64, device=cumulative.device)[:, None] * cumulative[:, -1:]
        found = torch.searchsorted(cumulative, aims, right=True)[:, 0]
        return [int(token) for token in found.clamp(max=logits.shape[-1] - 1).tolist()]

    def _kept(self, scores: Tensor) -> Tensor:
        """Probabilities (not normalised again) in which what the limits leave out is 0."""
        top_k, top_p = self._sampling.top_k, self._sampling.top_p
        if top_k is not None and top_k < scores.shape[-1]:
            smallest = scores.topk(top_k, dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < smallest, float("-inf"))
        probabilities = scores.softmax(dim=-1)
        if top_p >= 1:
            return probabilities
        ordered = probabilities.sort(dim=-1, descending=True).values
        kept = (ordered.cumsum(dim=-1) - ordered < top_p).sum(dim=-1, keepdim=True).clamp(min=1)
        return probabilities.masked_fill(probabilities < ordered.gather(1, kept - 1), 0.0)


def uniform_numbers(seed: int, content: str, answer: int, count: int) -> NDArray[np.float64]:
    """The numbers in [0, 1) that decide the first ``count`` tokens of one answer to the item with that content."""
    digest = hashlib.sha256(f"{seed}/{answer}/{content}".encode()).digest()
    numbers: NDArray[np.float64] = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16]))).random(count)
    return numbers
