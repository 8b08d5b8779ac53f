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


def subject_marks(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return the colour and shape that stand for each subject throughout the report."""
    names = [subject.name for subject in comparison.subjects]
    count = len(SUBJECT_COLOURS)
    return {name: (SUBJECT_COLOURS[at % count], SUBJECT_SHAPES[at % count]) for at, name in enumerate(names)}


def subject_encodings(comparison: Comparison, subjects: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """Return colour and shape of the given subjects, with one legend for both where there are several."""
    marks = subject_marks(comparison)
    legend = alt.Legend(title=None, orient="top", symbolSize=90) if len(subjects) > 1 else None
    colours, shapes = ([marks[name][at] for name in subjects] for at in (0, 1))
    return (
        alt.Color("subject:N", scale=alt.Scale(domain=list(subjects), range=colours), legend=legend),
        alt.Shape("subject:N", scale=alt.Scale(domain=list(subjects), range=shapes), legend=legend),
    )


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
