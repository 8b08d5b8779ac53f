"""What findings ask of a recipe: each rule turns one kind of finding into changed keys, by what the finding says alone.

A finding whose advice is to look, to choose between unlike things or to test something first changes nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lorascope.schema.comparison import Finding
from lorascope.schema.recipe import LOW_RANK, Recipe

_LEAST_SEVERE = {"critical": 0, "warning": 1, "good": 2, "info": 3}
_SEVERE = ("critical", "warning")
_REPLAY_SHARE = 0.05
_LOWER_CLIP = 0.3
_OWN_ATTENTION = ("Deberta", "deberta")


@dataclass(frozen=True, slots=True)
class Change:
    """A key of the recipe, its value before and the one that is asked for, and the finding that asks."""

    key: str
    before: Any
    value: Any
    finding: Finding

    @property
    def direction(self) -> int | None:
        """1 where a number grows, -1 where it falls; None for other values."""
        numbers = [value for value in (self.before, self.value) if isinstance(value, (int, float))]
        if len(numbers) < 2 or isinstance(self.value, bool) or numbers[0] == numbers[1]:
            return None
        return 1 if numbers[1] > numbers[0] else -1


@dataclass(frozen=True, slots=True)
class Case:
    """A subject's findings, the recipe it was trained by, resolved, and the base's architecture."""

    recipe: Recipe
    findings: Sequence[Finding]
    architecture: str

    def has(self, *kinds: str) -> bool:
        """Whether there is a finding of one of these kinds."""
        return any(kind_of(finding) in kinds for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Advice:
    """``changes`` by key, each with all findings that ask for it; ``contradictions`` are sentences about what was not
    applied; ``left`` are severe findings whose advice is no change of a recipe.
    """

    changes: tuple[tuple[Change, ...], ...]
    contradictions: tuple[str, ...]
    left: tuple[Finding, ...]


def kind_of(finding: Finding) -> str:
    """The kind in a finding's id: ``overfit``, ``labels:collapse`` …"""
    parts = finding.id.split(":")
    return ":".join(parts[:2]) if parts[0] == "labels" else parts[0]


def advise(case: Case) -> Advice:
    """What the findings ask of the recipe together; what they ask in opposite directions is named and left alone."""
    by_key: dict[str, list[Change]] = {}
    heeded = set()
    for finding in sorted(case.findings, key=lambda one: _LEAST_SEVERE[one.severity]):
        rule = _RULES.get((kind_of(finding), finding.area)) or _RULES.get((kind_of(finding), ""))
        for change in rule(finding, case) if rule else ():
            heeded.add(finding.id)
            if change.before != change.value:
                by_key.setdefault(change.key, []).append(change)
    changes, contradictions = [], []
    for key, every in by_key.items():
        asked, refused = _sparing_memory(every, case)
        contradictions += refused
        if not asked:
            continue
        against = _against(asked, case)
        if against:
            contradictions.append(f"{key}: {against}")
        else:
            changes.append(tuple(asked))
    severe = (one for one in case.findings if one.severity in _SEVERE and one.advice)
    return Advice(tuple(changes), tuple(contradictions), tuple(one for one in severe if one.id not in heeded))


def _sparing_memory(asked: Sequence[Change], case: Case) -> tuple[list[Change], list[str]]:
    """The changes without those that would deepen forgetting where it is severe, and a sentence on each of these."""
    worst = [one for one in case.findings if kind_of(one) == "forgetting" and one.severity in _SEVERE]
    if not worst or asked[0].key not in _DEEPENING:
        return list(asked), []
    forgotten = min(worst, key=lambda one: _LEAST_SEVERE[one.severity])
    dropped = [change for change in asked if change.direction == 1]
    refused = [
        f"{change.key}: {change.finding.id} ({change.finding.title}) asks for {_shown(change.value)}, which would "
        f"deepen what {forgotten.id} says ({forgotten.title})"
        for change in dropped
    ]
    return [change for change in asked if change not in dropped], refused


def _against(asked: Sequence[Change], case: Case) -> str | None:
    """Why the changes asked for one key are not made, if they are not."""
    directions = {change.direction for change in asked} - {None}
    values = {repr(change.value) for change in asked}
    if len(directions) > 1 or (not directions and len(values) > 1):
        return "; ".join(f"{change.finding.id} asks for {_shown(change.value)}" for change in asked)
    if asked[0].key in _LENGTH and directions == {1} and case.has("overfit"):
        over = next(one for one in case.findings if kind_of(one) == "overfit")
        return f"{asked[0].finding.id} asks for {_shown(asked[0].value)}, while {over.id} says that it is too long"
    return None


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


Rule = Callable[[Finding, Case], Iterable[Change]]
_LENGTH = ("optim.epochs", "optim.max_steps")
_DEEPENING = ("optim.learning_rate", *_LENGTH)


def _number(value: float) -> float:
    return float(f"{value:.2g}")


def _scaled_rate(factor: float) -> Rule:
    def rule(finding: Finding, case: Case) -> list[Change]:
        rate = case.recipe.optim.learning_rate
        return [Change("optim.learning_rate", rate, _number(rate * factor), finding)]

    return rule


def _scaled_rate_if(start: str, factor: float) -> Rule:
    """Only where the advice itself begins by saying so."""
    scaled = _scaled_rate(factor)
    return lambda finding, case: scaled(finding, case) if (finding.advice or "").startswith(start) else []


def _head_rate(finding: Finding, case: Case) -> list[Change]:
    optim = case.recipe.optim
    if case.recipe.task.kind == "generate":
        return []
    now = optim.head_learning_rate or optim.learning_rate
    return [Change("optim.head_learning_rate", optim.head_learning_rate, _number(10 * now), finding)]


