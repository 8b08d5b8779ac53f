"""``lorascope gate``."""

from __future__ import annotations

import io
from pathlib import Path

import rich_click as click
from rich.console import Console


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--gates", type=click.Path(path_type=Path), default=Path("gates.toml"), show_default=True, help="Policy.")
@click.option("--baseline", type=click.Path(path_type=Path), help="An earlier result.json to compare with.")
@click.option("--summary", type=click.Path(path_type=Path), help="Write the outcome as Markdown, for a job summary.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the outcome as JUnit XML.")
@click.option("--quiet", is_flag=True, help="No table; a failure is one line on standard error.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def gate(
    result: Path,
    gates: Path,
    baseline: Path | None,
    summary: Path | None,
    junit: Path | None,
    quiet: bool,
    debug: bool,
) -> int:
    """Hold a RESULT.json to a policy: exit 0 when the gates pass or only warn, 1 when one fails.

    \b
    lorascope gate reports/lora-vs-base/result.json --gates gates.toml --summary "$GITHUB_STEP_SUMMARY"
    """
    from lorascope.workflows.gate import run_gate

    unseen = io.StringIO()
    console = Console(file=unseen, width=1000) if quiet else Console(emoji=False)
    code = run_gate(result, gates, baseline, console, summary=summary, junit_path=junit)
    if quiet and code:
        click.echo(unseen.getvalue().rstrip().rpartition("\n")[2].rstrip(), err=True)
    return code
