"""Options that several commands share, each written once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import rich_click as click
from rich.console import Console

from lorascope.cli.progress import TerminalWatch
from lorascope.workflows.watch import Silent, Watch

if TYPE_CHECKING:
    from lorascope.workflows.asking import AskingOptions
    from lorascope.workflows.weights import WeightOptions

PROBES: dict[str, tuple[Literal["en", "zh"], ...]] = {"en": ("en",), "zh": ("zh",), "both": ("en", "zh"), "none": ()}
"""Languages of the built-in probe by the value of ``--probe``."""

DEFAULT_PARENT = Path("reports")
"""Where results go without ``--out``."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number in a range; what was written with a comma is told how to write it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]*,[0-9]+", value.strip()):
            self.fail(f"{value!r} is not a number; write {value.strip().replace(',', '.')}, with a point.", param, ctx)
        return float(super().convert(value, param, ctx))


class Place(click.Path):
    """A path to write to; an empty one is refused, since it would be the current folder."""

    def __init__(self, *, file_okay: bool = True) -> None:
        """``file_okay`` False: a folder."""
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if not str(value).strip():
            self.fail("the path is empty; the current folder is '.'", param, ctx)
        return super().convert(value, param, ctx)


def _writable(context: click.Context, parameter: click.Parameter, out: Path | None) -> Path | None:
    """Say before the work begins that there is no place for its results."""
    from lorascope.workflows.output import prove_writable

    prove_writable(out or DEFAULT_PARENT)
    return out


def common(command: _Command) -> _Command:
    """``--seed --quiet --json --debug``: every command that measures something has them."""
    for option in reversed(
        (
            click.option(
                "--seed",
                type=click.IntRange(0, 2**32 - 1),
                default=0,
                show_default=True,
                help="Seed of sampling and resampling.",
            ),
            click.option("--quiet", is_flag=True, help="No progress and no table; errors are still shown."),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table."),
            click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        )
    ):
        command = option(command)
    return command


def running(command: _Command) -> _Command:
    """``--device --dtype --batch-size --limit --fraction``: how and on how many items models are run."""
    for option in reversed(
        (
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …"),
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                default="auto",
                show_default=True,
                help="Type to compute in; auto: as stored.",
            ),
            click.option("--batch-size", type=click.IntRange(1), help="Largest batch. Default: by length and memory."),
            click.option("--limit", type=click.IntRange(1), help="Items a task at most, sampled with the seed."),
            click.option("--fraction", type=Number(0, 1, min_open=True), help="Share of the items, sampled likewise."),
        )
    ):
        command = option(command)
    return command


def answering(command: _Command) -> _Command:
    """``--engine --url … --noise-floor --no-cache``: who answers. :func:`asking_options` takes them out again."""
    for option in reversed(
        (
            click.option(
                "--engine",
                default="transformers",
                show_default=True,
                help="Who answers: transformers, openai (a server that speaks its protocol), or an installed plug-in.",
            ),
            click.option("--url", help="Address of the server, such as http://localhost:8000/v1."),
            click.option("--api-key-env", help="Name of the environment variable that holds the server's key."),
            click.option(
                "--concurrency",
                type=click.IntRange(1),
                default=8,
                show_default=True,
                help="Requests to the server at a time.",
            ),
            click.option("--no-merge", is_flag=True, help="Never merge adapters in memory, even where that is proven."),
            click.option(
                "--noise-floor", is_flag=True, help="Ask everything twice, computed in two ways: which flips are noise."
            ),
            click.option(
                "--no-cache", is_flag=True, help="Keep answers in the output folder only, and only until it is done."
            ),
        )
    ):
        command = option(command)
    return command


def asking_options(options: dict[str, Any]) -> AskingOptions:
    """Take what :func:`answering` and :func:`running` added out of ``options``, but for the sampling of items."""
    from lorascope.workflows.asking import AskingOptions

    return AskingOptions(
        merge="never" if options.pop("no_merge") else "auto",
        shared_cache=not options.pop("no_cache"),
        cache_dir=options["cache_dir"],
        **{name: options.pop(name) for name in ("engine", "url", "api_key_env", "concurrency", "noise_floor")},
        **{name: options.pop(name) for name in ("device", "dtype", "batch_size")},
    )


def writing(command: _Command) -> _Command:
    """``--out --overwrite``: where results go."""
    for option in reversed(
        (
            click.option("--out", type=Place(), callback=_writable, help="Output folder. Default: reports/NAME."),
            click.option("--overwrite", is_flag=True, help="Replace another command's results in that folder."),
        )
    ):
        command = option(command)
    return command


