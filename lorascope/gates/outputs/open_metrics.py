"""The outcome as OpenMetrics text, for GitLab's metrics report and for dashboards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lorascope.data.logs.names import printable
from lorascope.schema.gates import OUTCOMES, GateReport, GateRow

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_NUMBERS = {
    "value": "Value that the rule judges: the improvement for max_drop and min_gain, else the estimate",
    "low": "One-sided lower bound of the value",
    "high": "One-sided upper bound of the value",
    "limit": "Limit on the scale of the value: max_drop with a minus sign, all others as the policy gives them",
    "n": "Items the value rests on",
}
_NAMES = {name: "items" if name == "n" else name for name in _NUMBERS}


def open_metrics(report: GateReport) -> str:
    """Metric families by address and rule; ends with ``# EOF``.

    ``lorascope_gate_outcome`` is a state set: 1 for the row's outcome, 0 for the others. ``lorascope_gate_value``,
    ``_low``, ``_high``, ``_limit`` and ``_items`` lack a row that has no such number; ``lorascope_gate_passed`` is 1
    when the policy passed.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.registry import Collector

    class _Rows(Collector):
        def collect(self) -> list[Metric]:
            return _families(report)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Rows())
    text: str = generate_latest(registry).decode("utf-8")  # type: ignore[no-untyped-call]
    return text


def _families(report: GateReport) -> list[Metric]:
    from prometheus_client.core import GaugeMetricFamily, StateSetMetricFamily

    passed = GaugeMetricFamily("lorascope_gate_passed", "1 when the policy passed", labels=["policy"])
    passed.add_metric([_text(report.policy)], float(report.passed))
    outcomes = StateSetMetricFamily("lorascope_gate_outcome", "Outcome of each rule", labels=["address", "rule"])
    numbers = {
        name: GaugeMetricFamily(f"lorascope_gate_{_NAMES[name]}", told, labels=["address", "rule"])
        for name, told in _NUMBERS.items()
    }
    for labels, row in _distinct(report):
        outcomes.add_metric(labels, {each: each == row.outcome for each in OUTCOMES})
        for name, family in numbers.items():
            if (number := _limit(row) if name == "limit" else getattr(row, name)) is not None:
                family.add_metric(labels, float(number))
    return [passed, outcomes, *numbers.values()]


def _limit(row: GateRow) -> float | None:
    """The limit where the value is drawn: an improvement may go down to minus ``max_drop``."""
    return -row.limit if row.limit and row.rule.startswith("max_drop ") else row.limit


def _distinct(report: GateReport) -> list[tuple[list[str], GateRow]]:
    """Rows with their labels; two gates with one address and rule would be one series twice, which is not allowed."""
    seen: dict[tuple[str, str], GateRow] = {}
    for row in report.rows:
        seen.setdefault((_text(row.address), _text(row.rule)), row)
    return [(list(labels), row) for labels, row in seen.items()]


def _text(text: str) -> str:
    """A label on one line: the format escapes line feeds alone, and other control characters split lines or colour."""
    return printable(re.sub(r"\s+", " ", text.encode("utf-8", "replace").decode()))
