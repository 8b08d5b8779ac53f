"""Intervals: score intervals for proportions and their paired differences, bootstrap intervals for the rest.

Each function returns (low, high), and None where no honest interval exists. Resamples that never vary are no evidence
of certainty, so they never give an interval of width 0: see :func:`unvarying_interval`.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from scipy import special

from lorascope.measures.core import FloatArray

Bounds = tuple[float, float]
FEW_UNITS = 10
_MOST_UNDEFINED = 0.05


def wilson(successes: float, trials: float, *, confidence: float = 0.95) -> Bounds:
    """Wilson's score interval of a proportion: never of width 0, also at 0 and 1 (Brown, Cai and DasGupta 2001)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Rounding must not push the value itself outside at 0 and 1.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def newcombe_paired(both: int, only_base: int, only_adapted: int, neither: int, *, confidence: float = 0.95) -> Bounds:
    """Interval of (adapted − base) proportion right on the same items, from the 2 × 2 table of right and wrong.

    Newcombe 1998 (Statistics in Medicine 17, 2635), method 10: Wilson intervals of both proportions joined through
    their correlation. Unlike the bootstrap it does not collapse when the few changed items all go one way.
    """
    items = both + only_base + only_adapted + neither
    margins = (both + only_base) * (only_adapted + neither) * (both + only_adapted) * (only_base + neither)
    covariance = float(both * neither - only_base * only_adapted)
    if covariance > 0:
        covariance = max(covariance - items / 2, 0.0)
    correlation = covariance / math.sqrt(margins) if margins else 0.0
    return _joined(both + only_adapted, items, both + only_base, items, correlation, confidence)


def newcombe_unpaired(
    first: float, first_trials: float, second: float, second_trials: float, *, confidence: float = 0.95
) -> Bounds:
    """Interval of first − second for independent proportions (Newcombe 1998, Statistics in Medicine 17, 873)."""
    return _joined(first, first_trials, second, second_trials, 0.0, confidence)


def _joined(
    first: float, first_trials: float, second: float, second_trials: float, correlation: float, confidence: float
) -> Bounds:
    p, q = first / first_trials, second / second_trials
    p_low, p_high = wilson(first, first_trials, confidence=confidence)
    q_low, q_high = wilson(second, second_trials, confidence=confidence)
    down = _joined_length(p - p_low, q_high - q, correlation)
    up = _joined_length(p_high - p, q - q_low, correlation)
    return max(p - q - down, -1.0), min(p - q + up, 1.0)


def _joined_length(a: float, b: float, correlation: float) -> float:
    return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))


def standard_error(draws: FloatArray, units: int) -> float | None:
    """Standard error from bootstrap values, freed of the bootstrap's bias by √(units / (units − 1)).

    None for fewer than two units, for draws that do not vary, and where more than 5 % of them are undefined.
    """
    kept = _enough_defined(draws)
    if units < 2 or kept is None or _constant(kept):
        return None
    return float(kept.std(ddof=1)) * math.sqrt(units / (units - 1))


def do_not_vary(draws: FloatArray) -> bool:
    """Whether bootstrap values are all the same up to rounding; False where more than 5 % of them are undefined."""
    kept = _enough_defined(draws)
    return kept is not None and _constant(kept)


def _enough_defined(draws: FloatArray) -> FloatArray | None:
    kept = draws[np.isfinite(draws)]
    return None if len(kept) < max(2.0, (1 - _MOST_UNDEFINED) * len(draws)) else kept


def _constant(values: FloatArray) -> bool:
    return float(values.std(ddof=1)) <= 1e-12 * float(np.abs(values).max())


def unseen_share(units: int, *, confidence: float = 0.95) -> float:
    """Largest share of units, 0–1, that may behave unlike the ``units`` seen ones, which all behaved alike.

    z² / (units + z²), about 3.8 / units at 95 %: Wilson's limit of 0 in ``units``, which is Tango's paired score
    interval without discordant pairs (1998, Statistics in Medicine 17, 891). With a handful of units that limit falls
    a little short of its confidence, so it is never less than 1 − (1 − confidence)^(1 / units), the exact form of the
    rule of three (Hanley and Lippman-Hand 1983, JAMA 249, 1743). A larger share would show itself in some unit with
    at least the stated confidence.
    """
    _, score = wilson(0, units, confidence=confidence)
    return max(score, 1 - math.pow(1 - confidence, 1 / units))


def unvarying_interval(value: float, width: float, units: int, *, confidence: float = 0.95) -> Bounds | None:
    """Interval of a paired difference when all ``units`` changed by the same ``value`` (0: nothing changed).

    No resample varies then, but unseen units may: a share of them up to :func:`unseen_share` may change by anything
    between −``width`` and ``width``, the length of the measure's scale. For means of items this bound holds whatever
    the others do; for scores of a whole corpus it is an approximation that takes units to weigh alike. None on a scale
    without ends and for fewer than two units.
    """
    if not math.isfinite(width) or units < 2:
        return None
    share = unseen_share(units, confidence=confidence)
    middle, reach = (1 - share) * value, share * width
    # Rounding must not push the value itself outside at the ends of the scale.
    return max(min(middle - reach, value), -width), min(max(middle + reach, value), width)


def bootstrap_interval(
    value: float, draws: FloatArray, units: int, *, informative: int, confidence: float = 0.95
) -> tuple[Bounds | None, str]:
    """Interval from bootstrap values, and the name of the method.

    ``informative`` is the number of units that can move the value: all of them for one checkpoint, those that differ
    for a pair. Below ten of them a percentile interval is far too short (with four changed items, all better, it
    excludes 0 although a sign test gives p = 0.125), so Student's t with ``informative`` − 1 degrees of freedom is
    used on the bootstrap's standard error. From ten on: percentiles, expanded to the width of a t-interval
    (Hesterberg 2015, The American Statistician 69, 371) and corrected for bias (Efron 1987), without which the
    calibration error, whose resamples all lie too high, would fall outside its own interval.
    """
    error = standard_error(draws, units)
    if error is None:
        return None, "none: resamples do not vary or are undefined"
    level = (1 + confidence) / 2
    quantile = float(special.stdtrit(max(informative - 1, 1), level))
    if informative < FEW_UNITS:
        return (value - quantile * error, value + quantile * error), "t with bootstrap standard error"
    kept = draws[np.isfinite(draws)]
    below = (np.count_nonzero(kept < value) + 0.5 * np.count_nonzero(kept == value)) / len(kept)
    shift = 2 * NormalDist().inv_cdf(min(max(below, 0.5 / len(kept)), 1 - 0.5 / len(kept)))
    reach = quantile * math.sqrt(units / (units - 1))
    low, high = np.quantile(kept, [NormalDist().cdf(shift - reach), NormalDist().cdf(shift + reach)])
    return (float(min(low, value)), float(max(high, value))), "bias-corrected expanded percentile bootstrap"
