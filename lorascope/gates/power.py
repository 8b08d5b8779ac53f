"""What a rule can see: the chances of each outcome for a true change, before any item is asked.

Right and wrong answers are summed over every table of broken and fixed items that could come up. Other metrics take a
normal value with the standard error that the result shows. Both ask :func:`~lorascope.gates.judging.decide`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from lorascope.gates.judging import BoolArray, FloatArray, Targets, decide, items_for, p_of_fail, quantile
from lorascope.schema.policy import LimitName, Rule

_TWO_SIDED = quantile(0.975)
_QUANTILES = 20_001
_REACH = 8.0  # standard deviations of a count that are summed; the rest is below 1e-14


@dataclass(frozen=True, slots=True)
class Chances:
    """Probabilities of the three outcomes, 0–1."""

    passed: float
    failed: float
    inconclusive: float


@dataclass(frozen=True, slots=True)
class Rules:
    """By what an improvement is judged. ``tests``: how many the correction counts; every one of them at its hardest."""

    name: LimitName
    limit: float
    rule: Rule = "significant"
    confidence: float = 0.95
    tests: int = 1

    def chances(self, value: FloatArray, low: FloatArray, high: FloatArray, weights: FloatArray) -> Chances:
        """Weighted shares of the outcomes of many readings."""
        targets = Targets.of(self.name, self.limit, self.rule)
        refuted: BoolArray | bool = True
        if self.tests > 1 and self.rule != "point":
            p_values = p_of_fail(value, high, targets.fails_below, self.confidence)
            refuted = np.asarray(self.tests * p_values <= 1 - self.confidence)
        found = decide(value, low, high, targets, self.rule, refuted=refuted)
        total = float(weights.sum())
        passed, failed = (float(weights[each].sum()) / total for each in (found.passes, found.fails))
        return Chances(passed, failed, max(1 - passed - failed, 0.0))

    def needed(self, spread: float) -> int | None:
        """Items for 80 % chance of PASS when nothing changed, ``spread`` being one item's standard deviation.

        None where an unchanged model does not meet the limit or is on it. Rule 'point' asks for no bound: chance alone
        has to stay within the limit.
        """
        floor = Targets.of(self.name, self.limit, self.rule).floor
        return None if floor >= 0 else items_for(spread, -floor, 0.5 if self.rule == "point" else self.confidence)


def normal_chances(improvement: float, error: float, rules: Rules) -> Chances:
    """Chances when the estimate is normal around the true improvement with the standard error ``error``."""
    places = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    value = improvement + error * special.ndtri(places)
    reach = quantile(rules.confidence) * error
    return rules.chances(value, value - reach, value + reach, np.full(_QUANTILES, 1.0))


def right_wrong_chances(
    improvement: float, discordant: float, items: int, rules: Rules, *, accuracy: float = 0.7
) -> Chances:
    """Chances for right and wrong answers on ``items`` paired items, of which a share ``discordant`` differs.

    ``improvement`` is fixed minus broken, as shares, and at most ``discordant`` in size. ``accuracy`` is the share of
    items that both sides have right among those on which they agree; it hardly matters.
    """
    broken_share, fixed_share = (discordant - improvement) / 2, (discordant + improvement) / 2
    if min(broken_share, fixed_share) < 0:
        raise ValueError(f"a change of {improvement} takes more than {discordant} discordant items")
    broken, fixed = np.meshgrid(_counts(broken_share, items), _counts(fixed_share, items), indexing="ij")
    agreeing = items - broken - fixed
    possible = agreeing >= 0
    broken, fixed, agreeing = broken[possible], fixed[possible], agreeing[possible]
    weights = np.exp(
        special.gammaln(items + 1)
        - special.gammaln(broken + 1)
        - special.gammaln(fixed + 1)
        - special.gammaln(agreeing + 1)
        + special.xlogy(broken, broken_share)
        + special.xlogy(fixed, fixed_share)
        + special.xlogy(agreeing, 1 - discordant)
    )
    both = agreeing * accuracy
    return rules.chances(*right_wrong_bounds(both, broken, fixed, agreeing - both, rules.confidence), weights)


def _counts(share: float, items: int) -> FloatArray:
    middle, reach = share * items, _REACH * math.sqrt(items * share * (1 - share)) + _REACH
    return np.arange(max(0, math.floor(middle - reach)), min(items, math.ceil(middle + reach)) + 1, dtype=np.float64)


def right_wrong_bounds(
    both: FloatArray, broken: FloatArray, fixed: FloatArray, neither: FloatArray, confidence: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(value, low, high) of many tables as a result has them: Newcombe's paired 95 % interval, scaled to one side.

    The array form of :func:`lorascope.measures.intervals.newcombe_paired`. Tables without any discordant item have
    the interval of :func:`lorascope.measures.intervals.unvarying_interval`.
    """
    items = both + broken + fixed + neither
    before, after = both + broken, both + fixed
    margins = before * (fixed + neither) * after * (broken + neither)
    covariance = both * neither - broken * fixed
    covariance = np.where(covariance > 0, np.maximum(covariance - items / 2, 0.0), covariance)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.where(margins > 0, covariance / np.sqrt(margins), 0.0)
    p, q = after / items, before / items
    (p_low, p_high), (q_low, q_high) = _wilson(p, items), _wilson(q, items)
    value = p - q
    low = np.maximum(value - _joined(p - p_low, q_high - q, correlation), -1.0)
    high = np.minimum(value + _joined(p_high - p, q - q_low, correlation), 1.0)
    share = _TWO_SIDED**2 / (items + _TWO_SIDED**2)
    share = np.maximum(share, 1 - np.power(0.05, 1 / items))
    alike = (broken == 0) & (fixed == 0)
    low, high = np.where(alike, -share, low), np.where(alike, share, high)
    ratio = quantile(confidence) / _TWO_SIDED
    return value, value - (value - low) * ratio, value + (high - value) * ratio


def _wilson(share: FloatArray, items: FloatArray) -> tuple[FloatArray, FloatArray]:
    z = _TWO_SIDED
    centre = (share + z * z / (2 * items)) / (1 + z * z / items)
    half = z / (1 + z * z / items) * np.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    return np.minimum(np.maximum(centre - half, 0), share), np.maximum(np.minimum(centre + half, 1), share)


def _joined(a: FloatArray, b: FloatArray, correlation: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(np.maximum(a * a - 2 * correlation * a * b + b * b, 0.0)))
