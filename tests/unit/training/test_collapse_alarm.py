from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lorascope.errors import DataError
from lorascope.measures import label_diagnosis
from lorascope.training.collapse import CollapseAlarm, CollapseState, collapse_state, frequency_loss
from lorascope.workflows import label_findings

STEPS, EVERY = 560, 10
FREQUENCIES = np.geomspace(0.5, 0.02, 40)
PLATEAU = frequency_loss(FREQUENCIES, multi=True)
SEEDS = 12


def items(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 40)) < FREQUENCIES


def surprises() -> np.ndarray:
    """Each item's loss at the base rates: what a window's mean is drawn from."""
    marked = items(4000)
    return -(marked * np.log(FREQUENCIES) + ~marked * np.log(1 - FREQUENCIES)).mean(axis=1)


ITEM_LOSSES = surprises()


def settling(share: float) -> float:
    """From chance down to the plateau in the first steps, as every run does."""
    return 1 + 2 * np.exp(-60 * share)


def stays(share: float) -> float:
    return settling(share)


def learns(share: float) -> float:
    return settling(share) * np.exp(-1.2 * share)


def learns_late(share: float) -> float:
    return settling(share) * np.exp(-1.5 * max(0.0, share - 0.4))


def comes_down_from_above(share: float) -> float:
    return 1.6 - 0.9 * share


def stays_above(_share: float) -> float:
    return 1.3


def falls_back(share: float) -> float:
    return settling(share) * (np.exp(-2 * share) if share < 0.4 else 1.0)


def watched(curve: Callable[[float], float], seed: int = 0, batch: int = 32, warmup: int = 56) -> list:
    random = np.random.default_rng(seed)
    alarm = CollapseAlarm(plateau=PLATEAU, total_steps=STEPS, warmup_steps=warmup)
    said = []
    for step in range(EVERY, STEPS + 1, EVERY):
        window = random.choice(ITEM_LOSSES, batch * EVERY).mean() * curve(step / STEPS)
        said.append(alarm.train_loss(step, float(window)))
    return [notice for notice in said if notice is not None]


def rate(curve: Callable[[float], float], batch: int) -> float:
    return sum(bool(watched(curve, seed, batch)) for seed in range(SEEDS)) / SEEDS


def test_a_run_that_stays_on_the_plateau_is_told_so_once():
    for seed in range(SEEDS):
        said = watched(stays, seed)
        assert [notice.kind for notice in said] == ["collapse"]
        assert STEPS * 0.2 <= said[0].step <= STEPS * 0.5


def test_small_batches_are_noisy_and_the_run_is_still_told_mostly():
    assert rate(stays, batch=8) >= 0.9
    assert rate(stays, batch=2) >= 0.5


@pytest.mark.parametrize("batch", [2, 8, 32])
def test_a_run_that_learns_hears_nothing(batch):
    assert rate(learns, batch) <= 0.05


def test_a_run_still_on_the_way_down_hears_nothing():
    assert rate(comes_down_from_above, batch=32) <= 0.1


def test_a_run_that_leaves_the_plateau_late_hears_of_both():
    for seed in range(SEEDS):
        said = watched(learns_late, seed)
        assert [notice.kind for notice in said] == ["collapse", "recovered"]
        assert said[1].step > 0.4 * STEPS
        assert said[1].advice is None
        assert said[1].text.startswith("Training has left the base-rate plateau")


def test_the_words_hold_the_numbers_and_what_to_do():
    (said,) = watched(stays)
    assert f"against the plateau {PLATEAU:.4f} after {said.step} of 560 steps" in said.text
    assert "sits on the base-rate plateau" in said.text
    assert "optim.head_learning_rate" in said.advice
    assert "loss.pos_weight" in said.advice


def test_a_loss_that_stays_above_is_not_called_on_the_plateau():
    (said,) = watched(stays_above)
    assert "does not come down to the base-rate plateau" in said.text
    assert "lower it" in said.advice
    assert "raise optim.head_learning_rate" in said.advice


def test_a_run_that_had_learned_and_falls_back_is_told_another_cause():
    said = watched(falls_back)
    assert said[0].step > 0.4 * STEPS
    assert "fell back to the base-rate plateau" in said[0].text
    assert said[0].advice.startswith("Lower the learning rate")


def test_nothing_is_said_in_warm_up():
    (said,) = watched(stays, warmup=280)
    assert said.step >= 280


