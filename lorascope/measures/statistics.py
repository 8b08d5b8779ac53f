"""Estimates with intervals, and paired comparisons with a verdict, for any :class:`Scored`.

Intervals cover the sampling of items. They do not cover the training seed. Seeds of the resampling are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lorascope.errors import ConfigError, InvalidComparison
from lorascope.measures.core import FloatArray, Scored, mean_of_items
from lorascope.measures.intervals import (
    Bounds,
    bootstrap_interval,
    do_not_vary,
    newcombe_paired,
    newcombe_unpaired,
    standard_error,
    unvarying_interval,
    wilson,
)
from lorascope.measures.registry import find_spec
from lorascope.measures.resampling import Evidence, Units, bootstrap, differing_units, resample_pairs
from lorascope.measures.significance import mcnemar
from lorascope.measures.verdicts import detectable_difference, items_needed, items_needed_unvarying, judge
from lorascope.schema.model import Verdict

K = TypeVar("K", bound=Hashable)
Groups = Sequence[Hashable | None]
RESAMPLES = 10_000
_FEW_ITEMS = 30
# A third of the units carry the spread of normal differences, a sixth that of Laplace's.
_HEAVY_TAIL = 10
_UNBOUNDED = "none: every item changed alike, and nothing bounds what the others do"


@dataclass(frozen=True)
class Interval:
    """A value with its interval. ``value`` is None where undefined, ``low`` and ``high`` where no interval exists."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str


