"""What blind human raters said: ``HumanReport`` in ``result.json``.

Wins, preferences and differences are those of ``first`` (an adapted checkpoint, or the later named one) against
``second``. The unit of every interval is the item; values are weighted back to the items that were sampled from.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorascope.schema.model import Finite, Model
from lorascope.schema.values import Delta, Estimate

Dimension = Literal["accuracy", "completeness", "logic", "fluency"]
DIMENSIONS: tuple[Dimension, ...] = ("accuracy", "completeness", "logic", "fluency")


class SignTest(Model):
    """Exact two-sided sign test over items on which the raters together prefer a side.

    ``p_value`` is null when there is no such item. ``undecided`` items (ties, split raters, identical answers) do not
    enter the test.
    """

    wins: int
    losses: int
    undecided: int
    p_value: Finite | None = None


class Votes(Model):
    """Single votes, over all raters; repeats and checks are not among them."""

    first_much: int = 0
    first: int = 0
    tie: int = 0
    second: int = 0
    second_much: int = 0
    both_bad: int = 0


class DimensionRating(Model):
    """Mean rating (1-5, higher is better) on one dimension, over items rated on it on both sides.

    ``delta`` is first minus second; its ``p_value`` is Wilcoxon's signed-rank test over items (Pratt), ``p_adjusted``
    Holm's over the dimensions of this pair.
    """

    dimension: Dimension
    first: Estimate
    second: Estimate
    delta: Delta


class MetricAgreement(Model):
    """How far an automatic metric prefers what the raters prefer.

    ``agreement``: share (0-1, chance 0.5) of items on which both prefer a side, that prefer the same one.
    ``correlation``: Kendall's tau-b of the metric's difference and the raters' mean preference, -1 to 1.
    """

    task: str
    metric: str
    items: int
    agreement: Estimate | None = None
    correlation: Estimate | None = None
    missing_reason: str | None = None


class StratumOutcome(Model):
    """Items of one stratum: how many there were to draw from, how many were drawn, and their own win rate."""

    stratum: str
    population: int
    drawn: int
    weight: Finite = Field(description="items of the population that one drawn item stands for")
    win_rate: Estimate | None = None


class PairOutcome(Model):
    """Two systems side by side.

    ``win_rate`` is the mean over items of ``first``'s share of the votes, ties counting half, 0-1, 0.5 a draw; 'both
    bad' and identical answers are ties. ``length_adjusted`` is the win rate at equal length, from a logistic model of
    the preference on the difference of log lengths (Dubois et al. 2024, arXiv 2404.04475, without its model terms);
    null with a reason in ``notes`` where it cannot be fitted.
    """

    first: str
    second: str
    items: int = Field(description="items, identical ones included")
    identical: int = Field(description="items whose two answers are the same text; ties that nobody rated")
    win_rate: Estimate
    unweighted: Estimate = Field(description="win rate of the sampled items as they are")
    length_adjusted: Estimate | None = None
    sign_test: SignTest
    votes: Votes
    ratings: list[DimensionRating] = Field(default_factory=list)
    metrics: list[MetricAgreement] = Field(default_factory=list)
    strata: list[StratumOutcome] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class RaterQuality(Model):
    """What one rater's repeats and checks say. Counts of a rater without a sheet are 0, with ``present`` false.

    A repeat is consistent when the preferred system (or the tie) is the same after the sides were exchanged; a check
    (one answer belongs to another question) is passed when the answer that fits is preferred; checks called 'both bad'
    are not counted.
    """

    rater: str
    sheet: str | None = Field(default=None, description="file name of the sheet; null when none was given")
    sheet_hash: str | None = Field(default=None, description="SHA-256 of the sheet's bytes; null when none was given")
    present: bool
    rows: int = 0
    repeats: int = 0
    repeats_consistent: int = 0
    checks: int = 0
    checks_passed: int = 0
    identical: int = 0
    identical_tied: int = 0
    left: int = Field(default=0, description="votes for A")
    right: int = Field(default=0, description="votes for B")
    excluded: str | None = Field(default=None, description="the registered rule by which the rater's votes are out")


class Alpha(Model):
    """Krippendorff's alpha among the raters: 1 perfect, 0 chance, negative below chance; null with a reason."""

    name: Literal["overall", "accuracy", "completeness", "logic", "fluency"]
    level: Literal["nominal", "ordinal"]
    estimate: Estimate | None = None
    units: int = Field(description="items (for ratings: answers) with at least two raters")
    missing_reason: str | None = None


class Standing(Model):
    """Bradley-Terry strength: log-odds of being preferred to the base; 0 for the base itself. Ties are half wins."""

    system: str
    strength: Estimate


class HumanStudy(Model):
    """One blind study: what was shown to whom, what they said, and how far it can be trusted."""

    study: str
    commitment: str
    scored: str | None = Field(default=None, description="when these sheets were first scored, ISO 8601 in UTC")
    seed: int
    language: Literal["en", "zh"]
    tasks: list[str]
    systems: list[str]
    plan: str | None = Field(default=None, description="hash of the registered plan")
    registered: str | None = Field(default=None, description="the plan in words")
    alpha: Finite = Field(default=0.05, gt=0, lt=1, description="level of the sign test, the registered one if any")
    deviations: list[str] = Field(default_factory=list, description="where the study departs from its plan")
    raters: list[RaterQuality]
    left_rate: Estimate | None = Field(default=None, description="share of decided votes that went to side A")
    alphas: list[Alpha]
    pairs: list[PairOutcome]
    standings: list[Standing] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def asks_like(self, other: HumanStudy) -> bool:
        """Whether both compare some two systems on some task, so that a reader could choose between their answers."""
        return len({*self.systems} & {*other.systems}) > 1 and bool({*self.tasks} & {*other.tasks})


class EarlierRate(Model):
    """What an earlier score said of two systems: the win rate of ``first``."""

    first: str
    second: str
    win_rate: Estimate


class EarlierScore(Model):
    """A score that was replaced by one of the same study with other sheets, or with sheets that are not known.

    ``sheets`` are the SHA-256 hashes of those it rested on; empty where its record does not name them.
    """

    study: str
    scored: str | None = Field(default=None, description="when it was made, ISO 8601 in UTC")
    sheets: list[str]
    win_rates: list[EarlierRate]
    plan: str | None = Field(default=None, description="hash of the registered plan")


class HumanReport(Model):
    """The studies whose scores were added to this result, the one scored last at the end.

    ``earlier`` is only ever added to: who has sheets altered and scores again leaves the first score there.
    Measurements of area ``human`` are those of the study scored last, which their signature names.
    """

    studies: list[HumanStudy]
    earlier: list[EarlierScore] = Field(default_factory=list)
