"""Whether a text gives the right answer in another form than the one that is compared: quoted, in a sentence, 1,000.

The rules are strict, because a wrong "it was only the format" hides a loss. A short answer that stands somewhere in a
text (``no`` in "there is no doubt", ``4`` among other numbers, ``positive`` beside ``negative``) is not taken as given:
it has to open the text, stand on a line of its own, or be announced by words such as "the answer is".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from lorascope.measures.writing import HAN, UNSPACED

Form = Literal["equal", "line", "announced", "inside"]
"""Equal but for signs, articles and numbers; opening or a line of its own; announced ("the answer is"); inside."""
Key = tuple[str, ...]

_POLAR_GROUPS = (
    frozenset({"yes", "no", "maybe"}), frozenset({"true", "false"}), frozenset({"是", "否", "不是"}),
    frozenset({"对", "错", "不对"}), frozenset({"有", "没有"}),
)  # fmt: skip
_LABEL_GROUPS = (
    frozenset({"positive", "negative", "neutral", "mixed"}), frozenset({"entailment", "contradiction", "neutral"}),
    frozenset({"high", "medium", "low"}), frozenset({"correct", "incorrect"}),
    frozenset({"正面", "负面", "中性"}), frozenset({"积极", "消极", "中性"}),
)  # fmt: skip
_POLAR = frozenset().union(*_POLAR_GROUPS)
_NUMBER_NAMES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"
)  # fmt: skip
_NUMBER_WORDS = {
    **{word: str(number) for number, word in enumerate(_NUMBER_NAMES)},
    **{word: str(number) for number, word in enumerate("零一二三四五六七八九十")},
    "两": "2",
}
_DENIALS = frozenset({
    "not", "no", "never", "isn't", "wasn't", "aren't", "don't", "doesn't", "can't", "cannot", "than", "except",
    "neither", "nor", "without", "unlike", "instead", "or", "either", "between",
    "不", "非", "没", "无", "未", "或", "勿", "还",
})  # fmt: skip
_NUMBERED = frozenset({
    "step", "question", "figure", "table", "chapter", "section", "page", "version", "number", "item", "part", "line",
    "example", "option", "第",
})  # fmt: skip
_HEDGES = frozenset({"or", "或"})
_LEADS_TO = frozenset("是为在叫即指到选了")
_CLOSES = frozenset("的吧呢啊哦")

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: 0x20, 0x2212: 0x2D, 0x2018: 0x27, 0x2019: 0x27, 0x200B: None, 0xFEFF: None,
}  # fmt: skip
_MARKUP = (
    (re.compile(r"(?m)^[ \t]*```[\w+-]*[ \t]*$"), ""),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\boxed\s*\{([^{}]*)\}"), r" answer: \1 "),
    (re.compile(r"\\[()\[\]]|`|(?<!\w)\*{1,3}(?=\w)|(?<=\w)\*{1,3}(?!\w)"), " "),
)
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)*)"
_TOKEN = re.compile(
    rf"(?P<number>(?:(?<![^\s(=:<>\[{{\"'])[-+])?{_NUMBER}(?![^\W{UNSPACED}]))"
    rf"|(?P<single>[{UNSPACED}])|(?P<word>[^\W{UNSPACED}]+(?:'[^\W{UNSPACED}]+)*#?)|(?P<sign>[!=<>]=|[-+*/=<>%^&|~@\\])"
)
_NO_SIGN = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])|(?m:^[ \t]*[-*+][ \t]+)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。!?])|\n+")
_HEAD = re.compile(r"^\W*(?:(?:(?:the|final|my)\s+)*(?:answer|ans|output|result)|a|答案?|回答|输出|结果)\s*:\s*", re.I)
_ANNOUNCED = re.compile(
    r"(?:\b(?:answer|result|solution|output|label|choice|option|class|category|sentiment|conclusion)\b"
    r"(?:[^.\n:=]{0,40}?\s(?:is|was|be)\b\s*:?|\s*[:=])|\b(?:option|choice)\s+(?=\(?[A-Z]\b)|####"
    r"|(?:答案|结果|结论|选项|标签|类别|类型)\s*(?:应该|应当|应|就)?\s*(?:是|为|选|:)\s*:?"
    r"|(?:应选|故选|所以选|选择?|选项)\s*(?=\(?[A-Z](?![A-Za-z])))\s*(?P<value>(?:[^\n。.!?]|[.!?](?!\s|$))+)",
    re.IGNORECASE,
)  # fmt: skip
_LETTER_OPENS = re.compile(r"^[\W_]*([A-Z])\s*(?:[).:,;、]|\n|$)")
_LETTER_ANNOUNCED = re.compile(r"^[\W_]*(?:option\s+|choice\s+)?[\W_]*([A-Z])(?![\w'])")
_NAME_BEFORE = re.compile(r"\S+ [A-Z][^\W\d_]+ $")
_HEDGED = re.compile(r"\W*(?:or\b|或|还是)", re.IGNORECASE)
_BORDER = re.compile(r"[.,;:!?)\]\"'…、](?! ?\d)|\n|\s+[-–—(]")


class _Token(NamedTuple):
    text: str
    start: int
    end: int
    number: bool


def given_form(text: str, reference: str, others: Sequence[str] = ()) -> Form | None:
    """How ``text`` gives the answer ``reference``; None where it does not, or not for certain.

    ``others`` are other answers that the task knows (its labels): where one of them stands in the text too, only an
    answer that opens the text, has its own line or is announced counts.
    """
    wanted = answer_key(reference)
    if not wanted or _surely_absent(text, wanted):
        return None
    plain = _without_head(_plain(text), reference)
    if _same(answer_key(plain), wanted):
        return "equal"
    lines = [key for line in plain.splitlines() if (key := answer_key(line))]
    if len(lines) > 1 and wanted in (lines[0], lines[-1]):
        return "line"
    if wanted == ("no",) and re.match(r"\W*no\.\s*\d", plain, re.IGNORECASE):
        return None
    return _given_inside(plain, reference, wanted, others)


def _surely_absent(text: str, wanted: Key) -> bool:
    """Whether a word of the answer occurs nowhere in the text; decides most items without taking the text apart."""
    folded = (text if text.isascii() else unicodedata.normalize("NFC", text).translate(_FULL_WIDTH)).casefold()
    return any(word.isalpha() and word not in _NUMBER_WORDS and word not in folded for word in wanted)


@lru_cache(maxsize=4096)
def answer_key(text: str) -> Key:
    """A text's words, numbers and operators: no case, no quotes or full stops, no articles, ``1,000.0`` as ``1000``."""
    return tuple(token.text for token in _tokens(_plain(text)))


