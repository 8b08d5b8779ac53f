"""The pre-registration file of a study: its plan as numbers with the hash that pins them, and the same in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorascope.blind.plan import StudyPlan
from lorascope.blind.power import ENOUGH, ROWS_AN_HOUR, effective_votes, plan_power, reading_load
from lorascope.blind.rows import Language
from lorascope.errors import DataError, OutputError

_VERSION = 1
_MOST_BYTES = 1_000_000
_REMEDY = "give the file that `lorascope blind plan` wrote"
_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "primary": "Primary endpoint: the win rate (each item's share of votes, ties half, averaged over items), "
        "tested by the exact two-sided sign test over items on which the raters together prefer a side, at "
        "α = {alpha:g}.",
        "effect": "Effect to find: {effect} of a rater's decided votes go to the better system; planned power {power}.",
        "items": "Items: {items:,}. With {ties} of them ties to everybody, they hold the {decisive:,} decisive items "
        "that the test needs with a probability of at least {enough}; the power of the whole study is {whole}.",
        "items_as_given": "Items: {items:,}, for {decisive:,} decisive ones, with {ties} of them ties to everybody; "
        "the power of the whole study is {whole}, below the planned one.",
        "raters": "Raters: {raters}, votes per item: {votes}. Two votes on one item are taken to correlate by "
        "{correlation:g}; to a mean, all votes are worth {effective:,.0f} independent ones.",
        "no_credit": "Raters: {raters}, votes per item: {votes}. No credit is taken for more than one vote per item "
        "(correlation 1).",
        "one_vote": "Raters: {raters}, one vote per item.",
        "checks": "Excluded are raters who pass fewer than {share} of their checks; a tie does not pass one, and "
        "checks called 'both bad' do not count.",
        "repeats": "Excluded are raters whose repeats agree in fewer than {share} of cases.",
        "rounding": "For this, shares are compared to two decimals.",
        "nobody": "No rater is excluded.",
        "load": "Reading: about {rows:,} rows per rater with repeats and checks, {hours:.1f} hours at an assumed "
        "{speed} rows per hour; {all:,} rows in all.",
    },
    "zh": {
        "primary": "主要终点：胜率（每个样本的得票比例，平局计一半，再按样本平均）；"
        "对评审合计偏向一方的样本作精确双侧符号检验，α = {alpha:g}。",
        "effect": "拟发现的效应：评审有倾向的投票中 {effect} 投给较好的系统；计划功效 {power}。",
        "items": "样本数：{items:,}。设其中 {ties} 对所有评审均为平局，则以至少 {enough} 的概率包含检验所需的 "
        "{decisive:,} 个分出胜负的样本；整个研究的功效为 {whole}。",
        "items_as_given": "样本数：{items:,}，其中应有 {decisive:,} 个分出胜负，设 {ties} 对所有评审均为平局；"
        "整个研究的功效为 {whole}，低于计划功效。",
        "raters": "评审 {raters} 人，每个样本 {votes} 票。设同一样本的两票相关系数为 {correlation:g}；"
        "对平均值而言，全部投票相当于 {effective:,.0f} 个独立投票。",
        "no_credit": "评审 {raters} 人，每个样本 {votes} 票。同一样本的多张投票不计额外信息（相关系数 1）。",
        "one_vote": "评审 {raters} 人，每个样本一票。",
        "checks": "检查题通过率低于 {share} 的评审被排除；选“不相上下”不算通过，选“都不好”的检查题不计。",
        "repeats": "重复题一致率低于 {share} 的评审被排除。",
        "rounding": "上述比率按两位小数比较。",
        "nobody": "不排除任何评审。",
        "load": "阅读量：每位评审约 {rows:,} 行（含重复题和检查题），"
        "按每小时 {speed} 行估计约 {hours:.1f} 小时；共 {all:,} 行。",
    },
}


def describe(plan: StudyPlan, language: Language = "en") -> list[str]:
    """The plan in sentences: endpoint and test, effect, items, raters, exclusions, and the reading it asks for."""
    texts, load = _WORDS[language], reading_load(plan)
    return [
        texts["primary"].format(alpha=plan.alpha),
        texts["effect"].format(effect=_percent(plan.effect), power=_percent(plan.power)),
        _items(plan, texts),
        _raters(plan, texts),
        *_exclusions(plan, texts),
        texts["load"].format(rows=load.rows_per_rater, hours=load.hours, speed=ROWS_AN_HOUR, all=load.rows),
    ]


def _items(plan: StudyPlan, texts: dict[str, str]) -> str:
    whole = plan_power(plan)
    return texts["items" if whole >= plan.power else "items_as_given"].format(
        items=plan.items, ties=_percent(plan.ties), decisive=plan.decisive_items, enough=_percent(ENOUGH),
        whole=_percent(whole),
    )  # fmt: skip


def _raters(plan: StudyPlan, texts: dict[str, str]) -> str:
    key = "one_vote" if plan.votes_per_item == 1 else "no_credit" if plan.correlation == 1 else "raters"
    effective = effective_votes(plan.items, plan.votes_per_item, plan.correlation)
    return texts[key].format(
        raters=plan.raters, votes=plan.votes_per_item, correlation=plan.correlation, effective=effective
    )


def _exclusions(plan: StudyPlan, texts: dict[str, str]) -> list[str]:
    rules = {"checks": plan.exclusions.min_checks_passed, "repeats": plan.exclusions.min_repeat_consistency}
    told = [texts[name].format(share=_percent(least)) for name, least in rules.items() if least is not None]
    return [*told, texts["rounding"]] if told else [texts["nobody"]]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %".replace(" ", "\u00a0")


def plan_document(plan: StudyPlan) -> str:
    """The pre-registration file's text: JSON with the plan, its hash, and its words in every language."""
    content = {
        "lorascope_plan": _VERSION,
        "hash": plan.hash,
        "plan": plan.model_dump(mode="json"),
        "in_words": {language: describe(plan, language) for language in _WORDS},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write_plan(plan: StudyPlan, path: Path) -> None:
    """Write a new pre-registration file; OutputError when there is a file already: a registered plan stays."""
    text = plan_document(plan)
    check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"the plan cannot be written: {error.strerror}", where=str(path)) from error


