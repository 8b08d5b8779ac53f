"""Two systems side by side: what the votes on their items say, weighted back to the items that were drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from lorascope.blind.key import StudyKey
from lorascope.blind.metric_agreement import ItemMetrics, as_estimate, metric_agreements
from lorascope.blind.votes import PairVotes
from lorascope.measures.core import FloatArray
from lorascope.measures.preference import rating_mean, sign_test, wilcoxon_pratt, win_rate
from lorascope.measures.preference_models import length_adjusted_win_rate
from lorascope.measures.preference_strata import Strata, item_means
from lorascope.measures.significance import holm
from lorascope.measures.statistics import Interval
from lorascope.schema.human import DIMENSIONS, Dimension, DimensionRating, PairOutcome, SignTest, StratumOutcome
from lorascope.schema.values import Delta, Estimate

_Kind = tuple[str, bool]
"""A stratum's name and whether the two answers are identical."""
_RATINGS = (1.0, 5.0)
_DIFFERENCES = (-4.0, 4.0)
_WILCOXON = "Wilcoxon signed-rank over items (Pratt)"


def pair_outcome(pair: PairVotes, key: StudyKey, metrics: ItemMetrics, *, seed: int, resamples: int) -> PairOutcome:
    """Every number of one pair, weighted as :func:`item_strata` says; ratings by the strata of the rated items.

    ``seed`` and ``resamples`` are of the bootstrap of the correlation with metrics.
    """
    strata = item_strata(pair, key)
    votes = pair.wins
    signs = sign_test(item_means(votes))
    adjusted = length_adjusted_win_rate(votes, _log_lengths(pair, key), strata)
    ratings = _ratings(pair, Strata.of([name for name, _ in _kept(pair, key)], _populations(key)))
    return PairOutcome(
        first=pair.first,
        second=pair.second,
        items=len(pair.items),
        identical=int(pair.identical.sum()),
        win_rate=_value(win_rate(votes, strata)),
        unweighted=_value(win_rate(votes, _unweighted(pair, key))),
        length_adjusted=as_estimate(adjusted),
        sign_test=SignTest(wins=signs.wins, losses=signs.losses, undecided=signs.undecided, p_value=signs.p_value),
        votes=pair.counts,
        ratings=ratings,
        metrics=metric_agreements(pair, strata, key, metrics, seed=seed, resamples=resamples),
        strata=_strata(pair, votes, key),
        notes=_notes(pair, key, strata, adjusted, [rating.dimension for rating in ratings]),
    )


def item_strata(pair: PairVotes, key: StudyKey, populations: Mapping[str, float] | None = None) -> Strata:
    """The strata of the pair's items, with the populations that they were drawn from (or others, for weights alone).

    Where drawn items have no vote, identical answers, which need none, would become too many. Each stratum is then
    parted into items with identical and with differing answers, which keep the shares that were drawn: an item
    without a vote is stood for by the other differing ones of its stratum or, where none has a vote, of all strata.
    These shares are estimates themselves, so populations are then scaled to the number of drawn items (of equal
    weight), from which the variance between parts follows (double sampling, Cochran 1977, Sampling Techniques, 12.2);
    between whole strata it errs towards long intervals.
    """
    return _held(_drawn(pair, key), _kept(pair, key), populations or _populations(key))


def comparison_weights(pairs: Sequence[PairVotes], key: StudyKey) -> FloatArray:
    """Weights of the items of all pairs, one pair after another, for numbers that join the pairs.

    A stratum's population is divided among the pairs as its drawn items are, and within a pair as by
    :func:`item_strata`: each pair keeps the weight with which it was drawn, however many of its votes are missing.
    """
    of_all, populations = Counter(item.stratum for item in key.items), _populations(key)
    weights = []
    for pair in pairs:
        of_pair = Counter(name for name, _ in _drawn(pair, key))
        sizes = {name: populations[name] * count / of_all[name] for name, count in of_pair.items()}
        weights.append(sum(sizes.values()) * item_strata(pair, key, sizes).weights)
    return np.concatenate(weights)


def _unweighted(pair: PairVotes, key: StudyKey) -> Strata:
    """All items in one stratum, parted where items have no vote."""
    drawn, kept = ([("", identical) for _, identical in kinds] for kinds in (_drawn(pair, key), _kept(pair, key)))
    return _held(drawn, kept, {"": float(len(drawn))})


def _held(drawn: Sequence[_Kind], kept: Sequence[_Kind], populations: Mapping[str, float]) -> Strata:
    """Strata of the items kept of those drawn. At least one differing item is kept, unless all are identical."""
    counts, remaining = Counter(drawn), Counter(kept)
    if remaining == counts or not any(identical for _, identical in counts):
        return Strata.of([name for name, _ in kept], populations)
    inside = Counter(name for name, _ in drawn)
    parts = {kind: populations[kind[0]] * count / inside[kind[0]] for kind, count in counts.items()}
    differing = sum(size for (_, identical), size in parts.items() if not identical)
    voted = sum(size for kind, size in parts.items() if not kind[1] and kind in remaining)
    total = sum(populations[name] for name in inside)
    units = total**2 / sum(populations[name] ** 2 / count for name, count in inside.items())
    places = {kind: place for place, kind in enumerate(remaining)}
    sizes = [units / total * parts[kind] * (1.0 if kind[1] else differing / voted) for kind in places]
    return Strata(np.array([places[kind] for kind in kept], dtype=np.int64), np.array(sizes))


