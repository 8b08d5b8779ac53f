"""Charts of weights: one module's vectors, intruders against their settings, growth, directions that subjects share.

Settings and growth stand in small multiples that share their colours; a band is what is certain up to what is possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lorascope.report.chart_parts import ROWS, Spec, finished, subject_encodings, subject_marks, vertical_mark
from lorascope.report.modules import interval_rows, spectrum_rows
from lorascope.report.numbers import SPACE
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison, ModuleWeights, Series

PAIR_LIMIT = 3
_GREY = "#8a8f98"
_PAIR_COLOUR = "#0072b2"
_DASHES = [[1, 0], [5, 4]]
_SWEEPS = ("epsilon_curve", "epsilon_curve:right", "k_curve")
_PERCENT_LABEL = f"format(100 * datum.value, '.3~g') + '{SPACE}%'"
_FRACTIONS = ("energy", "relative_change")


def weight_charts(comparison: Comparison, language: Language = "en") -> dict[str, dict[str, Spec]]:
    """Return all charts of the section by group: ``sweep``, ``growth``, ``sequence``, ``similarity``."""
    return {
        "sweep": sweep_charts(comparison, language),
        "growth": growth_charts(comparison, "growth", language),
        "sequence": growth_charts(comparison, "sequence", language),
        "similarity": similarity_charts(comparison, language),
    }


# One module


def spectrum_chart(
    comparison: Comparison, subject: str, module: ModuleWeights, language: Language = "en"
) -> Spec | None:
    """Return one module's singular values on a log scale: of ΔW, and the leading ones of base and adapted matrix."""
    words = load_texts(language)
    rows = [{**row, "mark": words(f"spectrum.{row['mark']}")} for row in spectrum_rows(comparison, module)]
    return spectrum_spec(rows, module.name, words, title=f"{subject} · {module.name}") if rows else None


