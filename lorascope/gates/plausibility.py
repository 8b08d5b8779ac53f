"""Doubts about a row that do not change its outcome: gains too good to be true, and limits that cannot be missed."""

from __future__ import annotations

from lorascope.gates.judging import Reading
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.policy import LimitName
from lorascope.schema.values import Estimate

_WIDTHS = {"0-1": 1.0, "0-100": 100.0, "-1-1": 2.0}
_TOPS = {"0-1": 1.0, "0-100": 100.0, "-1-1": 1.0}
# Of all that there was to gain. Training of a task seldom removes nine tenths of its errors; answers in the training
# data do.
_MOST_OF_THE_ROOM = 0.9
# Below this share of the scale there is little room, and the last errors may well go.
_LITTLE_ROOM = 0.05
_PERFECT = 0.01
_FAR_FROM_PERFECT = 0.10
# What no training was for may gain a little; five points for sure ask for an explanation.
_RETENTION_GAIN = 0.05
_FEWEST = 2
_UNVARYING = "none: resamples do not vary"


def doubts(name: LimitName, limit: float, reading: Reading, found: Measurement, comparison: Comparison) -> str | None:
    """The doubts about one row in one sentence, None without any."""
    told = [reading.warning, _vacuous(name, limit, found)]
    if name in ("max_drop", "min_gain"):
        told.append(_implausible(reading, found, comparison))
    return "; ".join(each for each in told if each) or None


def constant_scores(found: Measurement) -> str | None:
    """Why the scores of a measurement prove nothing: every item of both sides has the same one.

    A scorer that says 1 of everything looks like that, and its interval, made for few unseen exceptions, is narrow. A
    side is taken to be constant at the very end of its scale and where its resamples do not vary. Without a base's
    value (it cannot do the task) the adapted side alone is looked at. Rates of the change itself are left alone: that
    nothing was forgotten is an answer.
    """
    if found.adapted is None or (found.base is None and found.area != "task"):
        return None
    sides = [each for each in (found.base, found.adapted) if each is not None]
    same = all(each.value == found.adapted.value and _constant(each, found.scale) for each in sides)
    # One item has no interval either, and is told so by the judge.
    if not same or found.adapted.n < _FEWEST:
        return None
    return (
        f"all {found.adapted.n:,} items have the same score ({found.adapted.value:g}), as from a scorer that is "
        "constant, which proves nothing; if the answers are really all alike, ask more difficult items, hold the value "
        'to a min or max with rule = "point", or name the metrics that vary'
    )


def _constant(side: Estimate, scale: str) -> bool:
    width = _WIDTHS.get(scale)
    ends = () if width is None else (_TOPS[scale], _TOPS[scale] - width)
    return side.value in ends or (side.low is not None and side.low == side.high) or side.method.startswith(_UNVARYING)


def _vacuous(name: LimitName, limit: float, found: Measurement) -> str | None:
    width = _WIDTHS.get(found.scale)
    if width is None or found.metric.endswith("_gap"):
        return None
    top = _TOPS[found.scale]
    if name == "max_drop" and limit >= width:
        return f"no drop exceeds {limit:g} on a scale of {found.scale}: a limit of {limit / 100:g} may be meant"
    if name == "min_gain" and limit > width:
        return f"no gain reaches {limit:g} on a scale of {found.scale}"
    if (name == "max" and limit >= top) or (name == "min" and limit <= top - width):
        return f"every value on a scale of {found.scale} meets {name} = {limit:g}"
    if (name == "min" and limit > top) or (name == "max" and limit < top - width):
        return f"no value on a scale of {found.scale} meets {name} = {limit:g}"
    return None


def _implausible(gain: Reading, found: Measurement, comparison: Comparison) -> str | None:
    """Why a gain is hard to believe, on scales with both ends.

    One of: its low bound is more than nine tenths of the room to the scale's best value, where that room is at least
    a twentieth of the scale; the adapted value is within a hundredth of the best value and the reference's was more
    than a tenth away from it; a retention task gains a twentieth of the scale for sure.
    """
    width = _WIDTHS.get(found.scale)
    if gain.exact or gain.low is None or gain.low <= 0 or found.adapted is None or width is None:
        return None
    best = _TOPS[found.scale] if found.direction == "higher" else _TOPS[found.scale] - width
    left = abs(best - found.adapted.value)
    room = left + gain.value
    check = "check for leaked test items, references in the prompt and a scorer that has changed"
    if gain.low > _MOST_OF_THE_ROOM * room and room >= _LITTLE_ROOM * width:
        return f"an implausible gain: {gain.value:+.4g} of at most {room:.4g}; {check}"
    if left <= _PERFECT * width and room > _FAR_FROM_PERFECT * width:
        return f"an implausible gain: {found.adapted.value:.4g} is all but perfect; {check}"
    if _is_retention(found, comparison) and gain.low > _RETENTION_GAIN * width:
        return f"an implausible gain: {gain.value:+.4g} on a task that is there to see what is forgotten; {check}"
    return None


def _is_retention(found: Measurement, comparison: Comparison) -> bool:
    return any(each.name == found.task and each.role == "retention" for each in comparison.tasks)
