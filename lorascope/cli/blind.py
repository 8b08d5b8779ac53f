"""``lorascope blind``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

_FILE = click.Path(path_type=Path)
_SHARE = click.FloatRange(0, 1)
_FORMATS = ("html", "xlsx", "csv", "label-studio")
_debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
_lang = click.option(
    "--lang",
    "language",
    type=click.Choice(["en", "zh"]),
    default="en",
    show_default=True,
    help="Language of the plan's words.",
)


class _Words(click.ParamType):  # type: ignore[type-arg]  # a type argument came with click 8.3
    """A list with commas, each word one of those that are known; ``once`` leaves out what comes again."""

    name = "LIST"

    def __init__(self, noun: str, known: tuple[str, ...], *, once: bool) -> None:
        self.noun, self.known, self.once = noun, known, once

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(word.strip().lower() for word in value.split(",") if word.strip())
        unknown = [word for word in found if word not in self.known]
        if unknown or not found:
            wrong = unknown[0] if unknown else value
            self.fail(f"{wrong!r} is no {self.noun}; known: {', '.join(self.known)}.", param, ctx)
        return tuple(dict.fromkeys(found)) if self.once else found


@click.group()
def blind() -> None:
    """Put answers before human raters who cannot tell which model wrote them, and score their sheets.

    \b
    lorascope blind plan --effect 0.65 --ties 0.2 --out plan.json
    lorascope blind export reports/lora/result.json --plan plan.json --format html,xlsx
    lorascope blind score rater-1-ratings.json rater-2.xlsx --key KEY --result reports/lora/result.json
    """


@blind.command()
@click.option(
    "--effect",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    help="The win rate among decided items that the study is to find, such as 0.65.",
)
@click.option("--items", type=click.IntRange(1), help="Instead of --effect: what these many items can find.")
@click.option(
    "--ties",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of items expected to end undecided.",
)
@click.option("--raters", type=click.IntRange(1), default=3, show_default=True, help="How many raters there will be.")
@click.option("--split", is_flag=True, help="Divide the items among the raters instead of giving all to each.")
@click.option(
    "--correlation",
    type=_SHARE,
    default=1.0,
    show_default=True,
    help="Correlation of two raters' votes on one item; at 1 a further rater adds nothing.",
)
@click.option("--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
              help="Level of the two-sided sign test.")  # fmt: skip
@click.option("--power", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.8, show_default=True,
              help="Probability of finding the effect.")  # fmt: skip
@click.option("--min-checks", type=_SHARE, help="Leave out raters who pass a smaller share of the checks.")
@click.option("--min-consistency", type=_SHARE, help="Leave out raters who repeat a smaller share of their choices.")
@click.option("--out", type=_FILE, help="Write the plan there, to be registered before anything is rated.")
@_lang
@_debug
def plan(
    effect: float | None,
    items: int | None,
    ties: float,
    raters: int,
    split: bool,
    correlation: float,
    alpha: float,
    power: float,
    min_checks: float | None,
    min_consistency: float | None,
    out: Path | None,
    language: str,
    debug: bool,
) -> int:
    """Say how many items a study needs, from exact power, and register its plan.

    \b
    lorascope blind plan --effect 0.65 --ties 0.2 --raters 3 --min-checks 0.5 --out plan.json
    """
    from rich.console import Console

    from lorascope.workflows.blind_plan import PlanOptions, plan_a_study

    options = PlanOptions(
        effect=effect,
        items=items,
        ties=ties,
        raters=raters,
        votes_per_item=1 if split else raters,
        correlation=correlation,
        alpha=alpha,
        power=power,
        min_checks_passed=min_checks,
        min_repeat_consistency=min_consistency,
        language="zh" if language == "zh" else "en",
    )
    plan_a_study(options, Console(emoji=False), out=out)
    return 0


@blind.command()
@click.argument("result", type=_FILE)
@click.option("--items", type=click.IntRange(1), help="Items to compare. Default: the plan's, else 120.")
@click.option("--raters", type=click.IntRange(1), help="Raters. Default: the plan's, else 3.")
@click.option(
    "--shared",
    type=click.IntRange(0),
    help="Items that all raters get; the rest is divided. Default: all, or the plan's.",
)
@click.option(
    "--format",
    "formats",
    type=_Words("format", _FORMATS, once=True),
    default="html,xlsx",
    show_default=True,
    help=f"What to write for each rater, who fills in one: {', '.join(_FORMATS)}.",
)
@click.option("--system", "systems", multiple=True, help="A checkpoint to compare; repeated. Default: all.")
@click.option("--task", "tasks", multiple=True, help="A task to take answers from; repeated. Default: all generated.")
@click.option("--plan", "plan_path", type=_FILE, help="The registered plan that the study follows.")
@click.option("--repeats", type=click.IntRange(0), help="Rows shown again, sides exchanged. Default: 10 %, at least 8.")
@click.option("--checks", type=click.IntRange(0), default=3, show_default=True, help="Rows with one mismatched answer.")
@click.option("--identical", type=click.IntRange(0), default=3, show_default=True, help="Rows with one answer twice.")
@click.option(
    "--flip-weight",
    type=click.FloatRange(1, 100),
    default=2.0,
    show_default=True,
    help="How many times likelier items with a flipped answer are drawn; the scores undo it.",
)
@click.option(
    "--lang",
    "languages",
    type=_Words("language", ("en", "zh"), once=False),
    default="en",
    show_default=True,
    help="Language of what raters read besides the answers; or one for each rater: en,zh,zh.",
)
@click.option("--out", type=_FILE, help="Folder for the sheets. Default: beside the result's folder, NAME-sheets.")
@click.option("--key", type=_FILE, help="File for the key, never among the sheets. Default: NAME-key/key.json.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of the choice of items. Sides and order come from the system's randomness alone.",
)
@_debug
def export(
    result: Path,
    items: int | None,
    raters: int | None,
    shared: int | None,
    formats: tuple[str, ...],
    systems: tuple[str, ...],
    tasks: tuple[str, ...],
    plan_path: Path | None,
    repeats: int | None,
    checks: int,
    identical: int,
    flip_weight: float,
    languages: tuple[str, ...],
    out: Path | None,
    key: Path | None,
    seed: int,
    debug: bool,
) -> int:
    """Write rating sheets from RESULT.json and the samples beside it, and the key apart.

    \b
    lorascope blind export reports/lora/result.json --raters 3 --items 120 --format html,xlsx,csv
    """
    from rich.console import Console

    from lorascope.workflows.blind import ExportOptions, export_study

    options = ExportOptions(
        result=result,
        items=items,
        raters=raters,
        shared=shared,
        formats=formats,
        systems=systems or None,
        tasks=tasks or None,
        plan=plan_path,
        repeats=repeats,
        checks=checks,
        identical=identical,
        flip_weight=flip_weight,
        languages=tuple("zh" if each == "zh" else "en" for each in languages),
        folder=out,
        key=key,
        seed=seed,
    )
    export_study(options, Console(emoji=False))
    return 0


@blind.command()
@click.argument("sheets", nargs=-1, required=True, type=_FILE)
@click.option("--key", type=_FILE, required=True, help="The key that export wrote.")
@click.option("--result", type=_FILE, required=True, help="The result.json to add the scores to.")
@click.option("--allow-partial", is_flag=True, help="Score sheets with open rows; the report names it as a deviation.")
@click.option(
    "--lang", "language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Report's language."
)
@_debug
def score(sheets: tuple[Path, ...], key: Path, result: Path, allow_partial: bool, language: str, debug: bool) -> int:
    """Score filled-in SHEETS of any mixture of formats, and add what they say to the result and its report.

    \b
    lorascope blind score sheets/rater-*.xlsx rater-3-ratings.json --key KEY --result reports/lora/result.json
    """
    from rich.console import Console

    from lorascope.workflows.blind_score import score_study_files

    score_study_files(
        sheets,
        key,
        result,
        Console(emoji=False),
        allow_partial=allow_partial,
        language="zh" if language == "zh" else "en",
    )
    return 0
