"""What training curves say, in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.schema.comparison import Finding, Measurement, Missing

_STYLES = {"critical": "bold red", "warning": "yellow", "good": "green", "info": "cyan"}


def print_readings(
    name: str,
    measurements: Sequence[Measurement],
    findings: Sequence[Finding],
    missing: Sequence[Missing],
    console: Console,
) -> None:
    """The findings of one run first, then its readings, one row a reading; a reading without a value says why."""
    console.print(Text(name, style="bold"))
    for finding in findings:
        console.print(Text(f"  {finding.severity}: {finding.title}", style=_STYLES[finding.severity]))
        for text in [*finding.evidence, *([finding.advice] if finding.advice else [])]:
            console.print(Text(f"    {text}"))
    if not findings:
        console.print(Text("  nothing stands out"))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    for found in measurements:
        label = found.metric + (f" ({found.slice.value})" if found.slice else "")
        value = f"{found.adapted.value:.4g} {found.unit}" if found.adapted else f"– {found.missing_reason}"
        table.add_row("", label, Text(value))
    console.print(table)
    for entry in missing:
        console.print(Text(f"  missing: {entry.reason}"))
