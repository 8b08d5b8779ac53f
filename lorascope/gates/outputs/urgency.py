"""Which rows come first, and the outcome in one line: the same in every output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from lorascope.errors import LorascopeError
from lorascope.schema.gates import OUTCOMES, GateReport, GateRow


def blocks(row: GateRow) -> bool:
    """Whether the row alone keeps the policy from passing."""
    return row.outcome != "PASS" and row.severity == "fail"


def by_urgency(report: GateReport) -> list[GateRow]:
    """The rows with those that block first, then by outcome; rows of equal urgency keep their order."""
    return sorted(
        report.rows, key=lambda row: (row.outcome == "PASS", row.severity == "warn", OUTCOMES.index(row.outcome))
    )


def headline(report: GateReport) -> str:
    """One line: the outcome of the policy, and how many rows of which outcome block, only warn, or pass."""
    told = "; ".join(_counted(report)) or "no rows"
    return f"{report.policy}: {'passed' if report.passed else 'failed'} ({told})"


def _counted(report: GateReport) -> Iterator[str]:
    blocking = [row for row in report.rows if blocks(row)]
    warning = [row for row in report.rows if row.outcome != "PASS" and not blocks(row)]
    for rows, verb in ((blocking, "block"), (warning, "warn")):
        if rows:
            yield f"{_by_outcome(rows)} {verb}{'s' if len(rows) == 1 else ''}"
    if passed := [row for row in report.rows if row.outcome == "PASS"]:
        yield _by_outcome(passed)


def _by_outcome(rows: Iterable[GateRow]) -> str:
    counts = Counter(row.outcome for row in rows)
    return ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in OUTCOMES if counts[outcome])


def whether_blocks(row: GateRow) -> str:
    """The row's entry in a column "Blocks"."""
    if row.outcome == "PASS":
        return "–"
    return "yes" if blocks(row) else "no"


def in_one_sentence(error: LorascopeError) -> str:
    """``problem (where; what to do)``, for places that hold one line."""
    rest = "; ".join(part for part in (error.where, error.remedy) if part)
    return f"{error.problem} ({rest})" if rest else error.problem
