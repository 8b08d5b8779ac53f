from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import numpy as np
import pyarrow
import pytest

from lorascope.errors import EvaluationError, InvalidComparison
from lorascope.gates import Baseline, evaluate
from lorascope.schema.comparison import Comparison, GateRow, Measurement, Slice
from lorascope.schema.policy import parse_policy

Build = Callable[..., Measurement]
Result = Callable[..., Comparison]
Scored = Callable[..., pyarrow.Table]
RNG = np.random.default_rng(5)
OLD = (RNG.random(500) < 0.7).astype(float).tolist()
NEW = [1 - score if place % 10 == 0 else score for place, score in enumerate(OLD)]


def gate(comparison: Comparison, baseline: Baseline, address: str = "support.accuracy") -> GateRow:
    policy = parse_policy(f'version = 1\n[[gate]]\nmetric = "{address}"\nmax_drop = 0.02')
    return evaluate(policy, comparison, baseline).rows[0]


@pytest.fixture
def pair(measured: Build, result: Result, scored: Scored) -> Callable[..., tuple[Comparison, Baseline]]:
    def build(new: list[float], old: list[float], **fields: object) -> tuple[Comparison, Baseline]:
        current = result(measured(own=(fmean(new), 0, 1), delta=(0.3, 0.2, 0.4), n=len(new)))
        before = result(measured(own=(fmean(old), 0, 1), n=len(old)), **({"hashes": {"lora": "h-old"}} | fields))
        return current, Baseline(before, scored(old), scored(new))

    return build


Pair = Callable[..., tuple[Comparison, Baseline]]


def test_difference_is_that_of_the_items(pair: Pair) -> None:
    row = gate(*pair(NEW, OLD))
    differences = np.subtract(NEW, OLD)
    half = 1.6448536 * differences.std(ddof=1) / np.sqrt(500)
    low, high = differences.mean() - half, differences.mean() + half
    assert f"improvement {differences.mean():+.4g}" in row.evidence
    assert f"{low:+.4g} to {high:+.4g}" in row.evidence
    assert "baseline's lora" in row.evidence


def test_order_of_items_does_not_matter(pair: Pair) -> None:
    current, baseline = pair(NEW, OLD)
    assert baseline.samples is not None
    shuffled = baseline.samples.take(np.random.default_rng(1).permutation(500))
    assert gate(current, Baseline(baseline.comparison, shuffled, baseline.current)) == gate(current, baseline)


def test_drop_against_the_baseline_fails(pair: Pair) -> None:
    fallen = [0.0 if place % 12 == 0 else score for place, score in enumerate(OLD)]
    assert gate(*pair(fallen, OLD)).outcome == "FAIL"


def test_same_checkpoint_may_agree_throughout_and_another_may_not(pair: Pair) -> None:
    assert gate(*pair(OLD, OLD, hashes={"lora": "h-lora"})).outcome == "PASS"
    row = gate(*pair(OLD, OLD))
    assert (row.outcome, "without any variance" in row.evidence) == ("INCONCLUSIVE", True)


def test_other_fingerprint_is_no_comparison(pair: Pair) -> None:
    with pytest.raises(InvalidComparison, match="fingerprint f2 there, f1 here") as caught:
        gate(*pair(NEW, OLD, fingerprint="f2"))
    assert caught.value.exit_code == 3


def test_single_baseline_checkpoint_needs_no_common_name(pair: Pair, measured: Build, result: Result) -> None:
    current, baseline = pair(NEW, OLD)
    renamed = result(measured(own=(fmean(OLD), 0, 1), subject="old"), hashes={"old": "h"})
    assert baseline.samples is not None
    names = pyarrow.array(["old"] * 500)
    samples = baseline.samples.set_column(0, "subject", names)
    assert gate(current, Baseline(renamed, samples, baseline.current)).outcome != "MISSING"
    two = result(hashes={"one": "h", "two": "h"})
    with pytest.raises(InvalidComparison, match="one, two"):
        gate(current, Baseline(two, samples, baseline.current))


@pytest.mark.parametrize("lost", ["samples", "current"])
def test_missing_samples_cannot_be_compared(pair: Pair, lost: str) -> None:
    current, full = pair(NEW, OLD)
    tables = {"samples": full.samples, "current": full.current, lost: None}
    with pytest.raises(EvaluationError, match=r"no samples\.parquet") as caught:
        gate(current, Baseline(full.comparison, **tables))
    assert caught.value.exit_code == 3