@dataclass(frozen=True)
class PairedResult:
    """Adapted minus base on the same items, in the measure's own scale and sign.

    ``detectable`` is the difference that this many items show with 80 % power; ``needed_n`` the items that would
    decide an inconclusive verdict. ``verdict`` is None without a margin or a direction, or where the value is
    undefined.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    p_value: float | None = None
    test: str | None = None
    margin: float | None = None
    verdict: Verdict | None = None
    detectable: float | None = None
    needed_n: int | None = None


def estimate(
    scored: Scored,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    groups: Groups | None = None,
) -> Interval:
    """The value of one checkpoint with its interval; see :func:`estimate_many`."""
    return estimate_many({0: scored}, seed=seed, resamples=resamples, confidence=confidence, groups=groups)[0]


def estimate_many(
    scores: Mapping[K, Scored],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    groups: Groups | None = None,
) -> dict[K, Interval]:
    """Values and intervals of measures over the same items, all from the same resamples.

    Shares of right items get Wilson's interval below 30 items and at 0 or 1, where a bootstrap collapses; the rest
    the bootstrap interval of :func:`~lorascope.measures.intervals.bootstrap_interval`, cut at the ends of the scale.
    ``groups`` (one name or None per item) makes whole groups the units of resampling. There is no interval for fewer
    than two units, and none where resamples do not vary.
    """
    if not scores:
        return {}
    units = _common_units(scores.values(), groups)
    resampled = {key: s for key, s in scores.items() if s.value is not None and not _takes_wilson(s, units)}
    draws = bootstrap(resampled, units, resamples=resamples, seed=seed) if resampled and units.count > 1 else {}
    return {key: _interval(scored, units, draws.get(key), confidence) for key, scored in scores.items()}


def _common_units(scores: Iterable[Scored], groups: Groups | None) -> Units:
    sizes = {scored.n for scored in scores}
    if len(sizes) != 1:
        raise InvalidComparison(
            f"measures over different numbers of items share no resamples: {sorted(sizes)}",
            remedy="score the same items, or call once per set of items",
        )
    return Units.of(sizes.pop(), groups)


def _takes_wilson(scored: Scored, units: Units) -> bool:
    if not scored.measure.proportion or units.of_item is not None:
        return False
    successes, trials = scored.statistics.sum(axis=0)
    return bool(trials < _FEW_ITEMS or successes in (0, trials))


def _interval(scored: Scored, units: Units, draws: FloatArray | None, confidence: float) -> Interval:
    value, n = scored.value, scored.n
    if value is None:
        return Interval(None, None, None, n, "none: undefined on these items")
    if units.count < 2:
        return Interval(value, None, None, n, "none: fewer than two units")
    if draws is None:
        successes, trials = (float(total) for total in scored.statistics.sum(axis=0))
        if trials < 2:
            return Interval(value, None, None, n, "none: fewer than two trials")
        low, high = wilson(successes, trials, confidence=confidence)
        return Interval(value, low, high, n, "wilson")
    bounds, method = bootstrap_interval(value, draws, units.count, informative=units.count, confidence=confidence)
    if bounds is None:
        return Interval(value, None, None, n, method)
    floor, ceiling = scored.measure.bounds
    return Interval(value, max(bounds[0], floor), min(bounds[1], ceiling), n, _described(method, draws, units))


def _described(method: str, draws: FloatArray, units: Units) -> str:
    clusters = f", {units.count} groups" if units.of_item is not None else ""
    return f"{method}, {len(draws)} resamples{clusters}"


def paired(
    base: Scored,
    adapted: Scored,
    *,
    margin: float | None,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    groups: Groups | None = None,
    same_outputs: bool = False,
) -> PairedResult:
    """Adapted minus base of one measure on the same items; see :func:`paired_many`.

    ``same_outputs`` says that both checkpoints gave the same answers item by item, and not only the same scores.
    """
    found = paired_many(
        {0: base},
        {0: adapted},
        margins={0: margin},
        seed=seed,
        resamples=resamples,
        confidence=confidence,
        groups=groups,
        same_outputs={0} if same_outputs else (),
    )
    return found[0]


def paired_many(
    base: Mapping[K, Scored],
    adapted: Mapping[K, Scored],
    *,
    seed: int,
    margins: Mapping[K, float | None] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    groups: Groups | None = None,
    same_outputs: Collection[K] = (),
) -> dict[K, PairedResult]:
    """Adapted minus base of every measure, item ``i`` of one being item ``i`` of the other.

    Without groups, shares of right items take Newcombe's paired interval and the exact McNemar test. Everything else
    takes the paired bootstrap over the items (or groups), and as test approximate randomisation of the two sides;
    measures that are not additive take the p-value of the bootstrap. Fewer than two units have no interval and are
    inconclusive. All intervals end where the scale's largest difference does.

    ``same_outputs`` names the keys for which the two checkpoints are known to have given the same answers item by
    item (texts, log-probabilities, probabilities or tags): their equal statistics are equivalent with p = 1 and the
    interval [0, 0]. Equal statistics of other keys have p = 1 and the interval of
    :func:`~lorascope.measures.intervals.unvarying_interval`, about ± 3.8 / n on a 0–1 scale: answers that differ and
    score alike here may score differently on other items. The same interval serves a difference that is the same in
    every item and so has no spread to resample.

    Keys without an entry in ``margins`` take the registry's margin of their measure. A verdict by the public table
    needs ``confidence`` 0.95; gates ask for 0.90, whose ends are one-sided 95 % bounds.

    Raises InvalidComparison when the two sides were computed differently, ConfigError for a margin not above 0.
    """
    if base.keys() != adapted.keys():
        raise InvalidComparison(
            f"base and adapted have different measures: {sorted(map(str, base.keys() ^ adapted.keys()))}"
        )
    if not base:
        return {}
    pairs = {key: (base[key], adapted[key]) for key in base}
    for first, second in pairs.values():
        _check_pair(first, second)
    units = _common_units(base.values(), groups)
    limits = {key: _margin(margins, key, base[key]) for key in base}
    sampled = {key: pair for key, pair in pairs.items() if _needs_resampling(pair, units)}
    evidence = resample_pairs(sampled, units, resamples=resamples, seed=seed)
    settings = {key: _Setting(units, limits[key], confidence, key in same_outputs) for key in pairs}
    return {key: _compare(pair, evidence.get(key), settings[key]) for key, pair in pairs.items()}


@dataclass(frozen=True)
class _Setting:
    """How one pair is judged."""

    units: Units
    margin: float | None
    confidence: float
    same_outputs: bool


def _check_pair(base: Scored, adapted: Scored) -> None:
    if base.signature != adapted.signature or base.statistics.shape != adapted.statistics.shape:
        raise InvalidComparison(
            f"base and adapted were not scored alike: {base.signature!r} over {base.n} items against "
            f"{adapted.signature!r} over {adapted.n}",
            remedy="score both checkpoints on the same items with the same settings",
        )


def _margin(margins: Mapping[K, float | None] | None, key: K, scored: Scored) -> float | None:
    margin = margins[key] if margins is not None and key in margins else find_spec(scored.measure.name).margin
    if margin is not None and not margin > 0:
        raise ConfigError(f"the margin of {scored.measure.name} must be above 0, not {margin}")
    return margin


def _table(pair: tuple[Scored, Scored], units: Units) -> tuple[int, int, int, int] | None:
    """Items that both, only base, only adapted, neither had right; None where score methods do not apply."""
    base, adapted = (scored.statistics for scored in pair)
    if not pair[0].measure.proportion or units.of_item is not None or (base[:, 1] != adapted[:, 1]).any():
        return None
    tried = base[:, 1] > 0
    before, after = base[tried, 0] > 0, adapted[tried, 0] > 0
    cells = (before & after, before & ~after, ~before & after, ~before & ~after)
    both, only_base, only_adapted, neither = (int(cell.sum()) for cell in cells)
    return both, only_base, only_adapted, neither


def _needs_resampling(pair: tuple[Scored, Scored], units: Units) -> bool:
    base, adapted = pair
    if base.value is None or adapted.value is None or units.count < 2 or _identical(pair):
        return False
    return _table(pair, units) is None


def _identical(pair: tuple[Scored, Scored]) -> bool:
    return bool(np.array_equal(pair[0].statistics, pair[1].statistics))


def _difference(pair: tuple[Scored, Scored]) -> float:
    base, adapted = pair[0].value, pair[1].value
    assert base is not None  # undefined pairs are answered before any resampling
    assert adapted is not None
    return adapted - base


def _compare(pair: tuple[Scored, Scored], evidence: Evidence | None, setting: _Setting) -> PairedResult:
    n, margin, units = pair[0].n, setting.margin, setting.units
    if pair[0].value is None or pair[1].value is None:
        return PairedResult(None, None, None, n, "none: undefined on these items", margin=margin)
    value = _difference(pair)
    if units.count < 2:
        verdict = judge(value, None, None, margin=margin, direction=pair[0].measure.direction)
        return PairedResult(value, None, None, n, "none: fewer than two units", margin=margin, verdict=verdict)
    if _identical(pair):
        return _compare_identical(pair, setting)
    if evidence is None:
        return _compare_counts(pair, setting)
    if do_not_vary(evidence.draws):
        return _compare_unvarying(pair, setting, evidence.p_value, evidence.test)
    changed = len(differing_units(*pair, units))
    carrying = _carrying_units(pair, units)
    if carrying * _HEAVY_TAIL < changed:
        changed = carrying
    bounds, method = bootstrap_interval(
        value, evidence.draws, units.count, informative=changed, confidence=setting.confidence
    )
    error = standard_error(evidence.draws, units.count)
    described = _described(f"paired {method}", evidence.draws, units) if bounds else method
    return _result(pair, value, bounds, error, margin, described, evidence.p_value, evidence.test)


def _carrying_units(pair: tuple[Scored, Scored], units: Units) -> int:
    """How many units carry the spread of a plain mean's differences; all of them for other measures.

    (Σr²)² / Σr⁴ of the residuals r, the number of equal ones with such moments: where a few items collapse and all
    others change by a hair, every item differs and yet a few decide.
    """
    base, adapted = (side.statistics for side in pair)
    if pair[0].measure.aggregate is not mean_of_items or not np.array_equal(base[:, 1], adapted[:, 1]):
        return units.count
    sums = units.sums(np.stack([adapted[:, 0] - base[:, 0], base[:, 1]], axis=1))
    residuals = sums[:, 0] - _difference(pair) * sums[:, 1]
    squares = (residuals / np.abs(residuals).max()) ** 2
    return round(float(squares.sum() ** 2 / (squares**2).sum()))


def _compare_identical(pair: tuple[Scored, Scored], setting: _Setting) -> PairedResult:
    if not setting.same_outputs:
        return _compare_unvarying(pair, setting, 1.0, "no item changed")
    verdict = judge(0.0, 0.0, 0.0, margin=setting.margin, direction=pair[0].measure.direction)
    return PairedResult(
        0.0, 0.0, 0.0, pair[0].n, "identical outputs", 1.0, "identical outputs", setting.margin, verdict
    )


def _compare_unvarying(pair: tuple[Scored, Scored], setting: _Setting, p_value: float, test: str) -> PairedResult:
    """Every unit changed alike: the interval allows for units unlike them, as many as could have gone unseen."""
    measure, n, margin = pair[0].measure, pair[0].n, setting.margin
    value = _difference(pair)
    carried = min(measure.carried_by(setting.units.sums(side.statistics)) for side in pair)

    def interval(items: int) -> Bounds | None:
        return unvarying_interval(value, measure.width, carried * items // n, confidence=setting.confidence)

    low, high = interval(n) or (None, None)
    verdict = judge(value, low, high, margin=margin, direction=measure.direction)
    needed = None
    if verdict == "inconclusive":
        needed = items_needed_unvarying(value, interval, n=n, margin=margin, direction=measure.direction)
    method = f"score bound, {carried} units alike" if low is not None else _UNBOUNDED
    return PairedResult(value, low, high, n, method, p_value, test, margin, verdict, needed_n=needed)


def _compare_counts(pair: tuple[Scored, Scored], setting: _Setting) -> PairedResult:
    table = _table(pair, setting.units)
    assert table is not None  # every other pair was resampled
    both, only_base, only_adapted, neither = table
    tried = sum(table)
    value = _difference(pair)
    bounds = None
    if tried > 1:
        bounds = newcombe_paired(both, only_base, only_adapted, neither, confidence=setting.confidence)
    error = math.sqrt(max((only_base + only_adapted) / tried - value**2, 0.0) / tried)
    p_value = mcnemar(only_base, only_adapted)
    return _result(pair, value, bounds, error, setting.margin, "newcombe paired score", p_value, "exact McNemar")


def _result(
    pair: tuple[Scored, Scored],
    value: float,
    bounds: Bounds | None,
    error: float | None,
    margin: float | None,
    method: str,
    p_value: float,
    test: str,
) -> PairedResult:
    low, high = _on_scale(bounds, pair[0]) if bounds is not None else (None, None)
    n = pair[0].n
    verdict = judge(value, low, high, margin=margin, direction=pair[0].measure.direction)
    needed = items_needed(value, error, n=n, margin=margin) if verdict == "inconclusive" and margin else None
    return PairedResult(
        value, low, high, n, method, p_value, test, margin, verdict, detectable_difference(error), needed
    )


def _on_scale(bounds: Bounds, scored: Scored) -> Bounds:
    """The interval of a difference, cut where no difference on the measure's scale can lie."""
    width = scored.measure.width
    return max(bounds[0], -width), min(bounds[1], width)


