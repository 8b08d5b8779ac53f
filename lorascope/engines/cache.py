"""The answer cache: what a checkpoint has said once is not asked again.

The key of an answer (:mod:`lorascope.engines.keys`) names everything that it depends on. Beside each answer stand when
it was stored, a checksum, and what it is an answer of (:class:`Context`), so that the cache can be shown, verified and
pruned by people; nothing of that takes part in finding it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lorascope.engines.base import Outcome
from lorascope.engines.cache_schema import checksum, create_or_migrate
from lorascope.errors import DataError, OutputError
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    DivergenceAnswer,
    GenerateAnswer,
    LabelsAnswer,
    LikelihoodAnswer,
    ScoreAnswer,
    TokensAnswer,
)

_ANSWERS = {
    answer.__name__: answer
    for answer in (
        GenerateAnswer,
        LabelsAnswer,
        ScoreAnswer,
        TokensAnswer,
        ChoiceAnswer,
        LikelihoodAnswer,
        DivergenceAnswer,
    )
}
_KEYS_PER_QUERY = 500
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What answers are answers of, for people who look into the cache: never part of a lookup.

    ``base_hash`` is None for what needs no base; ``version`` is lorascope's.
    """

    engine: str
    subject: str
    content_hash: str
    base_hash: str | None = None
    task: str
    kind: str
    dtype: str
    device: str
    version: str


@dataclass(frozen=True, slots=True)
class Holding:
    """How many answers of one context there are, their bytes of text, and when they were stored (Unix seconds).

    ``context`` is None for answers that came from an older cache, which noted none; so are their times.
    """

    context: Context | None
    answers: int
    bytes: int
    oldest: float | None
    newest: float | None


@dataclass(frozen=True, slots=True)
class Damage:
    """A stored answer that is not what was written, and why; ``context`` as in :class:`Holding`."""

    key: str
    reason: str
    context: Context | None


