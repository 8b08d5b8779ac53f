"""The built-in general-knowledge probe: what a fine-tune may have forgotten, asked without any file of the user's.

Per language there are two retention tasks: multiple choice, scored by log-likelihood, and short answers, generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from lorascope.data.forms import QUESTION_TEMPLATE, QUESTION_TEMPLATE_ZH, items_of
from lorascope.data.readers import Row, read_rows
from lorascope.data.tasks import LoadedTask, sample_items, task_fingerprint
from lorascope.errors import DataError, UsageError
from lorascope.schema.suite import SuiteTask

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_TEMPLATES: dict[Language, str] = {"en": QUESTION_TEMPLATE, "zh": QUESTION_TEMPLATE_ZH}
_SHORT_ANSWER_TOKENS = 16


def load_probe(
    languages: Sequence[Language] = ("en",),
    *,
    limit: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> list[LoadedTask]:
    """``general-knowledge-<language>`` (choice) and ``general-knowledge-short-<language>`` (generate) per language.

    Sampling is that of :func:`lorascope.data.tasks.sample_items`. ``folder`` replaces the package's own files.

    Raises:
        UsageError: a language without a probe.
        DataError: a line of the probe file is neither a choice nor a short question.
    """
    tasks = []
    for language in languages:
        if language not in LANGUAGES:
            raise UsageError(f"there is no probe in '{language}'", remedy=f"use {' or '.join(LANGUAGES)}")
        rows = read_rows(f"{language}.jsonl", root=folder or Path(str(files("lorascope.data") / "probe")))
        for spec in probe_specs(language):
            items = items_of(_of_kind(rows, "choice" if spec.kind == "choice" else "short"), spec, split=None)
            drawn = tuple(sample_items(items, limit=limit, fraction=fraction, seed=seed))
            tasks.append(LoadedTask(spec, spec.kind, drawn, (), (), task_fingerprint(spec, drawn)))
    return tasks


def probe_specs(language: Language) -> tuple[SuiteTask, SuiteTask]:
    """The two tasks of a language, as a suite would write them."""
    shared = {"role": "retention", "data": f"builtin:{language}", "prompt": _TEMPLATES[language]}
    choice = SuiteTask.model_validate({"name": f"general-knowledge-{language}", "kind": "choice", **shared})
    short = SuiteTask.model_validate(
        {
            "name": f"general-knowledge-short-{language}",
            "kind": "generate",
            "references": "answers",
            "max_new_tokens": _SHORT_ANSWER_TOKENS,
            "stop": ["\n"],
            **shared,
        }
    )
    return choice, short


def _of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    for row in rows:
        if row.fields.get("kind") not in {"choice", "short"}:
            raise DataError(f"{row.fields.get('kind')!r} is no kind of probe question", where=row.place)
    return [row for row in rows if row.fields["kind"] == kind]
