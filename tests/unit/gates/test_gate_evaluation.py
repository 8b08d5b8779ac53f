from __future__ import annotations

from collections.abc import Callable

import pyarrow
import pytest

from lorascope.errors import ConfigError
from lorascope.gates import Baseline, evaluate, exit_code
from lorascope.gates.plausibility import check_policy
from lorascope.schema.comparison import Comparison, Measurement, Missing, Slice
from lorascope.schema.gates import GateReport, GateRow, Outcome
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
    counted = measured(
        "intruder_count", own=(12, None, None), area="weights", task=None, direction="lower", n=28, scale="0-inf"
    )  # fmt: skip
    comparison = result(counted)
    assert rows_of("weights.intruder_count", "max = 12", "min_n = 99", comparison=comparison)[0].outcome == "PASS"
    assert rows_of("weights.intruder_count", "max = 11", comparison=comparison)[0].outcome == "FAIL"


def test_sampled_values_need_an_interval(measured: Build, result: Result) -> None:
    comparison = result(measured(own=(0.9, None, None), n=1))
    assert rows_of("support.accuracy", "min = 0.1", comparison=comparison)[0].outcome == "INCONCLUSIVE"


def test_scorer_that_always_says_one_does_not_pass(measured: Build, result: Result) -> None:
    comparison = result(measured(own=(1.0, 1.0, 1.0), delta=(0.0, 0.0, 0.0)), measured("f1", delta=(0.1, 0.0, 0.2)))
    rows = rows_of("support.accuracy", "min = 0.5", "max_drop = 0.1", comparison=comparison)
    assert {row.outcome for row in rows} == {"FAIL"}


@pytest.mark.parametrize(
    ("score", "method"),
    [(1.0, "wilson"), (0.0, "wilson"), (0.5, "none: resamples do not vary or are undefined")],
)
def test_constant_scorer_does_not_pass_with_the_interval_of_unseen_exceptions(
    score: float, method: str, measured: Build, result: Result
) -> None:
    # What a comparison says of 500 items that score alike on both sides while the answers differ.
    low, high = (max(score - 0.0076, 0.0), min(score + 0.0076, 1.0)) if method == "wilson" else (None, None)
    same = measured(own=(score, low, high), delta=(0.0, -0.0076, 0.0076))
    assert same.adapted is not None
    estimate = same.adapted.model_copy(update={"method": method})
    same = same.model_copy(update={"base": estimate, "adapted": estimate})
    moved = measured("f1", delta=(0.1, 0.0, 0.2))
    limits = ("max_drop = 0.1", "min_gain = 0", "max = 0.9")
    rows = rows_of("support.accuracy", *limits, comparison=result(same, moved))
    lost = score == 0
    assert {row.outcome for row in rows} == {"INCONCLUSIVE" if lost else "FAIL"}
    assert all(("nothing is left to lose here" if lost else "more difficult items") in row.evidence for row in rows)
    better = same.model_copy(update={"base": estimate.model_copy(update={"value": 0.3})})
    rows = rows_of("support.accuracy", "max_drop = 0.1", comparison=result(better, moved))
    assert [row.outcome for row in rows] == ["PASS"]


def test_nothing_forgotten_is_an_answer(measured: Build, result: Result) -> None:
    rate = measured("forgotten_rate", own=(0.0, 0.0, 0.01), area="forgetting", direction="lower")
    moved = measured("f1", delta=(0.1, 0.0, 0.2))
    (row,) = rows_of("support.forgotten_rate", "max = 0.05", comparison=result(rate, moved))
    assert row.outcome == "PASS"


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


def test_row_holds_the_numbers_behind_it(measured: Build, result: Result) -> None:
    report = evaluate(policy("support.accuracy", "max_drop = 0.02"), result(measured(delta=(-0.01, -0.03, 0.02))))
    (row,) = report.rows
    assert row.value == -0.01
    assert row.low == pytest.approx(-0.01 - 0.02 * Z)
    assert row.high == pytest.approx(-0.01 + 0.03 * Z)
    assert (row.limit, row.n, row.line) == (0.02, 500, 3)
    assert row.needed_n is not None
    assert row.needed_n > 500
    assert f"{row.needed_n:,} items would decide" in row.evidence
    assert row.p_value is not None
    assert 0.2 < row.p_value < 0.3
    assert (row.p_adjusted, row.warning) == (None, None)
    assert (report.confidence, report.baseline, report.warnings) == (0.95, None, [])


