"""The decision rule: one reading against one limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, Self

from lorascope.schema.policy import LimitName, Rule

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "MISSING"]
# Differences such as 0.78 - 0.80 miss the written limit by rounding alone.
_ROUNDING = 1e-9
_POWER = 0.80
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """A value with one-sided bounds: each holds at the policy's confidence by itself.

    ``exact`` marks what is counted and not sampled (weights, costs): there the bounds are the value. Bounds are None
    where no interval is defined. ``unchanged_because`` gives the reason when equal answers are to be expected.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    source: str
    exact: bool = False
    unchanged_because: str | None = None

    @property
    def constant(self) -> bool:
        """Whether a sampled value has an interval without width: every item said the same."""
        return not self.exact and self.low is not None and self.low == self.high

    def negated(self) -> Self:
        """The same reading with its sign turned."""
        low = None if self.high is None else -self.high
        high = None if self.low is None else -self.low
        return replace(self, value=-self.value, low=low, high=high)


@dataclass(frozen=True, slots=True)
class Absent:
    """Why there is no reading."""

    outcome: Literal["MISSING", "INCONCLUSIVE"]
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome with the sentence that explains it, empty where the numbers say everything."""

    outcome: Outcome
    note: str = ""


def quantile(confidence: float) -> float:
    """Standard normal quantile of a one-sided bound."""
    return NormalDist().inv_cdf(confidence)


def judge(reading: Reading, name: LimitName, limit: float, rule: Rule, confidence: float) -> Judgement:
    """Judge an improvement (``max_drop``, ``min_gain``) or an estimate (``min``, ``max``) against its limit.

    PASS when the low bound meets the limit. FAIL under 'significant' when a drop is significant (high bound below 0)
    and its estimate exceeds ``max_drop``; the other limits, and all under 'strict', fail when the high bound misses
    the limit. 'point' and exact readings look at the value alone. Otherwise INCONCLUSIVE with the number of items
    that would decide with 80 % power, were the value true. A sampled value without any variance does not pass; one
    without an interval fails a 'min' or 'max' that it misses.
    """
    if name == "max":
        reading = reading.negated()
    floor = -limit if name in ("max", "max_drop") else limit
    fails_below = 0.0 if name == "max_drop" and rule == "significant" else floor
    meets = reading.value >= floor - _ROUNDING
    if reading.exact or rule == "point":
        found = Judgement("PASS" if meets else "FAIL")
    elif reading.low is None or reading.high is None:
        return _without_interval(reading, name, meets)
    elif reading.low >= floor - _ROUNDING:
        found = Judgement("PASS")
    elif not meets and reading.high < fails_below - _ROUNDING:
        found = Judgement("FAIL")
    else:
        return Judgement("INCONCLUSIVE", _deciding(reading, floor if meets else fails_below, confidence))
    return _doubted(found, reading)


def _without_interval(reading: Reading, name: LimitName, meets: bool) -> Judgement:
    """A model of which every item is wrong has no interval either: what misses an absolute limit does not get through.

    One item decides nothing, and a change without an interval can be any.
    """
    if name in ("min", "max") and not meets and reading.n >= _FEWEST:
        return Judgement("FAIL", f"no interval is defined for it, and the value of all {reading.n:,} items misses it")
    return Judgement("INCONCLUSIVE", 'no interval is defined for it; rule = "point" judges the value alone')


def _doubted(found: Judgement, reading: Reading) -> Judgement:
    if found.outcome != "PASS" or not reading.constant:
        return found
    if reading.unchanged_because:
        return Judgement("PASS", reading.unchanged_because)
    return Judgement("INCONCLUSIVE", f"all {reading.n:,} items agree without any variance, which proves nothing")


def _deciding(reading: Reading, target: float, confidence: float) -> str:
    """How many items would decide: n ((z_confidence + z_power) · standard error / distance to the target)²."""
    needed = needed_items(reading, target, confidence)
    return "no number of items would decide" if needed is None else f"about {needed:,} items would decide"


def needed_items(reading: Reading, target: float, confidence: float) -> int | None:
    """Items for 80 % power to place the reading's value on its side of ``target``; None when it lies on it."""
    distance = abs(reading.value - target)
    if reading.low is None or reading.high is None or distance <= _ROUNDING:
        return None
    ratio = (reading.high - reading.low) / 2 * (1 + quantile(_POWER) / quantile(confidence)) / distance
    return math.ceil(reading.n * ratio**2)
