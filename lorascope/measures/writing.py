"""Which writing system a text is in, by counting its words: Latin, Chinese characters, Japanese, Cyrillic and so on.

Scripts only: English and French are both Latin here, and nothing is said about them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d"
UNSPACED = HAN + KANA + "\u3005\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Characters of scripts without spaces, as the inside of a regular expression's class: each counts as a word."""

_CHINESE, _JAPANESE = "Chinese characters", "Japanese"
_SCRIPTS = {
    "CJK": _CHINESE, "IDEOGRAPHIC": _CHINESE, "HIRAGANA": _JAPANESE, "KATAKANA": _JAPANESE, "HALFWIDTH": _JAPANESE,
    "KATAKANA-HIRAGANA": _JAPANESE, "HANGUL": "Korean",
}  # fmt: skip
_MAIN_SHARE = 0.7
_KANA_SHARE = 0.15
# Every part is of bounded length: text without spaces would else be searched anew from each character to its end.
_ADDRESS = r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,253}"
_NO_LANGUAGE = re.compile(rf"```\w*|https?://\S+|{_ADDRESS}|<[^<>]{{1,200}}>|\\[a-zA-Z]+")
_UNIT = re.compile(rf"[{UNSPACED}]|[^\W\d_{UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Writing:
    """The main script of a text, its share of the words (0–1), and how many words of it there are.

    ``telling`` is False where the words say little: single letters and abbreviations stand in any language.
    """

    script: str
    share: float
    words: int
    telling: bool


def main_writing(text: str) -> Writing | None:
    """The script that at least 70 % of a text's words are in; None for mixed text and text without letters.

    A run of letters is a word, and so is each character of a script without spaces. Addresses, tags and commands of
    markup are left out. Chinese characters count as Japanese where kana stand among them.
    """
    units = _UNIT.findall(_NO_LANGUAGE.sub(" ", text) if not text.isalnum() else text)
    if not units:
        return None
    counts = Counter(_script(unit[0]) for unit in units)
    if counts[_JAPANESE] > 1 and counts[_JAPANESE] >= _KANA_SHARE * (counts[_JAPANESE] + counts[_CHINESE]):
        counts[_JAPANESE] += counts.pop(_CHINESE, 0)
    script, words = counts.most_common(1)[0]
    if words < _MAIN_SHARE * len(units):
        return None
    telling = words > 2 or any(_is_word(unit) for unit in units if _script(unit[0]) == script)
    return Writing(script, words / len(units), words, telling)


def _is_word(unit: str) -> bool:
    """Whether a unit is a word of a language rather than a letter or an abbreviation."""
    return (len(unit) == 1 and re.match(f"[{UNSPACED}]", unit) is not None) or (len(unit) > 2 and not unit.isupper())


@lru_cache(maxsize=65_536)
def _script(character: str) -> str:
    """The script's name, from the first word of the character's Unicode name."""
    if character.isascii():
        return "Latin"
    word = unicodedata.name(character, "unknown script").replace("FULLWIDTH ", "").split()[0]
    return _SCRIPTS.get(word, word.capitalize())


def confusable(one: str, other: str) -> bool:
    """Whether two scripts can stand for one language: Japanese is now and then written in Chinese characters alone."""
    return {one, other} == {_CHINESE, _JAPANESE}
