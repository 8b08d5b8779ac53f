"""A log that is looked at again and again while its run goes on."""

from __future__ import annotations

from pathlib import Path

from lorascope.data.logs.curves import TrainingLog
from lorascope.data.logs.finding import find_growing_log
from lorascope.data.logs.reading import Reader, reader_for, recognise

_Listing = frozenset[tuple[str, int, int]]


class LogTail:
    """The log at ``path``: a file, or the growing log of a run folder. Neither has to be there yet.

    A run of ``lorascope train`` works in ``<path>.partial`` until it is finished: it is looked for there as well.
    ``source`` is the log that is read, None as long as there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source: Path | None = None
        self._reader: Reader | None = None
        self._listing: _Listing = frozenset()

    def poll(self) -> TrainingLog | None:
        """The log as it is now if anything changed since the last look, else None.

        A log that was cut short or replaced is read from its beginning; one that vanished is waited for again.

        Raises:
            DataError: the log is broken, or of a form that is not read.
        """
        self._find()
        if self.source is None or not _has_content(self.source):
            self._reader = None
            return None
        if self._reader is None:
            self._reader = reader_for(self.source, recognise(self.source))
        return self._reader.log() if self._reader.update() else None

    def _find(self) -> None:
        place = _place(self.path)
        if not place.is_dir():
            self.source, self._listing = (place if place.exists() else None), frozenset()
            return
        listing = _listing(place)
        if listing == self._listing:
            return
        found = next(iter(find_growing_log(place)), None)
        if found != self.source:
            self.source, self._reader = found, None
        self._listing = listing


def _place(path: Path) -> Path:
    partial = path.with_name(f"{path.name}.partial")
    return partial if not path.exists() and partial.is_dir() else path


def _has_content(source: Path) -> bool:
    return source.is_dir() or (source.is_file() and source.stat().st_size > 0)


def _listing(folder: Path) -> _Listing:
    """What lies in a run folder and its checkpoints, so that they are searched again only when something changed."""
    seen = set()
    for pattern in ("*.json*", "*tfevents*", "checkpoint-*/trainer_state.json", "runs/*", "runs/*/*tfevents*"):
        for path in folder.glob(pattern):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue  # an old checkpoint was deleted in this moment
            seen.add((str(path), state.st_ino, state.st_mtime_ns if path.suffix == ".json" else 0))
    return frozenset(seen)
