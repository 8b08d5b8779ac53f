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
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.repair import (
    RepairAxis,
    RepairChange,
    RepairContrast,
    RepairMetric,
    RepairPoint,
    RepairReport,
    RepairRow,
)

_FAMILIES = {"strength": ("#0072b2", "circle"), "top": ("#c04f00", "triangle-up"), "all": ("#00896b", "diamond")}
_ENDS = ("#8a8f98", "cross")
# Signs that terminals without UTF-8 lack; the rest becomes a question mark.
_PLAIN_SIGNS = str.maketrans({"−": "-", "\u00a0": " ", "×": "x", "Δ": "d", "ε": "eps", "‖": "|", "★": "*", "–": "-"})


@dataclass(frozen=True, slots=True)
class PrintedCell:
    """A value and its change against the adapted checkpoint, each with its interval."""

    value: str
    interval: str = ""
    change: str = ""
    change_interval: str = ""


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
    columns: tuple[str, ...]
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
        columns=tuple(_column(axis, words) for axis in _axes(report)),
        repairs=_by_family(report, [row for row in report.rows if row.control is None], words),
        controls=_by_family(report, [row for row in report.rows if row.control is not None], words),
        contrasts=tuple(_contrast(report, each, words) for each in report.contrasts),
        advice=None if report.advice is None else shlex.join(report.advice.command),
        no_advice=_has_no_advice(report),
        notes=tuple(report.notes),
    )
    return {"repair": view}


def verdict_title(report: RepairReport, words: Texts) -> str:
    """Return the verdict as one sentence."""
    verdict = report.verdict
    control = words(f"repair.control.{verdict.against}") if verdict.against else ""
    return words(f"repair.outcome.{verdict.outcome}", items=f"{verdict.items:,}", control=control, k=report.k)


