"""What every engine offers: answers of a subject to the items of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lorascope.schema.items import Answer, Item
from lorascope.schema.suite import SuiteTask

ENGINE_VERSION = 3
"""Part of every cache key: raised when the way answers are computed changes."""

Progress = Callable[[int, int], None]
"""Called as ``on_progress(done, total)``, in items, after every batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A checkpoint as an engine needs to know it.

    For an adapter, ``base_path`` and ``base_hash`` are those of the model it is attached to, and ``content_hash`` is of
    the adapter alone. ``labels`` are the head's names in the order of its outputs; None where there is no head or the
    checkpoint only carries generic names. ``model_class`` is the class the weights were saved from or trained in.
    Pickled weights are read only with ``allow_pickle``; code that comes with a checkpoint is never run.
    """

    name: str
    path: Path
    kind: Literal["model", "adapter"]
    tokenizer_path: Path
    content_hash: str
    base_path: Path | None = None
    base_hash: str | None = None
    labels: tuple[str, ...] | None = None
    num_labels: int | None = None
    model_class: str | None = None
    allow_pickle: bool = False


class Engine(Protocol):
    """Who answers. ``notes`` collects what a reader of the answers has to know, such as items that were cut."""

    notes: list[str]

    def answer(
        self, subject: Subject, task: SuiteTask, items: Sequence[Item], on_progress: Progress | None = None
    ) -> list[Answer]:
        """One answer per item, in the order of the items.

        Raises:
            EvaluationError: the subject cannot do the task (no trained head, no chat template, out of memory …).
            DataError: the items do not fit the subject (labels that its head does not know).
        """

    def close(self) -> None:
        """Let go of the model, or of the connection."""


@dataclass(frozen=True, slots=True)
class Size:
    """What one item costs a batch: ``rows`` sequences of at most ``length`` tokens."""

    length: int
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, and how many tokens (words, for tagging) of its item did not fit into the model's context."""

    answer: Answer
    cut: int = 0


class Asker(Protocol):
    """The items of one task, prepared for one model: ``ask`` answers some of them as one batch."""

    sizes: list[Size]

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Outcomes of the items at ``indices``, in that order."""
