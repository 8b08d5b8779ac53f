"""Label sets read back from the texts of ``samples.parquet``, in which names are joined by a comma and a space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorascope.measures import label_sums
from lorascope.measures.core import BoolArray, FloatArray, IntArray, Scored, item_rows
from lorascope.measures.registry import define

_Carriers = Callable[[FloatArray], int] | None
_JOINT = ", "
_AGGREGATES: dict[str, tuple[Callable[[FloatArray], FloatArray], _Carriers]] = {
    "f1_micro": (label_sums.f1_from_totals, None),
    "precision_micro": (label_sums.precision_from_totals, None),
    "recall_micro": (label_sums.recall_from_totals, None),
    "f1_macro": (label_sums.macro_f1_from_counts, label_sums.rarest_label),
    "f1_weighted": (label_sums.weighted_f1_from_counts, None),
    "mcc": (label_sums.matthews_from_sums, label_sums.rarest_class),
}
LABEL_SUMS = frozenset(_AGGREGATES)
"""Metrics of whole label tasks that follow from counts of decisions."""


@dataclass(frozen=True, eq=False)
class LabelSets:
    """True and given labels of every item, (items, labels) over ``names``; ``multi``: any number of them an item."""

    names: tuple[str, ...]
    truth: BoolArray
    given: BoolArray
    multi: bool

    def over(self, names: Sequence[str]) -> LabelSets:
        """The same sets over another list of names that holds at least these."""
        if tuple(names) == self.names:
            return self
        place = {name: column for column, name in enumerate(names)}
        columns = [place[name] for name in self.names]
        truth, given = (np.zeros((len(self.truth), len(names)), dtype=np.bool_) for _ in range(2))
        truth[:, columns], given[:, columns] = self.truth, self.given
        return LabelSets(tuple(names), truth, given, self.multi)

    def at(self, rows: IntArray) -> LabelSets:
        """The same for some of the items."""
        return replace(self, truth=self.truth[rows], given=self.given[rows])


def score_sets(sets: LabelSets, metric: str, label: str | None) -> Scored | str:
    """The statistics of a metric that follows from decisions alone, of all labels or of one; else why there are none.

    Labels that nobody has and nobody was given weigh nothing, so a part of the label set gives the value of all of it.
    """
    if label is not None:
        if metric != "f1_micro" or label not in sets.names:
            return f"cannot be paired: the samples do not keep {metric} of the label {label!r}"
        column = [sets.names.index(label)]
        return _scored("f1_micro", label_sums.total_counts(sets.given[:, column], sets.truth[:, column]))
    if metric in ("f1_macro", "f1_weighted"):
        return _scored(metric, label_sums.label_counts(sets.given, sets.truth))
    if metric != "mcc":
        return _scored(metric, label_sums.total_counts(sets.given, sets.truth))
    right = (sets.given & sets.truth).any(axis=1)
    return _scored(metric, np.hstack([item_rows(right), sets.given, sets.truth]).astype(np.float64))


def _scored(metric: str, rows: FloatArray) -> Scored:
    aggregate, carriers = _AGGREGATES[metric]
    return Scored(define(metric, aggregate, carriers=carriers), rows, metric)


def read_sets(
    references: Sequence[str], outputs: Sequence[str], *, multi: bool, known: Iterable[str]
) -> LabelSets | str:
    """The label sets behind joined names; the reason where they cannot be read without doubt.

    ``known`` are names of which the result is sure (labels that it reports one by one). A name with a comma and a
    space in it is read where only one way of reading the text gives different labels in sorted order.
    """
    sure = set(known)
    truth: list[list[str]] = []
    given: list[list[str]] = []
    for texts, found in ((references, truth), (outputs, given)):
        for text in texts:
            labels = _labels_of(text, sure) if multi else [text]
            if labels is None:
                return "cannot be paired: a label's name holds a comma, and the samples' labels can be read in two ways"
            found.append(labels)
    names = tuple(sorted({label for labels in (*truth, *given) for label in labels}))
    if not names:
        return "cannot be paired: the samples name no label"
    place = {name: column for column, name in enumerate(names)}
    return LabelSets(names, _flags(truth, place), _flags(given, place), multi)


def _labels_of(text: str, sure: set[str]) -> list[str] | None:
    """The one way of reading a joined text; None where there is more than one, or doubt about a part."""
    if not text:
        return []
    parts = text.split(_JOINT)
    if not any(_JOINT in name for name in sure):
        return parts if len(set(parts)) == len(parts) and parts == sorted(parts) else None
    readings = _readings(parts, 0, [], sure)
    return readings[0] if len(readings) == 1 else None


def _readings(parts: Sequence[str], start: int, before: list[str], sure: set[str]) -> list[list[str]]:
    """Up to two ways of reading ``parts[start:]`` as known names in rising order."""
    if start == len(parts):
        return [before]
    found: list[list[str]] = []
    for end in range(start + 1, len(parts) + 1):
        name = _JOINT.join(parts[start:end])
        if name in sure and (not before or name > before[-1]):
            found += _readings(parts, end, [*before, name], sure)
        if len(found) > 1:
            break
    return found[:2]


def _flags(rows: Sequence[Sequence[str]], place: dict[str, int]) -> BoolArray:
    flags = np.zeros((len(rows), len(place)), dtype=np.bool_)
    for row, labels in enumerate(rows):
        flags[row, [place[label] for label in labels]] = True
    return flags
