"""Training logs: the loss curves that a training run left behind.

Read are ``trainer_state.json`` (transformers) and ``trainer_log.jsonl`` (LLaMA-Factory). A resumed run repeats steps;
of a step that is logged twice the last row counts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lorascope.data.readers import read_text
from lorascope.errors import DataError

STATE_FILE = "trainer_state.json"
LOG_FILE = "trainer_log.jsonl"
_EVAL_LOSS = re.compile(r"^eval_(?:(?P<set>.+)_)?loss$")
_CHECKPOINT = re.compile(r"^checkpoint-\d+$")


class Curve(NamedTuple):
    """Values over optimizer steps, steps rising; None where the log holds NaN or infinity at that step."""

    steps: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """One run's log.

    ``train`` is the mean loss since the row before (nats per token, or the task's own loss), ``eval`` the loss of each
    validation set by name (``eval`` where it has none), ``epochs`` the fraction of epochs done at each logged step.
    Curves that the log does not hold are empty.
    """

    source: Path
    train: Curve
    eval: dict[str, Curve]
    grad_norm: Curve
    learning_rate: Curve
    epochs: Curve


def find_logs(folder: Path) -> list[Path]:
    """The training log of a run, adapter or checkpoint folder: a list of one, or empty when there is none.

    Looked for, in this order: ``trainer_state.json`` in the folder; in its ``checkpoint-*`` folders, or in the folder
    above when the folder is such a checkpoint itself; then ``trainer_log.jsonl`` in the folder or the one above. Of
    several states the one with the most steps is taken if its history contains all others.

    Raises:
        DataError: the states of the checkpoints belong to different runs.
    """
    above = [folder.parent] if _CHECKPOINT.match(folder.name) else []
    if (folder / STATE_FILE).is_file():
        return [folder / STATE_FILE]
    nested = sorted(child / STATE_FILE for child in folder.glob("checkpoint-*") if (child / STATE_FILE).is_file())
    if nested:
        return [_fullest(nested)]
    candidates = [*(place / STATE_FILE for place in above), *(place / LOG_FILE for place in [folder, *above])]
    return [path for path in candidates if path.is_file()][:1]


def _fullest(paths: list[Path]) -> Path:
    states = {path: _state(path) for path in paths}
    fullest = max(paths, key=lambda path: _as_step(states[path].get("global_step"), path))
    whole = _row_texts(states[fullest])
    strangers = [path for path in paths if not _row_texts(states[path]) <= whole]
    if strangers:
        raise DataError(
            "the checkpoints hold logs of different runs",
            where=", ".join(str(path) for path in [fullest, *strangers]),
            remedy="name the log or the checkpoint folder that is meant",
        )
    return fullest


def _row_texts(state: Mapping[str, Any]) -> set[str]:
    return {json.dumps(row, sort_keys=True) for row in state["log_history"]}


def read_log(path: Path) -> TrainingLog:
    """Read one training log, its format known by its name: ``*.json`` a trainer state, ``*.jsonl`` LLaMA-Factory's.

    Raises:
        DataError: the file is missing, broken, of another format, or holds no loss.
    """
    if not path.is_file():
        raise DataError("there is no such training log", where=str(path), remedy=f"give a {STATE_FILE} or {LOG_FILE}")
    if path.suffix == ".json":
        log = _gather(path, _state(path)["log_history"])
    elif path.suffix == ".jsonl":
        log = _gather(path, (_renamed(row) for row in _jsonl(path)))
    else:
        raise DataError(
            "the format of this log is not known", where=str(path), remedy=f"give a {STATE_FILE} or {LOG_FILE}"
        )
    if not log.train.steps and not log.eval:
        raise DataError("the log holds no loss", where=str(path), remedy="train with logging_steps above 0")
    return log


def _state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"broken JSON: {error.msg}", where=f"{path}, line {error.lineno}") from error
    rows = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("the file has no 'log_history' of rows", where=str(path), remedy="is it a trainer_state.json?")
    return dict(state)


def _jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a log that is written as the run goes: a last line that is cut off is left out."""
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    rows = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == lines[-1][0]:
                break
            raise DataError(f"broken JSON: {error.msg}", where=f"{path}, line {number}") from error
        if not isinstance(row, dict):
            raise DataError("a row of the log is no JSON object", where=f"{path}, line {number}")
        rows.append(row)
    return rows


_LLAMAFACTORY_NAMES = {"current_steps": "step", "lr": "learning_rate"}


def _renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {_LLAMAFACTORY_NAMES.get(name, name): value for name, value in row.items()}


def _gather(path: Path, rows: Iterable[Mapping[str, Any]]) -> TrainingLog:
    names = {"loss": "train", "grad_norm": "grad_norm", "learning_rate": "learning_rate", "epoch": "epochs"}
    found: dict[str, dict[int, float | None]] = {name: {} for name in names.values()}
    evals: dict[str, dict[int, float | None]] = {}
    for row in rows:
        logged = {name: value for name, value in row.items() if value is not None}
        logged = {name: value for name, value in logged.items() if name in names or _EVAL_LOSS.match(name)}
        if not logged:
            continue
        step = _as_step(row.get("step"), path)
        for name, value in logged.items():
            matched = _EVAL_LOSS.match(name)
            if matched is not None:
                evals.setdefault(matched["set"] or "eval", {})[step] = _as_value(value, name, path)
            else:
                found[names[name]][step] = _as_value(value, name, path)
    return TrainingLog(
        source=path,
        eval={name: _curve(points) for name, points in evals.items()},
        **{name: _curve(points) for name, points in found.items()},
    )


def _as_step(value: Any, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"a row of the log has no whole step number ({value!r})", where=str(path))
    return value


def _as_value(value: Any, name: str, path: Path) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"'{name}' is {value!r}, not a number", where=str(path))
    return float(value) if math.isfinite(value) else None


def _curve(points: Mapping[int, float | None]) -> Curve:
    steps = sorted(points)
    return Curve(tuple(steps), tuple(points[step] for step in steps))
