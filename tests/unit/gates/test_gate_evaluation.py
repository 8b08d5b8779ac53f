from __future__ import annotations

from collections.abc import Callable

import pytest

from lorascope.errors import ConfigError
from lorascope.gates import evaluate
from lorascope.schema.comparison import Comparison, GateRow, Measurement, Missing, Slice
from lorascope.schema.policy import GatePolicy, parse_policy

Build = Callable[..., Measurement]
Result = Callable[..., Comparison]
Z = 1.6448536269514722 / 1.959963984540054


def policy(metric: str, *lines: str, head: str = "") -> GatePolicy:
    return parse_policy("\n".join(["version = 1", head, "[[gate]]", f'metric = "{metric}"', *lines]))


def rows_of(metric: str, *lines: str, comparison: Comparison, head: str = "") -> list[GateRow]:
    return evaluate(policy(metric, *lines, head=head), comparison).rows


def test_one_sided_bounds_come_from_the_two_sided_interval(measured: Build, result: Result) -> None:
    # The two-sided low of -0.021 misses the limit, the one-sided bound of -0.01762 meets it.
    comparison = result(measured(delta=(0.0, -0.021, 0.021)))
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", comparison=comparison)
    assert row.outcome == "PASS"
    assert f"{-0.021 * Z:+.4g}" in row.evidence
    assert "two-sided 95 %" in row.evidence
    assert row.address == "lora:support.accuracy"
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", comparison=comparison, head="confidence = 0.99")
    assert row.outcome == "INCONCLUSIVE"


def test_bounds_keep_the_interval_lopsided(measured: Build, result: Result) -> None:
    comparison = result(measured(delta=(0.0, -0.01, 0.08)))
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", comparison=comparison)
    assert f"{-0.01 * Z:+.4g} to {0.08 * Z:+.4g}" in row.evidence


def test_sign_turns_where_lower_is_better(measured: Build, result: Result) -> None:
    worse = result(measured("mse", delta=(0.1, 0.08, 0.12), direction="lower"))
    assert rows_of("support.mse", "max_drop = 0.02", comparison=worse)[0].outcome == "FAIL"
    better = result(measured("mse", delta=(-0.1, -0.12, -0.08), direction="lower"))
    assert rows_of("support.mse", "min_gain = 0.05", comparison=better)[0].outcome == "PASS"


def test_min_and_max_read_the_estimate_in_its_own_sign(measured: Build, result: Result) -> None:
    comparison = result(measured("mse", own=(0.7, 0.66, 0.74), direction="lower"))
    rows = rows_of("support.mse", "min = 0.6", "max = 0.65", comparison=comparison)
    assert [(row.rule.split()[0], row.outcome) for row in rows] == [("min", "PASS"), ("max", "FAIL")]


def test_address_without_subject_holds_for_all(measured: Build, result: Result) -> None:
    both = {"lora": "h1", "full": "h2"}
    comparison = result(measured(delta=(0.0, -0.01, 0.01)), hashes=both)
    report = evaluate(policy("support.accuracy", "max_drop = 0.02"), comparison)
    assert [(row.address, row.outcome) for row in report.rows] == [
        ("lora:support.accuracy", "PASS"),
        ("full:support.accuracy", "MISSING"),
    ]
    assert not report.passed
    assert evaluate(policy("lo*:support.accuracy", "max_drop = 0.02"), comparison).passed
    assert not evaluate(policy("other:support.accuracy", "max_drop = 0.02"), comparison).passed


def test_patterns_name_areas_tasks_and_metrics(measured: Build, result: Result) -> None:
    comparison = result(
        measured("accuracy", delta=(0.0, -0.01, 0.01), area="forgetting", task="knowledge"),
        measured("rougeL", delta=(0.0, -0.01, 0.01)),
    )
    for address, found in {
        "forgetting.*": ["lora:knowledge.accuracy"],
        "knowledge.accuracy": ["lora:knowledge.accuracy"],
        "*.rouge*": ["lora:support.rougeL"],
        "*.*": ["lora:knowledge.accuracy", "lora:support.rougeL"],
        "support.rouge?": ["lora:support.rouge?"],
    }.items():
        rows = rows_of(address, "max_drop = 0.02", comparison=comparison)
        assert [row.address for row in rows] == found, address


