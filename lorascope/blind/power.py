"""How many items a blind study needs, from the exact power of the sign test that will decide it.

The unit is the item, as in the test: every item on which its raters together prefer a side is one trial. Several
votes on an item are joined by a stated model: a share of the items are ties to everybody; on every other one each
vote goes to the better system with a probability that differs from item to item (a beta distribution whose mean is the
effect), so that two votes on one item have the given correlation. A majority of them points the right way more often
than one vote does: correlation 1 is no gain at all, 0 is the most. Kish's effective votes (:func:`effective_votes`)
say what the votes are worth to a mean; a test of directions gains less than that, so items are not computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from lorascope.blind.plan import Exclusions, StudyPlan
from lorascope.errors import UsageError

ENOUGH = 0.9
"""Probability with which the planned items contain at least the decisive ones that the test needs."""
ROWS_AN_HOUR = 40
"""Assumed reading speed: one comparison of two answers with eight ratings in a minute and a half."""
SMALLEST_EFFECT = 0.51
_TAIL = 1e-10
_NO_CORRELATION = 1e-9  # below it the beta distribution is too narrow for floating point
_FEWEST_REPEATS, _REPEATED, _CHECKS = 8, 0.1, 6
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ItemEffect:
    """What the votes on one item come to together, by the module's model.

    ``effect`` is the win rate among items whose votes have a majority, ``split`` the share without one (0 for an odd
    number of votes), both among items that are no tie to everybody.
    """

    effect: float
    split: float


@dataclass(frozen=True, slots=True)
class PowerRow:
    """What finding one effect takes, and the power that given numbers of items have; in the order they were asked."""

    effect: float
    decisive_items: int
    items: int
    powers: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ReadingLoad:
    """What a plan asks of its raters, repeats (a tenth, at least 8) and six checks included; hours are an assumption.

    See ROWS_AN_HOUR; ``hours`` are one rater's.
    """

    rows_per_rater: int
    rows: int
    hours: float


def sign_test_power(n: int, effect: float, alpha: float = 0.05) -> float:
    """Probability (0-1) that ``n`` decisive items reject "no preference" in the right direction.

    Exact two-sided sign test: wins are binomial, and it rejects where twice the smaller tail at 1/2 is at most
    ``alpha``. Rejecting in favour of the worse system is no success and is not counted.
    """
    _check_rates(alpha=alpha)
    return float(_powers(np.array([n]), effect, alpha)[0])


def sign_test_items(effect: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Decisive items that the exact two-sided sign test needs: the smallest n from which on power stays reached.

    Power is a saw-tooth in n: it falls until one more loss becomes affordable. The first n that touches ``power`` is
    therefore too small a promise, since a few more items would have less (for 55 % and 80 %: 786, against 820 here).
    The normal approximation gives 783. UsageError for an effect below 0.51, or rates out of range.
    """
    _check_rates(effect=effect, alpha=alpha, power=power)
    return _decisive_items(effect, alpha, power)


def _decisive_items(effect: float, alpha: float, power: float) -> int:
    sizes = np.arange(1, _surely_enough(effect, alpha, power) + 1)
    short = np.flatnonzero(_powers(sizes, effect, alpha) < power)
    return int(sizes[short[-1]]) + 1 if len(short) else 1


def item_effect(effect: float, votes_per_item: int, correlation: float) -> ItemEffect:
    """Win rate of an item's majority of ``votes_per_item`` votes, each right with probability ``effect``.

    ``correlation`` (0-1) is that of two votes on one item beyond the effect itself (the intraclass correlation):
    votes are beta-binomial. 1: all raters of an item say the same, so the majority is one vote.
    """
    if votes_per_item == 1 or correlation == 1:
        return ItemEffect(effect, 0.0)
    votes = np.arange(votes_per_item + 1)
    if correlation < _NO_CORRELATION:
        shares = stats.binom.pmf(votes, votes_per_item, effect)
    else:
        spread = (1 - correlation) / correlation
        shares = stats.betabinom.pmf(votes, votes_per_item, effect * spread, (1 - effect) * spread)
    wins, losses = (float(shares[side].sum()) for side in (2 * votes > votes_per_item, 2 * votes < votes_per_item))
    return ItemEffect(wins / (wins + losses), 1.0 - wins - losses if votes_per_item % 2 == 0 else 0.0)


