from __future__ import annotations

import math

import pytest
import torch

from lorascope.weights.deltas import DenseDelta, FactoredDelta
from lorascope.weights.krylov import all_triplets, leading_triplets, significant
from lorascope.weights.matrices import Matrix, adapted_matrix, full_precision

SHAPES = [(400, 400), (520, 300), (300, 520)]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spiked(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Random, with 40 directions above the bulk whose singular values fall as i^-0.7."""
    left, right = (torch.linalg.qr(gaussian(size, 40, seed=seed + size)).Q for size in (rows, columns))
    spikes = 20.0 * torch.arange(1, 41).float() ** -0.7
    return gaussian(rows, columns, seed=seed) / math.sqrt(rows) + (left * spikes) @ right.T


@pytest.mark.parametrize("shape", SHAPES)
def test_leading_triplets_are_those_of_the_exact_decomposition(shape):
    weight = spiked(*shape)
    found = leading_triplets(Matrix(weight), 10)
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    torch.testing.assert_close(found.values.double(), values[:10], rtol=1e-5, atol=1e-5)
    for ours, theirs in ((found.left, left[:, :10]), (found.right, right[:10].T)):
        signs = (ours.double() * theirs).sum(dim=0).sign()
        away = (ours.double() * signs - theirs).norm(dim=0)
        assert bool((away <= found.errors.double() + 1e-5).all()), (away, found.errors)
        assert float((ours.T @ ours - torch.eye(10)).abs().max()) < 1e-5


@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e8, 1e12])
def test_the_scale_of_the_weights_does_not_matter(size):
    weight = spiked(400, 300)
    plain, scaled = leading_triplets(Matrix(weight), 8), leading_triplets(Matrix(weight * size), 8)
    torch.testing.assert_close(scaled.values / size, plain.values, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(scaled.errors, plain.errors, rtol=0.5, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sum_is_never_formed_and_decomposed_as_if_it_were(shape):
    weight = spiked(*shape)
    delta = FactoredDelta(gaussian(shape[0], 4, seed=3), gaussian(4, shape[1], seed=4), 0.25)
    matrix = adapted_matrix(weight, delta)
    assert matrix.added is delta or matrix.added.scaling == 0.25
    found, dense = leading_triplets(matrix, 8), leading_triplets(Matrix(matrix.dense()), 8)
    torch.testing.assert_close(found.values, dense.values, rtol=1e-5, atol=1e-5)
    some = gaussian(shape[1], 3, seed=5)
    torch.testing.assert_close(matrix.times(some), matrix.dense() @ some, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(matrix.T.times(some[: shape[0]] if shape[0] <= shape[1] else gaussian(shape[0], 3)),
                               matrix.dense().T @ (some[: shape[0]] if shape[0] <= shape[1] else gaussian(shape[0], 3)),
                               rtol=1e-4, atol=1e-3)  # fmt: skip


def test_small_matrices_are_decomposed_outright():
    weight = gaussian(40, 30)
    found = leading_triplets(Matrix(weight), 10)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(weight)[:10])


def test_a_low_rank_matrix_gives_its_rank_and_no_more():
    weight = gaussian(400, 3) @ gaussian(3, 300, seed=1)
    assert len(leading_triplets(Matrix(weight), 10).values) == 3
    assert len(leading_triplets(Matrix(torch.zeros(400, 300)), 10).values) == 0
    assert significant(torch.zeros(0)) == 0


def test_near_degenerate_values_say_that_their_vectors_are_arbitrary():
    left, right = (torch.linalg.qr(gaussian(300, 300, seed=seed)).Q for seed in (1, 2))
    values = torch.cat([torch.tensor([10.0, 10.0, 5.0]), 1.0 / torch.arange(1, 298)])
    found = all_triplets((left * values) @ right.T)
    assert bool((found.errors[:2] > 0.05).all())
    assert float(found.errors[2]) < 1e-4
    assert float(found.gaps[0]) < 1e-5
    assert float(found.gaps[2]) == pytest.approx(0.8, abs=1e-3)


def test_equal_seeds_give_equal_triplets():
    weight = spiked(400, 300)
    first, second = (leading_triplets(Matrix(weight), 5, seed=3) for _ in range(2))
    assert torch.equal(first.left, second.left)


def test_full_precision_is_set_for_a_while_only():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_adapted_matrices_need_equal_shapes():
    with pytest.raises(ValueError, match=r"ΔW is \(3, 4\), the base weight \(4, 3\)"):
        adapted_matrix(torch.zeros(4, 3), DenseDelta(torch.zeros(3, 4)))


def exhausted(kind: str) -> torch.Tensor:
    """Matrices whose Krylov space ends long before it fills the whole space."""
    size = 512
    if kind == "identity":
        return torch.eye(size)
    if kind == "few columns":
        return torch.cat([gaussian(size, 6), torch.zeros(size, size - 6)], dim=1)
    if kind == "two blocks of columns":
        # Exhausted in the middle of a block, and every product after that is zero.
        return torch.cat([0.02 * gaussian(size, 30), torch.zeros(size, size - 30)], dim=1)
    if kind == "few rows":
        return torch.cat([gaussian(6, size), torch.zeros(size - 6, size)], dim=0)
    if kind == "two values":
        left, right = (torch.linalg.qr(gaussian(size, size, seed=seed)).Q for seed in (1, 2))
        return (left * torch.tensor([3.0, 1.0]).repeat_interleave(size // 2)) @ right.T
    return torch.outer(gaussian(size, 1)[:, 0], gaussian(size, 1, seed=1)[:, 0])


@pytest.mark.parametrize(
    "kind", ["identity", "few columns", "two blocks of columns", "few rows", "two values", "rank one"]
)
@pytest.mark.parametrize("count", [10, 32])
def test_a_krylov_space_that_ends_is_no_copy_of_itself(kind, count):
    weight = exhausted(kind)
    found = leading_triplets(Matrix(weight), count, accuracy=1e-2, needed=count // 2)
    exact = torch.linalg.svdvals(weight.double())
    rank = min(count, int((exact > 1e-6 * exact[0]).sum()))
    assert len(found.values) == rank
    torch.testing.assert_close(found.values.double(), exact[:rank], rtol=1e-5, atol=1e-5)
    for side in (found.left, found.right):
        assert float((side.T @ side - torch.eye(rank)).abs().max()) < 1e-4


def test_more_vectors_than_the_iteration_can_hold_are_decomposed():
    weight = gaussian(2800, 2700)
    assert len(leading_triplets(Matrix(weight[:400, :300]), 290).values) == 290
