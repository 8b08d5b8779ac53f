"""Texts that end in a loop: the degeneration of greedy decoding (Holtzman et al., arXiv 1904.09751)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorascope.measures.writing import UNSPACED

_REPEATS = 3
_COVERED = 12
_COVERED_BY_SIGNS = 40
_TAIL = 400
_LONGEST_UNIT = 100
_TOKEN = re.compile(rf"[^\W{UNSPACED}]+|[{UNSPACED}]|[^\w\s]")
_WITHIN_A_WORD = re.compile(r"([^\W\d]{1,8}?)\1{5,}$")


@dataclass(frozen=True, slots=True)
class Loop:
    """The unit that repeats at the end of a text, and how many whole times it stands there."""

    unit: str
    times: int


def ending_loop(text: str) -> Loop | None:
    """The loop that a text ends in, or None.

    Holtzman et al. count a phrase that stands at least three times at the end; so does this, over words, single
    characters of scripts without spaces and single signs, and asks for 12 of them in all (40 where no letter or digit
    is among them: rules and closing brackets repeat by right), so that short lists are not called loops. The last
    round may be incomplete. Numbers that count up break a loop: enumerations are none.
    """
    found = list(_TOKEN.finditer(text[-20 * _TAIL :]))[-_TAIL:]
    tokens = [match.group() for match in found]
    for period in range(1, min(_LONGEST_UNIT, len(tokens) // _REPEATS) + 1):
        if tokens[-1] != tokens[-1 - period]:
            continue
        covered = period + _matching(tokens, period)
        if covered < _REPEATS * period:
            continue
        unit = tokens[-period:]
        if covered >= (_COVERED if any(token[0].isalnum() for token in unit) else _COVERED_BY_SIGNS):
            return Loop(text[-20 * _TAIL :][found[-period].start() : found[-1].end()], covered // period)
    return _loop_in_a_word(tokens)


def _matching(tokens: list[str], period: int) -> int:
    """How many tokens at the end equal the one a period before them."""
    count = 0
    for place in range(len(tokens) - 1, period - 1, -1):
        if tokens[place] != tokens[place - period]:
            break
        count += 1
    return count


def _loop_in_a_word(tokens: list[str]) -> Loop | None:
    """A loop without spaces, as ``hahahahahaha``; digits are left out, since long numbers have runs of zeros."""
    last = next((token for token in reversed(tokens[-20:]) if token[0].isalnum()), "")
    match = _WITHIN_A_WORD.search(last[-_TAIL:]) if len(last) >= _COVERED else None
    if match is None or len(match.group()) < _COVERED:
        return None
    return Loop(match.group(1), len(match.group()) // len(match.group(1)))
