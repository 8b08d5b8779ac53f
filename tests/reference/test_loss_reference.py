"""Losses equal loops over cells in numpy, written from the papers' formulas, and torch's and transformers' own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.loss.loss_utils import ForCausalLMLoss, ForSequenceClassificationLoss

from lorascope.schema.recipe import Loss
from lorascope.training.label_statistics import label_statistics
from lorascope.training.losses import build_loss

LABELS = 5
NAMES = tuple("vwxyz")


def _data(seed: int, rows: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, LABELS))
    targets = (random.random((rows, LABELS)) < 0.35).astype(float)
    targets[0], targets[1] = 0, 1
    return logits, targets


TRAIN = np.random.default_rng(9).random((60, LABELS)) < np.array([0.7, 0.4, 0.2, 0.15, 0.1])
STATISTICS = label_statistics(TRAIN, NAMES)


def _ours(loss: Loss, logits: np.ndarray, targets: np.ndarray) -> float:
    function = build_loss(loss, "labels", multi_label=True, statistics=STATISTICS)
    return function(torch.from_numpy(logits), torch.from_numpy(targets)).item()


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _mean_of_cells(cell, logits: np.ndarray, targets: np.ndarray) -> float:
    return float(
        np.mean([cell(row, label, logits[row, label], targets[row, label]) for row, label in np.ndindex(*logits.shape)])
    )


@pytest.mark.parametrize("seed", range(3))
def test_bce_is_that_of_transformers_to_the_last_bit(seed: int) -> None:
    logits, targets = (torch.from_numpy(array).float() for array in _data(seed))
    config = PretrainedConfig(num_labels=LABELS, problem_type="multi_label_classification")
    expected = ForSequenceClassificationLoss(targets, logits, config)
    assert torch.equal(build_loss(Loss(), "labels", multi_label=True)(logits, targets), expected)


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_is_that_of_transformers(seed: int) -> None:
    logits = torch.from_numpy(_data(seed)[0]).float()
    classes = torch.from_numpy(np.random.default_rng(seed).integers(0, LABELS, len(logits)))
    config = PretrainedConfig(num_labels=LABELS, problem_type="single_label_classification")
    expected = ForSequenceClassificationLoss(classes, logits, config)
    torch.testing.assert_close(build_loss(Loss(), "labels", multi_label=False)(logits, classes), expected)


def test_scores_are_those_of_transformers() -> None:
    logits, scores = torch.randn(6, 1), torch.randn(6)
    config = PretrainedConfig(num_labels=1, problem_type="regression")
    expected = ForSequenceClassificationLoss(scores, logits, config)
    torch.testing.assert_close(build_loss(Loss(), "score", multi_label=False)(logits, scores), expected)


@pytest.mark.parametrize("count", [None, 17])
def test_texts_are_those_of_transformers(count: int | None) -> None:
    logits, targets = torch.randn(2, 6, 11), torch.randint(0, 11, (2, 6))
    targets[0, :3] = -100
    expected = ForCausalLMLoss(logits, targets, 11, num_items_in_batch=count)
    found = build_loss(Loss(), "generate", multi_label=False)(logits, targets, count=count)
    torch.testing.assert_close(found, expected)


def test_label_smoothing_mixes_with_the_uniform_distribution() -> None:
    logits, _ = _data(4)
    classes = np.random.default_rng(4).integers(0, LABELS, len(logits))
    expected = []
    for row, true in zip(logits, classes, strict=True):
        logs = row - math.log(sum(math.exp(value) for value in row))
        mixed = [0.2 / LABELS + (0.8 if place == true else 0) for place in range(LABELS)]
        expected.append(-sum(share * log for share, log in zip(mixed, logs, strict=True)))
    loss = build_loss(Loss(name="label_smoothing", smoothing=0.2), "labels", multi_label=False)
    assert loss(torch.from_numpy(logits), torch.from_numpy(classes)).item() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("seed", range(3))
def test_weighted_bce_is_torchs(seed: int) -> None:
    logits, targets = _data(seed)
    counts = TRAIN.sum(axis=0)
    weight = torch.from_numpy(np.minimum((60 - counts) / counts, 8.0))
    both = torch.from_numpy(logits), torch.from_numpy(targets)
    expected = functional.binary_cross_entropy_with_logits(*both, pos_weight=weight).item()
    assert _ours(Loss(pos_weight="balanced", pos_weight_cap=8.0), logits, targets) == pytest.approx(expected, rel=1e-12)
    fixed = functional.binary_cross_entropy_with_logits(*both, pos_weight=torch.full((LABELS,), 2.5)).item()
    assert _ours(Loss(pos_weight=2.5), logits, targets) == pytest.approx(fixed, rel=1e-12)


def test_weighted_cross_entropy_is_torchs_with_the_mean_over_items() -> None:
    logits, _ = _data(5)
    classes = np.random.default_rng(5).integers(0, LABELS, len(logits))
    counts = np.array([20, 10, 5, 4, 1])
    statistics = label_statistics(
        [(name,) for name, count in zip(NAMES, counts, strict=True) for _ in range(count)], NAMES
    )
    loss = build_loss(Loss(class_weights="balanced"), "labels", multi_label=False, statistics=statistics)
    both = torch.from_numpy(logits), torch.from_numpy(classes)
    weight = torch.from_numpy(40 / (LABELS * counts))
    expected = functional.cross_entropy(*both, weight=weight, reduction="none").mean()
    torch.testing.assert_close(loss(*both), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_is_the_papers_formula(gamma: float) -> None:
    logits, targets = _data(6)

    def cell(_row: int, _label: int, logit: float, target: float) -> float:
        given = _sigmoid(logit) if target else 1 - _sigmoid(logit)
        return -((1 - given) ** gamma) * math.log(given)

    found = _ours(Loss(name="focal", gamma=gamma), logits, targets)
    assert found == pytest.approx(_mean_of_cells(cell, logits, targets), rel=1e-9)
    if gamma == 0:
        assert found == pytest.approx(_ours(Loss(), logits, targets), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_one_label_is_the_papers_formula(gamma: float) -> None:
    logits, _ = _data(7)
    classes = np.random.default_rng(7).integers(0, LABELS, len(logits))
    given = [math.exp(row[true]) / sum(math.exp(v) for v in row) for row, true in zip(logits, classes, strict=True)]
    expected = np.mean([-((1 - p) ** gamma) * math.log(p) for p in given])
    loss = build_loss(Loss(name="focal", gamma=gamma), "labels", multi_label=False)
    assert loss(torch.from_numpy(logits), torch.from_numpy(classes)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("negative", "positive", "clip"), [(4.0, 0.0, 0.05), (4.0, 1.0, 0.05), (2.0, 0.5, 0.2), (1.0, 0.0, 0.0)]
)
def test_asymmetric_is_the_papers_formula(negative: float, positive: float, clip: float) -> None:
    logits, targets = _data(8)

    def cell(_row: int, _label: int, logit: float, target: float) -> float:
        p = _sigmoid(logit)
        if target:
            return -((1 - p) ** positive) * math.log(p)
        shifted = max(p - clip, 0.0)
        return -(shifted**negative) * math.log(1 - shifted)

    loss = Loss(name="asymmetric", gamma_negative=negative, gamma_positive=positive, clip=clip)
    assert _ours(loss, logits, targets) == pytest.approx(_mean_of_cells(cell, logits, targets), rel=1e-9)


def test_asymmetric_without_its_parts_is_bce() -> None:
    logits, targets = _data(9)
    loss = Loss(name="asymmetric", gamma_negative=0, gamma_positive=0, clip=0)
    assert _ours(loss, logits, targets) == pytest.approx(_ours(Loss(), logits, targets), rel=1e-12)


def test_zlpr_is_the_papers_formula() -> None:
    logits, targets = _data(10)
    rows = [
        math.log(1 + sum(math.exp(s) for s, y in zip(row, true, strict=True) if not y))
        + math.log(1 + sum(math.exp(-s) for s, y in zip(row, true, strict=True) if y))
        for row, true in zip(logits, targets, strict=True)
    ]
    assert _ours(Loss(name="zlpr"), logits, targets) == pytest.approx(np.mean(rows), rel=1e-12)


def test_zlpr_of_one_label_is_twice_a_softplus_away() -> None:
    """With a single label each side has one term and the other none: log(1 + e^∓s)."""
    loss = build_loss(Loss(name="zlpr"), "labels", multi_label=True)
    logits, targets = torch.tensor([[1.5], [-0.5]]), torch.tensor([[1.0], [0.0]])
    expected = functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(loss(logits, targets), expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_distribution_balanced_is_the_formula_of_paper_and_code(gamma: float) -> None:
    logits, targets = _data(11)
    counts = TRAIN.sum(axis=0)
    floor, steepness, centre, scale, bias = 0.1, 10.0, 0.2, 2.0, 0.05

    def cell(row: int, label: int, logit: float, target: float) -> float:
        shown = sum(1 / counts[other] for other in range(LABELS) if targets[row, other])
        ratio = (1 / counts[label]) / shown if shown else math.inf
        weight = floor + (1.0 if math.isinf(ratio) else _sigmoid(steepness * (ratio - centre)))
        moved = logit - bias / scale * math.log(60 / counts[label] - 1)
        given = _sigmoid(moved) if target else 1 - _sigmoid(scale * moved)
        return -weight * (1 - given) ** gamma * math.log(given) / (1 if target else scale)

    found = _ours(Loss(name="distribution_balanced", gamma=gamma), logits, targets)
    assert found == pytest.approx(_mean_of_cells(cell, logits, targets), rel=1e-9)
