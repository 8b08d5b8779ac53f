"""Models of preference: the win rate at equal length, and strengths of several systems (Bradley-Terry)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from lorascope.errors import DataError
from lorascope.measures.core import BoolArray, FloatArray, IntArray
from lorascope.measures.preference_strata import Strata, item_means, rated, spread_of_mean, variety
from lorascope.measures.statistics import Interval

_RIDGE = 0.1  # in items: a prior of standard deviation 3.2 on the slope, which fades as items come in
_FEWEST_ITEMS = 10
_LEAST_SHARE = 0.1  # of items that must lie on either side of equal length
_STEPS = 100
_CONVERGED = 1e-10


def length_adjusted_win_rate(
    votes: FloatArray, log_lengths: FloatArray, strata: Strata | None = None, *, confidence: float = 0.95
) -> Interval:
    """Win rate of ``first`` (0–1) if both answers were equally long: σ(a) of P(first wins) = σ(a + b · z).

    ``log_lengths`` (items,) is log(length of first / length of second), both above 0; z is that over its standard
    deviation, not centred, so that z = 0 is equal length. Votes as in :func:`~lorascope.measures.preference.win_rate`;
    ties are half wins. Dubois et al. 2024 (arXiv 2404.04475, section 3) without the terms of model and question, and z
    without their tanh. b alone has a faint ridge. Interval: linearised on the logit (sandwich), with the strata and
    from five raters on the raters, as the win rate's own.

    Value None, with the reason in ``method``: fewer than ten items that differ from the commonest vote (all won, all
    tied); lengths that do not vary; one side longer in more than nine items out of ten, where equal length lies at the
    edge of the data or outside them and the model would be followed to where nothing was seen; wins and losses parted
    by length, where no finite model fits. Items of equal length lie on both sides if the raters preferred an answer;
    a tie of equal length, which may be the same text twice, lies on neither.
    """
    votes, strata, kept = rated(votes, strata)
    if len(log_lengths) != len(kept) or not np.isfinite(log_lengths[kept]).all():
        raise DataError("every item needs the log of a ratio of lengths", remedy="take lengths above 0")
    lengths, items = log_lengths[kept], votes.shape[1]
    scores = item_means(votes)
    reason = _unfit(scores, lengths)
    if reason is not None:
        return Interval(None, None, None, items, f"none: {reason}")
    features = np.stack([np.ones(items), lengths / lengths.std(ddof=1)], axis=1)
    fit = _fit_logistic(features, scores, strata.weights, ridge=np.array([0.0, _RIDGE / items]))
    # How far each vote moves a, were its item the whole sample: their weighted mean has the variance of a.
    pulls = (features @ fit.inverse)[:, 0] * (votes - fit.fitted)
    spread = spread_of_mean(pulls, strata)
    quantile = special.stdtrit(spread.degrees, (1 + confidence) / 2)
    reach = float(quantile) * math.sqrt(spread.variance * items / (items - 2))
    middle = float(fit.coefficients[0])
    value, low, high = (float(special.expit(logit)) for logit in (middle, middle - reach, middle + reach))
    return Interval(value, low, high, items, "logistic model, sandwich interval over items")


def _unfit(scores: FloatArray, lengths: FloatArray) -> str | None:
    """Why the win rate at equal length cannot be told from these items; None where it can."""
    if len(scores) < _FEWEST_ITEMS:
        return f"fewer than {_FEWEST_ITEMS} items"
    if variety(scores, Strata.single(len(scores))).informative < _FEWEST_ITEMS:
        return f"fewer than {_FEWEST_ITEMS} items differ from the commonest vote"
    if np.ptp(lengths) <= 1e-9 * max(1.0, float(np.abs(lengths).max())):
        return "the difference of lengths does not vary"
    told = (lengths != 0) | (scores != 0.5)
    items, longer, shorter = (int(side.sum()) for side in (told, lengths > 0, lengths < 0))
    if items - max(longer, shorter) < _LEAST_SHARE * items:
        most = f"{max(longer, shorter)} of {items} items"
        return f"one side is longer in {most}: equal length lies at the edge of what was seen"
    won, lost = lengths[scores > 0], lengths[scores < 1]
    if won.min() >= lost.max() or won.max() <= lost.min():
        return "length parts wins from losses"
    return None


@dataclass(frozen=True)
class _Fit:
    """Coefficients (k,), inverse of the information (k, k) and fitted chances (n,)."""

    coefficients: FloatArray
    inverse: FloatArray
    fitted: FloatArray


def _fit_logistic(features: FloatArray, scores: FloatArray, weights: FloatArray, *, ridge: FloatArray) -> _Fit:
    """Maximum of Σ w (s log p + (1 − s) log(1 − p)) − Σ ridge · coefficient² / 2, by Newton with halved steps.

    The caller has made sure that it lies at finite coefficients.
    """

    def loss(coefficients: FloatArray) -> float:
        line = features @ coefficients
        return float(weights @ (np.logaddexp(0, line) - scores * line) + ridge @ coefficients**2 / 2)

    coefficients = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        fitted = special.expit(features @ coefficients)
        information = (features.T * (weights * fitted * (1 - fitted))) @ features + np.diag(ridge)
        step = np.linalg.solve(information, features.T @ (weights * (scores - fitted)) - ridge * coefficients)
        before = loss(coefficients)
        while loss(coefficients + step) > before + 1e-15 and np.abs(step).max() > _CONVERGED:
            step = step / 2
        coefficients = coefficients + step
        if np.abs(step).max() <= _CONVERGED:
            break
    fitted = special.expit(features @ coefficients)
    information = (features.T * (weights * fitted * (1 - fitted))) @ features + np.diag(ridge)
    return _Fit(coefficients, np.linalg.inv(information), fitted)


def bradley_terry(
    first: Sequence[str],
    second: Sequence[str],
    scores: FloatArray,
    *,
    items: Sequence[Hashable],
    reference: str,
    weights: FloatArray | None = None,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Strength of each system: log-odds of being preferred to ``reference``, which has 0; unbounded, higher is better.

    One entry per comparison: the two systems, the mean vote (1 for first, ½ a tie), the item it was made on and its
    weight (all alike when None). Maximum likelihood of P(i over j) = σ(strength_i − strength_j) (Bradley and Terry
    1952), ties as half wins. Intervals: sandwich with items as clusters, Student's t, its degrees of freedom the items
    (of equal weight) less the strengths fitted; ``n`` counts items.

    A system has a finite strength only if a chain of wins or ties leads from it to the reference and one back (Ford
    1957). Others get value None and the reason in ``method``, and their comparisons do not move the rest: the
    likelihood's own limit. DataError for a comparison of a system with itself.
    """
    names = sorted({reference, *first, *second})
    made = _comparisons(names, first, second, scores, items, weights)
    settled, reasons = _reached(made, names, names.index(reference))
    found = {name: Interval(None, None, None, made.items, f"none: {reason}") for name, reason in reasons.items()}
    found |= _strengths(made.among(settled), names, settled, names.index(reference), confidence)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Comparisons:
    """Places of the two systems, mean vote, item and weight of each comparison (n,)."""

    first: IntArray
    second: IntArray
    scores: FloatArray
    item: IntArray
    weights: FloatArray

    @property
    def items(self) -> int:
        return len(np.unique(self.item))

    def where(self, kept: BoolArray) -> _Comparisons:
        return _Comparisons(self.first[kept], self.second[kept], self.scores[kept], self.item[kept], self.weights[kept])

    def among(self, systems: list[int]) -> _Comparisons:
        return self.where(np.isin(self.first, systems) & np.isin(self.second, systems))


