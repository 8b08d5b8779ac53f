from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import numpy as np
import pyarrow
import pytest
from scipy import stats

from lorascope.gates import Baseline, evaluate
from lorascope.schema.comparison import Comparison, Measurement, Slice
from lorascope.schema.gates import GateRow
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
    assert row.value == pytest.approx(differences.mean())
    # Few of many answers changed: the score interval is that of the normal approximation to two digits.
    half = 1.6448536 * differences.std(ddof=1) / np.sqrt(500)
    assert row.low == pytest.approx(differences.mean() - half, abs=0.003)
    assert row.high == pytest.approx(differences.mean() + half, abs=0.003)
    assert "baseline's lora" in row.evidence


def test_means_of_other_scores_take_students_t(measured: Build, result: Result, scored: Scored) -> None:
    old, noise = RNG.random(400), RNG.normal(0, 0.1, 400)
    new = old + noise
    current = result(measured("rougeL", own=(new.mean(), 0, 1), delta=(0.3, 0.2, 0.4), n=400))
    before = result(measured("rougeL", own=(old.mean(), 0, 1), n=400), hashes={"lora": "h-old"})
    tables = [scored(list(map(float, each)), metric="rougeL") for each in (old, new)]
    row = gate(current, Baseline(before, *tables), "support.rougeL")
    test = stats.ttest_1samp(noise, 0)
    interval = test.confidence_interval(0.90)
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))


def test_groups_vary_as_wholes_unless_the_result_took_the_items_for_themselves(
    measured: Build, result: Result, scored: Scored
) -> None:
    def bounds(method: str, grouped: bool) -> tuple[float | None, float | None]:
        def whole(scores: np.ndarray, name: str) -> Comparison:
            found = measured(own=(scores.mean(), 0, 1), delta=(0.3, 0.2, 0.4), n=60)
            assert found.adapted is not None
            own = found.adapted.model_copy(update={"method": method})
            return result(found.model_copy(update={"adapted": own}), hashes={"lora": name})

        old, new = np.tile([1.0, 1.0, 0.0], 20), np.tile([1.0, 1.0, 0.0], 20)
        new[:12] = 0.0
        tables = [scored(list(map(float, each))) for each in (old, new)]
        if grouped:
            names = pyarrow.array([f"g{place // 6}" for place in range(60)])
            tables = [each.set_column(3, "group", names) for each in tables]
        row = gate(whole(new, "h-new"), Baseline(whole(old, "h-old"), *tables))
        assert ("10 groups" in row.evidence) == (grouped and method != "bootstrap, 10 resamples")
        return row.low, row.high

    alone = bounds("bootstrap, 10 resamples", grouped=True)
    assert alone == bounds("wilson", grouped=False)
    wide = bounds("bootstrap, 10 resamples, 10 groups", grouped=True)
    assert wide[1] > alone[1]  # type: ignore[operator]


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
    assert (row.outcome, "whose weights are others" in row.evidence) == ("FAIL", True)


def test_other_fingerprint_is_no_comparison(pair: Pair) -> None:
    row = gate(*pair(NEW, OLD, fingerprint="f2"))
    assert (row.outcome, row.severity) == ("INVALID", "fail")
    assert "fingerprint f2 there, f1 here; measure the baseline again" in row.evidence


def test_single_baseline_checkpoint_needs_no_common_name(pair: Pair, measured: Build, result: Result) -> None:
    current, baseline = pair(NEW, OLD)
    renamed = result(measured(own=(fmean(OLD), 0, 1), subject="old"), hashes={"old": "h"})
    assert baseline.samples is not None
    names = pyarrow.array(["old"] * 500)
    samples = baseline.samples.set_column(0, "subject", names)
    assert gate(current, Baseline(renamed, samples, baseline.current)).outcome != "MISSING"
    two = result(hashes={"one": "h", "two": "h"})
    row = gate(current, Baseline(two, samples, baseline.current))
    assert (row.outcome, "one, two" in row.evidence) == ("INVALID", True)


@pytest.mark.parametrize("lost", ["samples", "current"])
def test_missing_samples_cannot_be_compared(pair: Pair, lost: str) -> None:
    current, full = pair(NEW, OLD)
    tables = {"samples": full.samples, "current": full.current, lost: None}
    row = gate(current, Baseline(full.comparison, **tables))
    assert (row.outcome, "no samples.parquet" in row.evidence) == ("INVALID", True)