def test_counted_and_missing_rows_hold_no_bounds(measured: Build, result: Result) -> None:
    counted = measured(
        "intruder_count", own=(12, None, None), area="weights", task=None, direction="lower", n=28, scale="0-inf"
    )  # fmt: skip
    (row,) = rows_of("weights.intruder_count", "max = 12", comparison=result(counted))
    assert (row.value, row.low, row.high, row.p_value, row.n) == (12, None, None, None, 28)
    (row,) = rows_of("weights.spikes", "max = 12", comparison=result(counted))
    assert (row.value, row.n, row.limit, row.line) == (None, None, 12, 3)


def test_own_confidence_of_a_gate_goes_first(measured: Build, result: Result) -> None:
    comparison = result(measured(delta=(0.0, -0.021, 0.021)))
    lines = ("max_drop = 0.02", "confidence = 0.99")
    assert rows_of("support.accuracy", *lines, comparison=comparison)[0].outcome == "INCONCLUSIVE"


def many(measured: Build, result: Result, count: int, p_value: float | None = None) -> Comparison:
    """One drop that is significant by itself (p about 0.02) among changes of nothing."""
    fallen = measured("m0", delta=(-0.03, -0.0586, -0.0014))
    assert fallen.delta is not None
    fallen = fallen.model_copy(update={"delta": fallen.delta.model_copy(update={"p_value": p_value})})
    return result(fallen, *(measured(f"m{place}", delta=(0.0, -0.03, 0.03)) for place in range(1, count)))


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg"])
def test_correction_counts_every_measurement_of_the_gate(measured: Build, result: Result, correction: str) -> None:
    lines = ("max_drop = 0.02", f'correction = "{correction}"')
    (alone,) = rows_of("support.*", *lines, comparison=many(measured, result, 1))
    assert (alone.outcome, alone.p_adjusted) == ("FAIL", alone.p_value)
    first = rows_of("support.*", *lines, comparison=many(measured, result, 5))[0]
    assert (first.outcome, f"by {correction}" in first.evidence.lower()) == ("INCONCLUSIVE", True)
    assert first.p_value is not None
    assert first.p_adjusted == pytest.approx(5 * first.p_value)
    uncorrected = rows_of("support.*", "max_drop = 0.02", comparison=many(measured, result, 5))[0]
    assert (uncorrected.outcome, uncorrected.p_adjusted) == ("FAIL", None)


def test_correction_takes_the_test_of_the_result_where_it_is_more_careful(measured: Build, result: Result) -> None:
    lines = ("max_drop = 0.02", 'correction = "holm"')
    (row,) = rows_of("support.*", *lines, comparison=many(measured, result, 1, p_value=0.12))
    assert (row.outcome, row.p_adjusted) == ("INCONCLUSIVE", pytest.approx(0.06))


def test_corrections_of_two_gates_do_not_mix(measured: Build, result: Result) -> None:
    gate = '[[gate]]\nmetric = "support.{}"\nmax_drop = 0.02\ncorrection = "holm"\n'
    gates = parse_policy("version = 1\n" + "".join(gate.format(f"m{place}") for place in range(5)))
    assert evaluate(gates, many(measured, result, 5)).rows[0].outcome == "FAIL"


def test_order_of_measurements_does_not_matter(measured: Build, result: Result) -> None:
    comparison = many(measured, result, 5)
    turned = comparison.model_copy(update={"measurements": comparison.measurements[::-1]})
    gates = policy("support.*", "max_drop = 0.02", 'correction = "holm"')
    one, other = ({row.address: row for row in evaluate(gates, each).rows} for each in (comparison, turned))
    assert one == other


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([("PASS", "fail"), ("FAIL", "warn"), ("INCONCLUSIVE", "warn")], 0),
        ([("PASS", "fail"), ("FAIL", "fail")], 1),
        ([("MISSING", "fail")], 1),
        ([("FAIL", "fail"), ("INVALID", "fail")], 3),
        ([("FAIL", "fail"), ("INVALID", "warn")], 1),
        ([("PASS", "fail"), ("INVALID", "warn")], 0),
    ],
)
def test_exit_code_follows_the_rows_that_block(outcomes: list[tuple[Outcome, str]], code: int) -> None:
    rows = [
        GateRow(address="a", rule="r", outcome=outcome, severity=severity, evidence="")  # type: ignore[arg-type]
        for outcome, severity in outcomes
    ]
    passed = not any(row.outcome != "PASS" and row.severity == "fail" for row in rows)
    assert exit_code(GateReport(policy="p", passed=passed, rows=rows)) == code


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("suport.acuracy", "nearest: support.accuracy"),
        ("support.acuracy@treshold=tuned", "nearest: support.accuracy@threshold=tuned"),
        ("lroa:support.accuracy", "its checkpoints: lora"),
    ],
)
def test_addresses_that_name_nothing_say_what_is_like_them(
    address: str, says: str, measured: Build, result: Result
) -> None:
    tuned = measured(slice=Slice(by="threshold", value="tuned"))
    (row,) = rows_of(address, "min = 0.1", comparison=result(measured(), tuned))
    assert row.outcome == "MISSING"
    assert says in row.evidence


