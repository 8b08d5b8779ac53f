"""Corrections for the many tests of one gate.

Only the FAIL test is corrected: each of many unchanged measurements has its own chance of a false alarm, and together
they raise one often. PASS needs no correction: every row has to earn it by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorascope.gates.judging import FloatArray
from lorascope.measures.significance import holm_columns
from lorascope.schema.policy import Correction


def adjusted(correction: Correction, p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values in the order given; None stays None and does not count as a test. All None for 'none'."""
    if correction == "none":
        return [None] * len(p_values)
    found = adjusted_columns(correction, np.array([np.nan if p is None else p for p in p_values])[:, np.newaxis])
    return [None if p is None else float(found[place, 0]) for place, p in enumerate(p_values)]


def adjusted_columns(correction: Correction, p_values: FloatArray) -> FloatArray:
    """Adjusted p-values of families side by side, (tests, families); NaN stays NaN and does not count as a test.

    'holm' (Holm 1979): the k-th smallest of m is multiplied by m − k + 1, and none is below one before it. It bounds
    the probability of any false FAIL in the family, whatever the measurements share. 'benjamini-hochberg' (1995): the
    k-th smallest is multiplied by m / k, and none is above one after it. It bounds the expected share of false FAILs
    among the FAILs; where nothing changed that is the probability of any, so that the gate as a whole keeps its error
    rate, while a FAIL beside true ones may be false. It takes metrics that are independent or rise and fall together,
    as those over the same items do. 'none' gives the p-values themselves.
    """
    if correction == "none" or not len(p_values):
        return p_values
    if correction == "holm":
        return holm_columns(p_values)
    order = np.argsort(p_values, axis=0, kind="stable")  # NaN last
    ranked = np.take_along_axis(p_values, order, axis=0)
    tests = np.count_nonzero(np.isfinite(p_values), axis=0)
    ranks = np.arange(len(p_values))[:, np.newaxis]
    scaled = np.where(np.isnan(ranked), np.inf, ranked) * tests / (ranks + 1)
    ranked = np.where(np.isnan(ranked), np.nan, np.minimum.accumulate(scaled[::-1], axis=0)[::-1])
    found = np.empty_like(p_values)
    np.put_along_axis(found, order, ranked, axis=0)
    return np.minimum(found, 1.0)
