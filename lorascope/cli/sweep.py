"""``lorascope sweep``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from rich.console import Console

from lorascope.cli.options import Place, watcher

if TYPE_CHECKING:
    from lorascope.workflows.sweep import Listing, SweepOutcome


@click.command()
@click.argument("path", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@click.option("--out", type=Place(file_okay=False), help="Output folder. Default: 'out' of the file.")
@click.option("--only", multiple=True, metavar="NAME", help="Run this point or run alone; may be repeated.")
@click.option("--dry-run", is_flag=True, help="List the runs, and how long those left will take; nothing is run.")
@click.option("--runs-only", is_flag=True, help="Train, and leave the comparison for another time.")
@click.option("--overwrite", is_flag=True, help="Replace runs of other settings, and another sweep's results.")
@click.option("--quiet", is_flag=True, help="No progress and no table; errors are still shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def sweep(
    path: Path,
    out: Path | None,
    only: tuple[str, ...],
    dry_run: bool,
    runs_only: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    debug: bool,
) -> int:
    """Train many variants of one recipe, compare them all with their base, and say which to take.

    SWEEP.yaml is a recipe and what varies over it: grid, zip, points, seeds, or a preset (lora-vs-full, rank, dropout,
    multilabel, forgetting). Stopped, it goes on where it was when it is given again; a run that fails is recorded with
    its reason and the others go on.

    \b
    lorascope sweep sweep.yaml --dry-run
    lorascope sweep sweep.yaml
    lorascope sweep sweep.yaml --only r8 --runs-only
    """
    from lorascope.workflows.sweep import SweepOptions, list_sweep
    from lorascope.workflows.sweep import sweep as run

    command = ("lorascope", *sys.argv[1:])
    settings = SweepOptions(path=path, out=out, only=only, runs_only=runs_only, overwrite=overwrite, command=command)
    if dry_run:
        _show_listing(list_sweep(settings), quiet=quiet, as_json=as_json)
        return 0
    outcome = run(settings, watch=watcher(quiet))
    _show(outcome, quiet=quiet, as_json=as_json)
    return 0


def _show_listing(listing: Listing, *, quiet: bool, as_json: bool) -> None:
    from lorascope.report.sweep_words import settings_text
    from lorascope.workflows.sweep_runs import duration

    if as_json:
        runs = [
            {"name": run.name, "settings": dict(run.settings), "finished": run.finished, "trial": run.trial}
            for run in listing.runs
        ]
        document = {"out": str(listing.out), "runs": runs, "to_do": listing.to_do, "seconds": listing.seconds}
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n")
        return
    if quiet:
        return
    for run in listing.runs:
        state = "done" if run.finished else "to do"
        stage = ", first stage" if run.trial else ""
        click.echo(f"{state:>5}  {run.name}{stage}  ({settings_text(run.settings)})")
    trials = sum(run.trial for run in listing.runs)
    extra = f" at most, {trials} of them to choose" if trials else ""
    time = "the time is known when one is finished"
    if listing.seconds is not None:
        time = f"about {duration(listing.seconds)}" if listing.to_do else "nothing is left to train"
    click.echo(f"{len(listing.runs)} runs{extra}, {listing.to_do} to do: {time}. Output: {listing.out}")


def _show(outcome: SweepOutcome, *, quiet: bool, as_json: bool) -> None:
    from lorascope.report.sweep_section import print_sweep
    from lorascope.workflows.output import REPORT

    if as_json:
        text = outcome.report.model_dump_json(indent=1) + "\n"
        sys.stdout.write(text if outcome.result is None else outcome.result.read_text(encoding="utf-8"))
        return
    if quiet:
        return
    console = Console()
    print_sweep(outcome.report, console)
    if outcome.result is not None and (page := outcome.result.parent / REPORT).is_file():
        console.print(f"\nReport: {page}", highlight=False, markup=False, soft_wrap=True)
    else:
        told = f"\nRuns: {outcome.out}. The same command without --runs-only compares them."
        console.print(told, highlight=False, markup=False, soft_wrap=True)
