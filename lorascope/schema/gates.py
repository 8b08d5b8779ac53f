"""``GateReport`` in ``result.json``: what became of each rule of a policy, with the numbers behind it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorascope.schema.model import Finite, Model

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "MISSING", "INVALID"]
OUTCOMES: tuple[Outcome, ...] = ("FAIL", "INVALID", "MISSING", "INCONCLUSIVE", "PASS")
"""From the most to the least urgent."""


class GateRow(Model):
    """The outcome of one rule on one measurement.

    ``value`` with its one-sided bounds is the improvement (better is positive) for ``max_drop`` and ``min_gain``, the
    estimate itself for ``min`` and ``max``; null where there is none, and the bounds where the value is counted and
    not sampled. INVALID: the two sides were not asked the same thing in the same way, so there is no comparison.
    """

    address: str
    rule: str
    outcome: Outcome
    severity: Literal["fail", "warn"]
    evidence: str
    value: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    limit: Finite | None = None
    n: int | None = Field(default=None, description="items the value rests on")
    needed_n: int | None = Field(default=None, description="items that would decide an INCONCLUSIVE outcome")
    p_value: Finite | None = Field(default=None, description="one-sided, of the drop that the rule looks for")
    p_adjusted: Finite | None = Field(default=None, description="by the gate's correction over its family")
    warning: str | None = Field(default=None, description="a doubt that does not change the outcome")
    line: int | None = Field(default=None, description="line of the policy on which the gate begins")


class GateReport(Model):
    """The outcome of a gate policy. ``passed``: no row blocks; a row blocks when it does not pass and may fail."""

    policy: str
    passed: bool
    rows: list[GateRow]
    confidence: Finite | None = Field(default=None, description="of the one-sided bounds")
    baseline: str | None = Field(default=None, description="name of the baseline file; null: this run's reference")
    warnings: list[str] = Field(default_factory=list, description="doubts about the run as a whole")


class Rate(Model):
    """A share of resamples with Wilson's 95 % interval, which covers the chance of the simulation alone."""

    value: Finite = Field(ge=0, le=1)
    low: Finite
    high: Finite


class Scenario(Model):
    """How one rule came out over many resamples of the result's own items.

    ``no_change``: base and adapted exchanged at random, so that every FAIL is a false alarm. ``noise``: base against
    base asked once more, with the measured share of answers that flip by noise. ``drop``: no change with a drop of
    ``drop`` planted, in the metric's own scale.
    """

    kind: Literal["no_change", "noise", "drop"]
    drop: Finite | None = None
    passed: Rate
    failed: Rate
    inconclusive: Rate


class CalibrationRow(Model):
    """One rule on one measurement. Without ``scenarios`` it could not be calibrated, and ``reason`` says why."""

    address: str
    rule: str
    severity: Literal["fail", "warn"] = "fail"
    n: int | None = Field(default=None, description="items that were resampled")
    changed: Finite | None = Field(default=None, description="share of items whose two scores differ, 0–1")
    method: str | None = Field(default=None, description="how bounds were computed and drops were planted")
    scenarios: list[Scenario] = Field(default_factory=list)
    reason: str | None = None


class CalibrationReport(Model):
    """How often a policy raises false alarms on this result's items, and which drops it finds.

    ``any_false_alarm``: the share of resamples without any change in which at least one rule of severity 'fail' came
    out FAIL; null where no rule could be calibrated.
    """

    policy: str
    confidence: Finite
    resamples: int
    seed: int
    any_false_alarm: Rate | None = None
    baseline: str | None = Field(default=None, description="name of the baseline file; null: this run's reference")
    rows: list[CalibrationRow]
    notes: list[str] = Field(default_factory=list)
