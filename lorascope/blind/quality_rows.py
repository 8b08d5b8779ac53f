"""Rows that watch over a rater's quality: repeats, mismatched checks and identical pairs.

No row may say which system is which, to a reader of all sheets neither. So everything here treats the two systems of
an item alike. In a mismatched row the item's own answer is either system's by the toss of a coin, and so is the answer
that does not belong: were it always the other system's, a text that shows in two rows would link the systems of two
items. Of the identical rows made of one answer, half are of one kind and half of the other, in random order over all
sheets; for each pair of systems a coin says whether the one kind is the first system's or the second's. And nothing
goes by the pair itself, so that of three systems none is found by the pairs that have most checks.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorascope.blind.arranging import APART, reach
from lorascope.blind.candidates import Candidate
from lorascope.blind.drafts import Draft, Shown, opaque_id
from lorascope.blind.drawing import Drawn

_NEAREST = 8


@dataclass(frozen=True, slots=True)
class Material:
    """What all sheets are made from.

    ``items`` are the drawn ones, ``candidates`` all that could be, by task. ``turns`` says, for one identical row after
    the other, whether the first (0) or the second system's answer (1) is shown twice; in pairs of systems that are
    ``turned`` (1, not 0) it is the other way round.
    """

    items: Sequence[Drawn]
    candidates: Mapping[str, Sequence[Candidate]]
    turns: Iterator[int]
    turned: Mapping[tuple[str, str], int]
    chance: random.Random

    def shown(self, place: int) -> tuple[Shown, Shown]:
        """The answers of an item's two systems, first's and second's."""
        first, second = self.items[place].pair
        answers = self.items[place].answers
        return Shown(first, answers[0]), Shown(second, answers[1])

    def draft(self, place: int, first_left: bool) -> Draft:
        """The row on which an item is rated."""
        first, second = self.shown(place)
        a, b = (first, second) if first_left else (second, first)
        return Draft(opaque_id(self.chance), "rated", place, self.items[place].candidate.question, a, b)

    def shuffled(self, places: Sequence[int]) -> list[int]:
        """The places in random order."""
        return self.chance.sample(places, len(places))


class Choosing:
    """Which of one rater's rated items are shown again: each once before any comes a third time.

    ``order`` are the rated items' places as the sheet shows them. Items whose other row finds a place far enough are
    taken first; they are at random places of a random order.
    """

    def __init__(self, order: Sequence[int], material: Material) -> None:
        self._material = material
        self._reach = {place: min(APART, reach(rank, len(order))) for rank, place in enumerate(order)}
        self._uses: Counter[int] = Counter()

    def ranked(self, preferred: Sequence[int] = ()) -> list[int]:
        """All places, the best to show again first."""
        wanted = set(preferred)
        return sorted(
            self._material.shuffled(list(self._reach)),
            key=lambda place: (self._uses[place], -self._reach[place], place not in wanted),
        )

    def use(self, place: int) -> None:
        """Count one more row of this item."""
        self._uses[place] += 1


def repeats(rated: Mapping[int, Draft], number: int, choosing: Choosing, material: Material) -> list[Draft]:
    """Rated rows once more, with the sides exchanged."""
    found = []
    for place in choosing.ranked()[:number]:
        choosing.use(place)
        row = rated[place]
        again = Draft(opaque_id(material.chance), "repeat", place, row.question, row.b, row.a, of=row.id)
        found.append(again)
    return found


def mismatched(number: int, choosing: Choosing, material: Material) -> list[Draft]:
    """Checks: an item's own answer beside one that a system gave to another question of the same task.

    Among items used equally often, those that all systems answered rightly come first, so that the answer that belongs
    is the better one. All of them, not the item's two: of three systems, the two best would have the most checks in
    common.
    """
    found: list[Draft] = []
    good = [place for place, item in enumerate(material.items) if _all_right(item.candidate)]
    for place in choosing.ranked(good):
        if len(found) == number:
            break
        row = _mismatched_row(place, material)
        if row is not None:
            choosing.use(place)
            found.append(row)
    return found


def _all_right(candidate: Candidate) -> bool:
    return bool(candidate.flips) and all(flip == "both_right" for flip in candidate.flips.values())


def _mismatched_row(place: int, material: Material) -> Draft | None:
    chance, item = material.chance, material.items[place]
    if "" in item.answers:
        return None
    own, replaced = chance.sample(material.shown(place), 2)
    system = chance.choice(item.pair)
    strangers = heapq.nsmallest(
        _NEAREST,
        (each for each in material.candidates[item.candidate.task] if _strange(each, item)),
        key=lambda each: abs(len(each.answers[system]) - len(replaced.text)),
    )
    if not strangers:
        return None
    stranger = Shown(system, chance.choice(strangers).answers[system])
    a, b = chance.sample((own, stranger), 2)
    return Draft(
        opaque_id(chance), "mismatched", place, item.candidate.question, a, b, wrong="A" if a is stranger else "B"
    )


def _strange(other: Candidate, item: Drawn) -> bool:
    """Whether both systems' answers to the other item are other texts than both of the item's own."""
    answers = {other.answers[system] for system in item.pair}
    return other.question != item.candidate.question and "" not in answers and answers.isdisjoint(item.answers)


def identical(number: int, choosing: Choosing, material: Material) -> list[Draft]:
    """Pairs of one text: items whose two answers are the same, then one answer of a rated item on both sides."""
    same = material.shuffled(alike(material.items))[:number]
    found = [_identical_row(place, material.shown(place), material) for place in same]
    for place in choosing.ranked():
        if len(found) >= number:
            break
        if all(material.items[place].answers):
            choosing.use(place)
            shown = material.shown(place)[next(material.turns) ^ material.turned[material.items[place].pair]]
            found.append(_identical_row(place, (shown, shown), material))
    return found


def alike(items: Sequence[Drawn]) -> list[int]:
    """Places of items whose two answers are the same text, not an empty one."""
    return [place for place, item in enumerate(items) if item.identical and item.answers[0]]


def _identical_row(place: int, shown: tuple[Shown, Shown], material: Material) -> Draft:
    a, b = material.chance.sample(shown, 2)
    return Draft(opaque_id(material.chance), "identical", place, material.items[place].candidate.question, a, b)
