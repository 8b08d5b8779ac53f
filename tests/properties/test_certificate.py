"""No false certificate: bounds against exact decompositions in float64, over random and adversarial matrices.

"False" is an interval that does not hold the largest cosine that the exact decomposition finds. An undecided vector is
never false. The trials make 10,000 base matrices in all, most with eight judged vectors.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorascope.weights.bases import BaseMatrix, Side
from lorascope.weights.certificate import enclose, undecided
from lorascope.weights.deltas import FactoredDelta
from lorascope.weights.intruders import Question, judge_matrix
from lorascope.weights.matrices import adapted_matrix

SHAPES = {"square": (72, 72), "tall": (104, 60), "wide": (60, 104)}
SPECTRA = ("flat", "nearly_flat", "power", "clusters", "low_rank", "spikes", "steep")
DEGENERATE = ("flat", "clusters", "low_rank")
LIFTS = ("top", "middle", "bottom")
# Within this of the exact value the float32 decomposition itself is not to be trusted.
ROUNDING = 2e-4


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q


def spectrum(kind: str, count: int, generator: torch.Generator) -> Tensor:
    index = torch.arange(1, count + 1, dtype=torch.float64)
    if kind == "flat":
        return torch.ones(count, dtype=torch.float64)
    if kind == "nearly_flat":
        return 1.0 + 0.2 * torch.rand(count, generator=generator, dtype=torch.float64)
    if kind == "power":
        return 10.0 * index**-0.7
    if kind == "clusters":
        gap = 10.0 ** float(-3 - 3 * torch.rand(1, generator=generator))
        return torch.ceil(index / 6).reciprocal() * (1.0 + gap * torch.rand(count, generator=generator))
    if kind == "low_rank":
        rank = int(torch.randint(4, count - 4, (1,), generator=generator))
        return torch.where(index <= rank, 5.0 / index.sqrt(), 0.0)
    if kind == "spikes":
        return torch.where(index <= 6, 30.0 / index, 1.0 + torch.rand(count, generator=generator, dtype=torch.float64))
    return 10.0 * 0.85**index


def base_matrix(kind: str, shape: str, seed: int) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = SHAPES[shape]
    count = min(rows, columns)
    values = spectrum(kind, count, generator).sort(descending=True).values
    weight = (orthonormal(rows, count, generator) * values) @ orthonormal(columns, count, generator).T
    return weight.float(), generator


def exact_axes(weight: Tensor, side: Side) -> Tensor:
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    kept = values > max(weight.shape) * torch.finfo(torch.float32).eps * values[0]
    return left[:, kept] if side == "left" else right[kept].T


def lifted(axes: Tensor, where: str, count: int, generator: torch.Generator) -> Tensor:
    """Unit vectors that share 0.3–0.9 of their length with one axis, among them shares of ε ± 1e-3 for ε = 0.5."""
    size, total = axes.shape
    span = {"top": (0, total // 8), "middle": (total // 8, 7 * total // 8), "bottom": (7 * total // 8, total)}[where]
    chosen = torch.randint(span[0], max(span[1], span[0] + 1), (count,), generator=generator)
    shares = 0.3 + 0.6 * torch.rand(count, generator=generator, dtype=torch.float64)
    shares[0], shares[1] = 0.5 - 1e-3, 0.5 + 1e-3
    target = axes[:, chosen]
    other = torch.randn(size, count, generator=generator, dtype=torch.float64)
    other = other - target * (target * other).sum(dim=0)
    return shares * target + (1 - shares**2).sqrt() * other / other.norm(dim=0)


def enclosed(base: BaseMatrix, side: Side, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The interval of each column, as the engine makes it, without the exact fallback."""
    nothing = torch.zeros(vectors.shape[1])
    if not base.long(side):
        found = enclose(base.axes(side), vectors, nothing, (0.5,))
        return found.low, found.high
    inside, error = base.coordinates(side, vectors)
    found = enclose(base.axes(side), inside, error.clamp(max=2.0), (0.5,))
    return found.low, found.high


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_interval_excludes_the_exact_cosine(kind: str, shape: str):
    decided = tried = 0
    for seed in range(380):
        weight, generator = base_matrix(kind, shape, 1000 * SPECTRA.index(kind) + seed)
        side: Side = ("left", "right")[seed % 2]
        axes = exact_axes(weight, side)
        vectors = lifted(axes, LIFTS[seed % 3], 8, generator)
        truth = (axes.T @ vectors).abs().max(dim=0).values
        low, high = enclosed(BaseMatrix(weight), side, vectors.float())
        inside = (low <= truth + ROUNDING) & (truth <= high + ROUNDING)
        if kind in DEGENERATE:
            # Single vectors of equal singular values are arbitrary: only the verdict "intruder" is a claim there.
            inside = ~((high < 0.5) & (truth >= 0.5 + ROUNDING))
        assert bool(inside.all()), (seed, low.tolist(), truth.tolist(), high.tolist())
        decided += int((~undecided(low, high, (0.5,))).sum())
        tried += len(truth)
    if kind in ("power", "spikes", "steep", "nearly_flat"):
        assert decided > 0.05 * tried, "a bound that never decides is no use"


@pytest.mark.parametrize("kind", SPECTRA)
def test_verdicts_are_those_of_the_exact_decomposition(kind: str):
    counts = 0
    for seed in range(290):
        weight, generator = base_matrix(kind, tuple(SHAPES)[seed % 3], 50_000 + 1000 * SPECTRA.index(kind) + seed)
        rank = int(torch.randint(1, 9, (1,), generator=generator))
        size = 10.0 ** float(torch.rand(1, generator=generator) * 7 - 2) if seed % 29 else 0.0
        up, down = (orthonormal(side, rank, generator).float() for side in weight.shape)
        sizes = size * torch.linspace(2.0, 1.0, rank)
        adapted = adapted_matrix(weight, FactoredDelta(up * sizes, down.T.contiguous(), 1.0))
        found = judge_matrix(BaseMatrix(weight), adapted, Question(engine="certificate")).report
        truth = judge_matrix(
            BaseMatrix(weight.double()),
            adapted_matrix(weight.double(), FactoredDelta((up * sizes).double(), down.T.double(), 1.0)),
            Question(engine="svd"),
        ).report
        for ours, theirs in ((found, truth), (found.right, truth.right)):
            assert ours is not None
            assert theirs is not None
            assert ours.undecided == 0
            for mine, exact in zip(ours.vectors, theirs.vectors, strict=False):
                if not mine.degenerate and kind not in DEGENERATE and abs(exact.low - 0.5) > 1e-3:
                    assert mine.verdict == exact.verdict, (seed, mine, exact)
                    counts += 1
    assert counts > 100 or kind in DEGENERATE, counts
