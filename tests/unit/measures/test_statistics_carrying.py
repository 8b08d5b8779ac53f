"""A few items that collapse decide alone, also where all others change by a hair."""

from __future__ import annotations

import numpy as np
import pytest

from lorascope.measures.core import FloatArray, Scored, mean_of_items
from lorascope.measures.registry import define
from lorascope.measures.statistics import PairedResult, paired


def scored(values: FloatArray) -> Scored:
    return Scored(define("rougeL", mean_of_items), np.stack([values, np.ones_like(values)], axis=1), "test")


def compared(differences: FloatArray) -> PairedResult:
    base = np.full_like(differences, 0.5)
    return paired(scored(base), scored(base + differences), margin=None, seed=0, resamples=2_000)


def test_jitter_does_not_make_few_collapses_many() -> None:
    plain = np.zeros(200)
    plain[:4] = -0.4
    jitter = plain + np.random.default_rng(0).normal(0, 1e-4, 200)
    alone, hidden = compared(plain), compared(jitter)
    assert "t with bootstrap" in alone.method
    assert hidden.method == alone.method
    assert (hidden.low, hidden.high) == (pytest.approx(alone.low, abs=1e-3), pytest.approx(alone.high, abs=1e-3))


@pytest.mark.parametrize("shape", ["normal", "laplace"])
def test_ordinary_differences_keep_the_percentile_interval(shape: str) -> None:
    differences = getattr(np.random.default_rng(1), shape)(0, 0.1, 60)
    assert "percentile" in compared(differences).method
