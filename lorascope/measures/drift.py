"""How far representations moved between base and adapted: linear CKA and mean cosine."""

from __future__ import annotations

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import FloatArray, defined


def _pair(base: FloatArray, adapted: FloatArray) -> tuple[FloatArray, FloatArray]:
    x, y = np.asarray(base, dtype=np.float64), np.asarray(adapted, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) == 0:
        raise DataError(
            f"representations do not line up: {x.shape} and {y.shape}",
            remedy="give (items, features) for the same items",
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("a representation holds NaN or infinity", remedy="check the model's hidden states")
    return x, y


def _centred(x: FloatArray) -> FloatArray:
    """The representations minus their mean; exactly 0 where what is left is rounding of a constant."""
    centred: FloatArray = x - x.mean(axis=0)
    return centred if np.linalg.norm(centred) > 1e-12 * np.linalg.norm(x) else np.zeros_like(x)


def linear_cka(base: FloatArray, adapted: FloatArray) -> float | None:
    """Linear centred kernel alignment of two sets of representations (n, d) of the same items, in 0–1.

    1: the same up to rotation and scale; it does not see a change that all items share. Widths may differ. With few
    items compared with features it is biased upwards. None when either side is constant over the items. Kornblith et
    al. 2019 (arXiv 1905.00414), equation in section 3.
    """
    x, y = _pair(base, adapted)
    x, y = _centred(x), _centred(y)
    if x.shape[1] + y.shape[1] > 2 * len(x):  # the smaller of features × features and items × items
        x_gram, y_gram = x @ x.T, y @ y.T
        shared, own = (x_gram * y_gram).sum(), np.linalg.norm(x_gram) * np.linalg.norm(y_gram)
    else:
        shared = np.linalg.norm(y.T @ x) ** 2
        own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return defined(float(min(shared / own, 1.0))) if own > 0 else None


def mean_cosine(base: FloatArray, adapted: FloatArray) -> float | None:
    """Mean over items of the cosine between the two representations (n, d) of an item, in −1 to 1; 1: same direction.

    Items with an all-zero representation on either side have no direction and are left out; None when none remains.
    """
    x, y = _pair(base, adapted)
    if x.shape != y.shape:
        raise DataError(f"cosines need equal widths, not {x.shape[1]} and {y.shape[1]}", remedy="use linear CKA")
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    kept = lengths > 0
    if not kept.any():
        return None
    return float(((x * y).sum(axis=1)[kept] / lengths[kept]).mean())