def test_other_items_are_no_comparison(pair: Pair) -> None:
    current, baseline = pair(NEW, OLD)
    half = Baseline(baseline.comparison, baseline.samples, baseline.current)
    shorter, _ = pair(NEW[:499], OLD)
    assert half.current is not None
    with pytest.raises(InvalidComparison, match="1 items"):
        gate(shorter, Baseline(half.comparison, half.samples, half.current.slice(0, 499)))
    assert gate(current, half)


def test_undefined_scores_stay_out(pair: Pair, scored: Scored) -> None:
    _, baseline = pair(NEW, OLD)
    short, _ = pair(NEW[:-1], OLD)
    with pytest.raises(InvalidComparison, match="1 items"):
        gate(short, Baseline(baseline.comparison, baseline.samples, scored([*NEW[:-1], None])))


def test_samples_of_another_run_are_noticed(pair: Pair, scored: Scored) -> None:
    current, baseline = pair(NEW, OLD)
    swapped = Baseline(baseline.comparison, baseline.samples, scored([1.0] * 500))
    with pytest.raises(EvaluationError, match="not the mean of stored item scores"):
        gate(current, swapped)
    row = gate(current, swapped, "support.acc*")
    assert (row.outcome, "cannot be paired" in row.evidence) == ("INCONCLUSIVE", True)


def test_categories_pair_and_other_slices_do_not(measured: Build, result: Result, scored: Scored) -> None:
    def sliced(by: str, scores: list[float]) -> Measurement:
        return measured(own=(fmean(scores), 0, 1), delta=(0.3, 0.2, 0.4), slice=Slice(by=by, value="even"))

    for by, readable in {"category": True, "label": False}.items():
        current, before = result(sliced(by, NEW[::2])), result(sliced(by, OLD[::2]), hashes={"lora": "h-old"})
        baseline = Baseline(before, scored(OLD), scored(NEW))
        if readable:
            assert "n = 250" in gate(current, baseline, "support.accuracy@even").evidence
        else:
            with pytest.raises(EvaluationError):
                gate(current, baseline, "support.accuracy@even")


def test_items_of_equal_content_pair_among_themselves(measured: Build, result: Result, scored: Scored) -> None:
    def twice(scores: list[float]) -> pyarrow.Table:
        ids = pyarrow.array([f"i{place % 250}" for place in range(500)])
        return scored(scores).set_column(2, "item_id", ids)

    current = result(measured(own=(fmean(NEW), 0, 1), delta=(0.3, 0.2, 0.4)))
    before = result(measured(own=(fmean(OLD), 0, 1)), hashes={"lora": "h-old"})
    row = gate(current, Baseline(before, twice(OLD), twice(NEW)))
    assert "n = 500" in row.evidence
    shuffled = twice(OLD).take(np.random.default_rng(2).permutation(500))
    assert gate(current, Baseline(before, shuffled, twice(NEW))) == row


def test_what_the_baseline_lacks_is_missing(pair: Pair, result: Result) -> None:
    current, baseline = pair(NEW, OLD)
    row = gate(current, Baseline(result(), baseline.samples, baseline.current))
    assert (row.outcome, row.severity) == ("MISSING", "fail")
    assert "baseline does not have it" in row.evidence


def test_counted_values_compare_without_samples(measured: Build, result: Result) -> None:
    def counted(value: float) -> Comparison:
        count = measured("intruder_count", own=(value, None, None), area="weights", task=None, direction="lower", n=9)
        return result(count)

    policy = parse_policy('version = 1\n[[gate]]\nmetric = "weights.intruder_count"\nmax_drop = 2')
    outcomes = [evaluate(policy, counted(value), Baseline(counted(5), None, None)).passed for value in (3, 7, 8)]
    assert outcomes == [True, True, False]


def test_no_task_no_pairs(measured: Build, result: Result) -> None:
    votes = result(measured("win_rate", own=(0.6, 0.5, 0.7), area="human", task=None))
    with pytest.raises(EvaluationError, match="cannot be paired"):
        gate(votes, Baseline(votes, None, None), "human.win_rate")
