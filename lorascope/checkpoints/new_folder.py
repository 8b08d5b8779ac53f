"""A new checkpoint's folder: it appears complete or not at all.

It is filled under another name beside its place and renamed at the end. What interrupts that (an error, Ctrl-C,
SIGTERM, SIGHUP) leaves nothing of it, and an earlier folder as it was.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lorascope.errors import OutputError

RECORD = "lorascope_repair.json"
MODEL_CARD = "README.md"


@contextmanager
def new_checkpoint(out: Path, *, sources: Iterable[Path], overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` when the block ends well and is removed when it does not.

    Raises :class:`OutputError` for an ``out`` inside one of ``sources``, and for one that exists — with ``overwrite``
    only where it holds anything but an earlier repaired checkpoint, which is then replaced. The place is looked at
    again when the folder is full: filling it takes time. SIGTERM and SIGHUP act like Ctrl-C inside the block.
    """
    from safetensors import SafetensorError

    sources = list(sources)
    free_place(out, sources=sources, overwrite=overwrite)
    try:
        with _ending_like_ctrl_c():
            out.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
            try:
                yield part
                free_place(out, sources=sources, overwrite=overwrite)
                _finish(part, out)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            "the disk is full" if full else f"the checkpoint cannot be written: {error}",
            where=str(out),
            remedy=f"{'free some space, or ' if full else ''}choose another folder with --out",
        ) from error


def free_place(out: Path, *, sources: Iterable[Path], overwrite: bool) -> None:
    """Raise :class:`OutputError` where :func:`new_checkpoint` may not write."""
    place = out.resolve()
    for source in sources:
        if source.resolve() in (place, *place.parents):
            raise OutputError(
                "the repaired checkpoint would lie in one of the checkpoints that it is made from",
                where=f"{out}, in {source}",
                remedy="choose another folder with --out",
            )
    if not out.exists() and not out.is_symlink():
        return
    elsewhere = "choose another folder with --out"
    if not out.is_dir():
        raise OutputError("this path is a file", where=str(out), remedy=elsewhere)
    found = {str(path.relative_to(out)) for path in out.rglob("*")}
    if not found:
        return
    foreign = sorted(found - _recorded(out))
    if foreign:
        raise OutputError(
            f"the folder exists and holds more than a repaired checkpoint: {foreign[0]}",
            where=str(out),
            remedy=elsewhere,
        )
    if not overwrite:
        raise OutputError(
            "the folder holds a repaired checkpoint already",
            where=str(out),
            remedy=f"pass --overwrite to replace it, or {elsewhere}",
        )


def write_record(folder: Path, record: Mapping[str, Any], summary: str) -> None:
    """Write ``lorascope_repair.json`` with the names of all files; end the model card with ``summary``."""
    card = folder / MODEL_CARD
    text = card.read_bytes().rstrip(b"\n") + b"\n\n" if card.is_file() else b""
    card.write_bytes(text + f"{summary}\n".encode())
    files = sorted({str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} | {RECORD})
    whole = json.dumps({**record, "files": files}, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(whole + "\n", encoding="utf-8")


@contextmanager
def _ending_like_ctrl_c() -> Iterator[None]:
    """Let the signals that end a process raise ``KeyboardInterrupt``, so that what is open is cleaned up.

    A signal that the process handles or ignores (``nohup``) is left alone, and so are all outside the main thread.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    taken = []
    if threading.current_thread() is threading.main_thread():
        known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        taken = [each for each in known if signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def _finish(part: Path, out: Path) -> None:
    part.chmod(0o755)
    for path in part.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if not out.exists():
        part.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    old = aside / "old"
    try:
        out.rename(old)
        part.rename(out)
    finally:
        # Whatever came between the two, an interruption too: the earlier folder goes back before its shelter goes.
        if os.path.lexists(old) and not os.path.lexists(out):
            old.rename(out)
        shutil.rmtree(aside, ignore_errors=True)


def _recorded(out: Path) -> set[str]:
    """Files that an earlier repair wrote to ``out``, and the folders that they lie in; nothing that is a link."""
    try:
        files = json.loads((out / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    if not isinstance(files, list):
        return set()
    known = {str(name) for name in files}
    known |= {str(parent) for name in known for parent in Path(name).parents}
    return {name for name in known if not (out / name).is_symlink()}
