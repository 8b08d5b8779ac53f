from __future__ import annotations

import json
import runpy
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lorascope.blind.human_measurements import outcome_measurements
from lorascope.blind.key import KeyRow, StudyItem, StudyKey, read_key, write_key
from lorascope.blind.plan import Exclusions, StudyPlan
from lorascope.blind.rows import OVERALL, RATINGS
from lorascope.blind.scoring import score_study
from lorascope.errors import DataError, EvaluationError
from lorascope.schema.comparison import CheckpointInfo, Comparison, ParameterCounts, Provenance
from lorascope.schema.human import HumanReport, HumanStudy

make = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("filled_study.py"))))
TUNED, BASE, TIE = make.prefer("tuned"), make.prefer("base"), make.prefer(None)


def score(made: Any, *answers: Any, **more: Any) -> HumanStudy:
    """One answer for every rater, or one for all."""
    raters = made.key.raters[: len(answers)] if len(answers) > 1 else made.key.raters
    sheets = [made.sheet(rater, answers[n % len(answers)]) for n, rater in enumerate(raters)]
    return score_study(sheets, made.key, **({"metrics": {}} | more))


def plan(**changes: Any) -> StudyPlan:
    rules = Exclusions(min_checks_passed=0.67, min_repeat_consistency=0.6)
    return StudyPlan(**({"effect": 0.65, "raters": 3, "votes_per_item": 3, "decisive_items": 10, "items": 12,
                         "exclusions": rules} | changes))  # fmt: skip


def of_items(outcome: Any) -> Any:
    """An answer that gives each item the preference of tuned (-2 to 2) that ``outcome`` says."""
    codes = {2: "A much", 1: "A", 0: "tie", -1: "B", -2: "B much"}

    def answer(row: KeyRow, item: StudyItem) -> str:
        if row.kind == "mismatched":
            return "B" if row.wrong == "A" else "A"
        value = 0 if row.kind == "identical" else outcome(int(item.item_id[1:]))
        return codes[value if row.a == "tuned" else -value]

    return answer


def test_unanimous_study() -> None:
    study = score(make.make_study(20, 3, identical=4), TUNED)
    (pair,) = study.pairs
    assert (pair.first, pair.second, pair.items, pair.identical) == ("tuned", "base", 20, 4)
    assert pair.win_rate.value == pytest.approx((16 + 0.5 * 4) / 20)
    assert pair.win_rate.n == 20
    assert pair.sign_test.model_dump() == {"wins": 16, "losses": 0, "undecided": 4, "p_value": pytest.approx(2**-15)}
    assert pair.votes.model_dump() == dict.fromkeys(pair.votes.model_dump(), 0) | {"first": 48}
    assert study.left_rate is not None
    assert study.left_rate.value == 0.5
    assert study.deviations == study.notes == []
    assert HumanReport.model_validate_json(HumanReport(studies=[study]).model_dump_json()).studies == [study]


def test_exchanged_preferences_mirror_everything() -> None:
    made = make.make_study(20, 3)
    up = score(made, of_items(lambda n: (n % 5) - 2), of_items(lambda n: (n % 3) - 1), TIE).pairs[0]
    down = score(made, of_items(lambda n: 2 - (n % 5)), of_items(lambda n: 1 - (n % 3)), TIE).pairs[0]
    assert up.win_rate.low is not None
    assert up.win_rate.value == pytest.approx(1 - down.win_rate.value)
    assert up.win_rate.low == pytest.approx(1 - (down.win_rate.high or 0))
    assert (up.sign_test.wins, up.sign_test.losses) == (down.sign_test.losses, down.sign_test.wins)
    assert (up.votes.first_much, up.votes.first, up.votes.tie) == (
        down.votes.second_much, down.votes.second, down.votes.tie,
    )  # fmt: skip


def test_order_of_sheets_and_rows_changes_nothing() -> None:
    made = make.make_study(20, 3)
    sheets = [made.sheet("rater-1", TUNED), made.sheet("rater-2", of_items(lambda n: n % 3 - 1))]
    turned = [type(sheet)(sheet.name, sheet.rows[::-1]) for sheet in sheets[::-1]]
    assert score_study(sheets, made.key, metrics={}) == score_study(turned, made.key, metrics={})


