"""Making a study: sampling items, hiding who answered what, and writing sheets and key to different places."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.blind.key import SheetRow, StudyKey, write_key
from lorascope.blind.sheets import INSTRUCTIONS, cell, clean, write_sheet
from lorascope.errors import DataError, EvaluationError, OutputError, UsageError
from lorascope.schema.comparison import CheckpointInfo, Comparison, TaskInfo

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class ExportedStudy:
    """What was written: ``rated`` items are on every sheet, ``identical`` ones count as ties without being rated."""

    sheets: tuple[Path, ...]
    key: Path
    rated: int
    identical: int
    commitment: str


@dataclass(frozen=True, slots=True)
class _Question:
    task: str
    item_id: str
    question: str
    base: str
    adapted: str


def export_sheets(
    samples: pyarrow.Table,
    comparison: Comparison,
    *,
    items: int,
    raters: int,
    folder: Path,
    key_path: Path,
    seed: int,
    subject: str | None = None,
    task: str | None = None,
) -> ExportedStudy:
    """Write one CSV sheet a rater into ``folder``, and the key elsewhere.

    ``items`` are drawn from the generated answers of one adapted checkpoint (all of them where there are fewer);
    every rater gets all of them, except those whose two answers are the same text: they count as ties. ``seed``
    chooses the items alone. Sides, row order and ids come from the operating system's randomness, so that no seed and
    no source code unblinds a sheet. On each sheet the adapted answer is A for half of the rows, and for each item it
    is A for half of the raters (to within one).

    Errors: UsageError for a choice that cannot be met or a key beside the sheets; OutputError for files that exist;
    EvaluationError when all sampled answers are identical.
    """
    _check_request(items, raters, folder, key_path)
    chosen = _subject(comparison, subject)
    tasks = _tasks(comparison, task)
    questions = _questions(samples, chosen.name, [each.name for each in tasks])
    drawn = random.Random(seed).sample(questions, min(items, len(questions)))
    rated = [each for each in drawn if each.base != each.adapted]
    if not rated:
        raise EvaluationError("all sampled answers are the same for both checkpoints, so there is nothing to rate")
    key = StudyKey(
        subject=chosen.name,
        subject_hash=chosen.content_hash,
        reference=comparison.base.name,
        reference_hash=comparison.base.content_hash,
        tasks={each.name: each.fingerprint for each in tasks},
        seed=seed,
        salt=secrets.token_hex(32),
        rows=_assign(rated, raters),
        identical=[(each.task, each.item_id) for each in drawn if each.base == each.adapted],
    )
    sheets = _write(key, rated, folder, key_path)
    return ExportedStudy(tuple(sheets), key_path, len(rated), len(key.identical), key.commitment)


def _check_request(items: int, raters: int, folder: Path, key_path: Path) -> None:
    if items < 1 or raters < 1:
        raise UsageError(f"a study needs at least one item and one rater, not {items} and {raters}")
    if folder.resolve() in key_path.resolve().parents:
        problem = "the key would lie in the folder of the sheets, where every rater finds it"
        raise UsageError(problem, where=str(key_path), remedy="put the key in another folder")
    for path in (key_path, *folder.glob("rater-*.csv")):
        if path.exists():
            raise OutputError("there is an older study here", where=str(path), remedy="choose another place")


def _subject(comparison: Comparison, name: str | None) -> CheckpointInfo:
    fitting = [each for each in comparison.subjects if name in (None, each.name)]
    if len(fitting) != 1:
        names = ", ".join(each.name for each in comparison.subjects)
        problem = "the result has several adapted checkpoints" if name is None else f"no adapted checkpoint {name!r}"
        raise UsageError(problem, remedy=f"name one of: {names}")
    return fitting[0]


def _tasks(comparison: Comparison, name: str | None) -> list[TaskInfo]:
    generated = [each for each in comparison.tasks if each.kind == "generate"]
    fitting = [each for each in generated if name in (None, each.name)]
    if not fitting:
        names = ", ".join(each.name for each in generated) or "none"
        wanted = "task" if name is None else f"task {name!r}"
        raise UsageError(f"the result has no {wanted} of kind generate", remedy=f"its generated tasks: {names}")
    return fitting


def _questions(samples: pyarrow.Table, subject: str, tasks: Sequence[str]) -> list[_Question]:
    columns = ["subject", "task", "item_id", "prompt", "base_output", "adapted_output"]
    missing = [name for name in columns if name not in samples.column_names]
    if missing:
        raise DataError(f"the samples have no column {', '.join(missing)}", remedy="run compare without --no-samples")
    found: dict[tuple[str, str], _Question] = {}
    for row in samples.select(columns).to_pylist():
        texts = (row["prompt"], row["base_output"], row["adapted_output"])
        if row["subject"] == subject and row["task"] in tasks and None not in texts:
            question = _Question(row["task"], row["item_id"], *map(clean, texts))
            found.setdefault((question.task, question.item_id), question)
    if not found:
        problem = f"the samples have no generated answers of {subject!r}"
        raise DataError(problem, remedy="run compare without --no-samples")
    return [found[place] for place in sorted(found)]


def _assign(questions: Sequence[_Question], raters: int) -> list[SheetRow]:
    """Sides balanced within each rater, and across raters by turning every other rater's sheet round."""
    chance = secrets.SystemRandom()
    first = [number % 2 == 0 for number in range(len(questions))]
    if chance.random() < 0.5:
        first = [not each for each in first]
    chance.shuffle(first)
    rows = []
    for rater in range(raters):
        order = list(zip(questions, first, strict=True))
        chance.shuffle(order)
        for question, left in order:
            rows.append(
                SheetRow(
                    id=f"q{secrets.token_hex(8)}",
                    rater=f"rater-{rater + 1}",
                    task=question.task,
                    item_id=question.item_id,
                    adapted="A" if left != bool(rater % 2) else "B",
                )
            )
    return rows


def _write(key: StudyKey, questions: Sequence[_Question], folder: Path, key_path: Path) -> list[Path]:
    by_item = {(each.task, each.item_id): each for each in questions}
    sheets: dict[str, list[dict[str, str]]] = {rater: [] for rater in key.raters}
    commitment = key.commitment
    for row in key.rows:
        sheets[row.rater].append(_cells(row, by_item[row.task, row.item_id], commitment))
    write_key(key, key_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "instructions.txt").write_text(INSTRUCTIONS, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the sheets cannot be written: {error.strerror}", where=str(folder)) from error
    paths = []
    for rater, rows in sheets.items():
        paths.append(folder / f"{rater}.csv")
        write_sheet(paths[-1], rows)
    return paths


def _cells(row: SheetRow, question: _Question, commitment: str) -> dict[str, str]:
    pair = (question.adapted, question.base) if row.adapted == "A" else (question.base, question.adapted)
    try:
        texts = [cell(text) for text in (question.question, *pair)]
    except DataError as error:
        raise error.at(f"task {question.task}, item {question.item_id}") from None
    return {"id": row.id, **dict(zip(("question", "answer_a", "answer_b"), texts, strict=True)), "study": commitment}
