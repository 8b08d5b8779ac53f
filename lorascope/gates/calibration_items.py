"""Both sides of a measurement item by item, for calibration: against the run's own reference, or against a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from lorascope.gates.blessing import shortened
from lorascope.gates.judging import Absent
from lorascope.gates.labelled import LABEL_SUMS
from lorascope.gates.pairing import Baseline, counterpart
from lorascope.gates.samples import item_table
from lorascope.gates.scores import ItemTable, ScoredItems, scored_items
from lorascope.schema.comparison import Comparison, Measurement

if TYPE_CHECKING:
    import pyarrow

_NONE_OF_IT = "the samples hold no items of it"
_OTHER_ITEMS = "the two sides are not scored on the same items"


class ItemPairs:
    """Item tables of the result, and of the baseline where there is one, each read once."""

    def __init__(self, comparison: Comparison, samples: pyarrow.Table | None, baseline: Baseline | None) -> None:
        self.comparison, self.samples, self.baseline = comparison, samples, baseline
        self._known: dict[tuple[str, str, Literal["base", "adapted"]], ItemTable | None] = {}

    def pair(self, found: Measurement) -> tuple[ScoredItems, ScoredItems] | str:
        """What is compared with and the adapted side, over the same items in one order; or why there are none."""
        if self.samples is None:
            return "the result has no samples.parquet beside it"
        return self._with_reference(found) if self.baseline is None else self._with_baseline(found, self.baseline)

    def grouped(self, found: Measurement, after: ScoredItems) -> bool:
        """Whether groups of items vary as wholes, as the judge takes them."""
        if self.baseline is not None and found.adapted is not None:
            # Intervals by items, of probes whose groups share choices by design, are the exception there.
            by_item = found.adapted.method.endswith(" resamples") or found.adapted.method == "wilson"
            return not by_item and any(group is not None for group in after.groups)
        same = [each.adapted for each in self.comparison.measurements if each.task == found.task]
        return any(each is not None and each.method.endswith(" groups") for each in same)

    def _table(self, subject: str, task: str, side: Literal["base", "adapted"]) -> ItemTable | None:
        key = (subject, task, side)
        if self.samples is not None and key not in self._known:
            self._known[key] = item_table(self.samples, self.comparison, subject, task, side)
        return self._known.get(key)

    def _with_reference(self, found: Measurement) -> tuple[ScoredItems, ScoredItems] | str:
        if found.task is None or found.base is None or found.adapted is None:
            return "it has no scores of both sides by item"
        of_base = found.reference == self.comparison.base.name
        after = self._table(found.subject, found.task, "adapted")
        before = self._table(
            found.subject if of_base else found.reference, found.task, "base" if of_base else "adapted"
        )
        if after is None or before is None:
            return _NONE_OF_IT
        names = _label_names(before, after) if found.metric in LABEL_SUMS else None
        return _aligned(
            scored_items(before, found, found.base, names=names), scored_items(after, found, found.adapted, names=names)
        )

    def _with_baseline(self, found: Measurement, baseline: Baseline) -> tuple[ScoredItems, ScoredItems] | str:
        """The baseline's adapted checkpoint as the first side, and the result's items as the judge pairs them."""
        subject = counterpart(found.subject, baseline.comparison)
        if isinstance(subject, Absent):
            return subject.reason
        of_base = found.reference == self.comparison.base.name
        earlier = baseline.measurement(found, subject.name, of_base=of_base)
        if found.task is None or found.adapted is None or earlier is None or earlier.adapted is None:
            return "it has no scores of both sides by item"
        new, old = baseline.after(self.comparison, found.subject, found.task), baseline.before(subject.name, found.task)
        if new is None or old is None:
            return _NONE_OF_IT
        names = _label_names(old, new) if found.metric in LABEL_SUMS else None
        after = scored_items(new, found, found.adapted, names=names)
        if isinstance(after, Absent):
            return after.reason
        keys = after.keys if old.id_bytes is None else tuple(shortened(key, old.id_bytes) for key in after.keys)
        if len(set(keys)) < len(keys) or any(key not in old.places for key in keys):
            return _OTHER_ITEMS
        rows = np.array([old.places[key] for key in keys], dtype=np.int64)
        before = scored_items(old, earlier, earlier.adapted, names=names, rows=rows)
        if isinstance(before, Absent):
            return before.reason
        if before.scored.statistics.shape != after.scored.statistics.shape:
            return "the two results keep different statistics of it"
        return before, after


def _label_names(before: ItemTable, after: ItemTable) -> tuple[str, ...] | None:
    """All labels of either side, so that both have the same columns."""
    sets = before.labels(), after.labels()
    known = [set(each.names) for each in sets if not isinstance(each, str)]
    return tuple(sorted(set().union(*known))) if len(known) == len(sets) else None


def _aligned(before: ScoredItems | Absent, after: ScoredItems | Absent) -> tuple[ScoredItems, ScoredItems] | str:
    if isinstance(before, Absent) or isinstance(after, Absent):
        return next(each.reason for each in (before, after) if isinstance(each, Absent))
    if set(before.keys) != set(after.keys):
        return _OTHER_ITEMS
    places = {key: place for place, key in enumerate(before.keys)}
    return before.at([places[key] for key in after.keys]), after
