"""Charts of a sweep: measures against a setting, learning against forgetting, all runs' curves, costs side by side.

Whatever they show stands in the section's tables as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from lorascope.report import numbers
from lorascope.report.chart_parts import ROWS, SUBJECT_COLOURS, SUBJECT_SHAPES, Spec, finished
from lorascope.report.curve_charts import thinned
from lorascope.report.sweep_words import interval_text, settings_text, value_text
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison, Series
from lorascope.schema.sweep import SweepMeasure, SweepPoint, SweepReport

_POINTS_PER_CURVE = 200
_MORE_COLOURS = ("#0072b2", "#c04f00", "#4f7d12", "#7a4fbf", "#b0413e", "#2f8f9d", "#9a7b00")
_GREY = "#8a8f98"
_RANK = "method.rank"
_DRAWN_KEYS = 3


def numeric_keys(report: SweepReport) -> list[str]:
    """Settings with two numbers or more among the points: the rank first, then the size of the data."""
    order = (_RANK, "task.fraction", "task.limit")
    found = []
    for key in report.keys:
        values = {point.settings.get(key) for point in report.points}
        if len([value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]) > 1:
            found.append(key)
    found.sort(key=lambda key: order.index(key) if key in order else len(order))
    return found[:_DRAWN_KEYS]


def against_chart(report: SweepReport, key: str, measure: SweepMeasure, language: Language = "en") -> Spec | None:
    """One measure against one setting, a line for each way of the other settings; intervals over seeds as bars.

    Single seeds are small hollow marks. Points without the setting (a full fine-tune has no rank) are dashed levels.
    None where fewer than two places on the axis have a value.
    """
    words = load_texts(language)
    rows = list(_against_rows(report, key, measure, words))
    places = {row["x"] for row in rows if row["kind"] == "mean"}
    if len(places) < 2:
        return None
    logarithmic = min(places) > 0 and max(places) >= 8 * min(places)
    scale = alt.Scale(type="log", nice=False, padding=14) if logarithmic else alt.Scale(padding=14, zero=False)
    axis = alt.Axis(values=sorted(places), grid=False, labelOverlap=True)
    x = alt.X("x:Q", title=words.known(f"axis.{key}", key), scale=scale, axis=axis)
    y = alt.Y("y:Q", title=_title(measure, words), scale=alt.Scale(zero=False, nice=True))
    base, marks = alt.Chart(ROWS), _marks([row["series"] for row in rows])
    colour, shape = marks
    means, seeds = base.transform_filter("datum.kind == 'mean'"), base.transform_filter("datum.kind == 'seed'")
    levels = base.transform_filter("datum.kind == 'level'")
    layers = [
        levels.mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=y, color=colour, tooltip=_tips(words)),
        means.mark_line(strokeWidth=1.5).encode(x=x, y=y, color=colour),
        means.mark_rule(strokeWidth=2.5, strokeCap="round").encode(x=x, y="low:Q", y2="high:Q", color=colour),
        seeds.mark_point(size=22, strokeWidth=1, filled=False, opacity=0.8).encode(x=x, y=y, color=colour),
        means.mark_point(filled=True, size=70, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=_tips(words)
        ),
    ]
    chart = alt.layer(*layers).properties(height=240)
    title = words("chart.sweep_against", metric=measure.metric, key=words.known(f"axis.{key}", key))
    return finished(chart, rows, title, words("describe.sweep_against"), _seeds_note(report, words))


def _against_rows(report: SweepReport, key: str, measure: SweepMeasure, words: Texts) -> Iterable[dict[str, Any]]:
    for point in report.points:
        value, place = point.values.get(measure.id), point.settings.get(key)
        if value is None:
            continue
        alike = [each for each in report.points if each.method == point.method]
        others = settings_text(point.settings, left_out=(key, "method.name", *_shared(alike)))
        own = {
            "series": ", ".join(filter(None, [point.method, others])),
            "name": point.name,
            "shown": f"{value_text(measure, value)} {interval_text(measure, value, words)}".strip(),
        }
        mean = {**own, "y": numbers.rounded(value.mean, 6)}
        if not isinstance(place, int | float):
            if key == _RANK:
                yield {**mean, "kind": "level", "series": point.name}
            continue
        low, high = (numbers.rounded(bound, 6) for bound in (value.low, value.high))
        yield {**mean, "x": place, "low": low, "high": high, "kind": "mean"}
        for each in value.values if len(value.values) > 1 else ():
            yield {**own, "x": place, "y": numbers.rounded(each.value, 6), "kind": "seed"}


def _shared(points: Sequence[SweepPoint]) -> set[str]:
    """Settings that have one value in all of these points: they tell no two of them apart."""
    keys = {key for point in points for key in point.settings}
    return {key for key in keys if len({repr(point.settings.get(key)) for point in points}) == 1}


def front_chart(report: SweepReport, language: Language = "en") -> Spec | None:
    """Learning (up) against forgetting (right), a mark for each point with intervals over seeds; better is up right.

    A dashed line joins the points that no other surpasses. None where one of the two was not measured.
    """
    words = load_texts(language)
    learning, forgetting = report.measure(report.learning), report.measure(report.forgetting)
    if learning is None or forgetting is None:
        return None
    rows = [row for point in report.points if (row := _front_row(point, learning, forgetting, words)) is not None]
    if len(rows) < 2:
        return None
    x = alt.X("x:Q", title=_title(forgetting, words), scale=_scale(forgetting), axis=alt.Axis(labelOverlap=True))
    y = alt.Y("y:Q", title=_title(learning, words), scale=_scale(learning))
    base, (colour, shape) = alt.Chart(ROWS), _marks([row["series"] for row in rows], legend=len(rows) > 1)
    layers = [
        base.transform_filter("datum.front")
        .mark_line(strokeWidth=1.5, strokeDash=[4, 3], color=_GREY)
        .encode(x=x, y=y, order=alt.Order("x:Q")),
        base.mark_rule(strokeWidth=2).encode(x=x, y="low:Q", y2="high:Q", color=colour),
        base.mark_rule(strokeWidth=2).encode(y=y, x="x_low:Q", x2="x_high:Q", color=colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=[*_tips(words), _tip("x_shown", "sweep_forgetting", words)]
        ),
        base.mark_text(dy=-12, fontSize=11).encode(x=x, y=y, text="name:N"),
    ]
    chart = alt.layer(*layers).properties(height=340)
    return finished(chart, rows, words("chart.sweep_front"), words("describe.sweep_front"), _seeds_note(report, words))


def _front_row(
    point: SweepPoint, learning: SweepMeasure, forgetting: SweepMeasure, words: Texts
) -> dict[str, Any] | None:
    up, across = point.values.get(learning.id), point.values.get(forgetting.id)
    if up is None or across is None:
        return None
    kept = f"{value_text(forgetting, across)} {interval_text(forgetting, across, words)}".strip()
    return {
        "name": point.name,
        "series": point.method,
        "front": bool(point.front),
        "x": numbers.rounded(across.mean, 6),
        "x_low": numbers.rounded(across.low, 6),
        "x_high": numbers.rounded(across.high, 6),
        "y": numbers.rounded(up.mean, 6),
        "low": numbers.rounded(up.low, 6),
        "high": numbers.rounded(up.high, 6),
        "shown": f"{value_text(learning, up)} {interval_text(learning, up, words)}".strip(),
        "x_shown": kept,
    }


def dots_chart(report: SweepReport, measure: SweepMeasure, language: Language = "en") -> Spec | None:
    """One measure of every point, a row each, in the order of the table; None where no point has it."""
    words = load_texts(language)
    rows = [
        {
            "name": point.name,
            "x": numbers.rounded(value.mean, 6),
            "low": numbers.rounded(value.low, 6),
            "high": numbers.rounded(value.high, 6),
            "shown": f"{value_text(measure, value)} {interval_text(measure, value, words)}".strip(),
        }
        for point in report.points
        if (value := point.values.get(measure.id)) is not None
    ]
    if not rows:
        return None
    values = [row["x"] for row in rows if isinstance(row["x"], float)]
    logarithmic = len(values) == len(rows) and min(values) > 0 and max(values) > 20 * min(values)
    scale = alt.Scale(type="log", padding=10) if logarithmic else alt.Scale(zero=min(values, default=0.0) >= 0)
    x = alt.X("x:Q", title=_title(measure, words), scale=scale, axis=alt.Axis(labelOverlap=True, format="~s"))
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=170, grid=True))
    base = alt.Chart(ROWS)
    layers = [
        base.mark_rule(strokeWidth=2.5, color=SUBJECT_COLOURS[0]).encode(x="low:Q", x2="high:Q", y=y),
        base.mark_point(filled=True, size=70, opacity=1, color=SUBJECT_COLOURS[0]).encode(
            x=x, y=y, tooltip=_tips(words)
        ),
    ]
    chart = alt.layer(*layers).properties(height=24 * len(rows) + 10)
    return finished(chart, rows, words("chart.sweep_dots", metric=measure.metric), words("describe.sweep_dots"))


def runs_chart(comparison: Comparison, language: Language = "en") -> Spec | None:
    """The losses of all runs over each other: training dashed, validation (the first set) solid, a colour a point."""
    report, words = comparison.sweep, load_texts(language)
    if report is None:
        return None
    owners = {run.subject: (point.name, run.seed) for point in report.points for run in point.runs if run.subject}
    rows = [
        _curve_row(x, y, owners[series.subject][0], series.subject, curve)
        for series, curve in _losses(comparison, owners, words)
        for x, y in thinned(
            [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None], _POINTS_PER_CURVE
        )
    ]
    if not rows:
        return None
    values = sorted(row["y"] for row in rows if isinstance(row["y"], float))
    reach = values[-1] - values[0] or 1.0
    low, high = values[0] - 0.03 * reach, values[-1] + 0.03 * reach
    colour, _ = _marks([row["series"] for row in rows])
    dash = alt.StrokeDash(
        "curve:N",
        scale=alt.Scale(domain=[words("curve.train"), words("sweep.validation")], range=[[4, 3], [1, 0]]),
        legend=alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=2),
    )
    chart = (
        alt.Chart(ROWS)
        .mark_line(strokeWidth=1.6, opacity=0.85)
        .encode(
            x=alt.X("x:Q", title=words("axis.step"), axis=alt.Axis(grid=False)),
            y=alt.Y("y:Q", title=words("axis.loss"), scale=alt.Scale(domain=[low, high], clamp=True)),
            color=colour,
            strokeDash=dash,
            detail="run:N",
            tooltip=_tips(words),
        )
    )
    layered = alt.layer(chart).properties(height=320)
    return finished(layered, rows, words("chart.sweep_runs"), words("describe.sweep_runs"))


def _curve_row(x: float, y: float, point: str, run: str, curve: str) -> dict[str, Any]:
    place: dict[str, Any] = {"x": numbers.rounded(x, 7), "y": numbers.rounded(y), "series": point, "curve": curve}
    return place | {"run": run, "name": run, "shown": numbers.plain(y)}


def _losses(comparison: Comparison, owners: dict[str, tuple[str, int]], words: Texts) -> Iterable[tuple[Series, str]]:
    first: dict[str, str] = {}
    for series in comparison.series:
        if series.subject not in owners:
            continue
        if series.name == "train_loss":
            yield series, words("curve.train")
        elif series.name.startswith("eval_loss") and first.setdefault(series.subject, series.name) == series.name:
            yield series, words("sweep.validation")


def _marks(names: Sequence[str], *, legend: bool = True) -> tuple[alt.Color, alt.Shape]:
    domain = list(dict.fromkeys(names))
    colours = (*SUBJECT_COLOURS, *_MORE_COLOURS)
    shown = (
        alt.Legend(title=None, orient="top", columns=2, labelLimit=190, symbolOpacity=1)
        if legend and len(domain) > 1
        else None
    )
    palette = [colours[at % len(colours)] for at in range(len(domain))]
    shapes = [SUBJECT_SHAPES[at % len(SUBJECT_SHAPES)] for at in range(len(domain))]
    return (
        alt.Color("series:N", scale=alt.Scale(domain=domain, range=palette), legend=shown),
        alt.Shape("series:N", scale=alt.Scale(domain=domain, range=shapes), legend=shown),
    )


def _title(measure: SweepMeasure, words: Texts) -> str:
    lower = f" ({words('axis.turned')})" if measure.direction == "lower" and measure.area != "cost" else ""
    unit = words.known(f"unit.{measure.unit}", measure.unit)
    named = f"{measure.metric}, {unit}" if measure.area == "cost" else measure.metric
    return named + (lower if measure.area in ("learning", "forgetting") else "")


def _scale(measure: SweepMeasure) -> alt.Scale:
    return alt.Scale(zero=False, reverse=measure.direction == "lower", padding=18)


def _tips(words: Texts) -> list[alt.Tooltip]:
    return [_tip("name", "sweep_point", words), _tip("shown", "value", words)]


def _tip(field: str, key: str, words: Texts) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:N", title=words(f"tip.{key}"))


def _seeds_note(report: SweepReport, words: Texts) -> str:
    count = len(report.seeds)
    return words("sweep.note_one_seed") if count == 1 else words("sweep.note_seeds", count=count)
