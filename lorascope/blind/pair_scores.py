"""Two systems side by side: what the votes on their items say, weighted back to the items that were drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorascope.blind.key import StudyKey
from lorascope.blind.metric_agreement import ItemMetrics, as_estimate, metric_agreements
from lorascope.blind.votes import PairVotes
from lorascope.measures.core import FloatArray
from lorascope.measures.preference import holm, rating_mean, sign_test, wilcoxon_pratt, win_rate
from lorascope.measures.preference_models import length_adjusted_win_rate
from lorascope.measures.preference_strata import Strata, item_means
from lorascope.measures.statistics import Interval
from lorascope.schema.human import DIMENSIONS, Dimension, DimensionRating, PairOutcome, SignTest, StratumOutcome
from lorascope.schema.values import Delta, Estimate

_RATINGS = (1.0, 5.0)
_DIFFERENCES = (-4.0, 4.0)
_WILCOXON = "Wilcoxon signed-rank over items (Pratt)"


def pair_outcome(pair: PairVotes, key: StudyKey, metrics: ItemMetrics, *, seed: int, resamples: int) -> PairOutcome:
    """Every number of one pair. Items weigh as their stratum's population / items of this pair with a vote in it.

    ``seed`` and ``resamples`` are of the bootstrap of the correlation with metrics.
    """
    strata = item_strata(key, pair.items)
    votes = pair.wins
    signs = sign_test(item_means(votes))
    adjusted = length_adjusted_win_rate(votes, _log_lengths(pair, key), strata)
    ratings = _ratings(pair, strata)
    return PairOutcome(
        first=pair.first,
        second=pair.second,
        items=len(pair.items),
        identical=int(pair.identical.sum()),
        win_rate=_value(win_rate(votes, strata)),
        unweighted=_value(win_rate(votes)),
        length_adjusted=as_estimate(adjusted),
        sign_test=SignTest(wins=signs.wins, losses=signs.losses, undecided=signs.undecided, p_value=signs.p_value),
        votes=pair.counts,
        ratings=ratings,
        metrics=metric_agreements(pair, strata, key, metrics, seed=seed, resamples=resamples),
        strata=_strata(pair, votes, key),
        notes=_notes(pair, key, strata, adjusted, [rating.dimension for rating in ratings]),
    )


def item_strata(key: StudyKey, places: Sequence[int]) -> Strata:
    """The strata of some of the key's items, with the populations that they were drawn from."""
    populations = {stratum.name: float(stratum.population) for stratum in key.strata}
    return Strata.of([key.items[place].stratum for place in places], populations)


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
    """Strata in which the pair has items that count; ``drawn`` and ``weight`` are of these items."""
    names = np.array([key.items[place].stratum for place in pair.items])
    found = []
    for stratum in key.strata:
        inside = names == stratum.name
        if drawn := int(inside.sum()):
            found.append(
                StratumOutcome(
                    stratum=stratum.name,
                    population=stratum.population,
                    drawn=drawn,
                    weight=stratum.population / drawn,
                    win_rate=as_estimate(win_rate(votes[:, inside])),
                )
            )
    return found


def _notes(pair: PairVotes, key: StudyKey, strata: Strata, adjusted: Interval, rated: Sequence[Dimension]) -> list[str]:
    notes = []
    drawn = sum((item.first, item.second) == (pair.first, pair.second) for item in key.items)
    if silent := drawn - len(pair.items):
        notes.append(f"{silent} of the {drawn} drawn items have no vote and are left out")
    populations = {stratum.name: stratum.population for stratum in key.strata}
    absent = sum(populations.values()) - sum(populations[name] for name in {key.items[p].stratum for p in pair.items})
    if absent:
        notes.append(
            f"strata with {absent} of the {sum(populations.values())} items to draw from have no item of this pair: "
            "the win rate speaks of the others"
        )
    if np.ptp(strata.weights) > 1e-9 * strata.weights.max():
        notes.append(
            "sign test, Wilcoxon's tests, rank correlations and counts are of the drawn items as they are, unweighted"
        )
    if adjusted.value is None:
        notes.append(f"no length-adjusted win rate: {adjusted.method.removeprefix('none: ')}")
    if unrated := [dimension for dimension in DIMENSIONS if dimension not in rated]:
        notes.append(f"nobody rated {', '.join(unrated)} on both sides")
    return notes
