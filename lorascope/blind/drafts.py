"""A row of a sheet with all that is known of it, before it is parted into the rater's part and the key's."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from lorascope.blind.key import KeyRow, RowKind, row_digest
from lorascope.blind.rows import SheetRow

_LIKE_A_NUMBER = re.compile(r"\de\d")
Side = Literal["A", "B"]


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer on one side, and the system that gave it."""

    system: str
    text: str


@dataclass(frozen=True, slots=True)
class Draft:
    """One row; ``item`` is the place in the study's items, ``of`` and ``wrong`` are as in the key's rows."""

    id: str
    kind: RowKind
    item: int
    question: str
    a: Shown
    b: Shown
    of: str | None = None
    wrong: Side | None = None

    def parted(self, rater: str, salt: str) -> tuple[KeyRow, SheetRow]:
        """The row as the key keeps it, with the digest of its texts, and as the rater sees it."""
        shown = SheetRow(self.id, self.question, self.a.text, self.b.text)
        known = KeyRow(
            id=self.id,
            rater=rater,
            kind=self.kind,
            item=self.item,
            a=self.a.system,
            b=self.b.system,
            of=self.of,
            wrong=self.wrong,
            digest=row_digest(salt, shown),
        )
        return known, shown


def opaque_id(chance: random.Random) -> str:
    """64 random bits behind a letter, the same for every kind of row; none holds what could be read as 1e5."""
    while _LIKE_A_NUMBER.search(digits := f"{chance.getrandbits(64):016x}"):
        pass
    return f"q{digits}"
