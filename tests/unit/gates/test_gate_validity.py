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
    assert "'rougeL|v1' in the baseline, 'rougeL|v2' here" in report.rows[1].evidence
    assert not report.passed


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
    assert row.outcome == "INCONCLUSIVE"
    assert "without any variance" in row.evidence or "whose weights are others" in row.evidence


def test_answers_of_the_baseline_under_another_name_never_pass(pair: Pair, scored: Scored) -> None:
    _, baseline = pair()
    other = [
        each.model_copy(update={"content_hash": "h-new"} if each.role == "adapted" else {})
        for each in baseline.comparison.checkpoints
    ]
    new = baseline.comparison.model_copy(update={"checkpoints": other})
    (row,) = gate(new, Baseline(baseline.comparison, scored(OLD), scored(OLD)), metric="support.accuracy").rows
    assert row.outcome != "PASS"
    assert "whose weights are others" in (row.warning or "")


def test_empty_results_and_gates_of_nothing_never_pass(result: Result, pair: Pair) -> None:
    for comparison, baseline in ((result(), None), (result(), Baseline(result(), None, None)), (pair()[0], None)):
        report = gate(comparison, baseline, metric="no*thing.accuracy")
        assert not report.passed
        assert [row.outcome for row in report.rows] == ["MISSING"]
