"""Readings of a validation set: criteria of over-fitting, no fall, gap, metric, the checkpoint to keep."""

from __future__ import annotations

import numpy as np
import pytest

from lorascope.measures.curves import ValidationReading, read_validation

NOTHING: tuple[list[float], list[float]] = ([], [])


def at(losses: list[float] | np.ndarray) -> tuple[np.ndarray, list[float] | np.ndarray]:
    return np.arange(1, len(losses) + 1) * 100, losses


def validation(losses: list[float]) -> ValidationReading:
    return read_validation(NOTHING, at(losses))


def test_prechelts_criteria_each_name_their_step() -> None:
    train = np.arange(1, 81) * 10, np.full(80, 0.5) * (1 + 0.001 * (np.arange(80) % 2))
    found = read_validation(train, at([2.0, 1.5, 1.2, 1.0, 1.03, 1.1, 1.2, 1.3])).overfitting
    assert found is not None
    assert (found.best_step, found.step, found.rise) == (400, 600, pytest.approx(30.0))
    assert found.generalisation_loss == 600
    assert found.progress_quotient == 500  # 3 % over 0.5 per mille of training progress
    assert found.rises == 700


def test_without_training_rows_the_quotient_says_nothing() -> None:
    found = validation([2.0, 1.0, 1.1, 1.2, 1.3]).overfitting
    assert found is not None
    assert found.progress_quotient is None


def test_a_small_rise_among_many_noisy_evaluations_is_seen() -> None:
    position = np.linspace(0, 1, 100)
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    losses = np.where(position < 0.4, 1.4 - position, 1.0 + 0.2 * (position - 0.4)) * (1 + noise)
    found = read_validation(NOTHING, at(losses)).overfitting
    assert found is not None
    assert 4000 <= found.step <= 8500


def test_a_loss_that_never_fell() -> None:
    train = np.arange(1, 101) * 10, np.linspace(2.0, 1.0, 100)
    found = read_validation(train, at([1.5, 1.503, 1.498, 1.501, 1.499, 1.5, 1.502, 1.5, 1.499, 1.501])).no_fall
    assert found is not None
    assert abs(found.change) < 0.005
    assert found.train_change is not None
    assert found.train_change < -0.4
    assert (found.first_step, found.last_step) == (100, 1000)


@pytest.mark.parametrize(
    "losses",
    [
        [1.5, 1.4, 1.35, 1.33, 1.32],
        [1.5, 1.2, 1.2, 1.2, 1.2, 1.2],  # fell, and stood still
        [1.5, 1.1, 1.7, 1.2, 1.6, 1.0],  # noise hides whatever it does
        [1.5, 1.5, 1.5, 1.5],  # too few
    ],
)
def test_what_fell_or_cannot_be_known_is_no_lack_of_fall(losses: list[float]) -> None:
    assert validation(losses).no_fall is None


def test_the_gap_is_sustained_and_widens() -> None:
    steps = np.arange(1, 101) * 10
    found = read_validation((steps, np.linspace(1.5, 0.4, 100)), at(np.linspace(1.4, 1.2, 10))).gap
    assert found is not None
    assert found.wide is True
    assert found.since > 100
    assert found.share == pytest.approx(1 - 0.5 / 1.2, abs=0.1)
    level = read_validation((steps, np.linspace(1.4, 1.2, 100)), at(np.linspace(1.38, 1.22, 10)))
    assert level.gap is None or level.gap.wide is False
    assert validation([1.0, 1.0, 1.0]).gap is None


def test_the_metric_is_followed_after_the_lowest_loss() -> None:
    losses = at([2.0, 1.5, 1.0, 1.1, 1.2, 1.3])
    rising = read_validation(NOTHING, losses, metric=at([0.2, 0.3, 0.4, 0.5, 0.55, 0.6]))
    assert rising.metric_course is not None
    assert rising.metric_course.improved is True
    assert rising.metric_checkpoint is not None
    assert rising.metric_checkpoint.best_step == 600
    falling = read_validation(NOTHING, losses, metric=at([0.6, 0.5, 0.4, 0.41, 0.52, 0.63]), higher_is_better=False)
    assert falling.metric_course is not None
    assert falling.metric_course.improved is False
    assert read_validation(NOTHING, losses, metric=([300], [0.4])).metric_course is None


def test_a_metric_that_cannot_tell_evaluations_apart_is_passed_over() -> None:
    losses = at([2.0, 1.5, 1.0, 1.1, 1.2, 1.3])
    for flat in ([0.0] * 6, [0.0, 0.0, 0.0, 0.01, 0.0, 0.02]):
        found = read_validation(NOTHING, losses, metric=at(flat))
        assert (found.metric_course, found.metric_checkpoint) == (None, None)


def test_the_checkpoint_is_the_earliest_within_noise() -> None:
    noisy = [2.0, 1.5, 1.2, 1.01, 1.0, 1.012, 1.002, 1.011, 0.999, 1.012]
    found = validation(noisy).checkpoint
    assert found is not None
    assert (found.best_step, found.step, found.within_noise) == (900, 500, 3)
    smooth = validation([4.0, 3.0, 2.4, 2.1, 2.0, 1.95, 1.93]).checkpoint
    assert smooth is not None
    assert (smooth.step, smooth.noise) == (700, 0.0)
    few = validation([2.0, 1.0, 1.001]).checkpoint
    assert few is not None
    assert (few.step, few.noise, few.within_noise) == (200, None, 1)
    assert validation([1.0]).checkpoint is None
