"""``trainer_state.json``: the log that transformers keeps in each checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorascope.data.logs.columns import Columns
from lorascope.data.logs.curves import TrainingLog
from lorascope.data.readers import read_text
from lorascope.errors import DataError

STATE_FILE = "trainer_state.json"


def load_state(path: Path) -> dict[str, Any]:
    """The state with its rows of ``log_history``; bare ``NaN`` and ``Infinity`` are read.

    Raises:
        DataError: broken JSON, or no such rows.
    """
    try:
        state = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"broken JSON: {error.msg}", where=f"{path}, line {error.lineno}") from error
    except (RecursionError, ValueError) as error:
        raise DataError("the JSON is nested too deeply or holds too long a number", where=str(path)) from error
    rows = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("the file has no 'log_history' of rows", where=str(path), remedy=f"is it a {STATE_FILE}?")
    return dict(state)


def log_of_state(path: Path) -> TrainingLog:
    """The log in a state file, which may hold no loss."""
    state = load_state(path)
    columns = Columns(texts=False, tolerant=False)
    for number, row in enumerate(state["log_history"], start=1):
        columns.add(row, f"{path}, row {number} of log_history")
    total = state.get("max_steps")
    if isinstance(total, int) and not isinstance(total, bool) and total > 0:
        columns.total_steps = total
    return columns.log(path, STATE_FILE)


def state_step(state: Mapping[str, Any], path: Path) -> int:
    """The step at which the state was saved."""
    step = state.get("global_step")
    if isinstance(step, bool) or not isinstance(step, int):
        raise DataError(f"the state has no whole 'global_step' ({step!r})", where=str(path))
    return step
