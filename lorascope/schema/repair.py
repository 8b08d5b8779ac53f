"""``repair`` in ``result.json``: every scanned variant of one adapted checkpoint, and what the scan says.

Differences are in each metric's own scale and sign, like everywhere in the result.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorascope.schema.model import Direction, Finite, Model, Verdict

RepairFamily = Literal["strength", "top", "all"]
RepairControl = Literal["shrink", "neighbour", "random"]
RepairOutcome = Literal[
    "explains", "no_more", "no_effect", "undecided", "no_intruders", "nothing_forgotten", "not_measured"
]
RepairReason = Literal["few_units", "none_measured", "no_controls", "grew", "weak_lambdas"]


def strength_text(strength: float) -> str:
    """λ as it is named everywhere: with all of its digits, so that no two read alike; 1.0 is ``1``."""
    return repr(float(strength) + 0.0).removesuffix(".0")


class RepairAxis(Model):
    """What is measured of every variant: one metric, over the items of one or several tasks together."""

    tasks: list[str]
    metric: str
    unit: str
    scale: str
    direction: Direction


class RepairValue(Model):
    """A value with its 95 % interval."""

    value: Finite
    low: Finite | None = None
    high: Finite | None = None
    n: int = Field(ge=0)


class RepairChange(Model):
    """A paired difference with its 95 % interval. ``verdict`` is by the contract's table, None without a margin."""

    value: Finite
    low: Finite | None = None
    high: Finite | None = None
    n: int = Field(ge=0)
    p_value: Finite | None = None
    margin: Finite | None = None
    verdict: Verdict | None = None


class RepairMetric(Model):
    """One metric of one variant; ``change`` is against the unrepaired adapted checkpoint on the same items."""

    axis: RepairAxis
    value: RepairValue | None = None
    change: RepairChange | None = None


class RepairPoint(Model):
    """Where base or adapted checkpoint stand on the two axes; of the base, ``change`` is against the adapted too."""

    target: RepairMetric | None = None
    retention: RepairMetric | None = None


class RepairRow(Model):
    """One variant. λ is ``strength``: of the whole ΔW, or of the intruders' singular values.

    ``relative_norm`` is ‖ΔW'‖ / ‖ΔW‖ over all scanned modules (Frobenius). ``target`` and ``retention`` are the
    report's two axes, ``others`` what else was measured. A variant that turned none of the flipped answers is
    ``screened_out`` and has no values. ``front``: no other variant is at least as good on both axes and better on one.
    ``grew``: the repair makes ΔW longer, so that its controls are ΔW stretched, not shrunk.
    """

    name: str
    family: RepairFamily
    strength: Finite
    control: RepairControl | None = None
    relative_norm: Finite | None = None
    target: RepairMetric | None = None
    retention: RepairMetric | None = None
    others: list[RepairMetric] = Field(default_factory=list)
    front: bool = False
    grew: bool = False
    screened_out: bool = False
    note: str | None = None


class RepairContrast(Model):
    """Intruder scaling minus one of its controls at the same ‖ΔW'‖, on the same items.

    ``p_adjusted`` is that of the repair against all its controls at once (the largest of their p-values for "recovers
    more"), by Benjamini–Hochberg over all repairs of the scan. A neighbour control that is the shrink control in more
    than half of the modules does not count (``counts``), neither for nor against; its ``p_adjusted`` is None.
    ``target_kept``: the 95 % interval excludes a target loss of the metric's margin or more against the control; None
    where no target was measured.
    """

    family: Literal["top", "all"]
    strength: Finite
    control: RepairControl
    retention: RepairChange
    target: RepairChange | None = None
    target_kept: bool | None = None
    p_adjusted: Finite | None = None
    counts: bool = True


class RepairVerdict(Model):
    """Whether scaling intruders recovers more than its controls do.

    ``forgotten`` is what was lost on the retention axis (adapted against base), ``items`` its number of items.
    ``contrast_margin`` is what counts as more: a fifth of the loss. ``against`` names the control that the intruders
    do not surpass, ``best`` the repair that the verdict rests on. ``lambdas`` are the lowest and the highest λ of the
    measured repairs, ``missing_controls`` what the best repair (without one: some repair) was not compared with.
    ``reasons`` say why nothing could be decided, beyond what the intervals show.
    """

    outcome: RepairOutcome
    items: int = Field(ge=0)
    forgotten: RepairChange | None = None
    contrast_margin: Finite | None = None
    against: RepairControl | None = None
    best: str | None = None
    lambdas: tuple[Finite, Finite] | None = None
    missing_controls: list[RepairControl] = Field(default_factory=list)
    reasons: list[RepairReason] = Field(default_factory=list)


class RepairAdvice(Model):
    """The variant to write, and the command that writes it."""

    name: str
    command: list[str]


class RepairReport(Model):
    """The scan of one adapted checkpoint. ``intruders`` counts those scaled in the families ``top`` and ``all``."""

    subject: str
    k: int
    epsilon: Finite
    modules: int
    intruders: dict[Literal["top", "all"], int]
    target: RepairAxis | None = None
    retention: RepairAxis | None = None
    base: RepairPoint
    adapted: RepairPoint
    flipped_items: int | None = Field(default=None, description="items of the first pass; null where it was left out")
    rows: list[RepairRow]
    contrasts: list[RepairContrast] = Field(default_factory=list)
    verdict: RepairVerdict
    advice: RepairAdvice | None = None
    notes: list[str] = Field(default_factory=list)
