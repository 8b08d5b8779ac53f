"""Intruder dimensions (Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv 2410.21228).

Definition 3.1: the j-th left singular vector y_j of W = W0 + ΔW is an *intruder* when max_i |⟨y_j, x_i⟩| < ε over all
left singular vectors x_i of W0. The paper judges the k = 10 leading vectors at ε = 0.5. The same on the right side is
shown apart and never added in.

A low cosine is not "outside the span of W0": in n dimensions the largest of n cosines can be as low as 1/√n for a
vector that lies wholly inside. And inside a group of nearly equal singular values, single vectors may rotate freely:
``leading_share``, the squared length of y_j inside the base's leading directions, tells such a rotation (share of one
half or more) from a new direction.

Three engines answer the same question:

``svd``          two exact decompositions: the reference, and the cheapest for small matrices;
``base_svd``     one exact decomposition of the base, then only leading vectors of every adapted matrix: cheapest for
                 many subjects on one base;
``certificate``  no exact decomposition: intervals from Lanczos (:mod:`lorascope.weights.certificate`). Vectors whose
                 interval holds an ε are decided by an exact decomposition of that one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lorascope.schema.comparison import IntruderReport, IntruderVector
from lorascope.weights.bases import BaseMatrix, Side, leading_directions
from lorascope.weights.certificate import Axes, Enclosure, enclose, refuse_impossible, undecided
from lorascope.weights.krylov import Triplets, all_triplets, leading_triplets
from lorascope.weights.matrices import Matrix, full_precision

EngineName = Literal["svd", "base_svd", "certificate"]
ROTATION = 0.5
_SMALL = 768
# A vector this far from being determined may be turned by rounding alone.
_DEGENERATE = 0.05


@dataclass(frozen=True)
class Question:
    """What to judge: the ``k`` leading vectors, at every ε of ``epsilons`` (the first is the report's), on ``sides``.

    ``engine`` None chooses the cheapest. ``fallback`` False leaves undecided vectors undecided instead of decomposing.
    """

    k: int = 10
    epsilons: tuple[float, ...] = (0.5,)
    sides: tuple[Side, ...] = ("left", "right")
    engine: EngineName | None = None
    fallback: bool = True

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for an ε outside (0, 1] or k < 1."""
        if self.k < 1 or not self.epsilons or not all(0.0 < epsilon <= 1.0 for epsilon in self.epsilons):
            raise ValueError(f"epsilon must lie in (0, 1] and k be at least 1, not {self.epsilons} and {self.k}")
        if "left" not in self.sides:
            raise ValueError("the left side is what intruder dimensions are defined on: it is always judged")


@dataclass(frozen=True)
class Judgement:
    """Intruder report (left, with right inside) and the judged singular triplets of the adapted matrix."""

    report: IntruderReport
    triplets: Triplets


@dataclass(frozen=True)
class _Bounds:
    low: Tensor
    high: Tensor
    share: Tensor
    degenerate: Tensor

    def where(self, chosen: Tensor, other: _Bounds) -> _Bounds:
        """``other`` for the ``chosen`` vectors, these for the rest."""
        return _Bounds(
            torch.where(chosen, other.low, self.low),
            torch.where(chosen, other.high, self.high),
            torch.where(chosen, other.share, self.share),
            torch.where(chosen, other.degenerate, self.degenerate),
        )


def cheapest_engine(shape: tuple[int, int], subjects: int, sides: Sequence[Side] = ("left", "right")) -> EngineName:
    """The engine that takes the least time for ``subjects`` adapted matrices on one base.

    Measured in ``benchmarks/weights.py``: an exact decomposition of a square matrix costs as much as about thirty
    certificates of one side, and below 768 dimensions everything is as fast as an exact decomposition.
    """
    if min(shape) < _SMALL:
        return "svd" if subjects < 2 else "base_svd"
    return "base_svd" if subjects * len(sides) >= 30 else "certificate"


def judge_matrix(
    base: BaseMatrix,
    adapted: Matrix,
    question: Question | None = None,
    *,
    subjects: int = 1,
    triplets: Triplets | None = None,
) -> Judgement:
    """Judge the k leading singular vectors of the adapted matrix W0 + ΔW.

    Fewer than k are judged when its rank is lower. ``subjects`` is how many matrices will be judged against this base,
    for the choice of the engine; ``triplets`` are the adapted matrix's leading ones where they are known. Raises
    ``ValueError`` for shapes that differ, and ``ArithmeticError`` when a cosine exceeds 1 + 1e-4 (vectors that are not
    orthonormal).
    """
    question = question or Question()
    if tuple(adapted.shape) != tuple(base.weight.shape):
        raise ValueError(f"the adapted weight is {adapted.shape}, the base weight {tuple(base.weight.shape)}")
    cheapest: EngineName = (
        "base_svd" if base.is_decomposed else cheapest_engine(adapted.shape, subjects, question.sides)
    )
    engine = question.engine or cheapest
    with full_precision():
        top = triplets or _leading(adapted, question.k, engine)
        exact: list[Triplets] = [top] if engine == "svd" else []
        reports = {
            side: _report(side, top, _judge_side(side, base, adapted, top, engine, question, exact), engine, question)
            for side in question.sides
        }
    report = reports["left"].model_copy(update={"right": reports.get("right")})
    return Judgement(report, top)


def _leading(adapted: Matrix, count: int, engine: EngineName) -> Triplets:
    return all_triplets(adapted.dense()).first(count) if engine == "svd" else leading_triplets(adapted, count)


def _judge_side(
    side: Side,
    base: BaseMatrix,
    adapted: Matrix,
    top: Triplets,
    engine: EngineName,
    question: Question,
    exact: list[Triplets],
) -> _Bounds:
    """Intervals of one side, undecided ones decided exactly; ``exact`` keeps the adapted decomposition once made."""
    if engine == "svd":
        return _exactly(side, base, top, widened=False)
    bounds = (
        _certified(side, base, top, question) if engine == "certificate" else _exactly(side, base, top, widened=True)
    )
    for step in ("base", "both"):
        open_ones = undecided(bounds.low, bounds.high, question.epsilons)
        if not question.fallback or not bool(open_ones.any()):
            break
        if step == "both" and not exact:
            exact.append(all_triplets(adapted.dense()).first(question.k))
        found = (
            _exactly(side, base, top, widened=True) if step == "base" else _exactly(side, base, exact[0], widened=False)
        )
        bounds = bounds.where(open_ones, found)
    return bounds


def _certified(side: Side, base: BaseMatrix, top: Triplets, question: Question) -> _Bounds:
    vectors = top.left if side == "left" else top.right
    errors = top.errors.clamp(max=2.0)
    if not base.long(side):
        found = enclose(base.axes(side), vectors, errors, question.epsilons)
        return _certain(found)
    # The leading vectors alone often decide; only what they leave open needs coordinates inside the base's range.
    found = enclose(
        Axes(None, base.directions(side), base.leading.errors, base.scale), vectors, errors, question.epsilons
    )
    bounds = _certain(found)
    if bool(undecided(bounds.low, bounds.high, question.epsilons).any()):
        inside, more = base.coordinates(side, vectors)
        within = enclose(base.axes(side), inside, errors + more, question.epsilons)
        tighter = within.high < bounds.high
        bounds = replace(bounds, high=torch.where(tighter, within.high, bounds.high))
    return bounds


def _certain(found: Enclosure) -> _Bounds:
    """A certificate covers whole groups of equal singular values: what it decides does not depend on their rotation."""
    return _Bounds(found.low, found.high, found.leading_share, torch.zeros_like(found.low, dtype=torch.bool))


def _exactly(side: Side, base: BaseMatrix, top: Triplets, *, widened: bool) -> _Bounds:
    """Cosines with every singular vector of the base; widened by the errors of the adapted vectors where asked."""
    axes, vectors = (base.exact.left, top.left) if side == "left" else (base.exact.right, top.right)
    cosines = (axes.T @ vectors).abs()
    refuse_impossible(cosines)
    if cosines.shape[0] == 0:
        zero = torch.zeros(vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
        return _Bounds(zero, zero, zero, zero.bool())
    largest, nearest = cosines.max(dim=0)
    largest = largest.clamp(max=1.0)
    share = cosines[: leading_directions(len(axes))].square().sum(dim=0).clamp(max=1.0)
    slack = top.errors if widened else torch.zeros_like(top.errors)
    degenerate = (top.errors > _DEGENERATE) | (base.exact.errors[nearest] > _DEGENERATE)
    return _Bounds((largest - slack).clamp(min=0.0), (largest + slack).clamp(max=1.0), share, degenerate)


def _report(side: Side, top: Triplets, bounds: _Bounds, engine: EngineName, question: Question) -> IntruderReport:
    epsilon = question.epsilons[0]
    low, high, share = bounds.low.tolist(), bounds.high.tolist(), bounds.share.tolist()
    values, gaps, degenerate = top.values.tolist(), top.gaps.tolist(), bounds.degenerate.tolist()
    judged = [
        IntruderVector(
            index=index,
            singular_value=values[index],
            low=low[index],
            high=high[index],
            leading_share=share[index],
            gap=gaps[index],
            degenerate=degenerate[index],
            verdict="kept" if low[index] >= epsilon else "intruder" if high[index] < epsilon else "undecided",
        )
        for index in range(len(values))
    ]
    intruders = [vector for vector in judged if vector.verdict == "intruder"]
    return IntruderReport(
        k=question.k,
        epsilon=epsilon,
        side=side,
        count=len(intruders),
        undecided=sum(vector.verdict == "undecided" for vector in judged),
        exact=all(vector.low == vector.high for vector in judged),
        engine=engine,
        energy=_energy_share(judged),
        rotations=sum(vector.leading_share >= ROTATION for vector in intruders),
        vectors=judged,
    )


def _energy_share(vectors: list[IntruderVector]) -> float | None:
    """Share of Σσ² of the judged vectors that intruders carry, 0–1; None for a zero matrix."""
    total = sum(vector.singular_value**2 for vector in vectors)
    if total == 0.0:
        return None
    return sum(vector.singular_value**2 for vector in vectors if vector.verdict == "intruder") / total