def _given_inside(plain: str, reference: str, wanted: Key, others: Sequence[str]) -> Form | None:
    announced = _announced(plain)
    if announced is not None and len(wanted) < 3:
        if _opens(announced, reference, wanted, announced=True):
            return "announced"
        if next(_places(_tokens(announced), wanted), None) is None:
            return None
    if _opens(plain, reference, wanted, announced=False) and not _has_rival(_tokens(plain), wanted, others):
        return "line"
    if _is_letter(reference) or _is_polar(wanted):
        return None
    return _stands_inside(plain, wanted, others)


def _stands_inside(plain: str, wanted: Key, others: Sequence[str]) -> Form | None:
    tokens = _tokens(plain)
    places = list(_places(tokens, wanted))
    if not places or any(_denied(tokens, place, len(wanted)) for place in places):
        return None
    if len(wanted) == 1 and _is_number(wanted[0]):
        lone = {token.text for token in tokens if token.number} == set(wanted)
        bare = not any(_beside_operator(tokens, place) or _counts_up(plain, tokens, place) for place in places)
        return "inside" if lone and bare else None
    if len(wanted) > 2 and not _is_short_han(wanted):
        return "inside"
    if _has_rival(tokens, wanted, others):
        return None
    sentences = [part for part in _SENTENCE_END.split(plain) if answer_key(part)]
    return "inside" if any(_stands_free(part, wanted) for part in (sentences[0], sentences[-1])) else None


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    """The text without the markup that stands around answers; full-width signs as ASCII ones."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_FULL_WIDTH)
    for pattern, by in _MARKUP:
        text = pattern.sub(by, text)
    return text.strip()


def _without_head(plain: str, reference: str) -> str:
    """Without ``Answer:`` and the like; ``A:`` may be the choice A itself."""
    rest = _HEAD.sub("", plain, count=1)
    if _is_letter(reference) and re.match(r"\W*A\s*:", plain) and not re.fullmatch(r"\W*[A-Z]\W*", rest):
        return plain
    return rest or plain


@lru_cache(maxsize=4096)
def _tokens(plain: str) -> tuple[_Token, ...]:
    """Words in lower case, numbers in one form, operators; articles are left out unless they stand last or alone."""
    even = _NO_SIGN.sub(lambda match: " " * len(match.group()), plain)
    found = list(_TOKEN.finditer(even))
    return tuple(
        _Token(_canonical(match.group()), match.start(), match.end(), match.lastgroup == "number")
        for place, match in enumerate(found)
        if place == len(found) - 1 or not _is_article(match.group(), place)
    )


def _is_article(word: str, place: int) -> bool:
    """A capital A within a text is a name: vitamin A."""
    return word in ("a", "an", "the", "An", "The") or (word == "A" and place == 0)


@lru_cache(maxsize=65_536)
def _canonical(word: str) -> str:
    """Lower case; numbers without separators, leading plus and trailing zeros of a fraction."""
    if not _is_number(word):
        return (word.strip("_") or word).casefold()
    bare = word.replace(",", "").lstrip("+")
    return bare.rstrip("0").rstrip(".") if bare.count(".") == 1 else bare


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[-+]?\d[\d,]*(?:\.\d+)*", word) is not None


def _same(one: Key, other: Key) -> bool:
    if one == other:
        return True
    return len(one) == len(other) and all(
        _NUMBER_WORDS.get(mine, mine) == _NUMBER_WORDS.get(its, its) for mine, its in zip(one, other, strict=True)
    )


def _is_letter(reference: str) -> bool:
    """Whether the reference is the letter of a choice: ``B``, ``(B)``, ``B.``."""
    return re.fullmatch(r"\W*[A-Z]\W*", reference) is not None


def _is_polar(wanted: Key) -> bool:
    """Answers that stand in any sentence: yes and no, true and false, a single Chinese character."""
    return "".join(wanted) in _POLAR or (len(wanted) == 1 and re.fullmatch(f"[{UNSPACED}]", wanted[0]) is not None)


def _is_short_han(wanted: Key) -> bool:
    return len(wanted) < 4 and all(re.fullmatch(f"[{HAN}]", word) for word in wanted)


def _announced(plain: str) -> str | None:
    """What stands after the last "the answer is", up to the end of the sentence."""
    found = list(_ANNOUNCED.finditer(plain))
    return found[-1]["value"] if found else None


def _opens(text: str, reference: str, wanted: Key, *, announced: bool) -> bool:
    """Whether a text begins with the answer as an answer: ``No, …`` but not ``No one …``, ``B) …`` but not ``A man``.

    After an announcement less is asked: "the answer is B because …", "… is 42 apples"; a name must not go on.
    """
    if _is_letter(reference):
        match = (_LETTER_ANNOUNCED if announced else _LETTER_OPENS).match(text)
        return match is not None and match[1].casefold() == wanted[0]
    tokens = _tokens(text)
    size = len(wanted)
    if tuple(token.text for token in tokens[:size]) != wanted:
        return False
    rest = text[tokens[size - 1].end :]
    if not rest.strip():
        return True
    if _HEDGED.match(rest) or (not announced and tokens[0].number):
        return False
    if _BORDER.match(rest):
        return True
    if re.match(f"[{HAN}]", wanted[-1]):
        return rest[0] in _CLOSES and not _is_polar(wanted)
    return announced and not _is_polar(wanted) and re.match(r" (?!or\b)[a-z]", rest) is not None


def _places(tokens: Sequence[_Token], wanted: Key) -> Iterator[int]:
    """Where the wanted words stand in a row."""
    size = len(wanted)
    for start in range(len(tokens) - size + 1):
        if tokens[start].text == wanted[0] and tuple(token.text for token in tokens[start : start + size]) == wanted:
            yield start


def _denied(tokens: Sequence[_Token], place: int, size: int) -> bool:
    """Whether the words around deny or hedge an occurrence: "not Paris", "Paris or London", "Paris is not …"."""
    before = {token.text for token in tokens[max(0, place - 3) : place]}
    after = [token.text for token in tokens[place + size : place + size + 2]] + ["", ""]
    negated = after[0].endswith("n't") or after[0] == "不" or after[1] in ("not", "不")
    return bool(before & _DENIALS) or after[0] in _HEDGES or negated


def _beside_operator(tokens: Sequence[_Token], place: int) -> bool:
    """Whether a number is part of an expression (``42 + x``) or a percentage; after an equals sign it is a result."""
    before = tokens[place - 1].text if place else ""
    after = tokens[place + 1].text if place + 1 < len(tokens) else ""
    return before in set("-+*/<>^") | {"!=", "<=", ">="} or after in set("-+*/=%^<>")


def _counts_up(plain: str, tokens: Sequence[_Token], place: int) -> bool:
    """Whether a number only numbers something: ``1. First …``, ``step 4``, 第 4 步."""
    token = tokens[place]
    line = plain[: token.start].rpartition("\n")[2]
    heads = not line.strip() and re.match(r"[.)、]\s*[^\W\d]", plain[token.end :]) is not None
    return heads or (place > 0 and tokens[place - 1].text in _NUMBERED)


def _has_rival(tokens: Sequence[_Token], wanted: Key, others: Sequence[str]) -> bool:
    """Whether another answer of the same kind stands in the text, apart from the wanted one's own words."""
    joined = "".join(wanted)
    groups = [group for group in (*_POLAR_GROUPS, *_LABEL_GROUPS) if joined in group]
    keys = {answer_key(word) for group in groups for word in group} | {answer_key(other) for other in others}
    keys -= {wanted, ()}
    if not keys:
        return False
    size = len(wanted)
    longer = [key for key in keys if len(key) > size]
    if any(next(_places(tokens, key), None) is not None for key in longer):
        return True
    own = {place + offset for place in _places(tokens, wanted) for offset in range(size)}
    rest = [token for place, token in enumerate(tokens) if place not in own]
    return any(next(_places(rest, key), None) is not None for key in keys)


def _stands_free(sentence: str, wanted: Key) -> bool:
    """Whether a short answer stands in a sentence as words of its own, not within a longer name.

    Chinese has no spaces: 北京 in 北京大学 is another word, so it needs borders that close it off. A capital on either
    side goes on with a name: York in New York, Paris in Paris Hilton.
    """
    sentence = sentence.strip()
    tokens = _tokens(sentence)
    for place in _places(tokens, wanted):
        start, end = tokens[place].start, tokens[place + len(wanted) - 1].end
        before, after = sentence[:start], sentence[end:]
        if re.match(f"[{HAN}]", wanted[0]):
            opened = not re.match(f"[{HAN}]", before[-1:]) or before[-1:] in _LEADS_TO
            if opened and (not re.match(f"[{HAN}]", after) or after[0] in _CLOSES):
                return True
        elif not (sentence[start].isupper() and (re.match(r" [A-Z]", after) or _NAME_BEFORE.search(before))):
            return True
    return False