def opening(command: _Command) -> _Command:
    """``--allow-pickle``: what may be opened."""
    return click.option(
        "--allow-pickle", is_flag=True, help="Read .bin weights, as plain tensors only. Default: refuse them."
    )(command)


def judging(command: _Command) -> _Command:
    """``--k --epsilon --side --exact …``: how ΔW is looked at. :func:`weight_options` takes them out again."""
    for option in reversed(
        (
            click.option("--k", type=click.IntRange(1), default=10, show_default=True, help="Vectors judged a matrix."),
            click.option(
                "--epsilon",
                type=Number(0, 1, min_open=True),
                multiple=True,
                default=(0.5,),
                show_default=True,
                help="Largest cosine of an intruder dimension. Repeat it to decide several; the first is reported.",
            ),
            click.option(
                "--side",
                type=click.Choice(["left", "both"]),
                default="both",
                show_default=True,
                help="Judge output directions (the definition) alone, or input directions too.",
            ),
            click.option("--exact", is_flag=True, help="Decompose every matrix instead of certifying."),
            click.option(
                "--no-fallback", is_flag=True, help="Leave undecided vectors undecided: no exact decomposition."
            ),
            click.option("--no-null", is_flag=True, help="Leave out the random updates of equal norm and rank."),
            click.option("--full-spectrum", is_flag=True, help="All singular values of ΔW above 2048 dimensions too."),
            click.option(
                "--svd-dtype",
                type=click.Choice(["float32", "float64"]),
                default="float32",
                show_default=True,
                help="Precision of decompositions.",
            ),
            click.option(
                "--cache-dir",
                type=Place(file_okay=False),
                envvar="LORASCOPE_CACHE_DIR",
                show_envvar=True,
                help="Keep answers here, and what is found out of base matrices, for the next run. Without it, answers "
                "are kept in the user's cache folder, and nothing of matrices.",
            ),
            click.option("--checkpoints", is_flag=True, help="Each ADAPTED is a run folder: take all its checkpoints."),
            click.option("--sequence", is_flag=True, help="The ADAPTED are stages of one sequence of tasks, in order."),
        )
    ):
        command = option(command)
    return command


def weight_options(options: dict[str, Any]) -> WeightOptions:
    """Take what :func:`judging` added out of ``options``."""
    from lorascope.workflows.weights import WeightOptions

    return WeightOptions(
        k=options.pop("k"),
        epsilons=tuple(dict.fromkeys(options.pop("epsilon"))),
        sides=("left", "right") if options.pop("side") == "both" else ("left",),
        exact=options.pop("exact"),
        fallback=not options.pop("no_fallback"),
        null=not options.pop("no_null"),
        full_spectrum=options.pop("full_spectrum"),
        dtype=options.pop("svd_dtype"),
        cache_dir=options.pop("cache_dir"),
        sequence=options.pop("sequence"),
    )


def all_checkpoints(adapted: tuple[str, ...], *, wanted: bool, sequence: bool) -> tuple[str, ...]:
    """The checkpoints of each run where they are wanted, else what was given; a ``sequence`` needs two at least."""
    from lorascope.workflows.run_steps import checkpoints_of

    found = tuple(found for run in adapted for found in checkpoints_of(run)) if wanted else adapted
    if sequence and len(found) < 2:
        raise click.UsageError("--sequence needs two ADAPTED at least: the stages, in their order")
    return found


def watcher(quiet: bool) -> Watch:
    """Progress on standard error, or none."""
    return Silent() if quiet else TerminalWatch(Console(stderr=True, emoji=False))


def file_sets(given: tuple[str, ...]) -> dict[str, str]:
    """Set names to files; a single unnamed file has the name ''."""
    sets: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        named = bool(equals) and "/" not in name and not Path(text).exists()
        key, value = (name, path) if named else ("" if len(given) == 1 else Path(text).stem, text)
        if key in sets:
            raise click.UsageError(f"--data: two sets are named {key}; give NAME=FILE")
        sets[key] = value
    return sets


def label_names(path: Path) -> tuple[str, ...]:
    """Label names from a JSON list or from one a line; a usage error where it is neither or names one twice.

    Their places are the outputs of a head, so an entry that is no name is refused and not passed over; only empty lines
    at the end of the file are.
    """
    import json

    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()
        names = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise click.UsageError(f"--labels: {path} is neither a JSON list nor lines of UTF-8 text ({error})") from error
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise click.UsageError(f"--labels: entry {place + 1} of {path} is {name!r}, which names no label")
    cleaned = tuple(name.strip() for name in names)
    if not cleaned or len(set(cleaned)) != len(cleaned):
        raise click.UsageError(f"--labels: {path} must name each label once, and at least one")
    return cleaned
