"""Whether a text gives the right answer in another form than the one that is compared: quoted, in a sentence, 1,000.

The rules are strict, because a wrong "it was only the format" hides a loss: in doubt an answer is not given. One that
stands somewhere in a text (``no`` in "there is no doubt", ``4`` among other numbers, ``positive`` beside ``negative``,
``Paris`` in a list of cities or in "anything but Paris", ``mail client`` in "mail client documentation") is not taken
as given: it has to open the text, stand on a line of its own, or end a sentence that says that it is so. The last
answer that a text announces counts, and none that it takes back.
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
    "neither", "nor", "without", "unlike", "instead", "or", "either", "between", "but", "doubt", "doubts", "hardly",
    "unlikely", "wrong", "wrongly", "incorrect", "false", "rather", "exclude", "excludes", "excluding", "won't",
    "wouldn't", "couldn't", "shouldn't", "didn't", "weren't", "avoid",
    "不", "非", "没", "无", "未", "或", "勿", "还", "除", "别", "否",
})  # fmt: skip
_REJECTED_AFTER = frozenset({"not", "wrong", "incorrect", "false", "不", "错"})
_SAYS_SO = frozenset({
    "is", "was", "are", "were", "be", "been", "it's", "that's", "he's", "she's", "named", "called", "means", "equals",
    "namely", "=", "about",
})  # fmt: skip
_SCALES = frozenset({
    "hundred", "thousand", "million", "billion", "trillion", "dozen", "k", "m", "bn", "mn", "percent", "per", "pct",
    "half", "百", "千", "万", "亿", "成", "%",
})  # fmt: skip
_NUMBERED = frozenset({
    "step", "question", "figure", "table", "chapter", "section", "page", "version", "number", "item", "part", "line",
    "example", "option", "第",
})  # fmt: skip
_HEDGES = frozenset({"or", "或"})
_LEADS_TO = frozenset("是为在叫即指到选了")
_CLOSES = frozenset("的吧呢啊哦")
_LONG_TEXT = 200

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: 0x20, 0x2212: 0x2D, 0x2018: 0x27, 0x2019: 0x27, 0x200B: None, 0xFEFF: None,
}  # fmt: skip
_MARKUP = (
    (re.compile(r"(?m)^[ \t]*```[\w+-]*[ \t]*$"), ""),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\boxed\s*\{([^{}]*)\}"), r" answer: \1 "),
    (re.compile(r"\\[()\[\]]|`|(?<!\w)\*{1,3}(?=\w)|(?<=\w)\*{1,3}(?!\w)"), " "),
)
_SPACE = re.compile(r"\s+")
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
_OTHER_LETTER = re.compile(r"[\W_]*(?:(?:and|or)\b)?[\W_]*(?:[B-HJ-Z]|A(?! [a-z]))(?![\w'])")
_NAME_BEFORE = re.compile(r"\S+ [A-Z][^\W\d_]+ $")
_HEDGED = re.compile(r"\W*(?:or\b|或|还是)", re.IGNORECASE)
_BORDER = re.compile(r"[.,;:!?)\]\"'…、](?! ?\d)|\n|\s+[-–—(]")
_ENDS = re.compile(r"[)\]}\"']*(?:[.!?;](?=\s|$)|[。!?;]|\n|$)")
_EXPLAINED = re.compile(
    r"(?:,\s*| )(?:because|since|which|where)\b|,\s*(?:the|a|an|it|this|that|not|i|we|as|so)\b"
    r"|[,，、]?(?:因为|由于)|[,，](?:这|它|也|即|而不是|不是|是)",
    re.IGNORECASE,
)
_RETRACTS = re.compile(
    r"\b(?:wait|actually|correction|scratch that|i mean|second thought|rather|instead|oops|hmm|mistake\w*|my bad"
    r"|sorry|(?:i was|that is|that's|this is) (?:not|wrong|incorrect)|no,)(?!\w)"
    r"|(?<![^\W_])不对|更正|等等|其实|纠正|错了|抱歉",
    re.IGNORECASE,
)
_NEXT_QUESTION = re.compile(r"\n[\W_]*(?:q|question|user|human|问题?|用户)\s*\d*\s*:", re.IGNORECASE)
_ARTICLE_LAST = re.compile(r"\b(?:the|an?)$", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.!?;:,\n。、](?!\d)")


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
    plain = _NEXT_QUESTION.split(plain, maxsplit=1)[0]
    if _same(answer_key(plain), wanted):
        return "line"
    if wanted == ("no",) and re.match(r"\W*no\.\s*\d", plain, re.IGNORECASE):
        return None
    return None if _taken_back(plain, wanted) else _given_inside(plain, reference, wanted, others)


def _taken_back(plain: str, wanted: Key) -> bool:
    """Whether words such as "wait" or "actually" follow the last place where the answer stands."""
    tokens = _tokens(plain)
    last = max(_places(tokens, wanted), default=None)
    return last is not None and _RETRACTS.search(plain, tokens[last + len(wanted) - 1].end) is not None


def _surely_absent(text: str, wanted: Key) -> bool:
    """Whether a word of the answer occurs nowhere in the text; decides most items without taking the text apart."""
    folded = (text if text.isascii() else unicodedata.normalize("NFC", text).translate(_FULL_WIDTH)).casefold()
    return any(word.isalpha() and word not in _NUMBER_WORDS and word not in folded for word in wanted)


def answer_key(text: str) -> Key:
    """A text's words, numbers and operators: no case, no quotes or full stops, no articles, ``1,000.0`` as ``1000``."""
    return _short_key(text) if len(text) <= _LONG_TEXT else tuple(token.text for token in _tokens(_plain(text)))


