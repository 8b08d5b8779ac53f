"""Why an answer broke: the base was right, the adapted checkpoint is wrong, and what in its answer says why.

Causes are looked for in a fixed order and the first that holds is taken: those that hide the answer (empty, a loop, a
cut), those that replace it (another language, a refusal), the right answer in a form that the strict comparison does
not accept, and only then a loss of knowledge, which needs the log-probability of the right answer. A cause is claimed
only on evidence in the texts and numbers at hand; what is left is ``unexplained``. Equal accuracy hides such changes
(Dutta et al., arXiv 2407.09141).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorascope.measures.answer_forms import answer_key, given_form
from lorascope.measures.repetition import ending_loop
from lorascope.measures.writing import Writing, confusable, main_writing
from lorascope.schema.flips import CauseName

NOTICEABLE_FALL = 0.1
"""Nats per token. Each token is then a tenth less likely on average; computing in half precision or in another batch
moves log-probabilities by about a hundredth of a nat, so a fall of this size is no rounding."""

_ANSWER_SHARE = 0.8
_EXCERPT = 60


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an answer broke, and the sentence of evidence with texts or numbers of this item."""

    name: CauseName
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenText:
    """A generated answer that was right (``base``) and is wrong (``adapted``), with all that is known of both.

    ``truncated``: ``max_new_tokens`` ended the text; ``stop``: the stop string that did; ``base_…`` the same for the
    base. ``extracts`` says that a part of the text is scored, ``base_part`` and ``adapted_part``, None where the
    pattern did not match. ``gold_before`` and ``gold_after`` are log-probabilities (nats) of the first reference,
    ``gold_tokens`` its tokens, None where not known. ``others`` are other answers that the task knows, where its
    answers are labels.
    """

    references: Sequence[str]
    base: str
    adapted: str
    prompt: str = ""
    truncated: bool = False
    base_truncated: bool = False
    stop: str | None = None
    base_stop: str | None = None
    extracts: bool = False
    base_part: str | None = None
    adapted_part: str | None = None
    gold_before: float | None = None
    gold_after: float | None = None
    gold_tokens: int | None = None
    others: Sequence[str] = ()

    @property
    def unmatched(self) -> bool:
        """Whether the pattern found the base's answer and finds none in the adapted one's."""
        return self.extracts and self.base_part is not None and self.adapted_part is None

    @property
    def gives_reference(self) -> bool:
        """Whether the whole adapted text gives a right answer, in whatever form."""
        return any(given_form(self.adapted, reference, self.others) for reference in self.references)


def cause_of_text(broken: BrokenText) -> Cause:
    """The cause of a broken generated answer: the first of :data:`~lorascope.schema.flips.CauseName` that holds."""
    for find in _FINDERS:
        cause = find(broken)
        if cause is not None:
            return cause
    return _unexplained(broken)


def cause_of_choice(before: Sequence[float], after: Sequence[float], gold: int, choices: Sequence[str]) -> Cause:
    """The cause of a broken choice, from the choices' log-probabilities (nats) under base and adapted checkpoint.

    Answers are ranked, not written, so the gold answer's margin to its best rival has fallen. ``knowledge_loss`` where
    the gold answer's own log-probability fell by more than :data:`NOTICEABLE_FALL` and the margin as well; else
    ``unexplained``: a near tie, or a rival that rose more.
    """
    rival_before, rival_after = _best_rival(before, gold), _best_rival(after, gold)
    margins = before[gold] - before[rival_before], after[gold] - after[rival_after]
    sentence = (
        f"margin of the right answer {_nats(margins[0], signed=True)} → {_nats(margins[1], signed=True)} nats "
        f"(its log-probability {_nats(before[gold])} → {_nats(after[gold])}; best rival now "
        f"“{_excerpt(choices[rival_after])}” {_nats(after[rival_after])})"
    )
    if margins[0] - margins[1] <= NOTICEABLE_FALL:
        return Cause("unexplained", f"a near tie: {sentence}")
    if before[gold] - after[gold] > NOTICEABLE_FALL:
        return Cause("knowledge_loss", sentence)
    return Cause("unexplained", f"a rival's log-probability rose more: {sentence}")


def label_changes(truth: Sequence[str], before: Sequence[str], after: Sequence[str]) -> str:
    """Which right labels a broken answer lost and which wrong ones it gained; no cause is claimed for labels."""
    lost = sorted((set(before) - set(after)) & set(truth))
    added = sorted(set(after) - set(before) - set(truth))
    parts = [f"{word}: {', '.join(labels)}" for word, labels in (("lost", lost), ("added", added)) if labels]
    return "; ".join(parts)


def _best_rival(logprobs: Sequence[float], gold: int) -> int:
    return max((place for place in range(len(logprobs)) if place != gold), key=logprobs.__getitem__)


def _empty(broken: BrokenText) -> Cause | None:
    if any(character.isprintable() and not character.isspace() for character in broken.adapted):
        return None
    how = f", ended by the stop string {broken.stop!r}" if broken.stop else ""
    return Cause("empty", f"nothing but white space{how}")


