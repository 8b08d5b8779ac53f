"""The decision rule: one reading against one limit, or many of them at once by the same lines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from lorascope.schema.gates import Outcome
from lorascope.schema.policy import LimitName, Rule

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
# Differences such as 0.78 - 0.80 miss the written limit by rounding alone.
_ROUNDING = 1e-9
_POWER = 0.80
_FEWEST = 2
# Nobody scores more to settle one row: such numbers come of a value that all but lies on its limit.
_MOST_ITEMS = 10_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """A value with one-sided bounds: each holds at the gate's confidence by itself.

    ``exact`` marks what is counted and not sampled (weights, costs): there the bounds are the value. Bounds are None
    where no interval is defined. ``unchanged_because`` gives the reason when equal answers are to be expected,
    ``suspicious_because`` the reason why the reading fails whatever its value, ``hollow_because`` the one why it may
    fail and never passes. ``p_value`` is the two-sided p-value of "no difference" by a test of its own, where there is
    one; ``warning`` goes to the row as it is.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    source: str
    exact: bool = False
    unchanged_because: str | None = None
    suspicious_because: str | None = None
    hollow_because: str | None = None
    p_value: float | None = None
    warning: str | None = None

    @property
    def constant(self) -> bool:
        """Whether a sampled value has an interval without width: every item said the same."""
        return not self.exact and self.low is not None and self.low == self.high

    def negated(self) -> Self:
        """The same reading with its sign turned; zero stays without one."""
        low = None if self.high is None else 0.0 - self.high
        high = None if self.low is None else 0.0 - self.low
        return replace(self, value=0.0 - self.value, low=low, high=high)


@dataclass(frozen=True, slots=True)
class Absent:
    """Why there is no reading. INVALID: the two sides were not asked the same, so that nothing can be compared."""

    outcome: Literal["MISSING", "INCONCLUSIVE", "INVALID"]
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome with the sentence that explains it, empty where the numbers say everything."""

    outcome: Outcome
    note: str = ""
    needed_n: int | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """Where a limit passes and fails, in the sign in which more is better.

    PASS: the low bound reaches ``floor``. FAIL: the value misses ``floor`` and the high bound ``fails_below``.
    """

    floor: float
    fails_below: float

    @classmethod
    def of(cls, name: LimitName, limit: float, rule: Rule) -> Self:
        """The targets of a limit; a drop fails below 0 under 'significant', everything else below its floor."""
        floor = -limit if name in ("max", "max_drop") else limit
        return cls(floor, 0.0 if name == "max_drop" and rule == "significant" else floor)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcome of every reading of an array: PASS or FAIL where marked, INCONCLUSIVE elsewhere."""

    passes: BoolArray
    fails: BoolArray


def quantile(confidence: float) -> float:
    """Standard normal quantile of a one-sided bound."""
    return NormalDist().inv_cdf(confidence)


def decide(
    value: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    targets: Targets,
    rule: Rule,
    *,
    refuted: npt.ArrayLike = True,
) -> Outcomes:
    """The rule itself, element by element; bounds that do not exist are NaN and decide nothing.

    ``refuted`` is False where the test of the fail does not stand after a correction for many tests. Bounds without
    width do not pass: that all items agree proves nothing.
    """
    values, lows, highs = (np.asarray(each, dtype=np.float64) for each in (value, low, high))
    meets = values >= targets.floor - _ROUNDING
    varies = lows != highs
    if rule == "point":
        return Outcomes(np.asarray(meets & varies), np.asarray(~meets))
    passes = lows >= targets.floor - _ROUNDING
    fails = ~passes & ~meets & (highs < targets.fails_below - _ROUNDING) & np.asarray(refuted, dtype=np.bool_)
    return Outcomes(np.asarray(passes & varies), np.asarray(fails))


