"""The folder of one run: whole or absent, resumed after a kill, never mixed with another run's.

A run works in ``<out>.partial`` and is renamed to ``<out>`` when all of it is there. ``training.json`` in both says
what made it, with a fingerprint, so that the same run is recognised and a different one refused.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorascope.errors import OutputError

RECORD = "training.json"
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
_REMEDY = "name another output folder, or allow overwriting"


class RunFolder:
    """Where the run with this record stands: not begun, begun (then with a checkpoint to resume from) or finished."""

    def __init__(self, out: Path, record: Mapping[str, Any]) -> None:
        self.out = out
        self.partial = out.with_name(f"{out.name}.partial")
        self.record = record

    def claim(self, *, overwrite: bool) -> bool:
        """Make the folder this run's; True when the finished run is already there.

        Raises:
            OutputError: the folder, or what a killed run left beside it, is another run's (``overwrite`` then removes
                it, unless it is no training run's at all), or it cannot be written.
        """
        try:
            for folder in (self.out, self.partial):
                if folder.exists() and not self._is_ours(folder):
                    self._give_way(folder, overwrite=overwrite)
            if self.out.exists():
                shutil.rmtree(self.partial, ignore_errors=True)
                return True
            self.partial.mkdir(parents=True, exist_ok=True)
            write_json(self.partial / RECORD, self.record)
        except OSError as error:
            raise unwritable(self.out, error) from error
        return False

    def is_finished(self) -> bool:
        """Whether this very run is there, whole; nothing is touched."""
        found = _read_json(self.out / RECORD)
        return found is not None and found.get("fingerprint") == self.record["fingerprint"]

    def resume_point(self) -> Path | None:
        """The checkpoint with the most steps that was written to its end; later, torn ones are removed."""
        found = [(int(match[1]), path) for path in self.partial.iterdir() if (match := _CHECKPOINT.match(path.name))]
        for _, path in sorted(found, reverse=True):
            # The trainer writes its state last, so a readable one says that the rest is there.
            if _read_json(path / "trainer_state.json") is not None:
                return path
            shutil.rmtree(path)
        return None

    def staging(self) -> Path:
        """An empty folder for the files of the result."""
        folder = self.partial / "result"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Give the staged result its final name and remove what was only needed to resume.

        ``facts`` are what came of the run; they stand beside its record in ``training.json``.
        """
        write_json(self.partial / "result" / RECORD, {**self.record, **facts})
        (self.partial / "result").rename(self.out)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _is_ours(self, folder: Path) -> bool:
        found = _read_json(folder / RECORD)
        if found is None:
            return not any(folder.iterdir()) and _removed(folder)
        return bool(found.get("fingerprint") == self.record["fingerprint"])

    def _give_way(self, folder: Path, *, overwrite: bool) -> None:
        if _read_json(folder / RECORD) is None:
            raise OutputError("the folder is not empty and holds no training run", where=str(folder), remedy=_REMEDY)
        if not overwrite:
            raise OutputError(
                "the folder holds a run with other settings, data or start", where=str(folder), remedy=_REMEDY
            )
        shutil.rmtree(folder)


def _removed(folder: Path) -> bool:
    folder.rmdir()
    return True


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON; no NaN can enter the file."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def unwritable(folder: Path, error: Exception) -> OutputError:
    """The error for a folder that cannot be written."""
    return OutputError(
        f"the training run cannot be written: {getattr(error, 'strerror', None) or error}",
        where=str(getattr(error, "filename", None) or folder),
        remedy="check the permissions and the free space of the disk; the same run then goes on from its checkpoint",
    )
