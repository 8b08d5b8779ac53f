"""On which line of a TOML document each table, key and array element begins, which the standard parser does not say."""

from __future__ import annotations

import re
import tomllib

Place = tuple[int | str, ...]
_SPACE = re.compile(r"[ \t]*")
_FILLING = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'", flags=re.DOTALL
)
_BARE = re.compile(r"[\w-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")


def lines_of(text: str) -> dict[Place, int]:
    """Lines, from 1, by place (``("gate", 0, "metric")``). ``text`` must be valid TOML."""
    return _Walk(text).found


class _Walk:
    """One pass over a valid document."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found: dict[Place, int] = {}
        self._tables: dict[Place, int] = {}
        table: Place = ()
        self._skip(_FILLING)
        while self.at < len(text):
            if self._peek("["):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_FILLING)

    def _peek(self, start: str) -> bool:
        return self.text.startswith(start, self.at)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"no TOML at character {self.at}")
        self.at = match.end()
        return match[0]

    def _note(self, place: Place, start: int) -> None:
        line = self.text.count("\n", 0, start) + 1
        for depth in range(1, len(place) + 1):
            self.found.setdefault(place[:depth], line)

    def _keys(self) -> Place:
        """A key, or several with dots between."""
        keys: list[str] = []
        while not keys or self._peek("."):
            self.at += 1 if keys else 0
            self._skip(_SPACE)
            if self._peek('"') or self._peek("'"):
                keys.append(next(iter(tomllib.loads(f"{self._skip(_STRING)} = 0"))))
            else:
                keys.append(self._skip(_BARE))
            self._skip(_SPACE)
        return tuple(keys)

    def _header(self) -> Place:
        start, repeated = self.at, self._peek("[[")
        self.at += 2 if repeated else 1
        place: Place = ()
        keys = self._keys()
        for depth, key in enumerate(keys, start=1):
            place = (*place, key)
            if depth == len(keys) and repeated:
                self._tables[place] = self._tables.get(place, -1) + 1
            if place in self._tables:
                place = (*place, self._tables[place])
        self.at += 2 if repeated else 1
        self._note(place, start)
        return place

    def _pair(self, table: Place) -> None:
        start = self.at
        place = (*table, *self._keys())
        self._note(place, start)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(place)

    def _value(self, place: Place) -> None:
        if self._peek('"') or self._peek("'"):
            self._skip(_STRING)
        elif self._peek("["):
            self._elements(place)
        elif self._peek("{"):
            self._inline(place)
        else:
            self._skip(_SCALAR)

    def _elements(self, place: Place) -> None:
        self.at += 1
        self._skip(_FILLING)
        number = 0
        while not self._peek("]"):
            self._note((*place, number), self.at)
            self._value((*place, number))
            self._skip(_FILLING)
            if self._peek(","):
                self.at += 1
            self._skip(_FILLING)
            number += 1
        self.at += 1

    def _inline(self, place: Place) -> None:
        self.at += 1
        self._skip(_FILLING)
        while not self._peek("}"):
            self._pair(place)
            self._skip(_FILLING)
            if self._peek(","):
                self.at += 1
            self._skip(_FILLING)
        self.at += 1
