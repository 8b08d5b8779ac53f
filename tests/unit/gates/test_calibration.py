from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow
import pytest
from rich.console import Console
from scipy.stats import t as student_t

from lorascope.errors import UsageError
from lorascope.gates.calibration import calibrate, default_policy
from lorascope.gates.judging import Reading, judge, quantile
from lorascope.gates.pairing import Baseline
from lorascope.gates.planting import Answers, Changes, Readings, changes_of, draw
from lorascope.gates.power import Rules, right_wrong_chances
from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.intervals import newcombe_paired
from lorascope.measures.registry import define
from lorascope.measures.resampling import Units
from lorascope.measures.statistics import paired
from lorascope.measures.text import score_text
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.gates import CalibrationReport, CalibrationRow, Scenario
from lorascope.schema.policy import GatePolicy, parse_policy
from lorascope.schema.values import Delta, Estimate
from lorascope.workflows.gate_calibrate import run_calibrate

ITEMS = 500
Result = Callable[..., Comparison]
Scores = dict[str, tuple[np.ndarray, np.ndarray]]


def policy(*lines: str, metric: str = "support.*") -> GatePolicy:
    return parse_policy("\n".join(["version = 1", "[[gate]]", f'metric = "{metric}"', *lines]))


def of_items(
    metric: str, base: float, adapted: float, n: int, *, grouped: bool = False, **fields: object
) -> Measurement:
    method = "bootstrap, 100 resamples, 50 groups" if grouped else "bootstrap, 100 resamples"
    settings: dict[str, object] = {"area": "task", "direction": "higher", "scale": "0-1"} | fields
    return Measurement(
        subject="lora", reference="base", task="support", metric=metric, unit="", signature=metric,
        base=Estimate(value=base, n=n, method=method), adapted=Estimate(value=adapted, n=n, method=method),
        delta=Delta(value=adapted - base, low=-0.9, high=0.9, n=n, margin=0.02), **settings,
    )  # fmt: skip


def samples_of(scores: Scores, groups: Sequence[str | None] | None = None, **texts: Sequence[object]) -> pyarrow.Table:
    count = len(next(iter(scores.values()))[0]) if scores else len(next(iter(texts.values())))
    columns: dict[str, Sequence[object]] = {
        "subject": ["lora"] * count, "task": ["support"] * count, "item_id": [f"i{n:05d}" for n in range(count)],
        "group": groups or [None] * count, "category": [None] * count, **texts,
    }  # fmt: skip
    for metric, (base, adapted) in scores.items():
        columns |= {f"{metric}_base": base.astype(float).tolist(), f"{metric}_adapted": adapted.astype(float).tolist()}
    return pyarrow.table({name: pyarrow.array(list(values)) for name, values in columns.items()})


def of_scores(result: Result, scores: Scores, *, grouped: bool = False, **fields: object) -> Comparison:
    found = [
        of_items(metric, float(base.mean()), float(adapted.mean()), len(base), grouped=grouped, **fields)
        for metric, (base, adapted) in scores.items()
    ]
    return result(*found)


def answers(random: np.random.Generator, items: int = ITEMS, discordant: float = 0.10) -> tuple[np.ndarray, np.ndarray]:
    base = random.permutation(np.arange(items) < 0.7 * items)
    changed = random.permutation(np.arange(items) < discordant * items)
    return base, base ^ changed


def scenario(row: CalibrationRow, kind: str, drop: float | None = None) -> Scenario:
    return next(each for each in row.scenarios if each.kind == kind and each.drop == pytest.approx(drop))


def test_unchanged_right_and_wrong_answers_have_the_rates_of_the_contract(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(1))}
    report = calibrate(of_scores(result, scores), samples_of(scores), policy("max_drop = 0.02"))
    (row,) = report.rows
    still = scenario(row, "no_change")
    assert still.failed.value <= 0.065
    assert still.passed.value == pytest.approx(0.41, abs=0.05)
    assert still.passed.low < still.passed.value < still.passed.high
    assert (row.n, row.changed, row.reason) == (500, pytest.approx(0.10), None)
    assert report.any_false_alarm == still.failed
    powers = [scenario(row, "drop", drop).failed.value for drop in (0.01, 0.02, 0.03, 0.05, 0.10)]
    assert powers == sorted(powers)
    assert powers[3] > 0.85
    assert powers[4] > 0.999
    assert scenario(row, "drop", 0.02).passed.value <= 0.065


