"""The fixed texts of reports in every language, read once from ``templates/texts.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

Language = Literal["en", "zh"]
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Texts:
    """One language's texts by dotted key; ``texts("key", name=value)`` fills the named places."""

    language: Language
    by_key: dict[str, str]

    def __call__(self, key: str, /, **values: object) -> str:
        """Return the text of ``key`` with its places filled; a key that does not exist is a ``KeyError``."""
        return self.by_key[key].format(**values) if values else self.by_key[key]

    def known(self, key: str, otherwise: str) -> str:
        """Return the text of ``key``, or ``otherwise`` for names that come from data (metrics, methods, totals)."""
        return self.by_key.get(key, otherwise)

    def several(self, key: str, count: int, /, **values: object) -> str:
        """Return ``key.one`` for a count of 1, else ``key.other``; both may use ``{count}``."""
        return self(f"{key}.{'one' if count == 1 else 'other'}", count=f"{count:,}", **values)

    def group(self, prefix: str) -> dict[str, str]:
        """Return every text below ``prefix.`` by the rest of its key."""
        start = f"{prefix}."
        return {key[len(start) :]: text for key, text in self.by_key.items() if key.startswith(start)}

    def ended(self, text: str) -> str:
        """Close a sentence with one full stop of the language."""
        return self("end", text=text.rstrip(".。 "))

    def joined(self, parts: list[str]) -> str:
        """Join names in the language's own way."""
        return ("、" if self.language == "zh" else ", ").join(parts)


@lru_cache(maxsize=2)
def load_texts(language: Language = "en") -> Texts:
    """Return all fixed texts in ``language``."""
    table: dict[str, dict[str, str]] = json.loads((TEMPLATES / "texts.json").read_text(encoding="utf-8"))
    return Texts(language, {key: entry[language] for key, entry in table.items()})
