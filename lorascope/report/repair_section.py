"""The section on a repair scan: its verdict in words, target against retention as a chart, all variants as tables."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from lorascope.report import numbers
from lorascope.report.chart_parts import ROWS, Spec, finished
from lorascope.report.repair_words import (
    change_text,
    interval_text,
    label_of,
    value_text,
    verdict_text,
    verdict_title,
)
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.repair import (
    RepairAxis,
    RepairContrast,
    RepairMetric,
    RepairPoint,
    RepairReport,
    RepairRow,
    strength_text,
)

_FAMILIES = {"strength": ("#0072b2", "circle"), "top": ("#c04f00", "triangle-up"), "all": ("#00896b", "diamond")}
_ENDS = ("#8a8f98", "cross")
_FRONT = ("#8a8f98", "stroke")
_HOLLOW = "transparent"
# Signs that terminals without UTF-8 lack; the rest becomes a question mark.
_PLAIN_SIGNS = str.maketrans({"−": "-", "\u00a0": " ", "×": "x", "Δ": "d", "ε": "eps", "‖": "|", "★": "*", "–": "-"})


@dataclass(frozen=True, slots=True)
class PrintedCell:
    """A value, and its change against the adapted checkpoint with the change's interval."""

    value: str
    change: str = ""
    interval: str = ""


@dataclass(frozen=True, slots=True)
class PrintedVariant:
    """One row of the table. ``cells`` are those of target, retention and everything else, in the columns' order."""

    label: str
    norm: str
    cells: tuple[PrintedCell, ...]
    front: bool
    chosen: bool
    note: str


@dataclass(frozen=True, slots=True)
class PrintedContrast:
    """One repair against one control."""

    repair: str
    control: str
    retention: str
    target: str
    p_adjusted: str


@dataclass(frozen=True, slots=True)
class RepairView:
    """What the template shows."""

    title: str
    text: str
    facts: tuple[str, ...]
    chart: str | None
    columns: tuple[tuple[str, str], ...]
    cells_read: str
    repairs: tuple[tuple[str, tuple[PrintedVariant, ...]], ...]
    controls: tuple[tuple[str, tuple[PrintedVariant, ...]], ...]
    contrasts: tuple[PrintedContrast, ...]
    advice: str | None
    no_advice: bool
    notes: tuple[str, ...]


def repair_context(comparison: Comparison, specs: dict[str, Spec], language: Language) -> dict[str, Any]:
    """Return what the page's section needs; the chart is added to ``specs``."""
    report = comparison.repair
    if report is None:
        return {"repair": None}
    words = load_texts(language)
    chart = pareto_chart(comparison, language)
    if chart is not None:
        specs["pareto"] = chart
    view = RepairView(
        title=verdict_title(report, words),
        text=verdict_text(report, words),
        facts=_facts(report, words),
        chart=None if chart is None else "pareto",
        columns=tuple(_column(report, axis, words) for axis in _axes(report)),
        cells_read=words("repair.cells", subject=report.subject),
        repairs=_by_family(report, [row for row in report.rows if row.control is None], words),
        controls=_by_family(report, [row for row in report.rows if row.control is not None], words),
        contrasts=tuple(_contrast(report, each, words) for each in report.contrasts),
        advice=None if report.advice is None else shlex.join(report.advice.command),
        no_advice=_has_no_advice(report),
        notes=tuple(report.notes),
    )
    return {"repair": view}


