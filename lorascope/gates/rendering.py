"""A gate report as Markdown for a job summary and as JUnit XML for a test view."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from lorascope.schema.comparison import GateReport, GateRow

_ORDER = ("FAIL", "MISSING", "INCONCLUSIVE", "PASS")
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKDOWN_LIMIT = 1_000_000


def by_urgency(report: GateReport) -> list[GateRow]:
    """The rows with those that block first, then by outcome; rows of equal urgency keep their order."""
    return sorted(
        report.rows, key=lambda row: (row.outcome == "PASS", row.severity == "warn", _ORDER.index(row.outcome))
    )


def headline(report: GateReport) -> str:
    """One line: the outcome of the policy and how many rows had which outcome."""
    counts = {outcome: sum(row.outcome == outcome for row in report.rows) for outcome in _ORDER}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"{report.policy}: {'passed' if report.passed else 'failed'} ({told})"


def markdown(report: GateReport, limit: int = _MARKDOWN_LIMIT) -> str:
    """A table, most urgent rows first; rows that would take it over ``limit`` bytes of UTF-8 are counted instead."""
    columns = "| Outcome | Severity | Measurement | Rule | Evidence |\n|---|---|---|---|---|\n"
    head = f"### {_cell(headline(report))}\n\n{columns}"
    lines, size = [head], len(head.encode()) + 100
    rows = by_urgency(report)
    for place, row in enumerate(rows):
        cells = (row.outcome, row.severity, row.address, row.rule, row.evidence)
        line = f"| {' | '.join(map(_cell, cells))} |\n"
        size += len(line.encode())
        if size > limit:
            lines.append(f"\n{len(rows) - place:,} more rows are left out here.\n")
            break
        lines.append(line)
    return "".join(lines)


def _cell(text: str) -> str:
    """Text that Markdown and the HTML inside it take literally, on one line."""
    text = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)


def junit(report: GateReport) -> str:
    """One test case a row: rows that block are failures, other rows that do not pass are skipped tests."""
    failing = [row for row in report.rows if row.outcome != "PASS" and row.severity == "fail"]
    skipped = [row for row in report.rows if row.outcome != "PASS" and row.severity == "warn"]
    counts = {"tests": len(report.rows), "failures": len(failing), "errors": 0, "skipped": len(skipped)}
    attributes = {"name": _legal(report.policy), **{key: str(count) for key, count in counts.items()}}
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", attributes)
    for row in report.rows:
        name = f"{_legal(row.address)} {row.rule}"
        case = ElementTree.SubElement(suite, "testcase", {"classname": "lorascope.gate", "name": name})
        message = f"{row.outcome}: {_legal(row.evidence)}"
        if row.outcome == "PASS":
            ElementTree.SubElement(case, "system-out").text = message
        else:
            ElementTree.SubElement(case, "failure" if row.severity == "fail" else "skipped", {"message": message})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _legal(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
