"""What the table formats share: columns and their headings, the protection of texts, and reading cells back."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorascope.blind.filled_values import half_width
from lorascope.blind.rows import OVERALL, RATINGS, FilledRow, Language, Sheet
from lorascope.blind.scales import words
from lorascope.errors import DataError

TEXTS = ("question", "answer_a", "answer_b")
COLUMNS = ("id", *TEXTS, "overall", *RATINGS, "comment", "rater", "study")
"""Columns of a sheet in reading order; ``study`` holds the commitment to the key."""
ENTRIES = ("overall", *RATINGS, "comment")
"""The columns that a rater fills in."""
CELL_LIMIT = 32_767
"""UTF-16 units that a cell of a spreadsheet holds; what is longer is cut there without a word."""
_REQUIRED = tuple(name for name in COLUMNS if name != "comment")
_OWN_HEADINGS: dict[Language, dict[str, str]] = {
    "en": {"id": "ID", "rater": "Rater", "study": "Study"},
    "zh": {"id": "编号", "rater": "评测人", "study": "研究编号"},
}
_COLUMNS_TOLD: dict[Language, tuple[str, str, str]] = {
    "en": ("The columns of the sheet", "you fill this in", "leave as it is"),
    "zh": ("表格各列的含义", "由您填写", "请勿改动"),
}
# What a spreadsheet takes for a formula when it opens a text file, full-width forms too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MONTH = (
    r"(?:jan|ene|feb|fev|fév|mar|mär|apr|avr|abr|may|mai|mag|maj|jun|jui|giu|jul|lug|aug|aoû|ago"
    r"|sep|set|oct|okt|ott|out|nov|dec|déc|dez|dic)[^\W\d]*"
)
# Texts that a spreadsheet may turn into a number, date, truth value or error. Too many rather than too few: one sign
# more in front of a short text harms nobody, a text rewritten as 45781 is lost.
_REWRITTEN = re.compile(
    r"\W*\d[\W\d]*(?:[^\W\d]+[\W\d]*){0,3}"
    rf"|{_MONTH}\W{{0,3}}\d[\W\d]*"
    r"|true|false|wahr|falsch|vrai|faux|verdadero|falso|vero|sant|真|假"
    r"|#[a-z0-9/]+[!?]?",
    re.IGNORECASE,
)
_LONGEST_REWRITTEN = 60
_SPACING = re.compile(r"[\s,_]")
_WHOLE = re.compile(r"([0-9]+)(?:[.,]0+)?")


def headings(language: Language) -> dict[str, str]:
    """Each column's heading in the rater's language."""
    said = words(language)
    names = {"question": said.question, "answer_a": said.answer_a, "answer_b": said.answer_b}
    names |= {"overall": said.overall_title, "comment": said.comment} | _OWN_HEADINGS[language]
    names |= {f"{name}_{side}": f"{scale.name} {side.upper()}" for name, scale in said.scales.items() for side in "ab"}
    return {column: names[column] for column in COLUMNS}


def instructions(language: Language) -> str:
    """The instructions as plain text, for formats that have no room for them beside the rows."""
    said = words(language)
    lines = [said.title, "", *said.instructions, "", said.overall_title]
    lines += [f"  {label}" if code == label else f"  {label} ({code})" for code, label in said.overall.items()]
    for scale in said.scales.values():
        low, middle, high = scale.anchors
        lines += ["", f"{scale.name}: {scale.question}", f"  1 {low} · 3 {middle} · 5 {high}"]
    title, fill, leave = _COLUMNS_TOLD[language]
    meant = headings(language)
    lines += ["", title, *(f"  {name}: {meant[name]} ({fill if name in ENTRIES else leave})" for name in COLUMNS)]
    return "\n".join(lines) + "\n"


def refuse_long_texts(sheet: Sheet, as_written: Callable[[str], str]) -> None:
    """DataError for a sheet with a text that, ``as_written`` by the format, a spreadsheet's cell does not hold."""
    for row in sheet.rows:
        for name, text in zip(TEXTS, row.texts, strict=True):
            units = len(as_written(text).encode("utf-16-le", "surrogatepass")) // 2
            if units > CELL_LIMIT:
                title = row.question if len(row.question) <= 60 else f"{row.question[:60]}…"
                problem = f"{name} of the question {title!r} takes {units:,} characters; a spreadsheet's cell holds "
                remedy = "use --format html or label-studio, which take texts of any length"
                raise DataError(f"{problem}{CELL_LIMIT:,}", where=f"{sheet.rater}, row {row.id}", remedy=remedy)


def protect(text: str) -> str:
    """``text`` with an apostrophe in front where a spreadsheet would run or rewrite it; :func:`unprotect` undoes it.

    Only what stands behind leading apostrophes decides, so an answer's own apostrophe comes back as it was.
    """
    return f"'{text}" if _needs_protection(text.lstrip("'")) else text


def unprotect(text: str) -> str:
    """The text that :func:`protect` was given; also when a program has taken its apostrophe away already."""
    return text[1:] if text.startswith("'") and _needs_protection(text.lstrip("'")) else text