def test_both_bad_is_a_tie_and_counted_apart() -> None:
    study = score(make.make_study(10, 2), TIE, lambda row, item: "both bad")
    pair = study.pairs[0]
    assert pair.win_rate.value == pytest.approx(0.5)
    assert (pair.votes.tie, pair.votes.both_bad) == (10, 10)
    assert pair.sign_test.p_value is None
    assert pair.sign_test.undecided == 10
    assert study.left_rate is None


def test_split_raters_leave_an_item_undecided() -> None:
    pair = score(make.make_study(10, 2), TUNED, BASE).pairs[0]
    assert pair.win_rate.value == pytest.approx(0.5)
    assert (pair.sign_test.wins, pair.sign_test.losses, pair.sign_test.undecided) == (0, 0, 10)


def test_oversampled_strata_are_weighted_back() -> None:
    # 100 items, a tenth of them flipped: drawn in halves. tuned wins every flip and loses all the rest.
    made = make.make_study(20, 3, strata={"rest": (90, 10), "flipped": (10, 10)})
    pair = score(made, of_items(lambda n: 1 if n >= 10 else -1)).pairs[0]
    assert pair.unweighted.value == pytest.approx(0.5)
    assert pair.win_rate.value == pytest.approx(0.1)
    rest, flipped = pair.strata
    assert (rest.stratum, rest.population, rest.drawn, rest.weight) == ("rest", 90, 10, 9.0)
    assert rest.win_rate is not None
    assert flipped.win_rate is not None
    assert (rest.win_rate.value, flipped.win_rate.value, flipped.weight) == pytest.approx((0.0, 1.0, 1.0))
    assert any("unweighted" in note for note in pair.notes)


def test_strata_without_a_vote_are_said() -> None:
    made = make.make_study(12, 1, strata={"rest": (90, 10), "flipped": (10, 2)}, repeats=0, checks=0, same=0)
    sheet = made.sheet("rater-1", TUNED)
    for place in (10, 11):
        sheet = make.changed(sheet, place, overall="")
    study = score_study([sheet], made.key, metrics={}, allow_partial=True)
    pair = study.pairs[0]
    assert [each.stratum for each in pair.strata] == ["rest"]
    assert "2 of the 12 drawn items have no vote: the others of their kind stand for them" in pair.notes
    told = "have no vote on differing answers of this pair: the other strata's votes stand for them"
    assert f"strata with 10 of the 100 items to draw from {told}" in pair.notes
    assert "2 rows of rater-1 left out: no overall choice" in study.notes


def test_items_without_votes_do_not_leave_too_many_ties() -> None:
    # A third of the items are ties that nobody rates, and tuned wins all others, whoever rates them.
    made = make.make_study(60, 4, identical=range(0, 60, 3), split=True, repeats=0, checks=0, same=0)
    whole = score(made, TUNED).pairs[0]
    one = score_study(made.fill(TUNED, ["rater-1"]), made.key, metrics={}).pairs[0]
    assert (whole.items, one.items, one.identical) == (60, 30, 20)
    for found in (one.win_rate, one.unweighted, one.strata[0].win_rate):
        assert found is not None
        assert found.value == pytest.approx(whole.win_rate.value) == pytest.approx(5 / 6)
        assert width(found) > width(whole.win_rate)
    assert whole.notes[0].startswith("no length-adjusted")
    assert "30 of the 60 drawn items have no vote: the others of their kind stand for them" in one.notes


def test_lost_items_are_stood_for_within_their_stratum() -> None:
    strata = {"rest": (90, 20), "flipped": (10, 20)}
    alike = [*range(0, 20, 2), *range(20, 40, 4)]  # half of the rest, a quarter of the flipped items
    made = make.make_study(40, 1, strata=strata, identical=alike, repeats=0, checks=0, same=0)
    answer = of_items(lambda n: 1 if n >= 20 else -1)

    def scored(lost: Any) -> Any:
        kept = {row.id for row in made.key.rows if not lost(row.item)}
        sheet = made.sheet("rater-1", answer)
        opened = replace(sheet, rows=tuple(row for row in sheet.rows if row.id in kept))
        return score_study([opened], made.key, metrics={}, allow_partial=True).pairs[0]

    true = 0.9 * (0.5 * 0.5) + 0.1 * (0.25 * 0.5 + 0.75)
    for lost in (lambda n: False, lambda n: 4 < n < 20, lambda n: n > 22, lambda n: n in (5, 7, 30)):
        assert scored(lost).win_rate.value == pytest.approx(true)
        assert [each.win_rate.value for each in scored(lost).strata] == pytest.approx([0.25, 0.875])
    # No vote on any flipped item: the identical ones keep their share, the others go by the rest's.
    mute = scored(lambda n: n >= 20)
    assert mute.win_rate.value == pytest.approx(0.5 * (0.9 * 0.5 + 0.1 * 0.25))
    assert [each.win_rate and each.win_rate.value for each in mute.strata] == [pytest.approx(0.25), None]
    assert any(note.startswith("strata with 10 of the 100 items") for note in mute.notes)


