"""A sweep in words: what it recommends, what that rests on, and what stands for settings and intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorascope.report import numbers
from lorascope.report.texts import Texts
from lorascope.schema.sweep import (
    SweepChoice,
    SweepDifference,
    SweepMeasure,
    SweepPoint,
    SweepReport,
    SweepValue,
)

_NAMES = {"method.name": "method", "loss.name": "loss", "structured_dropout.preset": "dropout", "task.fraction": "data"}
"""What settings are called whose last part alone says too little."""


def advice_title(report: SweepReport, words: Texts) -> str:
    """The recommendation in one line; that nothing can be recommended is one too."""
    advice = report.advice
    key: str = advice.outcome
    if key == "better" and any(each.verdict != "improved" for each in advice.rests_on):
        key = "cheapest_best"
    return words(
        f"sweep.advice.{key}",
        point=advice.point or "",
        best=advice.best or "",
        open=words.joined(list(advice.open)),
        metric=metric_of(report, advice.measure),
    )


def advice_evidence(report: SweepReport, words: Texts) -> list[str]:
    """What it rests on: each comparison with its interval, the seeds, and the difference in forgetting."""
    advice = report.advice
    told = [difference_sentence(report, each, words) for each in advice.rests_on]
    if advice.forgets is not None:
        told.append(words("sweep.forgets", told=difference_sentence(report, advice.forgets, words)))
    if advice.outcome in ("better", "cheaper", "inconclusive"):
        told.append(words("sweep.one_seed") if advice.seeds == 1 else words("sweep.seeds", count=advice.seeds))
        count = sum(advice.measure in point.values for point in report.points)
        told.append(words("sweep.same_items", count=count))
    return told


def edge_sentences(report: SweepReport, words: Texts) -> Iterator[tuple[SweepChoice, str]]:
    """A sentence for each choice that fell on an end of the values tried."""
    for choice in report.choices:
        if choice.edge:
            yield (
                choice,
                words("sweep.edge", group=choice.group, key=choice.key, value=setting_text(choice.chosen)),
            )


def metric_of(report: SweepReport, name: str | None) -> str:
    """The metric of a measure."""
    measure = report.measure(name)
    return "" if measure is None else measure.metric


def difference_sentence(report: SweepReport, found: SweepDifference, words: Texts) -> str:
    """Who minus whom, by how much, with which interval over what, and the verdict."""
    measure = report.measure(found.measure)
    assert measure is not None
    verdict = f" → {words(f'verdict.{found.verdict}')}" if found.verdict else ""
    return words(
        "sweep.difference",
        point=found.point,
        reference=found.reference,
        metric=measure.metric,
        change=change_text(measure, found),
        basis=basis_text(found, words),
        verdict=verdict,
    )


def change_text(measure: SweepMeasure, found: SweepDifference) -> str:
    """A difference with its interval."""
    value = numbers.signed(found.value, measure.unit, measure.scale)
    return f"{value} {numbers.interval(found, measure.unit, measure.scale, with_sign=True)}".strip()


def basis_text(found: SweepDifference, words: Texts) -> str:
    """What an interval is over."""
    return words(f"sweep.basis.{found.basis}", n=f"{found.n:,}")


def value_text(measure: SweepMeasure, value: SweepValue | None) -> str:
    """A mean over seeds, or the value of one."""
    return numbers.metric_value(None if value is None else value.mean, measure.unit, measure.scale)


def interval_text(measure: SweepMeasure, value: SweepValue | None, words: Texts) -> str:
    """The interval over seeds; with one seed the interval over items, said to be one."""
    if value is None:
        return ""
    if len(value.values) > 1:
        return numbers.interval(value, measure.unit, measure.scale)
    bounds = numbers.interval(value.values[0], measure.unit, measure.scale)
    return words("sweep.of_items", interval=bounds) if bounds else ""


def setting_text(value: Any) -> str:
    """A setting's value as people write it."""
    if isinstance(value, float):
        text = f"{value:.6e}" if 0 < abs(value) < 0.01 else f"{value:g}"
        mantissa, mark, exponent = text.partition("e")
        return f"{float(mantissa):g}e{int(exponent)}" if mark else text
    if isinstance(value, list):
        return ", ".join(setting_text(each) for each in value)
    return numbers.ABSENT if value is None else str(value)


def settings_text(settings: Mapping[str, Any], left_out: Sequence[str] = ()) -> str:
    """Settings in one line, by the last part of their keys; those that are null are left out."""
    known = ((key, value) for key, value in settings.items() if value is not None and key not in left_out)
    return ", ".join(f"{_NAMES.get(key, key.rpartition('.')[2])} {setting_text(value)}" for key, value in known)


def point_text(point: SweepPoint) -> str:
    """What makes a point: its varied settings and what was chosen for it."""
    return settings_text({**point.settings, **point.chosen})