def unpaired_difference(
    train: Scored,
    validation: Scored,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    groups: tuple[Groups | None, Groups | None] = (None, None),
) -> Interval:
    """Train minus validation of one measure: the gap between items that were trained on and items that were not.

    The items differ, so both sides are resampled independently (shares of right items that stand for themselves:
    Newcombe's score interval). ``groups`` of the training and of the validation items make whole groups the units.
    ``n`` counts the items of both sides. There is no interval when either side has fewer than two units.
    """
    if train.measure.name != validation.measure.name:
        raise InvalidComparison(f"a gap needs one measure, not {train.measure.name} and {validation.measure.name}")
    n = train.n + validation.n
    if train.value is None or validation.value is None:
        return Interval(None, None, None, n, "none: undefined on these items")
    value = train.value - validation.value
    units = [Units.of(scored.n, names) for scored, names in zip((train, validation), groups, strict=True)]
    fewest = min(each.count for each in units)
    if fewest < 2:
        return Interval(value, None, None, n, "none: fewer than two units on one side")
    if train.measure.proportion and all(each.of_item is None for each in units):
        sums = [float(total) for scored in (train, validation) for total in scored.statistics.sum(axis=0)]
        bounds: Bounds | None = newcombe_unpaired(sums[0], sums[1], sums[2], sums[3], confidence=confidence)
        method = "newcombe score"
    else:
        draws = [
            bootstrap({0: scored}, each, resamples=resamples, seed=2 * seed + side)[0]
            for side, (scored, each) in enumerate(zip((train, validation), units, strict=True))
        ]
        gaps = draws[0] - draws[1]
        bounds, method = bootstrap_interval(value, gaps, fewest, informative=fewest, confidence=confidence)
    if bounds is None:
        return Interval(value, None, None, n, method)
    return Interval(value, *_on_scale(bounds, train), n, f"unpaired {method}")
