from __future__ import annotations

import numpy as np
import pytest

from lorascope.errors import DataError
from lorascope.measures.curves import CurveReading, read_curves

NOTHING: tuple[list[float], list[float]] = ([], [])


def train(points: int = 200, seed: int = 0, noise: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    steps = np.arange(1, points + 1) * 10
    level = 0.5 + 2.0 * np.exp(-steps / 400)
    return steps, level * np.exp(np.random.default_rng(seed).normal(0, noise, size=points))


def read_evaluation(losses: list[float]) -> CurveReading:
    return read_curves(NOTHING, (np.arange(1, len(losses) + 1) * 100, losses))


def test_nothing_in_nothing_out() -> None:
    assert read_curves(NOTHING, NOTHING) == CurveReading()


def test_too_few_points_say_nothing() -> None:
    found = read_curves(([10, 20], [2.0, 1.0]), ([20, 40, 60], [1.0, 1.2, 1.4]))
    assert (found.overfit, found.overfit_step, found.spikes, found.plateau) == (None, None, None, None)
    assert found.best_step == 20
    assert read_curves(NOTHING, ([20], [1.0])).best_step is None


def test_overfitting_with_a_large_rise() -> None:
    found = read_evaluation([2.0, 1.5, 1.2, 1.0, 1.03, 1.1, 1.2, 1.3])
    assert (found.best_step, found.best_loss) == (400, 1.0)
    assert (found.overfit, found.overfit_step) == (True, 600)
    assert found.generalisation_loss == pytest.approx(30.0)
    assert "compare the task metric" in " ".join(found.evidence)


def test_overfitting_by_successive_rises() -> None:
    found = read_evaluation([2.0, 1.5, 1.2, 1.0, 1.01, 1.02, 1.035])
    assert (found.overfit, found.overfit_step) == (True, 500)


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 1.5, 1.2, 1.1, 1.05, 1.02],  # still falling
        [2.0, 1.0, 1.3, 1.2, 1.1, 0.99],  # rose, and came back
        [2.0, 1.5, 1.0, 1.001, 1.002, 1.003],  # three rises of nothing
        [2.0, 1.5, 1.0, 1.01, 1.02],  # two rises, small
        [1.0, 1.06, 0.99, 1.07, 1.0, 1.06, 0.98, 1.05],  # noise as large as the rise
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.5, 0.5, 0.5],
    ],
)
def test_no_false_alarm_of_overfitting(losses: list[float]) -> None:
    found = read_evaluation(losses)
    assert (found.overfit, found.overfit_step) == (False, None)


def test_divergence_is_not_overfitting() -> None:
    steps, losses = np.arange(1, 9) * 100, [2.0, 1.5, 1.2, 1.0, 1.1, 1.4, 2.0, 3.0]
    both = read_curves((steps, losses), (steps, losses))
    assert (both.overfit, both.overfit_step) == (False, None)
    assert "training diverged" in " ".join(both.evidence)
    falling = read_curves((steps, np.linspace(2, 0.2, 8)), (steps, losses))
    assert (falling.overfit, falling.overfit_step) == (True, 500)


def test_noise_around_a_floor_seldom_reads_as_overfitting() -> None:
    alarms = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        losses = (1 + np.exp(-np.arange(12) / 2)) * (1 + random.normal(0, 0.01, size=12))
        alarms += bool(read_evaluation(losses.tolist()).overfit)
    assert alarms <= 6


def test_gap_compares_the_last_stretch_alone() -> None:
    """Early on the lagged training loss lies above the validation loss; that is not the final gap."""
    steps = np.arange(1, 41) * 10
    losses = np.where(steps <= 300, 3.0, 0.4)
    found = read_curves((steps, losses), ([100, 200, 300, 400], [1.2, 1.0, 0.9, 1.0]))
    assert found.final_gap == pytest.approx(0.6)


