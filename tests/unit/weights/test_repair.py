from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta
from lorascope.weights.repair import (
    LONGER,
    Triplets,
    distance,
    frobenius,
    remove_random,
    rounding_bound,
    scale_intruders,
    scale_neighbours,
    scale_strength,
    shrink_to_norm,
    truncate,
)

Kind = Literal["factored", "dense"]
KINDS: tuple[Kind, ...] = ("factored", "dense")


def base(rows: int = 20, columns: int = 14) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(5))


def delta(kind: Kind, rows: int = 20, columns: int = 14, rank: int = 3, scaling: float = 2.0) -> WeightDelta:
    draw = torch.Generator().manual_seed(6)
    up, down = torch.randn(rows, rank, generator=draw), torch.randn(rank, columns, generator=draw)
    factored = FactoredDelta(up, down, scaling)
    return factored if kind == "factored" else DenseDelta(factored.dense())


def triplets(change: WeightDelta, *indices: int) -> Triplets:
    """Of W0 + ΔW, from torch's own SVD."""
    left, values, right = torch.linalg.svd(base(*change.shape) + change.dense(), full_matrices=False)
    chosen = list(indices)
    return Triplets(left[:, chosen], values[chosen], right[chosen].T)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.9])
def test_scaling_intruders_scales_just_their_singular_values(kind: Kind, strength: float) -> None:
    change = delta(kind)
    before = torch.linalg.svdvals(base() + change.dense())
    repaired = scale_intruders(change, triplets(change, 0, 2), strength)
    after = torch.linalg.svdvals(base() + repaired.dense())
    expected = before.clone()
    expected[[0, 2]] *= strength
    torch.testing.assert_close(after, expected.sort(descending=True).values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_a_rotation_takes_from_the_base_and_lengthens_the_change(kind: Kind) -> None:
    """ΔW turns the base's largest direction; that triplet is nearly all W0's, so scaling it leaves a longer ΔW'."""
    left, values, right = torch.linalg.svd(base(), full_matrices=False)
    turned = (left[:, 0] + left[:, 13]) / 2**0.5 - left[:, 0]
    factored = FactoredDelta(values[0] * turned[:, None], right[:1], 1.0)
    change = factored if kind == "factored" else DenseDelta(factored.dense())
    repaired = scale_intruders(change, triplets(change, 0), 0.2)
    assert frobenius(repaired) > LONGER * frobenius(change)
    stretched = shrink_to_norm(change, frobenius(repaired))
    assert frobenius(stretched) == pytest.approx(frobenius(repaired), rel=1e-5)
    assert bool((stretched.dense() * change.dense() >= 0.0).all())


@pytest.mark.parametrize("scaling", [2.0, 0.05, -0.7])
def test_a_factored_change_stays_factored_with_one_more_rank_an_intruder(scaling: float) -> None:
    change = delta("factored", scaling=scaling)
    found = triplets(change, 0, 1)
    repaired = scale_intruders(change, found, 0.5)
    assert isinstance(repaired, FactoredDelta)
    assert repaired.scaling == scaling
    assert repaired.up.shape == (20, 5)
    torch.testing.assert_close(repaired.up[:, :3], change.up)
    by_hand = change.dense() - 0.5 * (found.left * found.values) @ found.right.T
    torch.testing.assert_close(repaired.dense(), by_hand, atol=1e-5, rtol=1e-5)


def test_a_change_that_was_switched_off_takes_intruders_too() -> None:
    off = scale_strength(delta("factored"), 0.0)
    found = triplets(off, 0)
    torch.testing.assert_close(
        scale_intruders(off, found, 0.0).dense(), -(found.left * found.values) @ found.right.T, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_without_intruders_or_at_full_strength_nothing_changes(kind: Kind) -> None:
    change = delta(kind)
    assert scale_intruders(change, triplets(change), 0.3) is change
    assert scale_intruders(change, triplets(change, 0, 1), 1.0) is change


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.25])
def test_a_strength_multiplies_the_change(kind: Kind, strength: float) -> None:
    change = delta(kind)
    torch.testing.assert_close(scale_strength(change, strength).dense(), strength * change.dense())
    assert frobenius(scale_strength(change, strength)) == pytest.approx(strength * frobenius(change), rel=1e-6)


def test_strengths_must_be_numbers_and_shapes_must_fit() -> None:
    change = delta("dense")
    with pytest.raises(ValueError, match="finite"):
        scale_strength(change, math.nan)
    with pytest.raises(ValueError, match="finite"):
        scale_intruders(change, triplets(change, 0), math.inf)
    with pytest.raises(ValueError, match="triplets"):
        scale_intruders(change, triplets(delta("dense", rows=8), 0), 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_is_that_of_the_whole_matrix(kind: Kind) -> None:
    change = delta(kind, scaling=-1.5)
    assert frobenius(change) == pytest.approx(float(change.dense().double().norm()), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.3, 0.7])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_control_is_as_long_as_the_repair(kind: Kind, strength: float, seed: int) -> None:
    change = delta(kind)
    norm = frobenius(scale_intruders(change, triplets(change, 0, 1), strength))
    energy = frobenius(change) ** 2 - norm**2
    controls = {
        "shrink": shrink_to_norm(change, norm),
        "neighbour": scale_neighbours(change, triplets(change, 5, 6), norm, strength),
        "random": remove_random(change, energy, rank=2, seed=seed),
    }
    for name, control in controls.items():
        assert control is not None, name
        assert type(control) is type(change)
        assert frobenius(control) == pytest.approx(norm, rel=1e-5), name


