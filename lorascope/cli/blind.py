"""``lorascope blind``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click


@click.group()
def blind() -> None:
    """Put answers before human raters who cannot tell which model wrote them, and score their sheets."""


@blind.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--items", type=click.IntRange(1), default=60, show_default=True, help="Items a rater sees.")
@click.option("--raters", type=click.IntRange(1), default=3, show_default=True, help="Sheets to write.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the sheets.")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="File for the key, outside that folder.")
@click.option("--subject", help="Which subject is put beside the base. Needed where there are several.")
@click.option("--task", help="Which task the answers come from. Needed where there are several.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of the choice of items, not of the order.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def export(
    result: Path,
    items: int,
    raters: int,
    out: Path,
    key: Path,
    subject: str | None,
    task: str | None,
    seed: int,
    debug: bool,
) -> int:
    """Write one CSV sheet a rater from RESULT.json and the samples beside it, and the key apart.

    \b
    lorascope blind export reports/lora-vs-base/result.json --out sheets --key keys/study.json
    """
    from rich.console import Console

    from lorascope.workflows.blind import export as run

    run(
        result,
        items=items,
        raters=raters,
        folder=out,
        key_path=key,
        seed=seed,
        console=Console(emoji=False),
        subject=subject,
        task=task,
    )
    return 0


@blind.command()
@click.argument("sheets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="The key that export wrote.")
@click.option("--result", type=click.Path(path_type=Path), required=True, help="The result.json to add the scores to.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def score(sheets: tuple[Path, ...], key: Path, result: Path, debug: bool) -> int:
    """Score filled-in SHEETS, and add win rate and ratings to the result and its report.

    \b
    lorascope blind score sheets/*.csv --key keys/study.json --result reports/lora-vs-base/result.json
    """
    from rich.console import Console

    from lorascope.workflows.blind import score as run
    from lorascope.workflows.publish import render

    run(sheets, key, result, Console(emoji=False))
    render(result)
    return 0