def _needs_protection(core: str) -> bool:
    return core.startswith(_FORMULA) or (
        len(core) <= _LONGEST_REWRITTEN and _REWRITTEN.fullmatch(core.strip()) is not None
    )


def begins_formula(text: str) -> bool:
    """Whether a spreadsheet would read ``text`` as a formula if somebody typed it in."""
    return text.startswith(_FORMULA)


@dataclass(frozen=True, slots=True)
class Header:
    """Where each known column stands. ``protected``: the texts carry the apostrophes of :func:`protect`.

    The headings tell: text files have the columns' codes as headings and protected texts, workbooks the words of a
    language and bare ones, and both keep theirs when a spreadsheet saves them in another format.
    """

    places: Mapping[str, int]
    protected: bool

    def cell(self, cells: Sequence[str], column: str) -> str:
        """A row's text in ``column``; '' where the row or the sheet does not reach it."""
        place = self.places.get(column)
        return cells[place] if place is not None and place < len(cells) else ""


def known_columns(cells: Sequence[str]) -> list[str]:
    """The sheet's columns that these headings name."""
    return [_COLUMN_OF[key] for key in map(_key, cells) if key in _COLUMN_OF]


def read_header(cells: Sequence[str], where: str) -> Header:
    """Find the columns by their headings, in any order; other columns are passed over.

    DataError names a column that is missing (and what looks like it) or stands there twice.
    """
    if "annotation_id" in cells:
        problem = "this is Label Studio's table, which does not carry the ratings as they were given"
        raise DataError(problem, where=where, remedy="export the project as JSON or JSON-MIN and give that file")
    found = known_columns(cells)
    if not found:
        problem = "the first row has none of the headings of a rating sheet"
        raise DataError(problem, where=where, remedy="give the sheet that the rater filled in, with its heading row")
    doubled = sorted({name for name in found if found.count(name) > 1})
    if doubled:
        remedy = "remove the copy that holds no ratings"
        raise DataError(f"the sheet has the column {doubled[0]} more than once", where=where, remedy=remedy)
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise _missing(missing, cells, where)
    places = {_COLUMN_OF[_key(cell)]: place for place, cell in enumerate(cells) if _key(cell) in _COLUMN_OF}
    return Header(places, all("_" in cells[places[name]] for name in ("answer_a", "answer_b")))


def _missing(missing: Sequence[str], cells: Sequence[str], where: str) -> DataError:
    others = {_key(cell): cell.strip() for cell in cells if cell.strip() and _key(cell) not in _COLUMN_OF}
    forms = [key for key, column in _COLUMN_OF.items() if column == missing[0]]
    near = next((others[key] for form in forms for key in difflib.get_close_matches(form, others, 1)), None)
    remedy = f"call the column {near!r} {missing[0]!r} again" if near else "return the sheet with all its columns"
    plural = "s" if len(missing) > 1 else ""
    return DataError(f"the sheet has no column{plural} {', '.join(missing)}", where=where, remedy=remedy)


def filled_row(header: Header, cells: Sequence[str], place: str) -> FilledRow:
    """One row of a sheet as given back."""
    values = {name: header.cell(cells, name).strip() for name in COLUMNS}
    question, answer_a, answer_b = (
        unprotect(header.cell(cells, name)) if header.protected else header.cell(cells, name) for name in TEXTS
    )
    return FilledRow(
        place=place,
        id=values["id"],
        commitment=values["study"],
        rater=values["rater"],
        overall=overall_code(values["overall"]),
        ratings={name: rating_text(values[name]) for name in RATINGS},
        comment=values["comment"],
        texts=(question, answer_a, answer_b),
    )


def overall_code(text: str) -> str:
    """The code of an overall choice given as code or as label in any language; any other text unchanged."""
    return _OVERALL_OF.get(_label(text), text.strip())


def rating_text(text: str) -> str:
    """A rating as digits where a program wrote the whole number another way (``4.0``, ``4,0``, full-width)."""
    whole = _WHOLE.fullmatch(half_width(text).strip())
    return whole[1] if whole else text.strip()


def _key(text: str) -> str:
    """What is left of a heading when case, widths, spaces and punctuation are set aside."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", text).casefold() if sign.isalnum())


def _label(text: str) -> str:
    """A choice's label without case, widths, spaces and commas; other signs stay, for ``A+`` and ``Ⓐ`` are none."""
    return _SPACING.sub("", half_width(text).casefold())


def _columns_by_key() -> dict[str, str]:
    by_key = {_key(column): column for column in COLUMNS}
    for language in _OWN_HEADINGS:
        by_key |= {_key(heading): column for column, heading in headings(language).items()}
    return by_key


def _overall_by_key() -> dict[str, str]:
    by_key = {_label(code): code for code in OVERALL}
    for language in _OWN_HEADINGS:
        by_key |= {_label(label): code for code, label in words(language).overall.items()}
    return by_key


_COLUMN_OF = _columns_by_key()
_OVERALL_OF = _overall_by_key()
