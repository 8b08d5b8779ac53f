from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
import xmlschema
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lorascope.errors import ConfigError
from lorascope.gates.outputs import (
    as_json,
    github_annotations,
    github_error,
    headline,
    junit,
    markdown,
    markdown_error,
    one_line,
    open_metrics,
)
from lorascope.schema.gates import GateReport, GateRow

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).parents[2] / "reference" / "junit.xsd"))
HOSTILE = 'a|b\n<img src=x>:*c*,100 %@team\r::error::"\\ https://x.y \x00\x1b\ud800]]>'


def row(
    outcome: str, severity: str = "fail", address: str = "lora:a.b", evidence: str = "why", **more: object
) -> GateRow:
    return GateRow(
        address=address, rule="min = 1 (strict)", outcome=outcome, severity=severity, evidence=evidence, **more
    )


REPORT = GateReport(
    policy="gates.toml",
    passed=False,
    rows=[
        row("PASS", value=0.5, low=0.4, high=0.6, limit=0.3, n=40),
        row("INCONCLUSIVE", "warn", "lora:c.d", needed_n=1500),
        row("FAIL", "warn", "lora:e.f"),
        row("MISSING", address="lora:g.h"),
        row("FAIL", address="lora:i.j", line=7, value=-0.1),
        row("INVALID", address="lora:k.l"),
        row("PASS", address="lora:m.n", warning="too good", line=3),
    ],
    confidence=0.95,
    baseline="baseline.json",
    warnings=["torch 2.1 there, 2.2 here"],
)
WORST = GateReport(
    policy=HOSTILE, passed=False, rows=[row("FAIL", address=HOSTILE + ".b", evidence=HOSTILE)], warnings=[HOSTILE]
)


def test_the_headline_counts_outcomes_by_urgency() -> None:
    assert (
        headline(REPORT)
        == "gates.toml: failed (1 FAIL, 1 INVALID, 1 MISSING block; 1 FAIL, 1 INCONCLUSIVE warn; 2 PASS)"
    )
    assert headline(GateReport(policy="g", passed=True, rows=[])) == "g: passed (no rows)"


def test_markdown_says_first_what_it_comes_to_and_what_blocks() -> None:
    text = markdown(REPORT)
    assert "**3 of 7 checks block, 1 of them because the two sides cannot be compared.**" in text
    assert "against the baseline baseline.json, with one-sided bounds at 95 %" in text
    assert "- torch 2.1 there, 2.2 here" in text
    table = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")]
    assert table[1:] == [
        ["| FAIL", "yes"], ["| INVALID", "yes"], ["| MISSING", "yes"], ["| FAIL", "no"],
        ["| INCONCLUSIVE", "no"], ["| PASS", "–"], ["| PASS", "–"],
    ]  # fmt: skip
    assert "why; note: too good" in text


def test_markdown_says_when_nothing_blocks() -> None:
    text = markdown(GateReport(policy="g", passed=True, rows=[row("PASS")]))
    assert "Nothing blocks. Drops and gains are those against the reference of the same run." in text


def test_markdown_takes_names_literally() -> None:
    lines = [line for line in markdown(WORST).splitlines() if line.startswith("| FAIL")]
    (line,) = lines
    assert r"a\|b &lt;img src=x>:\*c\*" in line
    assert "@team" not in line
    assert "https://" not in line
    assert len(re.findall(r"(?<!\\)\|", line)) == 6


def test_markdown_stays_under_the_platform_limit() -> None:
    report = GateReport(policy="g", passed=False, rows=[row("FAIL", evidence="é" * 400)] * 3000)
    text = markdown(report)
    assert len(text.encode()) < 1024 * 1024
    shown = text.count("| FAIL |")
    assert 0 < shown < 3000
    assert f"{3000 - shown:,} more rows are left out here" in text


def test_junit_counts_and_tells_each_row() -> None:
    suite = fromstring(junit(REPORT)).find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "7", "failures": "2", "errors": "1", "skipped": "2",
    }  # fmt: skip
    kinds = [[child.tag for child in case] for case in suite.iter("testcase")]
    assert kinds == [
        ["system-out"], ["skipped"], ["skipped"], ["failure"], ["failure"], ["error"], ["system-out"],
    ]  # fmt: skip
    assert "note: too good" in [case.findtext("system-out") or "" for case in suite.iter("testcase")][-1]


@pytest.mark.parametrize(
    "report", [REPORT, WORST, GateReport(policy="g", passed=True, rows=[])], ids=["mixed", "hostile", "empty"]
)
def test_junit_follows_its_schema(report: GateReport) -> None:
    SCHEMA.validate(junit(report))


def test_the_schema_of_junit_refuses_what_is_none() -> None:
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        SCHEMA.validate(junit(REPORT).replace('tests="7"', ""))
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        SCHEMA.validate(junit(REPORT).replace("<error ", "<invalid ").replace("</error>", "</invalid>"))


def test_junit_gives_gates_alike_names_of_their_own() -> None:
    alike = [row("PASS", line=3), row("FAIL", line=9), row("FAIL"), row("PASS"), row("PASS", address="lora:c.d")]
    suite = fromstring(junit(GateReport(policy="g", passed=False, rows=alike)))[0]
    plain = "lora:a.b min = 1 (strict)"
    assert [case.get("name") for case in suite.iter("testcase")] == [
        f"{plain} (line 3)", f"{plain} (line 9)", plain, f"{plain} (2)", "lora:c.d min = 1 (strict)",
    ]  # fmt: skip


