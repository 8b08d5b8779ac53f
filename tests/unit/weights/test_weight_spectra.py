from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.weights.deltas import DenseDelta, FactoredDelta
from lorascope.weights.spectra import (
    effective_rank,
    frobenius_norm,
    numerical_rank,
    rank_for_energy,
    rounding_floor,
    spectral_change,
    stable_rank,
    unchanged_fraction,
)

SPECTRA = st.lists(st.floats(min_value=1e-3, max_value=1e3), min_size=1, max_size=20).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def orthogonal(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(gaussian(size, size, seed=seed, dtype=torch.float64)).Q


# Known values


def test_equal_singular_values_have_full_rank_by_every_measure():
    values = torch.full((7,), 3.0)
    assert stable_rank(values) == pytest.approx(7)
    assert effective_rank(values) == pytest.approx(7)
    assert frobenius_norm(values) == pytest.approx(3 * math.sqrt(7))
    assert numerical_rank(values, (7, 9), floor=None, dtype=torch.float32) == 7


def test_one_direction_has_rank_one_by_every_measure():
    values = torch.tensor([5.0, 0.0, 0.0])
    assert stable_rank(values) == 1.0
    assert effective_rank(values) == 1.0
    assert rank_for_energy(values, 0.99) == 1
    assert numerical_rank(values, (3, 3), floor=None, dtype=torch.float32) == 1


def test_a_spectrum_worked_by_hand():
    values = torch.tensor([2.0, 1.0, 1.0])
    assert stable_rank(values) == pytest.approx(1.5)
    # p = (1/2, 1/4, 1/4): H = 1.5 ln 2.
    assert effective_rank(values) == pytest.approx(2**1.5)
    assert [rank_for_energy(values, share) for share in (0.5, 0.66, 0.67, 0.84, 1.0)] == [1, 1, 2, 3, 3]


def test_nothing_is_undefined_and_not_zero():
    for values in (torch.zeros(3), torch.zeros(0)):
        assert stable_rank(values) is None
        assert effective_rank(values) is None
        assert rank_for_energy(values, 0.9) is None
        assert frobenius_norm(values) == 0.0
        assert numerical_rank(values, (3, 4), floor=None, dtype=torch.float32) == 0


def test_numerical_rank_counts_what_stands_above_the_noise():
    values = torch.tensor([1.0, 1e-3, 1e-5, 1e-9])
    assert numerical_rank(values, (100, 80), floor=None, dtype=torch.float32) == 2
    assert numerical_rank(values, (100, 80), floor=None, dtype=torch.float64) == 4
    assert numerical_rank(values, (100, 80), floor=0.01, dtype=torch.float64) == 1
    assert numerical_rank(values, (100, 80), floor=2.0, dtype=torch.float64) == 0


# The rounding floor


@pytest.mark.parametrize(("name", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32)])
@pytest.mark.parametrize("shape", [(128, 128), (256, 64), (64, 192)])
def test_the_floor_is_what_rounding_really_gives(name, dtype, shape):
    weight = 0.02 * gaussian(*shape, seed=2, dtype=torch.float64)
    real = float(torch.linalg.matrix_norm(weight.to(dtype).double() - weight, 2))
    floor = rounding_floor(weight, name)
    assert floor is not None
    assert real / 1.5 < floor < real * 1.5


def test_the_floor_holds_where_a_few_rows_are_much_larger():
    weight = 0.02 * gaussian(128, 96, seed=2, dtype=torch.float64)
    weight[:3] *= 50.0
    real = float(torch.linalg.matrix_norm(weight.bfloat16().double() - weight, 2))
    floor = rounding_floor(weight, "BF16")
    assert floor is not None
    assert real < floor < real * 1.5


def test_the_floor_of_weights_below_the_smallest_normal_number():
    weight = 1e-6 * gaussian(128, 128, seed=2, dtype=torch.float64)
    real = float(torch.linalg.matrix_norm(weight.half().double() - weight, 2))
    floor = rounding_floor(weight, "F16")
    assert floor is not None
    assert real / 1.5 < floor < real * 1.5


def test_zeros_are_stored_exactly_and_other_types_have_no_floor():
    assert rounding_floor(torch.zeros(4, 5), "BF16") == 0.0
    assert rounding_floor(torch.ones(4, 5), "I8") is None
    assert rounding_floor(torch.ones(4, 5), "F8_E4M3") is None


