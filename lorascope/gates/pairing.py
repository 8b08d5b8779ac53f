"""Readings against a baseline: the adapted checkpoint of another result, item by item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lorascope.gates.blessing import shortened, table_of
from lorascope.gates.bounds import paired_difference
from lorascope.gates.judging import Absent, Reading
from lorascope.gates.labelled import LABEL_SUMS, LabelSets
from lorascope.gates.samples import item_table
from lorascope.gates.scores import ItemTable, ScoredItems, holds, scored_items
from lorascope.gates.validity import check_suites, doubts_of_baseline, what_differs
from lorascope.measures.core import IntArray, Scored, mean_of_items
from lorascope.schema.baseline import BaselineFile
from lorascope.schema.comparison import CheckpointInfo, Comparison, Measurement
from lorascope.schema.values import Estimate

if TYPE_CHECKING:
    import pyarrow

_Place = tuple[str, str, str | None, tuple[str, str] | None, str]
_UNPAIRED = "cannot be paired with a baseline: it does not follow from the scores of a task's items"
_UNSEEN = (
    "whether its weights are others is not known, as those of served and imported models are not seen: is the new "
    "adapter loaded?"
)
_NO_SAMPLES = "has no samples.parquet beside it, so its items cannot be paired; keep the file with its result"


@dataclass(frozen=True, slots=True)
class Baseline:
    """A result to compare with, and the item scores of both: ``samples`` its own, ``current`` the judged result's.

    ``blessed`` is the baseline file, where it is one: it takes the place of ``samples``. ``name`` is the file's.
    """

    comparison: Comparison
    samples: pyarrow.Table | None
    current: pyarrow.Table | None
    name: str = "baseline"
    blessed: BaselineFile | None = None
    tables: dict[tuple[bool, str, str], ItemTable | None] = field(default_factory=dict, compare=False, repr=False)
    index: dict[_Place, list[Measurement]] = field(default_factory=dict, compare=False, repr=False)
    equal: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def before(self, subject: str, task: str) -> ItemTable | None:
        """The baseline's items of one of its subjects; None where it has none."""
        key = (False, subject, task)
        if key not in self.tables:
            self.tables[key] = (
                table_of(self.blessed, subject, task)
                if self.blessed is not None
                else _read(self.samples, self.comparison, subject, task)
            )
        return self.tables[key]

    def after(self, comparison: Comparison, subject: str, task: str) -> ItemTable | None:
        """The items of one subject of the judged result; None where it has none."""
        key = (True, subject, task)
        if key not in self.tables:
            self.tables[key] = _read(self.current, comparison, subject, task)
        return self.tables[key]

    def measurement(self, found: Measurement, subject: str, *, of_base: bool) -> Measurement | None:
        """The baseline's measurement in the place of ``found``, with an estimate; ``of_base``: ``found`` is against
        its base, and so shall be what is returned where there is a choice.
        """
        if not self.index:
            for each in self.comparison.measurements:
                if each.adapted is not None:
                    self.index.setdefault(_place(each, each.subject), []).append(each)
        same = self.index.get(_place(found, subject), [])
        alike = [each for each in same if (each.reference == self.comparison.base.name) == of_base]
        return next(iter(alike or same), None)

    def left_undefined(self, found: Measurement, subject: str) -> bool:
        """Whether the baseline, too, has no value in the place of ``found``, for the same reason."""
        place = _place(found, subject)
        same = [each for each in self.comparison.measurements if _place(each, each.subject) == place]
        return bool(same) and all(
            each.adapted is None and each.missing_reason == found.missing_reason for each in same
        )  # fmt: skip


def _place(found: Measurement, subject: str) -> _Place:
    part = (found.slice.by, found.slice.value) if found.slice else None
    return subject, found.area, found.task, part, found.metric


def _read(samples: pyarrow.Table | None, comparison: Comparison, subject: str, task: str) -> ItemTable | None:
    return None if samples is None else item_table(samples, comparison, subject, task)


def exact_reading(found: Measurement, comparison: Comparison, baseline: Baseline) -> Reading | Absent:
    """Change of a counted value against the baseline's, without an interval; INVALID where it was counted otherwise."""
    subject = counterpart(found.subject, baseline.comparison)
    if isinstance(subject, Absent):
        return subject
    before = baseline.measurement(found, subject.name, of_base=True)
    if found.adapted is None or before is None or before.adapted is None:
        return Absent("MISSING", _missing_from(found))
    if (difference := what_differs(found, before, comparison, baseline.comparison)) is not None:
        return Absent("INVALID", difference)
    change = found.adapted.value - before.adapted.value
    return Reading(change, change, change, found.adapted.n, _source(subject), exact=True)


