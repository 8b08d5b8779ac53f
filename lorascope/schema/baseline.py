"""The baseline file: a blessed result's estimates and item scores, without any prompt or generated text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorascope.schema.comparison import Area, CheckpointInfo, Provenance, Slice, TaskInfo
from lorascope.schema.model import Direction, Model
from lorascope.schema.values import Estimate

BASELINE_VERSION = 1


class PackedNumbers(Model):
    """Numbers of all items: base64 of zlib-compressed little-endian bytes, one column of the items after the other.

    ``shape`` is (items, columns). With ``distinct`` the packed numbers are places in that list, which is packed too.
    """

    type: Literal["float64", "uint8", "uint16", "uint32"]
    shape: tuple[int, int]
    data: str
    distinct: PackedNumbers | None = None


class PackedLabels(Model):
    """The true and the given label sets: a bit a label, items by row, labels in the order of ``names``."""

    names: list[str]
    multi: bool = Field(description="whether an item may have any number of labels")
    truth: PackedNumbers
    given: PackedNumbers


class BaselineItems(Model):
    """One checkpoint's answers to one task, as numbers; all columns stand in the order of ``ids``.

    ``scores`` hold each item's value of a metric (NaN where undefined), ``statistics`` the counts whose sums give a
    corpus metric. ``answers`` is a digest of all answers together: equal digests mean equal answers throughout.
    """

    subject: str
    task: str
    items: int = Field(ge=1)
    id_bytes: int = Field(ge=4, le=32, description="bytes of each id: the beginning of the SHA-256 of the item's id")
    ids: str = Field(description="base64 of the ids, one after the other")
    scores: dict[str, PackedNumbers] = Field(default_factory=dict)
    statistics: dict[str, PackedNumbers] = Field(default_factory=dict)
    labels: PackedLabels | None = None
    flips: PackedNumbers | None = Field(default=None, description="0 none, 1 fixed, 2 broken, 3 right, 4 wrong in both")
    answers: str


class BaselineMeasurement(Model):
    """One measurement of the blessed result: the adapted checkpoint's own estimate, or why there is none."""

    subject: str
    reference: str
    area: Area
    task: str | None = None
    slice: Slice | None = None
    metric: str
    unit: str
    scale: str
    direction: Direction
    adapted: Estimate | None = None
    signature: str
    missing_reason: str | None = None


class BaselineFile(Model):
    """A whole baseline. ``blessed`` is when it was pinned, ``created`` when the result in it was made."""

    baseline_version: Literal[1] = 1
    blessed: str
    created: str
    seed: int
    lorascope_version: str
    provenance: Provenance
    checkpoints: list[CheckpointInfo]
    tasks: list[TaskInfo]
    measurements: list[BaselineMeasurement]
    items: list[BaselineItems]
