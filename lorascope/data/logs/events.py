"""TensorBoard event files: the scalars of one run, from one file or from the files of one folder."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorascope.data.logs.columns import Columns
from lorascope.data.logs.curves import TrainingLog
from lorascope.data.logs.lines import Mark, mark_of
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
        self._columns = Columns(exclusive=True)
        self._loaders: dict[Path, Any] = {}
        self._marks: dict[Path, Mark] = {}

    def update(self) -> bool:
        """Read what was added; True where anything was.

        Raises:
            DataError: the library is missing, or a file cannot be read.
        """
        files = event_files(self.path) if self.path.is_dir() else [self.path]
        if any(self._is_replaced(file) for file in files) or not self._marks.keys() <= set(files):
            self._columns, self._loaders, self._marks = Columns(exclusive=True), {}, {}
        added = False
        for file in files:
            if self._is_new(file):
                for step, tag, value in self._scalars(file):
                    if tag in _CLOSING:
                        self._columns.finished = True
                    elif self._columns.is_wanted(tag):
                        self._columns.put(step, [(tag, value)])
                    added = True
        return added

    def _is_replaced(self, file: Path) -> bool:
        before = self._marks.get(file)
        if before is None:
            return False
        mark = mark_of(file)
        return mark.inode != before.inode or mark.size < before.size

    def _is_new(self, file: Path) -> bool:
        mark, before = mark_of(file), self._marks.get(file)
        self._marks[file] = mark
        return before is None or mark.size != before.size

    def _scalars(self, file: Path) -> Iterator[tuple[int, str, float]]:
        if file not in self._loaders:
            self._loaders[file] = _loader(file)
        for event in self._loaders[file].Load():
            for value in event.summary.value:
                number = _scalar(value)
                if number is not None and event.step >= 0:
                    yield event.step, value.tag, number

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


def _scalar(value: Any) -> float | None:
    """The number of a summary value: a plain one, or a tensor of one element (TensorFlow 2); None for all others."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.metadata.plugin_data.plugin_name not in ("", "scalars"):
        return None
    array = importlib.import_module("tensorboard.util.tensor_util").make_ndarray(value.tensor)
    return float(array.item()) if array.size == 1 and array.dtype.kind in "fiu" else None
