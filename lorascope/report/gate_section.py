"""The section on gates: what became of each rule, the most urgent first, with the numbers that decided it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lorascope.report import numbers
from lorascope.report.texts import Texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.gates import OUTCOMES, GateReport, GateRow, Outcome

GATE_SYMBOLS: dict[Outcome, str] = {"PASS": "✓", "FAIL": "✕", "INCONCLUSIVE": "?", "MISSING": "∅", "INVALID": "⊘"}
_ON_DIFFERENCES = ("max_drop", "min_gain")


@dataclass(frozen=True, slots=True)
class GateView:
    """One rule on one measurement. ``blocks``: it does not pass and may fail."""

    row: GateRow
    symbol: str
    blocks: bool
    value: str
    bounds: str
    limit: str
    items: str
    needed: str
    p: str


@dataclass(frozen=True, slots=True)
class GateTable:
    """The whole policy's outcome."""

    headline: str
    state: Literal["passed", "failed", "invalid"]
    counts: tuple[tuple[Outcome, str, int], ...]
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    rows: tuple[GateView, ...]
    with_numbers: bool
    with_items: bool


def gate_context(comparison: Comparison, words: Texts) -> dict[str, Any]:
    """What the section's template needs; ``gates`` is None where no policy was judged."""
    report = comparison.gates
    return {"gates": None if report is None else _table(report, words)}


def urgency(row: GateRow) -> tuple[bool, bool, int]:
    """Sorting key: rows that block first, then those that only warn, then those that pass."""
    return row.outcome == "PASS", row.severity == "warn", OUTCOMES.index(row.outcome)


def gate_headline(report: GateReport, words: Texts) -> str:
    """Whether the policy passed and how many rows had which outcome, in one line."""
    counts = [f"{count:,} {outcome}" for outcome, _, count in _counts(report)]
    said = words(f"gates.{_state(report)}")
    return f"{said} ({words.joined(counts)})" if counts else f"{said} ({words('gates.no_rows')})"


def _state(report: GateReport) -> Literal["passed", "failed", "invalid"]:
    """A policy without a valid comparison has not been judged, whatever its other rows say."""
    if report.passed:
        return "passed"
    return "invalid" if any(row.outcome == "INVALID" and row.severity == "fail" for row in report.rows) else "failed"


def _counts(report: GateReport) -> tuple[tuple[Outcome, str, int], ...]:
    found = ((outcome, sum(row.outcome == outcome for row in report.rows)) for outcome in OUTCOMES)
    return tuple((outcome, GATE_SYMBOLS[outcome], count) for outcome, count in found if count)


def _table(report: GateReport, words: Texts) -> GateTable:
    state = _state(report)
    rows = tuple(_view(row, words) for row in sorted(report.rows, key=urgency))
    return GateTable(
        headline=words(f"gates.{state}"),
        state=state,
        counts=_counts(report),
        facts=_facts(report, words),
        warnings=tuple(report.warnings),
        rows=rows,
        with_numbers=any(view.value != numbers.ABSENT or view.limit != numbers.ABSENT for view in rows),
        with_items=any(view.items != numbers.ABSENT for view in rows),
    )


def _facts(report: GateReport, words: Texts) -> tuple[tuple[str, str], ...]:
    facts = [(words("gates.policy"), report.policy)]
    facts.append((words("gates.baseline"), report.baseline or words("gates.own_reference")))
    if report.confidence is not None:
        facts.append((words("gates.confidence"), numbers.percent(report.confidence)))
    return tuple(facts)


def _view(row: GateRow, words: Texts) -> GateView:
    signed = row.rule.startswith(_ON_DIFFERENCES)
    corrected = row.p_adjusted is not None and row.p_adjusted != row.p_value
    p = row.p_adjusted if corrected else row.p_value
    return GateView(
        row=row,
        symbol=GATE_SYMBOLS[row.outcome],
        blocks=row.outcome != "PASS" and row.severity == "fail",
        value=_number(row.value, signed=signed),
        bounds=_bounds(row, signed=signed, words=words),
        limit=numbers.ABSENT if row.limit is None else f"{row.limit:g}".replace("-", numbers.MINUS),
        items=numbers.count(row.n),
        needed=words("gates.needed", count=numbers.count(row.needed_n)) if row.needed_n is not None else "",
        p=""
        if p is None or row.outcome == "PASS"
        else words("gates.p_adjusted" if corrected else "gates.p", p=numbers.p_value(p)),
    )


def _number(value: float | None, *, signed: bool) -> str:
    if value is not None and value.is_integer() and not signed:
        return numbers.count(value)
    return numbers.signed(value, "", "") if signed else numbers.metric_value(value, "", "")


def _bounds(row: GateRow, *, signed: bool, words: Texts) -> str:
    """One-sided bounds; a value that is counted and not sampled has none."""
    if row.low is None or row.high is None:
        return ""
    return words("gates.bounds", low=_number(row.low, signed=signed), high=_number(row.high, signed=signed))