@lru_cache(maxsize=4096)
def _short_key(text: str) -> Key:
    """References and labels come again with every item; whole answers would fill the memory."""
    return tuple(token.text for token in _tokens(_plain(text)))


def _given_inside(plain: str, reference: str, wanted: Key, others: Sequence[str]) -> Form | None:
    found = list(_ANNOUNCED.finditer(plain))
    if found:
        return _given_announced(plain, found[-1], reference, wanted, others)
    lines = [line.strip() for line in plain.splitlines() if answer_key(line)]
    if len(lines) > 1 and wanted in map(answer_key, lines):
        return "line" if _on_own_line(lines, wanted) else None
    if _opens(plain, reference, wanted, announced=False) and not _has_rival(_tokens(plain), wanted, others):
        return "line"
    if _is_letter(reference) or _is_polar(wanted):
        return None
    return _stands_inside(plain, wanted, others)


def _given_announced(
    plain: str, announced: re.Match[str], reference: str, wanted: Key, others: Sequence[str]
) -> Form | None:
    """By the last "the answer is" of a text, up to the end of its sentence; what stands elsewhere does not count."""
    before = _CLAUSE_END.split(plain[: announced.start("value")].rstrip(" :"))[-1]
    if {token.text for token in _tokens(before)} & _DENIALS:
        return None
    if _opens(announced["value"], reference, wanted, announced=True):
        return "announced"
    if _is_letter(reference) or _is_polar(wanted) or next(_places(_tokens(announced["value"]), wanted), None) is None:
        return None
    return _stands_inside(plain, wanted, others)


def _on_own_line(lines: Sequence[str], wanted: Key) -> bool:
    """Whether the first or last line is the answer and the others are sentences; short lines are a list of answers."""
    keys = [answer_key(line) for line in lines]
    if wanted not in (keys[0], keys[-1]):
        return False
    rest = lines[1:] if keys[0] == wanted else lines[:-1]
    if keys[0] != wanted and set(keys[-2]) & _DENIALS and lines[-2].endswith(":"):
        return False
    return all(len(answer_key(line)) > 4 or line.endswith((".", "!", "?", "。", ":")) for line in rest)


def _stands_inside(plain: str, wanted: Key, others: Sequence[str]) -> Form | None:
    tokens = _tokens(plain)
    places = list(_places(tokens, wanted))
    if not places or any(_denied(plain, tokens, place, len(wanted)) for place in places):
        return None
    if len(wanted) == 1 and _is_number(wanted[0]):
        lone = {token.text for token in tokens if token.number} == set(wanted)
        bare = not any(
            _beside_operator(tokens, place) or _counts_up(plain, tokens, place) or _scaled(tokens, place)
            for place in places
        )
        return "inside" if lone and bare else None
    if _has_rival(tokens, wanted, others):
        return None
    return "inside" if any(_said_so(plain, tokens, place, len(wanted)) for place in places) else None


def _said_so(plain: str, tokens: Sequence[_Token], place: int, size: int) -> bool:
    """Whether a sentence ends with the answer and says that it is so; or opens with it, says "is", and is the only one.

    What follows on as "for the mips64 architecture", and what stands before as "alternative to", makes another answer.
    """
    start, end = tokens[place].start, tokens[place + size - 1].end
    if not _stands_free(plain, start, end):
        return False
    before, after = _ARTICLE_LAST.sub("", plain[:start].rstrip()).rstrip(" \"'([{"), plain[end:]
    opens = not before or before[-1] in ".!?。;:\n"
    last = place + size == len(tokens)
    if opens and not last and tokens[place + size].text in ("is", "was", "are", "是"):
        words = {token.text for token in tokens[place + size :]}
        return not before and not words & (_DENIALS | {"however", "though", "although"}) and _is_one_sentence(plain)
    if not (_ENDS.match(after) or _EXPLAINED.match(after) or (after[:1] in _CLOSES and _ENDS.match(after, 1))):
        return False
    if opens or re.match(f"[{HAN}]", tokens[place].text):
        return opens or before[-1] in _LEADS_TO
    ahead = [token.text for token in tokens[max(0, place - 3) : place] if not token.text.endswith("ly")]
    return bool(ahead) and (ahead[-1] in _SAYS_SO or (ahead[-1] == "very" and ahead[-2:-1] == ["is"]))


