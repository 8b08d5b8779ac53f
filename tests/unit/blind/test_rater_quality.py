from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lorascope.blind.checking import check_sheets
from lorascope.blind.key import KeyRow, StudyItem
from lorascope.blind.plan import Exclusions
from lorascope.blind.quality import apply_exclusions, quality_warnings, rater_quality, unjudged
from lorascope.blind.rows import OVERALL
from lorascope.schema.human import RaterQuality

make = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("filled_study.py"))))


def judged(answer: Any, **study: Any) -> RaterQuality:
    made = make.make_study(**study)
    return rater_quality(check_sheets([made.sheet("rater-1", answer)], made.key), made.key)[0]


def quality(**counts: Any) -> RaterQuality:
    return RaterQuality(rater="rater-1", present=True, sheet="rater-1.csv", **counts)


def test_careful_rater() -> None:
    found = judged(make.prefer("tuned"))
    assert (found.rows, found.present, found.sheet) == (21, True, "rater-1.csv")
    assert (found.repeats, found.repeats_consistent) == (4, 4)
    assert (found.checks, found.checks_passed) == (3, 3)
    assert (found.identical, found.identical_tied) == (2, 2)
    assert (found.left, found.right) == (6, 6)
    assert quality_warnings([found]) == []


def test_rater_who_always_takes_the_left_answer() -> None:
    found = judged(lambda row, item: "A much", items=20)
    assert found.repeats_consistent == 0
    assert found.checks_passed == 1  # two of three wrong answers stand on the left
    assert found.identical_tied == 0
    assert (found.left, found.right) == (20, 0)
    assert quality_warnings([found]) == [
        "rater-1 passed only 1 of 3 checks",
        "rater-1 was consistent in only 0 of 4 repeats; tossing a coin would be in half",
        "rater-1 chose side A in 20 of 20 decided votes (exact p < 0.001)",
        "rater-1 preferred a side in 2 of 2 rows with twice the same answer",
    ]


def test_a_repeat_is_consistent_in_its_direction_alone() -> None:
    def strength_differs(row: KeyRow, item: StudyItem) -> str:
        side = "A" if row.a == "tuned" else "B"
        return side if row.kind == "repeat" else f"{side} much"

    def bad_for_tie(row: KeyRow, item: StudyItem) -> str:
        return "both bad" if row.kind == "repeat" else "tie"

    def tie_for_win(row: KeyRow, item: StudyItem) -> str:
        return "tie" if row.kind == "repeat" else "A"

    assert judged(strength_differs).repeats_consistent == 4
    assert judged(bad_for_tie).repeats_consistent == 4
    assert judged(tie_for_win).repeats_consistent == 0


def test_ties_pass_no_check_and_absent_raters_have_counts_of_zero() -> None:
    made = make.make_study()
    tied = made.sheet("rater-1", lambda row, item: "tie")
    first, second, _ = rater_quality(check_sheets([tied], made.key), made.key)
    assert (first.checks, first.checks_passed, first.left, first.right) == (3, 0, 0, 0)
    assert (second.rater, second.present, second.sheet, second.rows, second.checks) == ("rater-2", False, None, 0, 0)


def test_a_check_whose_answers_are_both_bad_says_nothing() -> None:
    made = make.make_study()
    found = rater_quality(check_sheets([made.sheet("rater-1", lambda row, item: "both bad")], made.key), made.key)[0]
    assert (found.checks, found.checks_passed) == (0, 0)
    assert apply_exclusions([found], Exclusions(min_checks_passed=0.5))[0].excluded is None
    assert "answered no checks that count" in unjudged([found], Exclusions(min_checks_passed=0.5))[0]


def test_repeats_of_open_rows_do_not_count() -> None:
    made = make.make_study()
    sheet = make.changed(made.sheet("rater-1", make.prefer("tuned")), 1, overall="")
    found = rater_quality(check_sheets([sheet], made.key, allow_partial=True), made.key)[0]
    assert (found.repeats, found.repeats_consistent) == (3, 3)


