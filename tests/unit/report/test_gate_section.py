"""Gates in the report: every outcome with its sign and numbers, the most urgent first."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from lorascope.report.gate_section import GATE_SYMBOLS, gate_context, gate_headline
from lorascope.report.html import render_html
from lorascope.report.texts import load_texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.gates import OUTCOMES, GateReport, GateRow

EN = load_texts("en")


@pytest.fixture
def bare(factory: ModuleType) -> Comparison:
    """Checkpoints and nothing else, which renders fast."""
    base = factory.checkpoint("llama-tiny", role="base", kind="model", method=None)
    return factory.comparison([base, factory.checkpoint("lora-r16")])


def row(outcome: str, **changed: object) -> GateRow:
    values = {"address": f"support.{outcome.lower()}", "rule": "max_drop 0.02", "severity": "fail", "evidence": "said"}
    return GateRow.model_validate({"outcome": outcome, **values, **changed})


def report(*rows: GateRow, passed: bool = False, **changed: object) -> GateReport:
    return GateReport.model_validate({"policy": "gates.toml", "passed": passed, "rows": list(rows), **changed})


def section(comparison: Comparison, gates: GateReport, language: str = "en") -> str:
    comparison.gates = gates
    html = render_html(comparison, None, language="zh" if language == "zh" else "en")
    found = re.search(r'<section id="gates".*?</section>', html, re.DOTALL)
    assert found is not None
    return re.sub(r"\s+", " ", found.group(0)).replace("\u00a0", " ")


def test_every_outcome_has_a_sign_and_a_meaning() -> None:
    assert set(GATE_SYMBOLS) == set(OUTCOMES)
    assert len(set(GATE_SYMBOLS.values())) == len(OUTCOMES)
    for language in ("en", "zh"):
        assert all(load_texts(language)(f"gates.means.{outcome}") for outcome in OUTCOMES)


def test_rows_are_sorted_by_urgency(bare: Comparison) -> None:
    rows = [
        row("PASS"), row("INCONCLUSIVE", severity="warn"), row("MISSING"), row("FAIL", severity="warn"), row("INVALID"),
        row("FAIL"), row("INCONCLUSIVE"),
    ]  # fmt: skip
    bare.gates = report(*rows)
    views = gate_context(bare, EN)["gates"].rows
    assert [(view.row.outcome, view.row.severity) for view in views] == [
        ("FAIL", "fail"), ("INVALID", "fail"), ("MISSING", "fail"), ("INCONCLUSIVE", "fail"), ("FAIL", "warn"),
        ("INCONCLUSIVE", "warn"), ("PASS", "fail"),
    ]  # fmt: skip
    assert [view.blocks for view in views] == [True] * 4 + [False] * 3


@pytest.mark.parametrize(
    ("gates", "state"),
    [
        (report(row("PASS"), passed=True), "passed"),
        (report(row("FAIL"), row("PASS")), "failed"),
        (report(row("FAIL"), row("INVALID")), "invalid"),
        (report(row("INVALID", severity="warn"), passed=True), "passed"),
        (report(row("INVALID", severity="warn"), row("FAIL")), "failed"),
        (report(row("MISSING")), "failed"),
    ],
)
def test_the_headline(bare: Comparison, gates: GateReport, state: str) -> None:
    bare.gates = gates
    assert gate_context(bare, EN)["gates"].state == state
    assert gate_headline(gates, EN).startswith(EN(f"gates.{state}"))


def test_the_headline_counts() -> None:
    gates = report(row("PASS"), row("PASS"), row("FAIL"), row("INVALID"))
    assert gate_headline(gates, EN) == f"{EN('gates.invalid')} (1 FAIL, 1 INVALID, 2 PASS)"
    assert gate_headline(report(passed=True), EN) == f"{EN('gates.passed')} ({EN('gates.no_rows')})"


def test_every_number_is_shown(bare: Comparison) -> None:
    shown = section(
        bare,
        report(
            row("FAIL", value=-0.117, low=-0.155, high=-0.079, limit=0.03, n=240, p_value=0.0002, p_adjusted=0.004,
                line=11, warning="an implausible gain"),
            row("INCONCLUSIVE", value=0.011, low=-0.025, high=0.046, limit=0.02, n=96, needed_n=1544, p_value=0.61,
                p_adjusted=0.61),
            row("PASS", rule="max 12", value=3.0, limit=12.0, n=29, severity="warn"),
            row("INVALID", evidence="the prompt's fingerprint differs", limit=0.02),
            row("MISSING", evidence="nearest: support.rougeL"),
            confidence=0.95, baseline="baseline.json", warnings=["transformers differs: 5.20 and 5.23"],
        ),
    )  # fmt: skip
    for words in (
        "✕</span> FAIL 1", "⊘</span> INVALID 1", "∅</span> MISSING 1", "?</span> INCONCLUSIVE 1", "✓</span> PASS 1",
        "−0.117<small>[−0.155, −0.079]", ">0.03<", ">240<", "one-sided p 0.004, adjusted for the gate", "· line 11",
        "! an implausible gain", "+0.011", "1,544 would decide", "one-sided p 0.610", ">3<", ">12<",
        "the prompt&#39;s fingerprint differs", "nearest: support.rougeL", "baseline.json", "95 %",
        "transformers differs: 5.20 and 5.23", "blocks", "There is no comparison".lower(),
    ):  # fmt: skip
        assert words in shown or words in shown.lower(), words


def test_results_with_outcomes_alone_have_no_empty_columns(bare: Comparison, causal: Comparison) -> None:
    assert causal.gates is not None
    shown = section(bare, causal.gates)
    assert "A gate failed" in shown
    assert f">{EN('gates.limit')}<" not in shown
    assert f">{EN('full.n')}<" not in shown
    assert EN("gates.own_reference") in shown


def test_a_policy_without_rows_and_no_policy(bare: Comparison) -> None:
    shown = section(bare, report(passed=True))
    assert "<table" not in shown
    assert EN("gates.no_rows") in shown
    bare.gates = None
    assert '<section id="gates"' not in render_html(bare, None)
    assert gate_context(bare, EN) == {"gates": None}


def test_the_section_in_chinese(bare: Comparison) -> None:
    shown = section(bare, report(row("INVALID", limit=0.02)), "zh")
    assert "有门禁没有有效的比较对象" in shown
    assert "无法比较" in shown
