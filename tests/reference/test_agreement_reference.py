"""Alpha, tau, the tests and the models of preference equal published numbers or an independent computation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import optimize, stats

from lorascope.measures.agreement import Level, kendall_tau_b, krippendorff_alpha
from lorascope.measures.intervals import wilson
from lorascope.measures.preference import SignCounts, sign_test, wilcoxon_pratt, win_rate
from lorascope.measures.preference_models import bradley_terry, length_adjusted_win_rate
from lorascope.measures.preference_strata import Strata, spread_of_mean
from lorascope.measures.significance import holm

_ = np.nan
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
TWO_BINARY = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
TWO_NOMINAL = [[ord(c) for c in "aabbdcccedda"], [ord(c) for c in "babbbccceddd"]]
THREE_CODERS = [
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]


@pytest.mark.parametrize(
    ("ratings", "level", "alpha"),
    [
        (TWO_BINARY, "nominal", 0.095),
        (TWO_NOMINAL, "nominal", 0.692),
        (FOUR_OBSERVERS, "nominal", 0.743),
        (FOUR_OBSERVERS, "ordinal", 0.815),
        (FOUR_OBSERVERS, "interval", 0.849),
        (THREE_CODERS, "nominal", 0.691),
        (THREE_CODERS, "interval", 0.811),
    ],
)
def test_alpha_as_published(ratings: list[list[float]], level: Level, alpha: float) -> None:
    """Krippendorff 2011, examples A, B and C; three coders: Krippendorff's often quoted example with 15 units."""
    assert krippendorff_alpha(np.array(ratings, dtype=float), level=level) == pytest.approx(alpha, abs=5e-4)


