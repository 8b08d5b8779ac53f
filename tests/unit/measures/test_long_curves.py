"""Curves of many rows are read in time and memory that grow with their number."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lorascope.measures.curve_points import Points, trend
from lorascope.measures.curve_spikes import find_spikes
from lorascope.measures.curve_training import find_stairs
from lorascope.measures.curve_validation import find_gap, last_third_change, stretch_level


def points(values: np.ndarray, steps: np.ndarray | None = None) -> Points:
    return Points(np.arange(len(values), dtype=float) if steps is None else steps, values, np.empty(0))


@pytest.fixture(scope="module")
def fall() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=200_000)
    return 1 + np.exp(-np.arange(200_000) / 50_000) + 0.01 * noise


def test_many_evaluations_take_little_memory(fall: np.ndarray) -> None:
    train, evaluation = points(fall), points(fall[::10] + 0.5, np.arange(0, 200_000, 10.0))
    tracemalloc.start()
    change, gap = last_third_change(evaluation), find_gap(train, evaluation)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    expected = (np.exp(-4) - np.exp(-8 / 3)) / (1.5 + np.exp(-10 / 3))
    assert change == pytest.approx(expected, rel=0.1)
    assert gap is not None
    assert gap.final == pytest.approx(0.5, abs=0.05)


def test_a_line_through_many_points_is_that_through_few() -> None:
    steps = np.arange(1000.0)
    line = trend(steps, 5 - 0.002 * steps)
    assert line is not None
    assert (line.change, line.low, line.high) == pytest.approx((-1.998, -1.998, -1.998))


def test_the_level_of_a_stretch() -> None:
    train = points(np.array([9.0, 1, 2, 3, 4, 5]), np.array([0.0, 10, 20, 30, 40, 50]))
    evaluation = points(np.ones(4), np.array([-5.0, 30, 40, 60]))
    assert [stretch_level(train, evaluation, index) for index in range(4)] == [None, 2.5, 3.0, 4.0]


def test_a_jump_that_comes_back_after_thousands_of_rows() -> None:
    values = np.ones(6000) + 0.001 * np.sin(np.arange(6000))
    values[100:104] = 3.0
    values[104:5000] = 1.5
    values[3000] = 1.0  # one low row is no return
    found = find_spikes(points(values)) or ()
    assert [(spike.since, spike.recovered) for spike in found if spike.since == 100] == [(100, 5000)]


def test_rows_outside_of_many_stretches() -> None:
    kept = points(np.arange(10.0)).without([(2, 4), (3, 6), (8, 8), (9, 99), (7, 5)])
    assert kept.steps.tolist() == [0, 1, 6, 7, 8]
    assert len(points(np.arange(3.0)).without([])) == 3


@pytest.mark.parametrize("start", [0.0, 3e6, 1.7e9])
def test_stairs_of_epochs_that_begin_anywhere(start: float) -> None:
    epoch = start + np.arange(1, 101) / 25
    loss = 2 * 0.8 ** np.floor(np.arange(100) / 25)
    found = find_stairs(points(loss), points(epoch))
    assert found is not None
    assert len(found.steps) == 3
    assert found.excess == pytest.approx(0.22, abs=0.03)


@pytest.mark.parametrize("ends", [(0.0, 1.7e9), (1e12, 5.0), (-1e15, 3.0), (0.0, 1e300)])
def test_no_stairs_of_what_are_no_epochs(ends: tuple[float, float]) -> None:
    assert find_stairs(points(np.linspace(2, 1, 100)), points(np.linspace(*ends, 100))) is None
