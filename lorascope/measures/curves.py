"""Readings of a training run's curves: what the training loss says, what each validation set says.

Every reading has a guard against its usual false alarm. The training loss of a log is a lagged mean over a window, so
a validation loss below it early on is normal; the staircase of training losses at epoch borders is memorisation and
not convergence, so plateaus are read from the validation loss alone; noise must not pass for a rise. All of them read
losses: a task metric may still improve while the validation loss rises, which is why both belong in a report. How
often each of them is right is measured on synthetic curves (``docs/curves.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lorascope.measures.curve_points import Curve, Points, cleaned, unmasked
from lorascope.measures.curve_rates import (
    HighRate,
    LowRate,
    WarmUp,
    find_high_rate,
    find_low_rate,
    find_short_warm_up,
)
from lorascope.measures.curve_spikes import Spike, find_spikes
from lorascope.measures.curve_training import (
    Divergence,
    Fluctuation,
    Stairs,
    Standstill,
    find_divergence,
    find_stairs,
    find_standstill,
    read_fluctuation,
)
from lorascope.measures.curve_validation import (
    Checkpoint,
    Gap,
    MetricCourse,
    NoFall,
    Overfitting,
    choose_checkpoint,
    find_gap,
    find_no_fall,
    find_overfitting,
    last_third_change,
    metric_after,
    rises_with_training,
    stretch_level,
    tells_evaluations_apart,
)

FLAT_CHANGE = 0.01
_FEWEST_TO_OVERFIT = 4


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


def read_curves(train: Curve, evaluation: Curve, *, gradient_norm: Curve | None = None) -> CurveReading:
    """Read (steps, training losses) and (steps, validation losses); either may be empty.

    Points that are not finite are dropped and counted in the evidence; of a step that occurs twice (a resumed run)
    the later entry holds. With ``gradient_norm`` a spike must show there as well. Over-fitting needs four
    evaluations, a plateau six, spikes 15 training points, the gap one evaluation with a training point before it.

    Raises DataError where steps and losses differ in number.
    """
    evidence: list[str] = []
    fitted, judged = _cleaned(train, "training", evidence), _cleaned(evaluation, "validation", evidence)
    overfitting = find_overfitting(fitted, judged)
    if overfitting is None and (step := rises_with_training(fitted, judged)) is not None:
        evidence.append(f"After step {step} training and validation loss both rise: training diverged.")
    best = int(np.argmin(judged.values)) if len(judged) > 1 else None
    norms = None if gradient_norm is None else _cleaned(gradient_norm, "gradient norm", evidence)
    spikes, change = find_spikes(fitted, norms), last_third_change(judged)
    found = CurveReading(
        final_gap=_final_gap(fitted, judged),
        best_step=None if best is None else int(judged.steps[best]),
        best_loss=None if best is None else float(judged.values[best]),
        overfit=overfitting is not None if len(judged) >= _FEWEST_TO_OVERFIT else None,
        overfit_step=None if overfitting is None else overfitting.step,
        generalisation_loss=_generalisation_loss(judged),
        spikes=None if spikes is None else tuple(spike.step for spike in spikes),
        plateau=None if change is None else abs(change) < FLAT_CHANGE,
    )
    evidence += _evidence(found, overfitting, judged, change)
    return CurveReading(**{**vars(found), "evidence": tuple(evidence)})


def _cleaned(curve: Curve, name: str, evidence: list[str]) -> Points:
    points = cleaned(curve, name)
    if len(points.broken):
        evidence.append(f"{len(points.broken)} {name} values are NaN or infinite.")
    return points


def _final_gap(train: Points, evaluation: Points) -> float | None:
    """Last validation loss minus the median training loss of the stretch that led to it (three points at least)."""
    level = stretch_level(train, evaluation, len(evaluation) - 1) if len(evaluation) else None
    return None if level is None else float(evaluation.values[-1] - level)


def _generalisation_loss(evaluation: Points) -> float | None:
    if len(evaluation) < 2 or evaluation.values.min() <= 0:
        return None
    return float(100 * (evaluation.values[-1] / evaluation.values.min() - 1))


def _evidence(found: CurveReading, rise: Overfitting | None, evaluation: Points, change: float | None) -> list[str]:
    said = []
    if found.final_gap is not None:
        last = float(evaluation.values[-1])
        said.append(
            f"At step {evaluation.steps[-1]:g} the validation loss is {last:.4g}, the training loss "
            f"{last - found.final_gap:.4g}."
        )
    if rise is not None:
        said.append(
            f"The validation loss is lowest at step {rise.best_step} ({rise.best_loss:.4g}) and ends {rise.rise:.1f} % "
            f"above it ({rise.final_loss:.4g}); compare the task metric before calling it harmful."
        )
    if found.spikes:
        shown = ", ".join(str(step) for step in found.spikes[:5]) + (" …" if len(found.spikes) > 5 else "")
        said.append(f"The training loss jumps above its trend {len(found.spikes)} time(s), at step {shown}.")
    if change is not None:
        said.append(f"Over its last third the validation loss changes by {100 * change:+.2f} %.")
    return said


@dataclass(frozen=True)
class TrainingReading:
    """What the training loss says, with gradient norm, learning rate and epochs where they are logged.

    Each part is described at its own class; None where it is not seen or there are too few rows for it.
    """

    divergence: Divergence | None
    spikes: tuple[Spike, ...] | None
    fluctuation: Fluctuation | None
    standstill: Standstill | None
    stairs: Stairs | None
    warm_up: WarmUp | None
    high_rate: HighRate | None
    low_rate: LowRate | None


def read_training(
    train: Curve,
    *,
    gradient_norm: Curve | None = None,
    learning_rate: Curve | None = None,
    epochs: Curve | None = None,
    plateau_loss: float | None = None,
) -> TrainingReading:
    """Read the training loss of one run; rows of jumps that came back are left out of what reads its course.

    ``epochs``: epochs done at each step. ``plateau_loss``: the loss of a model that knows the label frequencies alone,
    in the unit of the training loss (for binary cross-entropy the mean entropy of the label frequencies).

    Raises DataError where steps and values of a curve differ in number.
    """
    rows = cleaned(train, "training")
    norms = None if gradient_norm is None else cleaned(gradient_norm, "gradient norm")
    rates = None if learning_rate is None else cleaned(learning_rate, "learning rate")
    if norms is not None:
        rows = unmasked(rows, norms)
    spikes = find_spikes(rows, norms)
    warm_up = None if rates is None else find_short_warm_up(rows, rates, norms)
    jumps = [(spike.since, spike.recovered) for spike in spikes or () if spike.recovered is not None]
    calm = rows.without(jumps if warm_up is None else [*jumps, (warm_up.peak_step, warm_up.recovered)])
    return TrainingReading(
        divergence=find_divergence(rows),
        spikes=spikes,
        fluctuation=read_fluctuation(rows),
        standstill=find_standstill(calm, plateau_loss),
        stairs=None if epochs is None else find_stairs(calm, cleaned(epochs, "epoch")),
        warm_up=warm_up,
        high_rate=None if rates is None else find_high_rate(calm, rates),
        low_rate=find_low_rate(calm, rates),
    )


@dataclass(frozen=True)
class ValidationReading:
    """What one validation set says; each part is described at its own class.

    ``evaluations``: finite values of the loss; ``change``: of the loss over its last third, as a share;
    ``metric_course``: how the task metric went on after the lowest loss; ``metric_checkpoint``: the evaluation that
    the task metric would keep; a metric with fewer than four different values is passed over. None where it is not
    seen or there are too few evaluations for it.
    """

    evaluations: int
    overfitting: Overfitting | None
    no_fall: NoFall | None
    gap: Gap | None
    change: float | None
    checkpoint: Checkpoint | None
    metric_course: MetricCourse | None
    metric_checkpoint: Checkpoint | None


def read_validation(
    train: Curve, evaluation: Curve, *, metric: Curve | None = None, higher_is_better: bool = True
) -> ValidationReading:
    """Read one validation set's loss against the training loss, with a task metric of that set where there is one.

    Raises DataError where steps and values of a curve differ in number.
    """
    rows, losses = cleaned(train, "training"), cleaned(evaluation, "validation")
    overfitting, checkpoint = find_overfitting(rows, losses), choose_checkpoint(losses)
    values = None if metric is None else cleaned(metric, "metric")
    if values is not None and not tells_evaluations_apart(values):
        values = None
    course = None
    if values is not None and checkpoint is not None:
        course = metric_after(values, checkpoint.best_step, higher_is_better=higher_is_better)
    return ValidationReading(
        evaluations=len(losses),
        overfitting=overfitting,
        no_fall=find_no_fall(rows, losses),
        gap=find_gap(rows, losses),
        change=last_third_change(losses),
        checkpoint=checkpoint,
        metric_course=course,
        metric_checkpoint=None if values is None else choose_checkpoint(values, higher_is_better=higher_is_better),
    )
