"""Spikes of the training loss: single jumps above its trend, and whether the loss came back from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorascope.measures.core import BoolArray, FloatArray
from lorascope.measures.curve_points import NORMAL, Points, median, scaled

_FEWEST = 15
_WINDOW = 11
_SPREAD_WINDOW = 31
_DEVIATIONS = 6.0
_SHARE = 0.1
_OVER_DIPS = 1.5
_RETURN_DEVIATIONS = 3.0
_RETURN_ROWS = 3
_BLOCK = 1024


@dataclass(frozen=True)
class Spike:
    """One jump, highest at ``step`` and above its trend from ``since`` on.

    ``height``: loss at the peak over the trend there (NaN for losses below 0). ``recovered``: first step of its return,
    or None: it and the median of three rows from it on are within three deviations (or 10 %) of the level before.
    """

    since: int
    step: int
    loss: float
    height: float
    recovered: int | None


def find_spikes(train: Points, gradient_norm: Points | None = None) -> tuple[Spike, ...] | None:
    """Jumps six robust deviations, and 10 %, above the running median, and half as high again as the deepest dip.

    The last rule keeps noise with heavy tails, which reaches as far down as up, from passing for spikes. With a
    gradient norm it must stand above its own trend by half at that row or beside it. The first row never counts: a
    loss that falls from its start has not jumped. None for fewer than 15 rows.
    """
    if len(train) < _FEWEST:
        return None
    values = scaled(train.values)
    trend, spread, high = _jumps(values)
    if gradient_norm is not None and len(gradient_norm):
        high &= _gradient_agrees(train, gradient_norm)
    found = []
    returns = _Returns(values)
    has_height = bool(train.values.min() >= 0)
    borders = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]]).astype(np.int8)))
    for start, stop in zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True):
        if start == 0:
            continue
        peak = start + int(np.argmax(train.values[start:stop]))
        back = returns.first(peak + 1, _bound(values, start, float(spread[peak])))
        found.append(
            Spike(
                since=int(train.steps[start]),
                step=int(train.steps[peak]),
                loss=float(train.values[peak]),
                height=float(np.exp(values[peak] - trend[peak])) if has_height else float("nan"),
                recovered=None if back is None else int(train.steps[back]),
            )
        )
    return tuple(found)


def _jumps(values: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    from scipy.ndimage import median_filter

    course = median_filter(values, size=_WINDOW, mode="reflect")
    residual = values - course
    # The spread comes from steps between neighbours: residuals off a running median are too often exactly 0. The
    # local spread counts where it is larger than the overall one.
    moves = np.abs(np.diff(values))
    local = median_filter(moves, size=_SPREAD_WINDOW, mode="reflect")
    spread = NORMAL / np.sqrt(2) * np.maximum(np.append(local, local[-1]), np.median(moves))
    over_dips = residual > _OVER_DIPS * max(0.0, -float(residual[1:].min()))
    return course, spread, np.asarray((residual > _DEVIATIONS * spread) & (residual > np.log1p(_SHARE)) & over_dips)


def _bound(values: FloatArray, start: int, spread: float) -> float:
    before = median(values[max(0, start - _WINDOW // 2) : start])
    return before + max(_RETURN_DEVIATIONS * spread, float(np.log1p(_SHARE)))


class _Returns:
    """Where a curve is back below a level, for many jumps of a long curve: lowest values by block lead there."""

    def __init__(self, values: FloatArray) -> None:
        """Take the higher one of each row and the median of three rows from it on (of fewer at the end)."""
        at_end = [median(values[row : row + _RETURN_ROWS]) for row in range(max(len(values) - 2, 0), len(values))]
        rows = np.lib.stride_tricks.sliding_window_view(values, _RETURN_ROWS)
        self._levels = np.maximum(values, np.concatenate([np.median(rows, axis=1), at_end]))
        self._lowest = np.minimum.reduceat(self._levels, np.arange(0, len(values), _BLOCK))

    def first(self, row: int, bound: float) -> int | None:
        """The first row from ``row`` on that is at the level or below; None where there is none."""
        block = row // _BLOCK
        here = np.flatnonzero(self._levels[row : (block + 1) * _BLOCK] <= bound)
        if len(here):
            return row + int(here[0])
        later = np.flatnonzero(self._lowest[block + 1 :] <= bound)
        if not len(later):
            return None
        start = (block + 1 + int(later[0])) * _BLOCK
        return start + int(np.argmax(self._levels[start : start + _BLOCK] <= bound))


def _gradient_agrees(train: Points, gradient_norm: Points) -> BoolArray:
    """Steps without a gradient norm, or whose gradient norm, or a neighbour's, stands above its own trend by half."""
    from scipy.ndimage import maximum_filter1d, median_filter

    at = np.minimum(np.searchsorted(gradient_norm.steps, train.steps), len(gradient_norm) - 1)
    known = np.where(gradient_norm.steps[at] == train.steps, gradient_norm.values[at], np.nan)
    filled = np.where(np.isfinite(known), known, np.nanmedian(known) if np.isfinite(known).any() else 0.0)
    course = median_filter(filled, size=_WINDOW, mode="nearest")
    return np.asarray((maximum_filter1d(filled, size=3) > 1.5 * course) | ~np.isfinite(known))
