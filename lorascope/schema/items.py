"""Items: the questions that every checkpoint is asked, and answers: what one checkpoint said to one of them.

Both are plain immutable records without behaviour, so that readers (``data``), answerers (``engines``) and the
workflows that score them share one vocabulary and nothing else. ``item_id`` is a hash of the item's content: the key
by which base and adapted answers, caches, baselines and blind sheets pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def content_id(content: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the content's canonical JSON."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What all items share. ``split`` names the set of a task's data mapping that the item came from."""

    item_id: str
    group: str | None = None
    category: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateItem(Item):
    """A prompt (or chat messages, then ``prompt`` is None) and its accepted answers, at least one."""

    prompt: str | None
    messages: tuple[Mapping[str, str], ...] | None = None
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsItem(Item):
    """A text (or pair) with its true labels; ``multi`` is False for exactly-one-of-many."""

    text: str
    text_pair: str | None = None
    labels: tuple[str, ...]
    multi: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreItem(Item):
    """A text (or pair) with a real-valued target."""

    text: str
    text_pair: str | None = None
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensItem(Item):
    """Words with one IOB tag each."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceItem(Item):
    """A question, its choices and the index of the right one.

    ``context`` is the rendered prompt before a choice; with chat ``messages`` in its place it is empty.
    """

    question: str
    context: str
    messages: tuple[Mapping[str, str], ...] | None = None
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodItem(Item):
    """Running text whose likelihood is measured."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateAnswer:
    """Generated text; ``truncated`` when ``max_new_tokens`` ended it; log-probability (nats) of the first reference.

    ``gold_tokens`` is how many tokens that log-probability is the sum of, where the engine counts them.
    ``stop`` is the stop string that ended it, if one did; ``others`` are further samples where several are drawn.
    """

    text: str
    truncated: bool
    gold_logprob: float | None = None
    gold_tokens: int | None = None
    stop: str | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsAnswer:
    """One probability per label, in the order of the task's label list (sigmoid for multi-label, else softmax)."""

    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreAnswer:
    """The predicted real value."""

    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensAnswer:
    """One tag per word of the item (words beyond the model's context get ``O``; ``cut`` counts them)."""

    tags: tuple[str, ...]
    cut: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceAnswer:
    """Summed log-probability (nats) of each choice given the context."""

    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodAnswer:
    """Summed log-probability (nats) of the text's tokens, how many were predicted, and the text's UTF-8 bytes."""

    logprob: float
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceAnswer:
    """Summed KL(adapted‖base) (nats, ≥ 0) of the next-token distributions over ``tokens`` positions of an item."""

    kl: float
    tokens: int


Answer = GenerateAnswer | LabelsAnswer | ScoreAnswer | TokensAnswer | ChoiceAnswer | LikelihoodAnswer | DivergenceAnswer
Items = Sequence[Item]
