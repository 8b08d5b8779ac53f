"""Words of a text in any script, for measures that count overlapping tokens.

rouge_score's own tokenizer keeps a–z and 0–9 and silently drops everything else: identical Chinese answers score 0,
``café`` equals ``caf``. Here ASCII text is split by its rule, so English scores do not move; other text is split by
Unicode classes. On ASCII both rules give the same tokens, so an ASCII answer and a non-ASCII reference stay
comparable.
"""

from __future__ import annotations

import re
import string
import unicodedata
from functools import lru_cache
from typing import Literal

from lorascope.errors import ConfigError

# Scripts written without spaces: Han, kana, Thai, Lao, Burmese, Khmer. Each character is a token of its own.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = _HAN + "\u3005\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9d\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_HAN_PATTERN = re.compile(f"[{_HAN}]")
_OTHER_UNSPACED_PATTERN = re.compile(f"(?![{_HAN}])[{_UNSPACED}]")
_HAN_RUN = re.compile(f"[{_HAN}]+")
_UNSPACED_PATTERN = re.compile(f"[{_UNSPACED}]")
_ASCII_WORD = re.compile("[a-z0-9]+")

_ARTICLES = frozenset({"a", "an", "the"})

_CharacterClass = Literal["letter", "mark", "single", "break"]


@lru_cache(maxsize=65_536)
def _character_class(character: str) -> _CharacterClass:
    if unicodedata.category(character).startswith("M"):
        return "mark"
    if not character.isalnum():
        return "break"
    return "single" if _UNSPACED_PATTERN.match(character) else "letter"


def has_han(text: str) -> bool:
    """Whether the text holds a Han character."""
    return not text.isascii() and _HAN_PATTERN.search(text) is not None


def has_other_unspaced(text: str) -> bool:
    """Whether the text holds kana, Thai, Lao, Burmese or Khmer."""
    return not text.isascii() and _OTHER_UNSPACED_PATTERN.search(text) is not None


def words(text: str, *, chinese_words: bool = False) -> list[str]:
    """Lower-case words without punctuation; unspaced scripts by character, or Han runs by jieba on request.

    Combining marks stay with their letter. Composed and decomposed spellings are the same word (NFC).
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    normal = unicodedata.normalize("NFC", text).lower()
    if not chinese_words:
        return _split(normal)
    tokens: list[str] = []
    end = 0
    for run in _HAN_RUN.finditer(normal):
        tokens += _split(normal[end : run.start()])
        tokens += jieba_words(run.group())
        end = run.end()
    return tokens + _split(normal[end:])


def _split(text: str) -> list[str]:
    tokens: list[str] = []
    previous: _CharacterClass = "break"
    for character in text:
        kind = _character_class(character)
        if kind == "mark":
            if previous != "break":
                tokens[-1] += character
            continue
        if kind == "letter" and previous == "letter":
            tokens[-1] += character
        elif kind != "break":
            tokens.append(character)
        previous = kind
    return tokens


def jieba_words(text: str) -> list[str]:
    """The text cut by jieba in its default mode, nothing left out; ConfigError where jieba is not installed."""
    try:
        import jieba
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Chinese by words needs the package jieba, which is not installed", remedy="pip install 'lorascope[zh]'"
        ) from error
    jieba.setLogLevel("WARNING")
    return list(jieba.cut(text))


def spaced_words(text: str, *, chinese_words: bool = False) -> list[str]:
    """Tokens for nltk's BLEU: what white space separates, case and punctuation kept; unspaced scripts by character.

    Text without unspaced scripts is exactly ``text.split()``, the way nltk's BLEU is commonly called.
    """
    tokens: list[str] = []
    for chunk in text.split():
        tokens += [chunk] if chunk.isascii() else _separate(chunk, chinese_words)
    return tokens


def _separate(chunk: str, chinese_words: bool) -> list[str]:
    if chinese_words and has_han(chunk):
        pieces = re.findall(f"[{_HAN}]+|[^{_HAN}]+", chunk)
        return [token for piece in pieces for token in (jieba_words(piece) if has_han(piece) else [piece])]
    if not _UNSPACED_PATTERN.search(chunk):
        return [chunk]
    return re.findall(f"[{_UNSPACED}]|[^{_UNSPACED}]+", chunk)


def answer_words(text: str) -> list[str]:
    """Tokens for question-answering F1: lower case, no punctuation, no articles; unspaced scripts by character.

    As in SQuAD, punctuation is deleted and not a border (``it's`` is ``its``), except full-width punctuation.
    """
    lowered = unicodedata.normalize("NFC", text).lower()
    bare = "".join(_without_punctuation(character) for character in lowered)
    tokens = [token for chunk in bare.split() for token in _separate(chunk, False)]
    return [token for token in tokens if token not in _ARTICLES]


@lru_cache(maxsize=65_536)
def _without_punctuation(character: str) -> str:
    if character not in string.punctuation and not unicodedata.category(character).startswith("P"):
        return character
    return " " if unicodedata.east_asian_width(character) in "FW" else ""
