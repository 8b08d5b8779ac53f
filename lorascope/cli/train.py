"""``lorascope train``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click import get_current_context
from rich.console import Console
from rich.table import Table

from lorascope.cli.options import Place, watcher

if TYPE_CHECKING:
    from lorascope.data.recipes import LoadedRecipe
    from lorascope.workflows.findings_recipe import NextRecipe
    from lorascope.workflows.training_summary import TrainingSummary

_READABLE = click.Path(path_type=Path, exists=True, dir_okay=False)
_TRAINING = ("settings", "out", "dry_run")
_ADVISING = ("subject", "own_recipe", "write")


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set one key: optim.epochs=3. Repeat it.")
@click.option("--out", type=Place(file_okay=False), help="Folder of the run. Default: the recipe's out.")
@click.option("--dry-run", is_flag=True, help="Check recipe and data, print both and train nothing.")
@click.option("--from-findings", type=_READABLE, help="Write the recipe that the findings of a result.json ask for.")
@click.option("--subject", help="From findings: the subject. Default: the only one.")
@click.option("--recipe", "own_recipe", type=_READABLE, help="From findings: the recipe of a run that has no lock.")
@click.option("--write", type=Place(), help="From findings: the file to write. Default: SUBJECT-advised.yaml.")
@click.option("--overwrite", is_flag=True, help="Replace another run's folder; from findings, the file.")
@click.option("--quiet", is_flag=True, help="No progress and no table; errors are still shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON instead of a table.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def train(recipe: Path | None, from_findings: Path | None, **options: Any) -> int:
    """Train as a RECIPE says, into a folder that is ready for compare. A run that was stopped goes on where it was.

    Keys that the recipe leaves out take their defaults; recipe.lock.yaml in the run's folder has all of them.

    \b
    lorascope train recipe.yaml
    lorascope train recipe.yaml --set method.rank=32 --set optim.learning_rate=3e-4 --out runs/r32
    lorascope train --from-findings reports/lora/result.json --write next.yaml
    torchrun --nproc-per-node 4 --no-python lorascope train recipe.yaml
    """
    options.pop("debug")
    if (recipe is None) == (from_findings is None):
        raise click.UsageError("give either a RECIPE to train by or --from-findings RESULT.json")
    misplaced = [name for name in (_ADVISING if recipe is not None else _TRAINING) if options[name]]
    if misplaced:
        option = get_current_context().command.params
        name = next(one.opts[0] for one in option if one.name == misplaced[0])
        raise click.UsageError(f"{name} goes with {'--from-findings' if recipe is not None else 'a RECIPE'}")
    return _advise(from_findings, options) if recipe is None else _train(recipe, options)


def _train(path: Path, options: dict[str, Any]) -> int:
    from lorascope.data.recipes import load_recipe
    from lorascope.workflows.output import prove_writable
    from lorascope.workflows.train import base_folder, is_hub_name, prove_apart, prove_place, train_recipe
    from lorascope.workflows.training_data import load_training_data

    quiet, as_json = options["quiet"] or _is_helper(), options["as_json"]
    loaded = load_recipe(path, options["settings"])
    recipe, out = loaded.recipe, options["out"]
    if out is not None:
        recipe = recipe.model_copy(update={"out": str(out.absolute())})
    prove_place(recipe, loaded.root)
    data = load_training_data(recipe, loaded.root)
    if options["dry_run"]:
        prove_apart(recipe, loaded.root)
        if not is_hub_name(recipe.base, loaded.root):  # a dry run downloads nothing
            base_folder(recipe, loaded.root)
        return _show_plan(loaded, recipe, data, quiet=quiet, as_json=as_json)
    prove_writable(loaded.root / Path(recipe.out).expanduser())
    watch = watcher(quiet)
    for note in loaded.notes:
        watch.say(note)
    from lorascope.workflows.training_summary import summarise

    outcome = train_recipe(
        recipe, root=loaded.root, overwrite=options["overwrite"], watch=watch, loaded=data, source=loaded
    )
    if _is_helper():
        return 0
    summary = summarise(recipe, loaded.root, outcome)
    if as_json:
        click.echo(json.dumps(summary.document(), indent=1, ensure_ascii=False))
    elif not quiet:
        _show(summary, Console(emoji=False))
    return 0


def _is_helper() -> bool:
    """Whether this process is one of several of a launcher, and not the one that speaks for all."""
    return any(os.environ.get(name, "0") not in ("0", "-1", "") for name in ("RANK", "LOCAL_RANK"))


def _show_plan(loaded: LoadedRecipe, recipe: Any, data: Any, *, quiet: bool, as_json: bool) -> int:
    from lorascope.data.documents import write_yaml
    from lorascope.data.recipes import resolved_recipe
    from lorascope.workflows.training_data import sizes

    labels = list(data.data.labels)
    chosen = {"task.labels": labels, "task.multi_label": data.data.multi_label} if labels else {}
    plain = resolved_recipe(recipe, loaded.root, chosen=chosen).model_dump(mode="json")
    counts, notes = sizes(data), (*loaded.notes, *data.notes)
    if as_json and not _is_helper():
        click.echo(json.dumps({"recipe": plain, "sizes": counts, "notes": notes}, indent=1, ensure_ascii=False))
    elif not quiet:
        click.echo(write_yaml(plain))
        for name, count in counts.items():
            if count is not None:
                click.echo(f"# {name}: {count:,}")
        for note in notes:
            click.echo(f"# {note}")
        click.echo("# Nothing was trained: this was a dry run.")
    return 0


def _show(summary: TrainingSummary, console: Console) -> None:
    share = summary.trainable_parameters / summary.total_parameters if summary.total_parameters else 0.0
    cost = summary.cost
    rows = {
        "method": f"{summary.method}, {summary.trainable_parameters:,} of {summary.total_parameters:,} parameters "
        f"trained ({share:.2%})",
        "steps": f"{cost['steps']:,}; the weights of step {summary.kept_step:,} are kept",
        "time": f"{_duration(cost['train_seconds'])}" + _speed(cost["tokens_per_second"]),
        "memory": None if cost["peak_memory_bytes"] is None else f"{cost['peak_memory_bytes'] / 2**30:.2f} GiB at most",
        "energy": None if cost["energy_joules"] is None else f"{cost['energy_joules'] / 3600:.1f} Wh",
    }
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    for name, text in rows.items():
        if text is not None:
            table.add_row(name, text)
    console.print(table)
    if summary.validation:
        console.print(_numbers(summary))
    for note in summary.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    done = "The run was there already, whole" if summary.reused else "The run is in"
    console.print(f"{done}: {summary.folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Go on with: {summary.compare}", highlight=False, markup=False, soft_wrap=True)


def _numbers(summary: TrainingSummary) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for name in ("validation", "number", "start", "last", "best", "at step"):
        table.add_column(name, justify="left" if name in ("validation", "number") else "right")
    for one in summary.validation:
        start = "" if one.first is None else f"{one.first:.4g}"
        best = "" if one.best is None else f"{one.best:.4g}"
        step = "" if one.best_step is None else f"{one.best_step:,}"
        table.add_row(one.split, one.name, start, f"{one.last:.4g}", best, step)
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _speed(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f", {tokens_per_second:,.0f} tokens a second"


def _advise(result: Path | None, options: dict[str, Any]) -> int:
    from lorascope.workflows.findings_recipe import write_next_recipe

    assert result is not None
    made = write_next_recipe(
        result,
        subject=options["subject"],
        recipe=options["own_recipe"],
        write=options["write"],
        overwrite=options["overwrite"],
    )
    if options["as_json"]:
        click.echo(json.dumps(_document(made), indent=1, ensure_ascii=False))
    elif not options["quiet"]:
        _show_advice(made, Console(emoji=False))
    return 0


def _document(made: NextRecipe) -> dict[str, Any]:
    return {
        "subject": made.subject,
        "recipe": str(made.source),
        "written": None if made.path is None else str(made.path),
        "changes": [
            {
                "key": asked[0].key,
                "before": asked[0].before,
                "after": asked[0].value,
                "findings": [change.finding.id for change in asked],
            }
            for asked in made.applied
        ],
        "not_applied": list(made.passed_over),
        "left": [{"finding": finding.id, "advice": finding.advice} for finding in made.left],
    }


def _show_advice(made: NextRecipe, console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    for asked in made.applied:
        before = "not set" if asked[0].before is None else asked[0].before
        findings = ", ".join(change.finding.id for change in asked)
        say(f"{asked[0].key}: {before} → {asked[0].value}   ({findings})")
    for text in made.passed_over:
        say(f"not applied: {text}")
    for finding in made.left:
        say(f"left to you: {finding.title}. {finding.advice}")
    if made.path is None:
        say(f"The findings about {made.subject} ask for no change of {made.source}; nothing was written.")
    else:
        say(f"Written: {made.path}\nGo on with: lorascope train {made.path}")
