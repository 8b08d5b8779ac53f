"""What became of right and wrong answers: counts of flips, and why answers broke."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorascope.schema.model import Model

CauseName = Literal[
    "empty",
    "repetition",
    "truncated",
    "stop_string",
    "language_switch",
    "refusal",
    "format",
    "knowledge_loss",
    "unexplained",
]
"""Why an answer broke, in the order in which causes are looked for; the first that holds is the cause."""


class FlipLedger(Model):
    """Right and wrong answers of a subject and a reference to one task, counted both ways.

    ``causes`` counts the broken items by cause, its values sum to ``broken``; it is null where broken answers have no
    text to look at. ``noise`` is how many of the flips stand on items that are right once and wrong once when the same
    checkpoint is asked again, null where that was not measured.
    """

    subject: str
    reference: str
    task: str
    items: int = Field(ge=0)
    fixed: int = Field(ge=0)
    broken: int = Field(ge=0)
    both_right: int = Field(ge=0)
    both_wrong: int = Field(ge=0)
    causes: dict[CauseName, int] | None = None
    noise: int | None = Field(default=None, ge=0)
