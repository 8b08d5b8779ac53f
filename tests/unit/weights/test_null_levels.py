from __future__ import annotations

import math

import pytest
import torch

from lorascope.weights.deltas import DenseDelta, FactoredDelta
from lorascope.weights.null_levels import random_update
from lorascope.weights.subspaces import principal_directions, subspace_similarity


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def factored(rows: int = 40, columns: int = 30, rank: int = 4) -> FactoredDelta:
    return FactoredDelta(gaussian(rows, rank, seed=1), gaussian(rank, columns, seed=2), 0.7)


@pytest.mark.parametrize("shape", [(40, 40), (60, 30), (30, 60)])
def test_factors_keep_norm_rank_and_singular_values(shape):
    delta = factored(*shape)
    drawn = random_update(delta, seed=3)
    assert isinstance(drawn, FactoredDelta)
    assert drawn.shape == delta.shape
    assert (drawn.up.shape, drawn.down.shape) == ((shape[0], 4), (4, shape[1]))
    torch.testing.assert_close(drawn.singular_values(), delta.singular_values())
    assert float(drawn.dense().norm()) == pytest.approx(float(delta.dense().norm()))


def test_seeds_decide_and_the_type_stays():
    delta = FactoredDelta(gaussian(40, 4).float(), gaussian(4, 30).float(), 0.7)
    drawn = random_update(delta, seed=3)
    assert drawn.up.dtype == drawn.down.dtype == torch.float32
    assert torch.equal(drawn.dense(), random_update(delta, seed=3).dense())
    assert not torch.allclose(drawn.dense(), random_update(delta, seed=4).dense())
    state = torch.random.get_rng_state()
    random_update(delta, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_directions_are_uniform_and_forget_the_old_ones():
    delta = factored(20, 16, rank=2)
    old, _, _ = principal_directions(delta, 2)
    drawn = [principal_directions(random_update(delta, seed=seed), 2)[0] for seed in range(300)]
    overlap = sum(float(subspace_similarity(old, each)[1, 1]) for each in drawn) / len(drawn)
    assert overlap == pytest.approx(2 / 20, abs=0.02)
    entries = torch.stack([random_update(delta, seed=seed).dense() for seed in range(300)])
    assert float(entries.mean(0).abs().max()) < 5 * float(entries.std()) / math.sqrt(300)


def test_more_factors_than_dimensions():
    delta = FactoredDelta(gaussian(6, 20), gaussian(20, 9, seed=1), 1.0)
    drawn = random_update(delta, seed=0)
    torch.testing.assert_close(torch.linalg.svdvals(drawn.dense()), torch.linalg.svdvals(delta.dense()))


def test_a_low_rank_matrix_gives_factors():
    delta = factored(40, 32, rank=3)
    drawn = random_update(DenseDelta(delta.dense().float()), seed=1)
    assert isinstance(drawn, FactoredDelta)
    assert drawn.up.shape == (40, 3)
    torch.testing.assert_close(drawn.singular_values(), delta.singular_values(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(64, 64), (96, 64), (64, 96)])
def test_a_matrix_of_full_rank_keeps_norm_rank_and_leading_values(shape):
    left, right = (torch.linalg.qr(gaussian(size, 64, seed=size)).Q for size in shape)
    values = 10.0 * 0.8 ** torch.arange(64).double() + 0.01
    delta = DenseDelta((left * values) @ right.T)
    drawn = random_update(delta, seed=5)
    assert isinstance(drawn, DenseDelta)
    found = drawn.singular_values()
    assert float(found.norm()) == pytest.approx(float(values.norm()))
    torch.testing.assert_close(found[:12], values[:12], rtol=1e-6, atol=0)
    assert float(found[-1]) > 0
    assert torch.equal(drawn.matrix, random_update(delta, seed=5, values=delta.singular_values()).matrix)


def test_leading_values_and_the_norm_suffice():
    left, right = (torch.linalg.qr(gaussian(64, 64, seed=seed)).Q for seed in (1, 2))
    values = 10.0 * 0.9 ** torch.arange(64).double()
    delta = DenseDelta((left * values) @ right.T)
    drawn = random_update(delta, seed=5, values=values[:10], norm=float(values.norm()))
    assert float(drawn.dense().norm()) == pytest.approx(float(values.norm()))
    torch.testing.assert_close(drawn.singular_values()[:10], values[:10], rtol=1e-6, atol=0)
    whole = random_update(delta, seed=5, values=values, norm=float(values.norm()))
    torch.testing.assert_close(whole.dense(), random_update(delta, seed=5, values=values).dense())
    low = FactoredDelta(gaussian(64, 2), gaussian(2, 64, seed=1), 1.0)
    known = low.singular_values()
    drawn = random_update(DenseDelta(low.dense()), seed=5, values=known, norm=float(known.norm()))
    torch.testing.assert_close(drawn.singular_values()[:2], known)
    assert float(drawn.singular_values()[2]) < 1e-6 * float(known[0])
    with pytest.raises(ValueError, match="10 of 64 singular values"):
        random_update(delta, seed=5, values=values[:10])


def test_a_change_of_nothing_stays_nothing():
    for delta in (FactoredDelta(torch.zeros(8, 2), gaussian(2, 6).float(), 1.0), DenseDelta(torch.zeros(8, 6))):
        drawn = random_update(delta, seed=0)
        assert drawn.shape == (8, 6)
        assert float(drawn.dense().abs().max() if drawn.dense().numel() else 0.0) == 0.0


def intruders(weight: torch.Tensor, change: torch.Tensor, k: int = 10) -> int:
    """Leading left vectors of the adapted matrix that no left vector of the base comes near."""
    axes, vectors = (torch.linalg.svd(matrix).U for matrix in (weight, weight + change))
    return int(((axes.T @ vectors[:, :k]).abs().amax(dim=0) < 0.5).sum())


def test_a_large_random_update_has_intruders_and_a_shrunk_base_has_none():
    left, right = (torch.linalg.qr(gaussian(64, 64, seed=seed)).Q for seed in (7, 8))
    weight = (left * (10.0 / 1.1 ** torch.arange(64.0).double())) @ right.T
    delta = FactoredDelta(20.0 * left[:, :2], right[:, :2].T, 1.0)
    assert intruders(weight, delta.dense()) == 0
    assert intruders(weight, random_update(delta, seed=1).dense()) == 2
    assert intruders(weight, -0.4 * weight) == 0
