from __future__ import annotations

import numpy as np
import pytest

from lorascope.errors import DataError
from lorascope.measures.labels import label_groups, per_label, score_label_groups, score_labels
from lorascope.measures.thresholds import cross_fitted_thresholds, tune_thresholds

NAMES = ["a", "b", "c"]
TRUTH = np.array([[True, False, False], [True, True, False], [False, False, False]])
PERFECT = TRUTH.astype(float)


def test_labels_that_never_occur_do_not_lower_the_macro_average() -> None:
    scored = score_labels(PERFECT, TRUTH, multi=True, label_names=NAMES)["f1_macro"]
    assert scored.value == 1.0
    assert "labels:3|supported:2" in scored.signature


def test_a_label_predicted_but_never_true_costs_micro_and_not_macro() -> None:
    probabilities = PERFECT.copy()
    probabilities[2, 2] = 0.9
    scored = score_labels(probabilities, TRUTH, multi=True, label_names=NAMES)
    assert scored["f1_macro"].value == 1.0
    assert scored["f1_micro"].value == pytest.approx(6 / 7)


def test_nothing_predicted_is_undefined_precision_and_zero_f1() -> None:
    scored = score_labels(np.zeros((3, 3)), TRUTH, multi=True, label_names=NAMES)
    assert scored["precision_micro"].value is None
    assert scored["recall_micro"].value == 0.0
    assert scored["f1_micro"].value == 0.0
    assert scored["f1_samples"].value == pytest.approx(1 / 3)  # the item without labels is right


def test_nothing_true_at_all_is_undefined() -> None:
    scored = score_labels(np.full((2, 3), 0.1), np.zeros((2, 3), dtype=bool), multi=True, label_names=NAMES)
    undefined = ["f1_micro", "f1_macro", "f1_weighted", "recall_micro", "average_precision_macro"]
    assert [scored[name].value for name in undefined] == [None] * 5
    assert scored["subset_accuracy"].value == 1.0


def test_threshold_includes_its_own_value() -> None:
    scored = score_labels(np.where(TRUTH, 0.5, 0.49), TRUTH, multi=True, label_names=NAMES)
    assert scored["subset_accuracy"].value == 1.0


def test_correlation_of_a_constant_prediction_is_undefined() -> None:
    truth = np.eye(3, dtype=bool)
    constant = np.tile([0.8, 0.1, 0.1], (3, 1))
    scored = score_labels(constant, truth, multi=False, label_names=NAMES)
    assert scored["mcc"].value is None
    assert scored["accuracy"].value == pytest.approx(1 / 3)


