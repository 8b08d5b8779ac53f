"""What a measure is: per-item sufficient statistics, and a function from their sum to a value.

Every interval and every test resamples the statistics and never looks at the texts again, so a corpus BLEU is
recomputed exactly in each resample at the cost of a sum. A measure whose value is no function of a sum (a rank
correlation, an average precision) is marked ``additive=False`` and is recomputed from its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lorascope.errors import DataError
from lorascope.schema.model import Direction

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Scale = Literal["0-1", "0-100", "-1-1", "0-inf", "unbounded"]

_BOUNDS: dict[Scale, tuple[float, float]] = {
    "0-1": (0.0, 1.0),
    "0-100": (0.0, 100.0),
    "-1-1": (-1.0, 1.0),
    "0-inf": (0.0, math.inf),
    "unbounded": (-math.inf, math.inf),
}


@dataclass(frozen=True)
class Measure:
    """One measure and how its value follows from statistics; NaN stands for "undefined" inside this room.

    ``aggregate`` of an additive measure maps summed statistics of shape (..., k) to values of shape (...); of any
    other measure it maps rows (n, k) to one value, and ``resampled`` maps rows (n, k) and item counts (r, n) to the
    r values that the multisets drawn with those counts would have. ``proportion`` declares statistics of two columns
    (successes, trials), each 0 or 1 per item: score intervals and McNemar's test apply to these alone. ``carriers``
    counts the rows that a change has to show itself in, where these are not all rows with a statistic other than 0: a
    macro average is only as well known as its rarest label.
    """

    name: str
    unit: str
    scale: Scale
    direction: Direction
    additive: bool
    aggregate: Callable[[FloatArray], FloatArray]
    proportion: bool = False
    resampled: Callable[[FloatArray, FloatArray], FloatArray] | None = None
    carriers: Callable[[FloatArray], int] | None = None

    def __post_init__(self) -> None:
        if self.additive != (self.resampled is None):
            raise ValueError(f"{self.name}: a measure is either additive or brings its own 'resampled'")

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value that the scale allows."""
        return _BOUNDS[self.scale]

    @property
    def width(self) -> float:
        """Length of the scale, the largest difference that two values can have; infinite on a scale without ends."""
        low, high = self.bounds
        return high - low

    def carried_by(self, rows: FloatArray) -> int:
        """How many of the rows (n, k) the value rests on; see ``carriers``."""
        return int(rows.any(axis=1).sum()) if self.carriers is None else self.carriers(rows)


@dataclass(frozen=True, eq=False)
class Scored:
    """The statistics of one checkpoint's answers under one measure: (n, k), one row per item in the given order."""

    measure: Measure
    statistics: FloatArray
    signature: str

    def __post_init__(self) -> None:
        if self.statistics.ndim != 2:
            raise ValueError(f"statistics of {self.measure.name} have {self.statistics.ndim} axes instead of 2")
        if len(self.statistics) == 0:
            raise DataError(f"{self.measure.name} has no items to score", remedy="give at least one item")
        if not np.isfinite(self.statistics).all():
            raise DataError(
                f"{self.measure.name} was given values that are not finite numbers",
                remedy="look for NaN or infinity in the answers of the model",
            )

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.statistics)

    @property
    def value(self) -> float | None:
        """The measure over all items; None where it is undefined (a precision with nothing predicted, say)."""
        summary = self.statistics.sum(axis=0) if self.measure.additive else self.statistics
        return defined(float(self.measure.aggregate(summary)))

    def item_values(self) -> FloatArray:
        """The measure of each item alone, (n,); NaN where one item has no value (all of them if not additive)."""
        if not self.measure.additive:
            return np.full(self.n, np.nan)
        return np.asarray(self.measure.aggregate(self.statistics), dtype=np.float64)

    def subset(self, indices: IntArray | Sequence[int]) -> Scored:
        """The same measure on some of the items: the statistics are kept, nothing is scored again."""
        return replace(self, statistics=self.statistics[np.asarray(indices, dtype=np.int64)])


def defined(value: float) -> float | None:
    """The value, or None where it is NaN or infinite: undefined numbers do not leave this room."""
    return value if math.isfinite(value) else None


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Element-wise quotient, NaN (undefined) where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator), np.asarray(denominator))
    quotient: FloatArray = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def mean_of_items(sums: FloatArray) -> FloatArray:
    """Aggregate of (Σ value · weight, Σ weight): the mean over items, NaN without any weight."""
    return ratio(sums[..., 0], sums[..., 1])


def item_rows(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> FloatArray:
    """Statistics (n, 2) for :func:`mean_of_items`: each value with weight 1, or with the weights given."""
    column = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(column) if weights is None else np.asarray(weights, dtype=np.float64)
    return np.stack([column * weight, weight], axis=1)


def same_length(**columns: object) -> int:
    """The common length of the named sequences; DataError that names the lengths where they differ or are 0."""
    lengths = {name: len(column) for name, column in columns.items()}  # type: ignore[arg-type]
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise DataError(f"items do not line up: {listed}", remedy="give one entry per item in every sequence")
    length = next(iter(lengths.values()))
    if length == 0:
        raise DataError("there are no items to score", remedy="give at least one item")
    return length
