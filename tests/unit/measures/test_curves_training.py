"""Readings of the training loss alone, on curves whose fault is put in by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lorascope.measures.curve_points import cleaned, scaled, strips, trend
from lorascope.measures.curves import read_training

STEPS = np.arange(1, 241) * 10
POSITION = STEPS / STEPS[-1]
NOISE = np.exp(np.random.default_rng(0).normal(0, 0.03, len(STEPS)))
HEALTHY = (1 + 2 * (1 + POSITION / 0.05) ** -0.7) * NOISE
WARM = np.minimum(POSITION / 0.05, 1)
COSINE = 1e-4 * np.where(POSITION < 0.05, WARM, (1 + np.cos(np.pi * (POSITION - 0.05) / 0.95)) / 2)


def test_a_healthy_curve_has_no_fault() -> None:
    found = read_training(
        (STEPS, HEALTHY),
        gradient_norm=(STEPS, np.ones(len(STEPS))),
        learning_rate=(STEPS, COSINE),
        epochs=(STEPS, 3 * POSITION),
        plateau_loss=0.3,
    )
    assert found.spikes == ()
    assert (found.divergence, found.standstill, found.stairs) == (None, None, None)
    assert (found.warm_up, found.high_rate, found.low_rate) == (None, None, None)
    assert found.fluctuation is not None
    assert found.fluctuation.unruly is False
    assert 0.02 < found.fluctuation.noise < 0.04


def test_nothing_says_nothing() -> None:
    found = read_training(([], []), learning_rate=([], []), epochs=([], []), gradient_norm=([], []))
    assert set(vars(found).values()) == {None}


def test_a_spike_says_when_the_loss_was_back() -> None:
    losses = HEALTHY.copy()
    losses[120:123] *= [3.0, 2.0, 1.6]
    (spike,) = read_training((STEPS, losses)).spikes or ()
    assert (spike.since, spike.step, spike.recovered) == (1210, 1210, 1240)
    assert spike.height == pytest.approx(3.0, rel=0.15)
    assert read_training((STEPS, losses)).divergence is None


def test_a_spike_in_the_last_row_is_not_back() -> None:
    losses = HEALTHY.copy()
    losses[-1] *= 3.0
    (spike,) = read_training((STEPS, losses)).spikes or ()
    assert (spike.step, spike.recovered) == (2400, None)


def test_heavy_tails_on_both_sides_are_no_spikes() -> None:
    losses = HEALTHY.copy()
    losses[[60, 140]] *= 1.5
    losses[[90, 200]] /= 1.5
    assert read_training((STEPS, losses)).spikes == ()


@pytest.mark.parametrize("factor", [1.5, 4.0])
def test_a_loss_that_rises_to_stay_diverges(factor: float) -> None:
    losses = HEALTHY.copy()
    losses[150:] = losses[149] * factor * NOISE[150:]
    found = read_training((STEPS, losses)).divergence
    assert found is not None
    assert 1400 <= found.step <= 1600
    assert found.lowest is not None
    assert found.final is not None
    assert found.final / found.lowest == pytest.approx(factor, rel=0.15)
    assert (found.ends_broken, found.broken) == (False, ())


def test_a_rise_in_the_last_rows_alone_diverges() -> None:
    losses = HEALTHY.copy()
    losses[-4:] = [2.2, 3.0, 4.0, 5.0]
    found = read_training((STEPS, losses)).divergence
    assert found is not None
    assert found.step == 2370


def test_nan_to_the_end_diverges_and_a_single_nan_does_not() -> None:
    losses = HEALTHY.copy()
    losses[100] = np.nan
    assert read_training((STEPS, losses)).divergence is None
    losses[200:] = np.inf
    found = read_training((STEPS, losses)).divergence
    assert found is not None
    assert (found.step, found.ends_broken, found.final, len(found.broken)) == (2010, True, None, 41)
    assert found.lowest == pytest.approx(float(np.median(losses[197:200])))


def test_a_run_of_nan_alone_diverges_from_its_first_step() -> None:
    found = read_training(([10, 20], [np.nan, np.nan])).divergence
    assert found is not None
    assert (found.step, found.lowest) == (10, None)


def test_a_loss_of_zero_beside_a_broken_gradient_norm_is_nan() -> None:
    losses, norms = HEALTHY.copy(), np.ones(len(STEPS))
    losses[180:] = 0.0
    assert read_training((STEPS, losses), gradient_norm=(STEPS, norms)).divergence is None
    norms[180:] = np.nan
    found = read_training((STEPS, losses), gradient_norm=(STEPS, norms)).divergence
    assert found is not None
    assert (found.step, found.ends_broken) == (1810, True)


def test_fluctuation_is_noise_against_progress() -> None:
    loud = np.exp(np.random.default_rng(1).normal(0, 0.7, len(STEPS)))
    restless = read_training((STEPS, (1 - 0.2 * POSITION) * loud)).fluctuation
    assert restless is not None
    assert restless.unruly is True
    falling = read_training((STEPS, np.exp(-4 * POSITION) * loud)).fluctuation
    assert falling is not None
    assert falling.unruly is False
    assert read_training((STEPS[:29], HEALTHY[:29])).fluctuation is None


@pytest.mark.parametrize(("plateau", "base_rate"), [(0.2, True), (0.3, False), (None, None)])
def test_a_flat_loss_stands_still_from_early_on(plateau: float | None, base_rate: bool | None) -> None:
    losses = (0.2 + 0.5 * np.exp(-POSITION / 0.01)) * NOISE
    found = read_training((STEPS, losses), plateau_loss=plateau).standstill
    assert found is not None
    assert found.share < 0.1
    assert found.level == pytest.approx(0.2, rel=0.02)
    assert found.fallen == pytest.approx(0.65, abs=0.15)
    assert found.base_rate is base_rate


def test_noise_that_hides_a_fall_is_no_standstill() -> None:
    loud = np.exp(np.random.default_rng(2).normal(0, 0.6, 40))
    assert read_training((np.arange(40), loud)).standstill is None


def test_stairs_at_epoch_borders_and_not_between() -> None:
    epochs = 4 * POSITION
    losses = 2.0 * 0.7 ** np.floor(epochs - 1e-9) * NOISE
    found = read_training((STEPS, losses), epochs=(STEPS, epochs)).stairs
    assert found is not None
    assert found.steps == (610, 1210, 1810)
    assert found.excess == pytest.approx(-np.log(0.7), abs=0.04)
    shifted = read_training((STEPS, losses), epochs=(STEPS, epochs + 0.5)).stairs
    assert shifted is None
    assert read_training((STEPS, 2 * np.exp(-3 * POSITION) * NOISE), epochs=(STEPS, epochs)).stairs is None


def test_a_hump_at_the_peak_rate_is_a_short_warm_up() -> None:
    beyond = np.clip(POSITION - 0.05, 0, None) / 0.04
    losses = HEALTHY[12] / NOISE[12] * (1 + beyond * np.exp(1 - beyond)) * NOISE
    losses[100:] = HEALTHY[100:]
    norms = 1 + 3 * beyond * np.exp(1 - beyond)
    found = read_training((STEPS, losses), learning_rate=(STEPS, COSINE), gradient_norm=(STEPS, norms)).warm_up
    assert found is not None
    assert found.peak_step == 120
    assert 150 <= found.jump_step <= 280
    assert found.gradient == pytest.approx(4.0, rel=0.1)
    calm = np.ones(len(STEPS))
    assert read_training((STEPS, losses), learning_rate=(STEPS, COSINE), gradient_norm=(STEPS, calm)).warm_up is None
    late = np.where(POSITION < 0.8, 1e-5, 1e-4)
    assert read_training((STEPS, losses), learning_rate=(STEPS, late)).warm_up is None


def test_a_loss_that_falls_only_in_the_decay_had_too_high_a_rate() -> None:
    losses = np.where(COSINE > 0.6e-4, 1.0, 0.5 + 0.5 * COSINE / 0.6e-4) * NOISE
    losses[:12] *= 1.3
    found = read_training((STEPS, losses), learning_rate=(STEPS, COSINE)).high_rate
    assert found is not None
    assert found.rate == pytest.approx(1e-4)
    assert abs(found.high_change) < 0.05
    assert found.decay_change < -0.3
    constant = np.full(len(STEPS), 1e-4)
    assert read_training((STEPS, losses), learning_rate=(STEPS, constant)).high_rate is None


def test_a_straight_fall_per_rate_spent_is_a_low_rate() -> None:
    spent = np.cumsum(COSINE) / COSINE.sum()
    found = read_training((STEPS, (1 - 0.4 * spent) * NOISE), learning_rate=(STEPS, COSINE)).low_rate
    assert found is not None
    assert found.steadiness == pytest.approx(1.0, abs=0.3)
    assert found.fallen == pytest.approx(0.4, abs=0.05)
    assert read_training((STEPS, (1 - 0.4 * POSITION) * NOISE)).low_rate is not None


def test_values_below_zero_are_read_by_their_size() -> None:
    assert scaled(np.array([-2.0, 0.0, 2.0])).tolist() == [-1.0, 0.0, 1.0]
    assert scaled(np.zeros(4)).tolist() == [0.0] * 4
    assert scaled(np.empty(0)).size == 0


def test_strips_keep_the_level_and_the_noise() -> None:
    cut = strips(cleaned((STEPS, HEALTHY), "training"), 20)
    assert len(cut) == 20
    assert (cut.first[0], cut.last[-1]) == (10, 2400)
    assert cut.row_noise == pytest.approx(0.03, rel=0.3)
    assert cut.noise < cut.row_noise
    assert trend(STEPS[:2].astype(float), HEALTHY[:2]) is None
