"""Readings from a result's own intervals."""

from __future__ import annotations

from lorascope.gates.judging import Absent, Reading, quantile
from lorascope.schema.comparison import Comparison, Measurement

# Counted, timed or read off a log: there is no sample of items whose chance an interval could cover.
EXACT_AREAS = frozenset({"weights", "cost", "curves", "leak"})
_TWO_SIDED = quantile(0.975)


def own_estimate(found: Measurement, confidence: float) -> Reading | Absent:
    """The adapted checkpoint's value in the metric's own scale."""
    if found.adapted is None:
        return Absent("MISSING", found.missing_reason or "it was not measured")
    estimate = found.adapted
    return _scaled(found, estimate.value, (estimate.low, estimate.high), estimate.n, "own estimate", confidence)


def own_delta(found: Measurement, confidence: float) -> Reading | Absent:
    """The difference to the run's own reference, in the metric's own sign."""
    if found.delta is None:
        return Absent("MISSING", found.missing_reason or "there is no difference to a reference; use min or max")
    delta = found.delta
    return _scaled(found, delta.value, (delta.low, delta.high), delta.n, f"against {found.reference}", confidence)


def _scaled(
    found: Measurement,
    value: float,
    interval: tuple[float | None, float | None],
    n: int,
    source: str,
    confidence: float,
) -> Reading:
    """One-sided bounds from a two-sided 95 % interval: each half is scaled by the ratio of normal quantiles."""
    low, high = interval
    if low is None or high is None:
        exact = found.area in EXACT_AREAS
        return Reading(value, value if exact else None, value if exact else None, n, source, exact=exact)
    ratio = quantile(confidence) / _TWO_SIDED
    source = f"{source}, bounds from the two-sided 95 % interval by normal scaling"
    return Reading(value, value - (value - low) * ratio, value + (high - value) * ratio, n, source)


def nothing_changed(subject: str, comparison: Comparison) -> bool:
    """Whether the subject has sampled differences and every one of them is zero without width."""
    own = [each for each in comparison.measurements if each.subject == subject and each.area not in EXACT_AREAS]
    deltas = [each.delta for each in own if each.delta is not None and each.delta.n > 0]
    return bool(deltas) and not any(delta.value or delta.low or delta.high for delta in deltas)