def pareto_chart(comparison: Comparison, language: Language = "en") -> Spec | None:
    """Return target against retention, one point a variant: repairs filled, controls hollow, the front joined.

    Better is up and to the right. None where one of the two was not measured.
    """
    report = comparison.repair
    if report is None or report.target is None or report.retention is None:
        return None
    words = load_texts(language)
    rows = [row for row in _points(report, comparison.base.name, words) if row is not None]
    if not rows:
        return None
    marks = _mark_encodings(report, words)
    x, y = _scale("x", report.retention, words), _scale("y", report.target, words)
    base = alt.Chart(ROWS)
    tips = [alt.Tooltip(f"{name}:N", title=words(f"tip.{key}")) for name, key in _TIPS]
    layers = [
        base.transform_filter("datum.front")
        .mark_line(strokeWidth=1.5, strokeDash=[4, 3], color=_FRONT[0])
        .encode(x=x, y=y, order=alt.Order("x:Q")),
        *(
            base.transform_filter(which)
            .mark_point(size=size, strokeWidth=1.3, opacity=1)
            .encode(x=x, y=y, tooltip=tips, **marks)
            for which, size in (("datum.control", 46), ("!datum.control && !datum.end", 90), ("datum.end", 110))
        ),
        base.transform_filter("datum.end").mark_text(dy=-12, fontSize=12).encode(x=x, y=y, text="name:N"),
    ]
    chart = alt.layer(*layers).properties(height=360)
    tasks = words.joined([*report.target.tasks, *report.retention.tasks])
    return finished(chart, rows, words("chart.pareto"), words("describe.pareto"), tasks)


_TIPS = (("name", "variant"), ("x_shown", "retention"), ("y_shown", "target"), ("norm", "norm"))


def print_repair(report: RepairReport, console: Console) -> None:
    """Print the verdict, the variants that could be written, and the command that writes the best of them.

    Controls are left to the report: the verdict's sentences name what they come to.
    """
    words = load_texts("en")

    def shown(text: str, style: str = "") -> Text:
        encoding = console.encoding
        if not encoding.lower().startswith("utf"):
            text = text.translate(_PLAIN_SIGNS).encode(encoding, "replace").decode(encoding)
        return Text(text, style)

    console.print()
    console.print(shown(words("section.repair"), "bold underline"))
    console.print(shown(verdict_title(report, words), "bold"))
    console.print(Padding(shown(verdict_text(report, words)), (0, 0, 1, 2)))
    console.print(_terminal_grid(report, words, shown))
    if any(row.front and row.control is None for row in report.rows):
        console.print(Padding(shown(words("repair.star"), "dim"), (0, 0, 0, 2)))
    for note in report.notes:
        console.print(Padding(shown(note, "dim"), (0, 0, 0, 2)))
    if _has_no_advice(report):
        console.print(shown(words("repair.no_advice")))
    if report.advice is not None:
        console.print(shown(words("repair.write", name=report.advice.name), "bold"))
        console.print(Padding(shown(shlex.join(report.advice.command)), (0, 0, 0, 2)), soft_wrap=True)


def _terminal_grid(report: RepairReport, words: Texts, shown: Callable[[str, str], Text]) -> Grid:
    """The adapted checkpoint's own values in the first row, every other row's changes against them."""
    grid = Grid.grid(padding=(0, 2, 0, 0), pad_edge=False)
    axes = {"target": report.target, "retention": report.retention}
    known = {role: axis for role, axis in axes.items() if axis is not None}
    grid.add_column(overflow="fold")
    grid.add_column(justify="right")
    for _ in known:
        grid.add_column(overflow="fold")

    def add(style: str, *cells: str) -> None:
        grid.add_row(*(shown(text, style) for text in cells))

    headings = [f"{words(f'repair.axis.{role}')}, {axis.metric}" for role, axis in known.items()]
    add("dim", words("repair.variant"), words("repair.size"), *headings)
    values = [_terminal_value(getattr(report.adapted, role)) for role in known]
    add("bold", report.subject, numbers.percent(1.0), *values)
    add("dim", words("repair.change_from"), "", *(words("repair.change_of_value") for _ in known))
    for row in report.rows:
        if row.control is not None or (row.family == "strength" and row.strength == 1.0):
            continue
        cells = [_terminal_change(getattr(row, role)) for role in known]
        if not any(cells):
            cells[:1] = [_why_empty(row, words)]
        add("", label_of(row, words) + (" ★" if row.front else ""), numbers.percent(row.relative_norm), *cells)
    return grid


