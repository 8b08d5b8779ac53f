"""The key of a study: which answer of which row is the adapted checkpoint's. It never lies beside the sheets."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from lorascope.errors import DataError, OutputError
from lorascope.schema.model import Model


class SheetRow(Model):
    """One row of one rater's sheet; ``adapted`` is the side on which the adapted checkpoint's answer stands."""

    id: str
    rater: str
    task: str
    item_id: str
    adapted: Literal["A", "B"]


class StudyKey(Model):
    """Everything that unblinds a study.

    ``tasks`` gives the fingerprint of each task, ``subject_hash`` and ``reference_hash`` the checkpoints' contents,
    so that scores cannot reach another result. ``identical`` are the sampled items, as (task, item id), whose two
    answers are the same; they are on no sheet and count as ties. ``salt`` is what the sheets' commitment is made
    with: without it nobody can try out assignments against the commitment.
    """

    version: Literal[1] = 1
    subject: str
    subject_hash: str
    reference: str
    reference_hash: str
    tasks: dict[str, str]
    seed: int
    salt: str = Field(min_length=32)
    rows: list[SheetRow] = Field(min_length=1)
    identical: list[tuple[str, str]]

    @property
    def commitment(self) -> str:
        """HMAC-SHA256 of the whole key under its salt: printed in the sheets, it pins the key before any rating."""
        content = json.dumps(self.model_dump(mode="json", exclude={"salt"}), sort_keys=True, separators=(",", ":"))
        digest = hmac.new(bytes.fromhex(self.salt), content.encode(), hashlib.sha256).hexdigest()
        return f"hmac-{digest}"

    @property
    def raters(self) -> list[str]:
        """The raters' names, in the order of the sheets."""
        return list(dict.fromkeys(row.rater for row in self.rows))


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
    try:
        return StudyKey.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"the key cannot be read: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        remedy = "give the key that was written with the sheets"
        raise DataError(f"this is no study key: {place}: {first['msg']}", where=str(path), remedy=remedy) from error
