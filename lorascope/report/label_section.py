"""The section on label tasks: the worst labels, precision over recall, labels per item, tuned thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import altair as alt

from lorascope.report import numbers
from lorascope.report.chart_parts import ROWS, Spec, finished, subject_marks
from lorascope.report.lookup import measurements
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison, Series

_BASE_COLOUR = "#8a8f98"
_MOST_COUNTED = 20
_CURVE, _WORST = "precision_recall", "worst_label"
_COUNTS, _TRUE_COUNTS = "label_count", "true_label_count"


@dataclass(frozen=True, slots=True)
class WorstLabel:
    """One line of a checkpoint's list, as text: counts of items, scores in 0–1 at threshold 0.5."""

    label: str
    f1: str
    precision: str
    recall: str
    support: str
    given: str


@dataclass(frozen=True, slots=True)
class LabelPart:
    """What the section shows of one task.

    ``thresholds`` are checkpoints with a sentence on theirs, ``worst`` checkpoints with their worst labels, the base
    left out.
    """

    task: str
    checkpoints: tuple[str, ...]
    counts: str | None
    curves: tuple[str, ...]
    thresholds: tuple[tuple[str, str], ...]
    worst: tuple[tuple[str, tuple[WorstLabel, ...]], ...]


def label_context(comparison: Comparison, specs: dict[str, Spec], language: Language) -> dict[str, Any]:
    """Return what the page's section needs; charts are added to ``specs``. Metrics stand in the tables of metrics."""
    words = load_texts(language)
    parts = [_part(comparison, task.name, specs, words) for task in comparison.tasks if task.kind == "labels"]
    return {"label_parts": [part for part in parts if part.counts or part.curves or part.thresholds]}


def shows_labels(comparison: Comparison) -> bool:
    """Whether the section has anything to show."""
    named = [task.name for task in comparison.tasks if task.kind == "labels"]
    tuned = measurements(comparison, metric="tuned_threshold")
    return any(_series_of(comparison, task) or any(each.task == task for each in tuned) for task in named)


def _part(comparison: Comparison, task: str, specs: dict[str, Spec], words: Texts) -> LabelPart:
    found = _series_of(comparison, task)
    curves: dict[str, list[Series]] = {}
    for series in found:
        label = series.name.removeprefix(f"{_CURVE}:{task}:")
        if label != series.name:
            curves.setdefault(label, []).append(series)
    named = []
    for label, lines in curves.items():
        name = f"precision-recall-{len(specs)}"
        specs[name] = curve_chart(comparison, label, lines, words)
        named.append(name)
    counts = _counts_chart(comparison, task, found, words)
    if counts is not None:
        specs[f"label-counts-{task}"] = counts
    shown = {series.subject for series in found}
    return LabelPart(
        task=task,
        checkpoints=tuple(each.name for each in comparison.checkpoints if each.name in shown),
        counts=None if counts is None else f"label-counts-{task}",
        curves=tuple(named),
        thresholds=tuple(_thresholds(comparison, task, words)),
        worst=tuple(_worst(comparison, task, found)),
    )


def _series_of(comparison: Comparison, task: str) -> list[Series]:
    kinds = {_CURVE, _WORST, _COUNTS, _TRUE_COUNTS}
    named = [(series, series.name.split(":")) for series in comparison.series]
    return [series for series, name in named if name[0] in kinds and name[1:2] == [task]]


def _worst(comparison: Comparison, task: str, found: Sequence[Series]) -> Iterator[tuple[str, tuple[WorstLabel, ...]]]:
    """Each adapted checkpoint's own list, in the order in which it was measured: the lowest F1 first."""
    for checkpoint in comparison.checkpoints:
        prefix = f"{_WORST}:{task}:"
        own = [each for each in found if each.subject == checkpoint.name and each.name.startswith(prefix)]
        if own and checkpoint.name != comparison.base.name:
            yield checkpoint.name, tuple(_worst_label(each.name.removeprefix(prefix), each.y) for each in own)


def _worst_label(label: str, counts: Sequence[float | None]) -> WorstLabel:
    support, given, right = (count or 0.0 for count in counts)
    return WorstLabel(
        label=label,
        f1=numbers.plain(2 * right / (support + given), 2),
        precision=numbers.plain(right / given if given else None, 2),
        recall=numbers.plain(right / support, 2),
        support=numbers.count(support),
        given=numbers.count(given),
    )