def _populations(key: StudyKey) -> dict[str, float]:
    return {stratum.name: float(stratum.population) for stratum in key.strata}


def _drawn(pair: PairVotes, key: StudyKey) -> list[_Kind]:
    names = pair.first, pair.second
    return [(item.stratum, item.identical) for item in key.items if (item.first, item.second) == names]


def _kept(pair: PairVotes, key: StudyKey) -> list[_Kind]:
    return [(key.items[place].stratum, key.items[place].identical) for place in pair.items]


def _value(found: Interval) -> Estimate:
    estimate = as_estimate(found)
    assert estimate is not None  # a pair has at least one item with a vote or identical answers
    return estimate


def _log_lengths(pair: PairVotes, key: StudyKey) -> FloatArray:
    """(items,): log of first's length over second's; an empty answer counts one character."""
    lengths = np.array([key.items[place].lengths for place in pair.items], dtype=np.float64)
    logs: FloatArray = np.log(np.maximum(lengths, 1.0))
    return logs[:, 0] - logs[:, 1]


def _ratings(pair: PairVotes, strata: Strata) -> list[DimensionRating]:
    """Dimensions that somebody rated on both sides of an item; a vote that rates one side alone is left out."""
    rated: dict[Dimension, tuple[Estimate, Estimate, Interval, float | None]] = {}
    for dimension in DIMENSIONS:
        first, second = pair.ratings[dimension]
        differences = first - second
        both = np.isfinite(differences)
        if both.any():
            sides = [rating_mean(np.where(both, side, np.nan), strata, scale=_RATINGS) for side in (first, second)]
            change = rating_mean(differences, strata, scale=_DIFFERENCES)
            rated[dimension] = _value(sides[0]), _value(sides[1]), change, wilcoxon_pratt(item_means(differences))
    adjusted = holm([p_value for *_, p_value in rated.values()])
    return [
        DimensionRating(dimension=dimension, first=first, second=second, delta=_delta(change, p_value, p_adjusted))
        for (dimension, (first, second, change, p_value)), p_adjusted in zip(rated.items(), adjusted, strict=True)
    ]


def _delta(change: Interval, p_value: float | None, p_adjusted: float | None) -> Delta:
    value = _value(change)
    return Delta(
        value=value.value, low=value.low, high=value.high, n=value.n, p_value=p_value, p_adjusted=p_adjusted,
        test=_WILCOXON,
    )  # fmt: skip


def _strata(pair: PairVotes, votes: FloatArray, key: StudyKey) -> list[StratumOutcome]:
    """Strata in which the pair has items that count; ``drawn`` and ``weight`` (a mean) are of these items.

    No win rate where all items with a vote are identical ones, and others have none.
    """
    drawn, kept = _drawn(pair, key), _kept(pair, key)
    found = []
    for stratum in key.strata:
        inside = np.array([name == stratum.name for name, _ in kept], dtype=np.bool_)
        if items := int(inside.sum()):
            own, left = ([kind for kind in kinds if kind[0] == stratum.name] for kinds in (drawn, kept))
            rate = None
            if set(own) == set(left):
                rate = win_rate(votes[:, inside], _held(own, left, {stratum.name: float(stratum.population)}))
            found.append(
                StratumOutcome(
                    stratum=stratum.name,
                    population=stratum.population,
                    drawn=items,
                    weight=stratum.population / items,
                    win_rate=None if rate is None else as_estimate(rate),
                )
            )
    return found


def _notes(pair: PairVotes, key: StudyKey, strata: Strata, adjusted: Interval, rated: Sequence[Dimension]) -> list[str]:
    notes = _missing(pair, key)
    if np.ptp(strata.weights) > 1e-9 * strata.weights.max():
        notes.append(
            "sign test, Wilcoxon's tests, rank correlations and counts are of the items as they are, unweighted"
        )
    if adjusted.value is None:
        notes.append(f"no length-adjusted win rate: {adjusted.method.removeprefix('none: ')}")
    if unrated := [dimension for dimension in DIMENSIONS if dimension not in rated]:
        notes.append(f"nobody rated {', '.join(unrated)} on both sides")
    return notes


def _missing(pair: PairVotes, key: StudyKey) -> list[str]:
    """Drawn items without a vote, and strata without any."""
    drawn, kept = _drawn(pair, key), _kept(pair, key)
    populations, notes = _populations(key), []
    if silent := len(drawn) - len(kept):
        have = "has" if silent == 1 else "have"
        notes.append(
            f"{silent} of the {len(drawn)} drawn items {have} no vote: the others of their kind stand for them"
        )
    unvoted = {name for name, _ in set(drawn) - set(kept)}
    absent = set(populations) - {name for name, _ in drawn}
    for names, told in (
        (unvoted, "have no vote on differing answers of this pair: the other strata's votes stand for them"),
        (absent, "have no item of this pair: the win rate speaks of the others"),
    ):
        if names:
            size = sum(populations[name] for name in names)
            notes.append(f"strata with {size:.0f} of the {sum(populations.values()):.0f} items to draw from {told}")
    return notes
