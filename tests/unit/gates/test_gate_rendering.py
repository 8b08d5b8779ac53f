from __future__ import annotations

from xml.etree.ElementTree import fromstring

from lorascope.gates import junit, markdown
from lorascope.schema.comparison import GateReport, GateRow


def row(outcome: str, severity: str = "fail", address: str = "lora:a.b", evidence: str = "why") -> GateRow:
    return GateRow(address=address, rule="min = 1 (strict)", outcome=outcome, severity=severity, evidence=evidence)


REPORT = GateReport(
    policy="gates.toml",
    passed=False,
    rows=[row("PASS"), row("INCONCLUSIVE", "warn"), row("FAIL", "warn"), row("MISSING"), row("FAIL")],
)


def test_markdown_begins_with_what_blocks() -> None:
    text = markdown(REPORT)
    assert "gates.toml: failed (2 FAIL, 1 MISSING, 1 INCONCLUSIVE, 1 PASS)" in text
    outcomes = [line.split(" | ")[:2] for line in text.splitlines()[4:]]
    assert outcomes == [
        ["| FAIL", "fail"], ["| MISSING", "fail"], ["| FAIL", "warn"], ["| INCONCLUSIVE", "warn"], ["| PASS", "fail"],
    ]  # fmt: skip


def test_markdown_takes_names_literally() -> None:
    text = markdown(GateReport(policy="g", passed=True, rows=[row("PASS", address="a|b\n<img src=x>:*c*.d")]))
    (line,) = text.splitlines()[4:]
    assert r"a\|b &lt;img src=x>:\*c\*.d" in line


def test_markdown_stays_under_the_platform_limit() -> None:
    report = GateReport(policy="g", passed=False, rows=[row("FAIL", evidence="é" * 400)] * 3000)
    text = markdown(report)
    assert len(text.encode()) < 1024 * 1024
    assert "more rows are left out here" in text
    shown = text.count("| FAIL |")
    assert f"{3000 - shown:,} more rows" in text


def test_junit_counts_and_tells_each_row() -> None:
    suite = fromstring(junit(REPORT)).find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "2", "errors": "0", "skipped": "2",
    }  # fmt: skip
    kinds = [[child.tag for child in case] for case in suite.iter("testcase")]
    assert kinds == [["system-out"], ["skipped"], ["skipped"], ["failure"], ["failure"]]


def test_junit_survives_what_xml_forbids() -> None:
    report = GateReport(policy="g\x00", passed=True, rows=[row("FAIL", address="<a>&\x1b\ud800.b", evidence="]]>\x07")])
    case = next(fromstring(junit(report)).iter("testcase"))
    assert str(case.get("name")).startswith("<a>&\ufffd\ufffd.b")