def test_planted_drop_has_the_power_that_explain_tells(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(2))}
    report = calibrate(of_scores(result, scores), samples_of(scores), policy("max_drop = 0.02"), resamples=4000)
    base, adapted = scores["accuracy"]
    right, differ = (base.mean() + adapted.mean()) / 2, (base ^ adapted).mean()
    both = (base & adapted).mean()
    for drop in (0.02, 0.05):
        chance = drop / right
        told = right_wrong_chances(
            -drop, both * chance + differ / 2 + differ / 2 * (1 - chance), ITEMS, Rules("max_drop", 0.02), accuracy=both
        )
        seen = scenario(report.rows[0], "drop", drop)
        assert seen.failed.value == pytest.approx(told.failed, abs=0.03)
        assert seen.passed.value == pytest.approx(told.passed, abs=0.03)


@pytest.mark.parametrize("rule", ["significant", "strict", "point"])
def test_rates_are_those_of_the_judge_row_by_row(rule: str, result: Result) -> None:
    random = np.random.default_rng(3)
    right, half = answers(random), np.round(random.random(ITEMS), 2)
    scores = {"accuracy": right, "rougeL": (half, np.clip(half + random.normal(0, 0.2, ITEMS), 0, 1))}
    gates = policy("max_drop = 0.02", f'rule = "{rule}"')
    report = calibrate(of_scores(result, scores), samples_of(scores), gates, resamples=300, seed=5)
    changes = Changes(scores["rougeL"][1] - scores["rougeL"][0], np.ones(ITEMS))
    (table,), (sums,) = draw([Answers(*right)], [changes], resamples=300, seed=[5, 0, 0])

    def counted(readings: list[Reading]) -> list[float]:
        found = [judge(each, "max_drop", 0.02, gates.gate[0].rule, 0.95).outcome for each in readings]
        return [found.count(name) / 300 for name in ("PASS", "FAIL", "INCONCLUSIVE")]

    def rates(row: CalibrationRow) -> list[float]:
        seen = scenario(row, "no_change")
        return [seen.passed.value, seen.failed.value, seen.inconclusive.value]

    ratio = quantile(0.95) / quantile(0.975)
    by_newcombe = []
    for cells in zip(table.both, table.broken, table.fixed, table.neither, strict=True):
        both, broken, fixed, neither = (int(cell) for cell in cells)
        value, (low, high) = (fixed - broken) / ITEMS, newcombe_paired(both, broken, fixed, neither)
        low, high = value - (value - low) * ratio, value + (high - value) * ratio
        by_newcombe.append(Reading(value, low, high, ITEMS, "test"))
    assert rates(report.rows[0]) == counted(by_newcombe)
    normal = [Reading(*(float(x) for x in each), ITEMS, "test") for each in zip(*sums.readings(0.95), strict=True)]
    assert rates(report.rows[1]) == counted(normal)