def curve_chart(comparison: Comparison, label: str, lines: Sequence[Series], words: Texts) -> Spec:
    """Return precision over recall of one label, one line per checkpoint; the base is grey and dashed."""
    rows = [
        {"recall": x, "precision": y, "checkpoint": line.subject, "base": line.subject == comparison.base.name}
        for line in lines
        for x, y in zip(line.x, line.y, strict=True)
    ]
    unit = alt.Scale(domain=[0, 1])
    x = alt.X("recall:Q", title=words("labels.recall"), scale=unit, axis=alt.Axis(grid=False, tickCount=3))
    y = alt.Y("precision:Q", title=words("labels.precision"), scale=unit, axis=alt.Axis(tickCount=3))
    colour = _colours(comparison, [line.subject for line in lines])
    tips = [alt.Tooltip(f"{name}:{kind}", title=words(f"labels.{name}")) for name, kind in _TIPS]
    base = alt.Chart(ROWS)
    layers = [
        base.transform_filter(which)
        .mark_line(strokeWidth=2, strokeDash=dash)
        .encode(x=x, y=y, color=colour, order=alt.Order("recall:Q"))
        for which, dash in (("datum.base", [4, 3]), ("!datum.base", [1, 0]))
    ]
    points = base.mark_point(filled=True, size=26, opacity=1).encode(x=x, y=y, color=colour, tooltip=tips)
    chart = alt.layer(*layers, points).properties(height=150)
    return finished(chart, rows, label, words("labels.describe_curve"))


_TIPS = (("checkpoint", "N"), ("recall", "Q"), ("precision", "Q"))


def _colours(comparison: Comparison, names: Sequence[str]) -> alt.Color:
    marks = subject_marks(comparison)
    domain = list(dict.fromkeys(names))
    colours = [marks[name][0] if name in marks else _BASE_COLOUR for name in domain]
    return alt.Color("checkpoint:N", scale=alt.Scale(domain=domain, range=colours), legend=None)


def _counts_chart(comparison: Comparison, task: str, found: Sequence[Series], words: Texts) -> Spec | None:
    """Return how many items have how many labels: bars are the truth, lines what checkpoints give at 0.5."""
    given = [series for series in found if series.name == f"{_COUNTS}:{task}"]
    true = [series for series in found if series.name == f"{_TRUE_COUNTS}:{task}"]
    if not given or not true:
        return None
    rows = [row for series in (*true[:1], *given) for row in _count_rows(series, series is true[0])]
    base = alt.Chart(ROWS)
    order = list(dict.fromkeys(row["labels"] for row in rows))
    x = alt.X("labels:N", sort=order, title=words("labels.count"), axis=alt.Axis(labelAngle=0))
    y = alt.Y("share:Q", title=words("labels.share"), axis=alt.Axis(format=".0%", tickCount=4))
    colour = _colours(comparison, [series.subject for series in given])
    tips = [alt.Tooltip(f"{name}:{kind}", title=words(f"labels.{key}")) for name, kind, key in _COUNT_TIPS]
    lines = base.transform_filter("!datum.true")
    layers = [
        base.transform_filter("datum.true").mark_bar(color=_BASE_COLOUR, opacity=0.35).encode(x=x, y=y),
        lines.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        lines.mark_point(filled=True, size=50, opacity=1).encode(x=x, y=y, color=colour, tooltip=tips),
    ]
    chart = alt.layer(*layers).properties(height=220)
    return finished(chart, rows, words("labels.count_title", task=task), words("labels.describe_count"))


_COUNT_TIPS = (("checkpoint", "N", "checkpoint"), ("labels", "N", "count"), ("share", "Q", "share"))


def _count_rows(series: Series, true: bool) -> list[dict[str, Any]]:
    """Long tails are one last column, of the same name whether or not a checkpoint has more than its first count."""
    shares = [share or 0.0 for share in series.y]
    kept = [*shares[:_MOST_COUNTED], sum(shares[_MOST_COUNTED:])] if len(shares) > _MOST_COUNTED else shares
    names = [str(place) if place < _MOST_COUNTED else f"{_MOST_COUNTED}+" for place in range(len(kept))]
    return [
        {"labels": name, "share": numbers.rounded(share), "checkpoint": series.subject, "true": true}
        for name, share in zip(names, kept, strict=True)
    ]


def _thresholds(comparison: Comparison, task: str, words: Texts) -> list[tuple[str, str]]:
    """Each checkpoint's tuned thresholds as median and range over labels."""
    base = comparison.base.name
    found = measurements(comparison, reference=base, task=task, metric="tuned_threshold", by="label")
    known: dict[str, dict[str, float]] = {}
    for each in found:
        for name, estimate in ((each.reference, each.base), (each.subject, each.adapted)):
            if estimate is not None and each.slice is not None:
                known.setdefault(name, {})[each.slice.value] = estimate.value
    return [(name, _threshold_text(list(values.values()), words)) for name, values in known.items()]


def _threshold_text(values: Sequence[float], words: Texts) -> str:
    low, middle, high = (numbers.plain(value, 2) for value in (min(values), median(values), max(values)))
    return words("labels.thresholds", labels=numbers.count(len(values)), low=low, median=middle, high=high)
