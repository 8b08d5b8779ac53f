"""What stands between a question and its answer where the two are one text.

Readers that write solved examples into a prompt and engines that score an answer after a prompt follow one rule, so
that an example looks like what is scored.
"""

from __future__ import annotations

import unicodedata


def is_wide(sign: str) -> bool:
    """Whether a character belongs to a script without spaces between words: CJK, kana, full-width punctuation."""
    wide = unicodedata.east_asian_width(sign) in {"W", "F"} and unicodedata.category(sign) != "So"
    return wide and not unicodedata.name(sign, "").startswith("HANGUL")


def answer_separator(prompt: str, answer: str) -> str:
    """A space between a plain prompt and its answer; nothing where either brings whitespace or is CJK at the seam."""
    if not prompt or not answer or prompt[-1].isspace() or answer[0].isspace():
        return ""
    return "" if is_wide(prompt[-1]) or is_wide(answer[0]) else " "


def choice_separator(context: str) -> str:
    """A space between a plain context and a choice, nothing after CJK text; whitespace at its end does not count."""
    ending = context.rstrip()[-1:]
    return "" if ending and is_wide(ending) else " "