def test_calibration_of_an_overconfident_model() -> None:
    truth = np.array([[True, False]] * 6 + [[False, True]] * 4)
    scored = score_labels(np.tile([0.9, 0.1], (10, 1)), truth, multi=False, label_names=["x", "y"])
    assert scored["ece"].value == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("probabilities", "truth", "multi", "problem"),
    [
        (np.zeros((2, 3)), TRUTH, True, "do not fit"),
        (np.zeros((3, 2)), TRUTH[:, :2], True, "do not fit"),
        (PERFECT * 7 - 3, TRUTH, True, "0–1"),
        (np.full((3, 3), np.nan), TRUTH, True, "0–1"),
        (PERFECT, TRUTH, False, "exactly one"),
        (np.zeros((0, 3)), np.zeros((0, 3), dtype=bool), True, "no items"),
    ],
)
def test_wrong_arrays_are_refused(probabilities: np.ndarray, truth: np.ndarray, multi: bool, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        score_labels(probabilities, truth, multi=multi, label_names=NAMES)


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(DataError, match="unique"):
        score_labels(PERFECT, TRUTH, multi=True, label_names=["a", "b", "a"])


def test_thresholds_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(DataError, match="thresholds"):
        score_labels(PERFECT, TRUTH, thresholds=np.array([0.5, 0.5]), multi=True, label_names=NAMES)


def test_signature_tells_tuned_from_fixed() -> None:
    def rule(thresholds: float | np.ndarray) -> str:
        scored = score_labels(PERFECT, TRUTH, thresholds=thresholds, multi=True, label_names=NAMES)
        return scored["f1_micro"].signature.split("decision:")[1]

    found = [rule(0.5), rule(np.array([0.5, 0.4, 0.5])), rule(np.full((3, 3), 0.5))]
    assert found == ["probability>=0.5", "tuned-per-label", "cross-fitted-per-label"]
    assert rule(np.full(3, 0.5)) == "probability>=0.5"


def test_single_label_rows_use_the_most_probable_label() -> None:
    rows = per_label(
        np.array([[0.4, 0.3, 0.3], [0.2, 0.35, 0.45]]), np.eye(3, dtype=bool)[:2], multi=False, label_names=NAMES
    )
    assert [(row.support, row.predicted, row.f1) for row in rows] == [(1, 1, 1.0), (1, 0, 0.0), (0, 1, 0.0)]


def test_groups_are_thirds_by_support() -> None:
    groups = label_groups([5, 100, 0, 40, 40, 1, 7, 2])
    assert {name: indices.tolist() for name, indices in groups.items()} == {
        "head": [1, 3, 4], "mid": [0, 6], "tail": [5, 7],
    }  # fmt: skip
    assert label_groups([3, 4, 0]) == {}


def test_groups_are_scored_on_their_own_labels() -> None:
    truth = np.array([[True, True, False], [True, False, True], [True, True, False]])
    probabilities = truth.astype(float)
    probabilities[1, 2] = 0.0
    scored = score_label_groups(probabilities, truth, multi=True, label_names=NAMES)
    assert {name: group.value for name, group in scored.items()} == {"head": 1.0, "mid": 1.0, "tail": 0.0}
    by_training = score_label_groups(probabilities, truth, multi=True, label_names=NAMES, support_counts=[1, 2, 3])
    assert by_training["head"].value == 0.0


def test_tuned_thresholds_find_a_collapsed_models_labels() -> None:
    """All probabilities below 0.5, yet well ranked: micro F1 is 0 at 0.5 and 1 when tuned."""
    random = np.random.default_rng(0)
    truth = random.random((200, 3)) < 0.2
    probabilities = np.where(truth, 0.30, 0.10) + random.random((200, 3)) * 0.05
    thresholds = tune_thresholds(probabilities, truth)
    fixed, tuned = (
        score_labels(probabilities, truth, thresholds=t, multi=True, label_names=NAMES)["f1_micro"].value
        for t in (0.5, thresholds)
    )
    assert (fixed, tuned) == (0.0, 1.0)
    assert ((thresholds > 0.15) & (thresholds < 0.30)).all()


def test_tuned_is_never_worse_than_fixed_on_its_own_items() -> None:
    random = np.random.default_rng(1)
    truth = random.random((80, 3)) < 0.4
    probabilities = np.round(random.random((80, 3)), 1)
    thresholds = tune_thresholds(probabilities, truth)
    for label in range(3):
        fixed, tuned = (
            score_labels(probabilities[:, [label]], truth[:, [label]], thresholds=t, multi=True, label_names=["x"])
            for t in (0.5, float(thresholds[label]))
        )
        assert tuned["f1_micro"].value >= fixed["f1_micro"].value  # type: ignore[operator]


def test_labels_without_positives_keep_the_plain_threshold() -> None:
    truth = np.array([[True, False], [False, False]])
    assert tune_thresholds(np.array([[0.4, 0.9], [0.2, 0.8]]), truth).tolist() == [pytest.approx(0.3), 0.5]


def test_an_items_own_truth_does_not_reach_its_threshold() -> None:
    probabilities = ((np.arange(60) + 0.5) / 60)[:, None]
    truth = probabilities > 0.5
    before = cross_fitted_thresholds(probabilities, truth, seed=3)
    truth[29] = True  # the most probable of the false ones: whoever sees it accepts from 0.49 on
    after = cross_fitted_thresholds(probabilities, truth, seed=3)
    assert before[29] == after[29]
    assert (before != after).sum() == 48


def test_too_few_items_to_cross_fit() -> None:
    with pytest.raises(DataError, match="9 items"):
        cross_fitted_thresholds(np.zeros((9, 2)), np.zeros((9, 2), dtype=bool), seed=0)
