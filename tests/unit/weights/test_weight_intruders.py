from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.weights.analysis import analyse_module, summarise
from lorascope.weights.bases import BaseMatrix, leading_directions
from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta
from lorascope.weights.intruders import Judgement, Question, judge_matrix
from lorascope.weights.matrices import adapted_matrix
from lorascope.weights.spectra import rounding_floor

SHAPES = [(40, 40), (60, 36), (36, 60)]


def judged(base: BaseMatrix, delta: WeightDelta, *, k: int = 10, epsilon: float = 0.5) -> Judgement:
    """By two exact decompositions."""
    question = Question(k=k, epsilons=(epsilon,), engine="svd")
    return judge_matrix(base, adapted_matrix(base.weight, delta), question)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frames(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.linalg.qr(gaussian(rows, rows, seed=seed)).Q, torch.linalg.qr(
        gaussian(columns, columns, seed=seed + 1)
    ).Q


def matrix(shape: tuple[int, int], rank: int | None = None, seed: int = 0) -> torch.Tensor:
    """A matrix with well separated singular values 10, 10/1.2, 10/1.44 …"""
    left, right = frames(*shape, seed=seed)
    kept = min(shape) if rank is None else rank
    values = 10.0 / 1.2 ** torch.arange(kept, dtype=torch.float64)
    return (left[:, :kept] * values) @ right[:, :kept].T


def spread(axes: torch.Tensor, seed: int) -> torch.Tensor:
    """A unit vector that is spread evenly over all ``axes``: its cosine to each is 1/√n."""
    signs = gaussian(axes.shape[1], seed=seed).sign()
    return axes @ signs / math.sqrt(axes.shape[1])


def planted(shape: tuple[int, int], strength: float) -> tuple[torch.Tensor, DenseDelta]:
    """A base and a rank-one ΔW whose directions are near no singular vector of it, on either side."""
    left, right = frames(*shape)
    weight = matrix(shape)
    return weight, DenseDelta(strength * torch.outer(spread(left, 5), spread(right, 6)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_planted_direction_is_the_one_intruder_on_both_sides(shape):
    weight, delta = planted(shape, 100.0)
    report = judged(BaseMatrix(weight), delta).report
    assert report.right is not None
    for side in (report, report.right):
        assert side.count == 1
        assert [vector.index for vector in side.vectors if vector.verdict == "intruder"] == [0]
        assert side.vectors[0].high < 0.45
        assert (len(side.vectors), side.undecided, side.exact) == (10, 0, True)


def test_an_intruder_on_one_side_only():
    weight = matrix((40, 40))
    base = BaseMatrix(weight)
    left, _ = frames(40, 40)
    for transposed in (False, True):
        update = 100.0 * torch.outer(spread(left, 5), base.exact.right[:, 0])
        spectrum = base if not transposed else BaseMatrix(weight.T.contiguous())
        report = judged(spectrum, DenseDelta(update.T if transposed else update)).report
        counts = (report.count, report.right.count if report.right else None)
        assert counts == ((0, 1) if transposed else (1, 0))


def test_nothing_changes_without_a_change():
    weight = matrix((40, 30))
    report = judged(BaseMatrix(weight), DenseDelta(torch.zeros(40, 30))).report
    assert (report.count, report.energy) == (0, 0.0)
    assert all(vector.low == pytest.approx(1.0) for vector in report.vectors)
    shares = [vector.leading_share for vector in report.vectors]
    assert shares == pytest.approx([1.0] * leading_directions(30) + [0.0] * (10 - leading_directions(30)), abs=1e-4)


def test_a_stronger_known_direction_is_no_intruder():
    weight = matrix((40, 30))
    base = BaseMatrix(weight)
    update = DenseDelta(500.0 * torch.outer(base.exact.left[:, 20], base.exact.right[:, 20]))
    report = judged(base, update).report
    assert report.count == 0
    assert report.vectors[0].low == pytest.approx(1.0)


def test_energy_is_the_share_that_intruders_carry():
    weight, delta = planted((40, 40), 100.0)
    judgement = judged(BaseMatrix(weight), delta)
    values = judgement.triplets.values[:10] ** 2
    assert judgement.report.energy == pytest.approx(float(values[0] / values.sum()))
    truth = torch.linalg.svdvals(weight + delta.dense())
    torch.testing.assert_close(judgement.triplets.values, truth[:10])


def test_leading_share_tells_a_rotation_from_a_new_direction():
    size = 64
    left, right = frames(size, size)
    # Near-degenerate values: a small change turns single vectors inside the leading group.
    values = torch.cat([10.0 + 1e-4 * torch.arange(8.0).flip(0), 0.01 / 1.1 ** torch.arange(size - 8.0)]).double()
    weight = (left * values) @ right.T
    mix = left[:, :8] @ torch.linalg.qr(gaussian(8, 8, seed=3)).Q
    rotated = DenseDelta((mix * torch.linspace(0.5, 0.1, 8).double()) @ right[:, :8].T)
    inside = judged(BaseMatrix(weight), rotated, k=8).report
    assert min(vector.low for vector in inside.vectors) < 0.9
    assert all(vector.leading_share > 0.999 for vector in inside.vectors)
    outside = DenseDelta(100.0 * torch.outer(spread(left[:, leading_directions(size) :], 5), right[:, -1]))
    new = judged(BaseMatrix(weight), outside, k=1).report
    assert new.count == 1
    assert new.vectors[0].leading_share < 0.01


@pytest.mark.parametrize(("dimensions", "leading"), [(4, 1), (64, 8), (256, 32), (4096, 32)])
def test_leading_directions_are_an_eighth_at_most(dimensions: int, leading: int):
    assert leading_directions(dimensions) == leading


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rank_deficient_base_lends_no_arbitrary_vectors(shape):
    weight = matrix(shape, rank=6)
    base = BaseMatrix(weight)
    assert base.exact.left.shape == (shape[0], 6)
    assert base.exact.right.shape == (shape[1], 6)
    left, right = frames(*shape)
    # Directions from the base's null space: whatever basis an SVD would put there, they are new.
    update = FactoredDelta(50.0 * left[:, 8:9], right[:, 9:10].T, 1.0)
    report = judged(base, update).report
    assert len(report.vectors) == 7
    assert report.count == 1
    assert report.vectors[0].high < 1e-6


def test_a_zero_base_makes_every_direction_new():
    base = BaseMatrix(torch.zeros(12, 9, dtype=torch.float64))
    assert len(base.exact.values) == 0
    report = judged(base, FactoredDelta(gaussian(12, 3), gaussian(3, 9, seed=1), 1.0)).report
    assert report.count == len(report.vectors) == 3
    assert report.energy == 1.0
    assert {vector.leading_share for vector in report.vectors} == {0.0}


def test_fewer_vectors_than_k_where_the_matrix_has_fewer():
    weight = matrix((12, 5))
    report = judged(BaseMatrix(weight), DenseDelta(gaussian(12, 5)), k=10).report
    assert report.k == 10
    assert len(report.vectors) == 5
    nothing = DenseDelta(-weight)
    gone = judged(BaseMatrix(weight), nothing).report
    assert (gone.vectors, gone.count, gone.energy) == ([], 0, None)


@pytest.mark.parametrize(("k", "epsilon"), [(0, 0.5), (-1, 0.5), (10, 0.0), (10, 1.01), (10, -0.5), (10, math.nan)])
def test_settings_outside_their_range(k, epsilon):
    with pytest.raises(ValueError, match="epsilon must lie in"):
        judged(BaseMatrix(matrix((6, 6))), DenseDelta(gaussian(6, 6)), k=k, epsilon=epsilon)


def test_shapes_that_differ_and_vectors_that_are_not_orthonormal():
    base = BaseMatrix(matrix((6, 5)))
    with pytest.raises(ValueError, match=r"ΔW is \(5, 6\), the base weight \(6, 5\)"):
        judged(base, DenseDelta(gaussian(5, 6)))
    longer = {f"exact.{name}": getattr(base.exact, name) for name in ("values", "right", "residuals", "errors", "gaps")}
    broken = BaseMatrix(base.weight, longer | {"exact.left": base.exact.left * 1.01})
    with pytest.raises(ArithmeticError, match="not orthonormal"):
        judged(broken, DenseDelta(torch.zeros(6, 5)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.sampled_from(SHAPES), st.floats(0.5, 30.0), st.floats(0.05, 20.0))
def test_counts_do_not_feel_scale_or_rotation(seed, shape, strength, factor):
    weight, update = matrix(shape, seed=seed), strength * gaussian(*shape, seed=seed + 7) / math.sqrt(max(shape))
    left, right = frames(*shape, seed=seed + 50)
    first = judged(BaseMatrix(weight), DenseDelta(update), k=6).report
    scaled = judged(BaseMatrix(factor * weight), DenseDelta(factor * update), k=6).report
    turned = judged(BaseMatrix(left @ weight @ right), DenseDelta(left @ update @ right), k=6).report
    for other in (scaled, turned):
        for ours, theirs in ((first, other), (first.right, other.right)):
            assert [v.low for v in ours.vectors] == pytest.approx([v.low for v in theirs.vectors], abs=1e-6)
            assert ours.count == theirs.count
            assert ours.energy == pytest.approx(theirs.energy)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 30.0))
def test_a_higher_epsilon_never_finds_fewer(seed, strength):
    base, update = BaseMatrix(matrix((20, 20), seed=seed)), DenseDelta(strength * gaussian(20, 20, seed=seed + 1))
    counts = [judged(base, update, epsilon=epsilon).report.count for epsilon in (0.1, 0.3, 0.5, 0.8, 1.0)]
    assert counts == sorted(counts)
    # In 20 dimensions the largest of 20 cosines cannot be below 1/√20.
    assert judged(base, update, epsilon=1 / math.sqrt(20) - 1e-9).report.count == 0


# The report of a module and of a subject


def analysed(delta, base=None, **settings):
    spectrum = BaseMatrix(matrix((40, 30)) if base is None else base)
    found = analyse_module(
        "m", spectrum, delta, **{"method": "lora", "adapter_rank": 3, "stored_dtype": "F32", **settings}
    )
    return found.report, found.judgement


def test_a_factored_change_is_measured():
    delta = FactoredDelta(gaussian(40, 3), gaussian(3, 30, seed=1), 0.5)
    report, judgement = analysed(delta)
    dense, weight = delta.dense(), matrix((40, 30))
    assert report.shape == (40, 30)
    assert (report.numerical_rank, report.adapter_rank, report.rounding_floor) == (3, 3, None)
    assert report.frobenius == pytest.approx(float(dense.norm()))
    assert report.relative_change == pytest.approx(float(dense.norm() / weight.norm()))
    assert report.singular_values == pytest.approx(torch.linalg.svdvals(dense)[:3].tolist())
    assert judgement is not None
    assert report.intruders == judgement.report
    assert report.notes == []


def test_a_stored_matrix_has_a_floor_and_ranks_above_it():
    weight = matrix((40, 30)).float()
    low_rank = FactoredDelta(gaussian(40, 2), gaussian(2, 30, seed=1), 1.0).dense().float()
    adapted = (weight + low_rank).bfloat16().float()
    stored = DenseDelta(adapted - weight)
    report, _ = analysed(stored, weight, tuned=adapted, adapter_rank=None, stored_dtype="BF16", method="full")
    assert report.rounding_floor == pytest.approx(rounding_floor(adapted, "BF16"), rel=0.01)
    assert report.numerical_rank == 2
    precise, _ = analysed(stored, weight, tuned=adapted, adapter_rank=None, stored_dtype="F32", method="full")
    assert precise.numerical_rank == 30


def test_an_unchanged_module_is_not_judged_and_says_why():
    report, judgement = analysed(DenseDelta(torch.zeros(40, 30)))
    assert judgement is None
    assert (report.intruders, report.stable_rank, report.effective_rank) == (None, None, None)
    assert (report.frobenius, report.relative_change, report.numerical_rank) == (0.0, 0.0, 0)
    assert report.notes == ["ΔW is exactly zero: nothing to judge"]


def test_a_zero_base_has_no_relative_change():
    report, _ = analysed(DenseDelta(gaussian(40, 30)), torch.zeros(40, 30, dtype=torch.float64))
    assert report.relative_change is None
    assert "the base matrix is zero" in report.notes[0]


def test_long_spectra_are_cut():
    weight = matrix((80, 70))
    report, _ = analysed(DenseDelta(gaussian(80, 70)), weight, adapter_rank=None)
    assert len(report.singular_values) == 64


def test_totals_over_modules():
    weight, delta = planted((40, 40), 100.0)
    changed, judgement = analysed(delta, weight)
    still, _ = analysed(DenseDelta(torch.zeros(40, 40)), weight)
    norm = float(weight.norm())
    totals = summarise([changed, still, changed], [norm] * 3, ["a note"]).totals
    assert (totals["modules"], totals["changed_modules"], totals["judged_vectors"]) == (3, 2, 20)
    assert totals["frobenius"] == pytest.approx(math.sqrt(2) * 100)
    assert totals["relative_change"] == pytest.approx(math.sqrt(2) * 100 / (math.sqrt(3) * norm))
    assert (totals["intruder_count"], totals["intruder_count_right"]) == (2, 2)
    assert judgement is not None
    assert totals["intruder_energy"] == pytest.approx(judgement.report.energy)
    assert totals["stable_rank"] == pytest.approx(1.0)


def test_totals_of_nothing_are_undefined_and_not_zero():
    still, _ = analysed(DenseDelta(torch.zeros(40, 30)))
    for modules, norms in (([], []), ([still], [3.0])):
        totals = summarise(modules, norms, []).totals
        for name in ("intruder_count", "intruder_count_right", "intruder_energy", "stable_rank", "effective_rank"):
            assert totals[name] is None
    assert summarise([], [], []).totals["relative_change"] is None
    assert summarise([still], [3.0], []).totals["relative_change"] == 0.0