def test_exclusion_says_rule_and_numbers() -> None:
    rules = Exclusions(min_checks_passed=0.67, min_repeat_consistency=0.6)
    (kept,) = apply_exclusions([quality(checks=3, checks_passed=2, repeats=5, repeats_consistent=3)], rules)
    assert kept.excluded is None
    (out,) = apply_exclusions([quality(checks=3, checks_passed=1, repeats=12, repeats_consistent=7)], rules)
    assert out.excluded == (
        "passed 1 of 3 checks (0.33), the plan asks for at least 0.67; "
        "consistent in 7 of 12 repeats (0.58), the plan asks for at least 0.60"
    )
    assert quality_warnings([out]) == []


@pytest.mark.parametrize(
    ("passed", "checks", "least", "out"),
    [(2, 3, 0.67, False), (2, 3, 2 / 3, False), (66, 100, 0.667, True), (67, 100, 0.674, False), (67, 100, 0.68, True)],
)
def test_shares_are_compared_to_two_decimals(passed: int, checks: int, least: float, out: bool) -> None:
    (found,) = apply_exclusions([quality(checks=checks, checks_passed=passed)], Exclusions(min_checks_passed=least))
    assert bool(found.excluded) == out


def test_nobody_is_excluded_without_a_rule_or_rows() -> None:
    bad = quality(checks=3, repeats=10)
    assert apply_exclusions([bad], None)[0].excluded is None
    assert apply_exclusions([bad], Exclusions())[0].excluded is None
    rules = Exclusions(min_checks_passed=0.5, min_repeat_consistency=0.5)
    (unchecked,) = apply_exclusions([quality(repeats=4, repeats_consistent=4)], rules)
    assert unchecked.excluded is None
    assert unjudged([unchecked], rules) == [
        "rater-1 answered no checks that count, so the registered rule on checks could not be applied"
    ]


def test_warnings_start_where_they_are_said_to() -> None:
    assert quality_warnings([quality(checks=3, checks_passed=2, repeats=10, repeats_consistent=6)]) == []
    assert len(quality_warnings([quality(checks=4, checks_passed=2, repeats=10, repeats_consistent=5)])) == 2
    assert quality_warnings([quality(repeats=3)]) == []
    assert quality_warnings([quality(left=9)]) == []
    assert "side B in 60 of 75" in quality_warnings([quality(left=15, right=60)])[0]
    assert quality_warnings([quality(left=45, right=75)]) == []


def test_random_clicking_is_flagged_and_careful_rating_is_not() -> None:
    # Twelve repeats and three checks, as in a study of 120 items.
    made = make.make_study(40, 1, repeats=12)
    choices, rng = list(OVERALL), np.random.default_rng(0)

    def careful(row: KeyRow, item: StudyItem) -> str:
        error = rng.random() < 0.1
        better = ("B" if row.wrong == "A" else "A") if row.kind == "mismatched" else "A" if row.a == "tuned" else "B"
        return "tie" if row.kind == "identical" else {"A": "B", "B": "A"}[better] if error else better

    flagged = {"random": 0, "careful": 0}
    for name, answer in (("random", lambda row, item: str(rng.choice(choices))), ("careful", careful)):
        for _ in range(150):
            sheet = made.sheet("rater-1", answer)
            flagged[name] += bool(quality_warnings(rater_quality(check_sheets([sheet], made.key), made.key)))
    assert flagged["random"] >= 0.95 * 150
    assert flagged["careful"] <= 0.12 * 150


@pytest.mark.parametrize("side", ["A", "B"])
def test_wrong_side_of_a_check(side: str) -> None:
    def right(row: KeyRow, item: StudyItem) -> str:
        return side if row.kind == "mismatched" else "tie"

    found = judged(right, checks=4)
    assert (found.checks, found.checks_passed) == (4, 2)
