from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.blind.arranging import APART, Extra, arrange, reach
from lorascope.blind.assigning import balanced_sides, share_items
from lorascope.blind.candidates import Candidate
from lorascope.blind.drawing import Drawn


def drawn(count: int, pairs: int, strata: int = 1, seed: int = 0) -> dict[int, Drawn]:
    """Items of random pairs; some places are left out, as identical items are."""
    chance = random.Random(seed)
    return {
        2 * place: Drawn(
            Candidate("t", f"i{place}", f"q{place}", {}, {}),
            f"stratum {chance.randrange(strata)}",
            (f"s{chance.randrange(pairs)}", "base"),
        )
        for place in range(count)
    }


SHAPES = {
    "count": st.integers(1, 60),
    "raters": st.integers(1, 9),
    "pairs": st.integers(1, 6),
    "share": st.none() | st.floats(0, 1),
    "seed": st.integers(0, 2**32),
}


@given(**SHAPES)
@settings(max_examples=100, deadline=None)
def test_sides_are_balanced_within_raters_pairs_and_items_at_once(
    count: int, raters: int, pairs: int, share: float | None, seed: int
) -> None:
    items = drawn(count, pairs, seed=seed)
    chance = random.Random(seed)
    shares = share_items(items, raters, None if share is None else round(share * count), chance)
    sides = balanced_sides(shares, items, chance)
    assert set(sides) == {(rater, place) for rater, places in enumerate(shares) for place in places}
    sets: dict[object, list[bool]] = {}
    for (rater, place), first_left in sides.items():
        for name in (("cell", rater, items[place].pair), ("item", place)):
            sets.setdefault(name, []).append(first_left)
    for name, found in sets.items():
        assert abs(2 * sum(found) - len(found)) <= 1, name
    for rater, places in enumerate(shares):
        left = sum(sides[rater, place] for place in places)
        assert abs(2 * left - len(places)) <= len({items[place].pair for place in places})


def test_sides_of_one_pair_say_nothing_of_anothers() -> None:
    # Which system of each pair is the first is not to be seen from a balance of all pairs together.
    items = {at: Drawn(Candidate("t", f"i{at}", f"q{at}", {}, {}), "all", (f"s{at}", "base")) for at in range(2)}
    chance = random.Random(8)
    same = 0
    for _ in range(1000):
        sides = balanced_sides([[0, 1]], items, chance)
        same += sides[0, 0] == sides[0, 1]
    assert abs(same - 500) < 4.5 * 250**0.5


def test_a_pairs_name_does_not_say_which_raters_get_one_more_of_it() -> None:
    items = {at: Drawn(Candidate("t", f"i{at}", f"q{at}", {}, {}), "all", (f"s{at}", "base")) for at in range(3)}
    chance = random.Random(9)
    longest: Counter[int] = Counter()
    together: Counter[int] = Counter()
    for _ in range(1200):
        shares = sorted(share_items(items, 2, 0, chance), key=len)
        longest.update(shares[1])
        together.update(shares[0])
    for found, mean in ((longest, 800), (together, 400)):
        assert all(abs(found[at] - mean) < 4.5 * (1200 * 2 / 9) ** 0.5 for at in range(3)), found


@given(**SHAPES)
@settings(max_examples=100, deadline=None)
def test_shared_items_are_everybodys_and_the_others_one_raters(
    count: int, raters: int, pairs: int, share: float | None, seed: int
) -> None:
    items = drawn(count, pairs, strata=3, seed=seed)
    shared = count if share is None else round(share * count)
    shares = share_items(items, raters, None if share is None else shared, random.Random(seed))
    votes = Counter(place for places in shares for place in places)
    assert set(votes) == set(items)
    assert all(len(set(places)) == len(places) for places in shares)
    if raters > 1:
        assert Counter(votes.values()) == Counter({raters: shared}) + Counter({1: count - shared})
    sizes = [len(places) for places in shares]
    assert max(sizes) - min(sizes) <= 1


def test_shared_and_own_items_are_spread_over_pairs() -> None:
    items = drawn(120, 3, strata=2, seed=4)
    pairs = Counter(item.pair for item in items.values())
    shares = share_items(items, 4, 40, random.Random(1))
    common = set.intersection(*map(set, shares))
    assert len(common) == 40
    for pair, count in pairs.items():
        assert abs(sum(items[place].pair == pair for place in common) - count / 3) <= 1
        for places in shares:
            own = sum(items[place].pair == pair for place in places if place not in common)
            assert abs(own - count / 6) <= 1.5


def test_each_side_is_a_fair_coin() -> None:
    items = drawn(7, 2, seed=3)
    chance = random.Random(5)
    found: Counter[tuple[int, int]] = Counter()
    for _ in range(2000):
        sides = balanced_sides(share_items(items, 3, None, chance), items, chance)
        found.update(cell for cell, first_left in sides.items() if first_left)
    assert len(found) == 21
    assert all(abs(count - 1000) < 4.5 * 500**0.5 for count in found.values())


def test_which_raters_agree_on_a_side_is_random() -> None:
    # No fixed rule such as "every other rater's sheet is turned round".
    items = drawn(20, 1)
    chance = random.Random(6)
    agreeing: Counter[tuple[int, int]] = Counter()
    for _ in range(300):
        sides = balanced_sides(share_items(items, 3, None, chance), items, chance)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            agreeing[one, other] += sum(sides[one, place] == sides[other, place] for place in items)
    assert all(count == pytest.approx(300 * 20 / 3, rel=0.06) for count in agreeing.values())


@given(count=st.integers(1, 60), extras=st.integers(0, 25), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_extra_rows_stand_as_far_from_their_originals_as_they_can(count: int, extras: int, seed: int) -> None:
    chance = random.Random(seed)
    ranks = [None if chance.random() < 0.2 else chance.randrange(count) for _ in range(extras)]
    rows = arrange(list(range(count)), [Extra(-1 - at, rank) for at, rank in enumerate(ranks)], chance)
    assert [row for row in rows if row >= 0] == list(range(count))
    assert sorted(rows, reverse=True) == [*range(count)][::-1] + [-1 - at for at in range(extras)]
    for at, rank in enumerate(ranks):
        if rank is not None:
            low, high = sorted((rows.index(rank), rows.index(-1 - at)))
            between = sum(row >= 0 for row in rows[low + 1 : high])
            assert between >= min(APART, reach(rank, count))


def test_extra_rows_come_before_their_originals_as_often_as_after() -> None:
    chance = random.Random(2)
    before = 0
    for _ in range(2000):
        rank = chance.randrange(40)
        rows = arrange(list(range(40)), [Extra(-1, rank)], chance)
        before += rows.index(-1) < rows.index(rank)
    assert abs(before - 1000) < 4 * 500**0.5
