from __future__ import annotations

import pytest

from lorascope.errors import ConfigError
from lorascope.schema.recipe import EarlyStopping, Recipe
from lorascope.training.stopping import check_strips, is_higher_better, judged_metric, stop_reason, unbeaten_start

LOSS, F1 = "eval_v_loss", "eval_v_f1"


def log(losses, train=None):
    rows = []
    for place, loss in enumerate(losses):
        rows += [{"loss": value, "step": place} for value in (train or {}).get(place, [])]
        rows.append({LOSS: loss, "step": place})
    return rows


def reason(rule, rows, metric=LOSS, higher=False):
    return stop_reason(EarlyStopping.model_validate(rule), rows, metric, LOSS, higher=higher)


@pytest.mark.parametrize(
    ("losses", "stops"),
    [([3, 2, 1, 1.1, 1.2], True), ([3, 2, 1, 1.1], False), ([1, 1, 1], True), ([3, 1, 2, 0.9, 1], False), ([], False)],
)
def test_patience_counts_evaluations_since_the_first_best(losses, stops):
    assert (reason({"patience": 2}, log(losses)) is not None) is stops


def test_patience_follows_the_metric_and_its_direction():
    rows = [{F1: value, LOSS: 9 - value, "step": place} for place, value in enumerate([0.1, 0.3, 0.2, 0.25])]
    assert reason({"patience": 2}, rows, F1, higher=True) == "eval_v_f1 has no new best since 2 evaluations (0.3)"
    assert reason({"patience": 3}, rows, F1, higher=True) is None


def test_generalisation_loss_is_the_rise_above_the_lowest_in_per_cent():
    rule = {"rule": "gl", "threshold": 10}
    assert reason(rule, log([2.0, 1.0, 1.09])) is None
    said = reason(rule, log([2.0, 1.0, 1.11]))
    assert said == "eval_v_loss is 11.0 % above its lowest, 1"


def test_the_quotient_lets_a_run_go_on_that_still_makes_progress():
    rule = {"rule": "pq", "threshold": 0.5}
    fast, slow = {2: [0.9, 0.6]}, {2: [0.601, 0.6]}
    # P = 1000 (0.75/0.6 − 1) = 250 and 0.83; GL = 20
    assert reason(rule, log([2.0, 1.0, 1.2], fast)) is None
    assert reason(rule, log([2.0, 1.0, 1.2], slow)) is not None
    assert reason(rule, log([2.0, 1.0, 1.2], {2: [0.6]})) is None


def test_the_number_that_evaluations_are_compared_by():
    def recipe(**evaluation):
        task = {"kind": "labels", "train": "t", "validation": {"a": "x", "b": "y"}}
        return Recipe.model_validate({"version": 1, "base": "m", "out": "o", "task": task, "evaluation": evaluation})

    assert judged_metric(recipe()) == "eval_a_loss"
    assert judged_metric(recipe(set="b", metric="f1_micro")) == "eval_b_f1_micro"
    assert is_higher_better(recipe(metric="f1_micro"))
    assert not is_higher_better(recipe())


def test_the_quotient_looks_at_the_task_alone():
    rows = log([2.0, 1.0, 1.2])
    rows[2:2] = [{"loss": 9.0, "loss_task": 0.601}, {"loss": 5.0, "loss_task": 0.6}]
    assert reason({"rule": "pq", "threshold": 0.5}, rows) is not None


def stopping_recipe(rule, **evaluation):
    return Recipe.model_validate(
        {
            "version": 1,
            "base": "m",
            "out": "o",
            "task": {"kind": "labels", "train": "t", "validation": {"a": "x"}},
            "optim": {"early_stopping": {"rule": rule}},
            "evaluation": evaluation,
        }
    )


@pytest.mark.parametrize(
    ("every", "log_every", "refused", "remedy"),
    [
        (10, 10, True, "log_every to 5"),
        (10, 20, True, "log_every to 5"),
        (10, 5, False, ""),
        (0.1, 10, True, "log_every to 2"),
        (0.1, 0.05, False, ""),
        (1, 1, True, "raise evaluation.every"),
        (0.4, 10, False, ""),
    ],
)
def test_the_quotient_is_refused_where_it_would_have_one_loss_alone(every, log_every, refused, remedy):
    recipe = stopping_recipe("pq", every=every, log_every=log_every)
    if not refused:
        check_strips(recipe, 50)
        return
    with pytest.raises(ConfigError, match="it may have one alone") as caught:
        check_strips(recipe, 50)
    assert remedy in caught.value.remedy
    check_strips(stopping_recipe("gl", every=every, log_every=log_every), 50)


def test_a_start_that_nothing_beat_is_told_where_the_best_is_kept():
    def rows(*values):
        return [{"step": 5 * place, "eval_a_loss": value} for place, value in enumerate(values)]

    best = stopping_recipe("gl", keep="best")
    said = unbeaten_start(best, rows(1.0, 1.5, 1.25))
    assert "eval_a_loss was 1 before the first step and at best 1.25 afterwards, at step 10" in said
    assert unbeaten_start(best, rows(1.0, 1.5, 0.9)) is None
    assert unbeaten_start(best, rows(1.0)) is None
    assert unbeaten_start(best, rows(1.0, 1.5)[1:]) is None
    assert unbeaten_start(stopping_recipe("gl"), rows(1.0, 1.5)) is None
    higher = stopping_recipe("gl", keep="best", metric="f1_micro")
    assert unbeaten_start(higher, [{"step": 0, "eval_a_f1_micro": 0.4}, {"step": 3, "eval_a_f1_micro": 0.5}]) is None
