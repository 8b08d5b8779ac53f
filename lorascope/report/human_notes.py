"""The fixed sentences that scoring writes into a result, in the report's language.

A result keeps its notes in English. The English texts ``human.note.*`` are these sentences with places for what varies,
so that a sentence is recognised by its own text. What is not among them stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from lorascope.report.texts import Texts, load_texts

_LENGTHS = {"short", "middle", "long"}
_FLIPS = {"flipped": "flipped", "not flipped": "not_flipped"}


def told(note: str, words: Texts) -> tuple[str, str]:
    """The note in the language of ``words`` and that language's code; the note itself and ``en`` where it is free."""
    if words.language == "en":
        return note, "en"
    parts = [_translated(part, words) for part in note.split("; ")]
    known = [part for part in parts if part is not None]
    said = "；".join(known) if len(known) == len(parts) else _translated(note, words)
    return (note, "en") if said is None else (said, words.language)


def all_told(notes: Iterable[str], words: Texts) -> tuple[tuple[str, str], ...]:
    """Each note as :func:`told` says it."""
    return tuple(told(note, words) for note in notes)


def stratum_name(name: str, words: Texts) -> str:
    """A stratum's name with its lengths and flips in the language of ``words``; the tasks' names stay as they are."""
    if words.language == "en":
        return name
    if name == load_texts("en")("human.stratum.all"):
        return words("human.stratum.all")
    return " + ".join(_stratum_part(part, words) for part in name.split(" + "))


def _stratum_part(part: str, words: Texts) -> str:
    """Only the last two words after the task can be a length and a flip."""
    task, *kinds = part.split(", ")
    return ", ".join([task, *(_kind(kind, words) for kind in kinds)])


def _kind(kind: str, words: Texts) -> str:
    if kind in _FLIPS:
        return words(f"human.stratum.{_FLIPS[kind]}")
    lengths = kind.split(" and ")
    if set(lengths) <= _LENGTHS:
        return words.joined([words(f"human.stratum.{length}") for length in lengths])
    return kind


def _translated(note: str, words: Texts) -> str | None:
    for key, pattern in _patterns():
        found = pattern.fullmatch(note)
        if found is not None:
            values = {name: _value(name, value, words) for name, value in found.groupdict().items()}
            if all(value is not None for value in values.values()):
                return words(key, **values)
    return None


def _value(name: str, value: str, words: Texts) -> str | None:
    """A reason is a sentence of its own, dimensions are names; other places hold names and numbers."""
    if name == "reason":
        return _translated(value, words)
    if name == "dimensions":
        return words.joined([words.known(f"human.dimension.{each}", each) for each in value.split(", ")])
    return value


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Every sentence as a pattern, those with the most fixed words first: the others' places would swallow them."""
    texts = load_texts("en").group("human.note")
    sentences = sorted(texts.items(), key=lambda each: -len(re.sub(r"\{\w+\}", "", each[1])))
    return tuple((f"human.note.{key}", _pattern(text)) for key, text in sentences)


def _pattern(text: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", text)
    return re.compile("".join(f"(?P<{piece}>.+?)" if at % 2 else re.escape(piece) for at, piece in enumerate(pieces)))
