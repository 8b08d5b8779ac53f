"""Statistics, weights and the plateau are of the items that are trained on, as they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from lorascope.schema.items import LabelsItem
from lorascope.training.assembly import _plateau, _put_weights, _Rows, _sampler, _statistics
from lorascope.training.data import TrainingData
from lorascope.training.losses import build_loss, normalised_weights
from lorascope.training.sampling import balanced_weights


@pytest.fixture
def labels_recipe(sign_recipe):
    return lambda **loss: sign_recipe(task={"kind": "labels", "validation": {}}, loss=loss)


def labelled(names: str) -> tuple[LabelsItem, ...]:
    return tuple(
        LabelsItem(item_id=str(place), text="t", labels=(name,), multi=False) for place, name in enumerate(names)
    )


def test_weights_have_the_mean_one_over_the_rows_that_are_kept() -> None:
    train = _Rows([{} for _ in range(4)], (0, 2, None, 3))
    _put_weights(train, [1.0, 100.0, 2.0, 3.0])
    assert [row["sample_weight"] for row in train.rows] == pytest.approx([0.5, 1.0, 1.0, 1.5])


def test_labels_of_items_that_were_left_out_are_not_counted(labels_recipe) -> None:
    recipe = labels_recipe(sampler="balanced")
    data = TrainingData(train=labelled("aabab"), labels=("a", "b"))
    train = _Rows([{}, {}, {}], (0, 1, 4))
    statistics = _statistics(recipe, data, train)
    assert (statistics.items, statistics.counts.tolist()) == (3, [2, 1])
    drawn = np.asarray(_sampler(recipe, data, train, statistics).weights)
    assert drawn / drawn[0] == pytest.approx([1, 1, 2])


@pytest.mark.parametrize("sampler", ["shuffled", "balanced"])
@pytest.mark.parametrize("weights", [None, [1.0] * 90 + [10.0] * 10])
def test_the_plateau_is_the_lowest_loss_that_constant_outputs_are_logged_with(labels_recipe, sampler, weights) -> None:
    data = TrainingData(
        train=labelled("a" * 90 + "b" * 10), labels=("a", "b"), weights=None if weights is None else tuple(weights)
    )
    recipe = labels_recipe(sampler=sampler, **({} if weights is None else {"sample_weights": "w"}))
    train = _Rows([{} for _ in data.train], tuple(range(100)))
    given = _plateau(recipe, data, train, build_loss(recipe.loss, "labels", multi_label=False))
    draws = np.ones(100)
    if sampler == "balanced":
        draws = balanced_weights([item.labels for item in data.train], _statistics(recipe, data, train))
    counted = np.ones(100) if weights is None else normalised_weights(weights)
    first = np.arange(100) < 90

    def logged(chance: float) -> float:
        return float(np.average(counted * -np.log(np.where(first, chance, 1 - chance)), weights=draws))

    assert given == pytest.approx(min(logged(chance) for chance in np.linspace(0.001, 0.999, 2000)), rel=1e-3)
