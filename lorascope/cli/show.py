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
        from lorascope.workflows.gate import show_rows

        show_rows(comparison.gates, console)
    report = result.parent / REPORT
    if report.is_file():
        console.print(f"\nReport: {report}", highlight=False, markup=False, soft_wrap=True)


def gate_code(result: Path, *, quiet: bool = False) -> int:
    """Exit code of a command that also held its result to a policy: 0, 1, or 3; ``quiet`` says what does not pass."""
    from lorascope.workflows.gate import judged_in, outcome_line

    judged = judged_in(result)
    if judged is None:
        return 0
    if quiet and judged.exit_code:
        print(outcome_line(judged.report), file=sys.stderr)
    return judged.exit_code