def test_other_items_are_no_comparison(pair: Pair) -> None:
    current, baseline = pair(NEW, OLD)
    assert baseline.current is not None
    names = pyarrow.array([f"i{place + (place == 7) * 1000}" for place in range(500)])
    row = gate(
        current, Baseline(baseline.comparison, baseline.samples, baseline.current.set_column(2, "item_id", names))
    )
    assert (row.outcome, "1 of 500 items are not in the baseline" in row.evidence) == ("INVALID", True)


def test_cut_and_doubled_samples_never_pass(pair: Pair) -> None:
    current, full = pair(NEW, OLD)
    assert full.current is not None
    assert full.samples is not None
    for samples, table in (
        (full.samples, full.current.slice(0, 300)), (full.samples.slice(0, 300), full.current),
        (full.samples, pyarrow.concat_tables([full.current, full.current])),
        (full.samples, full.current.slice(0, 0)),
    ):  # fmt: skip
        row = gate(current, Baseline(full.comparison, samples, table))
        assert row.outcome == "INVALID", row.evidence


def test_scores_undefined_on_one_side_are_no_comparison(pair: Pair, scored: Scored) -> None:
    _, baseline = pair(NEW, OLD)
    short, _ = pair(NEW[:-1], OLD)
    row = gate(short, Baseline(baseline.comparison, baseline.samples, scored([*NEW[:-1], None])))
    assert (row.outcome, "only one of the two" in row.evidence) == ("INVALID", True)


def test_scores_undefined_on_both_sides_stay_out(pair: Pair, scored: Scored) -> None:
    current, baseline = pair(NEW[:-1], OLD[:-1])
    row = gate(current, Baseline(baseline.comparison, scored([*OLD[:-1], None]), scored([*NEW[:-1], None])))
    assert (row.n, row.value) == (499, pytest.approx(np.subtract(NEW, OLD)[:-1].mean()))


def test_samples_of_another_run_are_noticed(pair: Pair, scored: Scored, measured: Build, result: Result) -> None:
    current, baseline = pair(NEW, OLD)
    swapped = Baseline(baseline.comparison, baseline.samples, scored([1.0] * 500))
    row = gate(current, swapped)
    assert (row.outcome, "its samples give 1 where the result says" in row.evidence) == ("INVALID", True)
    unknown = [result(measured("own_metric", own=(0.3, 0, 1), delta=(0.3, 0.2, 0.4))) for _ in range(2)]
    tables = [scored([0.5] * 500, metric="own_metric") for _ in range(2)]
    row = gate(unknown[0], Baseline(unknown[1], *tables), "support.own*")
    assert (row.outcome, "cannot be paired" in row.evidence) == ("INCONCLUSIVE", True)


def test_categories_pair_and_other_slices_do_not(measured: Build, result: Result, scored: Scored) -> None:
    def sliced(by: str, scores: list[float]) -> Measurement:
        return measured(own=(fmean(scores), 0, 1), delta=(0.3, 0.2, 0.4), n=250, slice=Slice(by=by, value="even"))

    for by, readable in {"category": True, "label": False}.items():
        current, before = result(sliced(by, NEW[::2])), result(sliced(by, OLD[::2]), hashes={"lora": "h-old"})
        baseline = Baseline(before, scored(OLD), scored(NEW))
        if readable:
            assert "n = 250" in gate(current, baseline, "support.accuracy@even").evidence
        else:
            row = gate(current, baseline, "support.accuracy@even")
            assert (row.outcome, "cannot be paired" in row.evidence) == ("INCONCLUSIVE", True)


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
        fields = {"area": "weights", "task": None, "direction": "lower", "n": 9, "scale": "0-inf"}
        return result(measured("intruder_count", own=(value, None, None), **fields))

    policy = parse_policy('version = 1\n[[gate]]\nmetric = "weights.intruder_count"\nmax_drop = 2')
    outcomes = [evaluate(policy, counted(value), Baseline(counted(5), None, None)).passed for value in (3, 7, 8)]
    assert outcomes == [True, True, False]


def test_no_task_no_pairs(measured: Build, result: Result) -> None:
    votes = result(measured("win_rate", own=(0.6, 0.5, 0.7), area="human", task=None))
    row = gate(votes, Baseline(votes, None, None), "human.win_rate")
    assert (row.outcome, "cannot be paired" in row.evidence) == ("INCONCLUSIVE", True)
