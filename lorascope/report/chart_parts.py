"""What all charts share: the subjects' colours and shapes, and the finish of a specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lorascope.schema.comparison import Comparison

Spec = dict[str, Any]
ROWS = alt.NamedData("rows")
SUBJECT_COLOURS = ("#00896b", "#a6449b", "#b97a00", "#3d8bcd", "#8a2252", "#7d7d22", "#5b5bd6")
SUBJECT_SHAPES = ("circle", "square", "diamond", "cross", "triangle-right", "triangle-left", "stroke")

_LEGEND_WIDTH = 300


def subject_marks(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return the colour and shape that stand for each subject throughout the report.

    Runs that have curves of their own without being a subject follow after the subjects.
    """
    subjects = [subject.name for subject in comparison.subjects]
    runs = [series.subject for series in comparison.series if series.subject != comparison.base.name]
    names = dict.fromkeys([*subjects, *runs])
    count = len(SUBJECT_COLOURS)
    return {name: (SUBJECT_COLOURS[at % count], SUBJECT_SHAPES[at % count]) for at, name in enumerate(names)}


def subject_encodings(comparison: Comparison, subjects: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """Return colour and shape of the given subjects, with one legend for both where there are several."""
    marks = subject_marks(comparison)
    legend = _subject_legend(subjects) if len(subjects) > 1 else None
    colours, shapes = ([marks[name][at] for name in subjects] for at in (0, 1))
    return (
        alt.Color("subject:N", scale=alt.Scale(domain=list(subjects), range=colours), legend=legend),
        alt.Shape("subject:N", scale=alt.Scale(domain=list(subjects), range=shapes), legend=legend),
    )


def _subject_legend(subjects: Sequence[str]) -> alt.Legend:
    """In rows where the names would not fit beside each other on a narrow page; long ones have a row of their own."""
    columns = max(1, _LEGEND_WIDTH // (30 + 7 * max(map(len, subjects))))
    rows = {"columns": columns, "labelLimit": 250 if columns == 1 else 160} if columns < len(subjects) else {}
    return alt.Legend(title=None, orient="top", symbolSize=90, symbolOpacity=1, **rows)


def vertical_mark(x: float, label: str, dash: list[int], colour: str, *, late: bool, row: int = 0) -> list[alt.Chart]:
    """Return a vertical rule and its label: to the left of the rule where it stands late, ``row`` lines down."""
    side: dict[str, Any] = {"align": "right", "dx": -6} if late else {"align": "left", "dx": 6}
    base, place = alt.Chart(alt.Data(values=[{}])), alt.datum(x)
    text = base.mark_text(fontSize=11, color=colour, baseline="top", **side)
    return [
        base.mark_rule(strokeDash=dash, color=colour, strokeWidth=1.5).encode(x=place),
        text.encode(x=place, y=alt.value(4 + 16 * row), text=alt.value(label)),
    ]


def finished(
    chart: alt.LayerChart, rows: Sequence[dict[str, Any]], title: str, description: str, subtitle: str = ""
) -> Spec:
    """Add what all charts have; the page takes the title out and sets it as the figure's caption.

    The rows are added last: Altair would check every one of them against the schema, which takes seconds.
    """
    heading = alt.TitleParams(
        title, anchor="start", frame="group", offset=12, **({"subtitle": subtitle} if subtitle else {})
    )
    size = alt.AutoSizeParams(type="fit-x", contains="padding")
    spec: Spec = chart.properties(width="container", title=heading, description=description, autosize=size).to_dict()
    spec.pop("config", None)
    return {**spec, "datasets": {"rows": list(rows)}}
