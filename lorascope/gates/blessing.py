"""Pinning a result as a baseline: its estimates and item scores in one small file, and the way back."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lorascope.errors import EvaluationError, InvalidComparison, UsageError
from lorascope.gates.judging import Absent
from lorascope.gates.labelled import LABEL_SUMS, LabelSets
from lorascope.gates.packing import MOST_NUMBERS, declared, pack, pack_bits, read_base64, unpack, unpack_bits
from lorascope.gates.readings import EXACT_AREAS, nothing_changed
from lorascope.gates.samples import item_table
from lorascope.gates.scores import COLUMNS, CORRELATIONS, FLIPS, RATES, SUMS, ItemTable, scored_items
from lorascope.gates.selection import address_of
from lorascope.measures.core import FloatArray, IntArray
from lorascope.schema.baseline import BaselineFile, BaselineItems, BaselineMeasurement, PackedLabels
from lorascope.schema.comparison import Comparison, Measurement

if TYPE_CHECKING:
    import pyarrow

_ID_BYTES = (6, 8, 16, 32)
_NO_ITEMS = Absent("INCONCLUSIVE", "the samples hold none of its items")
_REMEDY = "bless the result again"


@dataclass(frozen=True, slots=True)
class Blessing:
    """A baseline, how many of its measurements can be paired item by item later, and why the others cannot."""

    file: BaselineFile
    paired: int
    unpaired: dict[str, str]


def bless(
    comparison: Comparison,
    samples: pyarrow.Table | None,
    subjects: Sequence[str] | None = None,
    *,
    allow_failing: bool = False,
) -> Blessing:
    """Make a baseline of the adapted checkpoints' estimates and item scores; ``subjects`` chooses some of them.

    The file holds no prompt and no generated text; of label tasks it holds the labels of each item. Measurements that
    do not follow from item scores keep their estimate alone.

    Raises UsageError for a subject that the result lacks; EvaluationError for a result without measurements or
    samples, with failed gates (unless ``allow_failing``), with a checkpoint that changed nothing at all, or with
    samples that are not its own.
    """
    chosen = _chosen(comparison, subjects)
    _check(comparison, samples, chosen, allow_failing)
    known = [each for each in comparison.measurements if each.subject in chosen]
    measured = [each for each in known if each.adapted is not None]
    if not measured:
        raise EvaluationError("the result holds no measurement of an adapted checkpoint", remedy="measure some task")
    items: list[BaselineItems] = []
    unpaired: dict[str, str] = {}
    paired = 0
    for subject, task in dict.fromkeys((each.subject, each.task) for each in measured if each.task is not None):
        own = [each for each in measured if (each.subject, each.task) == (subject, task)]
        table = item_table(samples, comparison, subject, task) if samples is not None else None
        kept = _kept(table, own, unpaired)
        paired += len(kept)
        if table is not None and kept:
            items.append(_packed(table, subject, task, kept))
    noted = [each for each in known if each.adapted is not None or each.missing_reason is not None]
    return Blessing(_file(comparison, chosen, noted, items), paired, unpaired)


def _chosen(comparison: Comparison, subjects: Sequence[str] | None) -> list[str]:
    names = [each.name for each in comparison.subjects]
    for name in subjects or ():
        if name not in names:
            problem = f"the result has no adapted checkpoint {name!r}"
            raise UsageError(problem, remedy=f"choose from {', '.join(names)}")
    return [name for name in names if subjects is None or name in subjects]


def _check(comparison: Comparison, samples: pyarrow.Table | None, chosen: Sequence[str], allow_failing: bool) -> None:
    if comparison.gates is not None and not comparison.gates.passed and not allow_failing:
        raise EvaluationError(
            f"the result did not pass {comparison.gates.policy}, its own gates (those of lorascope compare --gates)",
            remedy="mend what failed, or bless it knowingly with --allow-failing",
        )
    if samples is None and any(each.task is not None for each in comparison.measurements):
        raise EvaluationError(
            "the result has no samples.parquet beside it, so later results could not be paired with it",
            remedy="run the comparison with samples, and keep the file with the result",
        )
    for name in chosen:
        if nothing_changed(name, comparison):
            raise EvaluationError(
                f"no answer of {name} differs from the reference anywhere: the adapter is not applied, or the scorer "
                "is constant",
                remedy="mend the run before it becomes the measure of others",
            )


def _kept(table: ItemTable | None, own: Sequence[Measurement], unpaired: dict[str, str]) -> list[Measurement]:
    """The measurements of one checkpoint and task that follow from its items; why the others do not is noted."""
    kept = []
    for each in own:
        if each.area in EXACT_AREAS:
            continue
        assert each.adapted is not None  # only such are blessed
        found = scored_items(table, each, each.adapted) if table is not None else _NO_ITEMS
        if not isinstance(found, Absent):
            kept.append(each)
        elif found.outcome == "INVALID":
            raise EvaluationError(f"{address_of(each)}: {found.reason}", remedy="run the comparison again")
        else:
            unpaired[address_of(each)] = found.reason
    return kept


def _packed(table: ItemTable, subject: str, task: str, kept: Sequence[Measurement]) -> BaselineItems:
    id_bytes = next(size for size in _ID_BYTES if len({shortened(key, size) for key in table.keys}) == len(table.keys))
    raw = b"".join(bytes.fromhex(shortened(key, id_bytes)) for key in table.keys)
    statistics = {}
    for each in kept:
        if each.metric in SUMS:
            name = "score" if each.metric in CORRELATIONS else each.metric
            rows = table.counts(name, each.signature)
            assert not isinstance(rows, str)  # it was scored from them
            statistics[name] = pack(rows)
    of_labels = any(each.metric in LABEL_SUMS for each in kept)
    of_flips = any(each.metric in RATES and each.area == "forgetting" for each in kept)
    means = dict.fromkeys(each.metric for each in kept if each.metric not in {*SUMS, *LABEL_SUMS})
    return BaselineItems(
        subject=subject,
        task=task,
        items=len(table.keys),
        id_bytes=id_bytes,
        ids=base64.b64encode(raw).decode("ascii"),
        scores={name: pack(table.scores[name]) for name in means if name in table.scores},
        statistics=statistics,
        labels=_packed_labels(table) if of_labels else None,
        flips=pack(table.flips) if of_flips and table.flips is not None else None,
        answers=table.answers,
    )


def _packed_labels(table: ItemTable) -> PackedLabels:
    sets = table.labels()
    assert not isinstance(sets, str)  # something was scored from them
    truth, given = pack_bits(sets.truth), pack_bits(sets.given)
    return PackedLabels(names=list(sets.names), multi=sets.multi, truth=truth, given=given)


@cache
def shortened(key: str, size: int) -> str:
    """The first ``size`` bytes of a key's SHA-256, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()[: 2 * size]