def _terminal_value(metric: RepairMetric | None) -> str:
    if metric is None or metric.value is None:
        return numbers.ABSENT
    return f"{value_text(metric.axis, metric.value.value)} {interval_text(metric.axis, metric.value)}".strip()


def _terminal_change(metric: RepairMetric | None) -> str:
    return "" if metric is None or metric.change is None else change_text(metric.axis, metric.change)


def _has_no_advice(report: RepairReport) -> bool:
    """Whether both axes were measured and yet nothing can be recommended."""
    return report.advice is None and report.target is not None and report.retention is not None


def _facts(report: RepairReport, words: Texts) -> tuple[str, ...]:
    facts = [
        words("repair.modules", modules=f"{report.modules:,}"),
        words("repair.intruders", top=report.intruders["top"], all=report.intruders["all"]),
    ]
    if report.flipped_items is not None:
        dropped = sum(row.screened_out for row in report.rows)
        facts.append(words("repair.first_pass", items=f"{report.flipped_items:,}", dropped=dropped))
    roles = {"target": report.target, "retention": report.retention}
    for role, axis in roles.items():
        if axis is not None:
            tasks = words.joined(axis.tasks)
            facts.append(words("repair.axis_is", role=words(f"repair.axis.{role}"), metric=axis.metric, tasks=tasks))
    return tuple(facts)


def _families(report: RepairReport) -> list[str]:
    return list(dict.fromkeys(row.family for row in report.rows))


def _axes(report: RepairReport) -> list[RepairAxis]:
    """Target and retention, then everything else that was measured of any variant."""
    shown = [axis for axis in (report.target, report.retention) if axis is not None]
    for row in report.rows:
        shown += [metric.axis for metric in row.others if metric.axis not in shown]
    return shown


def _column(report: RepairReport, axis: RepairAxis, words: Texts) -> tuple[str, str]:
    """The metric, and the axis's role or, of other measures, the tasks (those of the two axes stand above)."""
    for role, known in (("target", report.target), ("retention", report.retention)):
        if axis == known:
            return axis.metric, words(f"repair.axis.{role}")
    if report.retention is not None and axis.tasks == report.retention.tasks:
        return axis.metric, words("repair.axis.retention")
    several = len(axis.tasks) > 2
    return axis.metric, words("repair.tasks", count=len(axis.tasks)) if several else words.joined(axis.tasks)


def _by_family(
    report: RepairReport, rows: Sequence[RepairRow], words: Texts
) -> tuple[tuple[str, tuple[PrintedVariant, ...]], ...]:
    axes = _axes(report)
    return tuple(
        (
            words(f"repair.family.{family}"),
            tuple(_variant(report, row, axes, words) for row in rows if row.family == family),
        )
        for family in dict.fromkeys(row.family for row in rows)
    )


def _variant(report: RepairReport, row: RepairRow, axes: Sequence[RepairAxis], words: Texts) -> PrintedVariant:
    measured = [metric for metric in (row.target, row.retention, *row.others) if metric is not None]
    cells = tuple(_cell(next((metric for metric in measured if metric.axis == axis), None)) for axis in axes)
    return PrintedVariant(
        label=label_of(row, words),
        norm=numbers.percent(row.relative_norm),
        cells=cells,
        front=row.front,
        chosen=report.advice is not None and report.advice.name == row.name,
        note=row.note or ("" if measured else _why_empty(row, words)),
    )


def _why_empty(row: RepairRow, words: Texts) -> str:
    return words("repair.screened_out") if row.screened_out else row.note or ""


def _cell(metric: RepairMetric | None) -> PrintedCell:
    if metric is None or metric.value is None:
        return PrintedCell(numbers.ABSENT)
    axis, change = metric.axis, metric.change
    value = value_text(axis, metric.value.value)
    if change is None:
        return PrintedCell(value)
    return PrintedCell(
        value, value_text(axis, change.value, with_sign=True), interval_text(axis, change, with_sign=True)
    )


