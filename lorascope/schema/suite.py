"""``suite.yaml``: which questions are asked, of which data, scored how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lorascope.schema.comparison import Role, TaskKind
from lorascope.schema.model import Model


class SuiteTask(Model):
    """One task of a suite; keys that are left out take the defaults given here.

    ``data`` is a file (JSONL, CSV, Parquet), ``hf:NAME[:CONFIG]@SPLIT``, or a mapping from set names to those.
    ``prompt`` is a template over the item's own fields; ``messages`` a list of ``{role, content}`` templates that go
    through the tokenizer's chat template. ``labels`` fixes the label set and its order (needed where the checkpoint
    does not carry label names). ``tune_on`` is the set on which label thresholds are tuned.
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
    max_new_tokens: int = Field(default=128, ge=1)
    stop: list[str] = Field(default_factory=list)
    metrics: list[str] | None = None
    margin: float | None = Field(default=None, gt=0)
    primary: str | None = Field(default=None, description="the metric that the verdict line quotes")
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_prompt(self) -> SuiteTask:
        if self.prompt is not None and self.messages is not None:
            raise ValueError("give either 'prompt' or 'messages', not both")
        if self.stop and self.kind != "generate":
            raise ValueError("'stop' belongs to tasks of kind 'generate'")
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
