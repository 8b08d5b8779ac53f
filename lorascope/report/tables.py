"""Measurements as tables for the page: one row per metric, one group of columns per subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lorascope.report import numbers
from lorascope.report.lookup import ANY, measurements, tasks_of_role
from lorascope.report.texts import Texts
from lorascope.report.verdicts import SYMBOLS
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.values import Delta, Estimate

Section = Literal["metrics", "checks", "forgetting", "drift", "training", "weights", "cost", "human"]
_SECTIONS: dict[str, Section] = {
    "task": "metrics",
    "leak": "checks",
    "noise": "checks",
    "forgetting": "forgetting",
    "drift": "drift",
    "curves": "training",
    "gap": "training",
    "weights": "weights",
    "cost": "cost",
    "human": "human",
}
_SLICE_ORDER = (
    "split", "label_group", "threshold", "clean", "category", "label", "group", "strength", "layer", "module"
)  # fmt: skip
_FOLD_ABOVE = 8

_CHANGE_AREAS = frozenset({"curves", "weights", "drift", "noise"})
_CHANGE_METRICS = frozenset(
    {"retained_fraction", "forgotten_rate", "gained_rate", "kl_to_base", "leaked_fraction", "leaked_gain"}
)
_BOUNDED = frozenset({"0-1", "0-100"})
_SHOWN_AS_ZERO = 1e-9


@dataclass(frozen=True, slots=True)
class Cell:
    """What one subject got in one row."""

    adapted: str
    adapted_interval: str
    delta: str
    delta_interval: str
    verdict: str | None
    symbol: str
    note: str
    needed: int | None
    p_adjusted: str


@dataclass(frozen=True, slots=True)
class Row:
    """One metric, or one slice of it; ``cells`` follow the table's subjects, None where nothing was measured."""

    label: str
    hint: str
    base: str
    base_interval: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that belong together: a task, or a metric with its slices."""

    title: str
    note: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with subjects side by side.

    ``folded`` asks for it to be closed at first; ``reason`` says what is missing in every row.
    """

    title: str
    reference: str
    subjects: tuple[str, ...]
    blocks: tuple[Block, ...]
    folded: bool = False
    reason: str = ""

    @property
    def has_base(self) -> bool:
        """Whether any row has a value of the reference."""
        return any(row.base != numbers.ABSENT for block in self.blocks for row in block.rows)

    @property
    def has_delta(self) -> bool:
        """Whether any row has a difference."""
        cells = (cell for block in self.blocks for row in block.rows for cell in row.cells)
        return any(cell is not None and bool(cell.delta) for cell in cells)

    @property
    def has_verdict(self) -> bool:
        """Whether any row has a verdict."""
        cells = (cell for block in self.blocks for row in block.rows for cell in row.cells)
        return any(cell is not None and cell.verdict is not None for cell in cells)

    @property
    def columns(self) -> int:
        """How many columns one subject takes."""
        return 1 + self.has_delta + self.has_verdict

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return sum(len(block.rows) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class FullRow:
    """One measurement with every statistic, for the folded table at the end of the metrics."""

    place: str
    metric: str
    subject: str
    n: str
    base: str
    adapted: str
    delta: str
    p: str
    p_adjusted: str
    test: str
    margin: str
    detectable: str
    verdict: str
    needed: str


def section_of(comparison: Comparison, found: Measurement) -> Section:
    """Return the part of the page that a measurement belongs to; a retention task's metrics are about forgetting."""
    retention = {task.name for task in tasks_of_role(comparison, "retention")}
    if found.area == "task" and found.task in retention:
        return "forgetting"
    return _SECTIONS[found.area]


def section_tables(
    comparison: Comparison,
    section: Section | None,
    reference: str,
    words: Texts,
    without: frozenset[str] = frozenset(),
    with_gaps: bool = False,
) -> tuple[Table | None, list[Table]]:
    """Return the table of whole measurements and one table per kind of slice; None as section asks for all areas.

    ``without`` names metrics that the section already shows in another way; ``with_gaps`` adds the gap between training
    and evaluation items of each task's leading metric.
    """
    gaps = {(task.name, f"{task.metrics[0]}_gap") for task in comparison.tasks if task.metrics and with_gaps}
    found = [
        each
        for each in measurements(comparison, reference=reference, by=ANY)
        if section is None
        or section_of(comparison, each) == section
        or (each.area == "gap" and (each.task, each.metric) in gaps)
    ]
    whole = [each for each in found if each.slice is None and each.metric not in without]
    if section == "forgetting":
        whole.sort(key=lambda each: each.metric != "gold_margin")
    main = _table("", comparison, whole, reference, _by_task(comparison, words), _metric_label(words), words)
    slices = []
    for by in _SLICE_ORDER:
        part = [each for each in found if each.slice is not None and each.slice.by == by]
        title = words(f"slice.{by}")
        sliced = _table(title, comparison, part, reference, _by_metric, _slice_label(words), words)
        if sliced is not None:
            slices.append(sliced)
    return main, slices


Labeller = Callable[[Measurement], tuple[str, str]]


def _by_task(comparison: Comparison, words: Texts) -> Labeller:
    tasks = {task.name: task for task in comparison.tasks}

    def place(found: Measurement) -> tuple[str, str]:
        task = tasks.get(found.task or "")
        if task is None:
            return found.task or words(f"area.{found.area}"), ""
        return task.name, f"{words(f'role.{task.role}')} · {words.several('items', task.items)}"

    return place


def _by_metric(found: Measurement) -> tuple[str, str]:
    return (f"{found.task} · {found.metric}" if found.task else found.metric), ""


def _metric_label(words: Texts) -> Labeller:
    def label(found: Measurement) -> tuple[str, str]:
        return found.metric, metric_meaning(found.metric, words)

    return label


def _slice_label(words: Texts) -> Labeller:
    def label(found: Measurement) -> tuple[str, str]:
        part = found.slice
        if part is None:
            return found.metric, ""
        return words.known(f"slice_value.{part.by}.{part.value}", part.value), ""

    return label


def metric_meaning(metric: str, words: Texts) -> str:
    """Return what a metric means in a few words, or nothing for a metric without an entry."""
    meaning = words.known(f"metric.{metric}", "")
    if meaning or not metric.endswith("_gap"):
        return meaning
    return words("metric_gap", metric=metric.removesuffix("_gap"))


def _table(
    title: str,
    comparison: Comparison,
    found: Sequence[Measurement],
    reference: str,
    place: Labeller,
    label: Labeller,
    words: Texts,
) -> Table | None:
    subjects = tuple(c.name for c in comparison.checkpoints if any(each.subject == c.name for each in found))
    if not subjects:
        return None
    grouped: dict[tuple[str, str], dict[tuple[str, str], list[Measurement]]] = {}
    for each in found:
        grouped.setdefault(place(each), {}).setdefault(label(each), []).append(each)
    reason = _shared_reason(found)
    blocks = tuple(
        Block(where, note, tuple(_row(name, rows, subjects, reason, words) for name, rows in labelled.items()))
        for (where, note), labelled in grouped.items()
    )
    rows = sum(len(block.rows) for block in blocks)
    return Table(title, reference, subjects, blocks, folded=rows > _FOLD_ABOVE, reason=reason)


def _shared_reason(found: Sequence[Measurement]) -> str:
    """The one reason that all measurements give, to be said once; nothing where some have another or none."""
    reasons = [_reason_of(each) for each in found if not _of_the_change(each)]
    return reasons[0] if len(reasons) > 1 and len(set(reasons)) == 1 else ""


def _reason_of(found: Measurement) -> str:
    """Why a number is missing; nothing for numbers about the change itself, which no base could have."""
    return "" if _of_the_change(found) else found.missing_reason or ""


def _of_the_change(found: Measurement) -> bool:
    of_the_change = found.area in _CHANGE_AREAS or found.metric in _CHANGE_METRICS
    return of_the_change and found.adapted is not None


def _row(
    label: tuple[str, str], found: Sequence[Measurement], subjects: Iterable[str], reason: str, words: Texts
) -> Row:
    by_subject = {each.subject: each for each in found}
    base = next((each for each in found if each.base is not None), found[0])
    cells = (by_subject.get(subject) for subject in subjects)
    return Row(
        label=label[0],
        hint=label[1],
        base=_value(base, base.base),
        base_interval=_bounds(base, base.base),
        cells=tuple(_cell(each, reason, words) if each is not None else None for each in cells),
    )


def _value(found: Measurement, estimate: Estimate | None) -> str:
    return numbers.metric_value(_settled(found, estimate.value if estimate else None), found.unit, found.scale)


def _bounds(found: Measurement, of: Estimate | Delta | None, *, with_sign: bool = False) -> str:
    ends = of.model_copy(update={"low": _settled(found, of.low), "high": _settled(found, of.high)}) if of else None
    return numbers.interval(ends, found.unit, found.scale, with_sign=with_sign)


def _settled(found: Measurement, value: float | None) -> float | None:
    """The zero that a score within bounds is meant to be: BLEU without a match is 1e-232 by its library's rounding."""
    return 0.0 if value is not None and found.scale in _BOUNDED and abs(value) < _SHOWN_AS_ZERO else value


def _cell(found: Measurement, reason: str, words: Texts) -> Cell:
    delta = found.delta
    verdict = delta.verdict if delta else None
    own = _reason_of(found)
    note = own if own != reason else ""
    if delta is not None and verdict == "inconclusive":
        note = words("needed.short", count=numbers.count(delta.needed_n)) if delta.needed_n else ""
    return Cell(
        adapted=_value(found, found.adapted),
        adapted_interval=_bounds(found, found.adapted),
        delta=numbers.signed(_settled(found, delta.value), found.unit, found.scale) if delta else "",
        delta_interval=_bounds(found, delta, with_sign=True),
        verdict=verdict,
        symbol=SYMBOLS[verdict] if verdict else "",
        note=note,
        needed=delta.needed_n if delta is not None and verdict == "inconclusive" else None,
        p_adjusted=numbers.p_value(delta.p_adjusted) if delta is not None and delta.p_adjusted is not None else "",
    )


def full_rows(comparison: Comparison, reference: str, words: Texts) -> list[FullRow]:
    """Return every measurement against ``reference`` with every statistic it carries."""
    return [_full_row(found, words) for found in measurements(comparison, reference=reference)]


def _full_row(found: Measurement, words: Texts) -> FullRow:
    delta = found.delta
    part = f" @ {found.slice.value}" if found.slice else ""
    unit, scale = found.unit, found.scale
    estimate = found.adapted or found.base
    verdict = delta.verdict if delta else None
    needed = delta.needed_n if delta else None
    return FullRow(
        place=(found.task or words(f"area.{found.area}")) + part,
        metric=found.metric,
        subject=found.subject,
        n=numbers.count(delta.n if delta else estimate.n if estimate else None),
        base=f"{_value(found, found.base)} {_bounds(found, found.base)}",
        adapted=f"{_value(found, found.adapted)} {_bounds(found, found.adapted)}",
        delta=f"{numbers.signed(_settled(found, delta.value if delta else None), unit, scale)} "
        f"{_bounds(found, delta, with_sign=True)}",
        p=numbers.p_value(delta.p_value if delta else None),
        p_adjusted=numbers.p_value(delta.p_adjusted if delta else None),
        test=(delta.test if delta else None) or numbers.ABSENT,
        margin=numbers.margin(delta.margin if delta else None),
        detectable=numbers.metric_value(delta.detectable if delta else None, unit, scale),
        verdict=f"{SYMBOLS[verdict]} {words(f'verdict.{verdict}')}" if verdict else numbers.ABSENT,
        needed=numbers.count(needed),
    )
