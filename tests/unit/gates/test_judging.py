from __future__ import annotations

import math

import numpy as np
import pytest

from lorascope.gates.families import adjusted, adjusted_columns
from lorascope.gates.judging import (
    Reading,
    Targets,
    decide,
    fail_p_value,
    judge,
    needed_items,
    p_of_fail,
    quantile,
)
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


def test_no_run_has_hundreds_of_millions_of_items() -> None:
    close = judge(reading(-0.01999, 0.02), "max_drop", 0.02, "strict", 0.95)
    assert (close.note, close.needed_n) == ("no realistic number of items would decide", None)
    far = judge(reading(-0.019, 0.02), "max_drop", 0.02, "strict", 0.95)
    assert far.needed_n is not None
    assert f"about {far.needed_n:,} items" in far.note


def test_hollow_reading_never_passes_and_may_fail() -> None:
    hollow = Reading(0.0, -0.01, 0.01, 500, "test", hollow_because="nothing to lose")
    assert judge(hollow, "max_drop", 0.02, "significant", 0.95).outcome == "INCONCLUSIVE"
    fallen = Reading(-0.5, -0.52, -0.48, 500, "test", hollow_because="nothing to lose")
    assert judge(fallen, "max_drop", 0.02, "significant", 0.95).outcome == "FAIL"


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


@pytest.mark.parametrize("name", ["max_drop", "min_gain", "min", "max"])
@pytest.mark.parametrize("rule", ["significant", "strict", "point"])
def test_many_readings_are_decided_as_one_by_one(name: LimitName, rule: Rule) -> None:
    random = np.random.default_rng(3)
    values, halves = random.normal(0, 0.05, 200), random.choice([0.0, 0.01, 0.03, math.nan], 200)
    sign = -1 if name == "max" else 1
    found = decide(sign * values, sign * values - halves, sign * values + halves, Targets.of(name, 0.02, rule), rule)
    for place, (value, half) in enumerate(zip(values, halves, strict=True)):
        one = judge(reading(value, None if math.isnan(half) else half), name, 0.02, rule, 0.95)
        together = "PASS" if found.passes[place] else "FAIL" if found.fails[place] else "INCONCLUSIVE"
        assert one.outcome == together or (math.isnan(half) and name in ("min", "max"))


def test_p_value_is_below_the_error_exactly_where_the_bound_is_below_the_target() -> None:
    for confidence in (0.9, 0.95, 0.99):
        reach = quantile(confidence) * 0.01
        for value in (-0.05, -reach - 1e-6, -reach + 1e-6, 0.0, 0.03):
            p = float(p_of_fail(value, value + reach, 0.0, confidence))
            assert (p < 1 - confidence) == (value + reach < 0)
    assert float(p_of_fail(-0.1, -0.1, 0.0, 0.95)) == 0
    assert float(p_of_fail(0.0, 0.0, 0.0, 0.95)) == 1


def test_what_is_not_tested_has_no_p_value() -> None:
    assert fail_p_value(reading(0.1, None), "max_drop", 0.02, "significant", 0.95, corrected=True) is None
    assert fail_p_value(reading(0.1, 0.1), "max_drop", 0.02, "point", 0.95, corrected=False) is None
    exact = Reading(1, 1, 1, 3, "test", exact=True)
    assert fail_p_value(exact, "max", 2, "significant", 0.95, corrected=False) is None


def test_correction_takes_the_more_careful_p_value() -> None:
    few = Reading(-0.1, -0.17, -0.03, 50, "five items broken", p_value=0.0625)
    alone = fail_p_value(few, "max_drop", 0.02, "significant", 0.95, corrected=False)
    corrected = fail_p_value(few, "max_drop", 0.02, "significant", 0.95, corrected=True)
    assert alone is not None
    assert alone < 0.02
    assert corrected == pytest.approx(0.03125)


def test_fail_that_does_not_stand_is_inconclusive() -> None:
    fallen = reading(-0.05, 0.04)
    assert judge(fallen, "max_drop", 0.02, "significant", 0.95, p_adjusted=0.05).outcome == "FAIL"
    found = judge(fallen, "max_drop", 0.02, "significant", 0.95, p_adjusted=0.06)
    assert (found.outcome, "adjusted" in found.note) == ("INCONCLUSIVE", True)
    assert judge(reading(0.0, 0.01), "max_drop", 0.02, "significant", 0.95, p_adjusted=1.0).outcome == "PASS"


def test_suspicious_reading_fails_whatever_its_bounds() -> None:
    same = Reading(0.0, -0.01, 0.01, 500, "test", suspicious_because="the same answers")
    assert judge(same, "max_drop", 0.02, "significant", 0.95).note == "the same answers"
    assert judge(same, "max_drop", 0.02, "significant", 0.95).outcome == "FAIL"
    widthless = Reading(0.0, 0.0, 0.0, 500, "test", suspicious_because="constant")
    assert judge(widthless, "max_drop", 0.02, "significant", 0.95).outcome == "FAIL"
    fallen = Reading(-0.1, -0.11, -0.09, 500, "test", suspicious_because="the same answers")
    assert judge(fallen, "max_drop", 0.02, "significant", 0.95).outcome == "FAIL"


def test_known_reason_lets_equal_answers_pass() -> None:
    same = Reading(0.0, 0.0, 0.0, 500, "test", unchanged_because="byte for byte the same")
    found = judge(same, "max_drop", 0.02, "significant", 0.95)
    assert (found.outcome, found.note) == ("PASS", "byte for byte the same")


def test_corrections_are_those_of_the_textbook() -> None:
    p_values = [0.01, None, 0.04, 0.03, 0.005]
    assert adjusted("none", p_values) == [None] * 5
    assert adjusted("holm", p_values) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert adjusted("benjamini-hochberg", p_values) == pytest.approx([0.02, None, 0.04, 0.04, 0.02])
    assert adjusted("holm", [None, None]) == [None, None]
    assert adjusted("holm", []) == []


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg"])
def test_correction_of_one_test_changes_nothing_and_of_more_never_helps(correction: str) -> None:
    assert adjusted(correction, [0.04, None]) == [pytest.approx(0.04), None]  # type: ignore[arg-type]
    many = np.random.default_rng(1).random((20, 50))
    found = adjusted_columns(correction, many)  # type: ignore[arg-type]
    assert (found >= many - 1e-12).all()
    assert (found <= 1).all()


def test_benjamini_hochberg_is_that_of_scipy() -> None:
    from scipy.stats import false_discovery_control

    many = np.random.default_rng(2).random(30)
    assert adjusted("benjamini-hochberg", many.tolist()) == pytest.approx(false_discovery_control(many).tolist())