@pytest.mark.parametrize(
    ("delta", "own", "fields", "says"),
    [
        ((0.45, 0.42, 0.48), (0.99, 0.98, 1.0), {"scale": "0-1"}, "of at most 0.46"),
        ((0.20, 0.15, 0.25), (0.995, 0.99, 1.0), {"scale": "0-1"}, "all but perfect"),
        ((0.20, 0.15, 0.25), (0.70, 0.65, 0.75), {"scale": "0-1"}, None),
        ((0.01, 0.005, 0.015), (0.999, 0.99, 1.0), {"scale": "0-1"}, None),  # there was little room
        ((-0.30, -0.33, -0.29), (0.01, 0.0, 0.02), {"scale": "0-1", "direction": "lower"}, "of at most 0.31"),
        ((45.0, 42.0, 48.0), (99.0, 98.0, 100.0), {"scale": "0-100"}, "of at most 46"),
        ((-0.45, -0.48, -0.42), (0.5, 0.4, 0.6), {"scale": "0-1"}, None),
        ((9.0, 8.0, 10.0), (1.0, 0.0, 2.0), {"scale": "unbounded"}, None),
    ],
)
def test_implausible_gains_warn(
    delta: tuple[float, float, float],
    own: tuple[float, float, float],
    fields: dict[str, str],
    says: str | None,
    measured: Build,
    result: Result,
) -> None:
    one = measured(delta=delta, own=own).model_copy(update=fields)
    report = evaluate(policy("support.accuracy", "max_drop = 0.02"), result(one))
    (row,) = report.rows
    assert (row.warning is None) == (says is None)
    assert says is None or (says in str(row.warning) and "leaked" in str(row.warning))
    assert report.passed == (row.outcome == "PASS")


def test_retention_that_gains_much_warns(measured: Build, result: Result) -> None:
    comparison = result(measured(delta=(0.1, 0.07, 0.13)))
    assert rows_of("support.accuracy", "max_drop = 0.02", comparison=comparison)[0].warning is None
    retention = [comparison.tasks[0].model_copy(update={"role": "retention"})]
    comparison = comparison.model_copy(update={"tasks": retention})
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", comparison=comparison)
    assert (row.outcome, "forgotten" in str(row.warning)) == ("PASS", True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("min = 80", "no value"),
        ("min_gain = 2", "no gain"),
        ("max_drop = 0.5", None),
    ],
)
def test_limits_off_the_scale_warn(line: str, says: str | None, measured: Build, result: Result) -> None:
    (row,) = rows_of("support.accuracy", line, comparison=result(measured(delta=(0.0, -0.01, 0.01))))
    assert (row.warning is None) if says is None else (says in str(row.warning))


@pytest.mark.parametrize(
    ("scale", "line", "says", "remedy"),
    [
        ("0-1", "max_drop = 2", "max_drop = 2 can never be exceeded on a metric of 0–1", "write 0.02 for 2 points"),
        ("0-1", "max_drop = 1", "can never be exceeded", "write 0.01 for 1 point"),
        ("-1-1", "max_drop = 2", "can never be exceeded on a metric of −1–1", "write 0.02 for 2 points"),
        ("0-100", "max_drop = 100", "can never be exceeded on a metric of 0–100", "write a lower one"),
        ("0-1", "min = 0", "min = 0 is met by every value", "write a higher one"),
        ("0-inf", "min = 0", "every value of 0 or more", "write a higher one"),
        ("0-1", "max = 80", "max = 80 is met by every value", "write 0.8 for 80 points"),
        ("-1-1", "max_drop = 1.9", None, ""),
        ("0-100", "max_drop = 2", None, ""),
        ("unbounded", "max_drop = 200", None, ""),
        ("0-inf", "max_drop = 200", None, ""),
    ],
)
def test_limit_that_nothing_can_break_is_a_policy_error(
    scale: str, line: str, says: str | None, remedy: str, measured: Build, result: Result
) -> None:
    collapsed = result(measured(own=(0.2, 0.1, 0.3), delta=(-0.64, -0.7, -0.6), scale=scale))
    if says is None:
        assert rows_of("support.accuracy", line, comparison=collapsed)
        return
    for address in ("support.accuracy", "support.*"):
        with pytest.raises(ConfigError, match=says) as caught:
            rows_of(address, line, 'rule = "point"', comparison=collapsed)
        assert (caught.value.where, caught.value.exit_code) == ("gates.toml, line 3", 2)
        assert remedy in str(caught.value.remedy)
        assert ("scales apart" in str(caught.value.remedy)) == ("*" in address)


