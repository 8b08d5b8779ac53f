"""What validation says: over-fitting by three criteria, no fall at all, a plateau, the checkpoint to keep, the gap."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lorascope.measures.core import BoolArray, FloatArray
from lorascope.measures.curve_points import Points, bend_noise, median, scaled, trend

GENERALISATION_LOSS = 5.0  # per cent, Prechelt 1998
PROGRESS_QUOTIENT = 2.0
RISES = 3
_SMALLEST_RISE = 2.0  # per cent: successive rises below this are no over-fitting
_DEVIATIONS = 3.0
_STRIPS = 12
_FLAT_CHANGE = 0.01
_NO_FALL = 0.015
_GAP_SHARE = 0.25
_NEAR = 3.0
_DIFFERENT = 4


@dataclass(frozen=True)
class Overfitting:
    """When validation losses rise to stay. Steps are None where a criterion does not say so.

    ``best_step``, ``best_loss``: the lowest validation loss; ``step``: the evaluation from which it stays risen;
    ``final_loss``; ``rise``: per cent above the lowest, at the end. Prechelt's criteria, each with its first evaluation
    that holds to the end: ``generalisation_loss`` (GL above 5 per cent), ``progress_quotient`` (GL over the training
    progress of the strip before it, in per mille, above 2), ``rises`` (end of three successive rises).
    """

    best_step: int
    best_loss: float
    step: int
    final_loss: float
    rise: float
    generalisation_loss: int | None
    progress_quotient: int | None
    rises: int | None


def thinned(evaluation: Points) -> Points:
    """Medians of consecutive evaluations where there are many (24 or more), each at its last step; else as they are."""
    size = len(evaluation) // _STRIPS
    if size < 2:
        return evaluation
    parts = np.array_split(np.arange(len(evaluation)), len(evaluation) // size)
    return replace(
        evaluation,
        steps=np.array([evaluation.steps[part[-1]] for part in parts]),
        values=np.array([np.median(evaluation.values[part]) for part in parts]),
    )


def noise_about(losses: FloatArray, lowest: int) -> float:
    """Standard deviation of the noise around the minimum and after it, from second differences.

    The descent before the minimum is left out, for its curvature is no noise; four points are taken at least.
    """
    return bend_noise(losses[min(lowest, len(losses) - 4) :])


def find_overfitting(train: Points, evaluation: Points) -> Overfitting | None:
    """Find from where the validation loss rises off its minimum and stays up until the end.

    The rise at the end must exceed three deviations of the noise, and either be more than 5 % above the minimum
    (then it begins where the loss last crossed that level) or close with three successive rises of 2 % in all. A
    training loss that rises as well is divergence, not over-fitting. None too for fewer than four evaluations. Many
    evaluations are thinned to strips first.
    """
    course = thinned(evaluation)
    start = _start_of_rise(course)
    if start is None:
        return None
    losses, steps = course.values, course.steps
    lowest = int(np.argmin(losses))
    if also_rises(train, float(steps[lowest])):
        return None
    excess, first_rise = 100 * (losses / losses[lowest] - 1), _first_rise(losses)
    best = int(np.argmin(evaluation.values[evaluation.steps < steps[start]]))
    return Overfitting(
        best_step=int(evaluation.steps[best]),
        best_loss=float(evaluation.values[best]),
        step=int(steps[start]),
        final_loss=float(losses[-1]),
        rise=float(excess[-1]),
        generalisation_loss=_lasting(steps, excess > GENERALISATION_LOSS),
        progress_quotient=_lasting(steps, _progress_quotients(train, course, excess) > PROGRESS_QUOTIENT),
        rises=int(steps[first_rise + RISES - 1]) if len(losses) - first_rise >= RISES else None,
    )


def _start_of_rise(course: Points) -> int | None:
    """Index of the evaluation from which the loss stays risen; the training loss is not looked at."""
    losses = course.values
    if len(losses) < 4:
        return None
    lowest = int(np.argmin(losses))
    rise = losses[-1] - losses[lowest]
    if rise <= _DEVIATIONS * noise_about(losses, lowest) or losses[lowest] <= 0:
        return None
    excess = 100 * (losses / losses[lowest] - 1)
    if excess[-1] > GENERALISATION_LOSS:
        return int(np.flatnonzero(excess <= GENERALISATION_LOSS)[-1]) + 1
    first_rise = _first_rise(losses)
    return first_rise if len(losses) - first_rise >= RISES and excess[-1] > _SMALLEST_RISE else None


def rises_with_training(train: Points, evaluation: Points) -> int | None:
    """Step of the lowest validation loss after which both losses rise to stay; None where they do not."""
    course = thinned(evaluation)
    if _start_of_rise(course) is None:
        return None
    step = float(course.steps[int(np.argmin(course.values))])
    return int(step) if also_rises(train, step) else None


def _first_rise(losses: FloatArray) -> int:
    falls = np.flatnonzero(np.diff(losses) <= 0)
    return int(falls[-1]) + 2 if len(falls) else 1


def _lasting(steps: FloatArray, says: BoolArray) -> int | None:
    """The first evaluation of the run of yeses that lasts to the end."""
    no = np.flatnonzero(~says)
    start = int(no[-1]) + 1 if len(no) else 0
    return int(steps[start]) if start < len(steps) else None


def _progress_quotients(train: Points, course: Points, excess: FloatArray) -> FloatArray:
    """GL over training progress P = 1000·(mean / lowest training loss of the strip − 1); 0 without three rows."""
    found = np.zeros(len(course))
    for at in range(1, len(course)):
        strip = train.within(float(course.steps[at - 1]), float(course.steps[at])).values
        if len(strip) >= RISES and strip.min() > 0 and (progress := 1000 * (strip.mean() / strip.min() - 1)) > 0:
            found[at] = excess[at] / progress
    return found


def also_rises(train: Points, step: float) -> bool:
    """Whether the median of the last three training losses lies 5 % above that of the three up to ``step``."""
    before, after = train.values[train.steps <= step][-3:], train.values[train.steps > step][-3:]
    if not len(before) or not len(after):
        return False
    level = float(np.median(before))
    return float(np.median(after)) - level > GENERALISATION_LOSS / 100 * abs(level)


def last_third_change(evaluation: Points) -> float | None:
    """Change of the Theil–Sen line over the last third (three evaluations at least), as a share of the level."""
    if len(evaluation) < 6:
        return None
    last = max(3, -(-len(evaluation) // 3))
    steps, losses = evaluation.steps[-last:], evaluation.values[-last:]
    level = float(np.median(np.abs(losses)))
    line = trend(steps, losses)
    return None if level == 0 or line is None else line.change / level


def change_since(evaluation: Points, step: float) -> float | None:
    """Change of the loss from a step (between its evaluations) to its last two evaluations, as a share.

    None without evaluations on both sides.
    """
    losses = evaluation.values
    if len(losses) < 3 or losses.min() <= 0 or not evaluation.steps[0] <= step < evaluation.steps[-1]:
        return None
    return float(np.min(losses[-2:]) / np.interp(step, evaluation.steps, losses) - 1)


@dataclass(frozen=True)
class NoFall:
    """A validation loss that never fell. ``change``: of the Theil–Sen line from first to last evaluation, as a share;
    ``train_change``: of the training loss over the same steps (None where it has too few rows)."""

    first_step: int
    last_step: int
    first_loss: float
    last_loss: float
    change: float
    train_change: float | None


def find_no_fall(train: Points, evaluation: Points) -> NoFall | None:
    """A loss that falls by less than 1.5 %, or by less than its noise, between its first and its last evaluation.

    The last three evaluations must not lie below the first by that much either, and noise must not exceed 3 % of the
    level: a fall could hide behind it. None for fewer than five evaluations.
    """
    if len(evaluation) < 5:
        return None
    course = thinned(evaluation)
    values = scaled(course.values)
    line = trend(course.steps, values)
    if line is None or bend_noise(values) > _NEAR * _FLAT_CHANGE:
        return None
    fallen = float(values[0] - np.median(values[-3:]))
    if line.change < -_NO_FALL or fallen > max(_NO_FALL, _DEVIATIONS * bend_noise(values)):
        return None
    if values[0] - values.min() > max(2 * _FLAT_CHANGE, _DEVIATIONS * bend_noise(values)):
        return None
    return NoFall(
        first_step=int(evaluation.steps[0]),
        last_step=int(evaluation.steps[-1]),
        first_loss=float(evaluation.values[0]),
        last_loss=float(evaluation.values[-1]),
        change=float(np.expm1(line.change)),
        train_change=_train_change(train, float(evaluation.steps[0]), float(evaluation.steps[-1])),
    )


def _train_change(train: Points, first: float, last: float) -> float | None:
    before, within = train.values[train.steps <= first], train.values[(train.steps > first) & (train.steps <= last)]
    opening = before[-5:] if len(before) >= RISES else within[:5]
    if len(within) < 2 * RISES or np.median(opening) <= 0:
        return None
    return float(np.median(within[-5:]) / np.median(opening) - 1)


@dataclass(frozen=True)
class Gap:
    """A validation loss that stands above the training loss to the end.

    ``final``: difference at the last evaluation, ``share`` of the validation loss; ``since``: the first evaluation from
    which it holds; ``wide``: a share of a quarter or more that is larger than at ``since``.
    """

    final: float
    share: float
    since: int
    wide: bool


def find_gap(train: Points, evaluation: Points) -> Gap | None:
    """From the first evaluation on at which validation lies above training by more than both noises, to the end.

    The training loss is the median of the rows since the evaluation before (three at least). None without one.
    """
    if len(evaluation) < 3 or len(train) < RISES or evaluation.values.min() <= 0:
        return None
    at = [stretch_level(train, evaluation, index) for index in range(len(evaluation))]
    levels = np.array([np.nan if level is None else level for level in at])
    gaps = (evaluation.values - levels) / evaluation.values
    noise = bend_noise(gaps[np.isfinite(gaps)])
    no = np.flatnonzero(~(gaps > 2 * noise))
    start = int(no[-1]) + 1 if len(no) else 0
    if start >= len(gaps):
        return None
    last = float(np.median(gaps[-3:]))
    wide = last >= _GAP_SHARE and last > gaps[start] + 2 * noise
    return Gap(float(evaluation.values[-1] - levels[-1]), last, int(evaluation.steps[start]), bool(wide))


def stretch_level(train: Points, evaluation: Points, index: int) -> float | None:
    """Median training loss of the rows between the evaluation before and this one, three at least where there are."""
    end = int(np.searchsorted(train.steps, evaluation.steps[index], side="right"))
    if not end:
        return None
    start = int(np.searchsorted(train.steps, evaluation.steps[index - 1], side="right")) if index else 0
    return median(train.values[max(min(start, end - RISES), 0) : end])


@dataclass(frozen=True)
class Checkpoint:
    """The evaluation to keep. ``step``: the earliest within one deviation of the noise of the best; ``best_step``: the
    best itself; ``last_step``; ``value`` at ``step`` and ``best_value``; ``noise``: of one evaluation, standard
    deviation (None for fewer than five evaluations); ``within_noise``: evaluations no worse than that."""

    step: int
    value: float
    best_step: int
    best_value: float
    last_step: int
    noise: float | None
    within_noise: int


def choose_checkpoint(evaluation: Points, *, higher_is_better: bool = False) -> Checkpoint | None:
    """The earliest evaluation as good as the best one within its noise (the one-standard-error rule, Breiman 1984).

    None for fewer than two evaluations.
    """
    if len(evaluation) < 2:
        return None
    values = -evaluation.values if higher_is_better else evaluation.values
    best = int(np.argmin(values))
    noise = _evaluation_noise(values, best) if len(values) >= 5 else None
    good = np.flatnonzero(values <= values[best] + (noise or 0.0))
    kept = int(good[0])
    return Checkpoint(
        step=int(evaluation.steps[kept]),
        value=float(evaluation.values[kept]),
        best_step=int(evaluation.steps[best]),
        best_value=float(evaluation.values[best]),
        last_step=int(evaluation.steps[-1]),
        noise=noise,
        within_noise=len(good),
    )


def _evaluation_noise(values: FloatArray, best: int) -> float:
    """Standard deviation about the fit that falls to the best value and rises from it (isotonic regression).

    Bends would call the curvature of a smooth fall noise; this fit leaves nothing of it. The smaller estimate counts.
    """
    from scipy.optimize import isotonic_regression

    falling = isotonic_regression(values[: best + 1], increasing=False)
    rising = isotonic_regression(values[best:])
    fitted = np.concatenate([falling.x, rising.x[1:]])
    free = len(values) - (len(falling.blocks) - 1 + len(rising.blocks) - 1 - 1)
    if free < 1:
        return 0.0
    return min(float(np.sqrt(np.sum((values - fitted) ** 2) / free)), noise_about(values, best))


def tells_evaluations_apart(metric: Points) -> bool:
    """Whether a metric takes four different values (or as many as it has evaluations): else it cannot choose."""
    return len(np.unique(metric.values)) >= min(_DIFFERENT, max(len(metric), 2))


@dataclass(frozen=True)
class MetricCourse:
    """A task metric against the loss: its value at the step of the lowest loss, and the median of its last three.

    ``improved``: whether the end is better by two deviations of its noise and by 1 % of its value.
    """

    at_best_loss: float
    at_end: float
    improved: bool


def metric_after(metric: Points, step: float, *, higher_is_better: bool) -> MetricCourse | None:
    """How a task metric went on after ``step``; None without an evaluation up to it or fewer than two after it."""
    before, after = metric.values[metric.steps <= step], metric.values[metric.steps > step]
    if not len(before) or len(after) < 2:
        return None
    start, end = float(np.median(before[-2:])) if len(before) > 2 else float(before[-1]), float(np.median(after[-3:]))
    gain = end - start if higher_is_better else start - end
    noise = bend_noise(metric.values)
    return MetricCourse(float(before[-1]), end, gain > 2 * noise and gain > 0.01 * abs(start))
