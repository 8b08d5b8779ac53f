"""Label, score and token measures equal scikit-learn, SciPy and seqeval on random data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance
from seqeval.metrics import f1_score as seqeval_f1
from sklearn import metrics

from lorascope.measures.label_diagnosis import (
    largest_confusions,
    largest_pair_gaps,
    plateau_loss,
    precision_recall_points,
    score_label_outputs,
    score_label_sets,
)
from lorascope.measures.labels import label_scores, per_label, score_labels
from lorascope.measures.ranking import average_precisions
from lorascope.measures.regression import score_regression
from lorascope.measures.tokens import score_entities

LABELS = 9
NAMES = [f"label-{index}" for index in range(LABELS)]


def _multi(seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random((150, LABELS)) < np.linspace(0.5, 0.02, LABELS)
    truth[:, -1] = False  # never true, and never predicted
    probabilities = np.clip(truth * 0.3 + random.random(truth.shape) * 0.7, 0, 1)
    probabilities[:, -1] = 0.1
    return (np.round(probabilities, 1) if ties else probabilities), truth


@pytest.mark.parametrize("ties", [False, True])
def test_multi_label_measures_are_scikit_learns(ties: bool) -> None:
    probabilities, truth = _multi(1, ties)
    decided = probabilities >= 0.5
    supported = np.flatnonzero(truth.any(axis=0))
    expected = {
        "f1_micro": metrics.f1_score(truth, decided, average="micro"),
        "f1_macro": metrics.f1_score(truth, decided, average="macro", labels=supported, zero_division=0),
        "f1_samples": metrics.f1_score(truth, decided, average="samples", zero_division=1),
        "f1_weighted": metrics.f1_score(truth, decided, average="weighted", zero_division=0),
        "precision_micro": metrics.precision_score(truth, decided, average="micro"),
        "recall_micro": metrics.recall_score(truth, decided, average="micro"),
        "subset_accuracy": metrics.accuracy_score(truth, decided),
        "hamming_loss": metrics.hamming_loss(truth, decided),
        "lrap": metrics.label_ranking_average_precision_score(truth, probabilities),
        "average_precision_macro": metrics.average_precision_score(
            truth[:, supported], probabilities[:, supported], average="macro"
        ),
    }
    scored = score_labels(probabilities, truth, multi=True, label_names=NAMES)
    assert set(scored) == set(expected) | {"ece"}
    for name, value in expected.items():
        assert scored[name].value == pytest.approx(value, abs=1e-9), name
    assert "supported:8" in scored["f1_macro"].signature


def test_thresholds_per_label_and_per_item() -> None:
    probabilities, truth = _multi(2)
    limits = np.linspace(0.2, 0.8, LABELS)
    direct = metrics.f1_score(truth, probabilities >= limits, average="micro")
    for thresholds in (limits, np.tile(limits, (len(truth), 1))):
        scored = score_labels(probabilities, truth, thresholds=thresholds, multi=True, label_names=NAMES)
        assert scored["f1_micro"].value == pytest.approx(direct, abs=1e-12)


def test_single_label_measures_are_scikit_learns() -> None:
    random = np.random.default_rng(3)
    classes = random.integers(0, LABELS - 1, size=200)
    logits = random.normal(size=(200, LABELS)) + 2 * np.eye(LABELS)[classes]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    decided = probabilities.argmax(axis=1)
    scored = score_labels(probabilities, np.eye(LABELS, dtype=bool)[classes], multi=False, label_names=NAMES)
    supported = np.unique(classes)
    expected = {
        "accuracy": metrics.accuracy_score(classes, decided),
        "mcc": metrics.matthews_corrcoef(classes, decided),
        "f1_micro": metrics.f1_score(classes, decided, average="micro"),
        "f1_macro": metrics.f1_score(classes, decided, average="macro", labels=supported, zero_division=0),
        "f1_weighted": metrics.f1_score(classes, decided, average="weighted", zero_division=0),
    }
    assert set(scored) == set(expected) | {"ece"}
    for name, value in expected.items():
        assert scored[name].value == pytest.approx(value, abs=1e-9), name


def test_calibration_error_by_its_definition() -> None:
    probabilities, truth = _multi(4)
    confidence, right = probabilities.ravel(), truth.ravel()
    place = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1], right=True)
    expected = sum(
        abs(confidence[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in np.unique(place)
    )
    scored = score_labels(probabilities, truth, multi=True, label_names=NAMES)
    assert scored["ece"].value == pytest.approx(expected, abs=1e-12)


def test_rows_per_label_are_scikit_learns() -> None:
    probabilities, truth = _multi(5)
    decided = probabilities >= 0.5
    precision, recall, f1, support = metrics.precision_recall_fscore_support(truth, decided, zero_division=np.nan)
    rows = per_label(probabilities, truth, multi=True, label_names=NAMES)
    for index, row in enumerate(rows[:-1]):
        assert (row.name, row.support) == (NAMES[index], support[index])
        assert row.precision == pytest.approx(precision[index])
        assert row.recall == pytest.approx(recall[index])
        assert row.f1 == pytest.approx(f1[index])
        direct = metrics.average_precision_score(truth[:, index], probabilities[:, index])
        assert row.average_precision == pytest.approx(direct, abs=1e-12)
    nothing = rows[-1]
    assert (nothing.support, nothing.predicted) == (0, 0)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.average_precision) == (None, None, None, None)
    scored = label_scores(probabilities, truth, multi=True, label_names=NAMES)
    assert [scored[name].value for name in NAMES] == [row.f1 for row in rows]


def test_average_precision_with_all_scores_equal() -> None:
    truth = np.array([[True], [False], [False], [True]])
    scores = np.full((4, 1), 0.3)
    assert average_precisions(scores, truth)[0] == pytest.approx(metrics.average_precision_score(truth, scores))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_correlations_are_scipys(offset: float) -> None:
    random = np.random.default_rng(6)
    target = np.round(random.normal(size=120), 1) + offset
    predicted = np.round(target + random.normal(size=120), 1)
    scored = score_regression(predicted, target)
    assert scored["pearson"].value == pytest.approx(stats.pearsonr(predicted, target).statistic, abs=1e-9)
    assert scored["spearman"].value == pytest.approx(stats.spearmanr(predicted, target).statistic, abs=1e-9)
    assert scored["mse"].value == pytest.approx(metrics.mean_squared_error(target, predicted), abs=1e-9)


def test_entity_f1_is_seqevals() -> None:
    random = np.random.default_rng(7)
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "S-ORG", "E-PER"]
    truth = [random.choice(tags, size=random.integers(1, 12)).tolist() for _ in range(80)]
    predicted = [[t if random.random() < 0.8 else str(random.choice(tags)) for t in row] for row in truth]
    scored = score_entities(predicted, truth)["entity_f1"]
    assert scored.value == pytest.approx(seqeval_f1(truth, predicted), abs=1e-12)


def test_skill_is_scikit_learns_log_loss_against_the_frequencies() -> None:
    probabilities, truth = _multi(8)
    loss = np.mean([metrics.log_loss(truth[:, at], probabilities[:, at], labels=[0, 1]) for at in range(LABELS)])
    frequencies = np.tile(truth.mean(axis=0), (len(truth), 1))
    plateau = np.mean([metrics.log_loss(truth[:, at], frequencies[:, at], labels=[0, 1]) for at in range(LABELS)])
    assert plateau_loss(truth) == pytest.approx(plateau, abs=1e-9)
    scored = score_label_outputs(probabilities, truth, multi=True)
    assert scored["frequency_skill"].value == pytest.approx(1 - loss / plateau, abs=1e-9)
    assert scored["output_spread"].value == pytest.approx(
        probabilities.var(axis=0).sum() / truth.var(axis=0).sum(), abs=1e-12
    )


def test_single_label_skill_is_scikit_learns() -> None:
    random = np.random.default_rng(9)
    classes = random.integers(0, 4, size=200)
    logits = random.normal(size=(200, 4)) + 2 * np.eye(4)[classes]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.eye(4, dtype=bool)[classes]
    plateau = metrics.log_loss(classes, np.tile(truth.mean(axis=0), (200, 1)), labels=range(4))
    expected = 1 - metrics.log_loss(classes, probabilities, labels=range(4)) / plateau
    scored = score_label_outputs(probabilities, truth, multi=False)["frequency_skill"]
    assert scored.value == pytest.approx(expected, abs=1e-9)


def test_pair_frequencies_are_scipys_bray_curtis() -> None:
    probabilities, truth = _multi(10)
    decided = probabilities >= 0.5
    given, true = (
        [(marked[:, i] & marked[:, j]).mean() for i in range(LABELS) for j in range(i + 1, LABELS)]
        for marked in (decided, truth)
    )
    scored = score_label_sets(decided, truth, decision="0.5")
    assert scored["cooccurrence_gap"].value == pytest.approx(distance.braycurtis(given, true), abs=1e-12)
    widest = int(np.argmax(np.abs(np.subtract(given, true))))
    largest = largest_pair_gaps(decided, truth, 1)[0]
    assert (largest.predicted, largest.actual) == pytest.approx((given[widest], true[widest]))


def test_confusions_are_scikit_learns_table() -> None:
    random = np.random.default_rng(11)
    true, given = random.integers(0, 5, size=300), random.integers(0, 5, size=300)
    table = metrics.confusion_matrix(true, given)
    found = largest_confusions(np.eye(5, dtype=bool)[given], np.eye(5, dtype=bool)[true], 20)
    assert len(found) == 20
    assert [each.items for each in found] == sorted(table[~np.eye(5, dtype=bool)], reverse=True)
    for each in found:
        assert table[each.actual, each.predicted] == each.items
        assert each.share == pytest.approx(each.items / table[each.actual].sum())


def test_curve_points_are_scikit_learns_operating_points() -> None:
    probabilities, truth = _multi(12)
    precision, recall, _ = metrics.precision_recall_curve(truth[:, 0], probabilities[:, 0])
    points = precision_recall_points(probabilities[:, 0], truth[:, 0], 10)
    real = set(zip(recall.tolist(), precision.tolist(), strict=True))
    assert 5 <= len(points) <= 10
    assert all((float(x), float(y)) in real for x, y in points)
    assert points[-1, 0] == 1.0
    assert (np.diff(points[:, 0]) > 0).all()