def test_a_single_lost_item_has_no_vote() -> None:
    made = make.make_study(12, 1, repeats=0, checks=0, same=0)
    sheet = make.changed(made.sheet("rater-1", TUNED), 0, overall="")
    notes = score_study([sheet], made.key, metrics={}, allow_partial=True).pairs[0].notes
    assert "1 of the 12 drawn items has no vote: the others of their kind stand for them" in notes


def test_a_pair_without_votes_is_no_draw() -> None:
    # Rows of one pair stay open; its identical answers alone would be a win rate of 0.5.
    made = make.make_study(36, 1, systems=("base", "x", "y"), identical=6, repeats=0, checks=0, same=0)

    def answer(row: KeyRow, item: StudyItem) -> str:
        return "" if (item.first, item.second) == ("y", "x") else "A"

    study = score_study(made.fill(answer), made.key, metrics={}, allow_partial=True)
    assert [(pair.first, pair.second) for pair in study.pairs] == [("x", "base"), ("y", "base")]
    assert "y against x: 12 items without any vote, and so without a score" in study.notes


def test_strengths_hold_what_was_drawn_of_each_pair() -> None:
    # Every third of a pair's items is identical, and each pair's outcome is the same with half of the raters.
    made = make.make_study(
        180, 2, systems=("base", "x", "y"), identical=[n for n in range(180) if n // 3 % 3 == 0], split=True,
        repeats=0, checks=0, same=0,
    )  # fmt: skip
    place = {item.item_id: n // 3 for n, item in enumerate(made.key.items)}

    def answer(row: KeyRow, item: StudyItem) -> str:
        wins = place[item.item_id] // 3 % 5 > 0
        return "A" if (row.a == item.first) == wins else "B"

    whole = score_study(made.fill(answer), made.key, metrics={})
    one = score_study(made.fill(answer, ["rater-1"]), made.key, metrics={})
    for some, every in zip(one.pairs, whole.pairs, strict=True):
        assert some.win_rate.value == pytest.approx(every.win_rate.value)
    found, expected = ([each.strength.value for each in study.standings] for study in (one, whole))
    assert found == pytest.approx(expected)
    assert found[2] > 0.3


def rated(values: dict[str, Any]) -> Any:
    """A rater whose ratings of the two systems are given by cell name without side, as (tuned, base) of an item."""

    def answer(row: KeyRow, item: StudyItem) -> dict[str, str]:
        cells = {"overall": "tie"}
        for dimension, of in values.items():
            tuned, base = of(int(item.item_id[1:]))
            for side, system in (("a", row.a), ("b", row.b)):
                given = tuned if system == "tuned" else base
                cells[f"{dimension}_{side}"] = "" if given is None else str(given)
        return cells

    return answer


def test_ratings_are_those_of_the_systems_whatever_their_side() -> None:
    made = make.make_study(20, 3)
    values = {
        "accuracy": lambda n: (5, 2),
        "logic": lambda n: (3 + n % 2, 3),
        "fluency": lambda n: (4, None if n < 5 else 4),
    }
    pair = score(made, rated(values)).pairs[0]
    accuracy, logic, fluency = pair.ratings
    assert [each.dimension for each in pair.ratings] == ["accuracy", "logic", "fluency"]
    assert (accuracy.first.value, accuracy.second.value, accuracy.delta.value) == pytest.approx((5.0, 2.0, 3.0))
    assert logic.delta.value == pytest.approx(0.5)
    expected = stats.wilcoxon([n % 2 for n in range(20)], zero_method="pratt", method="approx").pvalue
    assert logic.delta.p_value == pytest.approx(expected, abs=0.01)
    assert (fluency.first.n, fluency.delta.n, fluency.delta.p_value) == (15, 15, 1.0)
    assert fluency.delta.value == pytest.approx(0.0)
    p_values = [each.delta.p_value or 0.0 for each in pair.ratings]
    assert p_values[0] < p_values[1] < p_values[2]
    adjusted = [each.delta.p_adjusted for each in pair.ratings]
    assert adjusted == pytest.approx([3 * p_values[0], 2 * p_values[1], p_values[2]])
    assert "nobody rated completeness on both sides" in pair.notes


def test_quality_rows_enter_no_score() -> None:
    made = make.make_study(12, 3)

    def loud(row: KeyRow, item: StudyItem) -> dict[str, str]:
        if row.kind != "rated":
            return {"overall": "A much"} | dict.fromkeys(RATINGS, "1")
        return {"overall": TUNED(row, item)} | dict.fromkeys(RATINGS, "4")

    quiet = score(made, lambda row, item: {"overall": TUNED(row, item)} | dict.fromkeys(RATINGS, "4"))
    study = score(made, loud)
    assert study.pairs == quiet.pairs
    assert study.alphas == quiet.alphas
    assert study.left_rate == quiet.left_rate


def test_alphas_by_level_and_dimension() -> None:
    made = make.make_study(20, 2)
    ratings = {"logic": lambda n: (1 + n % 5, 1 + n % 4)}
    one, two = of_items(lambda n: (n % 5) - 2), of_items(lambda n: (n % 3) - 1)
    alphas = {(each.name, each.level): each for each in score(made, one, two).alphas}
    assert [name for name, _ in alphas] == ["overall", "overall", "accuracy", "completeness", "logic", "fluency"]
    nominal = alphas["overall", "nominal"].estimate
    assert nominal is not None
    signs = np.sign([[(n % 5) - 2 for n in range(20)], [(n % 3) - 1 for n in range(20)]])
    observed = (signs[0] != signs[1]).mean()
    counts = np.array([(signs == value).sum() for value in (-1, 0, 1)])
    expected = 1 - (counts * (counts - 1)).sum() / (40 * 39)
    assert nominal.value == pytest.approx(1 - observed / expected)
    assert alphas["overall", "nominal"].units == 20
    assert alphas["logic", "ordinal"].missing_reason
    same = {(each.name, each.level): each for each in score(made, rated(ratings)).alphas}
    assert same["logic", "ordinal"].estimate is not None
    assert same["logic", "ordinal"].estimate.value == pytest.approx(1.0)
    assert same["logic", "ordinal"].units == 40


def test_one_rater_has_no_agreement() -> None:
    study = score(make.make_study(20, 1), TUNED)
    reasons = {each.name: each.missing_reason for each in study.alphas if each.estimate is None}
    assert len(reasons) == len({each.name for each in study.alphas})
    assert reasons["overall"] == "all ratings that count are by one rater"
    assert reasons["logic"] == "no unit has two ratings"


def test_registered_rules_take_votes_out() -> None:
    made = make.make_study(12, 3, plan=plan())
    study = score(made, TUNED, TUNED, lambda row, item: "A")
    assert [bool(each.excluded) for each in study.raters] == [False, False, True]
    assert study.pairs[0].votes.first == 24
    assert study.pairs[0].win_rate.value == 1.0
    assert study.plan == plan().hash
    assert score(make.make_study(12, 3, plan=plan(alpha=0.01)), TUNED).alpha == 0.01
    assert study.registered
    assert study.deviations == []
    assert (study.raters[2].excluded or "").startswith("passed 1 of 3 checks")
    assert not any("rater-3" in note for note in study.notes)


def test_without_a_plan_nobody_is_excluded_but_warned_of() -> None:
    study = score(make.make_study(12, 3), TUNED, TUNED, lambda row, item: "A")
    assert not any(each.excluded for each in study.raters)
    assert study.pairs[0].votes.first == 24 + 6
    assert any("rater-3 passed only 1 of 3 checks" in note for note in study.notes)
    assert study.registered is None
    assert study.alpha == 0.05


def test_all_raters_excluded() -> None:
    made = make.make_study(12, 2, plan=plan())
    with pytest.raises(EvaluationError, match="excludes every rater: rater-1 passed 1 of 3 checks"):
        score(made, lambda row, item: "A")


def test_only_checks_filled_in() -> None:
    made = make.make_study(12, 1)
    sheet = made.sheet("rater-1", lambda row, item: "" if row.kind == "rated" else "A")
    with pytest.raises(EvaluationError, match="no comparison of two answers was rated"):
        score_study([sheet], made.key, metrics={}, allow_partial=True)


def test_deviations_from_the_plan() -> None:
    made = make.make_study(12, 4, plan=plan(items=14))
    first = make.changed(made.sheet("rater-1", TUNED), 0, overall="")
    study = score_study([first, *made.fill(TUNED, ["rater-2"])], made.key, metrics={}, allow_partial=True)
    assert study.deviations == [
        "no ratings from rater-3",
        "no ratings from rater-4",
        "1 row of rater-1 left out: no overall choice",
        "the study was made for 4 raters, 3 were planned",
        "1.92 votes per rated item on average, 3 were planned",
        "tuned against base: 12 items, 14 were planned",
    ]
    assert study.notes == []


def test_more_votes_than_planned_are_a_deviation() -> None:
    made = make.make_study(12, 3, plan=plan(votes_per_item=1))
    assert score(made, TUNED).deviations == ["3.00 votes per rated item on average, 1 was planned"]
    # One lost row in hundreds does not show in two decimals.
    made = make.make_study(250, 1, plan=plan(raters=1, votes_per_item=1, items=250))
    sheet = make.changed(made.sheet("rater-1", TUNED), 249, overall="")
    study = score_study([sheet], made.key, metrics={}, allow_partial=True)
    assert not any("on average" in told for told in study.deviations)


def test_single_things_are_said_in_the_singular() -> None:
    two = plan(raters=2, votes_per_item=2, decisive_items=1, items=2, exclusions=Exclusions())
    made = make.make_study(2, 1, plan=two, repeats=0, checks=0, same=0)
    sheet = make.changed(made.sheet("rater-1", TUNED), 0, overall="")
    assert score_study([sheet], made.key, metrics={}, allow_partial=True).deviations == [
        "1 row of rater-1 left out: no overall choice",
        "the study was made for 1 rater, 2 were planned",
        "1.00 vote per rated item on average, 2 were planned",
        "tuned against base: 1 item, 1 more has no vote, 2 were planned",
    ]


def test_absent_raters_are_notes_without_a_plan() -> None:
    made = make.make_study(12, 2)
    study = score_study(made.fill(TUNED, ["rater-2"]), made.key, metrics={})
    assert study.notes == ["no ratings from rater-1"]
    assert study.deviations == []
    assert [each.present for each in study.raters] == [False, True]


def test_wrong_sheets_are_refused_and_rows_without_texts_noted() -> None:
    made = make.make_study(12, 1)
    sheet = made.sheet("rater-1", TUNED)
    with pytest.raises(DataError, match="none of"):
        score_study([make.changed(sheet, 0, overall="C")], made.key, metrics={})
    study = score_study([make.changed(sheet, 0, texts=None)], made.key, metrics={})
    assert study.notes == ["texts of 1 row did not come back: whether they were edited is not known"]


def test_three_systems_have_standings() -> None:
    made = make.make_study(60, 3, systems=("base", "good", "best"))
    rng = np.random.default_rng(1)
    worth = {"base": 0.0, "good": 1.0, "best": 2.0}

    def answer(row: KeyRow, item: StudyItem) -> str:
        chance = 1 / (1 + np.exp(worth[row.b] - worth[row.a]))
        return "A" if rng.random() < chance else "B"

    study = score(made, answer)
    assert [(pair.first, pair.second, pair.items) for pair in study.pairs] == [
        ("good", "base", 20), ("best", "base", 20), ("best", "good", 20),
    ]  # fmt: skip
    base, good, best = study.standings
    assert (base.system, base.strength.value) == ("base", 0.0)
    assert 0 < good.strength.value < best.strength.value
    assert best.strength.low is not None
    assert best.strength.low < 2.0 < (best.strength.high or 0)


def asked_thrice(made: Any) -> StudyKey:
    """The same study with every question asked of three pairs of systems."""
    items = [item.model_copy(update={"item_id": f"i{place // 3}"}) for place, item in enumerate(made.key.items)]
    key: StudyKey = made.key.model_copy(update={"items": items})
    return key


def test_a_question_of_several_pairs_is_one_unit() -> None:
    made = make.make_study(90, 3, systems=("base", "good", "best"))
    rng = np.random.default_rng(0)
    # Whoever answers a question's first comparison from the left is preferred in all three, and rated alike.
    sides = dict(zip(range(30), rng.integers(0, 2, 30), strict=True))

    def answer(row: KeyRow, item: StudyItem) -> dict[str, str]:
        place = int(item.item_id[1:]) // 3
        side = int(sides[place] if rng.random() < 0.9 else rng.integers(0, 2))
        return {"overall": "AB"[side], "logic_a": str(1 + place % 5), "logic_b": str(1 + (place + side) % 5)}

    sheets = made.fill(answer)
    apart = score_study(sheets, made.key, metrics={}, resamples=200)
    key = asked_thrice(made)
    sheets = [
        replace(sheet, rows=tuple(replace(row, commitment=key.commitment) for row in sheet.rows)) for sheet in sheets
    ]
    joined = score_study(sheets, key, metrics={}, resamples=200)
    assert (apart.left_rate.n, joined.left_rate.n) == (90, 30)
    assert joined.left_rate.value == apart.left_rate.value
    assert width(joined.left_rate) > 1.3 * width(apart.left_rate)
    assert [each.strength.n for each in apart.standings] == [90] * 3
    assert [each.strength.n for each in joined.standings] == [30] * 3
    for one, other in zip(apart.alphas, joined.alphas, strict=True):
        assert (one.estimate is None) == (other.estimate is None)
        if one.estimate is not None:
            assert one.estimate.value == other.estimate.value
            assert "30 groups" in other.estimate.method


def width(found: Any) -> float:
    return float(found.high - found.low)


def test_standings_that_are_not_finite_are_notes() -> None:
    made = make.make_study(30, 2, systems=("x", "good", "best"))
    study = score(made, lambda row, item: "A" if row.a == "best" or row.b == "x" else "B")
    assert [each.system for each in study.standings] == ["x"]
    assert any(note.startswith("no strength for best") for note in study.notes)
    assert "the base is not in the study: strengths are against x" in study.notes


def comparison(*subjects: str) -> Comparison:
    checkpoints = [
        CheckpointInfo(
            name=name, path=name, role="adapted" if place else "base", kind="model", architecture="x", dtype="float32",
            content_hash=f"h-{name}", parameters=ParameterCounts(total=1), generation_ready=True,
        )
        for place, name in enumerate(["base", *subjects])
    ]  # fmt: skip
    return Comparison(
        created="2025-01-01T00:00:00Z", command=[], seed=0, lorascope_version="0", checkpoints=checkpoints,
        provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
    )  # fmt: skip


def test_measurements_of_one_pair() -> None:
    study = score(make.make_study(20, 3), rated({"logic": lambda n: (4, 3 - n % 2)}))
    found = outcome_measurements(study, comparison("tuned", "other"))
    assert [(each.metric, each.subject, each.reference, each.task, each.area) for each in found] == [
        ("win_rate", "tuned", "base", "support", "human"),
        ("logic_rating", "tuned", "base", "support", "human"),
        ("alpha", "tuned", "base", "support", "human"),
    ]
    win_rate, logic, alpha = found
    assert win_rate.adapted == study.pairs[0].win_rate
    assert (win_rate.base, win_rate.delta) == (None, None)
    assert logic.base is not None
    assert logic.delta is not None
    assert (logic.base.value, logic.delta.value) == pytest.approx((2.5, 1.5))
    assert alpha.adapted is None
    assert alpha.missing_reason


def test_measurements_of_several_systems_and_without_the_base() -> None:
    study = score(make.make_study(30, 2, systems=("base", "x", "y")), TIE)
    found = outcome_measurements(study, comparison("x", "y"))
    assert [(each.metric, each.subject, each.reference) for each in found] == [
        ("win_rate", "x", "base"), ("win_rate", "y", "base"), ("win_rate", "y", "x"),
        ("alpha", "x", "base"), ("alpha", "y", "base"),
    ]  # fmt: skip
    without = score(make.make_study(30, 2, systems=("x", "y")), TIE)
    found = outcome_measurements(without, comparison("x", "y"))
    assert [(each.metric, each.subject, each.reference) for each in found] == [
        ("win_rate", "y", "x"), ("alpha", "x", "y"), ("alpha", "y", "x"),
    ]  # fmt: skip


def test_thousands_of_rows_are_scored_in_seconds() -> None:
    made = make.make_study(3000, 2, repeats=300)
    rng, codes = np.random.default_rng(0), list(OVERALL)
    sheets = made.fill(lambda row, item: {"overall": codes[int(rng.integers(6))], "logic_a": "3", "logic_b": "4"})
    start = time.process_time()
    study = score_study(sheets, made.key, metrics={}, resamples=200)
    assert time.process_time() - start < 10
    assert study.pairs[0].items == 3000


@pytest.mark.parametrize("seed", range(40))
def test_studies_of_any_shape_and_with_any_holes_are_scored_or_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, raters = int(rng.integers(2, 14)), int(rng.integers(1, 7))
    systems = ("base", "x", "y")[: int(rng.integers(2, 4))]
    identical = int(rng.integers(0, items - 1))
    rated = items - identical
    drawn = {"s1": (50, items // 2), "s2": (7 * items, items - items // 2)}
    made = make.make_study(
        items, raters, systems=systems, identical=identical, repeats=min(2, rated), checks=min(2, rated),
        same=min(1, rated), strata=drawn, plan=plan() if rng.random() < 0.3 else None,
        lengths=lambda place: (int(rng.integers(0, 50)), int(rng.integers(0, 50))),
    )  # fmt: skip
    holes, one_sided = rng.random() * 0.6, rng.random() < 0.3
    codes = ["A"] if one_sided else list(OVERALL)

    def answer(row: KeyRow, item: StudyItem) -> dict[str, str]:
        overall = "" if rng.random() < holes else codes[int(rng.integers(len(codes)))]
        cells = {name: str(rng.integers(1, 6)) for name in RATINGS if rng.random() < 0.5}
        return {"overall": overall} | cells

    sheets = [sheet for sheet in made.fill(answer) if rng.random() < 0.9]
    metrics = {("support", "rougeL"): {(f"i{n}", name): float(rng.random()) for n in range(items) for name in systems}}
    try:
        study = score_study(sheets, made.key, metrics=metrics, allow_partial=True, resamples=100)
    except (DataError, EvaluationError):
        return
    for pair in study.pairs:
        assert 0 <= pair.win_rate.value <= 1
        assert sum(each.drawn for each in pair.strata) == pair.items >= pair.identical
        assert pair.win_rate.low is None or pair.win_rate.low <= pair.win_rate.value <= (pair.win_rate.high or 0)
    assert HumanReport.model_validate_json(HumanReport(studies=[study]).model_dump_json()).studies == [study]


def damaged(field: str, change: Any) -> Any:
    def damage(raw: dict[str, Any]) -> None:
        rows = {row["kind"]: row for row in raw["rows"]}
        kind, _, name = field.partition(".")
        (rows[kind] if name else raw)[name or kind] = change

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damaged("salt", "z" * 64), "salt"),
        (damaged("salt", "5a" * 31), "salt"),
        (damaged("salt", "5a" * 32 + "5"), "salt"),
        (damaged("rated.item", 12), "is of item 12, the last is 11"),
        (damaged("rated.rater", "rater-9"), "rater that the key does not list"),
        (damaged("rated.a", "nobody"), "system that the key does not list"),
        (damaged("rated.of", "q1"), "is rated and repeats no row"),
        (damaged("repeat.of", None), "must say which row it repeats"),
        (damaged("repeat.of", "q1"), "repeats q1, which the key does not list"),
        (damaged("identical.wrong", "A"), "is identical and has no wrong side"),
        (damaged("mismatched.wrong", None), "must say which side is wrong"),
        (damaged("strata", [{"name": "other", "population": 9, "drawn": 9, "weight": 1}]), "stratum"),
        (damaged("systems", [{"name": n, "role": "adapted", "content_hash": n} for n in ("tuned", "x")]), "system"),
    ],
)
def test_a_damaged_key_is_said_and_no_crash(damage: Any, said: str, tmp_path: Path) -> None:
    key = make.make_study(12, 2).key
    write_key(key, tmp_path / "key.json")
    assert read_key(tmp_path / "key.json") == key
    raw = json.loads((tmp_path / "key.json").read_bytes())
    damage(raw)
    (tmp_path / "key.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match="this is no study key") as raised:
        read_key(tmp_path / "key.json")
    assert said in str(raised.value)


@pytest.mark.parametrize("raw", ["[" * 200_000, '{"version": ' + "[" * 200_000 + "]" * 200_000 + "}"])
def test_a_deeply_nested_key_is_said_and_no_crash(raw: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(raw)
    with pytest.raises(DataError, match="no study key: it is nested too deeply"):
        read_key(tmp_path / "key.json")
