"""Where answers are kept, and what a person may do with them: show, verify, prune."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from lorascope.engines.cache import AnswerCache, Damage, Holding
from lorascope.errors import DataError, OutputError, UsageError
from lorascope.workflows.output import OutputFolder

VARIABLE = "LORASCOPE_CACHE_DIR"
"""Names the folder of the answer cache, unless a command line does."""

_FILE = "answers.sqlite"
_FEWEST_DIGITS = 8


def cache_path(cache_dir: Path | None = None) -> Path:
    """The file of the shared cache: in ``cache_dir``, else where the environment says, else in the user's own cache."""
    named = cache_dir or _named_by_environment()
    return (named or user_cache_path("lorascope")) / _FILE


def _named_by_environment() -> Path | None:
    value = os.environ.get(VARIABLE, "").strip()
    return Path(value).expanduser() if value else None


@contextmanager
def open_answer_cache(
    folder: OutputFolder,
    *,
    shared: bool,
    cache_dir: Path | None = None,
    say: Callable[[str], object] | None = None,
) -> Iterator[AnswerCache]:
    """The cache that a run uses: the user's, shared by all runs, or one in the run's own folder.

    Not ``shared`` (texts must not be kept, or no cache is wanted) is the file in the folder, so that a killed run still
    resumes; the folder removes it when the result is written, so that the same command then asks anew: a server or a
    plug-in may have other weights under the same name by then. A shared cache that cannot be used is told to ``say``,
    and the folder's file takes its place; one that was named, by ``cache_dir`` or the environment, is an error.

    Raises:
        DataError: a named cache is damaged or no answer cache.
        OutputError: a named cache, or the folder's, cannot be written.
    """
    folder.answers_end_with_result = not shared
    cache = _open_shared(cache_dir, say) if shared else None
    with AnswerCache(folder.answers) if cache is None else cache as opened:
        yield opened


def _open_shared(cache_dir: Path | None, say: Callable[[str], object] | None) -> AnswerCache | None:
    named = cache_dir is not None or _named_by_environment() is not None
    try:
        return AnswerCache(cache_path(cache_dir))
    except (DataError, OutputError) as error:
        if named:
            raise
        if say is not None:
            say(f"{error.problem} ({error.where}); the answers of this run are kept in its own folder")
        return None


@contextmanager
def existing_cache(cache_dir: Path | None) -> Iterator[AnswerCache | None]:
    """The shared cache; None where there is none yet, which is nothing wrong and makes none."""
    path = cache_path(cache_dir)
    if not path.is_file():
        yield None
        return
    with AnswerCache(path) as cache:
        yield cache


def file_bytes(path: Path) -> int:
    """Bytes of the file and of the log beside it; 0 where there is none."""
    parts = (path, path.with_name(f"{path.name}-wal"))
    return sum(part.stat().st_size for part in parts if part.is_file())


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed: answers, and bytes on the disk (0 where other answers keep the room)."""

    answers: int
    bytes: int


def prune(cache: AnswerCache, *, older_than: float | None, checkpoint: str | None) -> Pruned:
    """Remove answers that are older than so many seconds, of one checkpoint, or both at once; all without either.

    ``checkpoint`` is a name, or the first eight or more digits of a content hash. All checkpoints of that name count.

    Raises:
        UsageError: the cache has answers, and none of such a checkpoint.
    """
    contents = None if checkpoint is None else _contents_of(checkpoint, cache.holdings())
    if contents == []:
        return Pruned(0, 0)
    before = file_bytes(cache.path)
    removed = cache.prune(before=None if older_than is None else time.time() - older_than, contents=contents)
    return _shrunk(cache, removed, before)


def drop(cache: AnswerCache, damaged: Sequence[Damage]) -> Pruned:
    """Remove damaged answers."""
    before = file_bytes(cache.path)
    return _shrunk(cache, cache.drop([one.key for one in damaged]), before)


def _shrunk(cache: AnswerCache, removed: int, before: int) -> Pruned:
    if removed:
        cache.shrink()
    return Pruned(removed, max(before - file_bytes(cache.path), 0))


def _contents_of(checkpoint: str, holdings: Sequence[Holding]) -> list[str]:
    known = [holding.context for holding in holdings if holding.context is not None]
    digits = checkpoint.lower() if len(checkpoint) >= _FEWEST_DIGITS else None
    found = {
        context.content_hash
        for context in known
        if context.subject == checkpoint or (digits and context.content_hash.startswith(digits))
    }
    if not found and known:
        names = sorted({context.subject for context in known})
        raise UsageError(
            f"the cache has no answers of a checkpoint '{checkpoint}'",
            remedy=f"it has answers of {', '.join(names)}; lorascope cache show lists their hashes",
        )
    return sorted(found)