def test_scale_is_that_of_the_name_where_nothing_was_measured(measured: Build, result: Result) -> None:
    for text in ("max_drop = 2", "min = 0", "max = 1"):
        with pytest.raises(ConfigError, match=r"support\.rougeL: m"):
            check_policy(policy("support.rougeL", text))
        with pytest.raises(ConfigError, match=r"support\.rougeL: m"):
            rows_of("support.rougeL", text, comparison=result(measured()))
    for address in ("support.bleu", "support.*", "support.own_metric", "support.rougeL_gap"):
        check_policy(policy(address, "max_drop = 2"))


@pytest.mark.parametrize(("limit", "warned"), [("0.02", True), ("2", False), ("0", False)])
def test_fraction_on_a_metric_of_a_hundred_points_warns(
    limit: str, warned: bool, measured: Build, result: Result
) -> None:
    bleu = measured("bleu", own=(30.0, 28.0, 32.0), delta=(0.0, -0.5, 0.5), scale="0-100")
    (row,) = rows_of("support.bleu", f"max_drop = {limit}", comparison=result(bleu))
    assert row.warning == ("BLEU is 0–100: 2 may be meant" if warned else None)


def test_wildcard_behind_a_task_means_its_scores(measured: Build, result: Result) -> None:
    moved = (0.0, -0.01, 0.01)
    slower = measured("latency_ms_per_item", delta=(80.0, 70.0, 90.0), area="cost", direction="lower", scale="0-inf")
    gap = measured("accuracy_gap", own=(0.1, 0.0, 0.2), delta=moved, area="gap", direction="none", scale="unbounded")
    comparison = result(measured(delta=moved), slower, gap)
    for address, found in {
        "support.*": ["accuracy"],
        "*.*": ["accuracy"],
        "support.latency*": [],
        "cost.*": ["latency_ms_per_item"],
        "support.latency_ms_per_item": ["latency_ms_per_item"],
    }.items():
        rows = rows_of(address, "max_drop = 0.02", comparison=comparison)
        assert [row.address for row in rows if row.outcome != "MISSING"] == [f"lora:support.{each}" for each in found]
    assert [row.address for row in rows_of("gap.*", "max = 0.3", comparison=comparison)] == [
        "lora:support.accuracy_gap"
    ]
    assert len(rows_of("support.*", "min = 0.1", comparison=comparison)) == 1


def test_drop_is_told_as_one_with_both_values(measured: Build, result: Result) -> None:
    fallen = measured(own=(0.361, 0.32, 0.4), delta=(-0.583, -0.63, -0.53))
    assert fallen.base is not None
    fallen = fallen.model_copy(update={"base": fallen.base.model_copy(update={"value": 0.944})})
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", 'rule = "strict"', comparison=result(fallen))
    assert row.evidence.startswith("drop 0.583, 0.944 → 0.361 (one-sided 95 %: +0.5")
    assert row.value == -0.583
    (row,) = rows_of("support.accuracy", "max_drop = 0.02", comparison=result(measured(delta=(0.1, 0.05, 0.15))))
    assert row.evidence.startswith("improvement +0.1 (")  # 0.7 and 0.7 are not its ends


def test_p_value_is_told_where_it_matters(measured: Build, result: Result) -> None:
    kept, fallen = measured(delta=(0.0, -0.01, 0.01)), measured("f1", delta=(-0.3, -0.35, -0.25))
    lines = ("max_drop = 0.02", 'correction = "holm"')
    rows = rows_of("support.*", *lines, comparison=result(kept, fallen))
    assert [(row.outcome, "by Holm" in row.evidence) for row in rows] == [("PASS", False), ("FAIL", True)]
    assert all(row.p_adjusted is not None for row in rows)


