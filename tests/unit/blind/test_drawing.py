from __future__ import annotations

import random
import time
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.blind.candidates import Candidate
from lorascope.blind.drawing import allocate, deal_pairs, draw
from lorascope.blind.strata import Layer, make_layers

Kind = tuple[str, int, str | None]


def candidate(number: int, task: str = "support", length: int = 10, flip: str | None = None) -> Candidate:
    answers = {"base": "b" * length, "tuned": "t" * length}
    flips = {} if flip is None else {"tuned": flip}
    return Candidate(task, f"i{number:05}", f"question {number}", answers, flips)


def population(kinds: list[tuple[Kind, int]]) -> list[Candidate]:
    """So many candidates of each kind (task, length, flip)."""
    made = [candidate(0, *kind) for kind, count in kinds for _ in range(count)]
    return [Candidate(each.task, f"i{at:05}", f"q{at}", each.answers, each.flips) for at, each in enumerate(made)]


KINDS = st.lists(
    st.tuples(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.integers(1, 40),
            st.sampled_from(["fixed", "broken", "both_right", "both_wrong", None]),
        ),
        st.integers(1, 30),
    ),
    min_size=1,
    max_size=12,
)


@given(kinds=KINDS, wanted=st.integers(1, 150), pairs=st.integers(1, 6), weight=st.floats(1, 8))
@settings(max_examples=100, deadline=None)
def test_every_stratum_is_drawn_from_and_weights_sum_to_the_population(
    kinds: list[tuple[Kind, int]], wanted: int, pairs: int, weight: float
) -> None:
    items = population(kinds)
    total = min(wanted, len(items))
    pairs = min(pairs, total)
    layers = make_layers(items, total=total, pairs=pairs)
    assert sorted(each.item_id for layer in layers for each in layer.items) == [each.item_id for each in items]
    assert len({layer.name for layer in layers}) == len(layers)
    counts = allocate(layers, total=total, pairs=pairs, flip_weight=weight)
    assert sum(counts) == total
    sizes = [len(layer.items) for layer in layers]
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    if len(layers) > 1:
        assert all(count >= min(2 * pairs, size) for count, size in zip(counts, sizes, strict=True))
        assert min(sizes) >= max(2, pairs)
    weights = [size / count for count, size in zip(counts, sizes, strict=True)]
    assert sum(w * count for w, count in zip(weights, counts, strict=True)) == pytest.approx(len(items))


