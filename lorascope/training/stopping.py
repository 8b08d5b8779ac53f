"""When a run ends before its last step: no new best for a while, or Prechelt's generalisation loss and its quotient.

The rules read the run's own log and keep no state, so a resumed run stops where it would have stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lorascope.errors import ConfigError
from lorascope.schema.recipe import EarlyStopping, Recipe

Rows = Sequence[Mapping[str, Any]]
LOWER_IS_BETTER = frozenset({"loss", "mse"})


def judged_metric(recipe: Recipe) -> str:
    """The log's name of the number by which evaluations are compared: ``eval_<set>_<metric>``, by default a loss."""
    chosen = recipe.evaluation
    name = chosen.set or next(iter(recipe.validation_sets))
    return f"eval_{name}_{chosen.metric or 'loss'}"


def is_higher_better(recipe: Recipe) -> bool:
    """Direction of :func:`judged_metric`."""
    return (recipe.evaluation.metric or "loss") not in LOWER_IS_BETTER


def stop_reason(rule: EarlyStopping, history: Rows, metric: str, loss: str, *, higher: bool) -> str | None:
    """Why a run with this log is to stop now, in words; None where it goes on.

    ``patience`` looks at ``metric``. GL and PQ look at ``loss``, a validation loss (Prechelt 1998, section 2):
    GL = 100·(E/E_best − 1) in per cent; PQ = GL / P with the progress P = 1000·(mean/min − 1) of the training losses
    logged since the evaluation before, of the task alone where penalties or a consistency term are in the loss. Without
    two of them, or without progress, PQ does not speak.
    """
    if rule.rule == "patience":
        return _out_of_patience(rule.patience, [row[metric] for row in history if metric in row], metric, higher)
    points = [(place, float(row[loss])) for place, row in enumerate(history) if loss in row]
    best = min((value for _, value in points), default=math.nan)
    if len(points) < 2 or not best > 0:
        return None
    generalisation = 100 * (points[-1][1] / best - 1)
    if rule.rule == "gl":
        over = generalisation > rule.threshold
        return f"{loss} is {generalisation:.1f} % above its lowest, {best:.4g}" if over else None
    logged = [row for row in history[points[-2][0] : points[-1][0]] if "loss" in row]
    strip = [float(row.get("loss_task", row["loss"])) for row in logged]
    progress = 1000 * (sum(strip) / len(strip) / min(strip) - 1) if len(strip) > 1 and min(strip) > 0 else 0.0
    if progress <= 0 or generalisation / progress <= rule.threshold:
        return None
    return f"{loss} is {generalisation:.1f} % above its lowest and training progress is {progress:.2f}"


def _out_of_patience(patience: int, values: Sequence[float], metric: str, higher: bool) -> str | None:
    sign = 1 if higher else -1
    best = max(range(len(values)), key=lambda place: (sign * values[place], -place), default=0)
    waited = len(values) - 1 - best
    if not values or waited < patience:
        return None
    return f"{metric} has no new best since {waited} evaluations ({values[best]:.4g})"


def check_strips(recipe: Recipe, total_steps: int) -> None:
    """Refuse PQ where fewer than two training losses may be logged between evaluations, so that it has no progress.

    Raises:
        ConfigError: ``evaluation.log_every`` is not below ``evaluation.every``, both in steps of this run.
    """
    rule = recipe.optim.early_stopping
    if rule is None or rule.rule != "pq":
        return
    every, logged = (_in_steps(value, total_steps) for value in (recipe.evaluation.every, recipe.evaluation.log_every))
    if logged < every:
        return
    raise ConfigError(
        f"the rule pq compares training losses between two evaluations, and with {every} steps between evaluations and "
        f"{logged} between logged losses it may have one alone",
        where="optim.early_stopping.rule",
        remedy=f"set evaluation.log_every to {max(1, every // 2)}" * (every > 1)
        + "raise evaluation.every to two steps or more, with evaluation.log_every below it" * (every == 1)
        + ", or use the rule gl or patience",
    )


def _in_steps(value: float, total_steps: int) -> int:
    return math.ceil(value * total_steps) if value < 1 else int(value)


def unbeaten_start(recipe: Recipe, history: Rows) -> str | None:
    """What to say of a run that keeps its best weights, none of which were better than those before the first step.

    None where that is not so, where they were not evaluated, or where the last weights are kept.
    """
    if recipe.evaluation.keep != "best":
        return None
    metric, sign = judged_metric(recipe), 1 if is_higher_better(recipe) else -1
    points = [(int(row["step"]), float(row[metric])) for row in history if metric in row]
    start = next((value for step, value in points if step == 0), None)
    later = [point for point in points if point[0] > 0]
    if start is None or not later:
        return None
    step, best = max(later, key=lambda point: sign * point[1])
    if sign * best > sign * start:
        return None
    return (
        f"no evaluation was better than the base itself: {metric} was {start:.4g} before the first step and at best "
        f"{best:.4g} afterwards, at step {step}, whose weights are kept"
    )


class StopEarly(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Ends training at the evaluation that fulfils the recipe's rule; ``reason`` then says why."""

    def __init__(self, recipe: Recipe) -> None:
        """``recipe`` has ``optim.early_stopping`` and a validation set."""
        self._recipe = recipe
        self.reason: str | None = None

    def look(self, history: Rows) -> str | None:
        """The reason to stop after this log, if there is one."""
        rule = self._recipe.optim.early_stopping
        if rule is None:
            return None
        metric = judged_metric(self._recipe)
        name = self._recipe.evaluation.set or next(iter(self._recipe.validation_sets))
        self.reason = stop_reason(rule, history, metric, f"eval_{name}_loss", higher=is_higher_better(self._recipe))
        return self.reason

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop where the rule says so; each named set comes by here, and the one judged by counts."""
        newest = state.log_history[-1] if state.log_history else {}
        if judged_metric(self._recipe) in newest and self.look(state.log_history):
            control.should_training_stop = True
