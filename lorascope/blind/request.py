"""What a study is asked to be, and whether the result can give it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lorascope.blind.plan import StudyPlan
from lorascope.blind.rows import Language
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.comparison import CheckpointInfo, Comparison, TaskInfo


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What to make.

    ``items``: different items to draw. ``shared`` None: every rater gets all of them; else so many are rated by
    everybody and the others are split evenly among the raters.
    ``systems``: names of the checkpoints to compare, two at least, in any order; None: the base and every adapted one.
    ``tasks``: names of tasks of kind generate; None: all of them.
    ``repeats``: rows a rater sees again with the sides exchanged; None: a tenth of the rated ones, at least 8. Never
    more than the rated ones. ``checks``: rows a rater in which one answer belongs to another question. ``identical``:
    rows a rater with one text on both sides.
    ``flip_weight``: how many times likelier than the others items are drawn that a checkpoint fixed or broke; 1: as
    likely.
    ``languages``: what each rater reads besides the answers, in the raters' order; one stands for all.
    ``seed`` chooses the items and nothing else.
    """

    items: int = 120
    raters: int = 3
    systems: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    shared: int | None = None
    repeats: int | None = None
    checks: int = 3
    identical: int = 3
    flip_weight: float = 2.0
    languages: Sequence[Language] = ("en",)
    seed: int = 0
    plan: StudyPlan | None = None


def check_request(request: StudyRequest) -> None:
    """UsageError for numbers that make no study."""
    if request.items < 1 or request.raters < 1:
        raise UsageError(f"a study needs at least one item and one rater, not {request.items} and {request.raters}")
    if len(request.languages) not in (1, request.raters):
        problem = f"{len(request.languages)} languages for {request.raters} raters"
        raise UsageError(problem, remedy="give one language, or one for each rater: --lang en,zh,zh")
    counts = {"repeats": request.repeats or 0, "checks": request.checks, "identical": request.identical}
    for name, count in counts.items():
        if count < 0:
            raise UsageError(f"{name} is {count}", remedy="give 0 for none of these rows")
    if request.shared is not None and not 0 <= request.shared <= request.items:
        problem = f"{request.shared} of {request.items} items cannot be shared by all raters"
        raise UsageError(problem, remedy="0 to the number of items")
    if request.shared is not None and request.shared == 0 and request.items < request.raters:
        problem = f"{request.items} items cannot be split among {request.raters} raters"
        raise UsageError(problem, remedy="ask for more items, or let the raters share some")
    if not (math.isfinite(request.flip_weight) and request.flip_weight >= 1):
        remedy = "1 draws flipped items as often as the others, 2 twice as often"
        raise UsageError(f"the weight of flipped items is {request.flip_weight:g}", remedy=remedy)


def chosen_systems(comparison: Comparison, names: Sequence[str] | None) -> list[CheckpointInfo]:
    """The checkpoints to compare: base first, then the adapted ones in the result's order."""
    ordered = sorted(comparison.checkpoints, key=lambda each: each.role != "base")
    known = [each.name for each in ordered]
    for name in names or ():
        if name not in known:
            raise UsageError(f"the result has no checkpoint {name!r}", remedy=_nearest(name, known))
    chosen = ordered if names is None else [each for each in ordered if each.name in names]
    if len(chosen) < 2:
        found = f"{chosen[0].name!r} alone" if chosen else "none"
        raise UsageError(f"a comparison takes two systems, here is {found}", remedy="name two of the result's systems")
    return chosen


def chosen_tasks(comparison: Comparison, names: Sequence[str] | None) -> list[TaskInfo]:
    """The tasks whose answers are texts, in the result's order."""
    generated = [each for each in comparison.tasks if each.kind == "generate"]
    known = [each.name for each in generated]
    kinds = {each.name: each.kind for each in comparison.tasks}
    for name in names or ():
        if name in kinds and name not in known:
            problem = f"task {name!r} is of kind {kinds[name]}: its answers are no texts that people can compare"
            raise UsageError(problem, remedy=f"tasks of kind generate: {', '.join(known) or 'none'}")
        if name not in kinds:
            raise UsageError(f"the result has no task {name!r}", remedy=_nearest(name, known))
    chosen = generated if names is None else [each for each in generated if each.name in names]
    if not chosen:
        kept = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
        remedy = f"evaluate a task of kind generate; the result's tasks: {kept}"
        raise EvaluationError("no task of kind generate, so there are no answers to compare", remedy=remedy)
    return chosen


def _nearest(wrong: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(known) or 'none'}"