def test_sums_are_those_of_the_drawn_copies() -> None:
    units, resamples, drop = 7, 40, 0.03
    random = np.random.default_rng(4)
    sizes = random.integers(1, 4, size=units)
    room = random.random((int(sizes.sum()), 2))
    changes = Changes(random.normal(size=units), sizes.astype(float), room, (0.01, drop, 99.0))
    _, (sums,) = draw([], [changes], resamples=resamples, seed=[9])
    assert [each.drop for each in sums.losses] == [0.01, drop]
    found = sums.readings(0.95, sums.losses[1])
    generator, chances = np.random.default_rng([9]), np.random.default_rng([9, 1])
    drawn = generator.integers(0, units, size=(resamples, units), dtype=np.int64)
    noise = np.frombuffer(generator.bytes(resamples * units), dtype=np.uint8).reshape(resamples, units)
    for row in range(resamples):
        sign, own = np.where(noise[row] & 1, 1.0, -1.0), sizes[drawn[row]]
        losses = []
        for unit, signed in zip(drawn[row], sign, strict=True):
            first = sizes[:unit].sum()
            amounts = room[first : first + sizes[unit], int(signed > 0)]
            losses.append(amounts[chances.random(len(amounts)) < drop / room.mean()].sum())
        moved, sizes_drawn = sign * changes.sums[drawn[row]] - losses, own.astype(float)
        value = moved.sum() / sizes_drawn.sum()
        error = np.sqrt(units / (units - 1) * ((moved - value * sizes_drawn) ** 2).sum()) / sizes_drawn.sum()
        assert found.value[row] == pytest.approx(value)
        assert found.high[row] - found.value[row] == pytest.approx(
            quantile(0.95) * student_t.ppf(0.975, units - 1) / quantile(0.975) * error
        )


def test_normal_bounds_are_near_those_of_a_result() -> None:
    random = np.random.default_rng(6)
    rouge = define("rougeL", mean_of_items)
    before = random.beta(4, 2, size=ITEMS)
    base, adapted = (Scored(rouge, item_rows(each), "r") for each in (before, before + random.normal(0, 0.2, ITEMS)))
    change = paired(base, adapted, margin=None, seed=0, resamples=4000)
    assert change.low is not None
    assert change.high is not None
    items = changes_of(base, adapted, Units.of(ITEMS, None), better=1).sums
    half = 1.959964 * items.std(ddof=1) / np.sqrt(ITEMS)
    assert items.mean() == pytest.approx(change.value)
    assert half == pytest.approx((change.high - change.low) / 2, rel=0.05)


def test_clustered_items_keep_their_error_rate(result: Result) -> None:
    random = np.random.default_rng(8)
    shared = np.repeat(random.normal(0, 0.2, 50), 10)
    base = random.random(ITEMS)
    scores = {"rougeL": (base, base + shared + random.normal(0, 0.05, ITEMS))}
    groups = [f"g{n // 10}" for n in range(ITEMS)]
    rows = [
        calibrate(
            of_scores(result, scores, grouped=grouped), samples_of(scores, groups), policy("max_drop = 0.02")
        ).rows[0]
        for grouped in (True, False)
    ]
    assert ["groups" in str(row.method) for row in rows] == [True, False]
    still = [scenario(row, "no_change") for row in rows]
    assert still[0].failed.value <= 0.075
    assert still[0].passed.value < still[1].passed.value


def test_lower_is_better_turns_the_sign(result: Result) -> None:
    random = np.random.default_rng(9)
    base = random.random(ITEMS)
    scores = {"hamming_loss": (base, base + random.exponential(0.2, ITEMS))}
    report = calibrate(of_scores(result, scores, direction="lower"), samples_of(scores), policy("max_drop = 0.02"))
    assert scenario(report.rows[0], "drop", 0.10).failed.value > 0.9


def test_overlap_scores_that_happen_to_be_whole_are_no_right_answers(result: Result) -> None:
    scores = {"rougeL": answers(np.random.default_rng(20))}
    comparison = of_scores(result, scores)
    (found,) = comparison.measurements
    assert found.delta is not None
    tested = found.model_copy(update={"delta": found.delta.model_copy(update={"test": "approximate randomisation"})})
    (row,) = calibrate(result(tested), samples_of(scores), policy("max_drop = 0.02")).rows
    assert "t bounds" in str(row.method)
    assert scenario(row, "no_change").failed.value <= 0.065


def test_few_items_keep_their_error_rate(result: Result) -> None:
    random = np.random.default_rng(21)
    base = random.random(12)
    scores = {"rougeL": (base, base + random.normal(0, 0.2, 12))}
    (row,) = calibrate(of_scores(result, scores), samples_of(scores), policy("max_drop = 0.02"), resamples=4000).rows
    assert scenario(row, "no_change").failed.value <= 0.065