def test_the_limit_of_a_drop_has_the_sign_of_its_value() -> None:
    drop = row("PASS", limit=0.02, value=-0.01).model_copy(update={"rule": "max_drop = 0.02 (significant)"})
    text = open_metrics(GateReport(policy="g", passed=True, rows=[drop, row("PASS", address="b.c", limit=0.3)]))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [sample.value for sample in families["lorascope_gate_limit"].samples] == [-0.02, 0.3]
    assert "max_drop with a minus sign" in families["lorascope_gate_limit"].documentation


def test_one_row_blocks_and_several_block() -> None:
    text = markdown(GateReport(policy="g", passed=False, rows=[row("FAIL")]))
    assert "1 of 1 checks blocks" in text
    assert "g: failed (1 FAIL blocks)" in text


def test_an_error_is_one_command_and_one_line() -> None:
    error = ConfigError("line 4: 100 %\n::stop", where="ci/gates.toml, line 4", remedy="correct <it>")
    said = github_error(error)
    assert said == "::error title=lorascope gate::line 4: 100 %25%0A::stop (ci/gates.toml, line 4; correct <it>)\n"
    line = markdown_error(error)
    assert line.strip().count("\n") == 0
    assert "&lt;it>" in line
    assert markdown_error(ConfigError("a")).startswith("### lorascope gate could not judge: a\n")


def test_json_is_the_report_with_its_exit_code() -> None:
    document = json.loads(as_json(REPORT, 3))
    assert document.pop("exit_code") == 3
    assert GateReport.model_validate(document) == REPORT


def test_annotations_stand_at_the_policys_lines_errors_first() -> None:
    lines = github_annotations(REPORT, "ci/gates.toml").splitlines()
    assert lines[0] == "::error file=ci/gates.toml,line=7,title=FAIL lora%3Ai.j::min = 1 (strict): why"
    assert [line.split(" ")[0] for line in lines] == ["::error"] * 3 + ["::warning"] * 4
    assert "too good" in lines[5]
    assert "torch 2.1" in lines[6]
    assert github_annotations(GateReport(policy="g", passed=True, rows=[row("PASS")]), "g") == ""


def test_annotations_are_ten_at_most_and_the_last_counts_the_others() -> None:
    report = GateReport(policy="g", passed=False, rows=[row("FAIL", address=f"a.b{n}") for n in range(25)])
    lines = github_annotations(report, "g").splitlines()
    assert len(lines) == 10
    assert "16 more are not shown here: g: failed (25 FAIL block)" in lines[-1]
    exactly = GateReport(policy="g", passed=False, rows=report.rows[:10])
    assert "more are not shown" not in github_annotations(exactly, "g")


def test_an_annotation_is_one_command_whatever_its_text_holds() -> None:
    text = github_annotations(WORST, "a,b:c%\n.toml")
    assert text.count("\n") == 2
    for line in text.splitlines():
        head, _, message = line.removeprefix("::").partition("::")
        assert head.startswith(("error file=a%2Cb%3Ac%25%0A.toml,title=", "warning file=a%2Cb%3Ac%25%0A.toml,title="))
        assert "\r" not in message
        assert "100 %25@team%0D" in message


def test_open_metrics_are_read_back() -> None:
    text = open_metrics(REPORT)
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    outcomes = [
        (sample.labels["address"], sample.labels["lorascope_gate_outcome"])
        for sample in families["lorascope_gate_outcome"].samples
        if sample.value == 1
    ]
    assert outcomes == [(each.address, each.outcome) for each in REPORT.rows]
    assert [sample.value for sample in families["lorascope_gate_passed"].samples] == [0]
    values = {sample.labels["address"]: sample.value for sample in families["lorascope_gate_value"].samples}
    assert values == {"lora:a.b": 0.5, "lora:i.j": -0.1}
    assert [sample.value for sample in families["lorascope_gate_items"].samples] == [40]


def test_open_metrics_survive_hostile_names_and_gates_given_twice() -> None:
    report = GateReport(policy=HOSTILE, passed=False, rows=[*WORST.rows, *WORST.rows])
    families = {family.name: family for family in text_string_to_metric_families(open_metrics(report))}
    assert len(families["lorascope_gate_outcome"].samples) == 5


def test_open_metrics_labels_hold_no_control_characters() -> None:
    text = open_metrics(GateReport(policy="a\rb\x1b[31m", passed=False, rows=WORST.rows))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", text)


@pytest.mark.parametrize("name", ["www.evil.com", "WWW.evil.com", "$x^2$", "#12", "GH-12", "a/b#12", "ftp://e.com"])
def test_markdown_makes_no_link_and_no_formula_of_a_name(name: str) -> None:
    report = GateReport(policy="g", passed=False, rows=[row("FAIL", evidence=name)])
    (line,) = [line for line in markdown(report).splitlines() if line.startswith("| FAIL")]
    assert not re.search(r"www\.|\$|#\d|gh-\d|://", line.replace("&#36;", ""), flags=re.IGNORECASE)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n::stop-commands::x", "a : :stop-commands: :x"),
        (":::x", ": : :x"),
        ("a ##[error]b", "a ## [error]b"),
        ("a\x1b]0;title\x07b", r"a\x1b]0;title\x07b"),
        ("\u202ertl\u2028next", r"\u202ertl next"),
        ("\udcff", r"\udcff"),
        ("lora:support.f1 ≥ 0.5", "lora:support.f1 ≥ 0.5"),
    ],
)
def test_one_line_commands_nothing(text: str, line: str) -> None:
    assert one_line(text) == line
