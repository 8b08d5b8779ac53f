"""The answer cache: what a checkpoint has said once is not asked again.

The key of an answer names everything it depends on: the weights (of the adapter and of its base), the tokenizer, the
kind of task and its decoding, the content of the item, the data type, the device type and the engine's version. So a
base and its adapter never share an answer, and a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lorascope.engines.base import Outcome
from lorascope.errors import DataError, OutputError
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    GenerateAnswer,
    LabelsAnswer,
    LikelihoodAnswer,
    ScoreAnswer,
    TokensAnswer,
)

_ANSWERS = {
    answer.__name__: answer
    for answer in (GenerateAnswer, LabelsAnswer, ScoreAnswer, TokensAnswer, ChoiceAnswer, LikelihoodAnswer)
}
_KEYS_PER_QUERY = 500
_PATIENCE_SECONDS = 30.0


class AnswerCache:
    """Outcomes by key in one SQLite file (write-ahead log), which several processes may use at once."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; a DataError when it is no cache, an OutputError when it cannot be written."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS)
        except (OSError, sqlite3.OperationalError) as error:
            raise OutputError(f"the answer cache cannot be opened: {error}", where=str(path)) from error
        self._execute("PRAGMA journal_mode=WAL")
        self._execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, outcome TEXT NOT NULL) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._execute("SELECT COUNT(*) FROM answers")[0][0])

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards."""
        self._connection.close()

    def get_many(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes that are stored for these keys."""
        found: dict[str, Outcome] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = list(dict.fromkeys(keys[start : start + _KEYS_PER_QUERY]))
            marks = ",".join("?" * len(part))
            rows = self._execute(f"SELECT key, outcome FROM answers WHERE key IN ({marks})", part)
            found.update({key: self._decode(text) for key, text in rows})
        return found

    def put_many(self, outcomes: Iterable[tuple[str, Outcome]]) -> None:
        """Store and commit; an answer that is stored already is replaced."""
        rows = [(key, _encode(outcome)) for key, outcome in outcomes]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"the answer cache cannot be written: {error}", where=str(self.path), remedy="free some disk space"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _execute(self, statement: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise OutputError(f"the answer cache cannot be used: {error}", where=str(self.path)) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"the answer cache is damaged: {error}",
            where=str(self.path),
            remedy="delete the file; the answers are computed again",
        )

    def _decode(self, text: str) -> Outcome:
        try:
            stored = json.loads(text)
            return Outcome(_ANSWERS[stored["type"]](**_tuples(stored["answer"])), stored["cut"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise self._damaged(error) from error


def _encode(outcome: Outcome) -> str:
    answer: Answer = outcome.answer
    stored = {"type": type(answer).__name__, "answer": asdict(answer), "cut": outcome.cut}
    return json.dumps(stored, ensure_ascii=False, allow_nan=False)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
