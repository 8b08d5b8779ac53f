"""How likely a model finds running text: bits per byte, perplexity, KL divergence from the base."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import FloatArray, Scored, item_rows, mean_of_items, same_length
from lorascope.measures.registry import define


def score_likelihood(logprobs: Sequence[float], tokens: Sequence[int], byte_counts: Sequence[int]) -> dict[str, Scored]:
    """``bits_per_byte`` and ``perplexity`` over the whole corpus; lower is better in both.

    ``logprobs`` are summed log-probabilities (nats) per text, ``tokens`` how many tokens were predicted, and
    ``byte_counts`` the UTF-8 bytes of the text. Both weigh long texts more: sums are divided, not texts averaged.
    Bits per byte compare across tokenizers; perplexity, per token, does not.

    Raises DataError for a text without a predicted token or byte, and for a positive log-probability.
    """
    same_length(logprobs=logprobs, tokens=tokens, byte_counts=byte_counts)
    nats, predicted = -np.asarray(logprobs, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    bytes_ = np.asarray(byte_counts, dtype=np.float64)
    wrong = np.flatnonzero((predicted < 1) | (bytes_ < 1) | (nats < 0))
    if len(wrong):
        raise DataError(
            "a text needs at least one predicted token, one byte, and a log-probability of 0 or below",
            where=f"item {wrong[0]}", remedy="drop texts too short to be predicted",
        )  # fmt: skip
    bits = np.stack([nats / math.log(2), bytes_], axis=1)
    return {
        "bits_per_byte": Scored(define("bits_per_byte", mean_of_items), bits, "bits_per_byte|corpus|bytes:utf-8"),
        "perplexity": Scored(
            define("perplexity", _perplexity), np.stack([nats, predicted], axis=1), "perplexity|corpus|per:token"
        ),
    }


def _perplexity(sums: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # infinite here, undefined (None) outside
        return np.exp(mean_of_items(sums))


def score_kl(kl_per_token: Sequence[float], tokens: Sequence[int]) -> Scored:
    """``kl_to_base``: mean KL(adapted‖base) in nats per token, from each item's own mean and its token count.

    0 means that the adapter changes nothing on these inputs; it predicts forgetting (arXiv 2509.04259) but is itself
    neither good nor bad. Items are weighed by their tokens.
    """
    same_length(kl_per_token=kl_per_token, tokens=tokens)
    if min(tokens) < 1:
        raise DataError("an item has no tokens", remedy="drop items without tokens")
    return Scored(define("kl_to_base", mean_of_items), item_rows(kl_per_token, tokens), "kl_to_base|per:token")
