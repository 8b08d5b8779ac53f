"""The outcome as JUnit XML, for the test view of a CI system."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree

from lorascope.gates.outputs.urgency import blocks
from lorascope.schema.gates import GateReport, GateRow

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: GateReport) -> str:
    """One test case a rule and measurement.

    A row that blocks is a failure; an INVALID one an error, as JUnit calls a test that could not be carried out. Rows
    that do not pass without blocking are skipped tests: JUnit knows no warning.
    """
    kinds = [_kind(row) for row in report.rows]
    counts = {
        "tests": len(kinds),
        "failures": kinds.count("failure"),
        "errors": kinds.count("error"),
        "skipped": kinds.count("skipped"),
    }
    suites = ElementTree.Element("testsuites")
    attributes = {"name": _legal(report.policy), **{key: str(count) for key, count in counts.items()}}
    suite = ElementTree.SubElement(suites, "testsuite", attributes)
    for row, name, kind in zip(report.rows, _names(report.rows), kinds, strict=True):
        _case(suite, row, name, kind)
    if report.warnings:
        ElementTree.SubElement(suite, "system-out").text = _legal("\n".join(report.warnings))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _kind(row: GateRow) -> str | None:
    if row.outcome == "PASS":
        return None
    if blocks(row):
        return "error" if row.outcome == "INVALID" else "failure"
    return "skipped"


def _names(rows: Sequence[GateRow]) -> list[str]:
    """One name a case: views of tests keep one of two that are called the same. Gates alike differ by their line."""
    plain = [_legal(f"{row.address} {row.rule}") for row in rows]
    shared, seen = Counter(plain), Counter[str]()
    names = []
    for name, row in zip(plain, rows, strict=True):
        told = f"{name} (line {row.line})" if shared[name] > 1 and row.line is not None else name
        seen[told] += 1
        names.append(told if seen[told] == 1 else f"{told} ({seen[told]})")
    return names


def _case(suite: ElementTree.Element, row: GateRow, name: str, kind: str | None) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"classname": "lorascope.gate", "name": name})
    message = _legal(f"{row.outcome}: {row.evidence}")
    if kind is not None:
        ElementTree.SubElement(case, kind, {"type": row.outcome, "message": message})
    said = [message] if kind is None else []
    if row.warning:
        said.append(_legal(f"note: {row.warning}"))
    if said:
        ElementTree.SubElement(case, "system-out").text = "\n".join(said)


def _legal(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
