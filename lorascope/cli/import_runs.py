"""``lorascope import``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from lorascope.cli.options import common, watcher, writing

if TYPE_CHECKING:
    from lorascope.data.imported.runs import Tool

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group(name="import")
def import_runs() -> None:
    """Compare runs that another tool made: paired statistics, flips and a report. No model is run.

    The first path is the base's run, the others are of adapted checkpoints; NAME=PATH gives one a name of its own.
    Items pair by the tool's own ids, and the tool's own scores are held against ours.
    """


def _runs(command: _Command) -> _Command:
    """Arguments and options that all tools share."""
    for option in reversed(
        (
            click.argument("base"),
            click.argument("adapted", nargs=-1, required=True),
            click.option(
                "--allow-unpaired", is_flag=True, help="Compare shared items even if over 5 % are not shared."
            ),
            click.option(
                "--allow-different", is_flag=True, help="Compare runs that were made with different settings."
            ),
            click.option(
                "--gates", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Policy to hold it to."
            ),
            click.option("--no-samples", is_flag=True, help="Keep prompts and answers out of every output."),
        )
    ):
        command = option(command)
    return writing(common(command))


def _choosing(command: _Command) -> _Command:
    """Which tasks are taken in, and what they stand for."""
    for option in reversed(
        (
            click.option("--task", "tasks", multiple=True, help="Take in this task alone. Repeat it for several."),
            click.option(
                "--retention",
                multiple=True,
                help="This task shows what was forgotten, not what was learned. Repeatable.",
            ),
        )
    ):
        command = option(command)
    return command


@import_runs.command(name="lm-eval")
@click.option("--filter", "filter_name", help="Which filter's answers to take where a task has several.")
@_choosing
@_runs
def lm_eval(**options: Any) -> int:
    """Compare runs of lm-evaluation-harness: its output folders, or samples_*.jsonl files.

    Run it with --log_samples. The results_*.json of the same run is read too.

    \b
    lorascope import lm-eval out/base out/lora
    lorascope import lm-eval base=out/base lora=out/lora --filter strict-match --retention mmlu_anatomy
    """
    return _import("lm-eval", options)


@import_runs.command()
@_choosing
@_runs
def inspect(**options: Any) -> int:
    """Compare .eval logs of Inspect. The inspect_ai library is not needed.

    \b
    lorascope import inspect logs/base.eval logs/lora.eval
    """
    return _import("inspect", options)


@import_runs.command()
@_choosing
@_runs
def lighteval(**options: Any) -> int:
    """Compare runs of lighteval: its output folders, or details_*.parquet files.

    Run it with --save-details. The results_*.json of the same run is read too.

    \b
    lorascope import lighteval out/base out/lora
    """
    return _import("lighteval", options)


@import_runs.command()
@_runs
def llamafactory(**options: Any) -> int:
    """Compare predictions of LLaMA-Factory: generated_predictions.jsonl of each checkpoint.

    \b
    lorascope import llamafactory saves/base/predict saves/lora/predict
    """
    return _import("llamafactory", options)


@import_runs.command()
@click.option(
    "--references",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The right answers, for predictions without their own.",
)
@_runs
def files(**options: Any) -> int:
    """Compare plain files of predictions: JSONL, JSON, CSV or Parquet, or one prediction a line.

    A record has prediction and reference (or references), and may have id, prompt, group and category.

    \b
    lorascope import files base.jsonl lora.jsonl
    lorascope import files base.txt lora.txt --references answers.txt
    """
    return _import("files", options)


def _import(tool: Tool, options: dict[str, Any]) -> int:
    from lorascope.cli.show import gate_code, show_result
    from lorascope.workflows.imported import ImportOptions
    from lorascope.workflows.imported import import_runs as run

    quiet, as_json = options.pop("quiet"), options.pop("as_json")
    options.pop("debug")
    settings = ImportOptions(
        tool=tool, keep_samples=not options.pop("no_samples"), command=("lorascope", *sys.argv[1:]), **options
    )
    result = run(settings, watcher(quiet))
    show_result(result, quiet=quiet, as_json=as_json)
    return gate_code(result, quiet=quiet)
