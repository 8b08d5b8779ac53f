"""A log of any form: recognised by its content and its name, read once or read on as it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Protocol

from lorascope.data.logs.curves import TrainingLog
from lorascope.data.logs.events import EventReader, event_files, is_event_file
from lorascope.data.logs.lines import LineReader, Mark, decoder_for, encoding_of, mark_of
from lorascope.data.logs.state import STATE_FILE, log_of_state
from lorascope.data.logs.tables import header_of, logs_of_table
from lorascope.errors import DataError

Form = Literal["events", "state", "lines", "printed", "table"]
_HEAD = 1 << 16
_TABLES = (".csv", ".tsv")
_REMEDY = (
    f"give a {STATE_FILE}, trainer_log.jsonl, logging.jsonl, TensorBoard event file or a folder of them, W&B export, "
    "a CSV with columns of steps and losses, or the output in which a trainer printed its rows"
)


class Reader(Protocol):
    """One log that may grow."""

    def update(self) -> bool:
        """Look at the file again; True where anything changed."""

    def log(self) -> TrainingLog:
        """What it holds now, perhaps no loss yet."""


def read_log(path: Path) -> TrainingLog:
    """Read one training log, a file or a folder of event files; its form is known by content and name.

    Raises:
        DataError: the log is missing, broken, of another form, of several runs, or holds no loss.
    """
    return _only(read_logs(path), path)


def _only(logs: list[TrainingLog], path: Path) -> TrainingLog:
    if len(logs) != 1:
        raise DataError(
            f"the file holds {len(logs)} runs: {', '.join(str(log.run) for log in logs)}",
            where=str(path),
            remedy="export one run, or give the file to lorascope curves, which reads each",
        )
    return logs[0]


def read_logs(path: Path) -> list[TrainingLog]:
    """Read all runs of a log: one, save for a W&B export with several runs in its columns.

    Raises:
        DataError: as :func:`read_log`.
    """
    form = recognise(path)
    logs = logs_of_table(path) if form == "table" else [_updated(reader_for(path, form))]
    if not logs or any(not log.train.steps and not log.eval for log in logs):
        if form == "printed":
            raise DataError("the format of this log is not known: no row with a loss", where=str(path), remedy=_REMEDY)
        raise DataError("the log holds no loss", where=str(path), remedy="train with logging_steps above 0")
    return logs


def _updated(reader: Reader) -> TrainingLog:
    reader.update()
    return reader.log()


def recognise(path: Path) -> Form:
    """The form of a log; ``printed`` where nothing else fits, for rows may stand far down in an output.

    Raises:
        DataError: there is no such file, it is neither text nor events, or a folder without event files.
    """
    if path.is_dir():
        if event_files(path):
            return "events"
        raise DataError("the folder holds no event files", where=str(path), remedy=_REMEDY)
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD)
    except FileNotFoundError as error:
        raise DataError("there is no such training log", where=str(path), remedy=_REMEDY) from error
    except OSError as error:
        raise DataError(f"the log cannot be read: {error.strerror}", where=str(path)) from error
    if is_event_file(path, start):
        return "events"
    if b"\0" in start[:8] and encoding_of(start) == "utf-8-sig":
        raise DataError("the format of this log is not known: it is no text", where=str(path), remedy=_REMEDY)
    return _form_of_text(path, decoder_for(start).decode(start).lstrip())


def _form_of_text(path: Path, head: str) -> Form:
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return "table"
    first, _, rest = head.partition("\n")
    row = _object(first)
    if suffix == ".json":
        return "lines" if row is not None and "log_history" not in row and rest.strip() else "state"
    if row is not None:
        return "state" if "log_history" in row else "lines"
    if suffix in (".jsonl", ".ndjson"):
        return "lines"
    if head.startswith("{") and '"log_history"' in head:
        return "state"
    return "table" if header_of(head) is not None else "printed"


def _object(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def reader_for(path: Path, form: Form) -> Reader:
    """A reader that can look again; a table of several runs cannot be followed."""
    if form == "events":
        return EventReader(path)
    if form in ("lines", "printed"):
        return LineReader(path, printed=form == "printed")
    return _WholeReader(path, form)


class _WholeReader:
    """A log that can only be read as a whole, and is whenever its file changed."""

    def __init__(self, path: Path, form: Form) -> None:
        self._path, self._form = path, form
        self._mark: Mark | None = None
        self._log: TrainingLog | None = None

    def update(self) -> bool:
        mark = mark_of(self._path)
        if mark == self._mark:
            return False
        self._log = log_of_state(self._path) if self._form == "state" else _only(logs_of_table(self._path), self._path)
        self._mark = mark
        return True

    def log(self) -> TrainingLog:
        if self._log is None:
            self.update()
        assert self._log is not None
        return self._log
