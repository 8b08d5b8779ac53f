"""``lorascope weights``."""

from __future__ import annotations

import sys
from typing import Any

import rich_click as click

from lorascope.cli.options import common, opening, watcher, writing


@click.command()
@click.argument("base")
@click.argument("adapted", nargs=-1, required=True)
@click.option("--k", type=click.IntRange(1), default=10, show_default=True, help="Singular vectors judged a matrix.")
@click.option(
    "--epsilon",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Largest cosine of an intruder dimension.",
)
@opening
@writing
@common
def weights(base: str, adapted: tuple[str, ...], seed: int, **options: Any) -> int:
    """Analyse ΔW alone: size, rank, spectra and intruder dimensions of every linear module. No model is run.

    \b
    lorascope weights models/base runs/lora runs/full
    """
    from lorascope.cli.show import show_result
    from lorascope.workflows.compare import CompareOptions, compare
    from lorascope.workflows.tasks import Questions

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    options.pop("debug")
    settings = CompareOptions(
        base=base,
        adapted=adapted,
        questions=Questions(seed=seed),
        behaviour=False,
        command=("lorascope", *sys.argv[1:]),
        **options,
    )
    show_result(compare(settings, watcher(quiet)), quiet=quiet, as_json=as_json)
    return 0
