"""The folder of one run: whole or absent, resumed after a kill, never mixed with another run's.

A run works in ``<out>.partial`` and is renamed to ``<out>`` when all of it is there. ``training.json`` in both says
what made it, with a fingerprint, so that the same run is recognised and a different one refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lorascope.errors import OutputError
from lorascope.training.own_replay import REPLAY_FILE
from lorascope.training.progress import LIVE_LOG
from lorascope.training.whole_checkpoints import fault_of, read_object

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

RECORD = "training.json"
_RESULT, _REPLACED = "result", "replaced"
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
_IN_PARTIAL = re.compile(
    "|".join(
        (
            *map(re.escape, (RECORD, _RESULT, _REPLACED, LIVE_LOG, REPLAY_FILE)),
            r"replay\.notes\.txt",
            r"base_divergence\.safetensors",
            r"checkpoint-\d+",
            r".+\.part",
        )
    )
)
_LATER = "suite.yaml"
"""Put beside a finished result by its summary."""
_REMEDY = "name another output folder, or replace the run with --overwrite"
_SHOWN = 5


class RunFolder:
    """Where the run with this record stands: not begun, begun (then with a checkpoint to resume from) or finished.

    ``notes`` says of each checkpoint that could not be gone on from what was wrong with it.
    """

    def __init__(self, out: Path, record: Mapping[str, Any]) -> None:
        self.out = out
        self.partial = out.with_name(f"{out.name}.partial")
        self.record = record
        self.notes: list[str] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training into this folder; the hold ends with the process, however it ends.

        Where the system or the file system has no such locks, nothing is held.

        Raises:
            OutputError: another process holds the folder, or it cannot be written.
        """
        lock = self.out.with_name(f".{self.out.name}.lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(lock)
        except OSError as error:
            raise unwritable(self.out, error) from error
        try:
            yield
        finally:
            if handle is not None:
                with suppress(OSError):
                    lock.unlink(missing_ok=True)
                os.close(handle)

    def claim(self, *, overwrite: bool) -> bool:
        """Make the folder this run's; True when the finished run is already there.

        What another run left unfinished before its first checkpoint gives way. ``overwrite`` lets the rest of other
        runs give way too: an unfinished one is removed, a finished one stays until this run takes its place.

        Raises:
            OutputError: the folder, or what a killed run left beside it, is another run's and ``overwrite`` is not
                given; or it is no training run's, or holds files that no run wrote; or it cannot be written.
        """
        try:
            self._undo_half_a_swap()
            _remove_if_empty(self.out)
            if self.is_finished():
                if self.is_begun():
                    shutil.rmtree(self.partial, ignore_errors=True)
                return True
            agreed = (read_object(self.partial / RECORD) or {}).get("replaces") if self.is_begun() else None
            replaced = self._may_replace_out(overwrite=overwrite, agreed=agreed) if self.out.exists() else None
            if self.partial.exists() and not self.is_begun():
                self._clear_partial(overwrite=overwrite)
            self.partial.mkdir(parents=True, exist_ok=True)
            begun = {**self.record, **({"replaces": replaced} if replaced else {})}
            if read_object(self.partial / RECORD) != begun:  # other processes of this run read it meanwhile
                write_json(self.partial / RECORD, begun)
            self.resume_point()
        except OSError as error:
            raise unwritable(self.out, error) from error
        return False

    def is_begun(self) -> bool:
        """Whether this very run left something unfinished."""
        return self._has_fingerprint(self.partial)

    def is_finished(self) -> bool:
        """Whether this very run is there, whole; nothing is touched."""
        return self._has_fingerprint(self.out)

    def resume_point(self) -> Path | None:
        """The checkpoint with the most steps that is whole; later ones are removed, and ``notes`` says why."""
        found = [(int(match[1]), path) for path in self.partial.iterdir() if (match := _CHECKPOINT.match(path.name))]
        method = (self.record.get("settings") or {}).get("method") or {}
        for _, path in sorted(found, reverse=True):
            fault = fault_of(path, method=method.get("name"))
            if fault is None:
                return path
            self.notes.append(f"{path.name} was left out, for it cannot be gone on from: {fault}")
            shutil.rmtree(path)
        return None

    def staging(self) -> Path:
        """An empty folder for the files of the result."""
        folder = self.partial / _RESULT
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Give the staged result its final name and remove what was only needed to resume, and the run it replaces.

        ``facts`` are what came of the run; they stand beside its record in ``training.json``, as do the names of all
        its ``files``: they are what a later run may remove.

        Raises:
            OutputError: another folder has appeared in its place since.
        """
        staged = self.partial / _RESULT
        files = sorted({*_files(staged), RECORD})
        write_json(staged / RECORD, {**self.record, **facts, "files": files})
        _remove_if_empty(self.out)
        if self.out.exists():
            begun = read_object(self.partial / RECORD) or {}
            self._may_replace_out(overwrite=False, agreed=begun.get("replaces"))
            self.out.rename(self.partial / _REPLACED)
        staged.rename(self.out)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _undo_half_a_swap(self) -> None:
        """A kill between the two renames of :meth:`publish` leaves the earlier run without its name."""
        aside = self.partial / _REPLACED
        if aside.exists() and not self.out.exists():
            aside.rename(self.out)

    def _has_fingerprint(self, folder: Path) -> bool:
        found = read_object(folder / RECORD)
        return found is not None and found.get("fingerprint") == self.record["fingerprint"]

    def _may_replace_out(self, *, overwrite: bool, agreed: object) -> str:
        """The fingerprint of the run in ``out``, which may be replaced; ``agreed`` is the one that was before."""
        found = _run_in(self.out)
        fingerprint = str(found["fingerprint"])
        if not overwrite and agreed != fingerprint:
            raise _other_run(self.out, found, self.record)
        listed = found.get("files")
        written = {*map(str, listed if isinstance(listed, list) else ()), RECORD, _LATER}
        _refuse_strangers(self.out, (name for name in _files(self.out) if name not in written))
        return fingerprint

    def _clear_partial(self, *, overwrite: bool) -> None:
        if _remove_if_empty(self.partial):
            return
        found = _run_in(self.partial)
        names = sorted(path.name for path in self.partial.iterdir())
        if not overwrite and any(_CHECKPOINT.match(name) for name in names):
            raise _other_run(self.partial, found, self.record)
        _refuse_strangers(self.partial, (name for name in names if not _IN_PARTIAL.fullmatch(name)))
        shutil.rmtree(self.partial)


def _locked(path: Path) -> int | None:
    """An open file that is locked, or None where there are no locks."""
    if fcntl is None:
        return None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise OutputError(
                "another process is training into this folder",
                where=str(path.parent),
                remedy="wait until it has ended, or name another output folder",
            ) from error
        except OSError:
            os.close(handle)
            return None
        # Whoever held it before may have removed the name in the meantime: then this lock is on nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)


def _run_in(folder: Path) -> dict[str, Any]:
    """The record of the run that a folder holds, finished or not."""
    found = read_object(folder / RECORD)
    if found is None or not all(isinstance(found.get(key), str) for key in ("fingerprint", "start")):
        found = None
    if found is None or not isinstance(found.get("settings"), dict):
        raise OutputError(
            "the folder is not empty and holds no training run",
            where=str(folder),
            remedy="name another output folder; this one is never removed",
        )
    return found


def _other_run(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> OutputError:
    """The error, with what differs: settings by name, else the base's weights, else the data."""
    there, here = _settings_in(found), _settings_in(wanted)
    names = [
        f"{key}: {there.get(key, 'nothing')} there, {here.get(key, 'nothing')} now"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    shown = "; ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
    if not shown:
        shown = "the base's weights" if found.get("start") != wanted.get("start") else "the data"
    return OutputError(f"the folder holds a run with other settings ({shown})", where=str(folder), remedy=_REMEDY)


def _settings_in(record: Mapping[str, Any]) -> dict[str, str]:
    """Dotted names of a record's settings with their values as texts."""
    found: dict[str, str] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else key, inner)
        else:
            found[name] = json.dumps(value, ensure_ascii=False)

    walk("", record.get("settings") or {})
    return found


def _refuse_strangers(folder: Path, names: Iterable[str]) -> None:
    found = sorted(names)
    if found:
        shown = ", ".join(found[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
        raise OutputError(
            f"the folder also holds {len(found)} file{'s' if len(found) > 1 else ''} that no training run wrote: "
            f"{shown}",
            where=str(folder),
            remedy="move them elsewhere, or name another output folder",
        )


def _files(folder: Path) -> Iterator[str]:
    """All that is no folder, and folders that are empty or links, relative to ``folder``."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
            yield path.relative_to(folder).as_posix()


def _remove_if_empty(folder: Path) -> bool:
    if not folder.exists() or any(folder.iterdir()):
        return False
    folder.rmdir()
    return True


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
