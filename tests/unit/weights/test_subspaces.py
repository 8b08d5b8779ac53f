from __future__ import annotations

import math

import pytest
import torch

from lorascope.weights.deltas import DenseDelta, FactoredDelta
from lorascope.weights.subspaces import (
    amplification,
    principal_directions,
    random_similarity,
    similarity_curve,
    subspace_similarity,
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frame(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(gaussian(rows, columns, seed=seed)).Q


def factored(rows: int, columns: int, rank: int, scaling: float = 2.0) -> FactoredDelta:
    return FactoredDelta(gaussian(rows, rank, seed=1), gaussian(rank, columns, seed=2), scaling)


SHAPES = [(40, 40), (60, 30), (30, 60)]


# Leading directions


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaling", [2.0, -0.3])
def test_directions_of_factors_are_those_of_their_product(shape, scaling):
    delta = factored(*shape, rank=5, scaling=scaling)
    left, values, right = principal_directions(delta, 10)
    assert (left.shape, values.shape, right.shape) == ((shape[0], 5), (5,), (shape[1], 5))
    torch.testing.assert_close((left * values) @ right.T, delta.dense())
    torch.testing.assert_close(left.T @ left, torch.eye(5).double())
    torch.testing.assert_close(right.T @ right, torch.eye(5).double())
    assert values.tolist() == sorted(values.tolist(), reverse=True)


def test_fewer_are_given_when_fewer_are_asked_for_or_there():
    delta = factored(40, 30, rank=6)
    assert principal_directions(delta, 2)[0].shape == (40, 2)
    doubled = FactoredDelta(torch.cat([delta.up, delta.up], 1), torch.cat([delta.down, delta.down], 0), 1.0)
    assert principal_directions(doubled, 12)[1].shape == (6,)
    wide = FactoredDelta(gaussian(8, 20), gaussian(20, 12, seed=3), 1.0)
    assert principal_directions(wide, 20)[1].shape == (8,)
    torch.testing.assert_close(principal_directions(wide, 20)[1], torch.linalg.svdvals(wide.dense()))


def test_no_change_has_no_directions():
    for delta in (FactoredDelta(torch.zeros(9, 2), gaussian(2, 7).float(), 1.0), DenseDelta(torch.zeros(9, 7))):
        left, values, right = principal_directions(delta, 4)
        assert (left.shape, values.shape, right.shape) == ((9, 0), (0,), (7, 0))
    assert principal_directions(DenseDelta(torch.zeros(600, 600)), 4)[1].shape == (0,)


@pytest.mark.parametrize("shape", [(520, 700), (700, 520)])
def test_a_large_matrix_gives_the_same_by_lanczos(shape):
    low = frame(shape[0], 12, seed=4) * torch.logspace(1, 0, 12) @ frame(shape[1], 12, seed=5).T
    matrix = low + 0.01 * gaussian(*shape, seed=6) / math.sqrt(shape[0])
    left, values, right = principal_directions(DenseDelta(matrix.float()), 8)
    full_left, full_values, full_right = torch.linalg.svd(matrix.float().double(), full_matrices=False)
    torch.testing.assert_close(values, full_values[:8])
    torch.testing.assert_close((left.T @ full_left[:, :8]).abs(), torch.eye(8).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close((left * values) @ right.T, (full_left[:, :8] * full_values[:8]) @ full_right[:8])
    again = principal_directions(DenseDelta(matrix.float()), 8)
    assert torch.equal(again[0], left)


def test_equal_values_give_orthonormal_directions():
    left, values, right = principal_directions(DenseDelta(3.0 * torch.eye(520)), 4)
    torch.testing.assert_close(values, torch.full((4,), 3.0).double())
    torch.testing.assert_close(left.T @ left, torch.eye(4).double())
    torch.testing.assert_close(left, right)


def test_asking_for_none_is_a_mistake():
    with pytest.raises(ValueError, match="count must be at least 1"):
        principal_directions(factored(9, 7, 2), 0)


# Amplification


@pytest.mark.parametrize("shape", SHAPES)
def test_amplification_by_its_definition(shape):
    weight, delta = gaussian(*shape, seed=9), factored(*shape, rank=4)
    left, _, right = torch.linalg.svd(delta.dense(), full_matrices=False)
    expected = delta.dense().norm() / (left[:, :4].T @ weight @ right[:4].T).norm()
    assert amplification(delta, weight) == pytest.approx(float(expected))
    assert amplification(DenseDelta(delta.dense()), weight) == pytest.approx(float(expected))
    assert amplification(delta, weight.float()) == pytest.approx(float(expected), rel=1e-4)
    first = delta.dense().norm() / (left[:, :1].T @ weight @ right[:1].T).norm()
    assert amplification(delta, weight, rank=1) == pytest.approx(float(first))


def test_strengthening_what_is_there_and_what_is_not():
    left, right = frame(30, 30), frame(30, 30, seed=1)
    weight = (left * torch.linspace(10, 1, 30).double()) @ right.T
    top = FactoredDelta(5.0 * left[:, :1], right[:, :1].T, 1.0)
    last = FactoredDelta(5.0 * left[:, -1:], right[:, -1:].T, 1.0)
    assert amplification(top, weight) == pytest.approx(0.5)
    assert amplification(last, weight) == pytest.approx(5.0)
    crossed = FactoredDelta(5.0 * left[:, :1], right[:, 1:2].T, 1.0)
    assert amplification(crossed, weight) is None
    assert amplification(crossed, weight.float()) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_takes_the_short_way_to_the_same_number(shape):
    weight, delta = gaussian(*shape, seed=9), DenseDelta(gaussian(*shape, seed=3))
    whole = amplification(delta, weight, rank=30 if 30 in shape else 40)
    assert whole == pytest.approx(amplification(delta, weight))
    if shape == (40, 40):
        assert whole == pytest.approx(float(delta.matrix.norm() / weight.norm()))


def test_amplification_does_not_feel_the_common_scale():
    weight, delta = gaussian(20, 16), factored(20, 16, rank=3)
    ratio = amplification(delta, weight)
    assert amplification(FactoredDelta(delta.up, delta.down, 7 * delta.scaling), 7 * weight) == pytest.approx(ratio)
    assert amplification(delta, 0.5 * weight) == pytest.approx(2 * ratio)


def test_amplification_undefined_is_none_and_never_zero():
    weight = gaussian(9, 7)
    assert amplification(DenseDelta(torch.zeros(9, 7)), weight) is None
    assert amplification(FactoredDelta(torch.zeros(9, 2), gaussian(2, 7), 1.0), weight) is None
    assert amplification(factored(9, 7, 2), torch.zeros(9, 7)) is None
    assert amplification(factored(9, 7, 2), weight, rank=0) is None
    with pytest.raises(ValueError, match=r"ΔW is \(9, 7\), the base weight \(7, 9\)"):
        amplification(factored(9, 7, 2), weight.T)


def test_a_low_precision_base_is_read_in_float32():
    weight, delta = gaussian(20, 16).bfloat16(), factored(20, 16, rank=3)
    assert amplification(delta, weight) == pytest.approx(amplification(delta, weight.float()))


# Subspaces


def test_similarity_by_its_definition():
    first, second = frame(30, 6), frame(30, 4, seed=1)
    found = subspace_similarity(first, second)
    assert found.shape == (6, 4)
    for i in range(1, 7):
        for j in range(1, 5):
            expected = (first[:, :i].T @ second[:, :j]).norm() ** 2 / min(i, j)
            assert float(found[i - 1, j - 1]) == pytest.approx(float(expected))
    torch.testing.assert_close(found, subspace_similarity(second, first).T)


def test_equal_nested_and_orthogonal_subspaces():
    basis = frame(20, 8)
    turned = basis[:, :4] @ torch.linalg.qr(gaussian(4, 4)).Q
    same = subspace_similarity(basis[:, :4], turned)
    assert float(same[3, 3]) == pytest.approx(1.0)
    assert float(same[0, 0]) < 1.0
    torch.testing.assert_close(subspace_similarity(basis, basis[:, :3])[2:, 2], torch.ones(6).double())
    assert float(subspace_similarity(basis[:, :4], basis[:, 4:]).max()) == pytest.approx(0.0, abs=1e-12)
    assert similarity_curve(basis[:, :3], basis) == pytest.approx([1.0, 1.0, 1.0])
    assert similarity_curve(basis[:, :0], basis) == []


def test_directions_that_cannot_be_compared():
    with pytest.raises(ValueError, match="of 5 and 6 dimensions"):
        subspace_similarity(frame(5, 2), frame(6, 2))
    with pytest.raises(ArithmeticError, match="not orthonormal"):
        subspace_similarity(1.01 * frame(5, 2), frame(5, 2))


@pytest.mark.parametrize(("i", "j"), [(1, 1), (3, 3), (2, 6), (6, 2)])
def test_the_random_level_is_the_mean_of_random_subspaces(i, j):
    drawn = [
        float(subspace_similarity(frame(24, i, seed=at), frame(24, j, seed=10_000 + at))[-1, -1]) for at in range(400)
    ]
    mean = sum(drawn) / len(drawn)
    error = math.sqrt(sum((value - mean) ** 2 for value in drawn)) / len(drawn)
    assert mean == pytest.approx(random_similarity(i, j, 24), abs=4 * error)
    assert random_similarity(i, j, 24) == max(i, j) / 24


@pytest.mark.parametrize(("i", "j"), [(0, 1), (1, 0), (25, 1), (1, 25)])
def test_subspaces_that_do_not_fit(i, j):
    with pytest.raises(ValueError, match="do not fit into 24 dimensions"):
        random_similarity(i, j, 24)
