"""Finding measurements in a comparison: by subject, reference, task, metric and slice."""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.report.texts import Texts
from lorascope.schema.comparison import Comparison, Measurement, Role, TaskInfo

ANY = "*"


def measurements(
    comparison: Comparison,
    *,
    subject: str | None = None,
    reference: str | None = None,
    area: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    by: str | None = ANY,
) -> list[Measurement]:
    """Return the measurements that meet every condition given; ``by=None`` asks for those of the whole."""

    def fits(found: Measurement) -> bool:
        wanted = ((subject, found.subject), (reference, found.reference), (area, found.area))
        named = ((task, found.task), (metric, found.metric))
        sliced = by == ANY or (found.slice.by if found.slice else None) == by
        return sliced and all(want is None or want == have for want, have in wanted + named)

    return [found for found in comparison.measurements if fits(found)]


def tasks_of_role(comparison: Comparison, role: Role) -> list[TaskInfo]:
    """Return the tasks of one role, in the order of the suite."""
    return [task for task in comparison.tasks if task.role == role]


def primary(comparison: Comparison, task: TaskInfo, subject: str, reference: str) -> Measurement | None:
    """Return the task's leading measurement: the first of its metrics that was measured on the whole task.

    Metrics without a better or worse (direction ``none``) cannot lead.
    """
    whole = measurements(comparison, subject=subject, reference=reference, task=task.name, by=None)
    for metric in task.metrics:
        for found in whole:
            if found.metric == metric and found.direction != "none" and found.area in ("task", "forgetting"):
                return found
    return None


def value_of(found: Measurement | None) -> float | None:
    """Return the adapted checkpoint's value, or None where nothing was measured."""
    return found.adapted.value if found is not None and found.adapted is not None else None


def single(comparison: Comparison, subject: str, area: str, metric: str) -> Measurement | None:
    """Return the subject's whole measurement of a metric against the base that has a value, else one without."""
    whole = measurements(comparison, subject=subject, reference=comparison.base.name, area=area, metric=metric, by=None)
    return next((found for found in whole if found.adapted), whole[0] if whole else None)


def asks_tasks(comparison: Comparison) -> bool:
    """Return whether any task was put to the checkpoints; a comparison of weights or curves alone asks none."""
    return bool(comparison.tasks) or any(found.area in ("task", "forgetting") for found in comparison.measurements)


def reason_of_gap(comparison: Comparison, subject: str, areas: Sequence[str], words: Texts) -> str:
    """Return why nothing was measured in these areas as a sentence, or nothing where no reason was recorded."""
    for missing in comparison.missing:
        if missing.area in areas and missing.subject in (None, subject):
            return words.ended(missing.reason[:1].upper() + missing.reason[1:])
    return ""


def references(comparison: Comparison) -> list[str]:
    """Return every reference that measurements use: the base first, then others in order of appearance."""
    others = dict.fromkeys(found.reference for found in comparison.measurements)
    base = comparison.base.name
    return [base, *(name for name in others if name != base)]


def improvement(found: Measurement, value: float | None) -> float | None:
    """Turn the sign of a difference so that better is positive."""
    if value is None or found.direction != "lower":
        return value
    return -value
