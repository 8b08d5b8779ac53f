"""How often labels stand in the training data: what weighted losses, balanced draws and the collapse alarm need."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorascope.errors import DataError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LabelStatistics:
    """Counts of the labels of ``items`` training items; arrays are (L,), in the order of ``labels``, and read-only.

    ``counts``: items that carry the label, 0 to ``items``.
    """

    labels: tuple[str, ...]
    items: int
    counts: IntArray

    @property
    def frequencies(self) -> FloatArray:
        """Share (0–1) of the items that carry each label."""
        return self.counts / self.items

    @property
    def never(self) -> tuple[str, ...]:
        """Labels of the head that no training item carries: their outputs learn nothing but to stay low."""
        return tuple(label for label, count in zip(self.labels, self.counts, strict=True) if count == 0)

    @property
    def always(self) -> tuple[str, ...]:
        """Labels that every training item carries: their outputs learn nothing but to stay high."""
        return tuple(label for label, count in zip(self.labels, self.counts, strict=True) if count == self.items)

    @property
    def cardinality(self) -> float:
        """Mean number of labels of an item."""
        return float(self.counts.sum() / self.items)


def label_statistics(
    items: Sequence[Collection[str]] | npt.NDArray[np.generic], labels: Sequence[str]
) -> LabelStatistics:
    """Count ``labels`` in items: label sets, or a matrix (n, L) of 0 and 1 whose columns are ``labels`` in order.

    Raises:
        DataError: as :func:`label_matrix`.
    """
    counts = label_matrix(items, labels).sum(axis=0, dtype=np.int64)
    counts.setflags(write=False)
    return LabelStatistics(labels=tuple(labels), items=len(items), counts=counts)


def label_matrix(items: Sequence[Collection[str]] | npt.NDArray[np.generic], labels: Sequence[str]) -> BoolArray:
    """(n, L): whether each item carries each label. A label that an item names twice counts once.

    Raises:
        DataError: no items, no labels, a label listed twice, an item with a label that is not listed, or a matrix
            of another shape or with other values than 0 and 1.
    """
    place = {label: index for index, label in enumerate(labels)}
    if not place or len(place) < len(labels):
        problem = "there are no labels" if not place else "a label is listed twice"
        raise DataError(problem, where="labels", remedy="list each label once, in the order of the head's outputs")
    if len(items) == 0:
        raise DataError("there are no training items to count labels in", remedy="give at least one item")
    return _checked(items, len(place)) if isinstance(items, np.ndarray) else _marked(items, place)


def _checked(matrix: npt.NDArray[np.generic], width: int) -> BoolArray:
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise DataError(
            f"the label matrix has shape {matrix.shape}, which does not fit {width} labels",
            remedy="give one row an item and one column a label",
        )
    marked: BoolArray = matrix == 1
    if not (marked | (matrix == 0)).all():
        raise DataError("the label matrix holds other values than 0 and 1", remedy="give 1 where an item has the label")
    return marked


def _marked(items: Sequence[Collection[str]], place: dict[str, int]) -> BoolArray:
    marked: BoolArray = np.zeros((len(items), len(place)), dtype=np.bool_)
    for row, carried in enumerate(items):
        if isinstance(carried, str):
            raise DataError(
                f"'{carried}' is a label and not a set of labels",
                where=f"item {row + 1}",
                remedy="give a tuple of labels, also for a single one",
            )
        for label in carried:
            if label not in place:
                raise DataError(
                    f"the label '{label}' is none of the {len(place)} labels of the head",
                    where=f"item {row + 1}",
                    remedy="add it to 'task.labels', or leave 'task.labels' out to take those of the training data",
                )
            marked[row, place[label]] = True
    return marked
