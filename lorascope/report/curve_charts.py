"""Charts of curves: losses over training, singular values of a module, intruders against their settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lorascope.report import numbers
from lorascope.report.chart_parts import ROWS, Spec, finished, subject_encodings, subject_marks
from lorascope.report.lookup import measurements
from lorascope.report.modules import spectrum_rows
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison, ModuleWeights, Series

_SET_COLOURS = ("#0072b2", "#c04f00", "#00896b", "#a6449b")
_POINTS_PER_CURVE = 500


def curve_chart(comparison: Comparison, subject: str, language: Language = "en") -> Spec | None:
    """Return training and validation loss of one subject, with the best and the over-fitting step marked.

    The loss axis is the same for all subjects. Long curves are thinned to the lowest and highest value of each stretch,
    so that spikes stay.
    """
    words = load_texts(language)
    curves = [series for series in comparison.series if series.subject == subject and _is_loss(series)]
    rows = [row for series in curves for row in _curve_rows(series, words)]
    if not rows:
        return None
    names = list(dict.fromkeys(row["curve"] for row in rows))
    sets = [name for name in names if name != words("curve.train")]
    palette = {name: _SET_COLOURS[at % len(_SET_COLOURS)] for at, name in enumerate(sets)}
    colour = alt.Color(
        "curve:N",
        scale=alt.Scale(domain=names, range=[palette.get(name, "#8a8f98") for name in names]),
        legend=alt.Legend(
            title=None,
            orient="top",
            symbolType="stroke",
            symbolStrokeWidth=3,
            symbolOpacity=1,
            labelLimit=240,
            columns=2,
        ),
    )
    x = alt.X("x:Q", title=words.known(f"axis.{curves[0].x_name}", curves[0].x_name), axis=alt.Axis(grid=False))
    y = alt.Y("y:Q", title=words("axis.loss"), scale=alt.Scale(domain=_loss_domain(comparison), nice=True, clamp=True))
    base = alt.Chart(ROWS)
    tips = [alt.Tooltip(f"{name}:{kind}", title=words(f"tip.{name}")) for name, kind in _CURVE_TIPS]
    layers: list[alt.Chart] = [
        base.transform_filter("datum.train").mark_line(strokeWidth=1, opacity=0.75).encode(x=x, y=y, color=colour),
        base.transform_filter("!datum.train").mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        base.transform_filter("!datum.train")
        .mark_point(filled=True, size=36, opacity=1)
        .encode(x=x, y=y, color=colour, tooltip=tips),
        *_curve_marks(comparison, subject, max(row["x"] for row in rows), words),
    ]
    chart = alt.layer(*layers).properties(height=260)
    return finished(chart, rows, words("chart.curves", subject=subject), words("describe.curves"))


def _is_loss(series: Series) -> bool:
    return series.name == "train_loss" or series.name.startswith("eval_loss")


def _curve_rows(series: Series, words: Texts) -> list[dict[str, Any]]:
    train = series.name == "train_loss"
    _, _, name = series.name.partition(":")
    label = words("curve.train") if train else name or words("curve.eval")
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    return [
        {"x": numbers.rounded(x, 7), "y": numbers.rounded(y), "curve": label, "train": train}
        for x, y in thinned(points, _POINTS_PER_CURVE)
    ]


def thinned(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """Keep the ends and, of each stretch, the lowest and the highest point; short curves stay as they are."""
    if len(points) <= limit:
        return list(points)
    stretch = -(-2 * len(points) // limit)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), stretch):
        inside = range(start, min(start + stretch, len(points)))
        kept.add(min(inside, key=lambda at: points[at][1]))
        kept.add(max(inside, key=lambda at: points[at][1]))
    return [points[at] for at in sorted(kept)]


def _loss_domain(comparison: Comparison) -> list[float]:
    values = sorted(y for series in comparison.series if _is_loss(series) for y in series.y if y is not None)
    low, high = values[0], values[-1]
    return [low - 0.03 * (high - low), high + 0.03 * (high - low) or 1.0]


def _curve_marks(comparison: Comparison, subject: str, end: float, words: Texts) -> list[alt.Chart]:
    layers: list[alt.Chart] = []
    for metric, dash, colour in _CURVE_MARKS:
        base_name = comparison.base.name
        for found in measurements(comparison, subject=subject, reference=base_name, area="curves", metric=metric):
            if found.adapted is None:
                continue
            step = found.adapted.value
            of_set = f" · {found.slice.value}" if found.slice else ""
            label = words(f"curve.{metric}", step=numbers.count(step)) + of_set
            layers += _mark(step, label, dash, colour, late=step >= end / 2, row=len(layers) // 2)
    return layers


def _mark(step: float, label: str, dash: list[int], colour: str, *, late: bool, row: int) -> list[alt.Chart]:
    """A vertical rule and its label, on the side where there is room."""
    side: dict[str, Any] = {"align": "right", "dx": -6} if late else {"align": "left", "dx": 6}
    base, x = alt.Chart(alt.Data(values=[{}])), alt.datum(step)
    text = base.mark_text(fontSize=11, color=colour, baseline="top", **side)
    return [
        base.mark_rule(strokeDash=dash, color=colour, strokeWidth=1.5).encode(x=x),
        text.encode(x=x, y=alt.value(4 + 16 * row), text=alt.value(label)),
    ]


_CURVE_TIPS = (("curve", "N"), ("x", "Q"), ("y", "Q"))
_CURVE_MARKS = (("best_step", [4, 3], "#0072b2"), ("overfit_step", [1, 0], "#c04f00"))


def spectrum_chart(
    comparison: Comparison, subject: str, module: ModuleWeights, language: Language = "en"
) -> Spec | None:
    """Return one module's singular values on a log scale: of ΔW, and the leading ones of base and adapted matrix."""
    words = load_texts(language)
    rows = [{**row, "mark": words(f"spectrum.{row['mark']}")} for row in spectrum_rows(comparison, module)]
    return spectrum_spec(rows, module.name, words, title=f"{subject} · {module.name}") if rows else None


