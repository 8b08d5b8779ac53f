"""TensorBoard event files: the scalars of one run, from one file or from the files of one folder."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorascope.data.logs.columns import Columns
from lorascope.data.logs.curves import TrainingLog
from lorascope.data.logs.lines import Mark, mark_of, trace_of
from lorascope.errors import DataError

_IN_NAME = "tfevents"
_CLOSING = frozenset({"train/train_loss"})


def event_files(folder: Path) -> list[Path]:
    """The event files of a folder, by name and so by the time at which they were begun."""
    return sorted(path for path in folder.glob(f"*{_IN_NAME}*") if path.is_file())


def is_event_file(path: Path, start: bytes) -> bool:
    """Whether a file is one of events, by its name or by its first record."""
    return _IN_NAME in path.name or b"brain.Event:" in start[:64]


def can_read_events() -> bool:
    """Whether TensorBoard's library is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class EventReader:
    """Event files, read on from where they ended at the last look. Only numbers are kept, all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self._columns = Columns(exclusive=True)
        self._loaders: dict[Path, Any] = {}
        self._marks: dict[Path, Mark] = {}
        self._traces: dict[Path, bytes] = {}
        self._failure: DataError | None = None

    def update(self) -> bool:
        """Read what was added; files that shrank, vanished or were replaced are read anew. True where anything changed.

        Raises:
            DataError: the library is missing, or a file cannot be read.
        """
        files = event_files(self.path) if self.path.is_dir() else [self.path]
        changed = any(self._is_replaced(file) for file in files) or not self._marks.keys() <= set(files)
        if changed:
            self._begin()
        if self._failure is not None:
            raise self._failure
        for file in files:
            if self._is_new(file):
                changed |= self._read_on(file)
        return changed

    def _read_on(self, file: Path) -> bool:
        added = False
        for step, tag, value in self._scalars(file):
            if tag in _CLOSING:
                self._columns.finished = True
            else:
                self._columns.put(step, [(tag, value)])
            added = True
        return added

    def _is_replaced(self, file: Path) -> bool:
        before = self._marks.get(file)
        if before is None:
            return False
        mark = mark_of(file)
        if mark == before:
            return False
        return (
            mark.inode != before.inode or mark.size < before.size or _trace(file, before.size) != self._traces.get(file)
        )

    def _is_new(self, file: Path) -> bool:
        mark, before = mark_of(file), self._marks.get(file)
        if mark == before:
            return False
        self._marks[file], self._traces[file] = mark, _trace(file, mark.size)
        return before is None or mark.size != before.size

    def _scalars(self, file: Path) -> Iterator[tuple[int, str, float]]:
        for event in self._events(file):
            for value in event.summary.value:
                if event.step < 0 or not (value.tag in _CLOSING or self._columns.is_wanted(value.tag)):
                    continue
                number = _scalar(value)
                if number is not None:
                    yield event.step, value.tag, number

    def _events(self, file: Path) -> Iterator[Any]:
        if file not in self._loaders:
            self._loaders[file] = _loader(file)
        events = self._loaders[file].Load()
        broken = importlib.import_module("google.protobuf.message").DecodeError
        while True:
            try:
                event = next(events, None)
            except OSError as error:
                del self._marks[file]
                raise DataError(f"the log cannot be read: {error.strerror}", where=str(file)) from error
            except (broken, MemoryError, OverflowError) as error:
                self._failure = DataError(
                    "a record of the event file is broken",
                    where=str(file),
                    remedy="leave that file out, or give the run's trainer_state.json",
                )
                raise self._failure from error
            if event is None:
                return
            yield event

    def log(self) -> TrainingLog:
        """Everything read so far."""
        return self._columns.log(self.path, "TensorBoard")


def _loader(file: Path) -> Any:
    try:
        loading = importlib.import_module("tensorboard.backend.event_processing.event_file_loader")
    except ImportError as error:
        raise DataError(
            "TensorBoard event files need the package tensorboard, which is not installed",
            where=str(file),
            remedy="pip install 'lorascope[tensorboard]'",
        ) from error
    return loading.LegacyEventFileLoader(str(file))


def _trace(file: Path, end: int) -> bytes:
    try:
        with file.open("rb") as opened:
            return trace_of(opened, end)
    except OSError as error:
        raise DataError(f"the log cannot be read: {error.strerror}", where=str(file)) from error


def _scalar(value: Any) -> float | None:
    """The number of a summary value: a plain one, or a tensor of one element (TensorFlow 2); None for all others."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.metadata.plugin_data.plugin_name not in ("", "scalars"):
        return None
    if any(dimension.size != 1 for dimension in value.tensor.tensor_shape.dim):
        return None  # before anything of that size is made
    try:
        array = importlib.import_module("tensorboard.util.tensor_util").make_ndarray(value.tensor)
    except (OverflowError, TypeError, ValueError):
        return None
    return float(array.item()) if array.size == 1 and array.dtype.kind in "fiu" else None
