from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lorascope.weights.bases import BaseMatrix
from lorascope.weights.certificate import Axes, enclose, largest_mass, refuse_impossible, undecided
from lorascope.weights.deltas import FactoredDelta
from lorascope.weights.intruders import Question, cheapest_engine, judge_matrix
from lorascope.weights.matrices import adapted_matrix


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frame(size: int, count: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(gaussian(size, count, seed=seed).double()).Q


def lanczos(points: np.ndarray, masses: np.ndarray, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Recurrence of a discrete measure in float64, by the textbook loop."""
    basis = [np.sqrt(masses)]
    alphas, betas = [], []
    for step in range(steps):
        image = points * basis[-1]
        alphas.append(image @ basis[-1])
        for _ in range(2):
            for vector in basis:
                image = image - (vector @ image) * vector
        if step + 1 < steps:
            betas.append(np.linalg.norm(image))
            basis.append(image / betas[-1])
    return torch.tensor([alphas]), torch.tensor([betas])


@pytest.mark.parametrize("seed", range(120))
def test_no_interval_between_nodes_holds_more_than_the_bound(seed: int):
    random = np.random.default_rng(seed)
    points = np.sort(random.beta(0.5, 1.5, 60)) * 10
    masses = random.dirichlet(np.full(60, random.choice([0.05, 0.3, 2.0])))
    steps = int(random.integers(2, 16))
    alphas, betas = lanczos(points, masses, steps)
    zero = torch.zeros(1, dtype=torch.float64)
    bound = float(largest_mass(alphas, betas, zero))
    nodes = np.linalg.eigvalsh(np.diag(alphas[0]) + np.diag(betas[0], 1) + np.diag(betas[0], -1))
    edges = [-np.inf, *nodes, np.inf]
    between = [
        masses[(points >= low - 1e-9) & (points <= high + 1e-9)].sum() for low, high in itertools.pairwise(edges)
    ]
    assert max(between) <= bound + 1e-9
    assert masses.max() <= bound + 1e-9
    radius = float(random.choice([1e-3, 0.01, 0.1, 1.0]))
    wide = float(largest_mass(alphas, betas, zero + radius))
    starts = np.concatenate([np.linspace(-1, 11, 400), points, points - 2 * radius, nodes - radius])
    windows = [masses[(points >= start) & (points <= start + 2 * radius)].sum() for start in starts]
    assert max(windows) <= wide + 1e-9
    assert wide >= bound - 1e-12


def test_the_bound_of_one_step_is_everything():
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(largest_mass(torch.tensor([[3.0]]).double(), torch.zeros(1, 0).double(), zero)) == pytest.approx(1.0)


def spiked(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    count = min(rows, columns)
    values = 20.0 * torch.arange(1, count + 1).double() ** -0.7
    return ((frame(rows, count, seed) * values) @ frame(columns, count, seed + 1).T).float()


@pytest.mark.parametrize("shape", [(320, 320), (420, 280), (280, 420)])
def test_a_lanczos_step_count_and_interval_on_larger_matrices(shape):
    weight = spiked(*shape)
    delta = FactoredDelta(30.0 * frame(shape[0], 3, 7).float(), frame(shape[1], 3, 8).T.float().contiguous(), 1.0)
    adapted = adapted_matrix(weight, delta)
    ours = judge_matrix(BaseMatrix(weight), adapted, Question(engine="certificate", fallback=False)).report
    theirs = judge_matrix(BaseMatrix(weight), adapted, Question(engine="svd")).report
    for mine, exact in ((ours, theirs), (ours.right, theirs.right)):
        for vector, truth in zip(mine.vectors, exact.vectors, strict=True):
            assert vector.low - 2e-3 <= truth.low <= vector.high + 2e-3
            assert vector.leading_share == pytest.approx(truth.leading_share, abs=5e-3)
    assert ours.engine == "certificate"
    assert theirs.exact
    assert not ours.exact
    assert ours.count == 3


def test_several_epsilons_are_all_decided():
    weight = spiked(300, 300)
    adapted = adapted_matrix(weight, FactoredDelta(8.0 * frame(300, 4, 3).float(), frame(300, 4, 4).T.float(), 1.0))
    epsilons = (0.5, 0.3, 0.7)
    report = judge_matrix(BaseMatrix(weight), adapted, Question(epsilons=epsilons, engine="certificate")).report
    exact = judge_matrix(BaseMatrix(weight), adapted, Question(epsilons=epsilons, engine="svd")).report
    assert report.epsilon == 0.5
    for epsilon in epsilons:
        decided = [vector.low >= epsilon or vector.high < epsilon for vector in report.vectors]
        assert all(decided)
        assert sum(v.high < epsilon for v in report.vectors) == sum(v.high < epsilon for v in exact.vectors)


def test_the_three_engines_agree():
    weight = spiked(300, 260)
    adapted = adapted_matrix(weight, FactoredDelta(9.0 * frame(300, 4, 3).float(), frame(260, 4, 4).T.float(), 1.0))
    reports = [judge_matrix(BaseMatrix(weight), adapted, Question(engine=name)).report
               for name in ("svd", "base_svd", "certificate")]  # fmt: skip
    assert len({tuple(v.verdict for v in report.vectors) for report in reports}) == 1
    assert len({report.rotations for report in reports}) == 1


def test_without_the_fallback_what_is_open_stays_open():
    left, right = frame(200, 200, 1), frame(200, 200, 2)
    weight = ((left * torch.linspace(2.0, 1.0, 200)) @ right.T).float()
    # Half of its length along one axis in the middle: no bound short of the exact value can say which side of ε.
    vector = (0.5 * left[:, 100] + math.sqrt(0.75) * left[:, 150]).float()
    adapted = adapted_matrix(weight, FactoredDelta(100.0 * vector[:, None], right[:, :1].T.float(), 1.0))
    open_one = judge_matrix(BaseMatrix(weight), adapted, Question(k=1, engine="certificate", fallback=False)).report
    assert (open_one.undecided, open_one.vectors[0].verdict, open_one.count) == (1, "undecided", 0)
    decided = judge_matrix(BaseMatrix(weight), adapted, Question(k=1, engine="certificate")).report
    assert (decided.undecided, decided.vectors[0].verdict) == (0, "kept")


def test_an_orthogonal_base_is_said_to_be_degenerate():
    weight = frame(160, 160, 1).float()
    adapted = adapted_matrix(weight, FactoredDelta(5.0 * gaussian(160, 1), gaussian(1, 160, seed=1), 1.0))
    report = judge_matrix(BaseMatrix(weight), adapted, Question(k=2, engine="certificate")).report
    assert report.undecided == 0
    assert all(vector.degenerate for vector in report.vectors)


def test_impossible_cosines_are_refused():
    weight = spiked(200, 200)
    base = BaseMatrix(weight)
    axes = base.axes("left")
    longer = replace(axes, leading=axes.leading * 1.1)
    with pytest.raises(ArithmeticError, match="not orthonormal"):
        enclose(longer, base.leading.left[:, :2], torch.zeros(2), (0.5,))
    with pytest.raises(ArithmeticError, match="nan"):
        refuse_impossible(torch.tensor([0.1, math.nan]))


def test_undecided_is_an_interval_around_an_epsilon():
    low, high = torch.tensor([0.1, 0.4, 0.5, 0.6]), torch.tensor([0.4999, 0.5, 0.9, 0.65])
    assert undecided(low, high, (0.5,)).tolist() == [False, True, False, False]
    assert undecided(low, high, (0.5, 0.62)).tolist() == [False, True, True, True]


def test_the_engine_follows_size_and_number_of_subjects():
    assert cheapest_engine((384, 384), 1) == "svd"
    assert cheapest_engine((384, 1536), 3) == "base_svd"
    assert cheapest_engine((4096, 4096), 1) == "certificate"
    assert cheapest_engine((4096, 4096), 40, ("left",)) == "base_svd"


@pytest.mark.parametrize("wrong", [{"k": 0}, {"epsilons": ()}, {"epsilons": (0.5, 1.5)}, {"sides": ("right",)}])
def test_questions_outside_their_range(wrong):
    with pytest.raises(ValueError, match=r"epsilon must lie in|left side"):
        Question(**wrong)


# What is known of a base


@pytest.mark.parametrize("shape", [(420, 280), (280, 420)])
def test_coordinates_inside_the_range_are_those_of_q(shape):
    weight = spiked(*shape)
    base = BaseMatrix(weight)
    side = "left" if shape[0] > shape[1] else "right"
    assert base.long(side)
    vectors = torch.linalg.qr(gaussian(max(shape), 4, seed=9)).Q
    found, error = base.coordinates(side, vectors)
    tall = (weight if side == "left" else weight.T).double()
    inside = torch.linalg.qr(tall).Q.T @ vectors.double()
    torch.testing.assert_close(found.double().norm(dim=0), inside.norm(dim=0), rtol=1e-4, atol=1e-4)
    assert float(error.max()) < 1e-3
    again = BaseMatrix(weight, base.knowledge())
    assert torch.equal(again.factor, base.factor)


def test_a_base_of_low_rank_has_no_coordinates_and_says_so():
    weight = gaussian(300, 4) @ gaussian(4, 200, seed=1)
    found, error = BaseMatrix(weight).coordinates("left", torch.linalg.qr(gaussian(300, 2, seed=2)).Q)
    assert bool(torch.isinf(error).all())
    assert not bool(found.any())


def test_what_is_known_is_used_and_not_computed_again():
    weight = spiked(300, 200)
    first = BaseMatrix(weight)
    assert not first.is_decomposed
    assert first.rank is None
    adapted = adapted_matrix(weight, FactoredDelta(9.0 * frame(300, 2, 3).float(), frame(200, 2, 4).T.float(), 1.0))
    report = judge_matrix(first, adapted, Question(engine="base_svd")).report
    kept = first.knowledge(exact=True)
    assert {name.partition(".")[0] for name in kept} >= {"leading", "exact"}
    second = BaseMatrix(weight, kept)
    assert second.is_decomposed
    assert second.rank == 200
    assert torch.equal(second.exact.left, first.exact.left)
    assert judge_matrix(second, adapted).report.engine == "base_svd"
    assert judge_matrix(second, adapted).report.count == report.count


# What a review found


def test_approximate_leading_vectors_are_not_deflated_into_a_cluster():
    """Twenty leading vectors, each turned towards a cluster in which y is one vector: no bound may miss it."""
    generator = torch.Generator().manual_seed(3)
    leading = torch.linspace(3.4, 3.0, 20, dtype=torch.float64)
    cluster = 1.0 + 1e-6 * torch.arange(20, dtype=torch.float64)
    values = torch.cat([leading, cluster.flip(0), torch.linspace(0.9, 0.1, 260, dtype=torch.float64)])
    vectors = torch.eye(300, dtype=torch.float64)[:, :20].clone()
    turn = 0.002 + 0.017 * torch.rand(20, generator=generator, dtype=torch.float64)
    for j in range(20):
        towards = torch.zeros(300, dtype=torch.float64)
        towards[20:40] = torch.randn(20, generator=generator, dtype=torch.float64)
        vectors[:, j] += turn[j] * towards / towards.norm()
    vectors = torch.linalg.qr(vectors).Q
    vectors = vectors * vectors.diagonal().sign()
    core = torch.diag(values)
    couplings = ((core @ core @ vectors) - vectors * (vectors.T @ core @ core @ vectors).diagonal()).norm(dim=0)
    distances = leading**2 - 1.1
    errors = (vectors - torch.eye(300, dtype=torch.float64)[:, :20]).norm(dim=0)
    axes = Axes(core, vectors, errors, couplings.square() / distances / values[0] ** 2, float(values[0]), 0.3)
    y = torch.eye(300, dtype=torch.float64)[:, 30:31]
    found = enclose(axes, y, torch.zeros(1, dtype=torch.float64), (0.5,))
    assert float(found.high) >= 0.5


@pytest.mark.parametrize("size", [1e-8, 1e8, 1e12])
def test_verdicts_do_not_depend_on_the_scale_of_the_weights(size):
    weight = spiked(300, 300)
    delta = FactoredDelta(9.0 * frame(300, 4, 3).float(), frame(300, 4, 4).T.float().contiguous(), 1.0)
    plain = judge_matrix(BaseMatrix(weight), adapted_matrix(weight, delta), Question(engine="certificate")).report
    scaled = judge_matrix(
        BaseMatrix(weight * size),
        adapted_matrix(weight * size, FactoredDelta(delta.up * size, delta.down, 1.0)),
        Question(engine="certificate"),
    ).report
    assert [v.verdict for v in scaled.vectors] == [v.verdict for v in plain.vectors]


@pytest.mark.parametrize("engine", ["svd", "base_svd", "certificate"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(engine, value):
    weight = spiked(200, 200)
    broken = weight.clone()
    broken[3, 4] = value
    with pytest.raises(ArithmeticError, match="NaN or infinite"):
        judge_matrix(BaseMatrix(weight), adapted_matrix(broken, FactoredDelta(weight[:, :1], weight[:1], 1.0)),
                     Question(engine=engine))  # fmt: skip


@pytest.mark.parametrize("size", [200, 768])
def test_a_change_that_cancels_the_base_leaves_nothing_to_judge(size):
    up, down = gaussian(size, 2), gaussian(2, size, seed=1)
    weight = up @ down
    adapted = adapted_matrix(weight, FactoredDelta(-up, down, 1.0))
    for engine in ("certificate", "base_svd", "svd"):
        report = judge_matrix(BaseMatrix(weight), adapted, Question(engine=engine)).report
        assert report.undecided == 0


def test_weak_directions_of_a_strong_base_still_count_as_its_own():
    left, right = frame(400, 400, 1), frame(400, 400, 2)
    values = torch.cat([torch.tensor([2e4]), torch.linspace(1.5, 0.5, 399)]).double()
    weight = ((left * values) @ right.T).float()
    adapted = adapted_matrix(weight, FactoredDelta((1e5 * left[:, 200:201]).float(), right[:, 200:201].T.float(), 1.0))
    for engine in ("svd", "certificate"):
        report = judge_matrix(BaseMatrix(weight), adapted, Question(k=1, engine=engine)).report
        assert report.vectors[0].verdict == "kept"


@pytest.mark.parametrize("rank", [1, 20])
@pytest.mark.parametrize("shape", [(800, 800), (900, 780)])
def test_a_base_of_very_low_rank_is_judged_by_every_engine(rank, shape):
    weight = gaussian(shape[0], rank) @ gaussian(rank, shape[1], seed=1)
    delta = FactoredDelta(gaussian(shape[0], 8, seed=2), gaussian(8, shape[1], seed=3), 0.5)
    reports = [
        judge_matrix(BaseMatrix(weight), adapted_matrix(weight, delta), Question(k=6, engine=engine)).report
        for engine in ("svd", "base_svd", "certificate")
    ]
    assert len({tuple(vector.verdict for vector in report.vectors) for report in reports}) == 1
    assert all(report.undecided == 0 for report in reports)