def outputs(marked: np.ndarray, told: float, seed: int = 1) -> np.ndarray:
    """Base rates, moved towards the truth by a share."""
    noise = np.random.default_rng(seed).normal(0, 1e-3, marked.shape)
    return np.clip(FREQUENCIES + told * (marked - FREQUENCIES) + noise, 1e-4, 1 - 1e-4)


def on_plateau() -> CollapseAlarm:
    """A noisy run before its 20 %: too few rows of the log to tell."""
    alarm = CollapseAlarm(plateau=PLATEAU, total_steps=100)
    for step in (10, 20, 30):
        assert alarm.train_loss(step, PLATEAU) is None
    return alarm


def test_an_evaluation_tells_where_the_log_has_too_few_rows():
    marked = items(200)
    said = on_plateau().evaluation(30, outputs(marked, 0.0), marked)
    assert said.kind == "collapse"
    assert "after 30 of 100 steps; outputs hardly vary between items (output_spread" in said.text


def test_an_evaluation_without_a_plateau_is_enough():
    marked = items(200)
    alarm = CollapseAlarm(plateau=None, total_steps=100)
    assert alarm.evaluation(0, outputs(marked, 0.0), marked) is None
    assert alarm.evaluation(25, outputs(marked, 0.0), marked).kind == "collapse"
    assert alarm.evaluation(35, outputs(marked, 0.0), marked) is None
    assert alarm.is_sounding
    assert alarm.evaluation(45, outputs(marked, 0.5), marked).kind == "recovered"
    assert not alarm.is_sounding


def test_outputs_that_tell_the_items_apart_silence_the_loss():
    marked = items(200)
    alarm = CollapseAlarm(plateau=PLATEAU, total_steps=STEPS)
    for step in range(EVERY, STEPS + 1, EVERY):
        assert alarm.train_loss(step, PLATEAU) is None
        if step % 50 == 0:
            assert alarm.evaluation(step, outputs(marked, 0.05), marked) is None


def test_outputs_that_had_learned_speak_until_the_next_evaluation():
    marked = items(200)
    alarm = CollapseAlarm(plateau=PLATEAU, total_steps=STEPS)
    for step in range(EVERY, STEPS + 1, EVERY):
        assert alarm.train_loss(step, 1.1 * PLATEAU) is None
        if step % 110 == 0:
            assert alarm.evaluation(step, outputs(marked, 0.05), marked) is None


def test_a_loss_that_creeps_down_from_far_above_hears_nothing():
    random = np.random.default_rng(0)
    alarm = CollapseAlarm(plateau=PLATEAU, total_steps=STEPS)
    for step in range(EVERY, STEPS + 1, EVERY):
        loss = (4 - step / STEPS) * PLATEAU * (1 + 0.002 * random.normal())
        assert alarm.train_loss(step, float(loss)) is None


def test_a_loss_clearly_below_silences_outputs_that_do_not_vary():
    marked = items(200)
    alarm = CollapseAlarm(plateau=PLATEAU, total_steps=STEPS)
    for step in range(EVERY, 300, EVERY):
        assert alarm.train_loss(step, 0.8 * PLATEAU) is None
    assert alarm.evaluation(290, outputs(marked, 0.0), marked) is None


