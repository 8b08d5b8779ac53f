"""The intruder dimensions of one matrix with their singular triplets, and the kept vectors beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorascope.weights.bases import BaseMatrix
from lorascope.weights.deltas import WeightDelta
from lorascope.weights.intruders import Question, judge_matrix
from lorascope.weights.matrices import adapted_matrix
from lorascope.weights.repair import Triplets

if TYPE_CHECKING:
    from torch import Tensor

_BEYOND = 2


@dataclass(frozen=True)
class JudgedTriplets:
    """Intruders among the k leading left vectors of W0 + ΔW, the highest-ranked first, and their kept neighbours.

    The n-th neighbour is the kept vector of the nearest rank to the n-th intruder's, each taken once; there may be
    fewer neighbours than intruders. Indices count from 0 in W0 + ΔW.
    """

    intruders: Triplets
    indices: tuple[int, ...]
    neighbours: Triplets
    neighbour_indices: tuple[int, ...]

    def first(self, count: int) -> JudgedTriplets:
        """The ``count`` highest-ranked intruders with their neighbours."""
        return JudgedTriplets(
            self.intruders.first(count),
            self.indices[:count],
            self.neighbours.first(count),
            self.neighbour_indices[:count],
        )


def intruder_triplets(base_weight: Tensor, delta: WeightDelta, k: int, epsilon: float) -> JudgedTriplets:
    """Judge the k leading left singular vectors of W0 + ΔW and return the triplets of the intruders.

    Neighbours are sought among the 2k leading ones. The verdicts and the vectors are those of the weight report for
    these k and ε, by the cheapest engine; equal input gives equal triplets.
    """
    adapted = adapted_matrix(base_weight, delta)
    judged = judge_matrix(BaseMatrix(base_weight), adapted, Question(_BEYOND * k, (epsilon,), ("left",)))
    verdicts = [vector.verdict for vector in judged.report.vectors]
    intruders = [index for index, verdict in enumerate(verdicts[:k]) if verdict == "intruder"]
    kept = [index for index, verdict in enumerate(verdicts) if verdict == "kept"]
    nearest = _nearest(intruders, kept)
    found = judged.triplets

    def chosen(indices: list[int]) -> Triplets:
        return Triplets(found.left[:, indices], found.values[indices], found.right[:, indices])

    return JudgedTriplets(chosen(intruders), tuple(intruders), chosen(nearest), tuple(nearest))


def _nearest(intruders: list[int], kept: list[int]) -> list[int]:
    left = list(kept)
    nearest = []
    for index in intruders[: len(kept)]:
        # Of two at the same distance the higher-ranked: its singular value is the larger.
        best = min(left, key=lambda other: (abs(other - index), other))
        left.remove(best)
        nearest.append(best)
    return nearest
