"""``lorascope curves``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the readings as JSON instead of a table.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def curves(logs: tuple[Path, ...], as_json: bool, debug: bool) -> int:
    """Diagnose training from its LOGS: run folders, trainer_state.json, or LLaMA-Factory's trainer_log.jsonl.

    \b
    lorascope curves runs/lora runs/full
    """
    import json

    from rich.console import Console

    from lorascope.report.readings import print_readings
    from lorascope.workflows.curves import read_path

    outcomes = {str(path): read_path(str(path), path) for path in logs}
    if as_json:
        click.echo(json.dumps({name: outcome.document() for name, outcome in outcomes.items()}, indent=1))
        return 0
    console = Console()
    for name, outcome in outcomes.items():
        print_readings(name, outcome.measurements, outcome.findings, outcome.missing, console)
    return 0