def paired_reading(
    found: Measurement, comparison: Comparison, baseline: Baseline, confidence: float
) -> Reading | Absent:
    """Difference to the baseline's adapted checkpoint over the same items, with one-sided bounds at ``confidence``.

    Means and corpus metrics alike, by the statistics of :func:`~lorascope.gates.scores.scored_items`; groups of items
    vary as wholes where the result's own intervals took them so. Absent as INVALID where the two were not asked the
    same in the same way, do not have the same items, or only one of them holds what the metric follows from; as
    INCONCLUSIVE where neither does. InvalidComparison where the two results have no task in common.
    """
    if found.task is None:
        return Absent("INCONCLUSIVE", _UNPAIRED)
    check_suites(comparison, baseline.comparison)
    subject = counterpart(found.subject, baseline.comparison)
    if isinstance(subject, Absent):
        return subject
    before = baseline.measurement(found, subject.name, of_base=found.reference == comparison.base.name)
    if found.adapted is None or before is None or before.adapted is None:
        return Absent("MISSING", _missing_from(found))
    if (difference := what_differs(found, before, comparison, baseline.comparison)) is not None:
        return Absent("INVALID", difference)
    pair = _pair(found, found.adapted, before, before.adapted, comparison, baseline)
    if isinstance(pair, Absent):
        return pair
    old, new = pair
    groups = new.groups if _clustered(found.adapted, new) else None
    reading = paired_difference(old.scored, new.scored, groups, confidence, _source(subject))
    return _explained(reading, found.subject, subject, comparison, baseline)


def _pair(
    found: Measurement,
    estimate: Estimate,
    before: Measurement,
    old_estimate: Estimate,
    comparison: Comparison,
    baseline: Baseline,
) -> tuple[ScoredItems, ScoredItems] | Absent:
    """The statistics of both sides over the same items in the same order."""
    assert found.task is not None
    if baseline.current is None or (baseline.samples is None and baseline.blessed is None):
        return Absent("INVALID", f"{'the result' if baseline.current is None else 'the baseline'} {_NO_SAMPLES}")
    new, old = baseline.after(comparison, found.subject, found.task), baseline.before(before.subject, found.task)
    if new is None or old is None:
        which = "the result's" if new is None else "the baseline's"
        return Absent("INVALID", f"{which} samples hold no item of {found.task}")
    names = _common_names(found, new, old)
    after = scored_items(new, found, estimate, names=names)
    if isinstance(after, Absent):
        lost = not holds(new, found) and holds(old, before)
        return _absent("the result", after, "the baseline has its item data" if lost else None)
    rows = _same_items(after, old)
    if isinstance(rows, Absent):
        return rows
    earlier = scored_items(old, before, old_estimate, names=names, rows=rows)
    if isinstance(earlier, Absent):
        return _absent("the baseline", earlier, None if holds(old, before) else "the result has its item data")
    if earlier.scored.statistics.shape != after.scored.statistics.shape:
        return Absent("INVALID", "the two results keep different statistics of it")
    if _defined_elsewhere(earlier.scored, after.scored):
        return Absent("INVALID", "some items have a score in only one of the two results; score the same items in both")
    return earlier, after


def _absent(side: str, absent: Absent, other: str | None) -> Absent:
    """What one side cannot give; ``other``: the other side has it, so that something was lost or changed."""
    if other is None:
        named = absent.outcome == "INVALID" or side == "the baseline"
        return Absent(absent.outcome, f"{side}: {absent.reason}" if named else absent.reason)
    reason = f"{side}: {absent.reason}, while {other}; run or bless again the side that lost it"
    return Absent("INVALID", reason)


def _common_names(found: Measurement, new: ItemTable, old: ItemTable) -> tuple[str, ...] | None:
    """All labels of both sides, where the metric counts them."""
    if found.metric not in LABEL_SUMS:
        return None
    sets = new.labels(), old.labels()
    names: set[str] = set()
    for each in sets:
        if isinstance(each, LabelSets):
            names |= set(each.names)
    return tuple(sorted(names)) or None


def _same_items(after: ScoredItems, old: ItemTable) -> IntArray | Absent:
    """Where the items of ``after`` stand in the baseline."""
    keys = after.keys if old.id_bytes is None else tuple(shortened(key, old.id_bytes) for key in after.keys)
    unpaired = sum(key not in old.places for key in keys)
    if unpaired or len(set(keys)) < len(keys):
        problem = f"{unpaired or len(keys) - len(set(keys)):,} of {len(keys):,} items are not in the baseline"
        return Absent("INVALID", f"{problem}; score the same items in both")
    return np.array([old.places[key] for key in keys], dtype=np.int64)