def p_of_fail(value: npt.ArrayLike, high: npt.ArrayLike, target: float, confidence: float) -> FloatArray:
    """One-sided p-value of "the true value is not below ``target``", from the value's high bound.

    The bound's distance from the value is read as that many standard errors, so that p < 1 − confidence exactly where
    the bound lies below the target. NaN without a bound; without variance 0 below the target and 1 elsewhere.
    """
    from scipy import special

    values, highs = np.asarray(value, dtype=np.float64), np.asarray(high, dtype=np.float64)
    error = (highs - values) / quantile(confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = special.ndtr((values - target) / error)
    found = np.where(error > 0, found, np.where(values < target - _ROUNDING, 0.0, 1.0))
    return np.asarray(np.where(np.isnan(error), np.nan, found), dtype=np.float64)


def fail_p_value(
    reading: Reading, name: LimitName, limit: float, rule: Rule, confidence: float, *, corrected: bool
) -> float | None:
    """The p-value of the FAIL test of one reading; None where nothing is tested: counted values, 'point', no interval.

    For a correction the larger of the bound's p-value and the one-sided value of the reading's own test is taken: far
    out in the tail, where corrections look, a bound scaled from the 95 % interval of few changed items promises more
    than an exact test does.
    """
    if reading.exact or rule == "point" or reading.low is None or reading.high is None:
        return None
    if name == "max":
        reading = reading.negated()
    target = Targets.of(name, limit, rule).fails_below
    found = float(p_of_fail(reading.value, reading.high if reading.high is not None else math.nan, target, confidence))
    if corrected and reading.p_value is not None and target == 0 and name in ("max_drop", "min_gain"):
        return float(larger_p(found, reading.p_value, reading.value))
    return found


def larger_p(of_bound: npt.ArrayLike, two_sided: npt.ArrayLike, value: npt.ArrayLike) -> FloatArray:
    """The larger of a one-sided p-value and what a two-sided one says about a drop of this value."""
    own = np.asarray(two_sided, dtype=np.float64) / 2
    return np.asarray(np.maximum(of_bound, np.where(np.asarray(value) < 0, own, 1 - own)), dtype=np.float64)


def judge(
    reading: Reading,
    name: LimitName,
    limit: float,
    rule: Rule,
    confidence: float,
    *,
    p_adjusted: float | None = None,
) -> Judgement:
    """Judge an improvement (``max_drop``, ``min_gain``) or an estimate (``min``, ``max``) against its limit.

    PASS when the low bound meets the limit. FAIL under 'significant' when a drop is significant (high bound below 0)
    and its estimate exceeds ``max_drop``; the other limits, and all under 'strict', fail when the high bound misses
    the limit. 'point' and exact readings look at the value alone. Otherwise INCONCLUSIVE with the number of items
    that would decide with 80 % power, were the value true. A sampled value without any variance does not pass; one
    without an interval fails a 'min' or 'max' that it misses; a suspicious one fails, and a hollow one is
    INCONCLUSIVE where it does not.

    ``p_adjusted`` is the p-value of the FAIL test after a correction for many tests: above 1 − confidence a FAIL
    becomes INCONCLUSIVE. A PASS needs no correction: each row that should not pass does so with at most 5 %
    probability by itself, so that all passing together is no likelier (an intersection–union test, Berger 1982).
    """
    if name == "max":
        reading = reading.negated()
    targets = Targets.of(name, limit, rule)
    meets = reading.value >= targets.floor - _ROUNDING
    if reading.exact:
        return Judgement("PASS" if meets else "FAIL")
    if reading.suspicious_because:
        return Judgement("FAIL", reading.suspicious_because)
    if reading.hollow_because and meets:
        return Judgement("INCONCLUSIVE", reading.hollow_because)
    if rule != "point" and (reading.low is None or reading.high is None):
        return _without_interval(reading, name, meets)
    stands = p_adjusted is None or p_adjusted <= 1 - confidence
    found = _decided(reading, targets, rule, refuted=stands)
    if found is not None:
        return Judgement(found, reading.unchanged_because or "" if reading.constant and found == "PASS" else "")
    if not stands and _decided(reading, targets, rule, refuted=True) == "FAIL":
        return Judgement("INCONCLUSIVE", "the drop does not stand among so many tests (adjusted p-value)")
    if reading.constant and meets:
        return Judgement("INCONCLUSIVE", f"all {reading.n:,} items agree without any variance, which proves nothing")
    return _undecided(needed_items(reading, targets.floor if meets else targets.fails_below, confidence))


def _undecided(needed: int | None) -> Judgement:
    if needed is None:
        return Judgement("INCONCLUSIVE", "no number of items would decide")
    if needed > _MOST_ITEMS:
        return Judgement("INCONCLUSIVE", "no realistic number of items would decide")
    return Judgement("INCONCLUSIVE", f"about {needed:,} items would decide", needed)


def _decided(reading: Reading, targets: Targets, rule: Rule, *, refuted: bool) -> Literal["PASS", "FAIL"] | None:
    low, high = (math.nan if bound is None else bound for bound in (reading.low, reading.high))
    if reading.constant and reading.unchanged_because:
        high = math.nextafter(high, math.inf)  # the reason for the missing variance is known
    found = decide(reading.value, low, high, targets, rule, refuted=refuted)
    if found.passes:
        return "PASS"
    return "FAIL" if found.fails else None


def _without_interval(reading: Reading, name: LimitName, meets: bool) -> Judgement:
    """A model of which every item is wrong has no interval either: what misses an absolute limit does not get through.

    One item decides nothing, and a change without an interval can be any.
    """
    if name in ("min", "max") and not meets and reading.n >= _FEWEST:
        return Judgement("FAIL", f"no interval is defined for it, and the value of all {reading.n:,} items misses it")
    return Judgement("INCONCLUSIVE", 'no interval is defined for it; rule = "point" judges the value alone')


def needed_items(reading: Reading, target: float, confidence: float) -> int | None:
    """Items for 80 % power to place the reading's value on its side of ``target``; None when it lies on it.

    n ((z_confidence + z_power) · standard error / distance to the target)².
    """
    if reading.low is None or reading.high is None:
        return None
    error = (reading.high - reading.low) / 2 / quantile(confidence)
    return items_for(error * math.sqrt(reading.n), abs(reading.value - target), confidence)


def items_for(spread: float, distance: float, confidence: float) -> int | None:
    """Items for 80 % power when one item has the standard deviation ``spread``; None for no distance or no spread."""
    if distance <= _ROUNDING or spread <= 0:
        return None
    return math.ceil((spread * (quantile(confidence) + quantile(_POWER)) / distance) ** 2)