def wild(marked: np.ndarray, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random(marked.shape) * 0.4


def test_outputs_of_a_new_head_that_vary_by_chance_are_no_learning():
    marked = items(300)
    alarm = CollapseAlarm(plateau=None, total_steps=100)
    assert not collapse_state(wild(marked), marked, multi=True).is_collapsed
    assert alarm.evaluation(0, wild(marked), marked) is None
    assert "sits on the base-rate plateau" in alarm.evaluation(30, outputs(marked, 0.0), marked).text
    assert alarm.evaluation(50, wild(marked), marked) is None
    assert alarm.is_sounding


def test_outputs_that_vary_and_tell_nothing_do_not_excuse_the_loss():
    marked = items(300)
    alarm = CollapseAlarm(plateau=PLATEAU, total_steps=STEPS)
    for step in range(EVERY, 120, EVERY):
        assert alarm.train_loss(step, 1.5 * PLATEAU) is None
    said = alarm.evaluation(120, wild(marked), marked)
    assert said.text.startswith("Training does not come down to the base-rate plateau")
    assert "outputs vary between items" in said.text


def test_probabilities_of_another_shape_than_the_truth_are_refused():
    with pytest.raises(DataError, match="do not belong together"):
        collapse_state(np.full((4, 3), 0.5), np.ones(4), multi=False)


def test_no_items_tell_nothing():
    assert collapse_state(np.zeros((0, 3)), np.zeros((0, 3)), multi=True).spread is None


def test_numbers_that_are_none_are_left_out():
    marked = items(20)
    alarm = CollapseAlarm(plateau=PLATEAU, total_steps=100)
    for step in range(1, 60):
        assert alarm.train_loss(step, float("nan")) is None
    broken = outputs(marked, 0.0)
    broken[0, 0] = np.nan
    assert alarm.evaluation(60, broken, marked) is None


def test_a_resumed_run_that_feeds_its_log_says_what_the_whole_run_does():
    random = np.random.default_rng(3)
    rows = [(step, float(random.choice(ITEM_LOSSES, 320).mean())) for step in range(EVERY, 400, EVERY)]
    whole = CollapseAlarm(plateau=PLATEAU, total_steps=STEPS)
    expected = [whole.train_loss(*row) for row in rows]
    again = CollapseAlarm(plateau=PLATEAU, total_steps=STEPS)
    # Steps 60 to 100 were done before the interruption and come again after it.
    for row in rows[:10]:
        again.train_loss(*row)
    assert [again.train_loss(*row) for row in rows[5:]] == expected[5:]


def test_a_plateau_of_nothing_never_sounds():
    alarm = CollapseAlarm(plateau=0.0, total_steps=100)
    for step in range(1, 100):
        assert alarm.train_loss(step, 0.0) is None


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("told", [0.0, 0.02, 0.1, 0.6])
def test_state_and_report_have_the_same_numbers(multi, told):
    if multi:
        marked = items(150)
        given = outputs(marked, told)
    else:
        random = np.random.default_rng(0)
        marked = np.eye(5, dtype=bool)[random.integers(0, 5, 150)]
        given = np.full((150, 5), 0.2) + told * (marked - 0.2) + random.normal(0, 1e-3, (150, 5))
        given /= given.sum(axis=1, keepdims=True)
    found = collapse_state(given, marked, multi=multi)
    scored = label_diagnosis.score_label_outputs(given, marked, multi=multi)
    assert found.spread == pytest.approx(scored["output_spread"].value, abs=1e-9)
    assert found.skill == pytest.approx(scored["frequency_skill"].value, abs=1e-9)
    if found.ranks is not None:
        assert found.ranks == pytest.approx(label_diagnosis.ranking_skill(given, marked))
    assert found.is_collapsed == (told == 0.0)


def test_small_outputs_that_rank_the_labels_are_no_collapse():
    marked = items(200)
    random = np.random.default_rng(1)
    state = collapse_state(0.5 + 0.01 * marked + random.normal(0, 1e-3, marked.shape), marked, multi=True)
    assert state.spread < 0.02
    assert state.skill < 0
    assert state.ranks > 0.9
    assert not state.is_collapsed


def test_where_the_truth_does_not_vary_nothing_is_said():
    state = collapse_state(np.full((5, 2), 0.5), np.ones((5, 2)), multi=True)
    assert state == CollapseState(items=5, spread=None, skill=None, ranks=None)
    assert not state.is_collapsed


def test_limits_are_those_of_the_report():
    from lorascope.training import collapse

    for name in ("COLLAPSED_SPREAD", "PLATEAU_SKILL", "RANKS"):
        assert getattr(collapse, name) == getattr(label_findings, name)
    assert collapse.SMALLEST_PROBABILITY == label_diagnosis.SMALLEST_PROBABILITY
    marked = items(150)
    assert frequency_loss(marked.mean(axis=0), multi=True) == pytest.approx(label_diagnosis.plateau_loss(marked))


def test_a_short_run_that_is_still_far_above_the_plateau_is_not_told_that_it_sits_there():
    draws = np.random.default_rng(0)
    truth = draws.random((60, 5)) < 0.1
    alike = np.full((60, 5), 0.3) + draws.normal(0, 1e-4, (60, 5))
    alarm = CollapseAlarm(plateau=0.1464, total_steps=60, multi=True)
    assert alarm.train_loss(6, 0.69) is None
    assert alarm.train_loss(12, 0.62) is None
    assert alarm.evaluation(14, alike, truth) is None
    for step in range(18, 54, 6):
        alarm.train_loss(step, 0.15)
    told = alarm.evaluation(54, alike, truth)
    assert told is not None
    assert "0.1464" in told.text
