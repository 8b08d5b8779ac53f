"""The records in which a verdict is said, and the signs that stand for its states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "unclear", "neutral"]
Topic = Literal["target", "retention", "training", "weights"]
State = Literal[
    "improved", "regressed", "equivalent", "inconclusive", "mixed", "weakened", "guessing", "absolute", "unmeasured"
]
SYMBOLS: dict[str, str] = {
    "improved": "▲",
    "regressed": "▼",
    "equivalent": "=",
    "inconclusive": "?",
    "mixed": "↕",
    "weakened": "▽",
    "guessing": "∅",
    "absolute": "•",
    "unmeasured": "∅",
    "good": "✓",
    "bad": "!",
    "unclear": "?",
    "neutral": "•",
}
TONES: dict[State, Tone] = {
    "improved": "good",
    "regressed": "bad",
    "weakened": "bad",
    "inconclusive": "unclear",
    "mixed": "unclear",
    "equivalent": "neutral",
    "guessing": "neutral",
    "absolute": "neutral",
    "unmeasured": "neutral",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence, the symbol that stands before it, and whether it is good news, bad news or undecided.

    ``lead`` is the judgement, ``text`` the numbers it rests on; a sentence without judgement has no lead.
    """

    topic: Topic
    tone: Tone
    symbol: str
    lead: str
    text: str


@dataclass(frozen=True, slots=True)
class Clause:
    """One half of a headline: what became of the target tasks, or of general ability."""

    state: State
    symbol: str
    text: str


@dataclass(frozen=True, slots=True)
class SubjectVerdict:
    """All that is said of one subject before any table.

    Where no task was asked (``asked`` is false), ``weights`` holds the headline instead of target and retention.
    """

    subject: str
    target: Clause
    retention: Clause
    sentences: tuple[Sentence, ...]
    weights: tuple[Clause, ...] = ()
    asked: bool = True

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """The parts of the headline; none where neither tasks nor weights have anything to say."""
        return (self.target, self.retention) if self.asked else self.weights

    @property
    def headline(self) -> str:
        """All clauses as one line of plain text."""
        return " · ".join(clause.text for clause in self.clauses)


def neutral(topic: Topic, text: str) -> Sentence:
    """Return a sentence that judges nothing."""
    return Sentence(topic, "neutral", SYMBOLS["neutral"], "", text)
