"""Training logs as they are named on a command line: read once, or followed while their runs go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.data.logs import Curve, LogTail, TrainingLog, find_logs, find_runs, printable, read_logs
from lorascope.errors import DataError
from lorascope.schema.comparison import Finding
from lorascope.workflows.curves import CurveOutcome, read

INTERVAL = 2.0
"""Seconds between two looks at a growing log."""
_PATIENCE = 30.0
_SETTLED = 60.0
# They judge a whole run: of one that still goes on they say nothing.
_OF_A_WHOLE_RUN = frozenset({"checkpoint", "gap", "learning_rate_low", "plateau", "standstill", "still_falling"})
# Each spike is news, though all are one finding, and so is another checkpoint to keep.
_RENEWED = frozenset({"spikes", "checkpoint"})


@dataclass(frozen=True, slots=True)
class ReadRun:
    """One run: its name for the reader, its log, and what the log says."""

    name: str
    log: TrainingLog
    outcome: CurveOutcome

    def document(self) -> dict[str, Any]:
        """The outcome as plain data, with where it was read from and what was passed over there."""
        log = self.log
        about = {
            "source": str(log.source),
            "format": log.format,
            "x_name": log.x_name,
            "total_steps": log.total_steps,
            "finished": log.finished,
            "notes": list(log.notes),
        }
        return {"log": about, **self.outcome.document()}


def read_runs(paths: Sequence[Path], *, plateau_loss: float | None = None) -> list[ReadRun]:
    """Read logs, run folders, folders of runs (each run in them), and exports with several runs (each of them).

    ``plateau_loss``: the training loss of a model that knows the label frequencies alone, for label tasks.

    Raises:
        DataError: a log is missing or broken, or a folder holds none.
    """
    named: dict[str, TrainingLog] = {}
    for path in paths:
        for place in _places(path):
            logs = read_logs(find_logs(place)[0] if place.is_dir() else place)
            shown = printable(str(place))
            named |= {f"{shown}:{log.run}" if len(logs) > 1 else shown: log for log in logs}
    return [ReadRun(name, log, read(name, name, log, plateau_loss=plateau_loss)) for name, log in named.items()]


def _places(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = find_runs(path)
    if not found:
        raise DataError(
            "the folder holds no training log",
            where=str(path),
            remedy="give a folder with trainer_state.json, trainer_log.jsonl, logging.jsonl or TensorBoard events, "
            "a folder of such folders, or the log itself",
        )
    return found


def start_following(paths: Sequence[Path], *, plateau_loss: float | None = None) -> list[Follower]:
    """A follower of each log or run folder, and of each run in a folder of runs; none of them has to be there yet."""
    places = [place for path in paths for place in (find_runs(path) if path.is_dir() else []) or [path]]
    return [Follower(printable(str(place)), place, plateau_loss=plateau_loss) for place in dict.fromkeys(places)]


class Follower:
    """One growing log. Ask :meth:`poll` again and again; it returns each finding once, when it first appears.

    ``clock`` counts seconds. ``waiting``: no row has been seen yet. ``ended``: the trainer wrote its closing row, or
    the last step was reached and nothing has been added for a minute.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        plateau_loss: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.path = name, path
        self.log: TrainingLog | None = None
        self.outcome: CurveOutcome | None = None
        self._tail, self._plateau_loss, self._clock = LogTail(path), plateau_loss, clock
        self._told: set[tuple[str, ...]] = set()
        self._changed = clock()
        self._began: tuple[float, int] | None = None
        self._failing: float | None = None
        self._looked = False

    def poll(self) -> list[Finding]:
        """Look at the log; returns the findings that were not there before, once the run is over those of a whole run.

        A log that cannot be read in this moment may be being written: that is an error only at the first look, or
        when it lasts for half a minute.

        Raises:
            DataError: the log is broken.
        """
        now = self._clock()
        try:
            log = self._tail.poll()
        except DataError:
            self._failing = now if self._failing is None else self._failing
            if not self._looked or now - self._failing >= _PATIENCE:
                raise
            return []
        self._looked, self._failing = True, None
        if log is not None:
            self._changed = now
            self._read(log, now)
        if self.outcome is None:
            return []
        over = self.ended
        return [finding for finding in self.outcome.findings if self._is_news(finding, over)]

    def _read(self, log: TrainingLog, now: float) -> None:
        self.log, self.outcome = log, None
        step = self.step
        if step is None:
            return
        if self._began is None or step < self._began[1]:
            self._began = (now, step)
        self.outcome = read(self.name, self.name, log, plateau_loss=self._plateau_loss)

    def _is_news(self, finding: Finding, over: bool) -> bool:
        kind = finding.id.partition(":")[0]
        if kind in _OF_A_WHOLE_RUN and not over:
            return False
        key = (finding.id, finding.severity, finding.title if kind in _RENEWED else "")
        if key in self._told:
            return False
        self._told.add(key)
        return True

    @property
    def waiting(self) -> bool:
        """Whether no row with a loss has been seen yet."""
        return self.step is None

    @property
    def step(self) -> int | None:
        """The last step that was logged."""
        if self.log is None:
            return None
        curves = [self.log.train, *self.log.eval.values()]
        return max((curve.steps[-1] for curve in curves if curve.steps), default=None)

    @property
    def ended(self) -> bool:
        """Whether the run is over, as far as its log tells."""
        if self.log is None or self.step is None:
            return False
        if self.log.finished or (self.path / "training.json").is_file():
            return True  # a run of ``lorascope train`` gets its own name when it is whole
        total = self.log.total_steps
        return total is not None and self.step >= total and self._clock() - self._changed >= _SETTLED

    def seconds_left(self) -> float | None:
        """Time to the last step at the pace seen since following began; None where either is unknown."""
        if self.log is None or self._began is None or self.step is None or self.log.total_steps is None:
            return None
        began, first = self._began
        if self.step <= first:
            return None
        return max((self.log.total_steps - self.step) * (self._changed - began) / (self.step - first), 0.0)

    def status(self) -> str:
        """One line: step, losses, time left; or what is waited for."""
        if self.log is None or self.step is None:
            there = "no loss in it yet" if self._tail.source is not None else "no log there yet"
            return f"{self.name}: waiting, {there}"
        total = "" if self.log.total_steps is None else f" of {self.log.total_steps}"
        said = [f"{self.name}: {self.log.x_name} {self.step}{total}"]
        if self.log.train.steps:
            said.append(f"loss {_last(self.log.train)}")
        said += [f"{_loss_name(name)} {_last(curve)}" for name, curve in self.log.eval.items()]
        left = self.seconds_left()
        if left:
            said.append(f"about {_duration(left)} left")
        return " · ".join(said)


def _loss_name(name: str) -> str:
    return "eval loss" if name == "eval" else f"eval loss {name}"


def _last(curve: Curve) -> str:
    value = curve.values[-1]
    return "is no number" if value is None else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def follow(
    followers: Sequence[Follower],
    show: Callable[[Follower, list[Finding]], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Look at all logs every two seconds until each has ended; ``show`` is told after each look.

    Where reading takes long, looks are further apart, so that at most a third of the time goes into them.
    """
    running = list(followers)
    while running:
        began = clock()
        for follower in running:
            show(follower, follower.poll())
        for follower in [follower for follower in running if follower.ended]:
            running.remove(follower)
            if news := follower.poll():  # a run that ended since the look above
                show(follower, news)
        if running:
            sleep(max(INTERVAL, 2 * (clock() - began)))
