"""Numbers of the weights room against numpy and torch called directly, in their plainest form."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import threadpoolctl
import torch

from lorascope.weights.analysis import analyse_module
from lorascope.weights.bases import BaseMatrix, leading_directions
from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta
from lorascope.weights.intruders import Judgement, Question, judge_matrix
from lorascope.weights.matrices import adapted_matrix
from lorascope.weights.spectra import effective_rank, numerical_rank, rank_for_energy, stable_rank


@pytest.fixture(autouse=True)
def _one_thread():
    """Matrices this small are slower on several threads, most of all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1):
        yield
    torch.set_num_threads(before)


SHAPES = [(96, 96), (144, 64), (64, 144)]


def judged(base: BaseMatrix, delta: WeightDelta, *, k: int = 10, epsilon: float = 0.5) -> Judgement:
    """By two exact decompositions."""
    question = Question(k=k, epsilons=(epsilon,), engine="svd")
    return judge_matrix(base, adapted_matrix(base.weight, delta), question)


def pair(shape: tuple[int, int], rank: int = 4, strength: float = 1.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """A base with a decaying spectrum like a trained layer's, and the two factors of an update."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    noise = rng.normal(size=shape) / np.sqrt(columns)
    low = rng.normal(size=(rows, 12)) * np.geomspace(1, 0.05, 12) @ rng.normal(size=(12, columns)) / 20
    return noise + low, strength * rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns)) / np.sqrt(columns)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_of_a_factored_delta(shape):
    _, up, down = pair(shape)
    ours = FactoredDelta(tensor(up), tensor(down), 1.7).singular_values()
    theirs = scipy.linalg.svdvals(1.7 * up @ down)
    np.testing.assert_allclose(ours.numpy(), theirs[:4], rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_of_a_dense_delta(shape):
    _, up, down = pair(shape)
    matrix = up @ down + 0.01 * pair(shape, seed=1)[0]
    values = torch.linalg.svdvals(torch.from_numpy(matrix))
    sigma = np.linalg.svd(matrix, compute_uv=False)
    assert stable_rank(values) == pytest.approx(np.linalg.norm(matrix, "fro") ** 2 / np.linalg.norm(matrix, 2) ** 2)
    assert effective_rank(values) == pytest.approx(np.exp(scipy.stats.entropy(sigma)))
    energy = np.cumsum(sigma**2) / np.sum(sigma**2)
    for share in (0.9, 0.95, 0.99):
        assert rank_for_energy(values, share) == int(np.searchsorted(energy, share)) + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numerical_rank_is_that_of_numpy(dtype):
    _, up, down = pair((50, 30), rank=7)
    matrix = torch.from_numpy(up @ down).to(dtype)
    ours = numerical_rank(torch.linalg.svdvals(matrix), (50, 30), floor=None, dtype=dtype)
    assert ours == np.linalg.matrix_rank(matrix.numpy()) == 7


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.1, 1.0, 4.0])
def test_intruders_by_the_papers_definition_on_full_decompositions(shape, strength):
    weight, up, down = pair(shape, strength=strength)
    base = BaseMatrix(tensor(weight))
    u0, _, v0 = np.linalg.svd(weight)
    u1, s1, v1 = np.linalg.svd(weight + 0.5 * up @ down)
    rank = min(shape)
    for k, epsilon in ((10, 0.5), (5, 0.3), (20, 0.8)):
        report = judged(base, FactoredDelta(tensor(up), tensor(down), 0.5), k=k, epsilon=epsilon).report
        assert report.right is not None
        for side, axes, vectors in ((report, u0[:, :rank], u1), (report.right, v0[:rank].T, v1.T)):
            cosines = np.abs(axes.T @ vectors[:, :k])
            truth = cosines.max(axis=0)
            np.testing.assert_allclose([v.low for v in side.vectors], truth, atol=2e-3)
            assert side.count == int((truth < epsilon).sum())
            np.testing.assert_allclose(
                [v.leading_share for v in side.vectors],
                (cosines[: leading_directions(min(weight.shape))] ** 2).sum(axis=0),
                atol=5e-3,
            )
            assert side.energy == pytest.approx((s1[:k] ** 2)[truth < epsilon].sum() / (s1[:k] ** 2).sum(), rel=1e-4)


def test_a_strong_update_has_as_many_intruders_as_its_rank():
    weight, up, down = pair((96, 96), rank=4, strength=10.0)
    report = judged(BaseMatrix(tensor(weight)), FactoredDelta(tensor(up), tensor(down), 1.0)).report
    assert [vector.index for vector in report.vectors if vector.verdict == "intruder"] == [0, 1, 2, 3]


def test_a_module_measured_by_its_factors_and_as_a_matrix():
    weight, up, down = pair((96, 64))
    settings = {"method": "lora", "stored_dtype": "F32"}
    base = BaseMatrix(tensor(weight))
    factors = FactoredDelta(tensor(up), tensor(down), 2.0)
    factored = analyse_module("m", base, factors, adapter_rank=4, **settings).report
    dense = analyse_module("m", base, DenseDelta(tensor(2.0 * up @ down)), adapter_rank=None, **settings).report
    delta = 2.0 * up @ down
    for report in (factored, dense):
        assert report.frobenius == pytest.approx(np.linalg.norm(delta), rel=1e-5)
        assert report.relative_change == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(weight), rel=1e-5)
        assert report.stable_rank == pytest.approx(np.linalg.norm(delta) ** 2 / np.linalg.norm(delta, 2) ** 2, rel=1e-4)
        assert report.numerical_rank == 4
    assert factored.effective_rank == pytest.approx(dense.effective_rank, rel=1e-3)