def _comparisons(
    names: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    scores: FloatArray,
    items: Sequence[Hashable],
    weights: FloatArray | None,
) -> _Comparisons:
    scores = np.asarray(scores, dtype=np.float64)
    weights = np.ones(len(scores)) if weights is None else weights
    if not len(first) == len(second) == len(scores) == len(items) == len(weights):
        raise DataError("comparisons do not line up", remedy="give two systems, score, item and weight of each")
    place = {name: index for index, name in enumerate(names)}
    one, two = (np.array([place[name] for name in side], dtype=np.int64) for side in (first, second))
    if (one == two).any():
        raise DataError(f"{names[int(one[one == two][0])]!r} is compared with itself")
    seen: dict[Hashable, int] = {}
    item = np.array([seen.setdefault(name, len(seen)) for name in items], dtype=np.int64)
    return _Comparisons(one, two, scores, item, weights).where(np.isfinite(scores) & (weights > 0))


def _reached(made: _Comparisons, names: Sequence[str], reference: int) -> tuple[list[int], dict[str, str]]:
    """Systems of finite strength against the reference, itself included; and why each of the others has none."""
    from scipy.sparse import csgraph

    beaten = np.zeros((len(names), len(names)))
    np.add.at(beaten, (made.first, made.second), made.scores)
    np.add.at(beaten, (made.second, made.first), 1 - made.scores)
    strong = csgraph.connected_components(beaten, connection="strong")[1]
    joined = csgraph.connected_components(beaten, directed=False)[1]
    reasons = {}
    for index, name in enumerate(names):
        if joined[index] != joined[reference]:
            reasons[name] = f"no comparisons join it to {names[reference]}"
        elif strong[index] != strong[reference]:
            reasons[name] = f"no chain of wins and ties runs between it and {names[reference]} both ways"
    return [index for index in range(len(names)) if strong[index] == strong[reference]], reasons


def _strengths(
    made: _Comparisons, names: Sequence[str], settled: list[int], reference: int, confidence: float
) -> dict[str, Interval]:
    found = {names[reference]: Interval(0.0, 0.0, 0.0, made.items, "reference")}
    others = [index for index in settled if index != reference]
    if not others:
        return found
    features = np.stack([(made.first == index).astype(np.float64) - (made.second == index) for index in others], axis=1)
    weights = made.weights / made.weights.sum()
    fit = _fit_logistic(features, made.scores, weights, ridge=np.zeros(len(others)))
    pulls = (features * (weights * (made.scores - fit.fitted))[:, None]) @ fit.inverse
    clusters = np.unique(made.item, return_inverse=True)[1]
    per_item, weight = np.zeros((made.items, len(others))), np.zeros(made.items)
    np.add.at(per_item, clusters, pulls)
    np.add.at(weight, clusters, weights)
    degrees = 1 / float(np.square(weight).sum()) - len(others)
    for column, index in enumerate(others):
        found[names[index]] = _strength(float(fit.coefficients[column]), per_item[:, column], degrees, confidence)
    return found


def _strength(value: float, pulls: FloatArray, degrees: float, confidence: float) -> Interval:
    items = len(pulls)
    if degrees < 1:
        return Interval(value, None, None, items, "none: too few items")
    error = math.sqrt(float(np.square(pulls).sum()) * (degrees + 1) / degrees)
    if error < _CONVERGED:
        return Interval(value, None, None, items, "none: the items do not vary")
    reach = float(special.stdtrit(degrees, (1 + confidence) / 2)) * error
    return Interval(value, value - reach, value + reach, items, "Bradley-Terry, sandwich interval over items")
