"""The key of a study: which system wrote which answer of which row. It never lies beside the sheets."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from lorascope.blind.plan import StudyPlan
from lorascope.blind.rows import SheetRow
from lorascope.errors import DataError, OutputError
from lorascope.schema.model import Finite, Model

RowKind = Literal["rated", "repeat", "mismatched", "identical"]
"""What a row is for. Id, place and layout do not tell the kinds apart; ``rated`` rows alone make the scores."""


class System(Model):
    """One checkpoint whose answers are shown. ``content_hash`` is of its weights and configuration."""

    name: str
    role: Literal["base", "adapted"]
    content_hash: str


class Stratum(Model):
    """Items of one kind: ``population`` of them could be drawn, ``drawn`` were, so each stands for ``weight``."""

    name: str
    population: int = Field(ge=1)
    drawn: int = Field(ge=0)
    weight: Finite = Field(gt=0)


class StudyItem(Model):
    """One drawn item and the two systems compared on it; ``first`` is the one whose wins are counted.

    ``lengths`` are those of the two answers in characters, first's and second's. ``identical``: both answers are the
    same text as shown, so the item is a tie that nobody rates.
    """

    task: str
    item_id: str
    stratum: str
    first: str
    second: str
    lengths: tuple[int, int]
    identical: bool = False


class KeyRow(Model):
    """One row of one rater's sheet.

    ``item`` is the place in the key's ``items``; ``a`` and ``b`` are the systems whose answers stand there. ``of`` is
    the id of the row that a repeat repeats. ``wrong`` is the side of a mismatched row on which an answer to another
    question stands. ``digest`` is the HMAC of the row as shown, so that an edited text is found.
    """

    id: str
    rater: str
    kind: RowKind
    item: int = Field(ge=0)
    a: str
    b: str
    of: str | None = None
    wrong: Literal["A", "B"] | None = None
    digest: str


class StudyKey(Model):
    """Everything that unblinds a study.

    ``tasks`` gives the fingerprint of each task and ``systems`` the checkpoints' contents, so that scores cannot reach
    another result. ``salt`` is what commitment and digests are made with: without it nobody can try out assignments
    against what stands in the sheets.
    """

    version: Literal[2] = 2
    study: str
    language: Literal["en", "zh"]
    seed: int
    salt: str = Field(pattern=r"^(?:[0-9a-fA-F]{2}){32,}$")
    tasks: dict[str, str]
    systems: list[System] = Field(min_length=2)
    strata: list[Stratum] = Field(min_length=1)
    items: list[StudyItem] = Field(min_length=1)
    raters: list[str] = Field(min_length=1)
    rows: list[KeyRow] = Field(min_length=1)
    plan: StudyPlan | None = None

    @model_validator(mode="after")
    def _refers_to_itself(self) -> Self:
        systems, strata = {each.name for each in self.systems}, {each.name for each in self.strata}
        for place, item in enumerate(self.items):
            if item.stratum not in strata or not {item.first, item.second} <= systems:
                raise ValueError(f"item {place} has a stratum or a system that the key does not list")
        raters, known = set(self.raters), {row.id for row in self.rows}
        for row in self.rows:
            fault = _fault(row, len(self.items), raters, systems, known)
            if fault is not None:
                raise ValueError(f"row {row.id} {fault}")
        return self

    @property
    def commitment(self) -> str:
        """HMAC-SHA256 of the whole key under its salt: printed in the sheets, it pins the key before any rating."""
        content = json.dumps(self.model_dump(mode="json", exclude={"salt"}), sort_keys=True, separators=(",", ":"))
        return f"hmac-{_hmac(self.salt, content)}"


def _fault(row: KeyRow, items: int, raters: set[str], systems: set[str], rows: set[str]) -> str | None:
    """What about the row does not fit the rest of its key."""
    if row.item >= items:
        return f"is of item {row.item}, the last is {items - 1}"
    if row.rater not in raters:
        return f"is of a rater that the key does not list: {row.rater}"
    if not {row.a, row.b} <= systems:
        return "shows a system that the key does not list"
    if (row.of is not None) != (row.kind == "repeat"):
        return "must say which row it repeats" if row.of is None else f"is {row.kind} and repeats no row"
    if row.of is not None and row.of not in rows:
        return f"repeats {row.of}, which the key does not list"
    if (row.wrong is not None) != (row.kind == "mismatched"):
        return "must say which side is wrong" if row.wrong is None else f"is {row.kind} and has no wrong side"
    return None


def row_digest(salt: str, row: SheetRow) -> str:
    """HMAC of a row's id and texts, the same after a spreadsheet has changed line ends or outer white space."""
    texts = ["\n".join(line.rstrip() for line in text.splitlines()).strip() for text in row.texts]
    return _hmac(salt, json.dumps([row.id, *texts], ensure_ascii=False))


def _hmac(salt: str, content: str) -> str:
    return hmac.new(bytes.fromhex(salt), content.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def write_key(key: StudyKey, path: Path) -> None:
    """Write a new key that its owner alone may read (mode 600); OutputError when the file exists."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(number, "w", encoding="utf-8") as file:
            file.write(key.model_dump_json(indent=1) + "\n")
    except FileExistsError as error:
        remedy = "choose another path; without its key an older study cannot be scored"
        raise OutputError("there is a file at the key's path already", where=str(path), remedy=remedy) from error
    except OSError as error:
        raise OutputError(f"the key cannot be written: {error.strerror}", where=str(path)) from error


def read_key(path: Path) -> StudyKey:
    """Read a key; DataError when it is missing or is not one."""
    remedy = "give the key that was written with the sheets"
    try:
        raw = json.loads(path.read_bytes())
        if isinstance(raw, dict) and raw.get("version") not in (None, 2):
            problem = f"the key has version {raw['version']}, this lorascope reads 2"
            raise DataError(problem, where=str(path), remedy="score it with the lorascope that exported the study")
        return StudyKey.model_validate(raw)
    except OSError as error:
        raise DataError(f"the key cannot be read: {error.strerror}", where=str(path), remedy=remedy) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise DataError(f"this is no study key: {place}: {first['msg']}", where=str(path), remedy=remedy) from error
    except ValueError as error:
        raise DataError(f"this is no study key: {error}", where=str(path), remedy=remedy) from error
    except RecursionError as error:
        raise DataError("this is no study key: it is nested too deeply", where=str(path), remedy=remedy) from error
