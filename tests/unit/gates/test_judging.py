from __future__ import annotations

import math

import pytest

from lorascope.gates.judging import Reading, judge, needed_items, quantile
from lorascope.schema.policy import LimitName, Rule


def reading(value: float, half: float | None, n: int = 500) -> Reading:
    low, high = (None, None) if half is None else (value - half, value + half)
    return Reading(value, low, high, n, "test")


@pytest.mark.parametrize(
    ("value", "half", "rule", "outcome"),
    [
        (0.00, 0.01, "significant", "PASS"),
        (0.00, 0.02, "significant", "PASS"),  # the low bound on the limit meets it
        (0.00, 0.03, "significant", "INCONCLUSIVE"),
        (-0.03, 0.02, "significant", "FAIL"),
        (-0.03, 0.02, "strict", "INCONCLUSIVE"),
        (-0.05, 0.02, "strict", "FAIL"),
        (-0.05, 0.02, "significant", "FAIL"),
        (-0.03, 0.04, "significant", "INCONCLUSIVE"),  # not significant
        (-0.015, 0.01, "significant", "INCONCLUSIVE"),  # significant, yet no larger than allowed
        (-0.015, 0.01, "point", "PASS"),
        (-0.03, 0.04, "point", "FAIL"),
        (0.78 - 0.80, 0.1, "point", "PASS"),  # a drop of the limit exactly, but for rounding
    ],
)
def test_drop_follows_the_rule(value: float, half: float, rule: Rule, outcome: str) -> None:
    assert judge(reading(value, half), "max_drop", 0.02, rule, 0.95).outcome == outcome


@pytest.mark.parametrize(
    ("name", "limit", "outcomes"),
    [
        ("min_gain", 0.05, {0.10: "PASS", 0.06: "INCONCLUSIVE", 0.04: "INCONCLUSIVE", 0.02: "FAIL"}),
        ("min", 0.80, {0.83: "PASS", 0.81: "INCONCLUSIVE", 0.79: "INCONCLUSIVE", 0.77: "FAIL"}),
        ("max", 0.80, {0.77: "PASS", 0.79: "INCONCLUSIVE", 0.81: "INCONCLUSIVE", 0.83: "FAIL"}),
    ],
)
@pytest.mark.parametrize("rule", ["significant", "strict"])
def test_other_limits_hold_on_the_bounds(name: LimitName, limit: float, outcomes: dict[float, str], rule: Rule) -> None:
    found = {value: judge(reading(value, 0.02), name, limit, rule, 0.95).outcome for value in outcomes}
    assert found == outcomes


def test_inconclusive_names_the_items_of_the_contract() -> None:
    # 10 % discordant items, unchanged model, 500 items: about 1,544 by the table of paired sample sizes.
    half = quantile(0.95) * math.sqrt(0.1 / 500)
    assert needed_items(reading(0.0, half), -0.02, 0.95) == pytest.approx(1544, abs=5)
    note = judge(reading(0.0, half), "max_drop", 0.02, "significant", 0.95).note
    assert "about 1,546 items would decide" in note


def test_items_that_would_decide_count_from_the_bound_that_matters() -> None:
    fallen = reading(-0.03, 0.04)
    to_zero = needed_items(fallen, 0.0, 0.95)
    to_limit = needed_items(fallen, -0.02, 0.95)
    assert to_zero is not None
    assert to_limit is not None
    assert to_limit == pytest.approx(9 * to_zero, rel=0.01)
    assert f"{to_zero:,}" in judge(fallen, "max_drop", 0.02, "significant", 0.95).note
    assert f"{to_limit:,}" in judge(fallen, "max_drop", 0.02, "strict", 0.95).note


def test_value_on_the_limit_is_never_decided() -> None:
    assert "no number" in judge(reading(-0.02, 0.01), "max_drop", 0.02, "strict", 0.95).note


def test_needed_items_exceed_those_there_are() -> None:
    for value in (-0.019, -0.01, 0.0, 0.02):
        needed = needed_items(reading(value, 0.05), -0.02, 0.95)
        assert needed is not None
        assert needed > 500


@pytest.mark.parametrize("rule", ["significant", "strict", "point"])
def test_no_variance_does_not_pass(rule: Rule) -> None:
    found = judge(reading(0.0, 0.0), "max_drop", 0.02, rule, 0.95)
    assert found.outcome == "INCONCLUSIVE"
    assert "without any variance" in found.note


def test_no_variance_may_still_fail() -> None:
    assert judge(reading(-0.1, 0.0), "max_drop", 0.02, "significant", 0.95).outcome == "FAIL"


def test_no_interval_is_inconclusive_unless_the_point_is_asked_for() -> None:
    assert judge(reading(0.5, None), "min", 0.1, "significant", 0.95).outcome == "INCONCLUSIVE"
    assert judge(reading(0.5, None), "min", 0.1, "point", 0.95).outcome == "PASS"


@pytest.mark.parametrize(("limit", "outcome"), [(12, "PASS"), (11, "FAIL")])
def test_counted_values_are_judged_as_they_are(limit: float, outcome: str) -> None:
    exact = Reading(12, 12, 12, 30, "test", exact=True)
    assert judge(exact, "max", limit, "significant", 0.95).outcome == outcome


@pytest.mark.parametrize(
    ("name", "value", "n", "outcome"),
    [
        ("min", 0.0, 200, "FAIL"),  # every item wrong: nothing varies, and the limit is missed all the same
        ("max", 1.0, 200, "FAIL"),
        ("min", 0.9, 200, "INCONCLUSIVE"),
        ("min", 0.0, 1, "INCONCLUSIVE"),
        ("min_gain", 0.0, 200, "INCONCLUSIVE"),
        ("max_drop", -1.0, 200, "INCONCLUSIVE"),
    ],
)
def test_without_an_interval_a_missed_limit_does_not_get_through(
    name: LimitName, value: float, n: int, outcome: str
) -> None:
    found = judge(reading(value, None, n), name, 0.3, "significant", 0.95)
    assert found.outcome == outcome
    assert "no interval" in found.note
