"""First readings of a training curve: the gap, the best step, over-fitting, spikes, a plateau.

Every reading has a guard against its usual false alarm. The training loss of a log is a lagged mean over a window, so
a validation loss below it early on is normal; the staircase of training losses at epoch borders is memorisation and
not convergence, so plateaus are read from the validation loss alone; noise must not pass for a rise. All of them read
losses: a task metric may still improve while the validation loss rises, which is why both belong in a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import BoolArray, FloatArray, IntArray

_NORMAL = 1.4826  # a normal distribution's standard deviation per median absolute deviation
_GENERALISATION_LOSS = 5.0  # per cent, Prechelt 1998
_SMALLEST_RISE = 1.0  # per cent: successive rises below this are no over-fitting
_RISES = 3
_SPIKE_WINDOW = 11
_SPREAD_WINDOW = 31
_FEWEST_FOR_SPIKES = 15
_SPIKE_DEVIATIONS = 6.0
_SPIKE_SHARE = 0.1
_FLAT_CHANGE = 0.01


@dataclass(frozen=True)
class CurveReading:
    """What a curve says; a reading is None where there are too few points for it.

    ``final_gap``: validation minus training loss at the end (above 0: worse on validation). ``best_step``: step of the
    lowest validation loss, ``best_loss`` that loss. ``overfit_step``: first evaluation of a rise that lasts to the
    end; ``overfit`` says whether there is one (None: too few points). ``generalisation_loss``: per cent by which the
    last validation loss exceeds the lowest (Prechelt 1998). ``spikes``: steps at which the training loss jumped.
    ``plateau``: whether the validation loss stands still over the last third. ``evidence``: sentences with numbers.
    """

    final_gap: float | None = None
    best_step: int | None = None
    best_loss: float | None = None
    overfit: bool | None = None
    overfit_step: int | None = None
    generalisation_loss: float | None = None
    spikes: tuple[int, ...] | None = None
    plateau: bool | None = None
    evidence: tuple[str, ...] = field(default=())


Column = Sequence[float] | Sequence[int] | FloatArray | IntArray
Curve = tuple[Column, Column]


@dataclass(frozen=True)
class _Points:
    steps: FloatArray
    losses: FloatArray

    def __len__(self) -> int:
        return len(self.steps)


def read_curves(train: Curve, evaluation: Curve, *, gradient_norm: Curve | None = None) -> CurveReading:
    """Read (steps, training losses) and (steps, validation losses); either may be empty.

    Points that are not finite are dropped and counted in the evidence; of a step that occurs twice (a resumed run)
    the later entry holds. With ``gradient_norm`` a spike must show there as well. Over-fitting needs four
    evaluations, a plateau six, spikes 15 training points, the gap one evaluation with a training point before it.

    Raises DataError where steps and losses differ in number.
    """
    evidence: list[str] = []
    fitted, judged = _cleaned(train, "training", evidence), _cleaned(evaluation, "validation", evidence)
    overfit, overfit_step = _overfitting(fitted, judged, evidence)
    best = int(np.argmin(judged.losses)) if len(judged) > 1 else None
    return CurveReading(
        final_gap=_final_gap(fitted, judged, evidence),
        best_step=None if best is None else int(judged.steps[best]),
        best_loss=None if best is None else float(judged.losses[best]),
        overfit=overfit,
        overfit_step=overfit_step,
        generalisation_loss=_generalisation_loss(judged),
        spikes=_spikes(fitted, gradient_norm, evidence),
        plateau=_plateau(judged, evidence),
        evidence=tuple(evidence),
    )


def _cleaned(curve: Curve, name: str, evidence: list[str]) -> _Points:
    steps, losses = (np.asarray(column, dtype=np.float64) for column in curve)
    if steps.shape != losses.shape or steps.ndim != 1:
        raise DataError(f"the {name} curve has {steps.size} steps and {losses.size} values", remedy="mend the log")
    latest = {step: loss for step, loss in zip(steps.tolist(), losses.tolist(), strict=True) if np.isfinite(step)}
    kept = sorted((step, loss) for step, loss in latest.items() if np.isfinite(loss))
    if len(kept) < len(latest):
        evidence.append(f"{len(latest) - len(kept)} {name} values are NaN or infinite.")
    return _Points(np.array([step for step, _ in kept]), np.array([loss for _, loss in kept]))


def _final_gap(train: _Points, evaluation: _Points, evidence: list[str]) -> float | None:
    """Last validation loss minus the median training loss of the stretch that led to it (three points at least)."""
    if not len(evaluation):
        return None
    end = evaluation.steps[-1]
    before = np.flatnonzero(train.steps <= end)
    if not len(before):
        return None
    start = evaluation.steps[-2] if len(evaluation) > 1 else -np.inf
    stretch = before[train.steps[before] > start]
    window = before[-max(len(stretch), 3) :]
    level = float(np.median(train.losses[window]))
    gap = float(evaluation.losses[-1] - level)
    evidence.append(
        f"At step {end:g} the validation loss is {evaluation.losses[-1]:.4g}, the training loss {level:.4g}."
    )
    return gap


def _generalisation_loss(evaluation: _Points) -> float | None:
    if len(evaluation) < 2 or evaluation.losses.min() <= 0:
        return None
    return float(100 * (evaluation.losses[-1] / evaluation.losses.min() - 1))


def _noise(losses: FloatArray, lowest: int) -> float:
    """Standard deviation of the noise around the minimum and after it, from second differences.

    A straight trend has none. The descent before the minimum is left out, for its curvature is no noise; four points
    are taken at least.
    """
    bends = np.diff(losses[min(lowest, len(losses) - 4) :], n=2)
    return float(_NORMAL * np.median(np.abs(bends)) / np.sqrt(6))


def _overfitting(train: _Points, evaluation: _Points, evidence: list[str]) -> tuple[bool | None, int | None]:
    """Whether and from where the validation loss rises off its minimum and stays up until the end.

    The rise at the end must exceed three deviations of the noise, and either be more than 5 % above the minimum
    (then it begins where the loss last crossed that level) or close with three successive rises of 1 % in all. A
    training loss that rises as well is divergence, not over-fitting.
    """
    losses, steps = evaluation.losses, evaluation.steps
    if len(losses) < 4:
        return None, None
    lowest = int(np.argmin(losses))
    rise = losses[-1] - losses[lowest]
    if rise <= 3 * _noise(losses, lowest) or losses[lowest] <= 0:
        return False, None
    excess = 100 * (losses / losses[lowest] - 1)
    falls = np.flatnonzero(np.diff(losses) <= 0)
    first_rise = int(falls[-1]) + 2 if len(falls) else 1
    if excess[-1] > _GENERALISATION_LOSS:
        start = int(np.flatnonzero(excess <= _GENERALISATION_LOSS)[-1]) + 1
    elif len(losses) - first_rise >= _RISES and excess[-1] > _SMALLEST_RISE:
        start = first_rise
    else:
        return False, None
    if _also_rises(train, float(steps[lowest])):
        evidence.append(f"After step {steps[lowest]:g} training and validation loss both rise: training diverged.")
        return False, None
    evidence.append(
        f"The validation loss is lowest at step {steps[lowest]:g} ({losses[lowest]:.4g}) and ends {excess[-1]:.1f} % "
        f"above it ({losses[-1]:.4g}); compare the task metric before calling it harmful."
    )
    return True, int(steps[start])


def _also_rises(train: _Points, step: float) -> bool:
    """Whether the median of the last three training losses lies 5 % above that of the three up to ``step``."""
    before, after = train.losses[train.steps <= step][-3:], train.losses[train.steps > step][-3:]
    if not len(before) or not len(after):
        return False
    level = float(np.median(before))
    return float(np.median(after)) - level > _GENERALISATION_LOSS / 100 * abs(level)


def _spikes(train: _Points, gradient_norm: Curve | None, evidence: list[str]) -> tuple[int, ...] | None:
    """Steps whose loss lies six robust deviations, and 10 %, above the running median; the peak of each run of them."""
    if len(train) < _FEWEST_FOR_SPIKES:
        return None
    high = _jumps(train.losses)
    if gradient_norm is not None:
        high &= _gradient_agrees(train, _cleaned(gradient_norm, "gradient norm", evidence))
    found: list[int] = []
    borders = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]]).astype(np.int8)))
    for start, stop in zip(borders[::2], borders[1::2], strict=True):
        if start == 0:
            continue  # a loss that falls from its first value has not jumped
        found.append(int(train.steps[start + int(np.argmax(train.losses[start:stop]))]))
    if found:
        shown = ", ".join(str(step) for step in found[:5]) + (" …" if len(found) > 5 else "")
        evidence.append(f"The training loss jumps above its trend {len(found)} time(s), at step {shown}.")
    return tuple(found)


def _jumps(values: FloatArray) -> BoolArray:
    from scipy.ndimage import median_filter

    # Noise of a loss is proportional to it, so that logarithms have one spread all along; a loss that can be 0 or
    # below has none.
    positive = bool((values > 0).all())
    scaled = np.log(values) if positive else values
    trend = median_filter(scaled, size=_SPIKE_WINDOW, mode="reflect")
    residual = scaled - trend
    # The spread comes from steps between neighbours: residuals off a running median are too often exactly 0. The
    # local spread counts where it is larger than the overall one.
    moves = np.abs(np.diff(scaled))
    local = median_filter(moves, size=_SPREAD_WINDOW, mode="reflect")
    spread = _NORMAL / np.sqrt(2) * np.maximum(np.append(local, local[-1]), np.median(moves))
    smallest = np.log1p(_SPIKE_SHARE) if positive else _SPIKE_SHARE * np.abs(trend)
    return np.asarray((residual > _SPIKE_DEVIATIONS * spread) & (residual > smallest))


def _gradient_agrees(train: _Points, gradient_norm: _Points) -> BoolArray:
    """Steps without a gradient norm, or whose gradient norm, or a neighbour's, stands above its own trend by half."""
    from scipy.ndimage import maximum_filter1d, median_filter

    norms = dict(zip(gradient_norm.steps.tolist(), gradient_norm.losses.tolist(), strict=True))
    known = np.array([norms.get(step, np.nan) for step in train.steps.tolist()])
    filled = np.where(np.isfinite(known), known, np.nanmedian(known) if np.isfinite(known).any() else 0.0)
    trend = median_filter(filled, size=_SPIKE_WINDOW, mode="nearest")
    return np.asarray((maximum_filter1d(filled, size=3) > 1.5 * trend) | ~np.isfinite(known))


def _plateau(evaluation: _Points, evidence: list[str]) -> bool | None:
    """Whether the Theil–Sen line over the last third (three evaluations at least) changes by less than 1 %."""
    from scipy.stats import theilslopes

    if len(evaluation) < 6:
        return None
    last = max(3, -(-len(evaluation) // 3))
    steps, losses = evaluation.steps[-last:], evaluation.losses[-last:]
    level = float(np.median(np.abs(losses)))
    if level == 0:
        return None
    change = float(theilslopes(losses, steps).slope) * float(steps[-1] - steps[0]) / level
    evidence.append(f"Over its last {last} evaluations the validation loss changes by {100 * change:+.2f} %.")
    return abs(change) < _FLAT_CHANGE
