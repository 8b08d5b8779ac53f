from __future__ import annotations

import math

import pytest
import torch

from lorascope.training.structured_dropout.masks import dropped_hidden, dropped_keys, span_length

CPU = torch.device("cpu")


def within_bounds(share, rate, independent):
    """Five standard deviations of the mean of so many independent draws."""
    return abs(share - rate) < 5 * math.sqrt(rate * (1 - rate) / independent)


def keys(structure, rate=0.1, span=0.1, batch=16, heads=4, queries=32, length=40, seed=0):
    torch.manual_seed(seed)
    dropped = dropped_keys(
        structure, batch=batch, heads=heads, queries=queries, keys=length, rate=rate, span=span, device=CPU
    )
    assert dropped.dtype == torch.bool
    return dropped.expand(batch, heads, queries, length)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("structure", ["element", "column", "span"])
def test_keys_are_dropped_at_the_rate(structure, rate):
    batch = 2000 if structure == "column" else 16
    dropped = keys(structure, rate, batch=batch, heads=1 if structure == "column" else 4)
    run = span_length(40, 0.1)
    independent = {"element": 16 * 4 * 32 * 40, "column": 2000 * 40, "span": 16 * 4 * 32 * 40 / run}[structure]
    assert within_bounds(dropped.float().mean().item(), rate, independent)


@pytest.mark.parametrize("structure", ["element", "column", "span"])
def test_every_position_is_dropped_as_often_as_any_other(structure):
    dropped = keys(structure, 0.2, batch=4000, heads=1, queries=1, length=20, span=0.25)
    shares = dropped.float().mean((0, 1, 2))
    assert all(within_bounds(share, 0.2, 4000) for share in shares.tolist())


def test_a_column_is_the_same_for_heads_and_queries_and_another_in_each_row():
    dropped = keys("column", 0.5)
    assert (dropped == dropped[:, :1, :1]).all()
    assert len({tuple(row.tolist()) for row in dropped[:, 0, 0]}) == 16


@pytest.mark.parametrize("structure", ["element", "span"])
def test_elements_and_spans_differ_between_heads_and_queries(structure):
    dropped = keys(structure, 0.5)
    assert not (dropped[:, 0] == dropped[:, 1]).all()
    assert not (dropped[:, :, 0] == dropped[:, :, 1]).all()


def runs(row):
    """(start, length) of each run of dropped positions."""
    found, start = [], None
    for place, value in enumerate([*row, False]):
        if value and start is None:
            start = place
        if not value and start is not None:
            found.append((start, place - start))
            start = None
    return found


def test_spans_have_their_length_unless_cut_at_an_end():
    dropped = keys("span", 0.1, span=0.1, length=50)
    assert span_length(50, 0.1) == 5
    inner = []
    for row in dropped.reshape(-1, 50).tolist():
        for start, length in runs(row):
            assert length >= 5 or start == 0 or start + length == 50
            if start > 0 and start + length < 50:
                inner.append(length)
    assert sum(length == 5 for length in inner) > len(inner) / 2


@pytest.mark.parametrize(("positions", "span", "length"), [(50, 0.1, 5), (3, 0.1, 1), (10, 1.0, 10), (1, 0.5, 1)])
def test_length_of_a_span(positions, span, length):
    assert span_length(positions, span) == length


def test_hidden_structures():
    def drop(structure):
        torch.manual_seed(0)
        return dropped_hidden(structure, batch=64, tokens=30, features=24, rate=0.2, span=0.1, device=CPU).expand(
            64, 30, 24
        )

    element, column, span = (drop(structure) for structure in ("element", "column", "span"))
    assert within_bounds(element.float().mean().item(), 0.2, 64 * 30 * 24)
    assert within_bounds(column.float().mean().item(), 0.2, 64 * 24)
    assert within_bounds(span.float().mean().item(), 0.2, 64 * 30 / 3)
    assert (column == column[:, :1]).all()
    assert (span == span[..., :1]).all()
    assert all(
        length >= 3 or start == 0 or start + length == 30
        for row in span[..., 0].tolist()
        for start, length in runs(row)
    )


def test_masks_follow_the_default_generator():
    assert (keys("span", seed=1) == keys("span", seed=1)).all()
    assert not (keys("span", seed=1) == keys("span", seed=2)).all()