def check_free(path: Path) -> None:
    """OutputError where a plan cannot be put because something is there already."""
    if path.is_dir():
        raise OutputError(
            "this is a folder; a plan is a file", where=str(path), remedy="name a file, such as plan.json"
        )
    if path.exists():
        problem = "there is a file already, and a registered plan is not overwritten"
        raise OutputError(problem, where=str(path), remedy="choose another path, or remove the old plan")


def read_plan(path: Path) -> StudyPlan:
    """Read a pre-registration file; DataError, naming the place, when it is not one or was changed after writing."""
    found = _document(path)
    if found.get("lorascope_plan") != _VERSION:
        told = f"version {found['lorascope_plan']!r}" if "lorascope_plan" in found else "no version"
        problem = f"this is no plan that can be read: it has {told}, this lorascope reads {_VERSION}"
        raise DataError(problem, where=f"{path}, lorascope_plan", remedy=_REMEDY)
    try:
        plan = StudyPlan.model_validate(found.get("plan"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("plan", *first["loc"])))
        raise DataError(f"the plan is wrong: {first['msg']}", where=f"{path}, {place}", remedy=_REMEDY) from error
    if found.get("hash") != plan.hash:
        problem = "the plan was changed after it was registered: its hash does not fit"
        remedy = "restore the file as it was registered, or write a new plan with `lorascope blind plan`"
        raise DataError(problem, where=f"{path}, hash", remedy=remedy)
    return plan


def _document(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise DataError("the file is far too large for a plan", where=str(path), remedy=_REMEDY)
        found = json.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"the plan cannot be read: {error.strerror}", where=str(path), remedy=_REMEDY) from error
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}"
        raise DataError(f"the plan is no valid JSON: {error.msg}", where=place, remedy=_REMEDY) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError("the plan is no JSON text in UTF-8", where=str(path), remedy=_REMEDY) from error
    if not isinstance(found, dict):
        raise DataError("this is no plan: the file holds no JSON object", where=str(path), remedy=_REMEDY)
    return found
