"""Readings from a result's own intervals."""

from __future__ import annotations

from lorascope.gates.judging import Absent, Reading, quantile
from lorascope.schema.comparison import Comparison, Measurement

# Counted, timed or read off a log: there is no sample of items whose chance an interval could cover.
EXACT_AREAS = frozenset({"weights", "cost", "curves", "leak"})
_TWO_SIDED = quantile(0.975)
_ENDS: dict[str, tuple[float, ...]] = {"0-1": (0.0, 1.0), "0-100": (0.0, 100.0)}


def own_estimate(found: Measurement, confidence: float, *, as_told: bool = False) -> Reading | Absent:
    """The adapted checkpoint's value in the metric's own scale.

    Where the scorer said the same of every item of both checkpoints the bounds have no width, as nothing shows that it
    can say anything else. ``as_told`` leaves the result's own bounds there too.
    """
    if found.adapted is None:
        return Absent("MISSING", found.missing_reason or "it was not measured")
    estimate = found.adapted
    widthless = not as_told and _constant_scorer(found)
    bounds = (estimate.value, estimate.value) if widthless else (estimate.low, estimate.high)
    return _scaled(found, estimate.value, bounds, estimate.n, "own estimate", confidence)


def own_delta(found: Measurement, confidence: float) -> Reading | Absent:
    """The difference to the run's own reference, in the metric's own sign; see :func:`own_estimate`."""
    if found.delta is None:
        return Absent("MISSING", found.missing_reason or "there is no difference to a reference; use min or max")
    delta = found.delta
    bounds = (delta.value, delta.value) if _constant_scorer(found) else (delta.low, delta.high)
    return _scaled(found, delta.value, bounds, delta.n, f"against {found.reference}", confidence)


def _constant_scorer(found: Measurement) -> bool:
    """Whether both checkpoints have one value that every item shares: an end of the scale, or one without spread.

    A scorer that says 1 of everything looks so, and so do two checkpoints that are both right throughout.
    """
    base, adapted, delta = found.base, found.adapted, found.delta
    if found.area in EXACT_AREAS or base is None or adapted is None or delta is None:
        return False
    if delta.value != 0 or base.value != adapted.value:
        return False
    ends = _ENDS.get(found.scale, ())
    return adapted.value in ends or (adapted.low is None and base.low is None)


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
