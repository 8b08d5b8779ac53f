"""Error rates of gates by simulation with known truth: measured, written as a result is, and judged by ``evaluate``.

Bounds allow for the noise of the simulation itself: with 200 repetitions a rate of 5 % has a standard error of 1.5
points, so 9.5 % is passed by chance once in more than five hundred runs. Seeds are fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import pytest

from lorascope.gates import evaluate
from lorascope.gates.power import Rules, normal_chances, right_wrong_chances
from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.intervals import newcombe_paired
from lorascope.measures.registry import define
from lorascope.measures.statistics import paired
from lorascope.measures.text import score_text
from lorascope.schema.comparison import CheckpointInfo, Comparison, Measurement, ParameterCounts, Provenance
from lorascope.schema.policy import GatePolicy, parse_policy
from lorascope.schema.values import Delta, Estimate

ITEMS = 500
DISCORDANT = 0.10
REPETITIONS = 200
MATCH = define("exact_match", mean_of_items, proportion=True)
ROUGE = define("rougeL", mean_of_items)
Pair = tuple[Scored, Scored]


def comparison(measurements: Iterable[Measurement]) -> Comparison:
    checkpoints = [
        CheckpointInfo(
            name=name,
            path=name,
            role="base" if name == "base" else "adapted",
            kind="model",
            architecture="LlamaForCausalLM",
            dtype="float32",
            content_hash=name,
            parameters=ParameterCounts(total=1),
            generation_ready=True,
        )
        for name in ("base", "lora")
    ]
    return Comparison(
        created="",
        command=[],
        seed=0,
        lorascope_version="0",
        provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
        checkpoints=checkpoints,
        measurements=list(measurements),
    )


def measurement(metric: str, change: tuple[float, float | None, float | None], *, scale: str = "0-1") -> Measurement:
    value, low, high = change
    estimate = Estimate(value=0.7, n=ITEMS, method="none")
    return Measurement(
        subject="lora",
        reference="base",
        area="task",
        task="support",
        metric=metric,
        unit="",
        scale=scale,
        direction="higher",
        base=estimate,
        adapted=estimate,
        delta=Delta(value=value, low=low, high=high, n=ITEMS),
        signature="",
    )


def policy(*lines: str, metric: str = "*") -> GatePolicy:
    return parse_policy("\n".join(["version = 1", "[[gate]]", f'metric = "support.{metric}"', *lines]))


def fates(random: np.random.Generator, drop: float) -> tuple[np.ndarray, np.ndarray]:
    """Which items base and adapted have right, of which one in ten differ, with a true drop in the share."""
    chances = [(DISCORDANT + drop) / 2, (DISCORDANT - drop) / 2, 1 - DISCORDANT]
    fate = random.choice([-1, 1, 0], size=ITEMS, p=chances)
    before = np.where(fate == 0, random.random(ITEMS) < 0.7, fate < 0)
    return before, before + fate > 0


def right_wrong(random: np.random.Generator, drop: float) -> Pair:
    before, after = fates(random, drop)
    return Scored(MATCH, item_rows(before), "m"), Scored(MATCH, item_rows(after), "m")


def continuous(random: np.random.Generator, drop: float) -> Pair:
    """Overlap scores that move a little in half of the items, and down by ten points in as many as make the drop."""
    before = random.beta(4, 2, size=ITEMS)
    moved = before + np.where(random.random(ITEMS) < 0.5, random.normal(0, 0.45, ITEMS), 0.0)
    after = moved - 0.1 * (random.random(ITEMS) < drop / 0.1)
    return Scored(ROUGE, item_rows(before), "r"), Scored(ROUGE, item_rows(after), "r")


@pytest.fixture(scope="module")
def corpus() -> Callable[[np.random.Generator, float], Pair]:
    """BLEU of right answers, and of wrong ones of the same length, so that it falls by the share of wrong ones."""
    random = np.random.default_rng(5)
    words = [f"w{number}" for number in range(3000)]
    references = [" ".join(random.choice(words, size=random.integers(6, 12))) for _ in range(ITEMS)]
    garbage = [" ".join(random.choice([f"x{n}" for n in range(3000)], size=len(each.split()))) for each in references]
    good, bad = (
        score_text(answers, [[each] for each in references], ["bleu"])["bleu"] for answers in (references, garbage)
    )

    def draw(random: np.random.Generator, drop: float) -> Pair:
        rows = random.integers(0, ITEMS, size=ITEMS)
        sides = fates(random, drop)
        statistics = [np.where(right[:, None], good.statistics[rows], bad.statistics[rows]) for right in sides]
        return Scored(good.measure, statistics[0], "b"), Scored(good.measure, statistics[1], "b")

    return draw


@cache
def outcomes(draw: Callable[[np.random.Generator, float], Pair], drop: float, limit: float) -> Counter[str]:
    gates = policy(f"max_drop = {limit}")
    random = np.random.default_rng(17)
    found: Counter[str] = Counter()
    for repetition in range(REPETITIONS):
        pair = draw(random, drop)
        change = paired(*pair, margin=None, seed=repetition, resamples=300)
        assert change.value is not None
        measure = pair[0].measure
        result = comparison([measurement(measure.name, (change.value, change.low, change.high), scale=measure.scale)])
        found[evaluate(gates, result).rows[0].outcome] += 1
    return found


@pytest.mark.parametrize("name", ["right_wrong", "continuous", "corpus"])
def test_five_points_fail_and_no_change_seldom_does(
    name: str, corpus: Callable[[np.random.Generator, float], Pair]
) -> None:
    draw = {"right_wrong": right_wrong, "continuous": continuous, "corpus": corpus}[name]
    limit = 2.0 if name == "corpus" else 0.02
    # A corpus score is no mean: the same broken items are worth a little more or less than five points.
    assert outcomes(draw, 0.05, limit)["FAIL"] >= 0.95 * REPETITIONS
    unchanged = outcomes(draw, 0.0, limit)
    assert unchanged["FAIL"] <= 0.095 * REPETITIONS
    assert 0.25 * REPETITIONS <= unchanged["PASS"] <= 0.60 * REPETITIONS


def test_a_drop_of_the_limit_hardly_passes() -> None:
    assert outcomes(right_wrong, 0.02, 0.02)["PASS"] <= 0.095 * REPETITIONS


def family(random: np.random.Generator, drops: Iterable[float]) -> Comparison:
    """One measurement a drop, all independent."""
    found = []
    for number, drop in enumerate(drops):
        before, after = fates(random, drop)
        cells = (before & after, before & ~after, ~before & after, ~before & ~after)
        low, high = newcombe_paired(*(int(cell.sum()) for cell in cells))
        found.append(measurement(f"m{number}", (float(after.mean() - before.mean()), low, high)))
    return comparison(found)


def test_correction_keeps_the_false_alarms_of_twenty_metrics_at_five_percent() -> None:
    random = np.random.default_rng(23)
    names = ("none", "holm", "benjamini-hochberg")
    kinds = {name: policy("max_drop = 0.02", f'correction = "{name}"') for name in names}
    alarms: Counter[str] = Counter()
    families = 120
    for _ in range(families):
        result = family(random, [0.0] * 20)
        for name, gates in kinds.items():
            alarms[name] += any(row.outcome == "FAIL" for row in evaluate(gates, result).rows)
    assert alarms["none"] >= 0.5 * families
    assert alarms["holm"] <= 0.11 * families
    assert alarms["benjamini-hochberg"] <= 0.11 * families


def test_correction_still_finds_a_true_drop_among_nineteen() -> None:
    random = np.random.default_rng(29)
    gates = policy("max_drop = 0.02", 'correction = "holm"')
    found = sum(evaluate(gates, family(random, [0.08] + [0.0] * 19)).rows[0].outcome == "FAIL" for _ in range(30))
    assert found >= 26


@pytest.mark.parametrize("drop", [0.0, 0.01, 0.02, 0.05])
def test_told_chances_are_those_of_the_simulation(drop: float) -> None:
    told = right_wrong_chances(-drop, DISCORDANT, ITEMS, Rules("max_drop", 0.02))
    seen = outcomes(right_wrong, drop, 0.02)
    for chance, name in ((told.passed, "PASS"), (told.failed, "FAIL"), (told.inconclusive, "INCONCLUSIVE")):
        error = 3.5 * np.sqrt(max(chance * (1 - chance), 0.001) / REPETITIONS)
        assert seen[name] / REPETITIONS == pytest.approx(chance, abs=error)


@pytest.mark.parametrize("drop", [0.0, 0.05])
def test_normal_chances_are_those_of_continuous_scores(drop: float) -> None:
    random = np.random.default_rng(31)
    spread = np.std([float(each[1].value or 0) - float(each[0].value or 0) for each in
                     (continuous(random, drop) for _ in range(500))])  # fmt: skip
    told = normal_chances(-drop, float(spread), Rules("max_drop", 0.02))
    seen = outcomes(continuous, drop, 0.02)
    assert seen["PASS"] / REPETITIONS == pytest.approx(told.passed, abs=0.13)
    assert seen["FAIL"] / REPETITIONS == pytest.approx(told.failed, abs=0.13)
