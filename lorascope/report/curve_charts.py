"""Charts of curves over training: losses, with the best and the over-fitting step marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lorascope.report import numbers
from lorascope.report.chart_parts import ROWS, Spec, finished, vertical_mark
from lorascope.report.lookup import measurements
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison, Series

_SET_COLOURS = ("#0072b2", "#c04f00", "#00896b", "#a6449b")
_POINTS_PER_CURVE = 500
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


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
    colour = _curve_colour(list(dict.fromkeys(row["curve"] for row in rows)), words)
    x = alt.X("x:Q", title=words.known(f"axis.{curves[0].x_name}", curves[0].x_name), axis=alt.Axis(grid=False))
    unit = words("axis.loss_per_token" if _speaks(comparison, subject) else "axis.loss")
    y = alt.Y("y:Q", title=unit, scale=alt.Scale(domain=_loss_domain(comparison), nice=True, clamp=True))
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
    earlier = words.joined(_earlier(comparison, subject))
    note = words("chart.curves_part", others=earlier) if earlier else ""
    return finished(chart, rows, words("chart.curves", subject=subject), words("describe.curves"), note)


def _curve_colour(names: list[str], words: Texts) -> alt.Color:
    sets = [name for name in names if name != words("curve.train")]
    palette = {name: _SET_COLOURS[at % len(_SET_COLOURS)] for at, name in enumerate(sets)}
    legend = alt.Legend(
        title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1, labelLimit=240, columns=2
    )
    scale = alt.Scale(domain=names, range=[palette.get(name, "#8a8f98") for name in names])
    return alt.Color("curve:N", scale=scale, legend=legend)


def _speaks(comparison: Comparison, subject: str) -> bool:
    """Whether the subject is known to be a language model, whose loss is in nats per token."""
    own = (each.architecture for each in comparison.subjects if each.name == subject)
    return any(name.endswith(_LANGUAGE_MODELS) for name in own)


def distinct_runs(comparison: Comparison) -> list[str]:
    """Return the subjects whose curves are to be drawn: of one run's checkpoints the one with the longest curves."""
    names = [each.name for each in comparison.subjects]
    continued = {name for kept in names for name in _earlier(comparison, kept)}
    return [name for name in names if name not in continued]


def _earlier(comparison: Comparison, subject: str) -> list[str]:
    """The other subjects whose curves are all beginnings of this subject's; of equal ones the last is the whole."""
    names = [each.name for each in comparison.subjects]
    curves = {name: _loss_points(comparison, name) for name in names}
    whole = curves[subject]
    found = []
    for name in names:
        part = curves[name]
        told = sum(map(len, part.values())) > 1  # a single point says nothing of a curve
        begins = told and all(whole.get(each, [])[: len(points)] == points for each, points in part.items())
        if name != subject and begins and (part != whole or names.index(name) < names.index(subject)):
            found.append(name)
    return found


def _loss_points(comparison: Comparison, subject: str) -> dict[str, list[tuple[float, float | None]]]:
    own = (series for series in comparison.series if series.subject == subject and _is_loss(series))
    return {series.name: list(zip(series.x, series.y, strict=True)) for series in own}


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
            layers += vertical_mark(step, label, dash, colour, late=step >= end / 2, row=len(layers) // 2)
    return layers


_CURVE_TIPS = (("curve", "N"), ("x", "Q"), ("y", "Q"))
_CURVE_MARKS = (("best_step", [4, 3], "#0072b2"), ("overfit_step", [1, 0], "#c04f00"))
