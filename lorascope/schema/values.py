"""The two kinds of number in a result: one checkpoint's value, and a difference between two."""

from __future__ import annotations

from pydantic import Field

from lorascope.schema.model import Finite, Model, Verdict


class Estimate(Model):
    """One checkpoint's value with its 95 % interval; ``low`` and ``high`` are null where no interval is defined."""

    value: Finite
    low: Finite | None = None
    high: Finite | None = None
    n: int = Field(ge=0, description="items the value rests on")
    method: str = Field(description="how the interval was computed, or 'none'")


class Delta(Model):
    """Adapted minus reference on the same items, in the metric's own scale and sign.

    ``verdict`` follows the contract's table with the sign turned so that better is positive; it is null for metrics
    of direction 'none'. ``detectable`` is the smallest difference that this many items could have shown
    (two-sided 5 %, power 80 %).
    """

    value: Finite
    low: Finite | None = None
    high: Finite | None = None
    n: int = Field(ge=0)
    p_value: Finite | None = None
    p_adjusted: Finite | None = None
    test: str | None = None
    margin: Finite | None = None
    verdict: Verdict | None = None
    detectable: Finite | None = None
    needed_n: int | None = Field(default=None, description="items that would decide an inconclusive verdict")
