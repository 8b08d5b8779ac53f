"""What every reader of training logs returns: one run's curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Curve(NamedTuple):
    """Values over optimizer steps, steps rising; None where the log holds NaN or infinity at that step."""

    steps: tuple[int, ...]
    values: tuple[float | None, ...]


EMPTY = Curve((), ())


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """One run's log. Curves that the log does not hold are empty.

    ``source``: the file, or the folder of event files. ``train``: the mean training loss since the row before (nats
    per token, or the task's own loss); ``eval``: the loss of each validation set by name (``eval`` where it has none);
    ``epochs``: the epochs done at each logged step, as a fraction. ``metrics``: what else was measured on a validation
    set, by set and by metric name, without the loss and without timings. ``total_steps``: the steps that the run is
    to take, where the log says so. ``format``: the form of log that was read, in words.

    ``x_name`` is ``step``, or ``log row`` where the log names no steps: rows are numbered from 1 in the order of
    logging then. ``run`` is the run's name, where one file holds several. ``notes`` are sentences on what was passed
    over or replaced: a last line that is cut off, steps that were logged again, rows without a step, values that are
    no number. ``finished``: the trainer has written its closing row.
    """

    source: Path
    train: Curve
    eval: dict[str, Curve]
    grad_norm: Curve
    learning_rate: Curve
    epochs: Curve
    metrics: dict[str, dict[str, Curve]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    total_steps: int | None = None
    format: str = ""
    x_name: str = "step"
    run: str | None = None
    finished: bool = False