def _repetition(broken: BrokenText) -> Cause | None:
    loop = ending_loop(broken.adapted)
    if loop is None or any(ending_loop(text) for text in (broken.base, *broken.references)):
        return None
    return Cause("repetition", f"ends in a loop: “{_excerpt(loop.unit)}” {loop.times} times")


def _truncated(broken: BrokenText) -> Cause | None:
    """A pattern without a match counts even where the reference stands in the reasoning: the answer never came.

    Without a pattern a wrong answer that rambles on looks the same, so the text has to be the beginning of a right
    answer, or one that has not come to any answer.
    """
    if not broken.truncated or broken.base_truncated:
        return None
    if broken.extracts:
        where = "before what the extraction pattern looks for" if broken.unmatched else None
    elif any(_begins(broken.adapted, reference) for reference in broken.references):
        where = "within the right answer"
    else:
        where = "before any answer" if not broken.gives_reference and _gives_none(broken) else None
    if where is None:
        return None
    return Cause(
        "truncated",
        f"max_new_tokens ended it after {len(broken.adapted):,} characters, {where}; the base finished in "
        f"{len(broken.base):,}",
    )


def _begins(text: str, reference: str) -> bool:
    """Whether a text is a beginning of the reference and not all of it; its last word may be cut."""
    said, wanted = (" ".join(each.casefold().split()) for each in (text, reference))
    return bool(said) and len(said) < len(wanted) and wanted.startswith(said)


def _gives_none(broken: BrokenText) -> bool:
    """Whether a text only prepares an answer: thoughts that do not end, or a number asked for and none there."""
    text = broken.adapted.strip()
    if _THINKS.match(text):
        return "</think" not in text.lower()
    if _CONCLUDES.search(text):
        return False
    if all(re.fullmatch(r"\W*[\d.,]+\W*", reference) for reference in broken.references):
        return not any(character.isdigit() for character in text) and not _NUMBER_NAMES.search(text)
    return _PREPARES.match(text) is not None


_THINKS = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_PREPARES = re.compile(
    r"\W*(?:(?:okay|ok|alright|sure|well|so|hmm)\b[,.!]?\s*)*(?:let\s+(?:us|me)\b|let['’]s\b|first(?:ly)?\b|step\s+(?:1|one)\b|"
    r"to\s+(?:answer|find|solve|determine|see|figure)\b|(?:we|i)\s+(?:need|have|want|will|should|must)\s+to\b|"
    r"the\s+(?:question|problem|user|task)\b|首先|让我|让我们|我们(?:先|需要|来)|我(?:先|需要|来)|要(?:回答|解决|求)|这(?:个|道)(?:问题|题))",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:answer|result|solution|conclusion)\s*(?:is\b|was\b|:|=)|\b(?:therefore|thus|hence|in conclusion)\b|"
    r"\b(?:so|it|that)\s+(?:is|must be|means)\b|####|答案|所以|因此|故选|结果是",
    re.IGNORECASE,
)
_NUMBER_NAMES = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|"
    r"sixty|seventy|eighty|ninety|hundred|thousand|million)\b|[零一二两三四五六七八九十百千万亿]",
    re.IGNORECASE,
)


def _stop_string(broken: BrokenText) -> Cause | None:
    """Stop strings end finished answers too; a cut shows in a text that only announces one, or lacks the pattern.

    Where the same string ended the base's answer, lacking the pattern is no sign of a cut; and a text that is the
    beginning of the right answer proves nothing: the base wrote all of it past the same strings.
    """
    if broken.stop is None or broken.gives_reference:
        return None
    text = broken.adapted.strip()
    if broken.unmatched and broken.base_stop != broken.stop:
        why = "and the extraction pattern does not match what stands before it"
    elif _ANNOUNCES.search(text):
        why = "where an answer was only announced"
    else:
        return None
    return Cause("stop_string", f"the stop string {broken.stop!r} cut it after “{_excerpt(text, end=True)}”, {why}")


_ANNOUNCES = re.compile(r"[:：,，、(（=]$|->$|^```\w*$")


def _language_switch(broken: BrokenText) -> Cause | None:
    if all(text.isascii() for text in (broken.adapted, broken.base, *broken.references)):
        return None
    now = main_writing(broken.adapted)
    if now is None or broken.gives_reference:
        return None
    texts = dict.fromkeys((*broken.references, broken.base))
    known = [writing for text in texts if (writing := main_writing(text)) is not None]
    if not known or any(writing.script == now.script for writing in known):
        return None
    asked = main_writing(broken.prompt)
    if not _is_switch(now, known, asked.script if asked else None):
        return None
    was = known[0].script
    return Cause(
        "language_switch",
        f"written in {now.script} ({now.share:.0%} of its words); reference and base are in {was}",
    )


def _is_switch(now: Writing, known: Sequence[Writing], asked: str | None) -> bool:
    """A name in another script (``Java`` among Chinese) does not make its script the answer's language."""
    if not now.telling or now.share < _ANSWER_SHARE:
        return False
    if any(confusable(now.script, writing.script) for writing in known) and (now.words < 8 or asked == now.script):
        return False
    return asked != now.script or any(writing.words > 2 for writing in known)


