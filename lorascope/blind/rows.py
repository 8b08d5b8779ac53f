"""What a rater sees and gives back: the same records whatever the format of the sheet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lorascope.schema.human import DIMENSIONS

Language = Literal["en", "zh"]
OVERALL = {"A much": 2, "A": 1, "tie": 0, "both bad": 0, "B": -1, "B much": -2}
"""Choices of the overall preference, in reading order, and how far each prefers A."""
RATINGS = tuple(f"{dimension}_{side}" for side in "ab" for dimension in DIMENSIONS)
"""Names of the eight ratings of a row: accuracy_a … fluency_b, each 1 to 5 or not given."""
_UNSEEN = "\u200b\u200c\u200d\u2060\ufeff"
_OUTER = _UNSEEN + "".join(sign for sign in map(chr, range(0x3001)) if sign.isspace())
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One question with two answers."""

    id: str
    question: str
    answer_a: str
    answer_b: str

    @property
    def texts(self) -> tuple[str, str, str]:
        """Question, answer A, answer B."""
        return self.question, self.answer_a, self.answer_b


@dataclass(frozen=True, slots=True)
class Sheet:
    """One rater's rows in the order shown. ``study`` is the study's opaque name, ``commitment`` pins its key."""

    study: str
    commitment: str
    rater: str
    language: Language
    rows: tuple[SheetRow, ...]


@dataclass(frozen=True, slots=True)
class FilledRow:
    """One row as given back, its values as they stand there (stripped, '' where empty), not judged yet.

    ``place`` names sheet and row as the rater's program counts them. ``texts`` are question, answer A and answer B as
    given back, with what the format adds for safety taken away again; None where the format does not carry them.
    """

    place: str
    id: str
    commitment: str
    rater: str
    overall: str
    ratings: Mapping[str, str]
    comment: str
    texts: tuple[str, str, str] | None


@dataclass(frozen=True, slots=True)
class FilledSheet:
    """A sheet as given back; ``name`` is its file's. ``study``: the study's name, None where the format has none.

    ``folder`` is the file's, as it was given. ``encoding`` is the one that a text file was read in, and ``otherwise``
    the same file in the other encodings that its bytes allow: the digests of the texts tell which is right.
    """

    name: str
    rows: tuple[FilledRow, ...]
    study: str | None = None
    folder: str = ""
    encoding: str | None = None
    otherwise: tuple[FilledSheet, ...] = ()


def clean(text: str) -> str:
    """A text as sheets show it: without outer white space, which alone can tell systems apart, or control characters.

    Characters without width (U+200B to U+200D, U+2060, U+FEFF) go with the outer white space; inside a text scripts and
    emoji need the joiners. Line ends become ``\\n``; controls, lone surrogates, Unicode's line separators and U+FEFF
    inside a text become U+FFFD.
    """
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n").strip(_OUTER))