@pytest.fixture(scope="module")
def texts() -> dict[str, list[object]]:
    random = np.random.default_rng(10)
    words = [f"w{number}" for number in range(300)]
    references = [" ".join(random.choice(words, size=8)) for _ in range(300)]

    def worn(text: str) -> str:
        return " ".join(word if random.random() < 0.85 else "x" for word in text.split())

    return {
        "prompt": ["?"] * 300,
        "references": [[each] for each in references],
        "base_output": [worn(each) for each in references],
        "adapted_output": [worn(each) for each in references],
    }


def test_corpus_metric_is_linearised(texts: dict[str, list[object]], result: Result) -> None:
    base, adapted = (score_text(texts[side], texts["references"], ["bleu"])["bleu"] for side in
                     ("base_output", "adapted_output"))  # type: ignore[arg-type]  # fmt: skip
    assert base.value is not None
    assert adapted.value is not None
    items = changes_of(base, adapted, Units.of(300, None), better=1).sums
    assert items.mean() == pytest.approx(adapted.value - base.value, abs=0.05)
    change = paired(base, adapted, margin=None, seed=0, resamples=2000)
    assert change.low is not None
    assert change.high is not None
    assert 2 * 1.96 * items.std(ddof=1) / np.sqrt(300) == pytest.approx(change.high - change.low, rel=0.1)
    found = of_items("bleu", base.value, adapted.value, 300, scale="0-100")
    (row,) = calibrate(result(found), samples_of({}, **texts), policy("max_drop = 2.0")).rows
    assert row.reason is None
    assert "linearised" in str(row.method)
    assert scenario(row, "no_change").failed.value <= 0.07
    assert [each.drop for each in row.scenarios] == [None, 1.0, 2.0, 3.0, 5.0, 10.0]


def test_measured_noise_is_a_scenario_of_its_own(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(11))}
    comparison = of_scores(result, scores)
    noise = of_items("noise_flip_rate", 0.0, 0.30, ITEMS, area="noise", direction="none")
    comparison.measurements.append(noise.model_copy(update={"base": None, "delta": None}))
    (row,) = calibrate(comparison, samples_of(scores), policy("max_drop = 0.02", metric="support.accuracy")).rows
    told = right_wrong_chances(0.0, 0.30, ITEMS, Rules("max_drop", 0.02))
    seen = scenario(row, "noise")
    assert seen.failed.value == pytest.approx(told.failed, abs=0.02)
    assert seen.passed.value == pytest.approx(told.passed, abs=0.04)


def ten(random: np.random.Generator) -> Scores:
    return {f"m{place}": answers(random) for place in range(10)}


def test_correction_keeps_the_false_alarms_of_the_whole_policy(result: Result) -> None:
    scores = ten(np.random.default_rng(12))
    comparison, table = of_scores(result, scores), samples_of(scores)
    alarms: dict[str, CalibrationReport] = {
        name: calibrate(comparison, table, policy("max_drop = 0.02", f'correction = "{name}"'))
        for name in ("none", "holm", "benjamini-hochberg")
    }
    rates = {name: report.any_false_alarm.value for name, report in alarms.items() if report.any_false_alarm}
    assert rates["none"] > 0.25
    assert rates["holm"] <= 0.06
    assert rates["benjamini-hochberg"] <= 0.06
    powers = {name: scenario(report.rows[0], "drop", 0.05).failed.value for name, report in alarms.items()}
    assert powers["none"] > powers["holm"] > 0.3


def test_order_of_items_and_rows_does_not_matter(result: Result) -> None:
    scores = ten(np.random.default_rng(13))
    comparison, table = of_scores(result, scores), samples_of(scores)
    turned = table.take(list(np.random.default_rng(0).permutation(ITEMS)))
    gates = policy("max_drop = 0.02", 'correction = "holm"')
    assert calibrate(comparison, table, gates, resamples=200) == calibrate(comparison, turned, gates, resamples=200)