def test_brackets_and_question_marks_are_plain_text(measured: Build, result: Result) -> None:
    one = measured(slice=Slice(by="label", value="[why?]"))
    other = measured(slice=Slice(by="label", value="w"))
    rows = rows_of("lora[1]:support.accuracy@label=[why?]", "min = 0.1", comparison=result(one, other))
    assert [row.outcome for row in rows] == ["MISSING"]
    named = [each.model_copy(update={"subject": "lora[1]"}) for each in (one, other)]
    rows = rows_of(
        "lora[1]:support.accuracy@label=[why?]", "min = 0.1", comparison=result(*named, hashes={"lora[1]": "h"})
    )
    assert [(row.address, row.outcome) for row in rows] == [("lora[1]:support.accuracy@label=[why?]", "PASS")]


def test_slices_are_judged_only_when_named(measured: Build, result: Result) -> None:
    tuned = measured(own=(0.5, 0.4, 0.6), slice=Slice(by="threshold", value="tuned"))
    comparison = result(measured(own=(0.9, 0.8, 0.95)), tuned)
    assert len(rows_of("support.accuracy", "min = 0.1", comparison=comparison)) == 1
    for address in ("support.accuracy@tuned", "support.accuracy@threshold=tuned", "support.accuracy@*"):
        (row,) = rows_of(address, "min = 0.1", comparison=comparison)
        assert row.address == "lora:support.accuracy@threshold=tuned"


def test_reference_is_the_base_else_the_only_other(measured: Build, result: Result) -> None:
    to_full = measured(delta=(-0.5, -0.6, -0.4), reference="full")
    to_base = measured(delta=(0.0, -0.01, 0.01))
    headless = measured(missing_reason="the base has no trained head")
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", comparison=result(to_full, to_base))
    assert (row.outcome, "against base" in row.evidence) == ("PASS", True)
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", comparison=result(to_full, headless))
    assert (row.outcome, "against full" in row.evidence) == ("FAIL", True)
    other = measured(delta=(0.0, -0.01, 0.01), reference="third")
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", comparison=result(to_full, other, headless))
    assert (row.outcome, row.evidence) == ("MISSING", "the base has no trained head")


@pytest.mark.parametrize(("head", "severity", "passed"), [("", "fail", False), ('on_missing = "warn"', "warn", True)])
def test_missing_fails_unless_told_to_warn(result: Result, head: str, severity: str, passed: bool) -> None:
    comparison = result(missing=[Missing(area="drift", subject=None, reason="a decoder")])
    report = evaluate(policy("drift.cosine", "min = 0.9", head=head), comparison)
    assert (report.rows[0].outcome, report.rows[0].severity, report.passed) == ("MISSING", severity, passed)
    assert report.rows[0].evidence == "a decoder"


@pytest.mark.parametrize(("head", "passed"), [("", True), ('on_inconclusive = "fail"', False)])
def test_inconclusive_warns_unless_told_to_fail(measured: Build, result: Result, head: str, passed: bool) -> None:
    report = evaluate(
        policy("support.accuracy", "max_drop = 0.02", head=head), result(measured(delta=(0.0, -0.1, 0.1)))
    )
    assert (report.rows[0].outcome, report.passed) == ("INCONCLUSIVE", passed)


def test_warning_gate_never_blocks(measured: Build, result: Result) -> None:
    comparison = result(measured(delta=(-0.5, -0.6, -0.4)))
    report = evaluate(policy("support.accuracy", "max_drop = 0.02", 'severity = "warn"'), comparison)
    assert (report.rows[0].outcome, report.rows[0].severity, report.passed) == ("FAIL", "warn", True)


