"""Does training sit on the base-rate plateau: the loss of giving every item the same outputs?

A new head first learns how frequent each label is, which needs nothing of the items. Some runs never get further: the
loss stands at that level and the outputs hardly vary between items. Said early, it saves the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lorascope.errors import DataError
from lorascope.training.label_statistics import BoolArray, FloatArray

# The limits of the finding about a finished run, so that alarm and report do not contradict each other.
COLLAPSED_SPREAD = 0.02
PLATEAU_SKILL = 0.02
RANKS = 0.1
SMALLEST_PROBABILITY = 2.0**-24

_QUIET_SHARE = 0.2  # every run passes the plateau
_SPAN_SHARE = 0.1
_ROWS = 6
_LINE_SHARE = 0.2
_IN_A_ROW = 3
_CLEARLY = 2.0
_SURELY = 3.0
_UNSURE_SKILL = 0.05
_FAR_ABOVE = 1.25
_RAISE = (
    "Give the new head its own, higher learning rate (optim.head_learning_rate, some tens of times "
    "optim.learning_rate), and check that the features it reads are not tiny: a standard deviation of 0.04, as some "
    "poolers have, holds it here. Then a longer warm-up (optim.warmup), and loss.{}: balanced where labels are rare. "
    "No threshold can mend it."
)
_WEIGHTS = {True: "pos_weight", False: "class_weights"}
_ABOVE = (
    "A run that does not even reach the plateau has a learning rate so high that it swings (lower it, warm it up "
    "longer, clip gradients: optim.warmup, optim.clip) or so low that it creeps (raise optim.head_learning_rate). The "
    "curve and the norm of the gradient tell them apart."
)
_LOWER = (
    "Lower the learning rate (optim.learning_rate, optim.head_learning_rate), warm it up longer (optim.warmup) and "
    "clip gradients (optim.clip). No threshold can mend it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollapseState:
    """What the probabilities of ``items`` evaluated items tell of them.

    ``spread`` (0 up): variance of the outputs over items as a share of that of the true labels, both summed over
    labels; None where the truth does not vary. ``skill`` (at most 1): 1 − loss / loss of the items' own label
    frequencies, in negative log-likelihood; None as above. ``ranks``: average precision between chance (0) and perfect
    (1); None where the skill says enough, and as above.
    """

    items: int
    spread: float | None
    skill: float | None
    ranks: float | None

    @property
    def is_collapsed(self) -> bool:
        """Outputs hardly vary, do no better than the frequencies, and do not rank the labels either.

        False where the truth does not vary: the same output for all is then right.
        """
        return self.spread is not None and self.spread < COLLAPSED_SPREAD and not self.has_learned

    @property
    def has_learned(self) -> bool:
        """The outputs do better than the frequencies, or rank the labels."""
        return (self.skill or 0.0) > PLATEAU_SKILL or (self.ranks or 0.0) > RANKS


def collapse_state(
    probabilities: npt.NDArray[np.floating], truth: npt.NDArray[np.generic], *, multi: bool
) -> CollapseState:
    """Look at probabilities (n, L), sigmoids or a softmax, and true labels (n, L) of 0 and 1.

    Spread and ranking hold after any loss. Skill compares chances: after a loss that shifts them (``pos_weight``,
    asymmetric, ZLPR) it can be far below 0 without a collapse.

    Raises:
        DataError: the two have not the same shape (n, L).
    """
    given, marks = np.asarray(probabilities, dtype=np.float64), np.asarray(truth, dtype=np.bool_)
    if marks.ndim != 2 or given.shape != marks.shape:
        raise DataError(
            f"probabilities of shape {given.shape} and true labels of shape {marks.shape} do not belong together",
            remedy="give both as one row an item and one column a label",
        )
    actual = float(marks.var(axis=0).sum()) if len(marks) else 0.0
    if actual <= 0:
        return CollapseState(items=len(marks), spread=None, skill=None, ranks=None)
    spread = float(given.var(axis=0).sum()) / actual
    skill = _skill(given, marks, multi)
    ranks = _ranks(given, marks) if skill <= PLATEAU_SKILL else None
    return CollapseState(items=len(marks), spread=spread, skill=skill, ranks=ranks)


def _skill(given: FloatArray, marks: BoolArray, multi: bool) -> float:
    said = np.where(marks, given, 1 - given) if multi else (given * marks).sum(axis=1)
    loss = float(-np.log(np.maximum(said, SMALLEST_PROBABILITY)).mean())
    return 1 - loss / frequency_loss(marks.mean(axis=0), multi=multi)


def frequency_loss(frequencies: FloatArray, *, multi: bool) -> float:
    """Plain loss (nats) of giving every item the label frequencies (L,).

    For several labels the mean binary entropy of the labels, for one the entropy of the classes.
    """
    surprises = _surprise(frequencies)
    return float((surprises + _surprise(1 - frequencies)).mean()) if multi else float(surprises.sum())


def _surprise(share: FloatArray) -> FloatArray:
    surprise: FloatArray = -share * np.log(np.where(share > 0, share, 1.0))
    return surprise


def _ranks(given: FloatArray, marks: BoolArray) -> float:
    """As the report's ranking skill: average precision on the scale from its mean under a random order to 1."""
    from sklearn.metrics import average_precision_score

    items, support = len(marks), marks.sum(axis=0)
    chosen = np.flatnonzero((support > 0) & (support < items))
    found = np.array([average_precision_score(marks[:, label], given[:, label]) for label in chosen])
    harmonic = float((1 / np.arange(1, items + 1)).sum()) / items
    expected = (support[chosen] - 1) / (items - 1) * (1 - harmonic) + harmonic
    weights = support[chosen]
    return float(((found - expected) * weights).sum() / ((1 - expected) * weights).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class CollapseNotice:
    """What the alarm has to say: ``text`` in one sentence with numbers, and ``advice`` where there is some to give."""

    kind: Literal["collapse", "recovered"]
    step: int
    text: str
    advice: str | None = None


class CollapseAlarm:
    """Watches one run and says once that it sits on the plateau, and once that it has left it.

    It is fed the losses of the training log and the outputs of evaluations, in the order of the steps; each call
    returns what is new to say, mostly nothing. Steps that come again after an interruption replace what was fed of
    them, so that a resumed run feeds the rows of its log first.

    Nothing is said in the first 20 % of the steps nor in warm-up. Later a run is stuck when its loss, as a mean over
    the last tenth of all steps and at least six rows of the log, is not below the plateau by more than 2 %, clear of
    its own noise and in three rows running, and is not on its way down: above the plateau any fall counts, on it one
    that ends with the run 5 % below. Outputs that had learned something at the last evaluation
    (:class:`CollapseState`) speak against it until the next. Where the losses are missing or too noisy to tell, an
    evaluation with collapsed outputs is enough, and with losses that say the same it need not wait for three rows. The
    plateau is left when the loss is surely more than 2 % below it, or an evaluation finds that the outputs have learned
    something.
    """

    def __init__(self, *, plateau: float | None, total_steps: int, warmup_steps: float = 0, multi: bool = True) -> None:
        """``plateau`` is that of the run's own loss (``plateau_loss``); None watches evaluations alone.

        The losses fed have to be the task's alone, without penalties or consistency terms.
        """
        self._plateau = plateau if plateau is not None and plateau > 0 else None
        self._total = total_steps
        self._quiet = max(_QUIET_SHARE * total_steps, warmup_steps)
        self._multi = multi
        self._losses: dict[int, float] = {}
        self._seen: CollapseState | None = None
        self._stuck_rows = 0
        self._gained = False
        self._sounding = False

    @property
    def is_sounding(self) -> bool:
        """Whether the last thing said was a collapse."""
        return self._sounding

    def train_loss(self, step: int, loss: float) -> CollapseNotice | None:
        """Feed the mean training loss since the row of the log before, at ``step``. Losses not finite are left out."""
        self._losses = {before: value for before, value in self._losses.items() if before < step}
        if math.isfinite(loss):
            self._losses[step] = loss
        trend = self._trend(step)
        self._stuck_rows = self._stuck_rows + 1 if trend is not None and trend.is_stuck else 0
        has_left = trend is not None and trend.has_left
        self._gained = self._gained or has_left
        if has_left:
            return self._leave(step, trend, None)
        excused = self._seen is not None and self._seen.has_learned
        return self._sound(step, trend, None) if self._stuck_rows >= _IN_A_ROW and not excused else None

    def evaluation(
        self, step: int, probabilities: npt.NDArray[np.floating], truth: npt.NDArray[np.generic]
    ) -> CollapseNotice | None:
        """Feed the outputs of an evaluation, as :func:`collapse_state` takes them. NaN among them is left out.

        Raises:
            DataError: as :func:`collapse_state`.
        """
        if not np.isfinite(probabilities).all():
            return None
        seen = collapse_state(probabilities, truth, multi=self._multi)
        if seen.spread is None:
            return None
        self._seen, trend = seen, self._trend(step)
        if seen.has_learned:
            self._gained = self._gained or trend is None
            return self._leave(step, trend, seen)
        says_nothing = trend is None or trend.is_unclear
        known = trend is not None and trend.is_stuck
        stuck = seen.is_collapsed and not self._is_far_above() if says_nothing else known
        return self._sound(step, trend, seen) if stuck else None

    def _leave(self, step: int, trend: _Trend | None, outputs: CollapseState | None) -> CollapseNotice | None:
        if not self._sounding:
            return None
        self._sounding = False
        said = "; ".join(part for part in (self._numbers(step, trend), _spoken(outputs)) if part)
        return CollapseNotice(kind="recovered", step=step, text=f"Training has left the base-rate plateau, {said}")

    def _sound(self, step: int, trend: _Trend | None, outputs: CollapseState | None) -> CollapseNotice | None:
        if self._sounding or step < self._quiet:
            return None
        self._sounding = True
        if self._gained:
            where, advice = "fell back to the base-rate plateau", _LOWER
        elif trend is not None and trend.is_above:
            where, advice = "does not come down to the base-rate plateau", _ABOVE
        else:
            where, advice = "sits on the base-rate plateau", _RAISE.format(_WEIGHTS[self._multi])
        opening = "Collapse: training" if outputs is None or outputs.is_collapsed else "Training"
        said = "; ".join(part for part in (self._numbers(step, trend), _spoken(outputs)) if part)
        return CollapseNotice(kind="collapse", step=step, text=f"{opening} {where}, {said}", advice=advice)

    def _is_far_above(self) -> bool:
        """Whether the last loss is far above the plateau: the run is on its way down to it, and may pass it."""
        if self._plateau is None or not self._losses:
            return False
        return self._losses[max(self._losses)] > _FAR_ABOVE * self._plateau

    def _recent(self, step: int) -> list[int]:
        """Steps of the rows in the last tenth of all steps, and at least of the last six."""
        steps = sorted(self._losses)
        within = [each for each in steps if each > step - _SPAN_SHARE * self._total]
        return within if len(within) >= _ROWS else steps[-_ROWS:]

    def _trend(self, step: int) -> _Trend | None:
        return _trend(self._losses, self._recent(step), self._plateau, self._total)

    def _numbers(self, step: int, trend: _Trend | None) -> str:
        when = f"after {step} of {self._total} steps"
        if trend is None or self._plateau is None:
            return when
        return f"loss {(1 - trend.skill) * self._plateau:.4f} against the plateau {self._plateau:.4f} {when}"


def _spoken(outputs: CollapseState | None) -> str:
    if outputs is None or outputs.spread is None:
        return ""
    how = "hardly vary" if outputs.spread < COLLAPSED_SPREAD else "vary"
    text = f"outputs {how} between items (output_spread {outputs.spread:.2g} over {outputs.items} items)"
    if outputs.ranks is None:
        return text
    return f"{text}, average precision of the labels {outputs.ranks:.0%} of the way from chance to perfect"


@dataclass(frozen=True, slots=True)
class _Trend:
    """Where the loss of the last rows is: ``skill`` 1 − loss/plateau, its standard ``error``, and its direction.

    ``is_falling``: downwards, on the plateau surely so; ``final_skill``: where the line through the rows ends.
    """

    skill: float
    error: float
    is_falling: bool
    final_skill: float

    @property
    def is_above(self) -> bool:
        return self.skill < -PLATEAU_SKILL

    @property
    def has_left(self) -> bool:
        return self.skill - _SURELY * self.error > PLATEAU_SKILL

    @property
    def is_stuck(self) -> bool:
        on_the_way = self.is_falling and (self.is_above or self.final_skill > _UNSURE_SKILL)
        return self.skill <= PLATEAU_SKILL and not on_the_way and not self.is_unclear

    @property
    def is_unclear(self) -> bool:
        return not self.has_left and self.skill + _CLEARLY * self.error > _UNSURE_SKILL


def _trend(losses: dict[int, float], recent: Sequence[int], plateau: float | None, total: int) -> _Trend | None:
    """None with fewer than six rows, or without a plateau."""
    if plateau is None or len(recent) < _ROWS:
        return None
    steps = np.array(sorted(losses), dtype=np.float64)
    skills = 1 - np.array([losses[step] for step in sorted(losses)]) / plateau
    noise = _noise(skills)
    # The first steps fall from chance to the plateau in every run and would tilt the line.
    line = (steps >= recent[0]) | ((steps > steps[-1] - _LINE_SHARE * total) & (steps > _SPAN_SHARE * total))
    slope, middle, width = _line(steps[line], skills[line])
    skill = float(skills[-len(recent) :].mean())
    # On the plateau noise alone gives half of all lines a good slope; above it a run is still on its way there.
    doubt = _CLEARLY * noise / width if skill >= -PLATEAU_SKILL else 0.0
    return _Trend(
        skill=skill,
        error=noise / len(recent) ** 0.5,
        is_falling=slope > doubt,
        final_skill=middle + slope * (total - float(np.median(steps[line]))),
    )


def _noise(skills: FloatArray) -> float:
    """Standard deviation of one row around the curve, from neighbours' differences: a falling curve adds nothing."""
    return float(np.median(np.abs(np.diff(skills)))) * 1.4826 / 2**0.5


def _line(steps: FloatArray, skills: FloatArray) -> tuple[float, float, float]:
    """Robust slope (Theil–Sen) and median, and by what the noise is divided in the slope's standard error."""
    from scipy.stats import theilslopes

    slope = float(theilslopes(skills, steps).slope)
    return slope, float(np.median(skills)), float(((steps - steps.mean()) ** 2).sum() ** 0.5)
