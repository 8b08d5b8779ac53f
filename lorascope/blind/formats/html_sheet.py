"""A rating sheet as one HTML page that works offline, and the file of ratings that the page saves.

A rater opens the page by double-click. Its content security policy allows its own script and style by their hashes and
nothing else, so no request can leave it; questions and answers reach the document as JSON and from there by
``textContent`` alone, so nothing in them can run. The page holds the rows as the sheet has them and nothing more about
who wrote what.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import AfterValidator, Field, ValidationError

from lorascope.blind.filled_values import shown
from lorascope.blind.formats.encoding import marked_encoding
from lorascope.blind.formats.html_words import page_words
from lorascope.blind.rows import OVERALL, RATINGS, FilledRow, FilledSheet, Language, Sheet, clean
from lorascope.blind.scales import words
from lorascope.errors import DataError
from lorascope.schema.model import Model

TEMPLATES = Path(__file__).parents[1] / "templates"
ANSWERS_FORMAT = "lorascope-ratings"
"""What the saved file calls itself under ``format``."""
_VERSION = 1
_REMEDY = "open the rating page, load or enter the ratings, press 'Save ratings' and give that file as it is"


def _known_rating(name: str) -> str:
    if name not in RATINGS:
        raise ValueError(f"there is no rating {name!r}")
    return name


class _SavedRow(Model):
    """One row as the page saves it. Values are judged with those of the other formats, so any number may stand here."""

    id: str
    overall: str
    ratings: dict[Annotated[str, AfterValidator(_known_rating)], int]
    comment: str
    texts: tuple[str, str, str]


class _SavedAnswers(Model):
    """The file that the page saves: what the sheet said about itself, and every row, rated or not."""

    format: Literal["lorascope-ratings"]
    version: Literal[1]
    study: str
    commitment: str
    rater: str
    language: Language
    rows: list[_SavedRow] = Field(min_length=1)


def html_page(sheet: Sheet) -> str:
    """Return a rater's whole sheet as one HTML page, ready to be written as UTF-8.

    Rows stand in the sheet's order. The page is the same for the same sheet: no time, user or version is in it.
    """
    environment = _environment()
    style = f"\n{environment.get_template('sheet.css').render()}\n"
    script = f"\n{(TEMPLATES / 'sheet.js').read_text(encoding='utf-8')}\n"
    return environment.get_template("sheet.html.j2").render(
        lang="zh-Hans" if sheet.language == "zh" else "en",
        policy=_policy(script, style),
        style=Markup(style),
        script=Markup(script),
        data=_json_for_html(_page_data(sheet)),
        rater=sheet.rater,
        file=answers_name(sheet.rater),
        count=len(sheet.rows),
        scale_words=words(sheet.language),
        t=SimpleNamespace(**page_words(sheet.language)),
    )


def answers_name(rater: str) -> str:
    """Name of the file that a rater's page saves."""
    return f"{rater}-ratings.json"


def read_html_answers(path: Path) -> FilledSheet:
    """Read the JSON that the page saves; values are returned as they stand there, for the check that all formats share.

    A row's place counts from 1, as the page does. DataError when the file cannot be read or is no such file.
    """
    try:
        content = path.read_bytes()
        saved = _SavedAnswers.model_validate_json(content.decode(marked_encoding(content)), strict=True)
    except OSError as error:
        raise DataError(f"the ratings cannot be read: {error.strerror}", where=str(path), remedy=_REMEDY) from error
    except UnicodeDecodeError as error:
        raise DataError(
            "the ratings are not text in UTF-8, or in UTF-16 with a byte-order mark", where=str(path), remedy=_REMEDY
        ) from error
    except ValidationError as error:
        problem, place = _first_problem(error)
        raise DataError(problem, where=f"{path}{place}", remedy=_REMEDY) from error
    rows = (_filled_row(saved, row, f"{path.name}, row {number}") for number, row in enumerate(saved.rows, start=1))
    return FilledSheet(path.name, tuple(rows), saved.study.strip())


def _filled_row(saved: _SavedAnswers, row: _SavedRow, place: str) -> FilledRow:
    return FilledRow(
        place=place,
        id=row.id.strip(),
        commitment=saved.commitment.strip(),
        rater=saved.rater.strip(),
        overall=row.overall.strip(),
        ratings={name: str(row.ratings[name]) if name in row.ratings else "" for name in RATINGS},
        comment=clean(row.comment),
        texts=row.texts,
    )


def _first_problem(error: ValidationError) -> tuple[str, str]:
    """What is wrong, and the row and field where, with rows counted from 1."""
    first = error.errors()[0]
    location = list(first["loc"])
    if first["type"] == "json_invalid":
        return f"this is no file of ratings: {first['msg']}", ""
    if location == ["version"] and isinstance(first.get("input"), int):
        return f"the ratings have version {first['input']}, this lorascope reads {_VERSION}", ""
    if location == ["format"] or not location:
        return f"this is no file of ratings that a rating page saved: {first['msg']}", ""
    if location[0] == "rows" and len(location) > 1:
        row = f", row {int(location[1]) + 1}"
        rest = ".".join(shown(str(part)) for part in location[2:] if part != "[key]")
        return f"this is no row of ratings: {first['msg']}", f"{row}, {rest}" if rest else row
    place = f", {shown('.'.join(map(str, location)))}"
    return f"this is no file of ratings that a rating page saved: {first['msg']}", place


def _environment() -> Environment:
    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _page_data(sheet: Sheet) -> dict[str, Any]:
    """What the script needs: the head of the saved file, the rows, the codes, and the words it puts on the page."""
    labels = words(sheet.language)
    return {
        "head": {
            "format": ANSWERS_FORMAT,
            "version": _VERSION,
            "study": sheet.study,
            "commitment": sheet.commitment,
            "rater": sheet.rater,
            "language": sheet.language,
        },
        "file": answers_name(sheet.rater),
        "rows": [{"id": row.id, "texts": row.texts} for row in sheet.rows],
        "choices": list(OVERALL),
        "labels": labels.overall,
        "ratings": RATINGS,
        "words": page_words(sheet.language),
    }


def _json_for_html(value: object) -> Markup:
    """JSON that is safe inside a script element: no character in it can end the element or start a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _policy(script: str, style: str) -> str:
    return (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