def test_shrinking_keeps_the_direction() -> None:
    change = delta("factored")
    shrunk = shrink_to_norm(change, 1.0)
    torch.testing.assert_close(shrunk.dense(), change.dense() / frobenius(change), atol=1e-6, rtol=1e-5)
    zero = DenseDelta(torch.zeros(3, 3))
    assert frobenius(shrink_to_norm(zero, 0.0)) == 0.0
    with pytest.raises(ValueError, match="norm"):
        shrink_to_norm(zero, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_get_the_strength_that_the_intruders_get(kind: Kind) -> None:
    change, strength = delta(kind), 0.6
    found = triplets(change, 4, 5)
    norm = 0.8 * frobenius(change)
    control = scale_neighbours(change, found, norm, strength)
    assert control is not None
    added = control.dense() + (1.0 - strength) * (found.left * found.values) @ found.right.T
    share = float(added.norm() / change.dense().norm())
    torch.testing.assert_close(added, share * change.dense(), atol=1e-4, rtol=1e-3)


def test_no_neighbour_control_where_the_neighbours_alone_are_longer_than_the_repair() -> None:
    change = delta("factored")
    small = scale_strength(change, 1e-3)
    assert scale_neighbours(small, triplets(small, 0), frobenius(small), 0.1) is None
    assert scale_neighbours(change, triplets(change), 1.0, 0.5) is None
    assert scale_neighbours(DenseDelta(torch.zeros(20, 14)), triplets(change, 0), 1.0, 0.5) is None


@pytest.mark.parametrize("kind", KINDS)
def test_random_removal_takes_directions_of_the_change_and_leaves_the_rest(kind: Kind) -> None:
    change = delta(kind)
    control = remove_random(change, 0.05 * frobenius(change) ** 2, rank=1, seed=3)
    removed = change.dense().double() - control.dense().double()
    assert int(torch.linalg.matrix_rank(removed, rtol=1e-4)) == 1
    # The removed part lies in ΔW's own column space, and the rest is orthogonal to its direction's further share.
    axes = torch.linalg.svd(change.dense().double(), full_matrices=False).U[:, :3]
    torch.testing.assert_close(axes @ (axes.T @ removed), removed, atol=1e-4, rtol=1e-4)
    again = remove_random(change, 0.05 * frobenius(change) ** 2, rank=1, seed=3)
    other = remove_random(change, 0.05 * frobenius(change) ** 2, rank=1, seed=4)
    assert again.dense().equal(control.dense())
    assert not other.dense().equal(control.dense())


@settings(max_examples=25, deadline=None)
@given(share=st.floats(-0.5, 1.0), rank=st.integers(1, 4), seed=st.integers(0, 9))
def test_random_removal_hits_any_energy(share: float, rank: int, seed: int) -> None:
    change = delta("factored")
    total = frobenius(change) ** 2
    left = frobenius(remove_random(change, share * total, rank=rank, seed=seed)) ** 2
    assert left == pytest.approx((1.0 - share) * total, rel=1e-4, abs=1e-4 * total)


def test_random_removal_refuses_what_cannot_be() -> None:
    change = delta("factored")
    with pytest.raises(ValueError, match="energy"):
        remove_random(change, 2.0 * frobenius(change) ** 2, rank=1, seed=0)
    with pytest.raises(ValueError, match="energy"):
        remove_random(change, 1.0, rank=0, seed=0)
    with pytest.raises(ValueError, match="zero"):
        remove_random(DenseDelta(torch.zeros(4, 4)), -1.0, rank=1, seed=0)
    assert remove_random(change, 0.0, rank=1, seed=0) is change


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaling", [2.0, -0.3])
def test_truncation_is_the_best_of_its_rank_and_says_what_is_lost(kind: Kind, scaling: float) -> None:
    change = delta(kind, rank=5, scaling=scaling)
    cut, lost = truncate(change, 2)
    left, values, right = torch.linalg.svd(change.dense().double(), full_matrices=False)
    best = (left[:, :2] * values[:2]) @ right[:2]
    assert cut.up.shape[1] == 2
    torch.testing.assert_close(cut.dense().double(), best, atol=1e-4, rtol=1e-4)
    assert lost == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-5)
    assert cut.scaling == (scaling if kind == "factored" else 1.0)


def test_nothing_is_lost_where_the_rank_suffices() -> None:
    change = delta("factored")
    assert truncate(change, 3) == (change, 0.0)
    assert truncate(DenseDelta(torch.zeros(4, 3)), 1)[1] == 0.0
    with pytest.raises(ValueError, match="rank"):
        truncate(change, 0)


@pytest.mark.parametrize(("name", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_the_rounding_bound_holds_for_stored_factors_and_stored_matrices(name: str, dtype: torch.dtype) -> None:
    for scale in (1.0, 1e-6):
        change = delta("factored")
        assert isinstance(change, FactoredDelta)
        change = FactoredDelta(scale * change.up, change.down, 2.0)
        read = FactoredDelta(change.up.to(dtype).float(), change.down.to(dtype).float(), 2.0)
        assert 0.0 < distance(read, change) <= rounding_bound(change, name)
        whole = DenseDelta(change.dense())
        stored = DenseDelta((base() + whole.matrix).to(dtype).float() - base())
        assert 0.0 < distance(stored, whole) <= rounding_bound(whole, name, base())
    with pytest.raises(ValueError, match="W0"):
        rounding_bound(whole, name)


def test_the_distance_of_factored_changes_is_that_of_the_matrices() -> None:
    one, other = delta("factored", rank=3), delta("factored", rank=5, scaling=-1.0)
    expected = float((one.dense() - other.dense()).norm())
    assert distance(one, other) == pytest.approx(expected, rel=1e-5)
    assert distance(one, DenseDelta(other.dense())) == pytest.approx(expected, rel=1e-5)
    assert distance(one, one) < 1e-9
