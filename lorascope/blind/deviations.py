"""Where a study departs from its registered plan, in words; without a plan, what is not as the export meant it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lorascope.blind.checking import CheckedSheets
from lorascope.blind.key import StudyKey
from lorascope.blind.plan import StudyPlan
from lorascope.blind.quality import unjudged
from lorascope.blind.votes import PairVotes
from lorascope.schema.human import RaterQuality


def deviations(
    checked: CheckedSheets, key: StudyKey, raters: Sequence[RaterQuality], pairs: Sequence[PairVotes]
) -> list[str]:
    """Absent raters, open rows, pairs without votes; with a plan also other numbers than it has.

    Raters whom the plan itself excludes are no deviation.
    """
    found = [f"no ratings from {each.rater}" for each in raters if not each.present]
    for rater, count in checked.open_rows.items():
        found.append(f"{_count(count, 'row')} of {rater} left out: no overall choice")
    found += _unscored(key, pairs)
    if key.plan is None:
        return found
    return [
        *found,
        *_numbers(checked, key, key.plan),
        *(text for pair in pairs for text in _items(pair, key, key.plan)),
        *unjudged(raters, key.plan.exclusions),
    ]


def _unscored(key: StudyKey, pairs: Sequence[PairVotes]) -> list[str]:
    scored = {(pair.first, pair.second) for pair in pairs}
    drawn = Counter((item.first, item.second) for item in key.items)
    return [
        f"{first} against {second}: {_count(items, 'item')} without any vote, and so without a score"
        for (first, second), items in drawn.items()
        if (first, second) not in scored
    ]


def _numbers(checked: CheckedSheets, key: StudyKey, plan: StudyPlan) -> list[str]:
    found = []
    if len(key.raters) != plan.raters:
        found.append(f"the study was made for {_count(len(key.raters), 'rater')}, {_planned(plan.raters)}")
    items = [vote.row.item for vote in checked.votes if vote.row.kind == "rated"]
    each = round(len(items) / len(set(items)), 2) if items else 0.0
    if each != plan.votes_per_item:
        votes = "vote" if each == 1 else "votes"
        found.append(f"{each:.2f} {votes} per rated item on average, {_planned(plan.votes_per_item)}")
    return found


def _items(pair: PairVotes, key: StudyKey, plan: StudyPlan) -> list[str]:
    """Identical items count: the plan has them among its ties."""
    if len(pair.items) == plan.items:
        return []
    made = sum((item.first, item.second) == (pair.first, pair.second) for item in key.items)
    silent = made - len(pair.items)
    lost = f", {silent} more {'has' if silent == 1 else 'have'} no vote" if silent else ""
    return [f"{pair.first} against {pair.second}: {_count(len(pair.items), 'item')}{lost}, {_planned(plan.items)}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _planned(number: int) -> str:
    return f"{number} {'was' if number == 1 else 'were'} planned"