def _contrast(report: RepairReport, found: RepairContrast, words: Texts) -> PrintedContrast:
    assert report.retention is not None
    lost = ""
    if report.target is not None and found.target is not None:
        lost = change_text(report.target, found.target)
    return PrintedContrast(
        repair=f"{words(f'repair.short.{found.family}')} × {strength_text(found.strength)}",
        control=words(f"repair.control.{found.control}") + ("" if found.counts else words("repair.does_not_count")),
        retention=change_text(report.retention, found.retention),
        target=lost,
        p_adjusted=numbers.p_value(found.p_adjusted),
    )


def _points(report: RepairReport, base: str, words: Texts) -> Iterable[dict[str, Any] | None]:
    for row in report.rows:
        place = _place(row.target, row.retention)
        if place is not None:
            yield place | {
                "name": label_of(row, words),
                "mark": _mark(row.family, row.control is not None, words),
                "control": row.control is not None,
                "front": row.front,
                "norm": numbers.percent(row.relative_norm),
                "end": False,
            }
    ends: tuple[tuple[str, RepairPoint], ...] = ((base, report.base), (report.subject, report.adapted))
    for name, point in ends:
        place = _place(point.target, point.retention)
        norm = numbers.percent(0 if point is report.base else 1)
        fixed = {"name": name, "norm": norm, "mark": words("repair.ends"), "end": True, "front": False}
        yield None if place is None else place | fixed


def _place(target: RepairMetric | None, retention: RepairMetric | None) -> dict[str, Any] | None:
    if target is None or retention is None or target.value is None or retention.value is None:
        return None
    place = {"x": numbers.rounded(retention.value.value, 5), "y": numbers.rounded(target.value.value, 5)}
    return place | {"x_shown": _terminal_value(retention), "y_shown": _terminal_value(target)}


def _mark_encodings(report: RepairReport, words: Texts) -> dict[str, Any]:
    """Stroke, fill and shape by what a point is, in one legend: repairs filled, controls hollow, ends, front line."""
    names = _families(report)
    looks = {_mark(name, False, words): (_FAMILIES[name][0], _FAMILIES[name][0], _FAMILIES[name][1]) for name in names}
    hollow = list(dict.fromkeys(row.family for row in report.rows if row.control is not None))
    looks |= {_mark(name, True, words): (_FAMILIES[name][0], _HOLLOW, _FAMILIES[name][1]) for name in hollow}
    looks[words("repair.ends")] = (_ENDS[0], _ENDS[0], _ENDS[1])
    looks[words("repair.front")] = (_FRONT[0], _HOLLOW, _FRONT[1])
    legend = alt.Legend(title=None, orient="top", symbolSize=90, columns=2, labelLimit=190)
    strokes, fills, shapes = zip(*looks.values(), strict=True)
    made = (alt.Stroke, strokes), (alt.Fill, fills), (alt.Shape, shapes)
    return {
        channel.__name__.lower(): channel(
            "mark:N", scale=alt.Scale(domain=list(looks), range=list(values)), legend=legend
        )
        for channel, values in made
    }


def _mark(family: str, control: bool, words: Texts) -> str:
    return words(f"repair.{'controls_of' if control else 'short'}.{family}")


def _scale(channel: str, axis: RepairAxis, words: Texts) -> Any:
    lower = axis.direction == "lower"
    role = words("repair.axis.retention" if channel == "x" else "repair.axis.target")
    title = f"{role}: {axis.metric}" + (f" ({words('axis.turned')})" if lower else "")
    scale = alt.Scale(zero=False, reverse=lower, padding=14)
    return (alt.X if channel == "x" else alt.Y)(f"{channel}:Q", title=title, scale=scale)
