"""``lorascope compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from lorascope.cli.options import (
    PROBES,
    all_checkpoints,
    answering,
    asking_options,
    common,
    file_sets,
    judging,
    label_names,
    opening,
    running,
    watcher,
    weight_options,
    writing,
)


@click.command()
@click.argument("base")
@click.argument("adapted", nargs=-1, required=True)
@click.option("--suite", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Tasks, as YAML.")
@click.option("--data", multiple=True, help="A data file, its kind read from its fields; NAME=FILE for several sets.")
@click.option("--train-data", help="The training file: turns on the train/validation gap of each metric.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Label names in the order of the head's outputs: a JSON list, or one a line.",
)
@click.option(
    "--probe",
    type=click.Choice(list(PROBES)),
    default="both",
    show_default=True,
    help="Language of the built-in general-knowledge probe.",
)
@click.option("--reference", help="Another subject to compare the rest with, beside the base.")
@click.option("--gates", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Policy to hold it to.")
@click.option("--no-weights", is_flag=True, help="Leave the weight analysis out.")
@click.option("--no-samples", is_flag=True, help="Keep prompts and answers out of every output.")
@running
@answering
@judging
@opening
@writing
@common
def compare(base: str, adapted: tuple[str, ...], **options: Any) -> int:
    """Compare BASE with one or more ADAPTED checkpoints: what was gained, what was lost, what happened inside.

    A checkpoint is a folder (a model, a PEFT adapter, or a training run that holds one) or a name on the hub.
    NAME=PATH gives it a name of its own. With --engine openai a server answers, NAME is the model's name there, and
    NAME alone is a model without a local folder, whose weights are then not looked at.

    \b
    lorascope compare models/base runs/lora
    lorascope compare models/base lora=runs/a full=runs/b --data val.jsonl --train-data train.jsonl
    lorascope compare models/base runs/lora --suite suite.yaml --gates gates.toml
    lorascope compare qwen=models/base law=runs/law --engine openai --url http://localhost:8000/v1 --data val.jsonl
    """
    from lorascope.cli.show import gate_code, show_result
    from lorascope.workflows.compare import CompareOptions
    from lorascope.workflows.compare import compare as run
    from lorascope.workflows.served import ServedOptions, compare_served, served_only
    from lorascope.workflows.tasks import Questions

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    options.pop("debug")
    labels = options.pop("labels")
    questions = Questions(
        data=file_sets(options.pop("data")),
        labels=label_names(labels) if labels else None,
        probe=PROBES[options.pop("probe")],
        **{name: options.pop(name) for name in ("suite", "train_data", "limit", "fraction", "seed")},
    )
    chosen = all_checkpoints(adapted, wanted=options.pop("checkpoints"), sequence=options["sequence"])
    asking, analysis = asking_options(options), weight_options(options)
    shared: dict[str, Any] = {
        "base": base,
        "adapted": chosen,
        "questions": questions,
        "keep_samples": not options.pop("no_samples"),
        "command": ("lorascope", *sys.argv[1:]),
        **{name: options.pop(name) for name in ("reference", "out", "overwrite", "gates")},
    }
    if asking.engine == "openai" and served_only(base, chosen):
        result = compare_served(ServedOptions(asking=asking, **shared), watcher(quiet))
    else:
        weights = not options.pop("no_weights")
        settings = CompareOptions(asking=asking, analysis=analysis, weights=weights, **shared, **options)
        result = run(settings, watcher(quiet))
    show_result(result, quiet=quiet, as_json=as_json)
    return gate_code(result, quiet=quiet)
