"""What the losses say of the learning rate: a warm-up too short, a rate too high, a rate too low."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorascope.measures.core import FloatArray
from lorascope.measures.curve_points import Points, Strips, at_steps, bend_noise, course_noise, scaled, strips, trend

_PEAK = 0.98
_HUMP_ROWS = 4
_AFTER_PEAK, _AT_PEAK = 0.15, 0.04
_JUMP = float(np.log(1.2))
_DEVIATIONS = 5.0
_HIGH_RATE, _LOW_RATE = 0.6, 0.25
_RATE_STRIPS = 24
_STEADY = (0.6, 1.8)
_SMALLEST_FALL = 0.05


@dataclass(frozen=True)
class WarmUp:
    """A loss that jumps as the learning rate arrives at its peak, and comes back.

    ``peak_step``: first row at the peak rate; ``jump_step``: the highest loss after it; ``before`` and ``jump``: losses
    (medians of three rows); ``recovered``: first step back below ``before``; ``gradient``: factor by which the gradient
    norm stood above its later median there (None where it was not logged).
    """

    peak_step: int
    jump_step: int
    before: float
    jump: float
    recovered: int
    gradient: float | None


def find_short_warm_up(train: Points, learning_rate: Points, gradient_norm: Points | None = None) -> WarmUp | None:
    """A hump of 20 % and five deviations in the 15 % of the run after the peak of the learning rate, then a return.

    The hump is measured in medians of three rows against the lowest before it, which lies within 4 % of the run (or
    three rows) of the peak; four rows at least stand above half of it, so that a single spike does not count; a
    gradient norm that is logged must stand half above its later median at the hump. None without a learning rate, or
    where the peak lies past half of the run.
    """
    from scipy.ndimage import median_filter

    if len(train) < 15 or not len(learning_rate):
        return None
    top = float(learning_rate.values.max())
    if top <= 0:
        return None
    peak_step = float(learning_rate.steps[int(np.argmax(learning_rate.values >= _PEAK * top))])
    start, run = float(train.steps[0]), float(train.steps[-1] - train.steps[0])
    if peak_step > start + run / 2:
        return None
    values = scaled(train.values)
    smooth = np.asarray(median_filter(values, size=3, mode="nearest"))
    first = max(1, int(np.searchsorted(train.steps, peak_step)) - 2)
    stop = min(len(smooth) - 3, max(first + 6, int(np.searchsorted(train.steps, peak_step + _AFTER_PEAK * run))))
    if stop - first < 2:
        return None
    jump = first + int(np.argmax(smooth[first:stop] - np.minimum.accumulate(smooth)[first:stop]))
    before = float(smooth[:jump].min())
    lowest = int(np.argmin(smooth[:jump]))
    if smooth[jump] - before < max(_JUMP, _DEVIATIONS * course_noise(values)):
        return None
    near = max(_AT_PEAK * run, float(np.median(np.diff(train.steps))) * 3)
    if abs(float(train.steps[lowest]) - peak_step) > near:
        return None
    back = np.flatnonzero(smooth[jump:] <= before)
    hump = values[lowest : jump + int(back[0])] if len(back) else values[:0]
    if int((hump > (before + smooth[jump]) / 2).sum()) < _HUMP_ROWS:
        return None
    factor = _gradient_factor(gradient_norm, float(train.steps[lowest]), float(train.steps[jump]))
    if not len(back) or (factor is not None and factor < 1.5):
        return None
    return WarmUp(
        peak_step=int(peak_step),
        jump_step=int(train.steps[jump]),
        before=float(np.median(train.values[max(0, lowest - 1) : lowest + 2])),
        jump=float(np.median(train.values[max(0, jump - 1) : jump + 2])),
        recovered=int(train.steps[jump + int(back[0])]),
        gradient=factor,
    )


def _gradient_factor(gradient_norm: Points | None, since: float, jump: float) -> float | None:
    if gradient_norm is None or not len(gradient_norm):
        return None
    near = gradient_norm.within(since, jump + 1e-9).values
    later = gradient_norm.values[gradient_norm.steps > jump]
    if not len(near) or len(later) < 3 or np.median(later) <= 0:
        return None
    return float(near.max() / np.median(later))


@dataclass(frozen=True)
class HighRate:
    """A loss that falls only as the learning rate decays.

    ``until``: last step of the high phase (60 % of the peak and more); ``high_change``: of the loss over the second
    half of that phase, ``decay_change`` from there to the end, as shares (below 0: it fell); ``noise_ratio``: noise of
    the rows in the high phase over that at low rates (None with fewer than ten rows in one).
    """

    until: int
    rate: float
    high_change: float
    decay_change: float
    noise_ratio: float | None


def find_high_rate(train: Points, learning_rate: Points) -> HighRate | None:
    """No sure fall in the later two thirds of the high phase, and at low rates 10 % and three deviations below it.

    The change in the high phase must also be less than 0.4 of that fall, and its 95 % interval end before 1.2 of it.

    None where the rate was not logged, does not decay below 25 % of its peak, or either phase has too few rows.
    """
    cut, rates = _with_rates(train, learning_rate)
    if cut is None or rates.max() <= 0 or rates[-1] > _LOW_RATE * rates.max():
        return None
    peak = int(np.argmax(rates >= _PEAK * rates.max()))
    high = np.flatnonzero(rates >= _HIGH_RATE * rates.max())
    last = int(high[-1])
    start = peak + (last - peak) // 3
    if last - start < 4 or len(cut) - 1 - last < 3:
        return None
    line = trend(cut.steps[start : last + 1], cut.levels[start : last + 1])
    plateau = float(np.median(cut.levels[start : last + 1]))
    low = rates <= _LOW_RATE * rates.max()
    low[: last + 1] = False
    fall = plateau - float(np.median(cut.levels[low]))
    if line is None or fall < max(0.1, 3 * cut.noise):
        return None
    if line.high < 0 or line.change < -0.4 * fall or line.low < -1.2 * fall:
        return None
    until = float(cut.last[last])
    return HighRate(
        until=int(until),
        rate=float(learning_rate.values.max()),
        high_change=float(np.expm1(line.change)),
        decay_change=float(np.expm1(-fall)),
        noise_ratio=_noise_ratio(
            train, float(cut.first[start]), until, float(cut.steps[rates <= _LOW_RATE * rates.max()][0])
        ),
    )


def _noise_ratio(train: Points, start: float, until: float, low_from: float) -> float | None:
    values = scaled(train.values)
    loud = values[(train.steps >= start) & (train.steps <= until)]
    calm = values[train.steps >= low_from]
    if len(loud) < 10 or len(calm) < 10 or bend_noise(calm) == 0:
        return None
    return bend_noise(loud) / bend_noise(calm)


def _with_rates(train: Points, learning_rate: Points) -> tuple[Strips | None, FloatArray]:
    if len(train) < _RATE_STRIPS or len(learning_rate) < 3:
        return None, np.empty(0)
    cut = strips(train, _RATE_STRIPS)
    rates = at_steps(learning_rate, np.clip(cut.steps, learning_rate.steps[0], learning_rate.steps[-1]))
    return cut, rates


@dataclass(frozen=True)
class LowRate:
    """A loss that still falls as steadily, per unit of learning rate spent, as it did before.

    ``fallen``: by what share it fell in all; ``steadiness``: fall over the second half of the learning rate's sum over
    the fall over the first half (1: a straight line; a run that settles is far below); ``loss``: at the end;
    ``half_step``: where half of the learning rate's sum was spent, ``late_fall``: share of the loss by which it fell
    since.
    """

    fallen: float
    steadiness: float
    loss: float
    half_step: int
    late_fall: float


def find_low_rate(train: Points, learning_rate: Points | None) -> LowRate | None:
    """A steadiness of 0.6 to 1.8 with a sure fall (Theil–Sen, 95 %) of 5 % in the second half.

    Beyond 1.8 the start did nothing, which is another fault. Progress is measured against the sum of learning rates
    and not against steps, for a rate that decays to 0 flattens every curve; without a logged rate, against steps.
    None for fewer than 24 rows.
    """
    if len(train) < _RATE_STRIPS:
        return None
    cut = strips(train, _RATE_STRIPS, values=train.values)
    spent = _spent(cut, learning_rate)
    if spent is None or not spent[-1] > 0:
        return None
    middle = int(np.searchsorted(spent, spent[-1] / 2))
    if middle < 3 or len(cut) - middle < 3:
        return None
    opening, half, end = (float(np.median(part)) for part in _ends(cut.levels, middle))
    line = trend(spent[middle:], cut.levels[middle:])
    if opening <= half or line is None or line.high >= 0 or -line.change < _SMALLEST_FALL * opening:
        return None
    steadiness = -line.change / (opening - half)
    if not _STEADY[0] <= steadiness <= _STEADY[1]:
        return None
    return LowRate(
        fallen=1 - end / opening,
        steadiness=float(steadiness),
        loss=end,
        half_step=int(cut.steps[middle]),
        late_fall=-line.change / half if half > 0 else 0.0,
    )


def _ends(levels: FloatArray, middle: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    return levels[:2], levels[middle - 1 : middle + 2], levels[-2:]


def _spent(cut: Strips, learning_rate: Points | None) -> FloatArray | None:
    """Sum of learning rates up to each strip's middle, from the first strip's."""
    if learning_rate is None or len(learning_rate) < 3:
        return np.asarray(cut.steps - cut.steps[0])
    rates = np.clip(np.interp(cut.steps, learning_rate.steps, learning_rate.values), 0, None)
    moves = np.diff(cut.steps) * (rates[1:] + rates[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(moves)])
