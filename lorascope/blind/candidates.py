"""The items that a study can be drawn from: every compared system's answer to one question, as sheets show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lorascope.blind.rows import clean
from lorascope.errors import DataError
from lorascope.schema.comparison import CheckpointInfo

if TYPE_CHECKING:
    import pyarrow

_TEXTS = ("prompt", "base_output", "adapted_output")
_COLUMNS = ("subject", "task", "item_id", *_TEXTS)
_REMEDY = "run compare without --no-samples"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One item that may be drawn. ``answers`` and ``flips`` are by system; a system without a known flip is absent."""

    task: str
    item_id: str
    question: str
    answers: Mapping[str, str]
    flips: Mapping[str, str]

    @property
    def length(self) -> int:
        """Length of the longest answer, in characters."""
        return max(map(len, self.answers.values()))

    @property
    def flipped(self) -> bool:
        """Whether a compared checkpoint answers rightly what the base does not, or the other way round."""
        return any(flip in ("fixed", "broken") for flip in self.flips.values())


@dataclass(frozen=True, slots=True)
class Candidates:
    """What can be drawn, sorted by task and item, and what cannot.

    ``without_text``: items that lack the question or the answer of a compared system. ``doubled``: further rows of an
    item that is there already, of which the first is kept.
    """

    items: tuple[Candidate, ...]
    without_text: int
    doubled: int


@dataclass(slots=True)
class _Gathered:
    question: str | None = None
    answers: dict[str, str] = field(default_factory=dict)
    flips: dict[str, str] = field(default_factory=dict)
    subjects: set[str] = field(default_factory=set)


def find_candidates(
    samples: pyarrow.Table, systems: Sequence[CheckpointInfo], tasks: Sequence[str], base: str
) -> Candidates:
    """Gather each item's answers from ``samples.parquet``, which has one row a subject and item.

    The base's answer, which stands in every subject's row, is taken from the first that has it. An item is left out
    when a compared system has no answer to it, so that every pair of systems is drawn from the same items; an empty
    answer is an answer.

    Errors: DataError when the samples have no texts of these systems and tasks.
    """
    missing = [name for name in _COLUMNS if name not in samples.column_names]
    if missing:
        raise DataError(f"the samples have no column {', '.join(missing)}", remedy=_REMEDY)
    names = [each.name for each in systems]
    gathered: dict[tuple[str, str], _Gathered] = {}
    doubled = 0
    for row in _rows(samples, [name for name in names if name != base], tasks):
        found = gathered.setdefault((row["task"], row["item_id"]), _Gathered())
        if row["subject"] in found.subjects:
            doubled += 1
        else:
            _take(row, found, base)
    items = [
        Candidate(task, item_id, found.question, {name: found.answers[name] for name in names}, found.flips)
        for (task, item_id), found in sorted(gathered.items())
        if found.question is not None and all(name in found.answers for name in names)
    ]
    if not items:
        raise _nothing(gathered, names)
    return Candidates(tuple(items), len(gathered) - len(items), doubled)


def _rows(samples: pyarrow.Table, subjects: Sequence[str], tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.compute

    columns = [*_COLUMNS, "flip"] if "flip" in samples.column_names else list(_COLUMNS)
    wanted = pyarrow.compute.and_(
        pyarrow.compute.is_in(samples["subject"], pyarrow.array(subjects, pyarrow.string())),
        pyarrow.compute.is_in(samples["task"], pyarrow.array(tasks, pyarrow.string())),
    )
    for batch in samples.select(columns).filter(wanted).to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _take(row: Mapping[str, Any], found: _Gathered, base: str) -> None:
    subject = row["subject"]
    found.subjects.add(subject)
    if found.question is None and row["prompt"] is not None:
        found.question = clean(row["prompt"])
    if row["adapted_output"] is not None:
        found.answers[subject] = clean(row["adapted_output"])
    if row["base_output"] is not None:
        found.answers.setdefault(base, clean(row["base_output"]))
    if row.get("flip") is not None:
        found.flips[subject] = row["flip"]


def _nothing(gathered: Mapping[tuple[str, str], _Gathered], names: Sequence[str]) -> DataError:
    silent = [name for name in names if not any(name in found.answers for found in gathered.values())]
    if len(silent) in (0, len(names)):
        return DataError("the samples have no item that all compared systems answered in text", remedy=_REMEDY)
    remedy = "leave it out, or take another task" if len(silent) == 1 else "leave them out, or take another task"
    return DataError(f"the samples have no answers of {', '.join(silent)}", remedy=remedy)
