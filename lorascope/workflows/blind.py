"""Put answers before blind raters, and take their scores into the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.text import Text

from lorascope.blind.export import ExportedStudy, export_sheets
from lorascope.blind.key import StudyKey, read_key
from lorascope.blind.scoring import RESAMPLES, StudyScores, score_sheets
from lorascope.errors import DataError, InvalidComparison
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Comparison, Delta, Estimate, Measurement
from lorascope.workflows.output import SAMPLES, write_whole
from lorascope.workflows.publish import document, load_result, load_samples


def export(
    result_path: Path,
    *,
    items: int,
    raters: int,
    folder: Path,
    key_path: Path,
    seed: int,
    console: Console,
    subject: str | None = None,
    task: str | None = None,
) -> ExportedStudy:
    """Write the raters' sheets and the key from a result and the ``samples.parquet`` beside it."""
    comparison = load_result(result_path)
    samples = load_samples(result_path)
    if samples is None:
        remedy = "run compare without --no-samples"
        raise DataError("the result has no samples beside it", where=str(result_path.parent / SAMPLES), remedy=remedy)
    study = export_sheets(
        samples, comparison, items=items, raters=raters, folder=folder, key_path=key_path, seed=seed, subject=subject,
        task=task,
    )  # fmt: skip
    console.print(Text(f"{len(study.sheets)} sheets with {study.rated} items each in {folder}"))
    if study.identical:
        console.print(Text(f"{study.identical} items have two identical answers: they count as ties, unrated"))
    console.print(Text(f"key in {key_path}: keep it from the raters"))
    return study


def score(sheets: Sequence[Path], key_path: Path, result_path: Path, console: Console) -> StudyScores:
    """Score the sheets and write the result again with area ``human``; an earlier score of the subject is replaced.

    InvalidComparison when the key belongs to other checkpoints or tasks than the result.
    """
    key = read_key(key_path)
    comparison = load_result(result_path)
    _check_fit(key, comparison, key_path)
    scores = score_sheets(sheets, key)
    text = document(_with_scores(comparison, key, scores))
    write_whole(result_path, lambda part: part.write_text(text, encoding="utf-8"))
    rate = scores.win_rate
    interval = "" if rate.low is None else f" (95 %: {rate.low:.3f} to {rate.high:.3f})"
    console.print(Text(f"{key.subject}: win rate {rate.value:.3f}{interval} over {rate.n} items"))
    if scores.absent_raters:
        console.print(Text(f"no sheet from {', '.join(scores.absent_raters)}"))
    return scores


def _check_fit(key: StudyKey, comparison: Comparison, key_path: Path) -> None:
    hashes = {each.name: each.content_hash for each in comparison.checkpoints}
    fingerprints = {each.name: each.fingerprint for each in comparison.tasks}
    same = hashes.get(key.subject) == key.subject_hash and hashes.get(key.reference) == key.reference_hash
    if not same or any(fingerprints.get(name) != found for name, found in key.tasks.items()):
        problem = "the key belongs to other checkpoints or tasks than this result"
        raise InvalidComparison(problem, where=str(key_path), remedy="give the result that the study was exported from")


def _with_scores(comparison: Comparison, key: StudyKey, scores: StudyScores) -> Comparison:
    others = [each for each in comparison.measurements if (each.area, each.subject) != ("human", key.subject)]
    studies = [each for each in (comparison.human or {}).get("studies", []) if each.get("subject") != key.subject]
    missing = [each for each in comparison.missing if (each.area, each.subject) != ("human", key.subject)]
    study = {"subject": key.subject, "reference": key.reference, "tasks": sorted(key.tasks), "seed": key.seed,
             "commitment": key.commitment, **_as_json(scores)}  # fmt: skip
    update = {
        "measurements": [*others, *_measurements(key, scores)],
        "human": {"studies": [*studies, study]},
        "missing": missing,
    }
    return comparison.model_copy(update=update)


def _as_json(scores: StudyScores) -> dict[str, Any]:
    found: dict[str, Any] = to_jsonable_python(asdict(scores))
    return found


def _measurements(key: StudyKey, scores: StudyScores) -> list[Measurement]:
    found = [_measurement(key, scores, "win_rate", None, scores.win_rate, None)]
    for dimension, rating in scores.ratings.items():
        found.append(_measurement(key, scores, f"{dimension}_rating", rating.base, rating.adapted, rating.delta))
    return found


def _measurement(
    key: StudyKey, scores: StudyScores, metric: str, base: Estimate | None, adapted: Estimate, delta: Delta | None
) -> Measurement:
    spec = find_spec(metric)
    return Measurement(
        subject=key.subject,
        reference=key.reference,
        area="human",
        task=next(iter(key.tasks)) if len(key.tasks) == 1 else None,
        metric=metric,
        unit=spec.unit,
        scale=spec.scale,
        direction=spec.direction,
        base=base,
        adapted=adapted,
        delta=delta,
        signature=f"blind:1|raters:{len(scores.raters)}|unit:item|bootstrap:{RESAMPLES}|seed:0",
    )