class AnswerCache:
    """Outcomes by key in one SQLite file (write-ahead log), which several processes may use at once.

    Every :meth:`put_many` is one transaction: after it, killing the process loses nothing of it. One object belongs to
    one thread. An answer that was damaged on the disk counts as not there (``damaged`` counts them): it is computed
    again and replaced.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file, proven writable.

        Raises:
            DataError: the file is no answer cache, is damaged, or was written by a newer lorascope.
            OutputError: it cannot be opened or written (read-only, disk full, another process keeps it locked).
        """
        self.path = path
        self.damaged = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None)
        except (OSError, sqlite3.OperationalError) as error:
            raise OutputError(f"the answer cache cannot be opened: {error}", where=str(path)) from error
        # A flipped bit may leave text that is no UTF-8: then its checksum does not fit, like any other damage.
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            with self._telling():
                create_or_migrate(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._read("SELECT COUNT(*) FROM answers")[0][0])

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards."""
        self._connection.close()

    def get_many(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes that are stored, undamaged, for these keys."""
        found: dict[str, Outcome] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = list(dict.fromkeys(keys[start : start + _KEYS_PER_QUERY]))
            marks = ",".join("?" * len(part))
            rows = self._read(f"SELECT key, outcome, checksum FROM answers WHERE key IN ({marks})", part)
            for key, text, noted in rows:
                outcome = _undamaged(key, text, noted)
                if isinstance(outcome, Outcome):
                    found[key] = outcome
                else:
                    self.damaged += 1
        return found

    def notes(self, keys: Sequence[str]) -> dict[str, list[str]]:
        """What a reader of the answers at these keys has to know, where something was stored with them."""
        found: dict[str, list[str]] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = list(dict.fromkeys(keys[start : start + _KEYS_PER_QUERY]))
            marks = ",".join("?" * len(part))
            for key, note in self._read(f"SELECT key, note FROM notes WHERE key IN ({marks}) ORDER BY note", part):
                found.setdefault(str(key), []).append(str(note))
        return found

    def put_many(
        self,
        outcomes: Iterable[tuple[str, Outcome]],
        context: Context | None = None,
        notes: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """Store and commit all of them or none, with the ``notes`` by key; what is stored already is replaced."""
        encoded = [(key, _encode(outcome)) for key, outcome in outcomes]
        if not encoded:
            return
        now = time.time()
        with self._writing():
            number = None if context is None else self._number_of(context, now)
            rows = [(key, text, checksum(key, text), number, now) for key, text in encoded]
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
            self._connection.executemany("DELETE FROM notes WHERE key = ?", [(key,) for key, _ in encoded])
            told = [(key, note) for key, found in (notes or {}).items() for note in found]
            self._connection.executemany("INSERT OR IGNORE INTO notes VALUES (?, ?)", told)

    def holdings(self) -> list[Holding]:
        """What there is, by context, the newest first."""
        rows = self._read(
            f"SELECT {_CONTEXT_COLUMNS}, COUNT(*), SUM(LENGTH(CAST(outcome AS BLOB))), MIN(answers.created), "
            "MAX(answers.created) FROM answers LEFT JOIN contexts ON contexts.id = answers.context "
            "GROUP BY answers.context ORDER BY MAX(answers.created) DESC"
        )
        return [Holding(_context(row), *row[_WIDTH:]) for row in rows]

    def verify(self) -> list[Damage]:
        """Every stored answer whose checksum does not fit or which cannot be decoded.

        Raises:
            DataError: the file's own structure is damaged, so that its rows cannot be relied on.
        """
        said = [str(line) for (line,) in self._read("PRAGMA integrity_check")]
        if said != ["ok"]:
            raise self._broken(said[0])
        found = []
        for row in self._rows():
            outcome = _undamaged(*row[_WIDTH:])
            if not isinstance(outcome, Outcome):
                found.append(Damage(row[_WIDTH], outcome, _context(row)))
        return found

    def drop(self, keys: Iterable[str]) -> int:
        """Remove these answers; how many there were. The file shrinks with :meth:`shrink`."""
        with self._writing():
            removed = sum(self._connection.execute("DELETE FROM answers WHERE key = ?", [key]).rowcount for key in keys)
            self._forget_what_is_unused()
        return removed

    def prune(self, *, before: float | None = None, contents: Sequence[str] | None = None) -> int:
        """Remove the answers stored before a time (Unix seconds) of checkpoints with these content hashes.

        None is no bound. Answers from an older cache, whose time and checkpoint nobody knows, count as stored before
        any time and as no checkpoint's. Returns how many were removed.
        """
        wanted = ["TRUE"]
        values: list[Any] = []
        if before is not None:
            wanted.append("(created IS NULL OR created < ?)")
            values.append(before)
        if contents is not None:
            marks = ",".join("?" * len(contents))
            wanted.append(f"context IN (SELECT id FROM contexts WHERE content_hash IN ({marks}))")
            values += contents
        with self._writing():
            removed = self._connection.execute(f"DELETE FROM answers WHERE {' AND '.join(wanted)}", values).rowcount
            self._forget_what_is_unused()
        return removed

    def shrink(self) -> None:
        """Give the room of removed answers back to the disk; waits for other processes that use the file."""
        self._read("VACUUM")
        self._read("PRAGMA wal_checkpoint(TRUNCATE)")

    def _number_of(self, context: Context, now: float) -> int:
        """The context's row, new where there is none (or no more: another process may prune at any time)."""
        digest = hashlib.sha256(json.dumps(astuple(context)).encode("utf-8")).hexdigest()
        names = ", ".join(_CONTEXT_FIELDS)
        self._connection.execute(
            f"INSERT OR IGNORE INTO contexts (digest, created, {names}) VALUES (?, ?{', ?' * _WIDTH})",
            [digest, now, *astuple(context)],
        )
        [(number,)] = self._connection.execute("SELECT id FROM contexts WHERE digest = ?", [digest])
        return int(number)

    def _forget_what_is_unused(self) -> None:
        self._connection.execute("DELETE FROM notes WHERE key NOT IN (SELECT key FROM answers)")
        self._connection.execute("DELETE FROM contexts WHERE id NOT IN (SELECT context FROM answers WHERE context > 0)")

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        with self._telling():
            yield from self._connection.execute(
                f"SELECT {_CONTEXT_COLUMNS}, key, outcome, checksum FROM answers "
                "LEFT JOIN contexts ON contexts.id = answers.context"
            )

    def _read(self, statement: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        with self._telling():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction that takes the write lock at once, so that two processes wait for each other and not fail."""
        with self._telling():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"the answer cache cannot be used: {error}", where=str(self.path), remedy=_remedy(error)
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._broken(error) from error
        except DataError as error:
            raise error.at(str(self.path)) from None

    def _broken(self, reason: object) -> DataError:
        return DataError(
            f"the answer cache is damaged: {reason}",
            where=str(self.path),
            remedy="delete the file; the answers are computed again",
        )


_CONTEXT_FIELDS = tuple(field.name for field in fields(Context))
_CONTEXT_COLUMNS = ", ".join(f"contexts.{name}" for name in _CONTEXT_FIELDS)
_WIDTH = len(_CONTEXT_FIELDS)


def _remedy(error: sqlite3.OperationalError) -> str:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
        return "free some disk space and run the same command again: it resumes"
    if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process keeps the file locked: wait for it, or use another folder for the cache"
    return "use a folder that can be written to for the cache"


def _context(row: Sequence[Any]) -> Context | None:
    """The context in the first columns of a row; all of them are null where there is none."""
    return None if row[0] is None else Context(**dict(zip(_CONTEXT_FIELDS, row[:_WIDTH], strict=True)))


def _encode(outcome: Outcome) -> str:
    answer: Answer = outcome.answer
    stored = {"type": type(answer).__name__, "answer": asdict(answer), "cut": outcome.cut}
    return json.dumps(stored, ensure_ascii=False, allow_nan=False)


def _undamaged(key: str, text: Any, noted: Any) -> Outcome | str:
    """The outcome, or what is wrong with it."""
    if not isinstance(text, str) or noted != checksum(key, text):
        return "the checksum does not fit"
    try:
        stored = json.loads(text)
        return Outcome(_ANSWERS[stored["type"]](**_tuples(stored["answer"])), stored["cut"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        return f"it cannot be decoded: {type(error).__name__} {error}"


def _tuples(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