def test_seed_is_all_that_chance_follows(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(14))}
    comparison, table = of_scores(result, scores), samples_of(scores)
    gates = policy("max_drop = 0.02")
    one, same, other = (calibrate(comparison, table, gates, resamples=300, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.rows != other.rows


def test_what_cannot_be_calibrated_says_why(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(15))}
    comparison = of_scores(result, scores)
    lines = ("max_drop = 0.02", "min = 0.5")
    rows = calibrate(comparison, samples_of(scores), policy(*lines), resamples=50).rows
    assert [row.reason is None for row in rows] == [True, False]
    assert "max_drop" in str(rows[1].reason)
    rows = calibrate(comparison, None, policy("max_drop = 0.02")).rows
    assert "samples.parquet" in str(rows[0].reason)
    rows = calibrate(comparison, samples_of(scores), policy("max_drop = 0.02", metric="suport.accuracy")).rows
    assert "nearest: support.accuracy" in str(rows[0].reason)
    report = calibrate(comparison, samples_of({"other": scores["accuracy"]}), policy("max_drop = 0.02"))
    assert report.rows[0].reason is not None
    assert report.any_false_alarm is None


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_equal_scores_have_no_rates(score: float, result: Result) -> None:
    same = {"rougeL": (np.full(ITEMS, score), np.full(ITEMS, score))}
    row = calibrate(of_scores(result, same), samples_of(same), policy("max_drop = 0.02"), resamples=100).rows[0]
    assert row.scenarios == []
    assert "no item's score differs" in str(row.reason)


def test_change_that_is_the_same_everywhere_never_passes(result: Result) -> None:
    base = np.linspace(0.1, 0.8, ITEMS)
    (sums,) = draw([], [Changes(np.full(ITEMS, 0.0), np.ones(ITEMS))], resamples=50, seed=[0])[1]
    found = sums.readings(0.95)
    assert (found.low == found.high).all()
    shifted = {"rougeL": (base, base + 0.1)}
    row = calibrate(of_scores(result, shifted), samples_of(shifted), policy("max_drop = 0.02"), resamples=100).rows[0]
    assert scenario(row, "no_change").failed.value < 0.12


def test_too_few_items_do_not_pass(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(16))}
    gates = policy("max_drop = 0.2", "min_n = 501")
    (row,) = calibrate(of_scores(result, scores), samples_of(scores), gates, resamples=50).rows
    assert {each.passed.value for each in row.scenarios} == {0.0}


def test_drops_that_right_answers_cannot_make_are_left_out(result: Result) -> None:
    base = np.arange(ITEMS) < 0.06 * ITEMS
    scores = {"accuracy": (base, np.roll(base, 5))}
    (row,) = calibrate(of_scores(result, scores), samples_of(scores), policy("max_drop = 0.02"), resamples=50).rows
    assert [each.drop for each in row.scenarios] == [None, 0.01, 0.02, 0.03, 0.05]


def test_default_policy_is_the_margin_of_every_task_metric(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(17))}
    comparison = of_scores(result, scores)
    (gate,) = default_policy(comparison).gate
    assert (gate.metric, gate.max_drop) == ("support.accuracy", 0.02)
    assert calibrate(comparison, samples_of(scores), resamples=20).rows[0].reason is None
    assert calibrate(result(), None).rows == []
    spaced = comparison.measurements[0].model_copy(update={"task": "my own task"})
    assert default_policy(result(spaced)).gate == []
    with pytest.raises(UsageError, match="0 resamples"):
        calibrate(comparison, None, resamples=0)


def test_page_holds_rates_and_reasons(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(18))}
    out = io.StringIO()
    gates = policy("max_drop = 0.02", "min = 0.1")
    comparison = of_scores(result, scores)
    report = run_calibrate(comparison, samples_of(scores), gates, Console(file=out, width=160), resamples=100)
    text = out.getvalue()
    assert "no change" in text
    assert "not calibrated" in text
    assert "any FAIL of gates.toml" in text
    assert CalibrationReport.model_validate_json(report.model_dump_json()) == report


