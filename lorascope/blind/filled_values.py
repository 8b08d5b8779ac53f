"""What stands in a rater's cells: ratings are read, what is none is described, foreign text is made safe to show."""

from __future__ import annotations

import re
from datetime import date, timedelta

from lorascope.blind.rows import OVERALL

_SHOWN = 40
_RATING = re.compile(r"([1-5])(?:[.,]0+)?")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    rf"a date\b.*|\d{{4}}[-/.年]\d{{1,2}}(?:[-/.月]\d{{1,2}}日?)?\b.*|\d{{1,2}}[-/.]\d{{1,2}}[-/.](?:\d{{2,4}})?"
    rf"|\d{{1,2}}月\d{{1,2}}日?|\d{{1,4}}[-/. ]*{_MONTH}\b.*|{_MONTH}[-/. ]*\d{{1,4}}",
    re.IGNORECASE,
)
_HALF_WIDTH = {0x3000: " "} | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_DAY_ZERO = date(1899, 12, 30)
_DAYS = range(36_526, 73_051)  # the years 2000 to 2099, as spreadsheets number days


def shown(text: str) -> str:
    """Foreign text as part of a message: one line, no control or escape sequences, cut where it is long."""
    cut = text[: 2 * _SHOWN]
    safe = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in cut)
    return safe if len(text) <= 2 * _SHOWN else f"{safe}…"


def quoted(text: str) -> str:
    """A cell's content as part of a message, in quotes; see :func:`shown`."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


def half_width(text: str) -> str:
    """The text with the full-width letters, digits and signs of Chinese and Japanese input methods as ASCII.

    Circled, superscript and other digits stay what they are: '④' or '4²' is no spelling of a number that was meant.
    """
    return text.translate(_HALF_WIDTH)


def parse_rating(text: str) -> int | None:
    """1 to 5, or None where the text is no such whole number. '4.0', '4,0' and full-width digits are a program's 4."""
    if not text or len(text) > _SHOWN:
        return None
    found = _RATING.fullmatch(half_width(text))
    return int(found[1]) if found else None


def is_date(text: str) -> bool:
    """Whether a rating cell holds a date, written out or as the number by which spreadsheets count days."""
    return bool(_DATE.fullmatch(text[: 2 * _SHOWN])) or _numbered_day(text) is not None


def _numbered_day(text: str) -> date | None:
    whole = text.removesuffix(".0")
    if len(whole) != 5 or not (whole.isascii() and whole.isdigit()) or int(whole) not in _DAYS:
        return None
    return _DAY_ZERO + timedelta(days=int(whole))


def misread_rating(text: str) -> str:
    """What is wrong with a rating that is none, in words that follow the rating's name."""
    day = _numbered_day(text)
    if day is not None:
        return f"is {quoted(text)}, a spreadsheet's number of the day {day}: it turned what was typed into a date"
    if is_date(text):
        return f"is {quoted(text)}: the spreadsheet turned what was typed (such as 4-5) into a date"
    return f"is {quoted(text)}, not a whole number from 1 to 5"


def misread_overall(text: str) -> str:
    """What is wrong with an overall choice that is none."""
    return f"overall is {quoted(text)}, none of: {', '.join(OVERALL)}"
