"""One-sided bounds of a paired difference, from the item statistics of both sides."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import special

from lorascope.gates.judging import Reading
from lorascope.measures.core import FloatArray, Scored, mean_of_items
from lorascope.measures.intervals import FEW_UNITS, newcombe_paired
from lorascope.measures.resampling import Units
from lorascope.measures.significance import mcnemar
from lorascope.measures.statistics import paired

RESAMPLES = 2_000
_SEED = 0
Groups = Sequence[Hashable | None]


def paired_difference(before: Scored, after: Scored, groups: Groups | None, confidence: float, source: str) -> Reading:
    """After minus before, item ``i`` of one being item ``i`` of the other; ``groups`` vary as wholes.

    Each bound holds by itself at ``confidence``; ``p_value`` is two-sided:

    - shares of right items without groups: Newcombe's paired score interval, whose error stays below the nominal one
      also where few answers changed, and the exact McNemar test;
    - other means: Student's t on the differences, on those summed by group where there are groups. Where fewer than
      ten units carry the spread, their number less one gives the degrees of freedom: (Σr²)² / Σr⁴ of the residuals r,
      the number of equal ones with such moments. On a scale with ends no bound is nearer to the value than units
      unlike all that were seen could move it: see :func:`_unseen`;
    - sums of a corpus: the paired bootstrap of :func:`lorascope.measures.statistics.paired`, seed fixed.

    A difference that is the same in every unit has bounds without width, and one unit none at all. The items' order
    must be fixed by the caller where resamples are to be the same.
    """
    units = Units.of(before.n, groups)
    if before.measure.aggregate is not mean_of_items or not _same_weights(before, after):
        return _of_sums(before, after, groups, confidence, source)
    kept = before.statistics[:, 1] > 0
    differences = np.stack([(after.statistics - before.statistics)[:, 0], before.statistics[:, 1]], axis=1)
    value = float(differences[:, 0].sum() / differences[:, 1].sum())
    n = int(kept.sum())
    if units.of_item is None:
        differences = differences[kept]
    sums = units.sums(differences) if units.of_item is not None else differences
    sums = sums[sums[:, 1] > 0]
    if len(sums) < 2:
        return Reading(value, None, None, n, source)
    residuals = sums[:, 0] - value * sums[:, 1]
    if not np.abs(residuals).max() > 1e-12:
        return Reading(value, value, value, n, source)
    if units.of_item is None and before.measure.proportion and after.measure.proportion:
        return _of_shares(before.statistics[kept, 0], after.statistics[kept, 0], value, confidence, source)
    error, freedom = _standard_error(residuals, sums)
    half = float(special.stdtrit(freedom, confidence)) * error
    half = max(half, _unseen(residuals, sums, before.measure.width, confidence))
    p_value = 2 * float(special.stdtr(freedom, -abs(value) / error))
    clustered = f", {len(sums):,} groups" if units.of_item is not None else ""
    return Reading(value, value - half, value + half, n, f"{source}{clustered}", p_value=p_value)


def _same_weights(before: Scored, after: Scored) -> bool:
    """Whether both are plain means, over the same items."""
    weights = before.statistics[:, 1], after.statistics[:, 1]
    return bool(np.array_equal(*weights) and np.isin(weights[0], (0.0, 1.0)).all())


def _of_shares(before: FloatArray, after: FloatArray, value: float, confidence: float, source: str) -> Reading:
    was, now = before > 0, after > 0
    both, broken, fixed, neither = (int(each.sum()) for each in (was & now, was & ~now, ~was & now, ~was & ~now))
    low, high = newcombe_paired(both, broken, fixed, neither, confidence=2 * confidence - 1)
    return Reading(value, low, high, len(was), source, p_value=mcnemar(broken, fixed))


def _standard_error(residuals: FloatArray, sums: FloatArray) -> tuple[float, float]:
    """Standard error of a ratio of sums over units, and the degrees of freedom of its Student's t."""
    count = len(sums)
    squares = (residuals / np.abs(residuals).max()) ** 2
    carrying = min(float(np.count_nonzero(sums[:, 0])), float(squares.sum() ** 2 / (squares**2).sum()))
    freedom = max(carrying - 1, 1.0) if carrying < FEW_UNITS else float(count - 1)
    variance = count / (count - 1) * float((residuals**2).sum())
    return math.sqrt(variance) / float(sums[:, 1].sum()), freedom


def _unseen(residuals: FloatArray, sums: FloatArray, width: float, confidence: float) -> float:
    """How far units that behave unlike all seen ones may move the mean, in the metric's scale; 0 without its ends.

    Of n units as many as 1 − (1 − confidence)^(1/n) of all may be such, about 3/n at 95 % (the rule of three, Hanley
    and Lippman-Hand 1983, JAMA 249, 1743), and each may go as far as the scale goes beyond the largest residual. A
    rare collapse hides behind small changes of all items otherwise, whose spread knows nothing of it.
    """
    if not math.isfinite(width):
        return 0.0
    share = 1 - math.pow(1 - confidence, 1 / len(sums))
    reach = width - float(np.abs(residuals).max()) / float(sums[:, 1].mean())
    return share * max(reach, 0.0)


def _of_sums(before: Scored, after: Scored, groups: Groups | None, confidence: float, source: str) -> Reading:
    found = paired(
        before, after, margin=None, seed=_SEED, resamples=RESAMPLES, confidence=2 * confidence - 1, groups=groups
    )  # fmt: skip
    value = (after.value or 0.0) - (before.value or 0.0) if found.value is None else found.value
    if np.array_equal(before.statistics, after.statistics):
        return Reading(0.0, 0.0, 0.0, before.n, source)
    return Reading(value, found.low, found.high, before.n, source, p_value=found.p_value)
