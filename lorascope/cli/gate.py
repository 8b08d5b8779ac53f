"""``lorascope gate``."""

from __future__ import annotations

import difflib
import io
import os
from pathlib import Path

import rich_click as click
from rich.console import Console


class _JudgingGroup(click.RichGroup):
    """A group whose name alone judges: ``gate RESULT.json`` is ``gate check RESULT.json``.

    A result that bears the name of a command is given with its folder: ``./bless``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            click.echo(ctx.get_help())
            ctx.exit(2)
        if args[0] in self.commands or args[0] in ctx.help_option_names:
            return super().parse_args(ctx, args)
        place = self._first_argument(args)
        if place is not None and args[place] in self.commands:
            return super().parse_args(ctx, [args[place], *args[:place], *args[place + 1 :]])
        if place is not None:
            self._refuse_misspelt(ctx, args[place])
        return super().parse_args(ctx, ["check", *args])

    def _refuse_misspelt(self, ctx: click.Context, word: str) -> None:
        """UsageError for what is no file and nearly the name of a command."""
        near = difflib.get_close_matches(word, self.commands, n=1, cutoff=0.7)
        if near and not Path(word).exists():
            raise click.UsageError(f"there is no command and no file {word!r}; did you mean {near[0]}?", ctx=ctx)

    def _first_argument(self, args: list[str]) -> int | None:
        """Where the first word stands that is neither an option nor an option's value; None behind ``--``."""
        options = [each for command in self.commands.values() for each in command.params]
        takes_value = {
            name
            for each in options
            if isinstance(each, click.Option) and not each.is_flag
            for name in (*each.opts, *each.secondary_opts)
        }
        place = 0
        while place < len(args) and args[place] != "--":
            if not args[place].startswith("-"):
                return place
            place += 2 if args[place] in takes_value else 1
        return None


_FILE = click.Path(path_type=Path)
_gates = click.option(
    "--gates", type=_FILE, default=Path("gates.toml"), show_default=True, help="The policy to hold it to."
)
_debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


@click.group(cls=_JudgingGroup)
def gate() -> None:
    """Hold a result to a policy: exit 0 when the gates pass or only warn, 1 when one fails, 3 when one is invalid.

    \b
    lorascope gate reports/lora/result.json --gates gates.toml --summary "$GITHUB_STEP_SUMMARY"
    lorascope gate bless reports/lora/result.json --to baseline.json
    lorascope gate explain gates.toml --result reports/lora/result.json
    lorascope gate calibrate reports/lora/result.json --gates gates.toml
    """


@gate.command()
@click.argument("result", type=_FILE)
@_gates
@click.option("--baseline", type=_FILE, help="What to compare with: a blessed baseline, or an earlier result.json.")
@click.option("--json", "json_path", type=_FILE, help="Write the outcome as JSON.")
@click.option("--summary", type=_FILE, help="Write the outcome as Markdown; GitHub's own summary is appended to.")
@click.option("--junit", type=_FILE, help="Write the outcome as JUnit XML.")
@click.option("--openmetrics", type=_FILE, help="Write the outcome as OpenMetrics text.")
@click.option(
    "--annotations/--no-annotations",
    default=None,
    help="Print GitHub annotations. Default: where GITHUB_ACTIONS is true.",
)
@click.option("--quiet", is_flag=True, help="No table; a failure is one line on standard error.")
@_debug
def check(
    result: Path,
    gates: Path,
    baseline: Path | None,
    json_path: Path | None,
    summary: Path | None,
    junit: Path | None,
    openmetrics: Path | None,
    annotations: bool | None,
    quiet: bool,
    debug: bool,
) -> int:
    """Judge a RESULT.json; `lorascope gate RESULT.json` is short for it."""
    from lorascope.workflows.gate import run_gate
    from lorascope.workflows.gate_files import GateFiles

    unseen = io.StringIO()
    console = Console(file=unseen, width=1000) if quiet else Console(emoji=False)
    if annotations is None:
        annotations = os.environ.get("GITHUB_ACTIONS") == "true"
    files = GateFiles(json=json_path, summary=summary, junit=junit, openmetrics=openmetrics)
    annotate = (lambda text: click.echo(text, nl=False)) if annotations else None
    done = run_gate(result, gates, baseline, console, files=files, annotate=annotate)
    if quiet and done.exit_code:
        click.echo(unseen.getvalue().rstrip().rpartition("\n")[2].rstrip(), err=True)
    return done.exit_code


@gate.command()
@click.argument("result", type=_FILE)
@click.option("--to", "target", type=_FILE, required=True, help="The baseline to write.")
@click.option("--subject", "subjects", multiple=True, help="Only this adapted checkpoint; may be repeated.")
@click.option("--allow-failing", is_flag=True, help="Also a result whose own gates (those of compare --gates) failed.")
@click.option("--overwrite", is_flag=True, help="Replace the baseline that is there.")
@_debug
def bless(
    result: Path, target: Path, subjects: tuple[str, ...], allow_failing: bool, overwrite: bool, debug: bool
) -> int:
    """Pin RESULT.json as the baseline of later gates: estimates and item scores, without any text.

    A baseline never advances by itself: only this command writes one.
    """
    from lorascope.workflows.gate_baseline import bless as run

    run(
        result,
        target,
        Console(emoji=False),
        subjects=subjects or None,
        allow_failing=allow_failing,
        overwrite=overwrite,
    )
    return 0


@gate.command()
@click.argument("gates", nargs=-1, type=_FILE)
@click.option("--result", type=_FILE, help="A result whose items and variance the numbers are computed for.")
@click.option("--baseline", type=_FILE, help="What the result would be compared with.")
@_debug
def explain(gates: tuple[Path, ...], result: Path | None, baseline: Path | None, debug: bool) -> int:
    """Say in words what each rule of GATES (default: gates.toml) means, and what drop it can see.

    The keys of a [[gate]]:

    \b
    metric      [SUBJECT:]AREA_OR_TASK.METRIC[@SLICE]; * stands for any text
    max_drop    how much worse than what it is compared with, in the metric's scale
    min_gain    how much better it has to be
    min, max    limits on the checkpoint's own value
    min_n       items below which nothing sampled passes
    rule        significant (default), strict, or point
    severity    fail (default) or warn
    correction  none (default), holm, or benjamini-hochberg, of the gate's FAILs
    confidence  of the one-sided bounds, in place of the policy's 0.95
    """
    from lorascope.workflows.gate import explain_policy

    for path in gates or (Path("gates.toml"),):
        explain_policy(path, Console(emoji=False), result_path=result, baseline_path=baseline)
    return 0


@gate.command()
@click.argument("result", type=_FILE)
@click.option("--gates", type=_FILE, help="The policy. Default: every task metric, its margin as max_drop.")
@click.option("--baseline", type=_FILE, help="What to pair the items with. Default: the policy's baseline, if any.")
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True, help="Simulated runs.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the resampling.")
@click.option("--json", "json_path", type=_FILE, help="Write the rates as JSON.")
@_debug
def calibrate(
    result: Path,
    gates: Path | None,
    baseline: Path | None,
    resamples: int,
    seed: int,
    json_path: Path | None,
    debug: bool,
) -> int:
    """How often the policy would raise a false alarm, and what drop it would find, on RESULT.json's own items.

    The items are resampled under no change and under drops that are planted in them; no model is run.
    """
    from lorascope.workflows.gate import calibrate_policy

    calibrate_policy(
        result,
        Console(emoji=False),
        gates_path=gates,
        baseline_path=baseline,
        resamples=resamples,
        seed=seed,
        json_path=json_path,
    )
    return 0
