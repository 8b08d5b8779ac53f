from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, label_ranking_average_precision_score

from lorascope.schema.items import LabelsItem
from lorascope.schema.recipe import Recipe
from lorascope.training.data import TrainingData
from lorascope.workflows.training_scores import score_of


def recipe(kind, **task):
    return Recipe.model_validate({"version": 1, "base": "b", "out": "o", "task": {"kind": kind, "train": "t", **task}})


def labelled(*sets, multi=True):
    return tuple(
        LabelsItem(item_id=str(place), text="x", labels=tuple(labels), multi=multi) for place, labels in enumerate(sets)
    )


def test_several_labels_are_scored_as_sklearn_does_at_a_half():
    draws = np.random.default_rng(0)
    logits, truth = draws.normal(size=(50, 4)), draws.random((50, 4)) < 0.4
    truth[:, 0] |= ~truth.any(axis=1)
    data = TrainingData(train=labelled("abcd", "ab", "a"), labels=tuple("abcd"), multi_label=True)
    found = score_of(recipe("labels"), data)(logits, truth.astype(float))
    decided = logits >= 0
    assert found["f1_micro"] == pytest.approx(f1_score(truth, decided, average="micro"))
    assert found["f1_macro"] == pytest.approx(f1_score(truth, decided, average="macro"))
    assert found["lrap"] == pytest.approx(label_ranking_average_precision_score(truth, logits))
    assert found["f1_macro_tail"] == pytest.approx(f1_score(truth[:, 3], decided[:, 3]))  # rarest in training


def test_one_label_is_the_most_probable():
    logits, truth = np.array([[2.0, 1, 0], [0, 1, 5], [9, 0, 0], [0, 3, 1]]), np.array([0, 2, 1, 1])
    data = TrainingData(train=labelled("a", "b", "c", multi=False), labels=tuple("abc"))
    found = score_of(recipe("labels"), data)(logits, truth)
    assert found["accuracy"] == accuracy_score(truth, logits.argmax(1)) == 0.75
    assert found["f1_macro"] == pytest.approx(f1_score(truth, logits.argmax(1), average="macro"))


def test_scores_without_spread_have_no_correlation():
    found = score_of(recipe("score"), TrainingData(train=()))(np.array([[1.0], [1.0]]), np.array([0.0, 2.0]))
    assert found == {"mse": 1.0}


def test_tags_are_scored_as_entities_over_words_alone():
    data = TrainingData(train=(), labels=("O", "B-PER", "I-PER"))
    targets = np.array([[-100, 1, 2, 0, -100]])
    logits = np.eye(3)[[0, 1, 2, 0, 1]][None]
    assert score_of(recipe("tokens"), data)(logits, targets) == {"entity_f1": 1.0}


def test_an_exact_match_needs_every_token_of_the_answer():
    score = score_of(recipe("generate"), TrainingData(train=()))
    targets = np.array([[-100, 5, 6], [-100, 7, -100]])
    assert score(np.array([[1, 5, 6], [1, 7, 9]]), targets) == {"exact_match": 1.0}
    assert score(np.array([[1, 5, 9], [1, 7, 9]]), targets) == {"exact_match": 0.5}
    assert score_of(recipe("generate", packing=True), TrainingData(train=())) is None
