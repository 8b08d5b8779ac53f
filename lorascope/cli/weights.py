"""``lorascope weights``."""

from __future__ import annotations

import sys
from typing import Any

import rich_click as click

from lorascope.cli.options import all_checkpoints, common, judging, opening, watcher, weight_options, writing


@click.command()
@click.argument("base")
@click.argument("adapted", nargs=-1, required=True)
@click.option("--device", default="auto", show_default=True, help="Where to decompose: auto, cpu, cuda, cuda:1 …")
@judging
@opening
@writing
@common
def weights(base: str, adapted: tuple[str, ...], seed: int, **options: Any) -> int:
    """Analyse ΔW alone: size, rank, spectra and intruder dimensions of every linear module. No model is run.

    Intruder dimensions are certified from a few matrix products; only vectors that stay undecided cost a decomposition.

    \b
    lorascope weights models/base runs/lora runs/full
    lorascope weights models/base runs/lora --checkpoints --cache-dir ~/.cache/lorascope
    lorascope weights models/base stage1 stage2 stage3 --sequence --epsilon 0.5 --epsilon 0.3
    """
    from lorascope.cli.show import show_result
    from lorascope.workflows.asking import AskingOptions
    from lorascope.workflows.compare import CompareOptions, compare
    from lorascope.workflows.tasks import Questions

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    options.pop("debug")
    settings = CompareOptions(
        base=base,
        adapted=all_checkpoints(adapted, wanted=options.pop("checkpoints"), sequence=options["sequence"]),
        asking=AskingOptions(device=options.pop("device")),
        analysis=weight_options(options),
        questions=Questions(seed=seed),
        behaviour=False,
        command=("lorascope", *sys.argv[1:]),
        **options,
    )
    show_result(compare(settings, watcher(quiet)), quiet=quiet, as_json=as_json)
    return 0