def _file(
    comparison: Comparison, chosen: Sequence[str], measured: Sequence[Measurement], items: list[BaselineItems]
) -> BaselineFile:
    return BaselineFile(
        blessed=datetime.now(UTC).isoformat(timespec="seconds"),
        created=comparison.created,
        seed=comparison.seed,
        lorascope_version=comparison.lorascope_version,
        provenance=comparison.provenance.model_copy(update={"timings": {}}),
        checkpoints=[
            each.model_copy(update={"cost": None})
            for each in comparison.checkpoints
            if each.role == "base" or each.name in chosen
        ],
        # A prompt is text; the fingerprint stands for it.
        tasks=[each.model_copy(update={"prompt": None}) for each in comparison.tasks],
        measurements=[BaselineMeasurement.model_validate(_fields(each)) for each in measured],
        items=items,
    )


def _fields(found: Measurement) -> dict[str, Any]:
    """What a baseline keeps of a measurement; a reason where a value exists is about the reference."""
    kept = found.model_dump(include=set(BaselineMeasurement.model_fields))
    return kept if found.adapted is None else kept | {"missing_reason": None}


def comparison_of(file: BaselineFile) -> Comparison:
    """The baseline as a result: what was measured, without differences, findings or weights.

    InvalidComparison for a file that does not hold a base and adapted checkpoints, or announces more numbers than any
    baseline has.
    """
    if sum(map(_announced, file.items)) > MOST_NUMBERS:
        problem = f"the shapes of the baseline announce more than {MOST_NUMBERS:,} packed numbers"
        raise InvalidComparison(problem, remedy="bless fewer subjects")
    if [each.role for each in file.checkpoints].count("base") != 1 or len(file.checkpoints) < 2:
        raise InvalidComparison("the baseline does not hold one base and its adapted checkpoints", remedy=_REMEDY)
    return Comparison(
        created=file.created,
        command=[],
        seed=file.seed,
        lorascope_version=file.lorascope_version,
        provenance=file.provenance,
        checkpoints=file.checkpoints,
        tasks=file.tasks,
        measurements=[Measurement.model_validate(each.model_dump()) for each in file.measurements],
    )