def effective_votes(items: int, votes_per_item: int, correlation: float) -> float:
    """How many independent votes ``items`` x ``votes_per_item`` are worth to a mean: n·m / (1 + (m - 1)·correlation).

    Kish 1965, Survey Sampling (design effect); it assumes the same correlation between any two votes on an item and
    none between items.
    """
    return items * votes_per_item / (1 + (votes_per_item - 1) * correlation)


def study_power(
    items: int,
    effect: float,
    *,
    ties: float = 0.0,
    votes_per_item: int = 1,
    correlation: float = 1.0,
    alpha: float = 0.05,
) -> float:
    """Power (0-1) of a study with ``items`` drawn items: exact, over how many of them turn out decisive.

    ``ties`` is the share of items that are a tie to everybody; other arguments as for :func:`plan_study`.
    """
    joined = item_effect(effect, votes_per_item, correlation)
    return _mixed_power(items, joined.effect, (1 - ties) * (1 - joined.split), alpha)


def plan_study(
    effect: float,
    *,
    ties: float = 0.0,
    raters: int = 3,
    votes_per_item: int | None = None,
    correlation: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
    exclusions: Exclusions | None = None,
) -> StudyPlan:
    """The items that a study needs to find ``effect``, with ties and split votes on top.

    ``effect`` (0.51 to below 1) is the share of one rater's decided votes that go to the better system; ``ties`` the
    expected share of items that are a tie to everybody; ``votes_per_item`` how many of the ``raters`` rate each item
    (None: all). ``correlation`` is that of two votes on one item: 1, the default, takes no credit for further raters.
    ``items`` is the smallest number that holds the decisive items of :func:`sign_test_items` with probability 0.9, so
    not only on average, and that has ``power`` as a whole. UsageError for values out of range.
    """
    votes = raters if votes_per_item is None else votes_per_item
    _check_rates(effect=effect, alpha=alpha, power=power, ties=ties, correlation=correlation)
    _check_votes(raters, votes)
    joined = item_effect(effect, votes, correlation)
    decisive = _decisive_items(joined.effect, alpha, power)
    decided = (1 - ties) * (1 - joined.split)
    items = decisive + int(stats.nbinom.ppf(ENOUGH, decisive, decided)) if decided < 1 else decisive
    while _mixed_power(items, joined.effect, decided, alpha) < power:
        items += 1
    return StudyPlan(
        alpha=alpha, power=power, effect=effect, ties=ties, raters=raters, votes_per_item=votes,
        correlation=correlation, decisive_items=decisive, items=items, exclusions=exclusions or Exclusions(),
    )  # fmt: skip