def spectrum_spec(rows: Sequence[dict[str, Any]], module: str, words: Texts, title: str = "") -> Spec:
    """Return the spectrum chart over given rows; the page fills an empty one when a cell is chosen."""
    colour, shape = _mark_encodings(SPECTRUM_MARKS, rows, words)
    x = _rank_axis(words)
    y = alt.Y("value:Q", title=words("axis.singular_value"), scale=alt.Scale(type="log"), axis=alt.Axis(grid=False))
    tips = [alt.Tooltip(name, title=words(f"tip.{key}")) for name, key in _SPECTRUM_TIPS]
    base = alt.Chart(ROWS)
    chart = alt.layer(
        base.mark_line(strokeWidth=1, opacity=0.5, color=_GREY).encode(x=x, y=y, detail="line:N"),
        base.mark_point(filled=True, size=64, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
    ).properties(height=230)
    return finished(chart, rows, title or module, words("describe.spectrum"))


def interval_chart(
    comparison: Comparison, subject: str, module: ModuleWeights, language: Language = "en"
) -> Spec | None:
    """Return the judged left vectors of one module: bounds of max |cos| against ε; None where nothing was judged."""
    words = load_texts(language)
    rows = [{**row, "mark": words(f"spectrum.{row['mark']}")} for row in interval_rows(module)]
    return interval_spec(rows, words, title=f"{subject} · {module.name}") if rows else None


def interval_spec(rows: Sequence[dict[str, Any]], words: Texts, title: str = "") -> Spec:
    """Return the chart of bounds over given rows; the point stands at the bound that decides, the rule at ε."""
    colour, shape = _mark_encodings({mark: SPECTRUM_MARKS[mark] for mark in _JUDGED_MARKS}, rows, words)
    x = _rank_axis(words)
    scale = alt.Scale(domain=[0, 1])
    y = alt.Y("low:Q", title=words("axis.cosine"), scale=scale, axis=alt.Axis(grid=False))
    tips = [alt.Tooltip(name, title=words(f"tip.{key}")) for name, key in _INTERVAL_TIPS]
    base = alt.Chart(ROWS)
    bounds = base.mark_rule(strokeWidth=3, strokeCap="round", opacity=0.55)
    point = base.mark_point(filled=True, size=64, opacity=1)
    chart = alt.layer(
        base.mark_rule(strokeDash=[4, 3], color=_GREY, strokeWidth=1.5).encode(y=alt.Y("min(epsilon):Q", scale=scale)),
        bounds.encode(x=x, y=y, y2="high:Q", color=colour),
        point.encode(x=x, y=alt.Y("decides:Q", scale=scale), color=colour, shape=shape, tooltip=tips),
    ).properties(height=190)
    return finished(chart, rows, title or words("chart.intervals"), words("describe.intervals"))


def _mark_encodings(
    marks: dict[str, tuple[str, str]], rows: Sequence[dict[str, Any]], words: Texts
) -> tuple[alt.Color, alt.Shape]:
    """Colours and shapes stand for all marks; the legend names those that occur (the page's script sets its own)."""
    names = [words(f"spectrum.{mark}") for mark in marks]
    colours, shapes = ([pair[at] for pair in marks.values()] for at in (0, 1))
    occur = {row["mark"] for row in rows}
    legend = alt.Legend(
        title=None,
        orient="top",
        columns=2,
        labelLimit=150,
        symbolOpacity=1,
        values=[name for name in names if name in occur],
    )
    return (
        alt.Color("mark:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
        alt.Shape("mark:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
    )


def _rank_axis(words: Texts) -> alt.X:
    axis = alt.Axis(grid=False, tickMinStep=1, format="d")
    return alt.X("index:Q", title=words("axis.index"), scale=alt.Scale(zero=False, padding=10), axis=axis)


SPECTRUM_MARKS = {
    "base": (_GREY, "cross"),
    "kept": ("#0072b2", "circle"),
    "undecided": ("#b97a00", "diamond"),
    "delta": ("#00896b", "square"),
    "intruder": ("#c04f00", "triangle-up"),
    "rotation": ("#a6449b", "triangle-down"),
}
_JUDGED_MARKS = ("kept", "undecided", "intruder", "rotation")
_SPECTRUM_TIPS = (("mark:N", "mark"), ("index:Q", "index"), ("value:Q", "singular_value"))
_INTERVAL_TIPS = (
    ("mark:N", "mark"), ("index:Q", "index"), ("low:Q", "low"), ("high:Q", "high"), ("share:Q", "leading_share")
)  # fmt: skip


# All modules together


def sweep_charts(comparison: Comparison, language: Language = "en") -> dict[str, Spec]:
    """Return intruder counts against the threshold ε (left, right) and the number k of judged vectors, where swept.

    All subjects stand in each chart. The line is what is certain, the band reaches to what is possible, dashed is a
    random update of the same norm and rank. The rule marks the report's own ε.
    """
    words = load_texts(language)
    charts = {}
    for name in _SWEEPS:
        rows = _rows(comparison, name, {"update": words("update.own")})
        random_rows = _rows(comparison, f"null_{name}", {"update": words("update.random"), "random": True})
        if rows:
            marks = _epsilon_marks(comparison) if name.startswith("epsilon") else []
            kind, _, side = name.partition(":")
            titles = (f"axis.{kind}", "axis.intruders_right" if side else "axis.intruders")
            lines = _lines(comparison, rows + random_rows, (words(titles[0]), words(titles[1])), words, marks=marks)
            title, note = words(f"chart.{name}"), _why_no_random(comparison, name, bool(random_rows), words)
            drawn = lines.properties(height=200)
            charts[name] = finished(drawn, rows + random_rows, title, words("describe.sweep"), note)
    return charts


def _why_no_random(comparison: Comparison, name: str, drawn: bool, words: Texts) -> str:
    """Why a curve has no random line beside it, where another chart of the group has one."""
    if drawn or not any(series.name == "null_epsilon_curve" for series in comparison.series):
        return ""
    return words("chart.left_only" if name.endswith(":right") else "chart.own_k_only")


def _epsilon_marks(comparison: Comparison) -> list[alt.Chart]:
    judged = (module.intruders for report in comparison.weights.values() for module in report.modules)
    thresholds = sorted({report.epsilon for report in judged if report is not None})
    return [
        layer
        for row, epsilon in enumerate(thresholds)
        for layer in vertical_mark(epsilon, f"ε = {epsilon:g}", [4, 3], _GREY, late=epsilon > 0.8, row=row)
    ]


def growth_charts(comparison: Comparison, kind: str, language: Language = "en") -> dict[str, Spec]:
    """Return small multiples over a run's checkpoints (``growth``) or over successive tasks (``sequence``).

    One chart per quantity: intruders, births (vectors that intrude here and did not before), energy, relative change.
    """
    words = load_texts(language)
    charts = {}
    for name, quantity in ((f"{kind}{suffix}", suffix.strip(":") or "count") for suffix in _GROWTH):
        found = [series for series in comparison.series if series.name == name]
        rows = _rows(comparison, name, {})
        if not rows:
            continue
        x_name = found[0].x_name
        titles = words.known(f"axis.{x_name}", x_name), words(f"axis.growth.{quantity}")
        lines = _lines(comparison, rows, titles, words, fraction=quantity in _FRACTIONS).properties(height=170)
        charts[name] = finished(lines, rows, words(f"chart.growth.{quantity}"), words("describe.growth"))
    return charts


_GROWTH = ("", ":births", ":energy", ":relative_change")


def _rows(comparison: Comparison, name: str, added: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"subject": series.subject, **added, **point}
        for series in comparison.series
        if series.name == name
        for point in _points(series)
    ]


def _points(series: Series) -> list[dict[str, Any]]:
    nothing = [None] * len(series.x)
    bounds = zip(series.low or nothing, series.high or nothing, strict=True)
    points = []
    for x, y, (low, high) in zip(series.x, series.y, bounds, strict=True):
        if y is not None:
            band = {"low": low, "high": high} if low is not None and high is not None and high > low else {}
            points.append({"x": x, "y": y, **band})
    return points


def _lines(
    comparison: Comparison,
    rows: Sequence[dict[str, Any]],
    titles: tuple[str, str],
    words: Texts,
    *,
    fraction: bool = False,
    marks: Sequence[alt.Chart] = (),
) -> alt.LayerChart:
    """One line per subject with its points and, where bounds are known, its band."""
    shown = {row["subject"] for row in rows}
    subjects = [name for name in subject_marks(comparison) if name in shown]
    colour, shape = subject_encodings(comparison, subjects)
    x = alt.X("x:Q", title=titles[0], axis=alt.Axis(grid=False))
    ticks = alt.Axis(labelExpr=_PERCENT_LABEL) if fraction else alt.Axis(tickMinStep=1)
    y = alt.Y("y:Q", title=titles[1], axis=ticks)
    several = len({row.get("update") for row in rows}) > 1
    dash = {"strokeDash": _dash("update:N", [words("update.own"), words("update.random")])} if several else {}
    tips = [alt.Tooltip("subject:N", title=words("tip.subject"))]
    tips += [alt.Tooltip(f"{name}:Q", title=title) for name, title in zip("xy", titles, strict=True)]
    base = alt.Chart(ROWS)
    area = _band(base, words("band.possible"))
    point = base.transform_filter("!datum.random").mark_point(filled=True, size=52, opacity=1)
    return alt.layer(
        *([area.encode(x=x, y="low:Q", y2="high:Q", color=colour)] if any("low" in row for row in rows) else []),
        *marks,
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, **dash),
        point.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
    )


def _dash(field: str, names: list[str]) -> alt.StrokeDash:
    return alt.StrokeDash(field, scale=alt.Scale(domain=names, range=_DASHES), legend=_stroke_legend())


def _band(base: alt.Chart, name: str, **mark: str) -> alt.Chart:
    """The rows with bounds as a pale area, with an entry of its own in the legend."""
    legend = alt.Legend(title=None, orient="bottom", symbolType="square", symbolFillColor=_GREY, symbolStrokeWidth=0,
                        symbolOpacity=0.35, symbolSize=160, labelLimit=300)  # fmt: skip
    opacity = alt.Opacity("band:O", scale=alt.Scale(domain=[name], range=[0.25, 0.25]), legend=legend)
    rows = base.transform_filter("isValid(datum.low)").transform_calculate(band=alt.expr.toString(name))
    return rows.mark_area(**mark).encode(opacity=opacity)


def _stroke_legend() -> alt.Legend:
    """Below the chart: beside the subjects' legend it would be cut."""
    return alt.Legend(
        title=None, orient="bottom", columns=1, symbolType="stroke", symbolSize=300, symbolOpacity=1, labelLimit=300
    )


# Two subjects


def similarity_pairs(comparison: Comparison) -> list[Series]:
    """Return one series of shared directions per pair of subjects, in order of appearance.

    The measure has no direction, so a pair that was recorded both ways counts once.
    """
    kept: dict[frozenset[str], Series] = {}
    for series in comparison.series:
        if series.name.startswith("subspace_similarity:"):
            kept.setdefault(frozenset((series.subject, other_of(series))), series)
    return list(kept.values())


def other_of(series: Series) -> str:
    """Return the second subject of a pair's series."""
    return series.name.partition(":")[2]


def random_level(comparison: Comparison, series: Series) -> Series | None:
    """Return the level of random subspaces that belongs to a pair's series."""
    name = f"subspace_random:{other_of(series)}"
    return next((each for each in comparison.series if (each.subject, each.name) == (series.subject, name)), None)


def similarity_charts(comparison: Comparison, language: Language = "en") -> dict[str, Spec]:
    """Return φ(i, i) over the number of leading directions, one chart per pair; none beyond three pairs (a table)."""
    words = load_texts(language)
    pairs = similarity_pairs(comparison)
    if len(pairs) > PAIR_LIMIT:
        return {}
    charts = {}
    for series in pairs:
        level = random_level(comparison, series)
        rows = [{**point, "level": words("similarity.pair")} for point in _points(series)]
        rows += [{**point, "level": words("similarity.random")} for point in (_points(level) if level else [])]
        if rows:
            charts[f"{series.subject} {other_of(series)}"] = _similarity(series, rows, words)
    return charts


def _similarity(series: Series, rows: Sequence[dict[str, Any]], words: Texts) -> Spec:
    names = [words("similarity.pair"), words("similarity.random")]
    dash = _dash("level:N", names)
    scale = alt.Scale(domain=names, range=[_PAIR_COLOUR, _GREY])
    colour = alt.Color("level:N", scale=scale, legend=_stroke_legend())
    x = alt.X("x:Q", title=words("axis.dimensions"), axis=alt.Axis(grid=False, tickMinStep=1))
    share = alt.Scale(domain=[0, 1])
    y, low = alt.Y("y:Q", title=words("axis.phi"), scale=share), alt.Y("low:Q", scale=share)
    banded = any("low" in row for row in rows)
    tips = [alt.Tooltip(name, title=words(f"tip.{key}")) for name, key in _SIMILARITY_TIPS]
    base = alt.Chart(ROWS)
    chart = alt.layer(
        *([_band(base, words("band.modules"), color=_PAIR_COLOUR).encode(x=x, y=low, y2="high:Q")] if banded else []),
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=tips),
    ).properties(height=180)
    title = words("chart.similarity", first=series.subject, second=other_of(series))
    return finished(chart, rows, title, words("describe.similarity"))


_SIMILARITY_TIPS = (("level:N", "label"), ("x:Q", "dimensions"), ("y:Q", "phi"), ("low:Q", "low"), ("high:Q", "high"))