def verdict_text(report: RepairReport, words: Texts) -> str:
    """Return the numbers behind the verdict: what was lost, what the best repair recovers, and against each control."""
    verdict, axis = report.verdict, report.retention
    if axis is None or verdict.forgotten is None:
        return words("repair.strength_only")
    said = [_loss(axis, verdict.forgotten, words)]
    best = next((row for row in report.rows if row.name == verdict.best), None)
    if best is None:
        return " ".join([*said, words("repair.strength_only")])
    if verdict.contrast_margin is not None:
        said.append(words("repair.margin", margin=numbers.metric_value(verdict.contrast_margin, axis.unit, axis.scale)))
    if best.retention is not None and best.retention.change is not None:
        said.append(words("repair.recovers", name=_label(best, words), change=_change(axis, best.retention.change)))
    against = [each for each in report.contrasts if (each.family, each.strength) == (best.family, best.strength)]
    for each in against:
        control = words(f"repair.control.{each.control}")
        said.append(words("repair.minus", control=control, change=_change(axis, each.retention)))
    if any(each.target_kept is False for each in against):
        said.append(words("repair.target_lost"))
    return " ".join(said)


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
    colour, shape = _family_encodings(report, words)
    x, y = _scale("x", report.retention, words), _scale("y", report.target, words)
    base = alt.Chart(ROWS)
    tips = [alt.Tooltip(f"{name}:N", title=words(f"tip.{key}")) for name, key in _TIPS]
    variants = base.transform_filter("!datum.end")
    layers = [
        base.transform_filter("datum.front")
        .mark_line(strokeWidth=1.5, strokeDash=[4, 3], color="#8a8f98")
        .encode(x=x, y=y, order=alt.Order("x:Q")),
        variants.transform_filter("datum.control")
        .mark_point(filled=False, size=46, strokeWidth=1.3, opacity=0.75)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
        variants.transform_filter("!datum.control")
        .mark_point(filled=True, size=90, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
        base.transform_filter("datum.end")
        .mark_point(filled=True, size=110, opacity=1, color=_ENDS[0], shape=_ENDS[1])
        .encode(x=x, y=y, tooltip=tips),
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
    for note in report.notes:
        console.print(Padding(shown(note, "dim"), (0, 0, 0, 2)))
    if _has_no_advice(report):
        console.print(shown(words("repair.no_advice")))
    if report.advice is not None:
        console.print(shown(words("repair.write", name=report.advice.name), "bold"))
        console.print(Padding(shown(shlex.join(report.advice.command)), (0, 0, 0, 2)), soft_wrap=True)


def _terminal_grid(report: RepairReport, words: Texts, shown: Callable[[str, str], Text]) -> Grid:
    """Changes against the adapted checkpoint; the values of that one are in the first row."""
    grid = Grid.grid(padding=(0, 2, 0, 0), pad_edge=False)
    axes = {"target": report.target, "retention": report.retention}
    known = {role: axis for role, axis in axes.items() if axis is not None}
    grid.add_column(overflow="fold")
    grid.add_column(justify="right")
    for _ in known:
        grid.add_column(overflow="fold")
    headings = [f"{words(f'repair.axis.{role}')}, {axis.metric}" for role, axis in known.items()]
    grid.add_row(*(shown(text, "dim") for text in (words("repair.variant"), words("repair.size"), *headings)))
    values = [_terminal_value(getattr(report.adapted, role)) for role in known]
    grid.add_row(*(shown(text, "bold") for text in (report.subject, numbers.percent(1.0), *values)))
    for row in report.rows:
        if row.control is not None or (row.family == "strength" and row.strength == 1.0):
            continue
        cells = [_terminal_change(getattr(row, role)) for role in known]
        if not any(cells):
            cells[:1] = [_why_empty(row, words)]
        label = _label(row, words) + (" ★" if row.front else "")
        grid.add_row(*(shown(text, "") for text in (label, numbers.percent(row.relative_norm), *cells)))
    return grid


def _terminal_value(metric: RepairMetric | None) -> str:
    if metric is None or metric.value is None:
        return numbers.ABSENT
    unit, scale = metric.axis.unit, metric.axis.scale
    return f"{numbers.metric_value(metric.value.value, unit, scale)} {numbers.interval(metric.value, unit, scale)}"


def _terminal_change(metric: RepairMetric | None) -> str:
    return "" if metric is None or metric.change is None else _change(metric.axis, metric.change)


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
    return tuple(facts)


def _loss(axis: RepairAxis, forgotten: RepairChange, words: Texts) -> str:
    return words("repair.lost", change=_change(axis, forgotten), metric=axis.metric, items=f"{forgotten.n:,}")


def _families(report: RepairReport) -> list[str]:
    return list(dict.fromkeys(row.family for row in report.rows))


def _axes(report: RepairReport) -> list[RepairAxis]:
    """Target and retention, then everything else that was measured of any variant."""
    shown = [axis for axis in (report.target, report.retention) if axis is not None]
    for row in report.rows:
        shown += [metric.axis for metric in row.others if metric.axis not in shown]
    return shown


def _column(axis: RepairAxis, words: Texts) -> str:
    return f"{words.joined(axis.tasks)} · {axis.metric}"


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
        label=_label(row, words),
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
    unit, scale = metric.axis.unit, metric.axis.scale
    change = metric.change
    return PrintedCell(
        numbers.metric_value(metric.value.value, unit, scale),
        numbers.interval(metric.value, unit, scale),
        "" if change is None else numbers.signed(change.value, unit, scale),
        numbers.interval(change, unit, scale, with_sign=True),
    )


def _contrast(report: RepairReport, found: RepairContrast, words: Texts) -> PrintedContrast:
    assert report.retention is not None
    lost = ""
    if report.target is not None and found.target is not None:
        lost = _change(report.target, found.target)
    return PrintedContrast(
        repair=f"{words(f'repair.short.{found.family}')} × {found.strength:g}",
        control=words(f"repair.control.{found.control}"),
        retention=_change(report.retention, found.retention),
        target=lost,
        p_adjusted=numbers.p_value(found.p_adjusted),
    )


def _change(axis: RepairAxis, change: RepairChange) -> str:
    value = numbers.signed(change.value, axis.unit, axis.scale)
    return f"{value} {numbers.interval(change, axis.unit, axis.scale, with_sign=True)}".strip()


def _label(row: RepairRow, words: Texts) -> str:
    repair = f"{words(f'repair.short.{row.family}')} × {row.strength:g}"
    return repair if row.control is None else words.joined([repair, words(f"repair.control.{row.control}")])


def _points(report: RepairReport, base: str, words: Texts) -> Iterable[dict[str, Any] | None]:
    for row in report.rows:
        place = _place(row.target, row.retention)
        if place is not None:
            yield place | {
                "name": _label(row, words),
                "family": words(f"repair.short.{row.family}"),
                "control": row.control is not None,
                "front": row.front,
                "norm": numbers.percent(row.relative_norm),
                "end": False,
            }
    ends: tuple[tuple[str, RepairPoint], ...] = ((base, report.base), (report.subject, report.adapted))
    for name, point in ends:
        place = _place(point.target, point.retention)
        norm = numbers.percent(0 if point is report.base else 1)
        yield None if place is None else place | {"name": name, "norm": norm, "end": True, "front": False}


def _place(target: RepairMetric | None, retention: RepairMetric | None) -> dict[str, Any] | None:
    if target is None or retention is None or target.value is None or retention.value is None:
        return None
    place = {"x": numbers.rounded(retention.value.value, 5), "y": numbers.rounded(target.value.value, 5)}
    return place | {"x_shown": _terminal_value(retention), "y_shown": _terminal_value(target)}


def _family_encodings(report: RepairReport, words: Texts) -> tuple[alt.Color, alt.Shape]:
    names = _families(report)
    domain = [words(f"repair.short.{name}") for name in names]
    legend = alt.Legend(title=None, orient="top", symbolSize=90)
    colours, shapes = ([_FAMILIES[name][at] for name in names] for at in (0, 1))
    return (
        alt.Color("family:N", scale=alt.Scale(domain=domain, range=colours), legend=legend),
        alt.Shape("family:N", scale=alt.Scale(domain=domain, range=shapes), legend=legend),
    )


def _scale(channel: str, axis: RepairAxis, words: Texts) -> Any:
    lower = axis.direction == "lower"
    role = words("repair.axis.retention" if channel == "x" else "repair.axis.target")
    title = f"{role}: {axis.metric}" + (f" ({words('axis.turned')})" if lower else "")
    scale = alt.Scale(zero=False, reverse=lower, padding=14)
    return (alt.X if channel == "x" else alt.Y)(f"{channel}:Q", title=title, scale=scale)