def detectable_effect(
    items: int,
    *,
    ties: float = 0.0,
    votes_per_item: int = 1,
    correlation: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float | None:
    """The smallest effect (0.5-1) that a study with ``items`` items finds with ``power``.

    None where no effect can be found: with too few items not even unanimous ones are significant.
    """
    _check_rates(alpha=alpha, power=power, ties=ties, correlation=correlation)
    _check_votes(votes_per_item, votes_per_item)

    def lacking(effect: float) -> float:
        return power - study_power(
            items, effect, ties=ties, votes_per_item=votes_per_item, correlation=correlation, alpha=alpha
        )

    most, least = 1 - 1e-9, 0.5 + 1e-9
    if items < 1 or lacking(most) > 0:
        return None
    return float(optimize.brentq(lacking, least, most, xtol=1e-6))


def power_table(
    effects: Sequence[float],
    items: Sequence[int] = (),
    *,
    ties: float = 0.0,
    raters: int = 3,
    votes_per_item: int | None = None,
    correlation: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> list[PowerRow]:
    """One row per effect: the items it needs, and the power that each number of ``items`` would have for it."""
    rows = []
    for effect in effects:
        plan = plan_study(
            effect, ties=ties, raters=raters, votes_per_item=votes_per_item, correlation=correlation, alpha=alpha,
            power=power,
        )  # fmt: skip
        joined = item_effect(effect, plan.votes_per_item, correlation)
        decided = (1 - ties) * (1 - joined.split)
        powers = tuple(_mixed_power(number, joined.effect, decided, alpha) for number in items)
        rows.append(PowerRow(effect, plan.decisive_items, plan.items, powers))
    return rows


def plan_power(plan: StudyPlan) -> float:
    """Power (0-1) of the planned study as a whole, ties and split votes being as many as chance makes them."""
    return study_power(
        plan.items, plan.effect, ties=plan.ties, votes_per_item=plan.votes_per_item, correlation=plan.correlation,
        alpha=plan.alpha,
    )  # fmt: skip


def reading_load(plan: StudyPlan) -> ReadingLoad:
    """Rows and hours that the plan asks of a rater, if items are split evenly and every rater stays."""
    items = math.ceil(plan.items * plan.votes_per_item / plan.raters)
    repeats = min(items, max(_FEWEST_REPEATS, math.ceil(_REPEATED * items)))
    rows = items + repeats + _CHECKS
    return ReadingLoad(rows, rows * plan.raters, rows / ROWS_AN_HOUR)


def _powers(sizes: npt.NDArray[np.int64], effect: float, alpha: float) -> Floats:
    """Power at each number of decisive items; 0 where even unanimous items are not significant."""
    affordable = stats.binom.ppf(alpha / 2, sizes, 0.5)
    affordable -= 2 * stats.binom.cdf(affordable, sizes, 0.5) > alpha
    reached: Floats = np.where(affordable >= 0, stats.binom.cdf(affordable, sizes, 1 - effect), 0.0)
    return np.where(sizes > 0, reached, 0.0)


def _mixed_power(items: int, effect: float, decided: float, alpha: float) -> float:
    """Power over the binomial number of decisive items; the tails left out hold less than 2e-10."""
    low, high = (int(stats.binom.ppf(at, items, decided)) for at in (_TAIL, 1 - _TAIL))
    sizes = np.arange(max(low, 0), high + 1)
    return float(stats.binom.pmf(sizes, items, decided) @ _powers(sizes, effect, alpha))


def _surely_enough(effect: float, alpha: float, power: float) -> int:
    """A number of items from which on Hoeffding's inequality alone guarantees the power."""
    root = math.sqrt(math.log(2 / alpha) / 2) + math.sqrt(-math.log1p(-power) / 2)
    lead = effect - 0.5
    return math.ceil(((root + math.sqrt(root * root + 4 * lead)) / (2 * lead)) ** 2)


def _check_rates(
    *,
    effect: float | None = None,
    alpha: float,
    power: float | None = None,
    ties: float = 0.0,
    correlation: float = 1.0,
) -> None:
    if effect is not None and not SMALLEST_EFFECT <= effect < 1:
        remedy = f"choose from {SMALLEST_EFFECT}, which takes about 20,000 decisive items, to below 1"
        raise UsageError(f"an effect of {effect:g} cannot be planned for", where="effect", remedy=remedy)
    if not 0 < alpha < 1:
        raise UsageError(f"alpha is {alpha:g}", where="alpha", remedy="choose between 0 and 1, such as 0.05")
    if power is not None and not alpha < power < 1:
        remedy = "choose between alpha, which chance alone reaches, and 1, such as 0.8"
        raise UsageError(f"a power of {power:g} cannot be planned for", where="power", remedy=remedy)
    if not 0 <= ties < 1:
        raise UsageError(f"the share of ties is {ties:g}", where="ties", remedy="choose from 0 to below 1")
    if not 0 <= correlation <= 1:
        raise UsageError(f"the correlation is {correlation:g}", where="correlation", remedy="choose from 0 to 1")


def _check_votes(raters: int, votes_per_item: int) -> None:
    if raters < 1:
        raise UsageError(f"{raters} raters cannot rate anything", where="raters", remedy="plan for one or more")
    if not 1 <= votes_per_item <= raters:
        problem = f"{votes_per_item} votes an item cannot come from {raters} raters"
        raise UsageError(problem, where="votes per item", remedy=f"choose from 1 to {raters}")