def spectrum_spec(rows: Sequence[dict[str, Any]], module: str, words: Texts, title: str = "") -> Spec:
    """Return the spectrum chart over given rows; the page fills an empty one when a cell is chosen."""
    names = [words(f"spectrum.{mark}") for mark in _SPECTRUM_MARKS]
    colours, shapes = ([_SPECTRUM_MARKS[mark][at] for mark in _SPECTRUM_MARKS] for at in (0, 1))
    legend = alt.Legend(title=None, orient="top", columns=3, labelLimit=220)
    colour = alt.Color("mark:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
    shape = alt.Shape("mark:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    x = alt.X(
        "index:Q",
        title=words("axis.index"),
        scale=alt.Scale(zero=False),
        axis=alt.Axis(grid=False, tickMinStep=1, format="d"),
    )
    y = alt.Y("value:Q", title=words("axis.singular_value"), scale=alt.Scale(type="log"), axis=alt.Axis(grid=False))
    tips = [alt.Tooltip(name, title=words(f"tip.{key}")) for name, key in _SPECTRUM_TIPS]
    base = alt.Chart(ROWS)
    chart = alt.layer(
        base.mark_line(strokeWidth=1, opacity=0.5, color="#8a8f98").encode(x=x, y=y, detail="line:N"),
        base.mark_point(filled=True, size=64, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
    ).properties(height=230)
    return finished(chart, rows, title or module, words("describe.spectrum"))


_SPECTRUM_MARKS = {
    "base": ("#8a8f98", "cross"),
    "kept": ("#0072b2", "circle"),
    "undecided": ("#b97a00", "diamond"),
    "intruder": ("#c04f00", "triangle-up"),
    "delta": ("#00896b", "square"),
}
_SPECTRUM_TIPS = (("mark:N", "mark"), ("index:Q", "index"), ("value:Q", "singular_value"))


def sweep_charts(comparison: Comparison, language: Language = "en") -> dict[str, Spec]:
    """Return intruder counts against the threshold ε and against the number k of judged vectors, where swept."""
    words = load_texts(language)
    charts = {}
    for name in ("epsilon_curve", "k_curve"):
        rows = [
            {"x": x, "y": y, "subject": series.subject}
            for series in comparison.series
            if series.name == name
            for x, y in zip(series.x, series.y, strict=True)
            if y is not None
        ]
        if rows:
            charts[name] = _sweep(comparison, rows, name, words)
    return charts


def _sweep(comparison: Comparison, rows: Sequence[dict[str, Any]], name: str, words: Texts) -> Spec:
    subjects = [subject for subject in subject_marks(comparison) if any(row["subject"] == subject for row in rows)]
    colour, shape = subject_encodings(comparison, subjects)
    x = alt.X("x:Q", title=words(f"axis.{name}"), axis=alt.Axis(grid=False))
    y = alt.Y("y:Q", title=words("axis.intruders"), axis=alt.Axis(tickMinStep=1))
    tips = [
        alt.Tooltip("subject:N", title=words("tip.subject")),
        alt.Tooltip("x:Q", title=words(f"axis.{name}")),
        alt.Tooltip("y:Q", title=words("axis.intruders")),
    ]
    base = alt.Chart(ROWS)
    chart = alt.layer(
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=52, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
    ).properties(height=200)
    return finished(chart, rows, words(f"chart.{name}"), words("describe.sweep"))
