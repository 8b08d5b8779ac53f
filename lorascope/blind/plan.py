"""The registered plan of a study: what will count as its outcome, written down before any answer is rated."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from pydantic import Field, model_validator

from lorascope.schema.model import Finite, Model


class Exclusions(Model):
    """When a rater's votes are left out; null rules exclude nobody. Rates are shares of that rater's own rows."""

    min_checks_passed: Finite | None = Field(default=None, ge=0, le=1)
    min_repeat_consistency: Finite | None = Field(default=None, ge=0, le=1)


class StudyPlan(Model):
    """What is registered. ``effect`` is the true share of a rater's decided votes that the study is to find.

    ``ties`` is the share of items expected to be a tie to every rater, ``correlation`` that of two raters' votes on
    one item; 1 takes no credit for further raters. ``decisive_items`` are what the exact two-sided sign test over
    items needs, ``items`` with ties and split votes on top.
    """

    version: Literal[1] = 1
    primary: Literal["win_rate"] = "win_rate"
    alpha: Finite = Field(default=0.05, gt=0, lt=1)
    power: Finite = Field(default=0.8, gt=0, lt=1)
    effect: Finite = Field(gt=0.5, lt=1)
    ties: Finite = Field(default=0.0, ge=0, lt=1)
    raters: int = Field(ge=1)
    votes_per_item: int = Field(ge=1)
    correlation: Finite = Field(default=1.0, ge=0, le=1)
    decisive_items: int = Field(ge=1)
    items: int = Field(ge=1)
    exclusions: Exclusions = Field(default_factory=Exclusions)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.votes_per_item > self.raters:
            raise ValueError(f"{self.votes_per_item} votes per item cannot come from {self.raters} raters")
        if self.items < self.decisive_items:
            raise ValueError(f"{self.items} items cannot hold {self.decisive_items} decisive ones")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the plan's content."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return f"sha256-{hashlib.sha256(content.encode()).hexdigest()}"
