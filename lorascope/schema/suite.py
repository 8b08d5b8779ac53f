"""``suite.yaml``: which questions are asked, of which data, scored how."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from lorascope.schema.comparison import Role, TaskKind
from lorascope.schema.model import Model

_LISTED_LABELS = 12


def labels_in_words(labels: Sequence[str]) -> str:
    """Labels for a message: all of them, or of more than 12 the first 12 and how many there are besides."""
    more = len(labels) - _LISTED_LABELS
    listed = ", ".join(labels[:_LISTED_LABELS])
    return f"{listed} and {more} more" if more > 0 else listed


def right_labels(wrong: str, labels: Sequence[str]) -> str:
    """What to do about a label that is none of ``labels``: the nearest one, else what the labels are."""
    near = difflib.get_close_matches(wrong, labels, n=1)
    return f"did you mean '{near[0]}'?" if near else f"the labels are {labels_in_words(labels)}"


class Sampling(Model):
    """Sampling in place of greedy decoding. ``n`` answers are drawn for each item; its scores are their means.

    An item's draws depend on ``seed`` and the item's content alone, not on what shares its batch.
    """

    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=256)
    seed: int = 0


class Extract(Model):
    """The part of a generated text that is scored: the first group of ``pattern``, or all of a match without groups.

    A text without a match has no answer: it is scored as an empty one, and counted as a fault of format.
    """

    pattern: str = Field(min_length=1)
    match: Literal["first", "last"] = "first"
    ignore_case: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class SuiteTask(Model):
    """One task of a suite; keys that are left out take the defaults given here.

    ``data`` is a file (JSONL, CSV, Parquet), ``hf:NAME[:CONFIG]@SPLIT``, or a mapping from set names to those.
    ``prompt`` is a template over the item's own fields; ``messages`` a list of ``{role, content}`` templates that go
    through the tokenizer's chat template. ``labels`` fixes the label set and its order (needed where the checkpoint
    does not carry label names); in a file it may also be the path of a list, relative to the suite (JSON, or one label
    a line). ``tune_on`` is the set on which label thresholds are tuned. ``chat`` puts the rendered
    ``prompt`` through the chat template as the user's message, after ``system`` where that is given. ``few_shot``
    solved examples, drawn with the seed from ``few_shot_data`` (else ``train_data``), stand before each question.
    ``delimiter`` stands between a context and a choice (null: a space, nothing after a chat template or CJK text).
    """

    name: str = Field(min_length=1, pattern=r"^[^@:*\s]+$")
    kind: TaskKind
    role: Role = "target"
    data: str | dict[str, str]
    train_data: str | None = None
    tune_on: str | None = None
    prompt: str | None = None
    messages: list[dict[str, str]] | None = None
    references: str | None = None
    labels: list[str] | None = None
    multi_label: bool | None = Field(default=None, description="labels only; null: from the field's name in the data")
    chat: bool = False
    system: str | None = None
    few_shot: int = Field(default=0, ge=0)
    few_shot_data: str | None = None
    delimiter: str | None = None
    max_new_tokens: int = Field(default=128, ge=1)
    stop: list[str] = Field(default_factory=list)
    sampling: Sampling | None = Field(default=None, description="generate only; null: greedy decoding")
    extract: Extract | None = Field(default=None, description="generate only; a plain text is its pattern")
    metrics: list[str] | None = None
    margin: float | None = Field(default=None, gt=0)
    primary: str | None = Field(default=None, description="the metric that the verdict line quotes")
    limit: int | None = Field(default=None, ge=1)

    @field_validator("extract", mode="before")
    @classmethod
    def _pattern_alone(cls, value: object) -> object:
        return {"pattern": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_prompt(self) -> SuiteTask:
        if self.prompt is not None and self.messages is not None:
            raise ValueError("give either 'prompt' or 'messages', not both")
        if self.chat and self.messages is not None:
            raise ValueError("'messages' are a chat already; leave 'chat' out")
        if self.system is not None and not self.chat and self.messages is None:
            raise ValueError("'system' belongs to a chat; give 'chat: true' or 'messages'")
        if self.few_shot_data is not None and not self.few_shot:
            raise ValueError("'few_shot_data' is given, but 'few_shot' is 0; say how many examples")
        return self

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> SuiteTask:
        owners = {
            "stop": ("generate",), "sampling": ("generate",), "extract": ("generate",), "delimiter": ("choice",),
            "few_shot": ("generate", "choice"), "chat": ("generate", "choice"), "system": ("generate", "choice"),
        }  # fmt: skip
        for name, kinds in owners.items():
            if getattr(self, name) not in (None, False, 0, []) and self.kind not in kinds:
                listed = " and ".join(f"'{kind}'" for kind in kinds)
                raise ValueError(f"'{name}' belongs to tasks of kind {listed}")
        return self


class Suite(Model):
    """The whole file."""

    version: Literal[1]
    tasks: list[SuiteTask] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique_names(self) -> Suite:
        names = [task.name for task in self.tasks]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"task names must be unique; given twice: {', '.join(doubled)}")
        return self
