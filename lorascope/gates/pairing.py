"""Readings against a baseline: the adapted checkpoint of another result, item by item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from lorascope.errors import EvaluationError, InvalidComparison
from lorascope.gates.judging import Absent, Reading, quantile
from lorascope.gates.selection import address_of
from lorascope.schema.comparison import CheckpointInfo, Comparison, Measurement, Slice

if TYPE_CHECKING:
    import pyarrow

_AGREEMENT = 1e-5
_UNPAIRED = "cannot be paired with a baseline: it is not the mean of stored item scores"
_Scores = Mapping[str, list[float]]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A result to compare with, and the item scores of both: ``samples`` its own, ``current`` the judged result's."""

    comparison: Comparison
    samples: pyarrow.Table | None
    current: pyarrow.Table | None


def exact_reading(found: Measurement, baseline: Baseline) -> Reading | Absent:
    """Change of a counted value against the baseline's, without an interval."""
    subject = _counterpart(found.subject, baseline.comparison)
    before = _measurement(found, subject.name, baseline.comparison)
    if found.adapted is None or before is None or before.adapted is None:
        return Absent("MISSING", _missing_from(found, before))
    change = found.adapted.value - before.adapted.value
    return Reading(change, change, change, found.adapted.n, _source(subject), exact=True)


def paired_reading(
    found: Measurement, comparison: Comparison, baseline: Baseline, confidence: float
) -> Reading | Absent:
    """Mean difference to the baseline's adapted checkpoint over the same items, with normal one-sided bounds.

    Only metrics that are the mean of their item scores can be paired so; others are Absent with the reason.
    InvalidComparison when the task was asked differently, EvaluationError without item scores.
    """
    if found.task is None:
        return Absent("INCONCLUSIVE", _UNPAIRED)
    subject = _counterpart(found.subject, baseline.comparison)
    before = _measurement(found, subject.name, baseline.comparison)
    if found.adapted is None or before is None or before.adapted is None:
        return Absent("MISSING", _missing_from(found, before))
    _same_question(found.task, comparison, baseline.comparison)
    if baseline.samples is None or baseline.current is None:
        which = "the baseline" if baseline.samples is None else "the result"
        problem = f"{which} has no samples.parquet beside it, so its items cannot be paired"
        raise EvaluationError(
            problem, where=address_of(found), remedy="keep samples.parquet with the result it belongs to"
        )
    new = _item_scores(baseline.current, found.subject, found)
    old = _item_scores(baseline.samples, subject.name, found)
    if not _is_mean(new, found.adapted.value) or not _is_mean(old, before.adapted.value):
        return Absent("INCONCLUSIVE", _UNPAIRED)
    expected = _same_checkpoint(comparison, found.subject, baseline.comparison, subject)
    return _reading(_differences(old, new, found), confidence, _source(subject), expected)


def _reading(differences: list[float], confidence: float, source: str, expected: str | None) -> Reading:
    n = len(differences)
    mean = fmean(differences)
    if n < 2:
        return Reading(mean, None, None, n, source)
    half = quantile(confidence) * stdev(differences, mean) / math.sqrt(n)
    return Reading(mean, mean - half, mean + half, n, source, unchanged_because=expected)


def _counterpart(subject: str, baseline: Comparison) -> CheckpointInfo:
    same = [each for each in baseline.subjects if each.name == subject]
    candidates = same or baseline.subjects
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(each.name for each in baseline.subjects) or "none"
    raise InvalidComparison(
        f"the baseline has no adapted checkpoint {subject!r} and no single other one: {names}",
        remedy="name the checkpoint as in the baseline: NAME=PATH on the command line",
    )


def _measurement(found: Measurement, subject: str, baseline: Comparison) -> Measurement | None:
    wanted = (subject, found.area, found.task, found.slice, found.metric)
    same = [m for m in baseline.measurements if (m.subject, m.area, m.task, m.slice, m.metric) == wanted]
    return next((each for each in same if each.adapted is not None), None)


def _missing_from(found: Measurement, before: Measurement | None) -> str:
    if found.adapted is None:
        return found.missing_reason or "it was not measured"
    return "the baseline does not have it" if before is None else "the baseline could not measure it"


def _same_question(task: str | None, comparison: Comparison, baseline: Comparison) -> None:
    new = next((each.fingerprint for each in comparison.tasks if each.name == task), None)
    old = next((each.fingerprint for each in baseline.tasks if each.name == task), None)
    if new is None or new != old:
        raise InvalidComparison(
            f"task {task!r} was asked differently in the baseline: fingerprint {old} there, {new} here",
            remedy="measure the baseline again with the same items, prompt, decoding and scoring",
        )


def _same_checkpoint(new: Comparison, name: str, old: Comparison, subject: CheckpointInfo) -> str | None:
    hashes = [each.content_hash for each in new.subjects if each.name == name]
    same = hashes == [subject.content_hash] and new.base.content_hash == old.base.content_hash
    return "the checkpoint is the baseline's own, byte for byte" if same else None


def _item_scores(samples: pyarrow.Table, subject: str, found: Measurement) -> _Scores:
    """Scores of the adapted checkpoint by item; items of equal content share an id, hence lists, sorted."""
    column = f"{found.metric}_adapted"
    if column not in samples.column_names:
        return {}
    scores: dict[str, list[float]] = {}
    names = ["subject", "task", "item_id", "group", "category"]
    for row in samples.select([*(each for each in names if each in samples.column_names), column]).to_pylist():
        score = row[column]
        inside = row["subject"] == subject and row["task"] == found.task and _in_slice(row, found.slice)
        if inside and score is not None and not math.isnan(score):
            scores.setdefault(row["item_id"], []).append(float(score))
    return {item: sorted(values) for item, values in scores.items()}


def _in_slice(row: Mapping[str, object], part: Slice | None) -> bool:
    return part is None or (part.by in ("group", "category") and row.get(part.by) == part.value)


def _is_mean(scores: _Scores, estimate: float) -> bool:
    values = [value for each in scores.values() for value in each]
    return bool(values) and math.isclose(fmean(values), estimate, rel_tol=_AGREEMENT, abs_tol=_AGREEMENT)


def _differences(old: _Scores, new: _Scores, found: Measurement) -> list[float]:
    if {item: len(values) for item, values in old.items()} != {item: len(values) for item, values in new.items()}:
        unpaired = len(old.keys() ^ new.keys())
        problem = f"{unpaired:,} items are scored in only one of the two results, or more often in one"
        raise InvalidComparison(problem, where=address_of(found), remedy="score the same items in both")
    return [after - before for item in sorted(new) for before, after in zip(old[item], new[item], strict=True)]


def _source(subject: CheckpointInfo) -> str:
    return f"against the baseline's {subject.name}"
