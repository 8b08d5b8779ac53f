"""Rows of a log, gathered into the curves of one run.

A run that is resumed goes back to an earlier step and logs from there again. What had been logged beyond that step
belongs to a training that was thrown away: it is dropped, the later rows hold, and a note says how many.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorascope.data.logs.curves import EMPTY, Curve, TrainingLog
from lorascope.data.logs.names import PREFERENCE, STEP_NAMES, TOTAL_NAMES, Role, plain, printable, role_of, split_metric
from lorascope.data.logs.points import Points
from lorascope.errors import DataError

_NOT_LOGGED = frozenset({"", "none", "null", "no log", "-", "n/a"})
_LARGEST_STEP = 2**62


class Columns:
    """The quantities that one run logged, by name; fed row by row, read as often as wanted.

    ``texts``: numbers may be written as text. ``tolerant``: rows without a step are passed over, and where no row has
    one they are numbered; otherwise a row without a step is an error. ``exclusive``: two columns that stand for the
    same curve are an error; otherwise the trainer's own name wins.
    """

    def __init__(self, *, texts: bool = True, tolerant: bool = True, exclusive: bool = False) -> None:
        self.total_steps: int | None = None
        self.finished = False
        self.notes: list[str] = []
        self._texts, self._tolerant, self._exclusive = texts, tolerant, exclusive
        self._roles: dict[str, Role] = {}
        self._unread: set[str] = set()
        self._points: dict[str, Points] = {}
        self._numbered = False
        self._row = 0
        self._latest: int | None = None
        self._latest_epoch = -math.inf
        self._without_step = 0
        self._repeated = 0
        self._returns: list[tuple[float, float, int]] = []

    def add(self, row: Mapping[str, Any], place: str) -> None:
        """Add one row of names and values; ``place`` is where it stands, for messages.

        Raises:
            DataError: a value that should be a number is none, or a row without a step where none is tolerated.
        """
        if "train_runtime" in row and "train_loss" in row and "loss" not in row:
            self._read_step(row)
            self.finished = True
            return
        wanted = self._wanted(row, place)
        step = self._read_step(row)
        if not any(self._roles[name].kind != "epochs" for name, _ in wanted):
            return
        if step is None and not self._tolerant:
            raise DataError(f"a row of the log has no whole step number ({row.get('step')!r})", where=place)
        step = self._number(wanted) if step is None else self._stepped(step)
        if step is not None:
            self.put(step, wanted)

    def put(self, step: int, values: Iterable[tuple[str, float]]) -> None:
        """Add values of wanted names at a step."""
        for name, value in values:
            kind = self._roles[name].kind
            if kind == "train":
                if self._latest is not None and step < self._latest:
                    self._returns.append((self._latest, step, self._cut(step)))
                self._latest, self.finished = step, False
            points = self._points.get(name)
            if points is None:
                points = self._points[name] = Points()
            if points.put(step, value) and kind in ("train", "eval"):
                self._repeated += 1

    def is_wanted(self, name: str) -> bool:
        """Whether the name stands for a curve."""
        if name in self._roles or name in self._unread:
            return name in self._roles
        role = role_of(name)
        if role is None:
            self._unread.add(name)
            return False
        self._roles[name] = role
        return True

    def _wanted(self, row: Mapping[str, Any], place: str) -> list[tuple[str, float]]:
        found = []
        for name, value in row.items():
            if value is None or name in self._unread:
                continue
            if name not in self._roles and not self.is_wanted(name):
                continue
            if type(value) is float:
                found.append((name, value))
                continue
            if isinstance(value, str) and self._texts and value.strip().lower() in _NOT_LOGGED:
                continue
            number = _number(value, self._texts)
            if number is not None:
                found.append((name, number))
            elif self._roles[name].kind != "metric":
                raise DataError(f"'{name}' is {value!r}, not a number", where=place)
        return found

    def _read_step(self, row: Mapping[str, Any]) -> int | None:
        for name in TOTAL_NAMES:
            if name in row:
                self.total_steps = _whole(row[name], self._texts) or self.total_steps
        for name in STEP_NAMES:
            if name in row:
                value = row[name]
                if type(value) is int and 0 <= value <= _LARGEST_STEP:
                    return value
                if isinstance(value, str) and "/" in value:
                    value, _, total = value.partition("/")
                    self.total_steps = _whole(total, True) or self.total_steps
                    return _whole(value, True)
                return _whole(value, self._texts)
        return None

    def _stepped(self, step: int) -> int:
        if self._numbered:  # only a stray row before had no step
            self._without_step += self._row
            self._points, self._numbered, self._latest, self._repeated, self._returns = {}, False, None, 0, []
        self._row = -1
        return step

    def _number(self, wanted: list[tuple[str, float]]) -> int | None:
        """The number of a row without a step; None where other rows have steps and this one is passed over."""
        if self._row < 0:
            self._without_step += 1
            return None
        self._numbered = True
        epoch = next((value for name, value in wanted if self._roles[name].kind == "epochs"), None)
        trains = any(self._roles[name].kind == "train" for name, _ in wanted)
        if epoch is not None and trains:
            if epoch < self._latest_epoch:
                self._row = self._first_row_from(epoch) - 1
                self._returns.append((self._latest_epoch, epoch, self._cut(self._row + 1)))
                self._latest = self._row
            self._latest_epoch = epoch
        self._row += 1
        return self._row

    def _first_row_from(self, epoch: float) -> int:
        """The row from which on a resumed run logs again.

        A single training row at this very epoch is the same step; of several, which rounded epochs share, none can be
        told to be, and all stay.
        """
        epochs = self._of_kind("epochs")
        first, behind = bisect_left(epochs.values, epoch), bisect_right(epochs.values, epoch)
        trained = [row for row in epochs.steps[first:behind] if self._of_kind("train").has(row)]
        if len(trained) == 1:
            return trained[0]
        return epochs.steps[behind] if behind < len(epochs.steps) else self._row + 1

    def _of_kind(self, kind: str) -> Points:
        return next((points for name, points in self._points.items() if self._roles[name].kind == kind), Points())

    def _cut(self, step: int) -> int:
        """Drop what a training logged that was thrown away; returns how many losses.

        An evaluation at the very step is of what went on, for it stands behind the training loss of that step; of
        numbered rows none does.
        """
        dropped = 0
        for name, points in self._points.items():
            kind = self._roles[name].kind
            removed = points.cut(step if kind == "train" or self._numbered else step + 1)
            dropped += removed if kind in ("train", "eval") else 0
        return dropped

    def log(self, source: Path, form: str, run: str | None = None) -> TrainingLog:
        """Everything so far as a log, which may hold no loss yet."""
        notes = [*self.notes]
        chosen = self._chosen(source, notes)
        evals = {role.name: name for name, role in chosen.items() if role.kind == "eval"}
        metrics: dict[str, dict[str, Curve]] = {}
        for name, role in chosen.items():
            if role.kind == "metric":
                of_set, metric = split_metric(role.name, list(evals))
                metrics.setdefault(of_set, {})[metric] = self._points[name].curve()
        only = {role.kind: self._points[name].curve() for name, role in chosen.items() if not role.name}
        return TrainingLog(
            source=source,
            train=only.get("train", EMPTY),
            eval={of_set: self._points[name].curve() for of_set, name in evals.items()},
            grad_norm=only.get("grad_norm", EMPTY),
            learning_rate=only.get("learning_rate", EMPTY),
            epochs=only.get("epochs", EMPTY),
            metrics=metrics,
            notes=tuple(printable(note) for note in (*notes, *self._told(chosen))),
            total_steps=self.total_steps,
            format=form,
            x_name="log row" if self._numbered else "step",
            run=None if run is None else printable(run),
            finished=self.finished,
        )

    def _chosen(self, source: Path, notes: list[str]) -> dict[str, Role]:
        """One name for each curve."""
        by_role: dict[Role, list[str]] = {}
        for name, points in self._points.items():
            if points.steps:
                by_role.setdefault(self._roles[name], []).append(name)
        chosen = {}
        for role, names in by_role.items():
            if len(names) > 1 and self._exclusive:
                raise DataError(
                    f"several columns stand for one curve: {', '.join(names)}",
                    where=str(source),
                    remedy="leave out or rename all but one of them",
                )
            names.sort(key=lambda name: PREFERENCE.index(plain(name)) if plain(name) in PREFERENCE else 0)
            chosen[names[0]] = role
            if len(names) > 1:
                notes.append(f"'{names[0]}' is read; '{', '.join(names[1:])}' beside it is passed over.")
        return chosen

    def _told(self, chosen: Mapping[str, Role]) -> list[str]:
        told = []
        word = "epoch" if self._numbered else "step"
        if self._numbered:
            told.append("The log names no steps: its rows are numbered in the order of logging.")
        if self._without_step:
            told.append(f"Passed over: {counted(self._without_step, 'row')} without a step.")
        if self._returns:
            before, step, _ = self._returns[-1]
            times = f"{len(self._returns)} times, last " if len(self._returns) > 1 else ""
            dropped = sum(count for _, _, count in self._returns)
            told.append(
                f"The log goes back {times}from {word} {before:.12g} to {word} {step:.12g}, as a resumed run does; "
                f"{counted(dropped, 'value')} of losses logged before from there on no longer hold."
            )
        if self._repeated:
            told.append(f"Logged again at the same step: {counted(self._repeated, 'loss')}; the later ones hold.")
        read = [points for name, points in self._points.items() if name in chosen]
        infinite = sum(not math.isfinite(value) for points in read for value in points.values)
        if infinite:
            told.append(f"NaN or infinite: {counted(infinite, 'value')}.")
        return told


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``, ``3 losses``."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def _number(value: Any, texts: bool) -> float | None:
    """The value as a float, NaN where it is not finite; None where it is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str) if texts else (int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else math.nan


def _whole(value: Any, texts: bool) -> int | None:
    """The value as a whole number of steps from 0 on, or None."""
    if isinstance(value, str) and value.isdecimal() and texts and len(value) < 18:
        return int(value)
    number = value if type(value) is int else _number(value, texts)
    if number is None or not 0 <= number <= _LARGEST_STEP or number != int(number):
        return None
    if isinstance(value, float) and not texts:
        return None
    return int(number)