@given(st.integers(-8, 8))
def test_the_floor_scales_with_the_weights(power):
    weight = gaussian(12, 9)
    once, scaled = rounding_floor(weight, "BF16"), rounding_floor(weight * 2.0**power, "BF16")
    assert once is not None
    assert scaled == pytest.approx(once * 2.0**power)


# Laws


@given(SPECTRA, st.floats(min_value=1e-3, max_value=1e3))
def test_ranks_do_not_feel_the_scale(values, factor):
    assert stable_rank(values * factor) == pytest.approx(stable_rank(values))
    assert effective_rank(values * factor) == pytest.approx(effective_rank(values))
    assert frobenius_norm(values * factor) == pytest.approx(frobenius_norm(values) * factor)


@given(SPECTRA)
def test_ranks_lie_between_one_and_the_number_of_values(values):
    stable, effective = stable_rank(values), effective_rank(values)
    assert stable is not None
    assert effective is not None
    assert 1.0 - 1e-9 <= stable <= effective + 1e-9 or stable <= len(values) + 1e-9
    assert 1.0 - 1e-9 <= effective <= len(values) + 1e-9
    ranks = [rank_for_energy(values, share) for share in (0.1, 0.5, 0.9, 0.99, 1.0)]
    assert ranks == sorted(ranks)
    assert all(1 <= rank <= len(values) for rank in ranks if rank is not None)


# Deltas


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.floats(-4, 4), st.integers(0, 99))
def test_a_factored_delta_has_the_spectrum_of_its_product(rows, columns, rank, scaling, seed):
    up, down = gaussian(rows, rank, seed=seed), gaussian(rank, columns, seed=seed + 1)
    delta = FactoredDelta(up, down, scaling)
    truth = torch.linalg.svdvals(scaling * (up.double() @ down.double()))
    values = delta.singular_values()
    assert delta.shape == (rows, columns)
    torch.testing.assert_close(values, truth[: len(values)], atol=1e-9, rtol=1e-6)
    assert float(truth[len(values) :].sum()) < 1e-9
    torch.testing.assert_close(delta.dense().double(), scaling * (up.double() @ down.double()), atol=1e-4, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_the_spectrum_does_not_feel_rotations(seed):
    matrix = gaussian(8, 6, seed=seed, dtype=torch.float64)
    turned = orthogonal(8, seed + 1) @ matrix @ orthogonal(6, seed + 2)
    torch.testing.assert_close(DenseDelta(turned).singular_values(), DenseDelta(matrix).singular_values())


def test_half_precision_factors_show_no_false_rank():
    up, down = gaussian(64, 4, dtype=torch.bfloat16), gaussian(4, 48, seed=1, dtype=torch.bfloat16)
    exact = FactoredDelta(up, down, 2.0).singular_values()
    assert len(exact) == 4
    torch.testing.assert_close(exact, torch.linalg.svdvals(2.0 * (up.double() @ down.double()))[:4])
    rounded = DenseDelta((up @ down).float()).singular_values()
    assert numerical_rank(rounded, (64, 48), floor=None, dtype=torch.float32) == 48


# The largest step, and entries that did not move


def test_spectral_change_is_the_ratio_of_the_largest_singular_values():
    assert spectral_change(torch.tensor([3.0, 1.0]), torch.tensor([6.0, 5.0])) == pytest.approx(0.5)
    assert spectral_change(torch.zeros(2), torch.tensor([6.0])) == 0.0
    assert spectral_change(torch.zeros(0), torch.tensor([6.0])) == 0.0
    assert spectral_change(torch.tensor([3.0]), torch.zeros(2)) is None
    assert spectral_change(torch.tensor([3.0]), torch.zeros(0)) is None


def test_the_share_of_unchanged_entries_is_counted_in_the_stored_type():
    base = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert unchanged_fraction(base, torch.tensor([[1.0, 2.5], [3.0, -0.0]]), "F32") == 0.75
    assert unchanged_fraction(base + 1e-4, base, "BF16") == 0.75
    assert unchanged_fraction(base + 1e-4, base, "F32") == 0.0
    assert unchanged_fraction(torch.zeros(0, 3), torch.zeros(0, 3), "F32") is None