def test_gap_needs_training_points_before_the_evaluation() -> None:
    assert read_curves(([500], [1.0]), ([100], [2.0])).final_gap is None
    assert read_curves(([50, 100], [1.0, 1.2]), ([100], [2.0])).final_gap == pytest.approx(0.9)


def test_one_spike_is_found_once() -> None:
    steps, losses = train()
    losses[120:122] *= [2.0, 1.7]
    found = read_curves((steps, losses), NOTHING)
    assert found.spikes == (1210,)
    assert "step 1210" in " ".join(found.evidence)


@pytest.mark.parametrize("seed", range(10))
def test_plain_noise_has_no_spikes(seed: int) -> None:
    assert read_curves(train(seed=seed, noise=0.05), NOTHING).spikes == ()


def test_a_staircase_at_epoch_borders_is_no_spike() -> None:
    steps = np.arange(1, 151) * 10
    losses = np.repeat([2.0, 1.2, 0.6], 50) * np.exp(np.random.default_rng(1).normal(0, 0.02, size=150))
    assert read_curves((steps, losses), NOTHING).spikes == ()


def test_a_steep_start_is_no_spike() -> None:
    steps = np.arange(1, 61)
    assert read_curves((steps, 8.0 * np.exp(-steps / 5) + 1), NOTHING).spikes == ()


def test_a_start_that_falls_off_its_plateau_is_no_spike() -> None:
    """A real run: a label head leaves ln 2 within twenty steps and then stays on the base rate."""
    start = [0.686, 0.615, 0.438, 0.232, 0.169, 0.161, 0.146, 0.15, 0.14, 0.145, 0.137, 0.143, 0.148, 0.135, 0.143]
    rest = [0.148, 0.141, 0.133, 0.134, 0.126, 0.127, 0.126, 0.125, 0.123, 0.117, 0.126, 0.121, 0.121, 0.126, 0.118]
    losses = [*start, *rest, 0.113, 0.106, 0.114, 0.112, 0.118, 0.114, 0.113, 0.113, 0.118, 0.113, 0.118, 0.113]
    assert read_curves((range(5, 5 * len(losses) + 5, 5), losses), NOTHING).spikes == ()


def test_the_gradient_norm_must_agree_where_it_is_known() -> None:
    steps, losses = train()
    losses[[50, 120]] *= 2.0
    norms = np.ones(200)
    norms[121] = 8.0
    assert read_curves((steps, losses), NOTHING, gradient_norm=(steps, norms)).spikes == (1210,)
    assert read_curves((steps, losses), NOTHING, gradient_norm=NOTHING).spikes == (510, 1210)


def test_plateau_reads_the_validation_loss() -> None:
    flat = [2.0, 1.5, 1.2, 1.05, 1.002, 1.001, 1.0, 1.001, 1.0]
    falling = [2.0, 1.8, 1.6, 1.4, 1.2, 1.0]
    assert (read_evaluation(flat).plateau, read_evaluation(falling).plateau) == (True, False)
    assert "+0.0" in " ".join(read_evaluation(flat).evidence) or "-0.1" in " ".join(read_evaluation(flat).evidence)
    assert read_evaluation(flat[:5]).plateau is None


def test_resumed_runs_and_broken_numbers() -> None:
    found = read_curves(NOTHING, ([100, 200, 300, 200, 300, 400], [2.0, 9.0, 9.0, 1.0, 1.1, float("nan")]))
    assert (found.best_step, found.best_loss) == (200, 1.0)
    assert "1 validation values are NaN or infinite." in found.evidence


def test_order_of_log_rows_does_not_matter() -> None:
    steps, losses = train()
    mixed = np.random.default_rng(0).permutation(200)
    assert read_curves((steps[mixed], losses[mixed]), NOTHING) == read_curves((steps, losses), NOTHING)


def test_columns_must_line_up() -> None:
    with pytest.raises(DataError, match="training curve has 2 steps and 1 values"):
        read_curves(([1, 2], [1.0]), NOTHING)
