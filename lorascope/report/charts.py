"""Charts of a comparison as Vega-Lite specifications, drawn in the page and, by ``chart_svg``, without a browser.

Every chart has a title, axes in words with units, and a description for readers who cannot see it. Subjects differ
by colour and by shape. Charts are as wide as their place; ``chart_svg`` gives them a width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lorascope.report import numbers
from lorascope.report.chart_parts import ROWS, Spec, finished, subject_encodings, subject_marks
from lorascope.report.curve_charts import curve_chart
from lorascope.report.lookup import improvement, measurements
from lorascope.report.tables import section_of
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.report.verdicts import SYMBOLS
from lorascope.report.weight_charts import spectrum_chart, sweep_charts, weight_charts
from lorascope.schema.comparison import Comparison, Measurement

__all__ = [
    "Spec",
    "category_charts",
    "chart_svg",
    "curve_chart",
    "drift_chart",
    "flips_chart",
    "forest_charts",
    "spectrum_chart",
    "subject_marks",
    "sweep_charts",
    "weight_charts",
]
_LABEL_WIDTH = 170
_SEPARATOR = " · "
_PRINTED_WIDTH = 48


def forest_charts(comparison: Comparison, reference: str | None = None, language: Language = "en") -> dict[str, Spec]:
    """Return one forest plot of paired differences per scale: whole tasks, better to the right.

    Metrics without a verdict (direction ``none``) and those without an interval are left to the table.
    """
    words = load_texts(language)
    name = reference or comparison.base.name
    found = [
        each
        for each in measurements(comparison, reference=name, by=None)
        if section_of(comparison, each) in ("metrics", "forgetting") and each.task is not None
    ]
    charts = {}
    for scale in dict.fromkeys(each.scale for each in found):
        rows = [
            _forest_row(each, f"{each.task}{_SEPARATOR}{each.metric}", words) for each in found if each.scale == scale
        ]
        unit = next(each.unit for each in found if each.scale == scale)
        title = (words("chart.forest", reference=name), _scale_words(scale, unit, words))
        spec = _forest(comparison, [row for row in rows if row], title, words)
        if spec is not None:
            charts[scale] = spec
    return charts


def category_charts(comparison: Comparison, language: Language = "en") -> dict[str, Spec]:
    """Return one forest plot per retention task and metric with its categories; ``gold_margin`` comes first."""
    words = load_texts(language)
    found = [
        each
        for each in measurements(comparison, reference=comparison.base.name, by="category")
        if section_of(comparison, each) == "forgetting"
    ]
    keys = sorted(
        dict.fromkeys((each.task or "", each.metric) for each in found), key=lambda key: key[1] != "gold_margin"
    )
    charts = {}
    for task, metric in keys:
        part = [each for each in found if (each.task or "", each.metric) == (task, metric)]
        rows = [_forest_row(each, each.slice.value, words) for each in part if each.slice]
        title = (words("chart.category", task=task, metric=metric), _scale_words(part[0].scale, part[0].unit, words))
        spec = _forest(comparison, [row for row in rows if row], title, words)
        if spec is not None:
            charts[f"{task}.{metric}"] = spec
    return charts


def _scale_words(scale: str, unit: str, words: Texts) -> str:
    return words.known(f"unit.{scale}", words.known(f"unit.{unit}", unit))


def _forest_row(found: Measurement, label: str, words: Texts) -> dict[str, Any] | None:
    delta = found.delta
    if delta is None or delta.verdict is None:
        return None
    bounds = [improvement(found, delta.low), improvement(found, delta.high)]
    known = sorted(value for value in bounds if value is not None)
    lower = f" ({words('axis.turned')})" if found.direction == "lower" else ""
    return {
        "label": label + lower,
        "subject": found.subject,
        "value": improvement(found, delta.value),
        "low": known[0] if len(known) == 2 else None,
        "high": known[1] if len(known) == 2 else None,
        "margin": delta.margin,
        "minus_margin": None if delta.margin is None else -delta.margin,
        "printed": f"{numbers.signed(improvement(found, delta.value), found.unit, found.scale)} "
        f"{SYMBOLS[delta.verdict]}",
        "verdict": words(f"verdict.{delta.verdict}"),
        "items": delta.n,
    }


def _forest(
    comparison: Comparison, rows: Sequence[dict[str, Any]], title: tuple[str, str], words: Texts
) -> Spec | None:
    if not rows:
        return None
    subjects = [name for name in subject_marks(comparison) if any(row["subject"] == name for row in rows)]
    base = alt.Chart(ROWS)
    y = alt.Y(
        "label:N",
        sort=None,
        title=None,
        axis=_row_axis(rows),
    )
    offset = alt.YOffset("subject:N", sort=subjects, scale=alt.Scale(paddingInner=0.3, paddingOuter=0.4))
    colour, shape = subject_encodings(comparison, subjects)
    tooltip = [alt.Tooltip(f"{name}:{kind}", title=words(f"tip.{name}")) for name, kind in _FOREST_TIPS]
    layers = [
        base.mark_rect(opacity=0.16, color="#8a8f98").encode(x="minus_margin:Q", x2="margin:Q", y=y),
        base.mark_rule(strokeDash=[2, 3], color="#8a8f98").encode(x=alt.datum(0)),
        base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
            x=alt.X("low:Q", title=words("axis.improvement")), x2="high:Q", y=y, yOffset=offset, color=colour
        ),
        base.mark_point(filled=True, size=75, opacity=1).encode(
            x="value:Q", y=y, yOffset=offset, color=colour, shape=shape, tooltip=tooltip
        ),
        base.mark_text(align="left", dx=8, fontSize=11).encode(
            x=alt.value("width"), y=y, yOffset=offset, text="printed:N"
        ),
    ]
    labels = len({row["label"] for row in rows})
    chart = alt.layer(*layers).properties(height=labels * max(34, 18 * len(subjects) + 8))
    return finished(chart, rows, title[0], words("describe.forest"), title[1])


_FOREST_TIPS = (
    ("label", "N"),
    ("subject", "N"),
    ("value", "Q"),
    ("low", "Q"),
    ("high", "Q"),
    ("verdict", "N"),
    ("items", "Q"),
)


def _row_axis(rows: Sequence[dict[str, Any]]) -> alt.Axis:
    """Row labels without lines; a label with a separator stands on two lines, centred on its row."""
    return alt.Axis(
        labelExpr=f"split(datum.label, '{_SEPARATOR}')",
        labelOffset=-7 if any(_SEPARATOR in row["label"] for row in rows) else 0,
        labelLimit=_LABEL_WIDTH,
        labelPadding=8,
        domain=False,
        ticks=False,
    )


def flips_chart(comparison: Comparison, language: Language = "en") -> Spec | None:
    """Return the shares of answers that turned: right to wrong to the left, wrong to right to the right."""
    words = load_texts(language)
    rows = _flip_rows(comparison, words)
    if not rows:
        return None
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for row in rows:
        row["label"] = row["subject"] + (f"{_SEPARATOR}{row['task']}" if len(tasks) > 1 else "")
    sides = [words("flips.lost"), words("flips.gained")]
    colour = alt.Color("side:N", scale=alt.Scale(domain=sides, range=["#c04f00", "#0072b2"]), legend=None)
    base = alt.Chart(ROWS)
    y = alt.Y("label:N", sort=None, title=None, axis=_row_axis(rows))
    scale = alt.Scale(padding=_PRINTED_WIDTH, nice=False)
    axis = alt.Axis(labelExpr="format(abs(datum.value), '.0%')")
    x = alt.X("signed:Q", title=words("axis.flips"), scale=scale, axis=axis)
    tips = [alt.Tooltip(f"{name}:{kind}", title=words(f"tip.{key}")) for name, kind, key in _FLIP_TIPS]
    texts = [
        base.transform_filter(f"datum.signed {test} 0")
        .mark_text(align=align, dx=dx, fontSize=11)
        .encode(x=x, y=y, text="printed:N")
        for test, align, dx in (("<", "right", -5), (">=", "left", 5))
    ]
    bars = base.mark_bar(height=13).encode(x=x, y=y, color=colour, tooltip=tips)
    chart = alt.layer(bars, *texts).properties(height=34 * len({row["label"] for row in rows}))
    return finished(chart, rows, words("chart.flips", tasks=words.joined(tasks)), words("describe.flips"))


def _flip_rows(comparison: Comparison, words: Texts) -> list[dict[str, Any]]:
    base = comparison.base.name
    return [
        {
            "subject": found.subject,
            "task": found.task or words(f"area.{found.area}"),
            "signed": sign * found.adapted.value,
            "side": words(f"flips.{side}"),
            "printed": f"{SYMBOLS[verdict]} {numbers.percent(found.adapted.value)}",
        }
        for metric, side, sign, verdict in _FLIP_SIDES
        for found in measurements(comparison, reference=base, metric=metric, by=None)
        if found.adapted is not None
    ]


_FLIP_SIDES = (("forgotten_rate", "lost", -1, "regressed"), ("gained_rate", "gained", 1, "improved"))
_FLIP_TIPS = (("label", "N", "label"), ("side", "N", "verdict"), ("printed", "N", "share"))


def drift_chart(comparison: Comparison, language: Language = "en") -> Spec | None:
    """Return similarity of representations to the base by layer (1 = unchanged), one line per subject and metric."""
    words = load_texts(language)
    found = measurements(comparison, reference=comparison.base.name, area="drift", by="layer")
    rows = [
        {"layer": each.slice.value, "value": each.adapted.value, "subject": each.subject, "metric": each.metric}
        for each in found
        if each.slice and each.adapted
    ]
    if not rows:
        return None
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    subjects = [name for name in subject_marks(comparison) if any(row["subject"] == name for row in rows)]
    colour, shape = subject_encodings(comparison, subjects)
    dash = alt.StrokeDash("metric:N", legend=alt.Legend(title=None, orient="top"))
    x = alt.X("layer:N", sort=layers, title=words("axis.layer"), axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("value:Q", title=words("axis.similarity"), scale=alt.Scale(zero=False))
    base = alt.Chart(ROWS)
    tips = [alt.Tooltip(name, title=words(f"tip.{key}")) for name, key in _DRIFT_TIPS]
    chart = alt.layer(
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
    ).properties(height=220)
    return finished(chart, rows, words("chart.drift"), words("describe.drift"))


_DRIFT_TIPS = (("layer:N", "layer"), ("value:Q", "value"), ("subject:N", "subject"), ("metric:N", "metric"))


def chart_svg(spec: Spec, width: int = 640) -> str:
    """Draw a chart as SVG, ``width`` pixels wide, without a browser."""
    import vl_convert

    fixed = {**spec, "width": width, "autosize": {"type": "pad"}, "background": "#ffffff"}
    drawn: str = vl_convert.vegalite_to_svg(fixed)
    return drawn
