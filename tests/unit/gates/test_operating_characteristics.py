"""How often a gate fails and passes, exactly: the outcome of every possible table of fixed and broken answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow
import pytest
from scipy.stats import multinomial

from lorascope.gates import Baseline, evaluate
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.policy import parse_policy

ITEMS = 500
DISCORDANT = 0.10
POLICY = parse_policy('version = 1\n[[gate]]\nmetric = "support.accuracy"\nmax_drop = 0.02')


def characteristics(drop: float, outcome: Callable[[int, int], str]) -> dict[str, float]:
    """Probability of each outcome when items break and get fixed independently with a true drop."""
    chances = [(DISCORDANT + drop) / 2, (DISCORDANT - drop) / 2, 1 - DISCORDANT]
    found: dict[str, float] = {}
    for broken in range(90):
        for fixed in range(90):
            weight = float(multinomial.pmf([broken, fixed, ITEMS - broken - fixed], ITEMS, chances))
            if weight > 1e-7:
                found[name] = found.get(name := outcome(broken, fixed), 0.0) + weight
    return found


@pytest.fixture
def outcome(measured: Callable[..., Measurement], result: Callable[..., Comparison]) -> Callable[[int, int], str]:
    def judge(broken: int, fixed: int) -> str:
        change = (fixed - broken) / ITEMS
        half = 1.959964 * math.sqrt(((broken + fixed) / ITEMS - change**2) / (ITEMS - 1))
        comparison = result(measured(delta=(change, change - half, change + half)), measured("f1", delta=(1, 0, 1)))
        return evaluate(POLICY, comparison).rows[0].outcome

    return judge


def test_five_point_drop_fails_and_no_change_does_not(outcome: Callable[[int, int], str]) -> None:
    assert characteristics(0.05, outcome)["FAIL"] >= 0.95
    unchanged = characteristics(0.0, outcome)
    assert unchanged["FAIL"] <= 0.05
    assert unchanged["PASS"] == pytest.approx(0.41, abs=0.01)
    assert sum(unchanged.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("drop", "low", "high"), [(0.05, 0.93, 1.0), (0.0, 0.0, 0.10)])
def test_paired_with_a_baseline_the_same_holds(
    drop: float,
    low: float,
    high: float,
    measured: Callable[..., Measurement],
    result: Callable[..., Comparison],
    scored: Callable[..., pyarrow.Table],
) -> None:
    # 120 draws: the bounds leave room for the simulation's own error (about 2 points around 5 %).
    rng = np.random.default_rng(11)
    failed, draws = 0, 120
    for _ in range(draws):
        fate = rng.choice([-1, 1, 0], size=ITEMS, p=[(DISCORDANT + drop) / 2, (DISCORDANT - drop) / 2, 1 - DISCORDANT])
        old = np.where(fate == 0, rng.random(ITEMS) < 0.7, fate < 0).astype(float)
        new = old + fate
        current = result(measured(own=(new.mean(), 0, 1), delta=(0.3, 0.2, 0.4)))
        before = result(measured(own=(old.mean(), 0, 1)), hashes={"lora": "h-old"})
        report = evaluate(POLICY, current, Baseline(before, scored(old.tolist()), scored(new.tolist())))
        failed += report.rows[0].outcome == "FAIL"
    assert low <= failed / draws <= high
