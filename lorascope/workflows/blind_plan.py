"""Say how many items a blind study needs, and register its plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.blind.plan import Exclusions, StudyPlan
from lorascope.blind.power import detectable_effect, plan_study, power_table
from lorascope.blind.registration import check_free, describe, write_plan
from lorascope.blind.rows import Language
from lorascope.errors import UsageError

_EFFECTS = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
_ITEMS = (60, 120, 240, 480)
_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "few": "{items} items are too few: not even unanimous ones would be significant at α = {alpha:g}",
        "one_few": "1 item is too few: not even a unanimous one would be significant at α = {alpha:g}",
        "one_finds": "1 item finds a win rate of {rate:.3f} among decided votes with power {power:g}",
        "finds": "{items} items find a win rate of {rate:.3f} among decided votes with power {power:g}",
        "sizes": "Win rates, the items that each takes, and the power that other sizes have:",
        "rate": "win rate",
        "items": "items",
        "column": "{items} items",
        "written": "plan in {out} ({hash}): register it before anything is rated",
    },
    "zh": {
        "few": "{items} 条样本太少：即使结果全部一致，在 α = {alpha:g} 下也不显著",
        "one_few": "1 条样本太少：即使结果一致，在 α = {alpha:g} 下也不显著",
        "one_finds": "1 条样本能以 {power:g} 的功效发现有倾向投票中 {rate:.3f} 的胜率",
        "finds": "{items} 条样本能以 {power:g} 的功效发现有倾向投票中 {rate:.3f} 的胜率",
        "sizes": "各胜率所需的样本数，以及其他样本数的功效：",
        "rate": "胜率",
        "items": "样本数",
        "column": "{items} 条样本",
        "written": "计划已写入 {out}（{hash}）：请在任何评分之前登记",
    },
}


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What ``blind plan`` was asked for; either ``effect`` or ``items``. See :func:`plan_study`."""

    effect: float | None
    items: int | None
    ties: float
    raters: int
    votes_per_item: int
    correlation: float
    alpha: float
    power: float
    min_checks_passed: float | None
    min_repeat_consistency: float | None
    language: Language


def plan_a_study(options: PlanOptions, console: Console, *, out: Path | None = None) -> StudyPlan | None:
    """Print what the study needs, or can find, and write the plan to ``out``; None where items alone are given.

    Whatever stands at ``out`` is refused before anything is printed (OutputError).
    UsageError where neither effect nor items are given, or a plan is to be written without an effect.
    """
    if options.effect is None:
        if options.items is None:
            raise UsageError("nothing to plan for", remedy="give --effect, such as 0.65, or --items")
        if out is not None:
            raise UsageError("a plan names the effect that it is to find", remedy="give --effect beside --out")
        _tell_detectable(options, options.items, console)
        return None
    if options.items is not None:
        raise UsageError("--effect and --items are two questions", remedy="give one of them")
    if out is not None:
        check_free(out)
    plan = plan_study(
        options.effect,
        ties=options.ties,
        raters=options.raters,
        votes_per_item=options.votes_per_item,
        correlation=options.correlation,
        alpha=options.alpha,
        power=options.power,
        exclusions=Exclusions(
            min_checks_passed=options.min_checks_passed, min_repeat_consistency=options.min_repeat_consistency
        ),
    )
    for line in describe(plan, options.language):
        console.print(Text(line))
    _compare_sizes(options, console)
    if out is not None:
        write_plan(plan, out)
        told = _WORDS[options.language]["written"].format(out=out, hash=plan.hash)
        console.print(Text(told), soft_wrap=True)
    return plan


def _tell_detectable(options: PlanOptions, items: int, console: Console) -> None:
    found = detectable_effect(
        items,
        ties=options.ties,
        votes_per_item=options.votes_per_item,
        correlation=options.correlation,
        alpha=options.alpha,
        power=options.power,
    )
    words = _WORDS[options.language]
    if found is None:
        told = words["few" if items > 1 else "one_few"].format(items=f"{items:,}", alpha=options.alpha)
    else:
        told = words["finds" if items > 1 else "one_finds"].format(items=f"{items:,}", rate=found, power=options.power)
    console.print(Text(told))
    _compare_sizes(options, console)


def _compare_sizes(options: PlanOptions, console: Console) -> None:
    console.print(Text(f"\n{_WORDS[options.language]['sizes']}"))
    console.print(_table(options))


def _table(options: PlanOptions) -> Table:
    """What other effects would take, and the power that common sizes have for them."""
    table = Table(box=None, pad_edge=False)
    words = _WORDS[options.language]
    for name in (words["rate"], words["items"], *(words["column"].format(items=items) for items in _ITEMS)):
        table.add_column(name, justify="right")
    rows = power_table(
        _EFFECTS,
        _ITEMS,
        ties=options.ties,
        raters=options.raters,
        votes_per_item=options.votes_per_item,
        correlation=options.correlation,
        alpha=options.alpha,
        power=options.power,
    )
    for row in rows:
        table.add_row(f"{row.effect:g}", f"{row.items:,}", *(f"{power:.0%}" for power in row.powers))
    return table
