"""Limits that no value can break, scores that prove nothing, and doubts that change no outcome."""

from __future__ import annotations

from lorascope.errors import ConfigError
from lorascope.gates.judging import Reading
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.policy import Gate, GatePolicy, LimitName
from lorascope.schema.values import Estimate

_WIDTHS = {"0-1": 1.0, "0-100": 100.0, "-1-1": 2.0}
_TOPS = {"0-1": 1.0, "0-100": 100.0, "-1-1": 1.0}
_ROUNDING = 1e-9
_PERCENT = 100.0
# A tenth of a point of 100 is less than any change that matters; a fraction was meant.
_FRACTION_OF_POINTS = 0.1
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
    told = [reading.warning, _off_scale(name, limit, found)]
    if name in ("max_drop", "min_gain"):
        told.append(_implausible(reading, found, comparison))
    return "; ".join(each for each in told if each) or None


def constant_scores(found: Measurement) -> str | None:
    """Why the scores of a measurement prove nothing: every item of both sides has the same one.

    A scorer that says 1 of everything looks like that, and its interval, made for few unseen exceptions, is narrow. A
    side is taken to be constant at the very end of its scale and where its resamples do not vary. Without a base's
    value (it cannot do the task) the adapted side alone is looked at. Rates of the change itself are left alone: that
    nothing was forgotten is an answer. So is the worse end of the scale: see :func:`nothing_to_lose`.
    """
    if found.adapted is None or (found.base is None and found.area != "task"):
        return None
    if not _all_constant(found) or nothing_to_lose(found):
        return None
    return (
        f"all {found.adapted.n:,} items have the same score ({found.adapted.value:g}), as from a scorer that is "
        "constant, which proves nothing; if the answers are really all alike, ask more difficult items, hold the value "
        'to a min or max with rule = "point", or name the metrics that vary'
    )


def nothing_to_lose(found: Measurement) -> str | None:
    """Why a measurement cannot pass, whose both sides are at the worse end of the scale in every item.

    As exact matches of long answers often are. Nothing went wrong there, and no drop could be seen.
    """
    width = _WIDTHS.get(found.scale)
    if found.adapted is None or width is None or found.direction == "none" or not _all_constant(found):
        return None
    worst = _TOPS[found.scale] - (width if found.direction == "higher" else 0.0)
    if found.adapted.value != worst:
        return None
    return f"all {found.adapted.n:,} items score {worst:g}: nothing is left to lose here, so no drop can show"


def _all_constant(found: Measurement) -> bool:
    if found.adapted is None or (found.base is None and found.area != "task"):
        return False
    sides = [each for each in (found.base, found.adapted) if each is not None]
    same = all(each.value == found.adapted.value and _constant(each, found.scale) for each in sides)
    # One item has no interval either, and is told so by the judge.
    return same and found.adapted.n >= _FEWEST


def _constant(side: Estimate, scale: str) -> bool:
    width = _WIDTHS.get(scale)
    ends = () if width is None else (_TOPS[scale], _TOPS[scale] - width)
    return side.value in ends or (side.low is not None and side.low == side.high) or side.method.startswith(_UNVARYING)


def check_policy(policy: GatePolicy, *, name: str = "gates.toml") -> None:
    """ConfigError for the first limit of a policy that its metric's scale makes void, by names alone.

    What can be said without a result: patterns and names that :mod:`lorascope.measures.registry` does not know are
    left to :func:`check_limit`, which has the measurement.
    """
    try:
        for gate in policy.gate:
            check_limits(gate)
    except ConfigError as error:
        raise error.at(name) from None


def check_limits(gate: Gate) -> None:
    """ConfigError for a limit of one gate that no value can break, by the scale of the metric's name."""
    scale = _scale_of(gate.address.metric)
    for limit_name, limit in gate.limits:
        _refuse(gate, limit_name, limit, scale, gate.metric)


def check_limit(gate: Gate, name: LimitName, limit: float, found: Measurement) -> None:
    """ConfigError for a limit that no value on the measurement's scale can break.

    A ``max_drop`` of the scale's width or more, a ``min`` at its low end or below, a ``max`` at its top or above: it
    would let a model through that has lost everything. Gaps between two values are not on their metric's scale.
    """
    if found.area != "gap":
        _refuse(gate, name, limit, found.scale, f"{found.task or found.area}.{found.metric}")


def _scale_of(metric: str) -> str:
    try:
        return find_spec(metric).scale
    except ConfigError:
        return "unbounded"


def _refuse(gate: Gate, name: LimitName, limit: float, scale: str, address: str) -> None:
    problem = _unbreakable(name, limit, scale)
    if problem is None:
        return
    line = f"line {gate.line}" if gate.line else None
    others = "; gate the metrics of other scales apart" if "*" in gate.address.metric else ""
    raise ConfigError(f"{address}: {problem}", where=line, remedy=_likely(name, limit, scale) + others)


def _unbreakable(name: LimitName, limit: float, scale: str) -> str | None:
    if scale == "0-inf":
        return f"min = {limit:g} is met by every value of 0 or more" if name == "min" and limit <= 0 else None
    width = _WIDTHS.get(scale)
    if width is None:
        return None
    top, ends = _TOPS[scale], _written(scale)
    if name == "max_drop" and limit >= width - _ROUNDING:
        return f"max_drop = {limit:g} can never be exceeded on a metric of {ends}"
    if (name == "max" and limit >= top - _ROUNDING) or (name == "min" and limit <= top - width + _ROUNDING):
        return f"{name} = {limit:g} is met by every value on a metric of {ends}"
    return None


def _likely(name: LimitName, limit: float, scale: str) -> str:
    """What is to be written instead; whole numbers on a scale of fractions are likely to be percentages."""
    fractions = scale != "0-100" and limit < _PERCENT
    if fractions and ((name == "max_drop" and limit >= 1) or (name == "max" and limit > 1)):
        return f"write {limit / _PERCENT:g} for {limit:g} point{'' if limit == 1 else 's'}"
    return "write a higher one, or leave it out" if name == "min" else "write a lower one, or leave it out"


def _written(scale: str) -> str:
    return {"0-1": "0–1", "0-100": "0–100", "-1-1": "−1–1"}[scale]


def _off_scale(name: LimitName, limit: float, found: Measurement) -> str | None:
    """Limits that nothing meets, and drops in fractions of a metric that counts to 100."""
    width = _WIDTHS.get(found.scale)
    if width is None or found.area == "gap":
        return None
    top = _TOPS[found.scale]
    if name == "max_drop" and found.scale == "0-100" and 0 < limit < _FRACTION_OF_POINTS:
        label = {"bleu": "BLEU", "chrf": "chrF"}.get(found.metric, found.metric)
        return f"{label} is 0–100: {_PERCENT * limit:g} may be meant"
    if name == "min_gain" and limit > width:
        return f"no gain reaches {limit:g} on a scale of {found.scale}"
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
