"""The section on leaked items: how many, of what kind, and what a subject gained with and without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from lorascope.report import numbers
from lorascope.report.chart_parts import ROWS, Spec, finished, subject_encodings, subject_marks
from lorascope.report.lookup import improvement, measurements, primary
from lorascope.report.tables import Table, section_tables
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison, Measurement, TaskInfo

_PARTS = ("all", "clean", "leaked")


@dataclass(frozen=True, slots=True)
class LeakShare:
    """One row of the table of shares."""

    label: str
    value: str
    interval: str
    n: str


@dataclass(frozen=True, slots=True)
class LeakGain:
    """What one subject's gain loses without the leaked items."""

    subject: str
    value: str
    interval: str


@dataclass(frozen=True, slots=True)
class LeakPart:
    """What the section shows of one task; ``metric`` is the one whose gain is split."""

    task: str
    metric: str
    shares: tuple[LeakShare, ...]
    chart: str | None
    gains: tuple[LeakGain, ...]


def is_of_leaks(found: Measurement) -> bool:
    """Whether a measurement belongs to this section: a leak's own number, or a metric on clean or leaked items."""
    return found.area == "leak" or (found.slice is not None and found.slice.by == "clean")


def without_leaks(comparison: Comparison) -> Comparison:
    """Return the comparison with what this section shows left out, for the other sections' tables."""
    kept = [found for found in comparison.measurements if not is_of_leaks(found)]
    return comparison.model_copy(update={"measurements": kept})


def shows_leaks(comparison: Comparison) -> bool:
    """Whether the section has anything to show."""
    return any(each.adapted is not None for each in measurements(comparison, area="leak", metric="leaked_fraction"))


def leak_context(comparison: Comparison, specs: dict[str, Spec], language: Language) -> dict[str, Any]:
    """Return what the page's section needs; charts are added to ``specs``."""
    words = load_texts(language)
    parts = [_part(comparison, task, specs, words) for task in comparison.tasks if task.metrics]
    return {
        "leak_parts": [part for part in parts if part.shares],
        "leak_tables": _clean_tables(comparison, words),
    }


def _clean_tables(comparison: Comparison, words: Texts) -> list[Table]:
    """Every metric on clean and on leaked items."""
    sliced = [found for found in comparison.measurements if found.slice is not None and found.slice.by == "clean"]
    only = comparison.model_copy(update={"measurements": sliced})
    return section_tables(only, None, comparison.base.name, words)[1]


def _part(comparison: Comparison, task: TaskInfo, specs: dict[str, Spec], words: Texts) -> LeakPart:
    chart = leaked_gain_chart(comparison, task, words)
    if chart is not None:
        specs[f"leaked-gain-{task.name}"] = chart
    found = measurements(comparison, reference=comparison.base.name, area="leak", task=task.name, metric="leaked_gain")
    return LeakPart(
        task=task.name,
        metric=task.metrics[0],
        shares=tuple(_shares(comparison, task.name, words)),
        chart=None if chart is None else f"leaked-gain-{task.name}",
        gains=tuple(_gain(each) for each in found if each.adapted is not None),
    )


def _shares(comparison: Comparison, task: str, words: Texts) -> list[LeakShare]:
    """The shares stand beside every subject and are the same for all: those of the first are shown."""
    found = measurements(comparison, area="leak", task=task, metric="leaked_fraction")
    rows: dict[str, LeakShare] = {}
    for each in found:
        kind = "any" if each.slice is None else "groups" if each.slice.by == "group" else each.slice.value
        if each.adapted is None or kind in rows:
            continue
        rows[kind] = LeakShare(
            label=words.known(f"leak.kind.{kind}", kind),
            value=numbers.percent(each.adapted.value),
            interval=_percent_interval(each),
            n=numbers.count(each.adapted.n),
        )
    return list(rows.values())


def _percent_interval(found: Measurement) -> str:
    estimate = found.adapted
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"[{numbers.percent(estimate.low)}, {numbers.percent(estimate.high)}]"


def _gain(found: Measurement) -> LeakGain:
    estimate = found.adapted
    value = numbers.signed(estimate.value if estimate else None, found.unit, found.scale)
    return LeakGain(found.subject, value, numbers.interval(estimate, found.unit, found.scale, with_sign=True))


def leaked_gain_chart(comparison: Comparison, task: TaskInfo, words: Texts) -> Spec | None:
    """Return each subject's paired difference in the primary metric on all, on clean and on leaked items.

    Better is to the right. None where nothing was measured on clean items.
    """
    rows = [row for subject in comparison.subjects for row in _gain_rows(comparison, task, subject.name, words)]
    if not rows:
        return None
    subjects = [name for name in subject_marks(comparison) if any(row["subject"] == name for row in rows)]
    colour, shape = subject_encodings(comparison, subjects)
    base = alt.Chart(ROWS)
    order = [words(f"leak.part.{part}") for part in _PARTS]
    y = alt.Y("part:N", sort=order, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=170))
    offset = alt.YOffset("subject:N", sort=subjects, scale=alt.Scale(paddingInner=0.3, paddingOuter=0.4))
    x = alt.X("low:Q", title=words("axis.improvement"))
    tips = [alt.Tooltip(f"{name}:{kind}", title=words(f"tip.{key}")) for name, kind, key in _TIPS]
    layers = [
        base.mark_rule(strokeDash=[2, 3], color="#8a8f98").encode(x=alt.datum(0)),
        base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(x=x, x2="high:Q", y=y, yOffset=offset, color=colour),
        base.mark_point(filled=True, size=75, opacity=1).encode(
            x="value:Q", y=y, yOffset=offset, color=colour, shape=shape, tooltip=tips
        ),
    ]
    height = len(_PARTS) * max(34, 18 * len(subjects) + 8)
    chart = alt.layer(*layers).properties(height=height)
    title = words("leak.chart", task=task.name, metric=rows[0]["metric"])
    return finished(chart, rows, title, words("describe.forest"))


_TIPS = (("part", "N", "label"), ("subject", "N", "subject"), ("value", "Q", "value"), ("low", "Q", "low"),
         ("high", "Q", "high"), ("items", "Q", "items"))  # fmt: skip


def _gain_rows(comparison: Comparison, task: TaskInfo, subject: str, words: Texts) -> Sequence[dict[str, Any]]:
    reference = comparison.base.name
    whole = primary(comparison, task, subject, reference)
    if whole is None:
        return []
    sliced = measurements(
        comparison, subject=subject, reference=reference, task=task.name, metric=whole.metric, by="clean"
    )
    parts = {"all": whole} | {each.slice.value: each for each in sliced if each.slice is not None}
    if len(parts) != len(_PARTS):
        return []
    return [_gain_point(parts[part], words(f"leak.part.{part}")) for part in _PARTS if parts[part].delta is not None]


def _gain_point(found: Measurement, part: str) -> dict[str, Any]:
    delta = found.delta
    assert delta is not None  # only differences are drawn
    turned = (improvement(found, delta.low), improvement(found, delta.high))
    ends = sorted(value for value in turned if value is not None)
    low, high = ends if len(ends) == 2 else (None, None)
    named = {"part": part, "subject": found.subject, "metric": found.metric, "items": delta.n}
    return named | {"value": improvement(found, delta.value), "low": low, "high": high}
