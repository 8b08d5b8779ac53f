"""Logs that are written line by line: JSON lines, and rows printed among other output.

Read are only the bytes that were appended since the last look. Progress bars are redrawn with carriage returns: they
end a line here just as line feeds do.
"""

from __future__ import annotations

import ast
import codecs
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lorascope.data.logs.columns import Columns, counted
from lorascope.data.logs.curves import TrainingLog
from lorascope.data.logs.names import STEP_NAMES, role_of
from lorascope.errors import DataError

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 23
_FIRST_BYTES = 4096
_LAST_BYTES = 256
_NOT_FINITE = re.compile(r"(?<=[:\s])-?(?:nan|NaN|inf|Infinity)(?=\s*[,}])")
_BEYOND = (ValueError, SyntaxError, RecursionError, MemoryError)


class Mark(NamedTuple):
    """What tells a file from its successor: its place on the disk and its size."""

    inode: int
    size: int
    changed: int


def mark_of(path: Path) -> Mark:
    """The mark of a file as it is now; raises DataError where it cannot be looked at."""
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"the log cannot be read: {error.strerror}", where=str(path)) from error
    return Mark(state.st_ino, state.st_size, state.st_mtime_ns)


def trace_of(file: BinaryIO, end: int) -> bytes:
    """Hash of the first bytes of a file and of the last ones before ``end``, where reading stopped.

    A file that was only appended to keeps it. One that was written anew does not, though it may be longer and in the
    same place on the disk: the numbers of places are given out again.
    """
    file.seek(0)
    first = file.read(min(end, _FIRST_BYTES))
    file.seek(max(end - _LAST_BYTES, 0))
    last = file.read(min(end, _LAST_BYTES))
    return hashlib.sha256(len(first).to_bytes(2, "big") + first + last).digest()


