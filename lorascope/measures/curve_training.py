"""What the training loss says by itself: divergence, fluctuation, standing still, stairs at epoch borders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorascope.measures.core import FloatArray, IntArray
from lorascope.measures.curve_points import Points, Strips, course_noise, scaled, strips, trend

_STRIPS = 20
_FEWEST = 10
_RISE = float(np.log(1.25))
_DEVIATIONS = 4.0
_LAST_ROWS = 3
_FINE_STRIPS = 100
_UNRULY = 0.2
_NOISE_SHARE = 0.5
_FLAT = 0.05
_SURELY_FLAT = 0.15
_EARLY = 0.35
_STAIR_ROWS = (4, 10)
_STAIR_DROP = 0.05
_STAIR_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Divergence:
    """A training loss that rose to stay, or is no number any more.

    ``step``: where it began; ``lowest`` and ``final``: the loss before and at the end (medians; None where no number
    is left); ``broken``: steps that were logged as NaN or infinite; ``ends_broken``: whether the last one is such.
    """

    step: int
    lowest: float | None
    final: float | None
    broken: tuple[int, ...]
    ends_broken: bool


def find_divergence(train: Points) -> Divergence | None:
    """A last strip (a 20th of the run) 25 % and four deviations above the lowest level that three strips held.

    A rise in the last three rows or more counts where it is as clear and not on its way back. A loss that breaks off in
    NaN or infinity counts whatever came before. None too for fewer than ten finite rows.
    """
    from scipy.ndimage import median_filter

    ends_broken = bool(len(train.broken)) and (not len(train) or train.broken[-1] > train.steps[-1])
    if ends_broken:
        start = train.broken[train.broken > (train.steps[-1] if len(train) else -np.inf)][0]
        return _divergence(train, float(start), None, ends_broken=True)
    if len(train) < _FEWEST:
        return None
    values = scaled(train.values)
    cut = strips(train, min(_STRIPS, len(train) // 3), values=values)
    held = median_filter(cut.levels, size=_LAST_ROWS, mode="nearest")
    lowest = int(np.argmin(held))
    above = cut.levels > held[lowest] + max(_RISE, _DEVIATIONS * np.sqrt(2) * cut.noise)
    if not above[-1]:
        return _late(train, values, cut, float(held[lowest]), lowest)
    start = cut.first[int(np.flatnonzero(~above)[-1]) + 1] if not above.all() else train.steps[0]
    return _divergence(train, float(start), float(cut.steps[lowest]), ends_broken=False)


def _late(train: Points, values: FloatArray, cut: Strips, level: float, lowest: int) -> Divergence | None:
    """A rise in the last rows alone: three at least, each six deviations and 25 % above the lowest strip."""
    low = values <= level + max(_RISE, 1.5 * _DEVIATIONS * cut.row_noise)
    rows = len(values) - 1 - int(np.flatnonzero(low)[-1]) if low.any() else len(values)
    if rows < _LAST_ROWS or rows == len(values):
        return None
    if values[-1] - level < (values[-rows:].max() - level) / 2:
        return None  # on its way back from a jump
    return _divergence(train, float(train.steps[-rows]), float(cut.steps[lowest]), ends_broken=False)


def _divergence(train: Points, start: float, lowest: float | None, *, ends_broken: bool) -> Divergence:
    around = train.values[train.steps <= start] if lowest is None else _around(train, lowest)
    return Divergence(
        step=int(start),
        lowest=float(np.median(around[-_LAST_ROWS:])) if len(around) else None,
        final=None if ends_broken else float(np.median(train.values[-_LAST_ROWS:])),
        broken=tuple(int(step) for step in train.broken),
        ends_broken=ends_broken,
    )


def _around(train: Points, step: float) -> FloatArray:
    middle = int(np.searchsorted(train.steps, step))
    return train.values[max(0, middle - 1) : middle + 2]


@dataclass(frozen=True)
class Fluctuation:
    """``noise``: robust deviation of the loss about its course, between means over a hundredth of the run, as a share
    of the loss (logarithmic); ``progress``: fall of the course from the first to the last tenth, likewise;
    ``unruly``: noise of 0.2 or more that is half the progress or more.
    """

    noise: float
    progress: float
    unruly: bool


def read_fluctuation(train: Points) -> Fluctuation | None:
    """None for fewer than 30 rows."""
    if len(train) < 30:
        return None
    fine = strips(train, _FINE_STRIPS).levels
    noise = course_noise(fine)
    tenth = max(3, len(fine) // 10)
    progress = float(np.median(fine[:tenth]) - np.median(fine[-tenth:]))
    return Fluctuation(noise, progress, noise >= _UNRULY and noise >= _NOISE_SHARE * progress)


@dataclass(frozen=True)
class Standstill:
    """A training loss that stands still to the end. ``step``: from where on; ``share``: of the run done by then.

    ``level``: the loss there (median); ``fallen``: by what share it had fallen since its start; ``change``: of the
    level from there to the end. ``base_rate``: whether the level is that of a model that knows the label frequencies
    alone (None where that loss was not given).
    """

    step: int
    share: float
    level: float
    fallen: float
    change: float
    base_rate: bool | None


def find_standstill(train: Points, plateau_loss: float | None = None) -> Standstill | None:
    """The earliest strip, in the first third, from which the loss changes by less than 5 % to the end.

    The Theil–Sen line and the strip's own level against the rest change by less than that, and the line's 95 %
    interval lies within ±15 %. None for fewer than 20 rows, and where noise hides a change of that size.
    """
    if len(train) < 20:
        return None
    cut = strips(train, _STRIPS)
    for start in range(int(_EARLY * len(cut)) + 1):
        rest = cut.levels[start:]
        if abs(float(rest[0] - np.median(rest))) > max(_FLAT, 2 * cut.noise):
            continue
        line = trend(cut.steps[start:], rest)
        if line is None or abs(line.change) >= _FLAT or max(abs(line.low), abs(line.high)) >= _SURELY_FLAT:
            continue
        begun = train.steps >= cut.first[start]
        level = float(np.median(train.values[begun]))
        opening = float(np.median(train.values[:_LAST_ROWS])) if start else float(train.values[0])
        run = train.steps[-1] - train.steps[0]
        return Standstill(
            step=int(cut.first[start]),
            share=float((cut.first[start] - train.steps[0]) / run) if run else 0.0,
            level=level,
            fallen=1 - level / opening if opening > 0 else 0.0,
            change=float(line.change),
            base_rate=None if plateau_loss is None else abs(level - plateau_loss) <= _FLAT * abs(plateau_loss),
        )
    return None


@dataclass(frozen=True)
class Stairs:
    """Falls of the training loss at epoch borders beyond its fall within epochs.

    ``steps``: first logged step of each epoch after the first; ``drops``: the fall at each of them as a share of the
    loss (logarithmic); ``excess``: their mean less the mean fall over equal stretches in the middle of epochs.
    """

    steps: tuple[int, ...]
    drops: tuple[float, ...]
    excess: float


def find_stairs(train: Points, epochs: Points) -> Stairs | None:
    """Stairs where the excess is 5 % and four standard errors, and most borders have a fall.

    The fall is the difference of medians of four to ten rows on both sides. None without epochs, for less than two
    whole epochs, or for fewer than eight rows an epoch.
    """
    if len(epochs) < 2 or len(train) < 2 * 2 * _STAIR_ROWS[0]:
        return None
    epoch = np.interp(train.steps, epochs.steps, epochs.values)
    values = scaled(train.values)
    last = epoch[-1]
    per_epoch = len(train) / max(last - max(epoch[0], 0), 1e-9)
    rows = int(min(_STAIR_ROWS[1], per_epoch // 2 - 1))
    if rows < _STAIR_ROWS[0]:
        return None
    first, end = max(1.0, float(np.floor(epoch[0])) + 1), float(np.ceil(last))
    if not 0 < end - first <= len(train):
        return None
    borders = np.arange(first, end)
    starts, drops = _falls(epoch, values, borders, rows)
    _, middles = _falls(epoch, values, np.append(first - 1, borders) + 0.5, rows)
    if not len(drops) or not len(middles):
        return None
    excess = float(drops.mean() - np.mean(middles))
    noise = strips(train, _FINE_STRIPS, values=values).row_noise * np.sqrt(np.pi / rows)
    error = noise * np.sqrt(1 / len(drops) + 1 / len(middles))
    if excess < _STAIR_DROP or excess < _STAIR_DEVIATIONS * error or np.mean(drops > 0.5 * excess) < 0.6:
        return None
    return Stairs(tuple(int(step) for step in train.steps[starts]), tuple(drops.tolist()), excess)


def _falls(epoch: FloatArray, values: FloatArray, at: FloatArray, rows: int) -> tuple[IntArray, FloatArray]:
    """Median level of the rows up to each epoch less that of the rows after it, with the first row after.

    That row is left out of the levels: it is a mean over steps on both sides. Epochs with too few rows are as well.
    """
    borders = np.searchsorted(epoch, at, side="right")
    borders = borders[(borders >= rows) & (borders + 1 + rows <= len(values))]
    window = borders[:, np.newaxis] + np.arange(rows)
    return borders, np.median(values[window - rows], axis=1) - np.median(values[window + 1], axis=1)
