"""Which rows come first, and the outcome in one line: the same in every output."""

from __future__ import annotations

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
    """One line: the outcome of the policy and how many rows had which outcome."""
    counts = {outcome: sum(row.outcome == outcome for row in report.rows) for outcome in OUTCOMES}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"{report.policy}: {'passed' if report.passed else 'failed'} ({told or 'no rows'})"