def _longer(factor: float) -> Rule:
    def rule(finding: Finding, case: Case) -> list[Change]:
        optim = case.recipe.optim
        if optim.max_steps is not None:
            return [Change("optim.max_steps", optim.max_steps, round(optim.max_steps * factor), finding)]
        return [Change("optim.epochs", optim.epochs, _number(optim.epochs * factor), finding)]

    return rule


def _keep_best(finding: Finding, case: Case) -> list[Change]:
    """Keep the best evaluation of the set that the finding is about, and stop when no better one comes."""
    recipe, sets = case.recipe, case.recipe.validation_sets
    if not sets:
        return []
    chosen = recipe.evaluation
    asked = [Change("evaluation.keep", chosen.keep, "best", finding)]
    split = finding.id.split(":")[1] if ":" in finding.id else ""
    if split in sets and len(sets) > 1:
        asked.append(Change("evaluation.set", chosen.set, split, finding))
    by_metric = re.match(r"Choose by (\S+):", finding.advice or "")
    if by_metric:
        return [*asked, Change("evaluation.metric", chosen.metric, by_metric[1], finding)]
    if recipe.optim.early_stopping is None:
        asked.append(Change("optim.early_stopping", None, {"rule": "patience", "patience": 3}, finding))
    return asked


def _more_dropout(finding: Finding, case: Case) -> list[Change]:
    recipe = case.recipe
    structured = recipe.structured_dropout
    if structured is not None:
        parts = {"attention": structured.attention, "hidden": structured.hidden}
        return [
            Change(f"structured_dropout.{name}.rate", rate, _number(max(rate, min(2 * rate, 0.3))), finding)
            for name, part in parts.items()
            if part is not None and (rate := part.rate) is not None
        ]
    if recipe.method.name not in LOW_RANK:
        now = recipe.model_dropout
        return [Change("model_dropout", now, _number(min(2 * (0.1 if now is None else now), 0.5)) or 0.1, finding)]
    plain = recipe.hardware.attention != "auto" or any(name in case.architecture for name in _OWN_ATTENTION)
    if plain:
        now = recipe.method.dropout
        return [Change("method.dropout", now, _number(min(2 * now, 0.5)) or 0.1, finding)]
    return [Change("structured_dropout", None, {"preset": "hiddenkey-minus", "rate": 0.1}, finding)]


def _retain(finding: Finding, case: Case) -> list[Change]:
    """Replay where texts are trained on; a lower rate where replay is there already, or all weights move."""
    if not (finding.advice or "").startswith("Mix "):
        return []
    recipe, asked = case.recipe, []
    replay = recipe.replay
    if recipe.task.kind == "generate" and replay is None:
        asked = [Change("replay", None, {"ratio": _REPLAY_SHARE}, finding)]
    elif replay is not None and replay.ratio < _REPLAY_SHARE:
        asked = [Change("replay.ratio", replay.ratio, _REPLAY_SHARE, finding)]
    if not asked or recipe.method.name == "full":
        asked += _scaled_rate(1 / 3)(finding, case)
    return asked


def _collapsed(finding: Finding, case: Case) -> Iterable[Change]:
    """The finding names two causes with opposite cures; the curves tell them apart, and without them nothing does."""
    if case.has("divergence", "learning_rate_high"):
        return _scaled_rate(1 / 3)(finding, case)
    return _head_rate(finding, case) if case.has("base_rate", "standstill", "no_fall") else ()


def _weight_rare(finding: Finding, case: Case) -> list[Change]:
    told = (finding.advice or "").startswith("Thresholds do not bring them back")
    loss = case.recipe.loss
    if not told or loss.name not in (None, "bce") or case.recipe.task.multi_label is False:
        return []
    return [Change("loss.pos_weight", loss.pos_weight, "balanced", finding)]


def _lower_clip(finding: Finding, case: Case) -> list[Change]:
    clip = case.recipe.optim.clip
    if finding.severity == "info" or (clip is not None and clip <= _LOWER_CLIP):
        return []
    return [Change("optim.clip", clip, _LOWER_CLIP, finding)]


def _longer_warm_up(finding: Finding, case: Case) -> list[Change]:
    now = case.recipe.optim.warmup
    value = 0.1 if now == 0 else min(2 * now, 0.5) if now < 1 else 2 * now
    return [Change("optim.warmup", now, _number(value), finding)]


def _larger_batch(finding: Finding, case: Case) -> list[Change]:
    return [Change("optim.accumulate", case.recipe.optim.accumulate, 2 * case.recipe.optim.accumulate, finding)]


_THREEFOLD = "Raise the learning rate threefold"
_RULES: dict[tuple[str, str], Rule] = {
    ("overfit", "curves"): _keep_best,
    ("gap", ""): _more_dropout,
    ("forgetting", ""): _retain,
    ("learning", ""): lambda finding, case: (
        _longer(2)(finding, case) if (finding.advice or "").startswith("Train longer") else ()
    ),
    ("labels:collapse", ""): _collapsed,
    ("labels:never", ""): _weight_rare,
    ("divergence", "curves"): _scaled_rate(1 / 3),
    ("learning_rate_high", "curves"): _scaled_rate(1 / 3),
    ("learning_rate_low", "curves"): _scaled_rate_if(_THREEFOLD, 3),
    ("standstill", "curves"): _scaled_rate_if(_THREEFOLD, 3),
    ("no_fall", "curves"): _scaled_rate_if(_THREEFOLD, 3),
    ("base_rate", "curves"): _head_rate,
    ("spikes", "curves"): _lower_clip,
    ("warm_up", "curves"): _longer_warm_up,
    ("fluctuation", "curves"): _larger_batch,
    ("still_falling", "curves"): _longer(1.5),
}
