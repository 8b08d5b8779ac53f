"""Built-in general text: running passages in everyday registers, on which bits per byte and drift are measured.

Per language sixty passages, five in each of twelve registers (science, history, narrative, instructions, dialogue,
news, code comments, recipes, weather, sports, law, letters), written for this package. They are few and clean: enough
to compare a checkpoint with its base, not to rank models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from lorascope.data.forms import items_of
from lorascope.data.probe import LANGUAGES, Language
from lorascope.data.readers import read_rows
from lorascope.data.tasks import LoadedTask, sample_items, task_fingerprint
from lorascope.errors import UsageError
from lorascope.schema.suite import SuiteTask


def load_general_text(
    languages: Sequence[Language] = ("en",),
    *,
    limit: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> list[LoadedTask]:
    """``general-text-<language>`` (likelihood, retention) for each language, in the order given.

    Sampling is that of :func:`lorascope.data.tasks.sample_items`. ``folder`` replaces the package's own files.

    Raises:
        UsageError: a language without general text, or a limit or fraction out of range.
        DataError: a line of the file is no passage.
    """
    tasks = []
    for language in languages:
        if language not in LANGUAGES:
            raise UsageError(f"there is no general text in '{language}'", remedy=f"use {' or '.join(LANGUAGES)}")
        spec = general_text_spec(language)
        rows = read_rows(f"{language}.jsonl", root=folder or Path(str(files("lorascope.data") / "general_text")))
        # Five passages a register tell nothing about the register: it is in the file for readers, and makes no slices.
        items = [replace(item, category=None) for item in items_of(rows, spec, split=None)]
        drawn = tuple(sample_items(items, limit=limit, fraction=fraction, seed=seed))
        tasks.append(LoadedTask(spec, spec.kind, drawn, (), (), task_fingerprint(spec, drawn)))
    return tasks


def general_text_spec(language: Language) -> SuiteTask:
    """The task of a language, as a suite would write it."""
    return SuiteTask(
        name=f"general-text-{language}", kind="likelihood", role="retention", data=f"builtin:general-text-{language}"
    )