def _defined_elsewhere(before: Scored, after: Scored) -> bool:
    """Whether an item of a mean is left out on one side alone; sums of a corpus weigh items as they come."""
    weights = before.statistics[:, -1], after.statistics[:, -1]
    plain = before.measure.aggregate is mean_of_items and all(np.isin(each, (0.0, 1.0)).all() for each in weights)
    return plain and not np.array_equal(*weights)


def _clustered(estimate: Estimate, items: ScoredItems) -> bool:
    """Whether groups vary as wholes: where items have some, unless the result's own interval took items as units.

    It does so for built-in probes, whose groups share choices by design.
    """
    own = estimate.method.endswith(" resamples") or estimate.method == "wilson"
    return not own and any(group is not None for group in items.groups)


def _explained(
    reading: Reading, name: str, subject: CheckpointInfo, comparison: Comparison, baseline: Baseline
) -> Reading:
    """The reading with what equal answers, or unequal ones of one checkpoint, say about it."""
    same = _same_hashes(comparison, name, baseline.comparison, subject)
    equal = _equal_answers(name, subject, comparison, baseline)
    if same and equal and _weights_seen(comparison, baseline.comparison):
        return replace(reading, unchanged_because="the checkpoint is the baseline's own, byte for byte")
    if same and equal:
        return replace(reading, warning=f"every answer is that of the baseline's {subject.name}; {_UNSEEN}")
    if same:
        return replace(reading, warning=f"{_told_as_the_same(comparison, baseline)}, but its answers are others")
    if equal:
        reason = (
            f"every answer is that of the baseline's {subject.name}, whose weights are others: the adapter is not "
            "applied, or the answers are not its own"
        )
        return replace(reading, suspicious_because=reason, warning=reason)
    return reading


def _told_as_the_same(comparison: Comparison, baseline: Baseline) -> str:
    if _weights_seen(comparison, baseline.comparison):
        return "the checkpoint is the baseline's own by its hash"
    return "the model has the baseline's address and name"


def _equal_answers(name: str, subject: CheckpointInfo, comparison: Comparison, baseline: Baseline) -> bool:
    """Whether all answers and scores are the baseline's to the bit; False without a common task with items."""
    if name not in baseline.equal:
        shared = {each.name for each in comparison.tasks} & {each.name for each in baseline.comparison.tasks}
        pairs = [(baseline.before(subject.name, task), baseline.after(comparison, name, task)) for task in shared]
        known = [(old.answers, new.answers) for old, new in pairs if old is not None and new is not None]
        baseline.equal[name] = bool(known) and all(old == new for old, new in known)
    return baseline.equal[name]


def baseline_warnings(comparison: Comparison, baseline: Baseline) -> list[str]:
    """Doubts about the comparison with a baseline as a whole, which change no outcome by themselves."""
    told = [text for each in comparison.subjects for text in _warnings_of(each.name, comparison, baseline)]
    return [*told, *doubts_of_baseline(comparison, baseline.comparison)]


def _warnings_of(name: str, comparison: Comparison, baseline: Baseline) -> Iterator[str]:
    subject = counterpart(name, baseline.comparison)
    if isinstance(subject, Absent):
        return
    if subject.name != name:
        yield f"{name} is compared with the baseline's {subject.name}, the only checkpoint there, under another name"
    same = _same_hashes(comparison, name, baseline.comparison, subject)
    if not _equal_answers(name, subject, comparison, baseline):
        return
    if not same:
        yield f"every answer of {name} is the baseline's, though its weights are others"
    elif not _weights_seen(comparison, baseline.comparison):
        yield f"every answer of {name} is the baseline's; {_UNSEEN}"


def counterpart(subject: str, baseline: Comparison) -> CheckpointInfo | Absent:
    """The baseline's checkpoint of the same name, or its only one."""
    same = [each for each in baseline.subjects if each.name == subject]
    candidates = same or baseline.subjects
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(each.name for each in baseline.subjects) or "none"
    problem = f"the baseline has no adapted checkpoint {subject!r} and no single other one: {names}"
    return Absent("INVALID", f"{problem}; name the checkpoint as in the baseline: NAME=PATH on the command line")


def _missing_from(found: Measurement) -> str:
    if found.adapted is None:
        return found.missing_reason or "it was not measured"
    return "the baseline does not have it"


def _same_hashes(new: Comparison, name: str, old: Comparison, subject: CheckpointInfo) -> bool:
    hashes = [each.content_hash for each in new.subjects if each.name == name]
    return hashes == [subject.content_hash] and new.base.content_hash == old.base.content_hash


def _weights_seen(*results: Comparison) -> bool:
    """Whether hashes are of weights: those of models behind a server and of imported runs are not."""
    engines = [each.provenance.engine or "" for each in results]
    return not any(engine == "server" or engine.startswith("import:") for engine in engines)


def _source(subject: CheckpointInfo) -> str:
    return f"against the baseline's {subject.name}"
