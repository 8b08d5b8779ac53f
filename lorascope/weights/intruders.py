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
from lorascope.weights.matrices import Matrix, full_precision, is_finite

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

    At 4096 × 4096, ``benchmarks/weights.py`` finds 13.3 s for the base's decomposition, after which each side judged
    takes 0.3 s less than by certificate: it pays from some forty sides on, and from fewer, thirty, as
    a vector that stays undecided costs that decomposition anyway. Below 768 dimensions
    a decomposition takes well under a second.
    """
    if min(shape) < _SMALL:
        return "svd" if subjects < 2 else "base_svd"
    return "base_svd" if subjects * len(sides) >= 30 else "certificate"


def judge_matrix(
    base: BaseMatrix, adapted: Matrix, question: Question | None = None, *, subjects: int = 1
) -> Judgement:
    """Judge the k leading singular vectors of the adapted matrix W0 + ΔW.

    Fewer than k are judged when its rank is lower. ``subjects`` is how many matrices will be judged against this base,
    for the choice of the engine; a base that is decomposed already is used as it is. Raises ``ValueError`` for shapes
    that differ, and ``ArithmeticError`` for values that are not finite and when a cosine exceeds 1 + 1e-4 (vectors that
    are not orthonormal).
    """
    question = question or Question()
    if tuple(adapted.shape) != tuple(base.weight.shape):
        raise ValueError(f"the adapted weight is {adapted.shape}, the base weight {tuple(base.weight.shape)}")
    _refuse_infinite(base, adapted)
    cheapest = "base_svd" if base.is_decomposed else cheapest_engine(adapted.shape, subjects, question.sides)
    engine: EngineName = question.engine or cheapest
    with full_precision():
        if engine == "svd":
            top = all_triplets(adapted.dense()).first(question.k)
            bounds = {side: _exactly(side, base, top, widened=False) for side in question.sides}
        else:
            top = leading_triplets(adapted, question.k)
            judge = _certified if engine == "certificate" else _exactly_widened
            bounds = {side: judge(side, base, top, question) for side in question.sides}
            if question.fallback:
                decided = _decided(base, adapted, top, bounds, question)
                if decided is None:
                    return judge_matrix(base, adapted, replace(question, engine="svd"))
                bounds = decided
    reports = {side: _report(side, top, found, engine, question) for side, found in bounds.items()}
    return Judgement(reports["left"].model_copy(update={"right": reports.get("right")}), top)


def _refuse_infinite(base: BaseMatrix, adapted: Matrix) -> None:
    parts = [] if adapted.added is None else [adapted.added.up, adapted.added.down]
    parts += [] if adapted.whole is base.weight else [adapted.whole]
    if not base.is_finite or not all(is_finite(part) for part in parts):
        raise ArithmeticError("a weight is NaN or infinite: there are no singular vectors to judge")


def _decided(
    base: BaseMatrix, adapted: Matrix, top: Triplets, bounds: dict[Side, _Bounds], question: Question
) -> dict[Side, _Bounds] | None:
    """What is undecided, by an exact decomposition of the base and, where that is not enough, of the adapted matrix.

    None where the exact decomposition counts another rank of the adapted matrix: then it has to judge all of them.
    """

    def refined(other: Triplets, *, widened: bool) -> dict[Side, _Bounds]:
        return {
            side: found.where(open_ones, _exactly(side, base, other, widened=widened))
            if bool(open_ones.any())
            else found
            for side, found in bounds.items()
            for open_ones in [undecided(found.low, found.high, question.epsilons)]
        }

    bounds = refined(top, widened=True)
    if not any(bool(undecided(found.low, found.high, question.epsilons).any()) for found in bounds.values()):
        return bounds
    exact = all_triplets(adapted.dense()).first(question.k)
    return refined(exact, widened=False) if len(exact.values) == len(top.values) else None


def _exactly_widened(side: Side, base: BaseMatrix, top: Triplets, question: Question) -> _Bounds:
    return _exactly(side, base, top, widened=True)


def _certified(side: Side, base: BaseMatrix, top: Triplets, question: Question) -> _Bounds:
    vectors = top.left if side == "left" else top.right
    errors = top.errors.clamp(max=2.0)
    if not base.long(side):
        found = enclose(base.axes(side), vectors, errors, question.epsilons)
        return _certain(found)
    # The leading vectors alone often decide; only what they leave open needs coordinates inside the base's range.
    found = enclose(
        Axes(None, base.directions(side), base.leading.errors, base.coupling, base.scale, base.tail),
        vectors,
        errors,
        question.epsilons,
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
    share = cosines[: leading_directions(min(base.weight.shape))].square().sum(dim=0).clamp(max=1.0)
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
        further_epsilons=list(question.epsilons[1:]),
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
