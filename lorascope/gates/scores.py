"""One checkpoint's answers to one task as numbers by item, and the statistics of any measurement from them.

They come from ``samples.parquet`` or from a blessed baseline. What cannot be rebuilt so that it gives the result's own
value is not guessed: it is absent, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np

from lorascope.errors import DataError
from lorascope.gates.judging import Absent
from lorascope.gates.labelled import LABEL_SUMS, LabelSets, score_sets
from lorascope.measures import bleu
from lorascope.measures.core import FloatArray, IntArray, Measure, Scale, Scored, item_rows, mean_of_items
from lorascope.measures.label_sums import f1_from_totals, precision_from_totals
from lorascope.measures.registry import MEASURES, define
from lorascope.measures.regression import score_regression
from lorascope.schema.comparison import Measurement, Slice
from lorascope.schema.values import Estimate

AGREEMENT = 1e-5
FLIPS = ("fixed", "broken", "both_right", "both_wrong")
RATES = frozenset({"retained_fraction", "forgotten_rate", "gained_rate"})
"""Numbers about the change itself, which rest on the flips from the base."""
_FROM_COUNTS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "bleu": bleu.bleu_from_sums,
    "chrf": bleu.chrf_from_sums,
    "bleu_nltk": bleu.nltk_from_sums,
    "entity_f1": f1_from_totals,
    "bits_per_byte": mean_of_items,
    "perplexity": lambda sums: np.exp(np.minimum(mean_of_items(sums), 700.0)),
}
CORRELATIONS = frozenset({"pearson", "spearman"})
SUMS = frozenset({*_FROM_COUNTS, *CORRELATIONS})
COLUMNS: Mapping[str, int] = {
    "bleu": 10, "chrf": 18, "bleu_nltk": 10, "entity_f1": 3, "bits_per_byte": 2, "perplexity": 2, "score": 2,
}  # fmt: skip
"""How many numbers an item has in the counts of each corpus metric (``score``: what correlations follow from)."""
# Rebuilt from rounded scores, joined labels, a mean level of chance, or a text's length: right as a rule, and checked.
_INFERRED = frozenset({*CORRELATIONS, *LABEL_SUMS, "retained_fraction", "bits_per_byte", "perplexity"})
_NEEDS_MORE = frozenset({"ece", "average_precision_macro", "kl_to_base", "cka", "cosine"})
_SCALES = frozenset({"0-1", "0-100", "-1-1", "0-inf", "unbounded"})


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Items in the order of ``keys``; two items of equal content are told apart by their place among such.

    ``scores`` hold each item's own value of a metric, NaN where undefined. ``counts`` gives the rows whose sums make a
    corpus metric, by metric (``score``: predicted and true scores) and signature, or the reason why there are none.
    ``flips``, from the answers of ``reference``, are 0 (none) or places in :data:`FLIPS` from 1 on. ``answers`` is a
    digest of all answers together. ``id_bytes``: the keys are the first bytes of the ids' SHA-256, so many, in
    hexadecimal.
    """

    keys: tuple[str, ...]
    groups: tuple[str | None, ...]
    categories: tuple[str | None, ...]
    scores: Mapping[str, FloatArray]
    counts: Callable[[str, str], FloatArray | str]
    labels: Callable[[], LabelSets | str]
    flips: IntArray | None
    reference: str
    answers: str
    id_bytes: int | None = None
    known: dict[tuple[object, ...], ScoredItems | Absent] = field(default_factory=dict)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Where each key stands."""
        return {key: place for place, key in enumerate(self.keys)}


@dataclass(frozen=True, eq=False)
class ScoredItems:
    """The statistics of one measurement with the items they belong to, in the same order."""

    keys: tuple[str, ...]
    groups: tuple[str | None, ...]
    scored: Scored

    def at(self, places: Sequence[int]) -> ScoredItems:
        """The same for some of the items, in the order of ``places``."""
        keys, groups = tuple(self.keys[place] for place in places), tuple(self.groups[place] for place in places)
        return ScoredItems(keys, groups, self.scored.subset(places))


def scored_items(
    table: ItemTable,
    found: Measurement,
    estimate: Estimate,
    names: Sequence[str] | None = None,
    *,
    rows: IntArray | None = None,
) -> ScoredItems | Absent:
    """The statistics of ``found`` over its items, whose value is that of ``estimate``.

    ``estimate`` is the adapted checkpoint's where the table holds its answers, the base's where it holds the base's.
    ``names`` is the label set in a fixed order, where two tables have to share one; ``rows`` are the items that the
    measurement covers, where the table itself does not say. Absent as INVALID where the table cannot be that of the
    result: another number of items, or another value of a metric that follows from them.
    """
    names = None if names is None else tuple(names)
    if rows is not None:
        return _scored_items(table, found, estimate, names, rows)
    part = (found.slice.by, found.slice.value) if found.slice else None
    key = (found.area, found.metric, found.reference, part, found.signature, estimate.value, estimate.n, names)
    if key not in table.known:
        table.known[key] = _scored_items(table, found, estimate, names, _rows(table, found.slice))
    return table.known[key]


def holds(table: ItemTable, found: Measurement) -> bool:
    """Whether the table has item data of the kind that a measurement follows from, whatever their values."""
    if found.metric in RATES and found.area == "forgetting":
        return table.flips is not None and bool(table.flips.all())
    if found.metric in LABEL_SUMS or (found.slice is not None and found.slice.by in ("label", "label_group")):
        return not isinstance(table.labels(), str)
    if found.metric in SUMS:
        name = "score" if found.metric in CORRELATIONS else found.metric
        return not isinstance(table.counts(name, found.signature), str)
    return found.metric in table.scores


def _scored_items(
    table: ItemTable, found: Measurement, estimate: Estimate, names: Sequence[str] | None, rows: IntArray | Absent
) -> ScoredItems | Absent:
    if isinstance(rows, Absent):
        return rows
    if not len(rows):
        return Absent("INVALID", f"its samples hold none of its {estimate.n:,} items")
    try:
        scored = _statistics(table, found, rows, names)
    except DataError as error:
        return Absent("INCONCLUSIVE", f"cannot be rebuilt from the samples: {error.problem}")
    if isinstance(scored, str):
        return Absent("INCONCLUSIVE", scored)
    if estimate.n not in (len(rows), _defined(scored)):
        problem = f"its samples hold {len(rows):,} items where the result counts {estimate.n:,}"
        return Absent("INVALID", f"{problem}: the file was cut, or belongs to another run")
    if scored.value is None or not _equal(scored.value, estimate.value):
        return _other_value(found, scored.value, estimate.value)
    keys, groups = tuple(table.keys[row] for row in rows), tuple(table.groups[row] for row in rows)
    return ScoredItems(keys, groups, replace(scored, signature=found.signature))


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=AGREEMENT, abs_tol=AGREEMENT)


def _defined(scored: Scored) -> int:
    """Items that have a value by themselves; undefined ones are left out of a mean."""
    return int((scored.statistics[:, -1] > 0).sum()) if scored.statistics.shape[1] == 2 else scored.n


def _other_value(found: Measurement, value: float | None, said: float) -> Absent:
    """Metrics that follow from samples to the last digit must agree with them; of others a rebuilding can be tried.

    The counts of a part are those of the whole task, whose tokenizer is another where the part is in another script.
    """
    told = "undefined" if value is None else f"{value:.6g}"
    if found.metric in _INFERRED or (found.metric in SUMS and found.slice is not None):
        return Absent("INCONCLUSIVE", f"cannot be rebuilt: what its samples keep gives {told} instead of {said:.6g}")
    if found.metric in MEASURES and found.metric not in _NEEDS_MORE:
        problem = f"its samples give {told} where the result says {said:.6g}"
        return Absent("INVALID", f"{problem}: they were changed, or belong to another run")
    return Absent("INCONCLUSIVE", "cannot be paired: it is not the mean of the item scores that the samples keep")


def _rows(table: ItemTable, part: Slice | None) -> IntArray | Absent:
    """Places of the items that a slice covers."""
    everything = np.arange(len(table.keys))
    if part is None or part.by in ("label", "label_group") or (part.by, part.value) == ("threshold", "0.5"):
        return everything
    if part.by in ("category", "group"):
        names = table.categories if part.by == "category" else table.groups
        return everything[np.array([name == part.value for name in names], dtype=np.bool_)]
    return Absent("INCONCLUSIVE", f"cannot be paired: samples do not keep which items are in {part.by}={part.value}")


def _statistics(table: ItemTable, found: Measurement, rows: IntArray, names: Sequence[str] | None) -> Scored | str:
    """The statistics over the rows, or why there are none."""
    metric, part = found.metric, found.slice
    if found.area not in ("task", "forgetting"):
        return "cannot be paired: it does not follow from the scores of the task's items"
    if metric in RATES and found.area == "forgetting":
        if found.reference != table.reference:
            return f"cannot be paired: the samples keep what flipped against {table.reference} alone"
        return _rates(table, metric, rows, found.signature)
    if metric in LABEL_SUMS or (part is not None and part.by in ("label", "label_group")):
        if part is not None and part.by == "label_group":
            return "cannot be paired: samples do not keep which labels are in the group"
        return _of_labels(table, found, rows, names)
    if metric in CORRELATIONS:
        pairs = table.counts("score", found.signature)
        return pairs if isinstance(pairs, str) else score_regression(pairs[rows, 0], pairs[rows, 1])[metric]
    if metric in _FROM_COUNTS:
        counts = table.counts(metric, found.signature)
        return counts if isinstance(counts, str) else Scored(
            define(metric, _FROM_COUNTS[metric]), counts[rows], found.signature
        )  # fmt: skip
    if metric not in table.scores:
        return "cannot be paired: it has no item scores in the samples"
    return _mean(found, table.scores[metric][rows])


def _mean(found: Measurement, values: FloatArray) -> Scored:
    """The mean of item values; shares where all of them are 0 or 1. Undefined items weigh nothing."""
    defined = np.isfinite(values)
    measure = Measure(
        name=found.metric,
        unit=found.unit,
        scale=cast("Scale", found.scale) if found.scale in _SCALES else "unbounded",
        direction=found.direction,
        additive=True,
        aggregate=mean_of_items,
        proportion=bool(np.isin(values[defined], (0.0, 1.0)).all()),
    )
    return Scored(measure, item_rows(np.where(defined, values, 0.0), defined), found.signature)


def _of_labels(table: ItemTable, found: Measurement, rows: IntArray, names: Sequence[str] | None) -> Scored | str:
    sets = table.labels()
    if isinstance(sets, str):
        return sets
    part = found.slice
    label = part.value if part is not None and part.by == "label" else None
    return score_sets(sets.over(names or sets.names).at(rows), found.metric, label)


def _rates(table: ItemTable, metric: str, rows: IntArray, signature: str) -> Scored | str:
    """Rates of change from the flips: broken and kept right make what the base had right."""
    if table.flips is None or (table.flips[rows] == 0).any():
        return "cannot be paired: the samples do not say which answers flipped"
    flips = table.flips[rows]
    before, after = np.isin(flips, (2, 3)).astype(np.float64), np.isin(flips, (1, 3)).astype(np.float64)
    if metric == "retained_fraction":
        level = _chance(signature)
        if level is None:
            return "cannot be paired: its signature does not say the level of chance"
        kept = np.stack([after - level, before - level], axis=1)
        return Scored(define(metric, _retained), kept, signature)
    share = before if metric == "forgotten_rate" else 1 - before
    changed = (1 - after if metric == "forgotten_rate" else after) * share
    return Scored(define(metric, precision_from_totals, proportion=True), np.stack([changed, share], axis=1), signature)


def _retained(sums: FloatArray) -> FloatArray:
    above = sums[..., 1] > 0
    return np.where(above, sums[..., 0] / np.where(above, sums[..., 1], 1.0), np.nan)


def _chance(signature: str) -> float | None:
    _, marked, level = signature.partition("|chance:")
    try:
        return float(level) if marked else None
    except ValueError:
        return None
