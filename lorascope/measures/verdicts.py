"""From an interval and a margin to a word, and the number of items that would settle an open question."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from lorascope.schema.model import Direction, Verdict

_POWER = 0.8
_Z = NormalDist().inv_cdf(0.975)
_LARGEST_N = 1_000_000


def judge(
    value: float, low: float | None, high: float | None, *, margin: float | None, direction: Direction
) -> Verdict | None:
    """The verdict on a difference (adapted − base) with its interval; the sign is turned where lower is better.

    improved: low > 0 and value ≥ margin; regressed: high < 0 and value ≤ −margin; equivalent: the whole interval
    strictly inside ±margin; else inconclusive, as without an interval. None without a margin or a direction.
    """
    if margin is None or direction == "none":
        return None
    if low is None or high is None:
        return "inconclusive"
    if direction == "lower":
        value, low, high = -value, -high, -low
    if low > 0 and value >= margin:
        return "improved"
    if high < 0 and value <= -margin:
        return "regressed"
    return "equivalent" if -margin < low and high < margin else "inconclusive"


def detectable_difference(error: float | None) -> float | None:
    """Smallest difference that this standard error shows with 80 % power in a two-sided test at 5 %."""
    if error is None or error <= 0:
        return None
    return (_Z + NormalDist().inv_cdf(_POWER)) * error


def _chance_to_decide(value: float, error: float, margin: float) -> float:
    """Probability that an estimate around the true ``value`` leads to any verdict but inconclusive."""
    below = NormalDist(value, error).cdf
    reach = _Z * error
    beyond, inside = max(margin, reach), margin - reach
    changed = 1 - below(beyond) + below(-beyond)
    return changed + (below(inside) - below(-inside) if inside > 0 else 0.0)


def items_needed(value: float, error: float | None, *, n: int, margin: float) -> int | None:
    """Items with which the verdict would be decided with 80 % probability, more than ``n``.

    It takes the observed difference and spread as the true ones, so it is an order of magnitude. None without a
    standard error, and for a difference so near the margin that no reasonable number of items decides.
    """
    if error is None or error <= 0:
        return None
    spread = error * math.sqrt(n)
    return _fewest(lambda items: _chance_to_decide(value, spread / math.sqrt(items), margin) >= _POWER, n)


def items_needed_unvarying(
    value: float,
    interval: Callable[[int], tuple[float, float] | None],
    *,
    n: int,
    margin: float | None,
    direction: Direction,
) -> int | None:
    """Items, more than ``n``, with which a difference that is the same in every item would have a verdict.

    ``interval`` gives the interval for a number of items, taking it that the further items change as the seen ones
    did. None where no reasonable number decides, as on a scale without ends.
    """

    def decided(items: int) -> bool:
        low, high = interval(items) or (None, None)
        return judge(value, low, high, margin=margin, direction=direction) != "inconclusive"

    return _fewest(decided, n)


def _fewest(decided: Callable[[int], bool], n: int) -> int | None:
    """Smallest number above ``n`` for which ``decided`` holds, as it does for every larger one; None above a limit."""
    too_few, enough = n, n + 1
    while not decided(enough):
        too_few, enough = enough, 2 * enough
        if enough > _LARGEST_N:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if decided(middle):
            enough = middle
        else:
            too_few = middle
    return enough
