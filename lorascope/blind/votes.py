"""Filled rows, unblinded: who preferred which system, and the tables of votes that every number is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorascope.blind.key import KeyRow, StudyItem, StudyKey
from lorascope.blind.rows import OVERALL
from lorascope.measures.core import BoolArray, FloatArray
from lorascope.schema.human import DIMENSIONS, Dimension, Votes

BOTH_BAD = "both bad"


@dataclass(frozen=True, slots=True)
class Vote:
    """One filled row. ``choice`` is a code of ``OVERALL``; ``ratings`` (1–5) hold what was rated, by cell name."""

    row: KeyRow
    choice: str
    ratings: Mapping[str, int]

    @property
    def for_a(self) -> int:
        """How far side A is preferred, -2 to 2."""
        return OVERALL[self.choice]

    def preference(self, item: StudyItem) -> int:
        """How far the item's ``first`` is preferred to its ``second``, -2 to 2; 'both bad' is 0."""
        return self.for_a if self.row.a == item.first else -self.for_a

    def rating(self, dimension: Dimension, system: str) -> int | None:
        """The rating of a system's answer, None where it was not given."""
        return self.ratings.get(f"{dimension}_{'a' if self.row.a == system else 'b'}")


@dataclass(frozen=True, slots=True)
class PairVotes:
    """The votes on the items of one pair of systems. Every table is (raters, items), NaN where there is no vote.

    ``items`` are places in the key's items: those with a vote, and the identical ones, which have none.
    ``preferences`` are first against second, -2 to 2; ``left`` is 1 for a vote for A, 0 for B, NaN for ties too.
    ``ratings`` are the two systems' own, first's and second's. ``counts`` are the single votes.
    """

    first: str
    second: str
    items: tuple[int, ...]
    identical: BoolArray
    preferences: FloatArray
    left: FloatArray
    ratings: Mapping[Dimension, tuple[FloatArray, FloatArray]]
    counts: Votes

    @property
    def rated_wins(self) -> FloatArray:
        """(raters, items): 1 where first is preferred, 0.5 for a tie, 0 where second is; NaN without a vote."""
        wins: FloatArray = (np.sign(self.preferences) + 1) / 2
        return wins

    @property
    def wins(self) -> FloatArray:
        """The same with identical answers as a tie of every rater of this pair."""
        wins = self.rated_wins
        voted = np.isfinite(wins).any(axis=1)
        voters = np.flatnonzero(voted) if voted.any() else np.array([0])
        wins[np.ix_(voters, np.flatnonzero(self.identical))] = 0.5
        return wins


def pair_votes(votes: Iterable[Vote], key: StudyKey, raters: Sequence[str]) -> list[PairVotes]:
    """The rated rows' votes by pair of systems, in the order of the systems; items that nobody rated are left out.

    Repeats, mismatched and identical rows are for the raters' quality alone and enter nothing here. A pair that has
    items with differing answers and not one vote on them is not there: its identical items alone would look like ties.
    """
    by_item: dict[int, list[Vote]] = {}
    for vote in votes:
        if vote.row.kind == "rated":
            by_item.setdefault(vote.row.item, []).append(vote)
    places: dict[tuple[str, str], list[int]] = {}
    silent = set()
    for place, item in enumerate(key.items):
        if item.identical or place in by_item:
            places.setdefault((item.first, item.second), []).append(place)
        else:
            silent.add((item.first, item.second))
    voted = {(key.items[place].first, key.items[place].second) for place in by_item}
    lines = {rater: line for line, rater in enumerate(raters)}
    order = {system.name: place for place, system in enumerate(key.systems)}
    pairs = sorted(places.keys() - (silent - voted), key=lambda pair: (order[pair[1]], order[pair[0]]))
    return [_pair(pair, places[pair], by_item, key, lines) for pair in pairs]


def _pair(
    pair: tuple[str, str],
    places: Sequence[int],
    by_item: Mapping[int, Sequence[Vote]],
    key: StudyKey,
    lines: Mapping[str, int],
) -> PairVotes:
    def empty() -> FloatArray:
        return np.full((len(lines), len(places)), np.nan)

    preferences, left = empty(), empty()
    ratings = {dimension: (empty(), empty()) for dimension in DIMENSIONS}
    counted = dict.fromkeys(Votes.model_fields, 0)
    for column, place in enumerate(places):
        for vote in by_item.get(place, ()):
            cell = lines[vote.row.rater], column
            preferences[cell] = preference = vote.preference(key.items[place])
            left[cell] = np.nan if vote.for_a == 0 else float(vote.for_a > 0)
            counted[_counted_as(vote.choice, preference)] += 1
            for dimension, tables in ratings.items():
                for table, system in zip(tables, pair, strict=True):
                    given = vote.rating(dimension, system)
                    table[cell] = np.nan if given is None else given
    identical = np.array([key.items[place].identical for place in places], dtype=np.bool_)
    return PairVotes(*pair, tuple(places), identical, preferences, left, ratings, Votes(**counted))


_COUNTED = {2: "first_much", 1: "first", 0: "tie", -1: "second", -2: "second_much"}


def _counted_as(choice: str, preference: int) -> str:
    return "both_bad" if choice == BOTH_BAD else _COUNTED[preference]
