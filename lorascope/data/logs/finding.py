"""Where the log of a run lies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorascope.data.logs.events import can_read_events, event_files
from lorascope.data.logs.state import STATE_FILE, load_state, state_step
from lorascope.errors import DataError

LOG_FILES = ("trainer_log.jsonl", "logging.jsonl")
_CHECKPOINT = re.compile(r"^checkpoint-\d+$")


def find_logs(folder: Path) -> list[Path]:
    """The training log of a run, adapter or checkpoint folder: a list of one, or empty when there is none.

    Looked for, in this order: ``trainer_state.json`` in the folder; in its ``checkpoint-*`` folders, or in the folder
    above when the folder is such a checkpoint itself; ``trainer_log.jsonl`` (LLaMA-Factory), then ``logging.jsonl``
    (ms-swift), each in the folder or the one above; TensorBoard's event files in the folder, or in a folder of
    ``runs`` (then that folder is the log). Of several states the one with the most steps is taken if its history
    contains all others.

    Raises:
        DataError: the states of the checkpoints belong to different runs, or ``runs`` holds events of several.
    """
    above = [folder.parent] if _CHECKPOINT.match(folder.name) else []
    if (folder / STATE_FILE).is_file():
        return [folder / STATE_FILE]
    nested = sorted(child / STATE_FILE for child in folder.glob("checkpoint-*") if (child / STATE_FILE).is_file())
    if nested:
        return [_fullest(nested)]
    candidates = [place / STATE_FILE for place in above]
    candidates += [place / name for name in LOG_FILES for place in [folder, *above]]
    found = [path for path in candidates if path.is_file()][:1]
    return found or _events(folder)


def find_growing_log(folder: Path) -> list[Path]:
    """The log that a run writes as it goes: its lines, then event files where they can be read, then its states."""
    lines = [folder / name for name in LOG_FILES if (folder / name).is_file()]
    if lines:
        return lines[:1]
    return (_events(folder) if can_read_events() else []) or find_logs(folder)


def find_runs(folder: Path) -> list[Path]:
    """The folders with a log of their own: the folder itself, or those in it, by name."""
    if find_logs(folder):
        return [folder]
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and find_logs(child)]


def _events(folder: Path) -> list[Path]:
    if event_files(folder):
        return [folder]
    inside = sorted(
        {path.parent for path in folder.glob("runs/*/*tfevents*")}
        | {path.parent for path in folder.glob("runs/*tfevents*")}
    )
    if len(inside) > 1:
        raise DataError(
            "the folder holds TensorBoard events of several runs",
            where=", ".join(str(path) for path in inside),
            remedy="name the one that is meant",
        )
    return inside


def _fullest(paths: list[Path]) -> Path:
    states = {path: load_state(path) for path in paths}
    fullest = max(paths, key=lambda path: state_step(states[path], path))
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
