"""The tables of an answer cache, and how an older file becomes one of today's."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from contextlib import suppress

from lorascope.errors import DataError

VERSION = 1
"""``PRAGMA user_version`` of a file. 0, with a table of answers alone, is what lorascope wrote before there was one."""

_TRIES, _PAUSE_SECONDS = 100, 0.1
_OWN = {"answers", "contexts"}

_CONTEXTS = """
CREATE TABLE contexts (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, created REAL NOT NULL,
    engine TEXT NOT NULL, subject TEXT NOT NULL, content_hash TEXT NOT NULL, base_hash TEXT,
    task TEXT NOT NULL, kind TEXT NOT NULL, dtype TEXT NOT NULL, device TEXT NOT NULL, version TEXT NOT NULL
)
"""
_ANSWERS = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, outcome TEXT NOT NULL, checksum TEXT NOT NULL, context INTEGER, created REAL
) WITHOUT ROWID
"""
# Beside the tables that the format has always had, so that a lorascope that knows no notes reads the file as before.
_NOTES = "CREATE TABLE IF NOT EXISTS notes (key TEXT, note TEXT, PRIMARY KEY (key, note)) WITHOUT ROWID"


def checksum(key: str, outcome: str) -> str:
    """32 hexadecimal digits over key and outcome, so that an outcome under another's key is found out too."""
    return hashlib.sha256(f"{key}\n{outcome}".encode()).hexdigest()[:32]


def create_or_migrate(connection: sqlite3.Connection) -> None:
    """Make an empty file a cache, and an older cache one of today's; the file is written to in any case.

    The write proves that the disk takes answers before a model is loaded; what is no cache is refused before it. The
    connection must be in autocommit mode.

    Raises:
        DataError: a database of another program, or a cache of a newer lorascope.
        sqlite3.Error: the file cannot be read or written.
    """
    _refuse_others(connection)
    _use_write_ahead_log(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        _bring_up_to_date(connection)
        connection.execute(_NOTES)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _refuse_others(connection: sqlite3.Connection) -> None:
    """Look at version and tables in one transaction: another process may be making the file just now."""
    connection.execute("BEGIN")
    try:
        _tables(connection)
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Readers and one writer at a time, in any number of processes.

    The switch needs the file for itself, and SQLite does not wait for that. With the log, ``NORMAL`` loses nothing when
    a process is killed; a power failure may take the last answers, never the file.
    """
    for left in range(_TRIES, 0, -1):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or left == 1:
                raise
            time.sleep(_PAUSE_SECONDS)
    connection.execute("PRAGMA synchronous = NORMAL")


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Idempotent, and under the write lock: of two processes that open an old file, the second finds it done."""
    tables = _tables(connection)
    if not tables >= _OWN:
        _migrate_from_0(connection, bool(tables))


def _tables(connection: sqlite3.Connection) -> set[str]:
    """Names of the tables in a cache of this format or an older one, none in an empty file; nothing is written.

    Raises:
        DataError: a database of another program, or a cache of a newer lorascope.
    """
    [(version,)] = connection.execute("PRAGMA user_version")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == VERSION and tables >= _OWN:
        return tables
    if version > VERSION:
        raise DataError(
            f"the answer cache has format {version}, and this lorascope knows formats up to {VERSION}",
            remedy="use the newer lorascope, or another folder for the cache",
        )
    columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(answers)")]
    if version != 0 or tables not in (set(), {"answers"}) or columns not in ([], ["key", "outcome"]):
        raise DataError(
            f"the file is a database of another program (its tables: {', '.join(sorted(tables)) or 'none'})",
            remedy="use another folder for the cache",
        )
    return tables


def _migrate_from_0(connection: sqlite3.Connection, filled: bool) -> None:
    """Older answers had no checksum, time or context: they get a checksum of what is there, and no time or context."""
    if filled:
        connection.execute("ALTER TABLE answers RENAME TO answers_0")
    connection.execute(_CONTEXTS)
    connection.execute(_ANSWERS)
    connection.execute("CREATE INDEX answers_of_context ON answers (context)")
    if filled:
        connection.create_function("checksum_of", 2, checksum, deterministic=True)
        connection.execute(
            "INSERT INTO answers SELECT key, outcome, checksum_of(key, outcome), NULL, NULL FROM answers_0"
        )
        connection.execute("DROP TABLE answers_0")
