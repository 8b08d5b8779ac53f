"""Comparisons that are none, and results that prove nothing, never pass."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

import pyarrow
import pytest

from lorascope.errors import InvalidComparison
from lorascope.gates import Baseline, evaluate
from lorascope.gates.pairing import baseline_warnings
from lorascope.gates.validity import what_differs
from lorascope.schema.comparison import CheckpointInfo, Comparison, Measurement, Provenance, TaskInfo
from lorascope.schema.gates import GateReport
from lorascope.schema.policy import parse_policy

Build = Callable[..., Measurement]
Result = Callable[..., Comparison]
Scored = Callable[..., pyarrow.Table]
OLD = [1.0, 1.0, 0.0, 1.0] * 125
NEW = [1.0, 1.0, 0.0, 1.0] * 124 + [1.0, 1.0, 1.0, 0.0]


def gate(
    comparison: Comparison, baseline: Baseline | None, limit: str = "max_drop = 0.02", metric: str = "support.*"
) -> GateReport:
    return evaluate(parse_policy(f'version = 1\n[[gate]]\nmetric = "{metric}"\n{limit}'), comparison, baseline)


@pytest.fixture
def pair(measured: Build, result: Result, scored: Scored) -> Callable[..., tuple[Comparison, Baseline]]:
    """A result and its baseline, which differ in nothing but the answers; ``change`` goes into the result."""

    def build(change: dict[str, Any] | None = None, **fields: Any) -> tuple[Comparison, Baseline]:
        new = result(measured(own=(fmean(NEW), 0.6, 0.9), delta=(0.1, 0.05, 0.15), **fields))
        old = result(measured(own=(fmean(OLD), 0.6, 0.9)), hashes={"lora": "h-old"})
        return new.model_copy(update=change or {}), Baseline(old, scored(OLD), scored(NEW))

    return build


Pair = Callable[..., tuple[Comparison, Baseline]]


def provenance(**fields: Any) -> Provenance:
    known = {"libraries": {}, "device": "cpu", "dtype": "float32", "timings": {}, "engine": "transformers"}
    return Provenance.model_validate(known | fields)


def asked(**fields: Any) -> TaskInfo:
    known = {"name": "support", "kind": "choice", "role": "target", "items": 500, "fingerprint": "f1", "metrics": []}
    return TaskInfo.model_validate(known | fields)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tasks": [asked(fingerprint="f2", items=400)]}, "of 500 items instead of 400: fingerprint f1 there, f2 here"),
        ({"provenance": provenance(engine=None, dtype="bfloat16")}, "precision: float32 in the baseline, bfloat16"),
        ({"provenance": provenance(engine="server")}, "another engine: transformers in the baseline, server here"),
    ],
)
def test_other_questions_engines_and_precisions_are_invalid(pair: Pair, change: dict[str, Any], says: str) -> None:
    new, baseline = pair(change)
    old = baseline.comparison.model_copy(update={"provenance": provenance()})
    (row,) = gate(new, Baseline(old, baseline.samples, baseline.current)).rows
    assert (row.outcome, row.severity) == ("INVALID", "fail")
    assert says in row.evidence


def test_automatic_precision_is_that_of_the_base(pair: Pair) -> None:
    new, baseline = pair({"provenance": provenance(dtype="auto (base stored as F32)")})
    assert gate(new, baseline).rows[0].outcome == "PASS"
    new, baseline = pair({"provenance": provenance(dtype="auto (base stored as F16)")})
    assert gate(new, baseline).rows[0].outcome == "INVALID"


def test_other_scorers_are_invalid_and_the_other_rows_are_judged(
    measured: Build, result: Result, scored: Scored
) -> None:
    def whole(values: list[float], signature: str, name: str) -> Comparison:
        accuracy = measured(own=(fmean(values), 0.6, 0.9), delta=(0.1, 0.05, 0.15))
        other = accuracy.model_copy(update={"metric": "rougeL", "signature": signature})
        return result(accuracy, other, hashes={"lora": name})

    def table(values: list[float]) -> pyarrow.Table:
        found = scored(values)
        return found.append_column("rougeL_adapted", found["accuracy_adapted"])

    new, old = whole(NEW, "rougeL|v2", "h-new"), whole(OLD, "rougeL|v1", "h-old")
    report = gate(new, Baseline(old, table(OLD), table(NEW)))
    outcomes = {row.address: row.outcome for row in report.rows}
    assert outcomes == {"lora:support.accuracy": "PASS", "lora:support.rougeL": "INVALID"}
    assert "'v1' in the baseline, 'v2' here" in report.rows[1].evidence
    assert "'rougeL" not in report.rows[1].evidence
    assert "measure the baseline's checkpoint again with this release" in report.rows[1].evidence
    assert "gate bless --overwrite" in report.rows[1].evidence
    assert not report.passed


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("bleu|tok:13a|v:2.4", "bleu|tok:13a|v:2.5", "scored differently: 'v:2.4' in the baseline, 'v:2.5' here;"),
        ("bleu|tok:13a", "bleu|tok:13a|v:2.5", "scored differently: nothing in the baseline, 'v:2.5' here;"),
        ("a|b", "b|a", "scored differently: 'a' | 'b' in the baseline, 'b' | 'a' here;"),
    ],
)
def test_parts_of_a_signature_that_differ_are_told(
    before: str, after: str, says: str, measured: Build, result: Result
) -> None:
    found = measured()
    old, new = (found.model_copy(update={"signature": each}) for each in (before, after))
    told = what_differs(new, old, result(new), result(old))
    assert told is not None
    assert told.startswith(says)


def test_rates_of_change_need_the_same_base(measured: Build, result: Result, scored: Scored) -> None:
    rate = measured("forgotten_rate", own=(0.1, 0.05, 0.2), area="forgetting", direction="lower")
    old = result(rate, hashes={"lora": "h-old"})
    others = [each.model_copy(update={"content_hash": "h-other"}) for each in old.checkpoints if each.role == "base"]
    baseline = Baseline(old.model_copy(update={"checkpoints": [*others, *old.subjects]}), scored(OLD), scored(NEW))
    (row,) = gate(result(rate), baseline, metric="support.forgotten_rate").rows
    assert (row.outcome, "another base" in row.evidence) == ("INVALID", True)


def test_baseline_of_another_suite_is_refused_at_once(pair: Pair) -> None:
    new, baseline = pair()
    other = baseline.comparison.model_copy(update={"tasks": [asked(name="maths")]})
    with pytest.raises(InvalidComparison, match="another suite: it has maths, the result support") as caught:
        gate(new, Baseline(other, baseline.samples, baseline.current))
    assert caught.value.exit_code == 3


def test_libraries_device_and_base_are_doubts(pair: Pair) -> None:
    new, baseline = pair({"provenance": provenance(libraries={"torch": "2.1", "peft": "1"}, device="cuda:0")})
    before = provenance(libraries={"torch": "2.0", "peft": "1", "nltk": "3"}, engine=None)
    bases: list[CheckpointInfo] = [
        each.model_copy(update={"content_hash": "h-x"} if each.role == "base" else {})
        for each in baseline.comparison.checkpoints
    ]
    old = baseline.comparison.model_copy(update={"provenance": before, "checkpoints": bases})
    told = " / ".join(baseline_warnings(new, Baseline(old, baseline.samples, baseline.current)))
    for said in (
        "torch 2.0 → 2.1",
        "another device: cpu there, cuda:0 here",
        "another base",
        "not recorded in the base",
    ):
        assert said in told
    assert "peft" not in told
    (row,) = gate(new, Baseline(old, baseline.samples, baseline.current)).rows
    assert row.outcome == "PASS"


@pytest.mark.parametrize("with_baseline", [False, True])
@pytest.mark.parametrize("limit", ["max_drop = 0.02", "min_gain = 0.0", "min = 0.5"])
def test_scorer_that_always_says_one_never_passes(
    with_baseline: bool, limit: str, measured: Build, result: Result, scored: Scored
) -> None:
    def whole(name: str) -> Comparison:
        ones = measured(own=(1.0, 0.992, 1.0), delta=(0.0, -0.0076, 0.0076))
        moved = measured("gold_margin", own=(0.4, 0.3, 0.5), delta=(0.1, 0.05, 0.15), scale="unbounded")
        return result(ones, moved, hashes={"lora": name})

    baseline = Baseline(whole("h-old"), scored([1.0] * 500), scored([1.0] * 500)) if with_baseline else None
    (row,) = gate(whole("h-new"), baseline, limit, "support.accuracy").rows
    assert row.outcome == "FAIL"
    assert "constant" in row.evidence or "whose weights are others" in row.evidence


def test_answers_of_the_baseline_under_another_name_never_pass(pair: Pair, scored: Scored) -> None:
    _, baseline = pair()
    other = [
        each.model_copy(update={"content_hash": "h-new"} if each.role == "adapted" else {})
        for each in baseline.comparison.checkpoints
    ]
    new = baseline.comparison.model_copy(update={"checkpoints": other})
    (row,) = gate(new, Baseline(baseline.comparison, scored(OLD), scored(OLD)), metric="support.accuracy").rows
    assert row.outcome == "FAIL"
    assert "whose weights are others" in (row.warning or "")


def test_empty_results_and_gates_of_nothing_never_pass(result: Result, pair: Pair) -> None:
    for comparison, baseline in ((result(), None), (result(), Baseline(result(), None, None)), (pair()[0], None)):
        report = gate(comparison, baseline, metric="no*thing.accuracy")
        assert not report.passed
        assert [row.outcome for row in report.rows] == ["MISSING"]


COUNTED = [("leak", "overlap_rate", "support"), ("weights", "intruder_count", None), ("curves", "best_eval_loss", None)]


@pytest.mark.parametrize(("area", "metric", "task"), [*COUNTED, ("cost", "seconds", None)])
def test_counted_values_are_compared_only_where_they_were_counted_alike(
    area: str, metric: str, task: str | None, measured: Build, result: Result
) -> None:
    def whole(value: float, **fields: Any) -> Comparison:
        found = measured(metric, own=(value, None, None), area=area, task=task, direction="lower")
        return result(found.model_copy(update={"signature": fields.pop("signature", "epsilon=0.9")}), **fields)

    address, drop = f"{area}.{metric}", "max_drop = 0"
    old = Baseline(whole(20, hashes={"lora": "h-old"}), None, None)
    assert gate(whole(3), old, drop, address).passed
    (row,) = gate(whole(3, signature="epsilon=0.1"), old, drop, address).rows
    assert (row.outcome, row.severity, "scored differently" in row.evidence) == ("INVALID", "fail", True)
    (row,) = gate(whole(3, fingerprint="f2"), old, drop, address).rows
    assert row.outcome == ("INVALID" if task else "PASS")
    precise = whole(3).model_copy(update={"provenance": provenance(dtype="bfloat16")})
    (row,) = gate(precise, old, drop, address).rows
    assert row.outcome == ("INVALID" if area == "cost" else "PASS")


def test_what_vanished_from_the_result_is_missing(pair: Pair, measured: Build) -> None:
    new, baseline = pair()
    old = baseline.comparison
    own = old.measurements[0]
    others = [
        own.model_copy(update={"metric": "rougeL"}),
        own.model_copy(update={"task": "maths"}),
        own.model_copy(update={"metric": "kl_to_base", "direction": "none"}),
        own.model_copy(update={"metric": "lrap", "adapted": None, "missing_reason": "undefined on these items"}),
    ]
    more = Baseline(old.model_copy(update={"measurements": [own, *others]}), baseline.samples, baseline.current)
    for address, gone in {
        "support.*": {"lora:support.rougeL"},
        "*.accuracy": {"lora:maths.accuracy"},
        "task.*": {"lora:support.rougeL", "lora:maths.accuracy"},
        "task.accuracy": {"lora:maths.accuracy"},
        "support.accuracy": set(),
        "maths.accuracy": {"lora:maths.accuracy"},
        "lo*:*.rouge*": {"lora:support.rougeL"},
    }.items():
        report = gate(new, more, metric=address)
        absent = [row for row in report.rows if row.outcome == "MISSING"]
        assert {row.address for row in absent} == gone, address
        assert report.passed == (not gone)
        assert all(row.severity == "fail" and "the baseline has it" in row.evidence for row in absent)
    report = gate(new, more, "min = 0.1", "*.accuracy")
    assert [row.outcome for row in report.rows] == ["PASS", "MISSING"]


def test_what_both_results_leave_undefined_only_warns_under_a_pattern(pair: Pair, measured: Build) -> None:
    new, baseline = pair()
    null = measured("lrap", own=None, missing_reason="undefined on these items")
    for before, passed in (
        (null, True),
        (null.model_copy(update={"missing_reason": "out of memory"}), False),
        (null.model_copy(update={"adapted": baseline.comparison.measurements[0].adapted}), False),
        (None, False),
    ):
        kept = [*baseline.comparison.measurements, *([] if before is None else [before])]
        old = Baseline(
            baseline.comparison.model_copy(update={"measurements": kept}), baseline.samples, baseline.current
        )
        whole = new.model_copy(update={"measurements": [*new.measurements, null]})
        assert gate(whole, old, metric="support.*").passed == passed
        assert not gate(whole, old, metric="support.lrap").passed


def test_other_name_of_the_only_checkpoint_is_told(pair: Pair) -> None:
    new, baseline = pair()
    named = [
        each.model_copy(update={"name": "old"} if each.role == "adapted" else {})
        for each in baseline.comparison.checkpoints
    ]
    old = baseline.comparison.model_copy(update={"checkpoints": named})
    told = baseline_warnings(new, Baseline(old, baseline.samples, baseline.current))
    assert any("lora is compared with the baseline's old" in each for each in told)
    assert not baseline_warnings(new, baseline)


def test_hash_that_sees_no_weights_explains_no_equal_answers(pair: Pair, scored: Scored) -> None:
    _, baseline = pair()
    old = baseline.comparison
    samples = scored(OLD)
    (row,) = gate(old, Baseline(old, samples, samples)).rows
    assert row.outcome == "PASS"
    for engine in ("server", "import:lm-evaluation-harness"):
        served = old.model_copy(update={"provenance": provenance(engine=engine)})
        report = gate(served, Baseline(served, samples, samples))
        assert report.rows[0].outcome != "PASS"
        assert "is the new adapter loaded?" in str(report.rows[0].warning)
        assert any("is the new adapter loaded?" in each for each in report.warnings)


def test_equal_hash_with_other_answers_is_told(pair: Pair, scored: Scored) -> None:
    new, baseline = pair()
    new = new.model_copy(update={"checkpoints": baseline.comparison.checkpoints})
    (row,) = gate(new, baseline).rows
    assert (row.outcome, "but its answers are others" in str(row.warning)) == ("PASS", True)
    ones = new.measurements[0].model_copy(update={"adapted": None})
    assert ones.base is not None
    perfect = ones.model_copy(
        update={each: ones.base.model_copy(update={"value": 1.0}) for each in ("base", "adapted")}
    )
    constant = new.model_copy(update={"measurements": [perfect]})
    (row,) = gate(constant, Baseline(baseline.comparison, scored(OLD), scored([1.0] * 500))).rows
    assert (row.outcome, "constant" in row.evidence) == ("FAIL", True)