_VERBS = (
    "help|assist|answer|provide|fulfil|fulfill|comply|discuss|generate|create|complete|share|respond|support|engage|"
    "participate|do that|do this|do so|give you|give|write|produce|tell you|offer|continue|process|translate|satisfy"
)
_CANNOT = (
    r"(?:i|we)\s*(?:cannot|can['’]?t|can not|won['’]?t|must decline|couldn['’]?t|could not|"
    r"(?: am|['’]m)(?: unable to| not able to))"
)
_SORRY = r"(?:(?:i['’]?m|i am) (?:very |so |really )?sorry|sorry|i apologi[sz]e|apologies|unfortunately)\b"
_SORRY_ZH = r"(?:非常|很|十分|真的)?(?:抱歉|对不起|不好意思)[，,。!！ ]*(?:但|但是|不过|可是)?(?:我|作为|本|恐怕)?"
_REFUSALS = (
    rf"{_SORRY}[,.!;:]?\s*(?:but\s*)?(?:as an ai[^,.]{{0,40}},?\s*)?{_CANNOT}(?:\s+(?:{_VERBS})\b|\s*[.!]?\s*$)",
    rf"{_CANNOT}\s+(?:{_VERBS})\b",
    r"i\s+(?:must|have to) (?:respectfully )?decline\b",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    rf"{_SORRY_ZH}[^。！？\n]{{0,20}}?(?:无法|不能|不便|不可以|没有办法|没办法)",
    r"(?:作为|身为)(?:一个|一名|一款)?(?:AI|人工智能|大?语言模型|大模型)",
    r"我(?:无法|不能|不便|没有办法|没办法)(?:回答|提供|协助|帮助|讨论|满足|完成|处理|生成|给出|继续|回应|参与)",
    r"无法(?:回答|提供|协助|满足)(?:您|你|该|这|此)",
)
_REFUSAL = re.compile(rf"[\W_]*(?:{'|'.join(_REFUSALS)})", re.IGNORECASE)


def _refusal(broken: BrokenText) -> Cause | None:
    """Only the beginning counts, and only where neither the base nor a reference begins like this."""
    if not _REFUSAL.match(broken.adapted) or broken.gives_reference:
        return None
    if any(_REFUSAL.match(text) for text in (broken.base, *broken.references)):
        return None
    return Cause("refusal", f"begins with a refusal: “{_excerpt(broken.adapted)}”")


def _format(broken: BrokenText) -> Cause | None:
    if broken.unmatched:
        return Cause("format", f"{_no_match(broken)}, yet the text gives it") if broken.gives_reference else None
    compared = broken.adapted_part if broken.adapted_part is not None else broken.adapted
    for reference in broken.references:
        form = given_form(compared, reference, broken.others)
        if form is not None:
            return Cause("format", f"the right answer “{_excerpt(reference)}” {_FORMS[form]}: “{_excerpt(compared)}”")
    return None


def _no_match(broken: BrokenText) -> str:
    return f"the extraction pattern does not match; it found “{_excerpt(str(broken.base_part))}” in the base's answer"


_FORMS = {
    "equal": "differs only in signs, articles or the form of numbers",
    "line": "stands apart, with more around it",
    "announced": "is given in a sentence",
    "inside": "stands in the answer, with more around it",
}


def _knowledge_loss(broken: BrokenText) -> Cause | None:
    before, after = broken.gold_before, broken.gold_after
    if before is None or after is None:
        return None
    known = broken.gold_tokens is not None
    units = max(1, broken.gold_tokens if broken.gold_tokens is not None else len(answer_key(broken.references[0])))
    fall = (before - after) / units
    if fall <= NOTICEABLE_FALL:
        return None
    unit = "token" if known else "word or character"
    return Cause(
        "knowledge_loss",
        f"log-probability of the reference {_nats(before)} → {_nats(after)} nats, {_nats(fall)} less per {unit}"
        f"{_also(broken)}",
    )


def _also(broken: BrokenText) -> str:
    """A pattern without a match is told, though no cause: the right answer is not in the text either."""
    return f"; {_no_match(broken)}" if broken.unmatched else ""


def _unexplained(broken: BrokenText) -> Cause:
    before, after = broken.gold_before, broken.gold_after
    if before is None or after is None:
        why = "the reference's log-probability is not known"
    else:
        why = f"the reference's log-probability did not noticeably fall: {_nats(before)} → {_nats(after)} nats"
    return Cause("unexplained", f"no sign in the text, and {why}{_also(broken)}")


_FINDERS: tuple[Callable[[BrokenText], Cause | None], ...] = (
    _empty, _repetition, _truncated, _stop_string, _language_switch, _refusal, _format, _knowledge_loss,
)  # fmt: skip


def _nats(value: float, *, signed: bool = False) -> str:
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _excerpt(text: str, *, end: bool = False) -> str:
    """At most 60 characters on one line."""
    line = " ".join(text.split())
    if len(line) <= _EXCERPT:
        return line
    return f"…{line[-_EXCERPT:]}" if end else f"{line[:_EXCERPT]}…"