def _is_one_sentence(plain: str) -> bool:
    return len([part for part in _SENTENCE_END.split(plain) if answer_key(part)]) == 1


@lru_cache(maxsize=16)
def _plain(text: str) -> str:
    """The text without the markup that stands around answers; full-width signs as ASCII ones."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_FULL_WIDTH)
    for pattern, by in _MARKUP:
        text = pattern.sub(by, text)
    return _SPACE.sub(lambda match: "\n" if "\n" in match.group() else " ", text).strip()


def _without_head(plain: str, reference: str) -> str:
    """Without ``Answer:`` and the like; ``A:`` may be the choice A itself."""
    rest = _HEAD.sub("", plain, count=1)
    if _is_letter(reference) and re.match(r"\W*A\s*:", plain) and not re.fullmatch(r"\W*[A-Z]\W*", rest):
        return plain
    return rest or plain


@lru_cache(maxsize=16)
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


@lru_cache(maxsize=8192)
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


def _opens(text: str, reference: str, wanted: Key, *, announced: bool) -> bool:
    """Whether a text begins with the answer as an answer: ``No, …`` but not ``No one …``, ``B) …`` but not ``A man``.

    After an announcement less is asked: "the answer is B because …", "… is 42 apples". A name must not go on, a number
    not be scaled ("5 million"), and no other answer follow as in a list.
    """
    if _is_letter(reference):
        match = (_LETTER_ANNOUNCED if announced else _LETTER_OPENS).match(text)
        alone = match is not None and not _OTHER_LETTER.match(text, match.end(1))
        return alone and match is not None and match[1].casefold() == wanted[0]
    tokens = _tokens(text)
    size = len(wanted)
    if tuple(token.text for token in tokens[:size]) != wanted:
        return False
    rest = text[tokens[size - 1].end :]
    if not rest.strip():
        return True
    if _HEDGED.match(rest) or (tokens[0].number and (not announced or _scaled(tokens, 0))):
        return False
    if _is_polar(wanted):
        return _BORDER.match(rest) is not None
    if _ENDS.match(rest) or (size < 3 and _EXPLAINED.match(rest)):
        return True
    if re.match(f"[{HAN}]", wanted[-1]):
        return rest[0] in _CLOSES and _ENDS.match(rest, 1) is not None
    return announced and tokens[0].number and re.match(r" (?!or\b|and\b)[a-z]", rest) is not None


def _places(tokens: Sequence[_Token], wanted: Key) -> Iterator[int]:
    """Where the wanted words stand in a row."""
    size = len(wanted)
    for start in range(len(tokens) - size + 1):
        if tokens[start].text == wanted[0] and tuple(token.text for token in tokens[start : start + size]) == wanted:
            yield start


def _denied(plain: str, tokens: Sequence[_Token], place: int, size: int) -> bool:
    """Whether the words around deny or hedge an occurrence: "I doubt it is Paris", "Paris or", "Paris is not"."""
    borders = [match.end() for match in _CLAUSE_END.finditer(plain, 0, tokens[place].start)]
    clause = borders[-1] if borders else 0
    before = {token.text for token in tokens[:place] if token.start >= clause}
    before |= {token.text for token in tokens[max(0, place - 3) : place]}
    after = [token.text for token in tokens[place + size : place + size + 2]] + ["", ""]
    negated = after[0].endswith("n't") or after[0] == "不" or after[1] in _REJECTED_AFTER
    return bool(before & _DENIALS) or after[0] in _HEDGES or negated


def _scaled(tokens: Sequence[_Token], place: int) -> bool:
    """Whether a number goes on as another one: 5 million, 5 percent, 5 万, 5 and a half."""
    after = [token.text for token in tokens[place + 1 : place + 3]]
    return bool(after) and (after[0] in _SCALES or after in (["and", "half"], ["and", "a"]))


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


def _stands_free(plain: str, start: int, end: int) -> bool:
    """Whether a capital on either side goes on with a name: York in New York, Paris in Paris Hilton."""
    before, after = plain[:start].rpartition("\n")[2], plain[end:]
    return not (plain[start].isupper() and (re.match(r" [A-Z]", after) or _NAME_BEFORE.search(before)))