def test_too_few_items_do_not_pass_but_may_fail(measured: Build, result: Result) -> None:
    lines = ("max_drop = 0.02", "min_n = 501")
    (row,) = rows_of("support.accuracy", *lines, comparison=result(measured(delta=(0.0, -0.01, 0.01))))
    assert (row.outcome, "501 items" in row.evidence) == ("INCONCLUSIVE", True)
    (row,) = rows_of("support.accuracy", *lines, comparison=result(measured(delta=(-0.5, -0.6, -0.4))))
    assert row.outcome == "FAIL"


def test_counted_values_need_no_interval(measured: Build, result: Result) -> None:
    counted = measured("intruder_count", own=(12, None, None), area="weights", task=None, direction="lower", n=28)
    comparison = result(counted)
    assert rows_of("weights.intruder_count", "max = 12", "min_n = 99", comparison=comparison)[0].outcome == "PASS"
    assert rows_of("weights.intruder_count", "max = 11", comparison=comparison)[0].outcome == "FAIL"


def test_sampled_values_need_an_interval(measured: Build, result: Result) -> None:
    comparison = result(measured(own=(0.9, None, None), n=1))
    assert rows_of("support.accuracy", "min = 0.1", comparison=comparison)[0].outcome == "INCONCLUSIVE"


def test_scorer_that_always_says_one_does_not_pass(measured: Build, result: Result) -> None:
    comparison = result(measured(own=(1.0, 1.0, 1.0), delta=(0.0, 0.0, 0.0)), measured("f1", delta=(0.1, 0.0, 0.2)))
    rows = rows_of("support.accuracy", "min = 0.5", "max_drop = 0.1", comparison=comparison)
    assert {row.outcome for row in rows} == {"INCONCLUSIVE"}


def test_adapter_that_changes_nothing_fails(measured: Build, result: Result) -> None:
    still = (0.0, 0.0, 0.0)
    comparison = result(measured(delta=still), measured("gold_margin", delta=still))
    rows = rows_of("support.accuracy", "min = 0.5", "max_drop = 0.1", comparison=comparison)
    assert {row.outcome for row in rows} == {"FAIL"}
    assert "not applied" in rows[0].evidence


def test_drop_without_a_better_direction_is_a_policy_error(measured: Build, result: Result) -> None:
    comparison = result(measured("kl_to_base", delta=(0.1, 0.0, 0.2), direction="none"))
    with pytest.raises(ConfigError, match=r"gates.toml, line 3"):
        rows_of("support.kl_to_base", "max_drop = 0.1", comparison=comparison)


def test_patterns_leave_out_what_has_no_drop(measured: Build, result: Result) -> None:
    rate = measured("forgotten_rate", area="forgetting", task="knowledge", direction="lower")
    divergence = measured("kl_to_base", delta=(0.1, 0.0, 0.2), area="forgetting", task="knowledge", direction="none")
    kept = measured(delta=(0.0, -0.01, 0.01), area="forgetting", task="knowledge")
    failed = measured("rouge1", own=None, area="forgetting", task="knowledge", missing_reason="out of memory")
    rows = rows_of("forgetting.*", "max_drop = 0.03", comparison=result(rate, divergence, kept, failed))
    assert [(row.address, row.outcome) for row in rows] == [
        ("lora:knowledge.accuracy", "PASS"),
        ("lora:knowledge.rouge1", "MISSING"),
    ]
    (row,) = rows_of("forgetting.*", "max_drop = 0.03", comparison=result(rate))
    assert row.outcome == "MISSING"
    (row,) = rows_of("knowledge.forgotten_rate", "max_drop = 0.03", comparison=result(rate))
    assert (row.outcome, "use min or max" in row.evidence) == ("MISSING", True)


def test_empty_result_does_not_pass(result: Result) -> None:
    assert not evaluate(policy("*.*", "min = 0"), result()).passed
