"""What the maker of a study should know before it goes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lorascope.blind.arranging import APART
from lorascope.blind.candidates import Candidates
from lorascope.blind.drafts import Draft
from lorascope.blind.drawing import Drawn
from lorascope.blind.key import RowKind
from lorascope.blind.naming_models import in_words, naming
from lorascope.blind.request import StudyRequest
from lorascope.schema.comparison import CheckpointInfo

_FEWEST_RATERS = 3


def study_warnings(
    request: StudyRequest,
    candidates: Candidates,
    items: Sequence[Drawn],
    systems: Sequence[CheckpointInfo],
    sheets: Mapping[str, Sequence[Draft]],
) -> tuple[str, ...]:
    """Everything in which the study falls short of its request, its plan or good practice, in sentences."""
    return (
        *_items(request, candidates, items),
        *_raters(request),
        *_plan(request, items, sheets),
        *_sheets(request, sheets),
        *_names(items, systems),
    )


def _items(request: StudyRequest, candidates: Candidates, items: Sequence[Drawn]) -> list[str]:
    found = []
    if len(items) < request.items:
        found.append(f"{request.items} items were asked for and there are {len(items)}: all of them are drawn")
    if candidates.without_text:
        found.append(f"items left out because a compared system has no text for them: {candidates.without_text}")
    if candidates.doubled:
        found.append(f"rows of the samples left out because their item is there already: {candidates.doubled}")
    return found


def _raters(request: StudyRequest) -> list[str]:
    if request.raters < _FEWEST_RATERS:
        return [f"{request.raters} of at least three raters: one rater's habits weigh heavily"]
    if request.shared == 0:
        return ["the raters share no item, so their agreement cannot be measured"]
    return []


def _plan(request: StudyRequest, items: Sequence[Drawn], sheets: Mapping[str, Sequence[Draft]]) -> list[str]:
    plan = request.plan
    if plan is None:
        return []
    found = []
    pairs = {item.pair for item in items}
    fewest = min(sum(item.pair == pair for item in items) for pair in pairs)
    if fewest < plan.items:
        each = " for each pair of systems" if len(pairs) > 1 else ""
        found.append(f"the plan has {plan.items} items{each}, the study has {fewest}")
    if request.raters != plan.raters:
        found.append(f"the plan has {plan.raters} raters, the study has {request.raters}")
    rated = [row.item for rows in sheets.values() for row in rows if row.kind == "rated"]
    votes = len(rated) / len(set(rated))
    if votes < plan.votes_per_item:
        found.append(f"the plan has {plan.votes_per_item} votes an item, the study has {votes:.2f}")
    return found


def _sheets(request: StudyRequest, sheets: Mapping[str, Sequence[Draft]]) -> list[str]:
    raters: dict[str, list[str]] = {}
    for rater, rows in sheets.items():
        for text in _rows(rows, request):
            raters.setdefault(text, []).append(rater)
    return [f"{', '.join(names)}: {text}" for text, names in raters.items()]


def _rows(rows: Sequence[Draft], request: StudyRequest) -> list[str]:
    count = Counter(row.kind for row in rows)
    found = []
    if near := _near(rows):
        found.append(f"repeats with fewer than {APART} rated rows between them and their originals: {near}")
    asked: dict[RowKind, int] = {
        "repeat": request.repeats or 0,
        "mismatched": request.checks,
        "identical": request.identical,
    }
    names = {"repeat": "repeats", "mismatched": "mismatched checks", "identical": "identical pairs"}
    for kind, number in asked.items():
        if count[kind] < number:
            found.append(f"{number} {names[kind]} were asked for, {count[kind]} could be made")
    return found


def _near(rows: Sequence[Draft]) -> int:
    """Repeats with too few rated rows between them and the rows that they repeat."""
    before: dict[str, int] = {}
    rated = 0
    for row in rows:
        before[row.id] = rated
        rated += row.kind == "rated"
    near = 0
    for row in rows:
        if row.of is not None:
            apart = before[row.id] - before[row.of]
            near += (apart - 1 if apart > 0 else -apart) < APART
    return near


def _names(items: Sequence[Drawn], systems: Sequence[CheckpointInfo]) -> list[str]:
    found = {}
    for item in items:
        if not item.identical and (words := naming(item.answers, systems)):
            found[f"{item.candidate.task}/{item.candidate.item_id}"] = words
    return [in_words(found)] if found else []