def test_readings_hold_one_entry_a_resample() -> None:
    (table,), () = draw([Answers(*answers(np.random.default_rng(19)))], [], resamples=11, seed=[0])
    found: Readings = table.readings(0.95)
    assert {len(each) for each in found} == {11}
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()


def large_drop_is_found(row: CalibrationRow, *drops: float) -> None:
    powers = [scenario(row, "drop", drop).failed.value for drop in drops]
    assert powers == sorted(powers)
    assert powers[-1] > 0.95, powers


def test_large_drops_of_few_groups_are_found(result: Result) -> None:
    random = np.random.default_rng(30)
    groups = [f"g{n // 20}" for n in range(ITEMS)]
    base = random.random(ITEMS) * 0.4 + 0.5
    scores = {"rougeL": (base, base + np.repeat(random.normal(0, 0.05, 25), 20) + random.normal(0, 0.1, ITEMS))}
    (row,) = calibrate(
        of_scores(result, scores, grouped=True), samples_of(scores, groups), policy("max_drop = 0.02")
    ).rows
    assert "random items lose their whole score" in str(row.method)
    large_drop_is_found(row, 0.01, 0.02, 0.03, 0.05, 0.10)


def test_large_drops_of_a_corpus_metric_are_found(texts: dict[str, list[object]], result: Result) -> None:
    base, adapted = (score_text(texts[side], texts["references"], ["bleu"])["bleu"] for side in
                     ("base_output", "adapted_output"))  # type: ignore[arg-type]  # fmt: skip
    assert base.value is not None
    assert adapted.value is not None
    found = of_items("bleu", base.value, adapted.value, 300, scale="0-100")
    (row,) = calibrate(result(found), samples_of({}, **texts), policy("max_drop = 1.0")).rows
    assert "an equal share of the whole" in str(row.method)
    large_drop_is_found(row, 1.0, 2.0, 3.0, 5.0, 10.0)


def test_planted_drops_are_as_large_as_they_are_called() -> None:
    random = np.random.default_rng(31)
    rouge = define("rougeL", mean_of_items)
    base = random.random(ITEMS)
    sides = [Scored(rouge, item_rows(each), "r") for each in (base, np.clip(base + random.normal(0, 0.1, ITEMS), 0, 1))]
    units = Units.of(ITEMS, [f"g{n % 25}" for n in range(ITEMS)])
    for better, end in ((1, 0.0), (-1, 1.0), (1, None)):
        changes = changes_of(*sides, units, better=better, end=end, drops=(0.02, 0.10))
        _, (sums,) = draw([], [changes], resamples=2000, seed=[1])
        still = sums.readings(0.95).value
        for lost in sums.losses:
            assert (still - sums.readings(0.95, lost).value).mean() == pytest.approx(lost.drop, rel=0.03)
        assert len(sums.losses) == 2


def test_an_item_in_a_group_loses_its_own_score_and_no_other() -> None:
    rouge = define("rougeL", mean_of_items)
    base, adapted = (Scored(rouge, item_rows(each), "r") for each in ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]))
    changes = changes_of(base, adapted, Units.of(4, ["a", "b", "a", "b"]), better=1, end=0.0, drops=(0.1,))
    assert changes.room == pytest.approx(np.array([[0.1, 0.5], [0.3, 0.7], [0.2, 0.6], [0.4, 0.8]]))
    fallen = changes_of(base, adapted, Units.of(4, None), better=-1, end=1.0, drops=(0.1,)).room
    assert fallen == pytest.approx(np.array([[0.9, 0.5], [0.8, 0.4], [0.7, 0.3], [0.6, 0.2]]))


@pytest.mark.parametrize("metric", ["accuracy", "rougeL"])
def test_drops_above_the_value_are_not_planted_and_that_is_said(metric: str, result: Result) -> None:
    base = (np.arange(ITEMS) < 0.06 * ITEMS).astype(float) * (1.0 if metric == "accuracy" else 0.9)
    scores = {metric: (base, np.roll(base, 5))}
    (row,) = calibrate(of_scores(result, scores), samples_of(scores), policy("max_drop = 0.02"), resamples=50).rows
    assert [each.drop for each in row.scenarios] == [None, 0.01, 0.02, 0.03, 0.05]
    assert "was planted, for there is no more to lose" in str(row.method)