@given(kinds=KINDS, pairs=st.integers(1, 6), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_pairs_are_balanced_in_all_and_within_strata(kinds: list[tuple[Kind, int]], pairs: int, seed: int) -> None:
    items = population(kinds)
    pairs = min(pairs, len(items))
    total = max(pairs, len(items) * 2 // 3)
    layers = make_layers(items, total=total, pairs=pairs)
    counts = allocate(layers, total=total, pairs=pairs, flip_weight=2.0)
    names = [(f"s{at}", "base") for at in range(pairs)]
    dealt = deal_pairs(draw(layers, counts, seed), names, random.Random(seed))
    assert len({each.candidate.item_id for each in dealt}) == total == len(dealt)
    for part in [dealt, *([each for each in dealt if each.stratum == layer.name] for layer in layers)]:
        found = Counter(each.pair for each in part)
        assert max(found.values()) - min(found[name] for name in names) <= 1
    if len(layers) > 1:
        assert all(len({each.pair for each in dealt if each.stratum == layer.name}) == pairs for layer in layers)


def test_strata_are_task_length_and_flip() -> None:
    kinds: list[tuple[Kind, int]] = [
        (("a", length, flip), 10) for length in (5, 50, 500) for flip in ("fixed", "both_right")
    ]
    layers = make_layers(population([*kinds, (("b", 9, None), 12)]), total=40, pairs=1)
    assert {layer.name: (len(layer.items), layer.flipped) for layer in layers} == {
        **{f"a, {length}, not flipped": (10, False) for length in ("short", "middle", "long")},
        **{f"a, {length}, flipped": (10, True) for length in ("short", "middle", "long")},
        "b": (12, False),
    }
    by_name = {layer.name: {each.length for each in layer.items} for layer in layers}
    assert by_name["a, short, flipped"] == {5}
    assert by_name["a, long, not flipped"] == {500}


def test_fixed_and_broken_are_one_kind_and_unknown_flips_make_none() -> None:
    both = make_layers(
        population([(("a", 5, "fixed"), 5), (("a", 5, "broken"), 5), (("a", 5, None), 5)]), total=9, pairs=1
    )
    assert {layer.name: len(layer.items) for layer in both} == {"a, not flipped": 5, "a, flipped": 10}
    assert [layer.name for layer in make_layers(population([(("a", 5, None), 30)]), total=9, pairs=1)] == ["all items"]


def test_a_lonely_item_joins_the_nearest_length_of_its_flip() -> None:
    kinds: list[tuple[Kind, int]] = [
        (("a", 5, "both_right"), 22), (("a", 50, "both_right"), 20), (("a", 500, "both_right"), 19),
        (("a", 500, "fixed"), 1), (("a", 50, "fixed"), 4),
    ]  # fmt: skip
    names = {layer.name: len(layer.items) for layer in make_layers(population(kinds), total=30, pairs=1)}
    assert names == {
        "a, short, not flipped": 22, "a, middle, not flipped": 20, "a, long, not flipped": 19, "a, flipped": 5,
    }  # fmt: skip


def test_few_items_keep_flips_apart_the_longest() -> None:
    kinds: list[tuple[Kind, int]] = [
        ((task, length, flip), 10) for task in "abc" for length in (5, 50, 500) for flip in ("fixed", "both_right")
    ]
    names = {total: len(make_layers(population(kinds), total=total, pairs=1)) for total in (36, 35, 12, 4, 3)}
    assert names[36] == 18
    assert names[35] == 17
    assert names[12] == 6
    by_flip = make_layers(population(kinds), total=4, pairs=1)
    assert sorted((layer.flipped, len(layer.items)) for layer in by_flip) == [(False, 90), (True, 90)]
    assert [layer.name for layer in by_flip] == [
        "a, not flipped + b, not flipped + c, not flipped",
        "a, flipped + b, flipped + c, flipped",
    ]
    assert names[3] == 1


def test_many_tasks_are_divided_in_time() -> None:
    kinds: list[tuple[Kind, int]] = [
        ((f"task {task:02}", length, flip), 4)
        for task in range(57)
        for length in (5, 50, 500)
        for flip in ("fixed", "both_right")
    ]
    started = time.monotonic()
    layers = make_layers(population(kinds), total=120, pairs=1)
    assert time.monotonic() - started < 20
    assert len(layers) == 60
    assert all(len({each.flipped for each in layer.items}) == 1 for layer in layers)


def layer(name: str, size: int, *, flipped: bool = False) -> Layer:
    return Layer(name, flipped, tuple(candidate(at, name) for at in range(size)))


def test_allocation_is_proportional_with_flips_weighted() -> None:
    layers = [layer("rest", 300), layer("flipped", 100, flipped=True)]
    assert allocate(layers, total=80, pairs=1, flip_weight=1.0) == [60, 20]
    assert allocate(layers, total=80, pairs=1, flip_weight=2.0) == [48, 32]
    assert allocate(layers, total=80, pairs=1, flip_weight=3.0) == [40, 40]


def test_allocation_takes_small_strata_whole() -> None:
    layers = [layer("rest", 300), layer("some", 3), layer("flipped", 10, flipped=True)]
    assert allocate(layers, total=50, pairs=2, flip_weight=100.0) == [37, 3, 10]
    assert allocate(layers, total=313, pairs=2, flip_weight=2.0) == [300, 3, 10]


def test_a_draw_is_the_seed_alone() -> None:
    layers = [layer("rest", 300), layer("flipped", 100, flipped=True)]
    drawn = {seed: [[each.item_id for each in items] for _, items in draw(layers, [30, 20], seed)] for seed in range(4)}
    assert drawn[0] == [[each.item_id for each in items] for _, items in draw(layers, [30, 20], 0)]
    assert all(drawn[one] != drawn[other] for one, other in combinations(drawn, 2))


def test_every_item_of_a_stratum_is_as_likely() -> None:
    layers = [layer("rest", 20)]
    found = Counter(each.item_id for seed in range(2000) for _, items in draw(layers, [5], seed) for each in items)
    assert len(found) == 20
    assert all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in found.values())
