"""Curves as arrays: cleaned, on a scale where noise has one size, in strips, with robust slopes.

A loss has noise in proportion to its height, so it is read in logarithms; a small share of its largest level is added
first, for near 0 a doubling means nothing. Long curves are read in strips (medians of consecutive rows): a strip has
less noise than a row, and what is read no longer depends on how often a run logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import FloatArray, IntArray

NORMAL = 1.4826  # a normal distribution's standard deviation per median absolute deviation
_FLOOR = 0.02  # of the curve's largest level, added before logarithms
_MEDIAN_LOSS = 1.2533  # standard error of a median of many normal values, in those of the mean
_FULL_LEVEL = 9
_COURSE_WINDOW = 11
_MOST_FITTED = 400

Column = Sequence[float] | Sequence[int] | FloatArray | IntArray
Curve = tuple[Column, Column]


@dataclass(frozen=True)
class Points:
    """Finite values over rising steps; ``broken`` are the steps whose value is NaN or infinite."""

    steps: FloatArray
    values: FloatArray
    broken: FloatArray

    def __len__(self) -> int:
        return len(self.steps)

    def without(self, stretches: Sequence[tuple[float, float]]) -> Points:
        """The points outside of the stretches first ≤ step < end."""
        borders = np.array(stretches, dtype=np.float64).reshape(-1, 2)
        borders = borders[borders[:, 0] < borders[:, 1]]
        opened, closed = (
            np.bincount(np.searchsorted(self.steps, side), minlength=len(self.steps) + 1) for side in borders.T
        )
        kept = np.cumsum(opened - closed)[: len(self.steps)] == 0
        return Points(self.steps[kept], self.values[kept], self.broken)

    def within(self, after: float, until: float) -> Points:
        """The points with after < step ≤ until."""
        kept, lost = (self.steps > after) & (self.steps <= until), (self.broken > after) & (self.broken <= until)
        return Points(self.steps[kept], self.values[kept], self.broken[lost])


def cleaned(curve: Curve, name: str) -> Points:
    """Sort by step; of a step that occurs twice (a resumed run) the later entry holds.

    Raises DataError where steps and values differ in number.
    """
    steps, values = (np.asarray(column, dtype=np.float64) for column in curve)
    if steps.shape != values.shape or steps.ndim != 1:
        raise DataError(f"the {name} curve has {steps.size} steps and {values.size} values", remedy="mend the log")
    named = np.isfinite(steps)
    order = np.argsort(steps[named], kind="stable")
    steps, values = steps[named][order], values[named][order]
    latest = np.append(np.diff(steps) > 0, True)[: len(steps)]
    steps, values = steps[latest], values[latest]
    finite = np.isfinite(values)
    return Points(steps[finite], values[finite], steps[~finite])


def unmasked(losses: Points, gradient_norm: Points) -> Points:
    """Losses of exactly 0 beside a gradient norm that is no number count as broken.

    Trainers that filter NaN from the mean loss of their log write 0 there.
    """
    hidden = (losses.values == 0) & np.isin(losses.steps, gradient_norm.broken)
    broken = np.sort(np.concatenate([losses.broken, losses.steps[hidden]]))
    return Points(losses.steps[~hidden], losses.values[~hidden], broken)


def at_steps(points: Points, steps: FloatArray) -> FloatArray:
    """Values at the given steps, linear between the points, NaN outside of them."""
    if not len(points):
        return np.full(len(steps), np.nan)
    return np.asarray(np.interp(steps, points.steps, points.values, left=np.nan, right=np.nan))


def scaled(values: FloatArray) -> FloatArray:
    """Logarithms of the values above a small floor: a difference of 0.1 is about 10 %.

    A curve with values below 0 is divided by its median size instead; differences are shares of that size then.
    """
    if not len(values):
        return values
    if values.min() < 0:
        size = float(np.median(np.abs(values)))
        return np.asarray(values / size) if size > 0 else values
    floor = _FLOOR * _full_level(values)
    return np.asarray(np.log(values + floor)) if floor > 0 else values


def _full_level(values: FloatArray) -> float:
    """The largest median of a tenth of the curve, so that a single spike does not set the scale."""
    size = max(1, min(_FULL_LEVEL, len(values) // 10))
    whole = len(values) // size * size
    parts = np.sort(values[:whole].reshape(-1, size), axis=1)
    levels = parts[:, (size - 1) // 2] / 2 + parts[:, size // 2] / 2
    return max(float(levels.max()), median(values[whole:]) if whole < len(values) else -np.inf)


def median(values: FloatArray) -> float:
    """As numpy's median, without its overhead for the few values of a strip."""
    ordered, count = np.sort(values), len(values)
    return float(ordered[(count - 1) // 2]) / 2 + float(ordered[count // 2]) / 2


@dataclass(frozen=True)
class Strips:
    """A curve in strips of equal count: first, middle and last step, and level (median, scaled) of each.

    ``noise`` is the standard deviation of one strip's level about a smooth course; ``row_noise`` that of a row.
    """

    first: FloatArray
    steps: FloatArray
    last: FloatArray
    levels: FloatArray
    noise: float
    row_noise: float

    def __len__(self) -> int:
        return len(self.levels)


def strips(points: Points, most: int, *, values: FloatArray | None = None) -> Strips:
    """Cut the points into at most ``most`` strips; ``values`` default to the scaled ones.

    The noise of a level is the larger one of two estimates: from the bends of the course of the strips, which sees
    noise that neighbours share, and from the rows within, which is steady where the strips are few.
    """
    values = scaled(points.values) if values is None else values
    count = min(most, len(points))
    parts = np.array_split(np.arange(len(points)), count) if count else []
    levels = np.array([median(values[part]) for part in parts])
    row_noise = course_noise(values)
    size = len(points) / count if count else 1
    within = row_noise * (_MEDIAN_LOSS if size > 2 else 1.0) / np.sqrt(size)
    return Strips(
        first=np.array([points.steps[part[0]] for part in parts]),
        steps=np.array([median(points.steps[part]) for part in parts]),
        last=np.array([points.steps[part[-1]] for part in parts]),
        levels=levels,
        noise=max(bend_noise(levels), float(within)),
        row_noise=row_noise,
    )


def bend_noise(values: FloatArray) -> float:
    """Standard deviation of noise from second differences (median), in which a straight trend has no part."""
    if len(values) < 3:
        return 0.0
    return float(NORMAL * np.median(np.abs(np.diff(values, n=2))) / np.sqrt(6))


def course_noise(values: FloatArray) -> float:
    """Standard deviation of rows about their course: from bends, or about a running median where that is larger.

    Noise that neighbouring rows share hides from bends; of the distances to the running median 68 % lie within.
    """
    from scipy.ndimage import median_filter

    if len(values) < _COURSE_WINDOW:
        return bend_noise(values)
    residual = np.abs(values - median_filter(values, size=_COURSE_WINDOW, mode="reflect"))
    about = float(np.quantile(residual, 0.6827) / np.sqrt(1 - 1 / _COURSE_WINDOW))
    return max(bend_noise(values), about)


@dataclass(frozen=True)
class Trend:
    """Theil–Sen line over a stretch: change from its first to its last point, with a 95 % interval (Sen 1968)."""

    change: float
    low: float
    high: float


def trend(steps: FloatArray, values: FloatArray) -> Trend | None:
    """None for fewer than three points. Of more than 400, medians of neighbours: the line looks at all pairs."""
    from scipy.stats import theilslopes

    if len(values) < 3:
        return None
    span = float(steps[-1] - steps[0])
    if len(values) > _MOST_FITTED:
        parts = np.array_split(np.arange(len(values)), _MOST_FITTED)
        steps, values = (np.array([median(column[part]) for part in parts]) for column in (steps, values))
    fitted = theilslopes(values, steps, alpha=0.95)
    return Trend(float(fitted[0]) * span, float(fitted[2]) * span, float(fitted[3]) * span)
