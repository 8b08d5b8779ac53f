"""What a finished command prints."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from lorascope.workflows.output import REPORT
from lorascope.workflows.publish import load_result


def show_result(result: Path, *, quiet: bool = False, as_json: bool = False) -> None:
    """The table of a result and the path of its report; the document itself with ``as_json``."""
    if as_json:
        sys.stdout.write(result.read_text(encoding="utf-8"))
        return
    if quiet:
        return
    from lorascope.report.terminal import print_summary

    console = Console(emoji=False)
    comparison = load_result(result)
    print_summary(comparison, console)
    if comparison.repair is not None:
        from lorascope.report.repair_section import print_repair

        print_repair(comparison.repair, console)
    if comparison.gates is not None:
        from lorascope.workflows.gate import show

        show(comparison.gates, console)
    report = result.parent / REPORT
    if report.is_file():
        console.print(f"\nReport: {report}", highlight=False, markup=False, soft_wrap=True)
