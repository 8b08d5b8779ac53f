"""Where a study departs from its registered plan, in words; without a plan, what is not as the export meant it."""

from __future__ import annotations

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
    """Absent raters and open rows; with a plan also other numbers of items, raters and votes than it has.

    Raters whom the plan itself excludes are no deviation.
    """
    found = [f"no ratings from {each.rater}" for each in raters if not each.present]
    for rater, count in checked.open_rows.items():
        found.append(f"{count} {'row' if count == 1 else 'rows'} of {rater} left out: no overall choice")
    if key.plan is None:
        return found
    return [
        *found,
        *_numbers(checked, key, key.plan),
        *(text for pair in pairs for text in _items(pair, key, key.plan)),
        *unjudged(raters, key.plan.exclusions),
    ]


def _numbers(checked: CheckedSheets, key: StudyKey, plan: StudyPlan) -> list[str]:
    found = []
    if len(key.raters) != plan.raters:
        found.append(f"the study was made for {len(key.raters)} raters, {plan.raters} were planned")
    items = [vote.row.item for vote in checked.votes if vote.row.kind == "rated"]
    each = len(items) / len(set(items)) if items else 0.0
    if each < plan.votes_per_item:
        found.append(f"{each:.2f} votes per rated item on average, {plan.votes_per_item} were planned")
    return found


def _items(pair: PairVotes, key: StudyKey, plan: StudyPlan) -> list[str]:
    """Identical items count: the plan has them among its ties."""
    if len(pair.items) == plan.items:
        return []
    made = sum((item.first, item.second) == (pair.first, pair.second) for item in key.items)
    lost = f", {made - len(pair.items)} more have no vote" if made > len(pair.items) else ""
    return [f"{pair.first} against {pair.second}: {len(pair.items)} items{lost}, {plan.items} were planned"]