def encoding_of(start: bytes) -> str:
    """UTF-8 with or without a byte-order mark, or UTF-16 with one (as PowerShell redirects), by the first bytes."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def decoder_for(start: bytes) -> codecs.IncrementalDecoder:
    """A decoder for a file that begins with these bytes; bad bytes are replaced."""
    return codecs.getincrementaldecoder(encoding_of(start))(errors="replace")


class LineReader:
    """A growing file of rows. ``printed``: rows stand among other output and may be Python dicts."""

    def __init__(self, path: Path, *, printed: bool) -> None:
        self.path = path
        self._printed = printed
        self._begin()

    def _begin(self) -> None:
        self._columns = Columns()
        self._form = ""
        self._mark: Mark | None = None
        self._trace = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._rest = ""
        self._offset = self._line = self._cut = 0
        self._broken: DataError | None = None
        self._failure: DataError | None = None

    def update(self) -> bool:
        """Read what was appended; a file that shrank or was replaced is read anew. True where anything changed.

        Raises:
            DataError: the file cannot be read, or a line in its midst is broken JSON.
        """
        mark = mark_of(self.path)
        if mark == self._mark:
            if self._failure is not None:
                raise self._failure
            return False
        try:
            with self.path.open("rb") as file:
                if self._mark is not None and self._is_replaced(file, mark, self._mark):
                    self._begin()
                self._mark = mark
                self._read_on(file)
        except OSError as error:
            raise DataError(f"the log cannot be read: {error.strerror}", where=str(self.path)) from error
        return True

    def _is_replaced(self, file: BinaryIO, mark: Mark, before: Mark) -> bool:
        return mark.inode != before.inode or mark.size < self._offset or trace_of(file, self._offset) != self._trace

    def _read_on(self, file: BinaryIO) -> None:
        if self._failure is not None:
            raise self._failure
        file.seek(self._offset)
        try:
            for line in self._lines(file):
                self._take(line)
        except DataError as error:
            self._failure = error  # what is behind the bad line must not be read as if it were not there
            raise
        finally:
            self._trace = trace_of(file, self._offset)

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        while chunk := file.read(_CHUNK):
            self._offset += len(chunk)
            if self._decoder is None:
                self._decoder = decoder_for(chunk)
            text = self._rest + self._decoder.decode(chunk)
            *whole, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            yield from whole
            if len(self._rest) > _LONGEST_LINE and self._printed:
                self._rest = ""
            elif len(self._rest) > _LONGEST_LINE:
                raise DataError("a line of the log is longer than 8 MiB", where=f"{self.path}, line {self._line + 1}")

    def _take(self, line: str) -> None:
        self._line += 1
        if not line or line.isspace():
            return
        if self._broken is not None:  # what was broken before was not the last line
            raise self._broken
        try:
            row = self._row(line)
        except _BEYOND as error:
            self._broken = self._said(error)
            return
        if row is not None:
            self._add(row)

    def _add(self, row: dict[str, Any]) -> None:
        if not self._form:
            self._form = form_of(row, self._printed)
        self._columns.add(row, f"{self.path}, line {self._line}")

    def _row(self, line: str) -> dict[str, Any] | None:
        if self._printed:
            return printed_row(line)
        try:
            row = json.loads(line)
        except _BEYOND:
            # A run that was killed within a line and resumed begins its first row behind the cut one.
            joined = line.rfind('{"', 1)
            row = json.loads(line[joined:]) if joined > 0 else None
            if not isinstance(row, dict) or not any(name in row for name in STEP_NAMES):
                raise
            self._cut += 1
        if not isinstance(row, dict):
            raise DataError("a row of the log is no JSON object", where=f"{self.path}, line {self._line}")
        return row

    def _said(self, error: BaseException) -> DataError:
        detail = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or too long a number"
        return DataError(f"broken JSON: {detail}", where=f"{self.path}, line {self._line}")

    def log(self) -> TrainingLog:
        """What stands in the file now; a last line without its end is taken where it is whole."""
        self._columns.notes = [f"Cut off and passed over: {counted(self._cut, 'line')}."] if self._cut else []
        if not self._ended() or self._broken is not None:
            self._columns.notes.append("The last line is cut off and passed over.")
        return self._columns.log(self.path, self._form or ("printed rows" if self._printed else "JSON lines"))

    def _ended(self) -> bool:
        """Take the last line although no line end follows; False where it is not whole."""
        if not self._rest.strip():
            return True
        if self._broken is not None:
            raise self._broken
        try:
            row = self._row(self._rest)
        except _BEYOND:
            return False
        if row is None:
            return not self._rest.lstrip().startswith("{")
        self._line += 1
        self._add(row)
        self._rest = ""
        return True


def form_of(row: dict[str, Any], printed: bool) -> str:
    """The trainer that writes such rows, in words."""
    if "global_step/max_steps" in row:
        return "ms-swift"
    if "current_steps" in row:
        return "LLaMA-Factory"
    return "printed rows" if printed else "JSON lines"


def printed_row(line: str) -> dict[str, Any] | None:
    """The dict that a trainer printed on this line, behind a progress bar or a time stamp; None where there is none.

    A dict without a loss, or with words where a row has numbers, is somebody's settings and no row.
    """
    start, end = line.find("{"), line.rfind("}")
    if start < 0 or end < start or ("loss" not in line and "eval" not in line):
        return None
    text = line[start : end + 1]
    for read in (_requoted, _python_dict):
        try:
            row = read(text)
        except _BEYOND:
            continue
        return row if isinstance(row, dict) and _is_log_row(row) else None
    return None


def _requoted(text: str) -> Any:
    """JSON, or a dict of plain words and numbers as JSON, which is read ten times as fast as Python's literals."""
    return json.loads(text if '"' in text else text.replace("'", '"'))


def _python_dict(text: str) -> Any:
    return ast.literal_eval(_NOT_FINITE.sub(lambda found: f"'{found[0]}'", text))


def _is_log_row(row: dict[Any, Any]) -> bool:
    if not all(isinstance(name, str) for name in row):
        return False
    kinds = {name: role.kind for name in row if (role := role_of(name)) is not None}
    has_loss = any(kind in ("train", "eval") for kind in kinds.values()) or "eval_runtime" in row
    return has_loss and all(_is_number(row[name]) for name, kind in kinds.items() if kind != "metric")


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool)
