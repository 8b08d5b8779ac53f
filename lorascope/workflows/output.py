"""The output folder: claimed by one command, resumed by the same command, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lorascope.errors import OutputError
from lorascope.schema.items import content_id

RESULT, REPORT, SAMPLES, WEIGHTS = "result.json", "report.html", "samples.parquet", "weights.parquet"
_CLAIM, _ANSWERS, _MODULES = "run.json", "answers.sqlite", "modules.jsonl"
_LONGEST_NAME = 255
"""Bytes that file systems take."""
_OURS = (RESULT, REPORT, SAMPLES, WEIGHTS, _CLAIM, _MODULES, _ANSWERS, f"{_ANSWERS}-wal", f"{_ANSWERS}-shm")


class OutputFolder:
    """A folder that belongs to one command; every file appears in it complete or not at all."""

    def __init__(self, path: Path, resumed: bool) -> None:
        """Use :meth:`claim`."""
        self.path = path
        self.resumed = resumed
        self.answers_end_with_result = False

    @classmethod
    def claim(cls, path: Path, fingerprint: Mapping[str, Any], *, overwrite: bool = False) -> OutputFolder:
        """Take ``path`` for the command that ``fingerprint`` describes.

        A folder claimed by the same fingerprint is resumed; any other folder with content is refused with
        :class:`OutputError` unless ``overwrite``, which removes lorascope's own files from it and no others.
        """
        key = content_id(fingerprint)
        with naming(path):
            path.mkdir(parents=True, exist_ok=True)
            found = _claimed_by(path)
            resumed = found is not None and found.get("fingerprint") == key
            if not resumed and any(path.iterdir()):
                _make_room(path, found, fingerprint, overwrite)
        folder = cls(path, resumed)
        folder.write_text(_CLAIM, json.dumps({"fingerprint": key, "of": fingerprint}, indent=2, ensure_ascii=False))
        return folder

    @property
    def answers(self) -> Path:
        """Where the answers of finished items are kept."""
        return self.path / _ANSWERS

    @property
    def modules(self) -> Path:
        """Where the weight analysis of finished modules is kept until all are finished."""
        return self.path / _MODULES

    def forget_answers(self) -> None:
        """Remove the kept answers: of results that must hold no text, or of models that may change unseen."""
        for name in _OURS:
            if name.startswith(_ANSWERS):
                (self.path / name).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a UTF-8 file whole; with the result, kept answers that are for resuming alone have done their duty."""
        written = write_whole(self.path / name, lambda part: part.write_text(text, encoding="utf-8"))
        if name == RESULT and self.answers_end_with_result:
            self.forget_answers()
        return written

    def write_with(self, name: str, write: Callable[[Path], object]) -> Path:
        """Let ``write`` fill a temporary path and rename it into place."""
        return write_whole(self.path / name, write)


def short_name(name: str) -> str:
    """A file name of ``name``: other signs than letters, digits, ``_``, ``.`` and ``-`` become ``-``.

    One that no file system takes is cut, and a hash of the whole of it keeps it apart from others that begin alike.
    """
    clean = re.sub(r"[^\w.-]+", "-", name)
    encoded = clean.encode("utf-8")
    if len(encoded) <= _LONGEST_NAME:
        return clean
    kept = encoded[: _LONGEST_NAME - 13].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(name.encode('utf-8')).hexdigest()[:12]}"


def write_whole(target: Path, write: Callable[[Path], object]) -> Path:
    """Write beside ``target`` and rename; on failure nothing is left and :class:`OutputError` says what to do."""
    with naming(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        part = Path(name)
        try:
            write(part)
            part.chmod(0o644)
            os.replace(part, target)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return target


def prove_writable(path: Path) -> None:
    """Raise :class:`OutputError` for a ``path`` that can be no folder to write to; nothing is left there.

    For the moment before the work begins: what is in the folder already is :meth:`OutputFolder.claim`'s question.
    """
    with naming(path):
        nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not nearest.is_dir():
            raise OSError(errno.EEXIST if nearest == path else errno.ENOTDIR, "no folder")
        Path(tempfile.mkdtemp(prefix=".lorascope-", dir=nearest)).rmdir()


_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again: it resumes"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again: it resumes"),
    errno.EROFS: ("the file system is read-only", "choose another folder with --out"),
    errno.EPERM: ("the folder may not be written to", "choose another folder with --out"),
    errno.EACCES: ("the folder may not be written to", "choose another folder with --out"),
    errno.ENOTDIR: ("a part of this path is a file", "choose another folder with --out"),
    errno.EEXIST: ("this path is a file", "choose another folder with --out"),
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into messages with a remedy."""
    try:
        yield
    except OSError as error:
        known = _REMEDIES.get(error.errno or 0)
        unknown = f"the output cannot be written: {error.strerror or error}", "choose another folder with --out"
        problem, remedy = known or unknown
        raise OutputError(problem, where=str(path), remedy=remedy) from error


def _claimed_by(path: Path) -> dict[str, Any] | None:
    try:
        claim = json.loads((path / _CLAIM).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return claim if isinstance(claim, dict) else {}


def _make_room(path: Path, found: dict[str, Any] | None, wanted: Mapping[str, Any], overwrite: bool) -> None:
    if overwrite:
        for name in _OURS:
            (path / name).unlink(missing_ok=True)
        return
    if found is None:
        raise OutputError(
            "the output folder is not empty and holds no lorascope run",
            where=str(path),
            remedy="choose another folder with --out, or pass --overwrite to write beside what is there",
        )
    earlier = found.get("of")
    differing = [key for key in wanted if isinstance(earlier, dict) and earlier.get(key) != wanted[key]]
    raise OutputError(
        f"the output folder belongs to another command (different: {', '.join(differing) or 'its claim is damaged'})",
        where=str(path),
        remedy="choose another folder with --out, or pass --overwrite to replace that run",
    )