@pytest.mark.parametrize(("direction", "worst"), [("higher", 0.0), ("lower", 1.0)])
def test_nothing_left_to_lose_does_not_fail_and_hides_no_drop(
    direction: str, worst: float, measured: Build, result: Result, scored: Callable[..., pyarrow.Table]
) -> None:
    at_end = (worst, max(worst - 0.0076, 0.0), min(worst + 0.0076, 1.0))
    lost = measured(own=at_end, delta=(0.0, -0.0076, 0.0076), direction=direction)
    moved = measured("f1", delta=(0.1, 0.0, 0.2))
    comparison = result(lost, moved)
    for rule in ("significant", "strict", "point"):
        report = evaluate(policy("support.accuracy", "max_drop = 0.1", f'rule = "{rule}"'), comparison)
        assert (report.rows[0].outcome, exit_code(report)) == ("INCONCLUSIVE", 0)
        assert "nothing is left to lose here, so no drop can show" in report.rows[0].evidence
    better = measured(own=(0.5, 0.45, 0.55), direction=direction)
    old = [0.0, 1.0] * 250
    baseline = Baseline(result(better, hashes={"lora": "h-old"}), scored(old), scored([worst] * 500))
    (row,) = evaluate(policy("support.accuracy", "max_drop = 0.1"), comparison, baseline).rows
    assert row.outcome == "FAIL"
    assert row.evidence.startswith(f"drop 0.5, 0.5 → {worst:g}")
    limit = "min = 0.5" if direction == "higher" else "max = 0.5"
    assert rows_of("support.accuracy", limit, comparison=comparison)[0].outcome == "FAIL"


def test_constant_scores_block_unless_the_value_alone_is_asked_for(measured: Build, result: Result) -> None:
    ones = measured(own=(1.0, 0.992, 1.0), delta=(0.0, -0.0076, 0.0076))
    comparison = result(ones, measured("f1", delta=(0.1, 0.0, 0.2)))
    for lines in (("min = 0.9",), ("max_drop = 0.1", 'rule = "point"')):
        report = evaluate(policy("support.accuracy", *lines, head='on_inconclusive = "warn"'), comparison)
        assert (report.rows[0].outcome, exit_code(report)) == ("FAIL", 1)
    (row,) = rows_of("support.accuracy", "min = 0.9", 'rule = "point"', comparison=comparison)
    assert (row.outcome, "the same score" in str(row.warning)) == ("PASS", True)


def rate(measured: Build, name: str, value: tuple[float, float, float] | None, reason: str) -> Measurement:
    return measured(
        name, own=value, area="forgetting", task="knowledge", direction="lower", missing_reason=reason
    )  # fmt: skip


def test_patterns_pass_over_what_no_side_defines(measured: Build, result: Result) -> None:
    of_the_pair = "a number about the change itself: the base alone has none"
    kept = measured(delta=(0.0, -0.01, 0.01), area="forgetting", task="knowledge")
    forgotten = rate(measured, "forgotten_rate", (0.1, 0.05, 0.15), of_the_pair)
    gained = rate(measured, "gained_rate", None, "no item to count")
    report = evaluate(policy("knowledge.*", "max_drop = 0.03"), result(kept, forgotten, gained))
    assert [(row.address, row.outcome, row.severity) for row in report.rows] == [
        ("lora:knowledge.accuracy", "PASS", "fail"),
        ("lora:knowledge.gained_rate", "MISSING", "warn"),
    ]
    assert report.passed
    assert not evaluate(policy("knowledge.gained_rate", "max_drop = 0.03"), result(kept, gained)).passed
    # A pattern that judges nothing at all, and what failed or was not asked, blocks as before.
    assert not evaluate(policy("knowledge.*", "max_drop = 0.03"), result(gained)).passed
    for reason in ("out of memory", "base: not asked"):
        failed = measured("rouge1", own=None, area="forgetting", task="knowledge", missing_reason=reason)
        assert not evaluate(policy("knowledge.*", "max_drop = 0.03"), result(kept, failed)).passed
    alone = measured("rouge1", area="forgetting", task="knowledge", missing_reason="base: not asked")
    assert not evaluate(policy("knowledge.*", "max_drop = 0.03"), result(kept, alone)).passed
    undefined = measured("lrap", own=None, missing_reason="undefined on these items")
    assert evaluate(policy("*.*", "max_drop = 0.03"), result(kept, undefined)).passed
    lost = undefined.model_copy(update={"base": kept.base})
    assert not evaluate(policy("*.*", "max_drop = 0.03"), result(kept, lost)).passed