def _announced(items: BaselineItems) -> int:
    labels = [] if items.labels is None else [items.labels.truth, items.labels.given]
    packed = [*items.scores.values(), *items.statistics.values(), *labels, *([items.flips] if items.flips else [])]
    return sum(map(declared, packed))


def table_of(file: BaselineFile, subject: str, task: str) -> ItemTable | None:
    """The items of one subject and task; None where the file has none. InvalidComparison for damaged numbers."""
    packed = next((each for each in file.items if (each.subject, each.task) == (subject, task)), None)
    if packed is None:
        return None
    raw = read_base64(packed.ids)
    if len(raw) != packed.items * packed.id_bytes:
        raise InvalidComparison("the baseline's ids are not as many as its items", remedy=_REMEDY)
    keys = [raw[start : start + packed.id_bytes].hex() for start in range(0, len(raw), packed.id_bytes)]
    if len(set(keys)) != len(keys):
        raise InvalidComparison("the baseline's ids are not unique", remedy=_REMEDY)
    return ItemTable(
        keys=tuple(keys),
        groups=(None,) * packed.items,
        categories=(None,) * packed.items,
        scores={name: unpack(numbers, (packed.items, 1))[:, 0] for name, numbers in packed.scores.items()},
        counts=cache(lambda metric, signature: _counts(packed, metric)),
        labels=cache(lambda: _label_sets(packed)),
        flips=_flips(packed),
        reference=next((each.name for each in file.checkpoints if each.role == "base"), ""),
        answers=packed.answers,
        id_bytes=packed.id_bytes,
    )


def _flips(packed: BaselineItems) -> IntArray | None:
    if packed.flips is None:
        return None
    flips = unpack(packed.flips, (packed.items, 1))[:, 0]
    if not np.isin(flips, range(len(FLIPS) + 1)).all():
        raise InvalidComparison("the baseline's flips are damaged", remedy=_REMEDY)
    return flips.astype(np.int64)


def _counts(packed: BaselineItems, metric: str) -> FloatArray | str:
    if metric not in packed.statistics or metric not in COLUMNS:
        return "cannot be paired: the baseline keeps no item statistics of it"
    rows = unpack(packed.statistics[metric], (packed.items, COLUMNS[metric]))
    # Scores may have any sign, counts not.
    if not np.isfinite(rows).all() or (metric != "score" and (rows < 0).any()):
        raise InvalidComparison(f"the baseline's item statistics of {metric} are damaged", remedy=_REMEDY)
    return rows


def _label_sets(packed: BaselineItems) -> LabelSets | str:
    labels = packed.labels
    if labels is None:
        return "cannot be paired: the baseline keeps no labels by item"
    if len(set(labels.names)) != len(labels.names):
        raise InvalidComparison("the baseline names a label twice", remedy=_REMEDY)
    shape = packed.items, len(labels.names)
    truth, given = (unpack_bits(numbers, shape) for numbers in (labels.truth, labels.given))
    return LabelSets(tuple(labels.names), truth, given, labels.multi)