def test_scales_without_a_worst_value_have_drops_too(result: Result) -> None:
    random = np.random.default_rng(33)
    base = random.random(ITEMS)
    scores = {"squared_error": (base, base + random.normal(0, 0.2, ITEMS))}
    comparison = of_scores(result, scores, direction="lower", scale="0-inf")
    (row,) = calibrate(comparison, samples_of(scores), policy("max_drop = 0.04"), resamples=500).rows
    assert "random items lose 0.4 each" in str(row.method)
    large_drop_is_found(row, 0.02, 0.04, 0.06, 0.10, 0.20)


def test_the_notes_say_what_a_drop_is_added_to(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(34))}
    report = calibrate(of_scores(result, scores), samples_of(scores), policy("max_drop = 0.02"), resamples=50)
    assert any("on top of the changes that are there" in note for note in report.notes)


def test_the_page_commands_nothing(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(35))}
    comparison = of_scores(result, scores)
    name = "lo\n::stop-commands::x\x1b[31m"
    comparison.checkpoints[1] = comparison.checkpoints[1].model_copy(update={"name": name})
    comparison.measurements[0] = comparison.measurements[0].model_copy(update={"subject": name})
    out = io.StringIO()
    table = samples_of(scores)
    table = table.set_column(table.schema.get_field_index("subject"), "subject", pyarrow.array([name] * ITEMS))
    gates = policy("max_drop = 0.02", "min = 0.1")
    run_calibrate(comparison, table, gates, Console(file=out, width=160), resamples=50)
    assert "no change" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert "::" not in out.getvalue()


def test_a_baseline_takes_the_place_of_the_runs_reference(result: Result) -> None:
    random = np.random.default_rng(40)
    base, adapted = answers(random, discordant=0.05)
    old = adapted ^ random.permutation(np.arange(ITEMS) < 0.2 * ITEMS)
    scores, earlier = {"accuracy": (base, adapted)}, {"accuracy": (base, old)}
    comparison = of_scores(result, scores)
    before = of_scores(result, earlier)
    before.checkpoints[1] = before.checkpoints[1].model_copy(update={"content_hash": "h-old"})
    baseline = Baseline(before, samples_of(earlier), samples_of(scores), "old.json")
    gates = policy("max_drop = 0.02").model_copy(update={"baseline": "old.json"})
    found = {}
    for name, other in (("reference", None), ("baseline", baseline)):
        out = io.StringIO()
        console = Console(file=out, width=160)
        report = run_calibrate(comparison, samples_of(scores), gates, console, baseline=other, resamples=400)
        found[name] = report.rows[0], out.getvalue().splitlines()[0], report.baseline
    (own, own_line, _), (row, line, named) = found["reference"], found["baseline"]
    assert (own.changed, row.changed) == (pytest.approx(0.05), pytest.approx(0.20))
    assert "the policy's baseline old.json is not used" in own_line
    assert line == "Resampled: this result's items, against the adapted checkpoint in the baseline old.json."
    assert named == "old.json"
    told = right_wrong_chances(0.0, 0.20, ITEMS, Rules("max_drop", 0.02))
    assert scenario(row, "no_change").passed.value == pytest.approx(told.passed, abs=0.06)


def test_a_baseline_with_other_items_is_not_calibrated(result: Result) -> None:
    scores = {"accuracy": answers(np.random.default_rng(41))}
    comparison = of_scores(result, scores)
    fewer = samples_of(scores).slice(1)
    report = calibrate(
        comparison, samples_of(scores), policy("max_drop = 0.02"),
        baseline=Baseline(comparison, fewer, samples_of(scores)), resamples=20,
    )  # fmt: skip
    assert report.rows[0].scenarios == []
    assert "not in the baseline" in (report.rows[0].reason or "")