def alpha_by_pairs(ratings: np.ndarray, level: Level) -> float:
    """α from its definition: one loop over pairs within units, one over pairs of all pairable ratings."""
    units = [[x for x in column if np.isfinite(x)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    pool = sorted(x for unit in units for x in unit)

    def apart(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= x <= high for x in pool) - (pool.count(a) + pool.count(b)) / 2
        return between**2

    observed = sum(apart(a, b) / (len(unit) - 1) for unit in units for a, b in permutations(unit, 2)) / len(pool)
    expected = sum(apart(a, b) for a, b in permutations(pool, 2)) / (len(pool) * (len(pool) - 1))
    return 1 - observed / expected


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_from_its_definition(level: Level, seed: int) -> None:
    random = np.random.default_rng(seed)
    ratings = random.integers(-2, 3, (4, 15)).astype(float)
    ratings[random.random(ratings.shape) < 0.4] = np.nan
    assert krippendorff_alpha(ratings, level=level) == pytest.approx(alpha_by_pairs(ratings, level), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_tau_is_scipys(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 5, 30).astype(float), random.integers(0, 3, 30).astype(float)
    expected = stats.kendalltau(first, second).statistic
    assert kendall_tau_b(first, second, seed=0, resamples=50).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_wilcoxon_is_the_distribution_over_all_signs(seed: int) -> None:
    random = np.random.default_rng(seed)
    differences = random.integers(-3, 5, 11) / 3
    ranks = stats.rankdata(np.abs(np.round(differences, 9)))
    moved = differences != 0
    sums = np.array([ranks[moved] @ np.array(signs) for signs in product((0, 1), repeat=int(moved.sum()))])
    positive = ranks[differences > 0].sum()
    tail = min((sums <= positive + 1e-9).mean(), (sums >= positive - 1e-9).mean())
    assert wilcoxon_pratt(differences) == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_wilcoxon_without_ties_is_scipys_exact_one() -> None:
    differences = np.random.default_rng(3).normal(0.3, 1, 25)
    assert wilcoxon_pratt(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, abs=1e-12)


def test_wilcoxon_of_many_items_comes_near_the_normal_one() -> None:
    differences = np.random.default_rng(4).integers(-3, 4, 300) / 2
    normal = stats.wilcoxon(differences, zero_method="pratt", method="approx").pvalue
    assert wilcoxon_pratt(differences) == pytest.approx(normal, abs=0.005)
    many = np.tile(differences, 3)
    exact = stats.wilcoxon(many, zero_method="pratt", method="approx").pvalue
    assert wilcoxon_pratt(many) == pytest.approx(exact, abs=1e-12)


def test_sign_test_is_the_binomial_one() -> None:
    scores = np.array([1.0] * 9 + [2 / 3] * 3 + [0.5] * 4 + [0.0] * 3 + [np.nan])
    assert sign_test(scores) == SignCounts(12, 3, 4, pytest.approx(stats.binomtest(12, 15).pvalue))


def test_holm_by_hand() -> None:
    """Holm 1979: 4 · 0.01, 3 · 0.02, 2 · 0.03 is lifted to no less than those before, 1 · 0.2."""
    adjusted = holm([0.03, None, 0.01, 0.2, 0.02])
    assert adjusted == [pytest.approx(0.06), None, pytest.approx(0.04), pytest.approx(0.2), pytest.approx(0.06)]


@pytest.mark.parametrize("wins", [0, 1, 12, 500, 999, 1000])
def test_right_or_wrong_over_many_items_is_wilsons(wins: int) -> None:
    votes = np.repeat([1.0, 0.0], [wins, 1000 - wins])
    found = win_rate(votes)
    assert (found.low, found.high) == pytest.approx(wilson(wins, 1000), abs=6e-4)


def test_variance_of_large_strata_is_the_textbooks() -> None:
    random = np.random.default_rng(0)
    sizes, populations = np.array([8, 12, 20]), np.array([500.0, 300.0, 200.0])
    of_item = np.repeat(np.arange(3), sizes)
    values = random.random(40)
    parts = [values[of_item == h] for h in range(3)]
    shares = populations / populations.sum()
    means = np.array([part.mean() for part in parts])
    pieces = [w**2 * part.var(ddof=1) / len(part) for w, part in zip(shares, parts, strict=True)]
    between = (shares * (means - shares @ means) ** 2).sum() / populations.sum()
    degrees = sum(pieces) ** 2 / sum(p**2 / (n - 1) for p, n in zip(pieces, sizes, strict=True))
    found = spread_of_mean(values[None], Strata(of_item, populations))
    assert (found.variance, found.degrees) == pytest.approx((sum(pieces) + between, degrees))


def test_balanced_raters_give_the_anova_variance() -> None:
    random = np.random.default_rng(1)
    raters, items = 6, 30
    votes = random.normal(size=(raters, 1)) + random.normal(size=items) + random.normal(size=(raters, items))
    rows, columns = votes.mean(axis=1), votes.mean(axis=0)
    residual = votes - rows[:, None] - columns + votes.mean()
    mean_square = (residual**2).sum() / ((raters - 1) * (items - 1))
    of_raters = rows.var(ddof=1) - mean_square / items
    expected = columns.var(ddof=1) / items + of_raters / raters
    assert spread_of_mean(votes, Strata.single(items)).variance == pytest.approx(expected)


def test_length_adjustment_is_the_penalised_likelihoods_maximum() -> None:
    random = np.random.default_rng(2)
    lengths = random.normal(0.4, 0.7, 60)
    scores = random.integers(0, 7, 60) / 6
    strata = Strata(random.integers(0, 3, 60), np.array([100.0, 50.0, 10.0]))
    z = lengths / lengths.std(ddof=1)

    def loss(parameters: np.ndarray) -> float:
        line = parameters[0] + parameters[1] * z
        likelihood = strata.weights @ (scores * line - np.log1p(np.exp(line)))
        return -likelihood + 0.1 / 60 * parameters[1] ** 2 / 2

    best = optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x
    found = length_adjusted_win_rate(scores, lengths, strata)
    assert found.value == pytest.approx(1 / (1 + np.exp(-best[0])), abs=1e-6)


def test_bradley_terry_is_hunters_iteration() -> None:
    """Hunter 2004 (Annals of Statistics 32, 384): strength_i = wins_i / Σ_j n_ij / (strength_i + strength_j)."""
    random = np.random.default_rng(3)
    pairs = np.array([(i, j) for i in range(4) for j in range(4) if i < j] * 20)
    scores = random.choice([0, 0.5, 1], len(pairs), p=[0.3, 0.2, 0.5])
    weights = random.uniform(0.5, 3, len(pairs))
    wins, meetings = np.zeros((4, 4)), np.zeros((4, 4))
    for (i, j), score, weight in zip(pairs, scores, weights, strict=True):
        wins[i, j] += weight * score
        wins[j, i] += weight * (1 - score)
        meetings[i, j] += weight
        meetings[j, i] += weight
    strength = np.ones(4)
    for _step in range(5000):
        strength = wins.sum(axis=1) / (meetings / (strength[:, None] + strength)).sum(axis=1)
    names = np.array(["a", "b", "c", "d"])
    found = bradley_terry(
        names[pairs[:, 0]], names[pairs[:, 1]], scores, items=list(range(len(pairs))), weights=weights, reference="b"
    )
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(
        dict(zip(names, np.log(strength / strength[1]), strict=True)), abs=1e-8
    )
