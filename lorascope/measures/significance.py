"""Tests of a paired difference, and correction for many of them. Counts include equality: p is never too small.

Comparing with a strict ``>`` makes identical outputs "significant" (p = 0.0001 in one well-known tool): a dead adapter
would read as a changed model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from lorascope.measures.core import FloatArray


def mcnemar(only_base: int, only_adapted: int) -> float:
    """Exact two-sided McNemar test on the items that only one side has right; 1 when there are none."""
    discordant = only_base + only_adapted
    return float(stats.binomtest(only_base, discordant, 0.5).pvalue) if discordant else 1.0


def sign_flip_p(observed: float, swapped: FloatArray) -> float:
    """Approximate randomisation, two-sided: (1 + #{|swapped| ≥ |observed|}) / (1 + resamples).

    Riezler and Maxwell 2005. Swaps that leave the measure undefined count as at least as extreme.
    """
    reached = np.abs(swapped) >= abs(observed) * (1 - 1e-9)
    return float((1 + np.count_nonzero(reached | np.isnan(swapped))) / (1 + len(swapped)))


def bootstrap_p(draws: FloatArray) -> float:
    """Two-sided p-value of a difference of 0 from bootstrap differences, for measures that are not additive."""
    kept = draws[np.isfinite(draws)]
    tail = min(np.count_nonzero(kept <= 0), np.count_nonzero(kept >= 0))
    return float(min(1.0, 2 * (1 + tail) / (1 + len(kept))))


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values that bound the false discovery rate (Benjamini and Hochberg 1995), in the order given.

    None stays None and does not count as a test.
    """
    tested = [p for p in p_values if p is not None]
    if not tested:
        return list(p_values)
    adjusted = iter(stats.false_discovery_control(tested, method="bh").tolist())
    return [None if p is None else float(next(adjusted)) for p in p_values]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values that bound the chance of any false positive (Holm 1979), in the order given.

    None stays None and does not count as a test.
    """
    found = holm_columns(np.array([np.nan if p is None else p for p in p_values], dtype=float)[:, np.newaxis])
    return [None if p is None else float(found[place, 0]) for place, p in enumerate(p_values)]


def holm_columns(p_values: FloatArray) -> FloatArray:
    """Holm's adjustment of families side by side, (tests, families); NaN stays NaN and does not count as a test.

    The k-th smallest of m is multiplied by m - k + 1, and none is below one before it.
    """
    order = np.argsort(p_values, axis=0, kind="stable")  # NaN last
    ranked = np.take_along_axis(p_values, order, axis=0)
    left = np.count_nonzero(np.isfinite(p_values), axis=0) - np.arange(len(p_values))[:, np.newaxis]
    ranked = np.maximum.accumulate(np.minimum(ranked * np.maximum(left, 1), 1.0), axis=0)
    found = np.empty_like(p_values)
    np.put_along_axis(found, order, ranked, axis=0)
    return found
