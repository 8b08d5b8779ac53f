from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow
import pytest

from lorascope.blind import Study, StudyRequest, make_study
from lorascope.blind.key import KeyRow, StudyKey, row_digest
from lorascope.blind.plan import StudyPlan
from lorascope.blind.rows import SheetRow, clean
from lorascope.errors import DataError, EvaluationError, LorascopeError, UsageError
from lorascope.schema.comparison import Comparison

Comparisons = Callable[..., Comparison]
Samples = Callable[..., pyarrow.Table]
TWO = {"support": "generate", "chat": "generate"}
FLIPS = ("fixed", "both_right", "both_wrong", "broken", "both_right", "both_wrong")


def by_rater(study: Study) -> dict[str, list[tuple[KeyRow, SheetRow]]]:
    """Key and sheet side by side, in the order shown."""
    shown = {row.id: row for sheet in study.sheets.values() for row in sheet.rows}
    found: dict[str, list[tuple[KeyRow, SheetRow]]] = {rater: [] for rater in study.sheets}
    for row in study.key.rows:
        found[row.rater].append((row, shown[row.id]))
    return found


def wrote(text: str) -> tuple[str, str]:
    """Who wrote an answer of the made-up samples, and to which question."""
    system, task, rest = text.split("|")
    return system, f"question {task} {rest[:3]}"


@pytest.fixture
def study(sampled: Samples, compared: Comparisons) -> Study:
    """40 items, 4 of them identical, three raters."""
    return make_study(sampled(identical=4), compared(), StudyRequest(items=40))


@pytest.fixture
def three(sampled: Samples, compared: Comparisons) -> Study:
    """Three systems, two tasks, flips, some of the items of each rater their own."""
    samples = sampled(100, 5, subjects=("alpha", "beta"), tasks=("support", "chat"), flip=lambda at: FLIPS[at % 6])
    return make_study(samples, compared("alpha", "beta", tasks=TWO), StudyRequest(items=90, shared=30, raters=4))


def test_every_rater_gets_every_item_that_differs(study: Study) -> None:
    assert list(study.sheets) == study.key.raters == ["rater-1", "rater-2", "rater-3"]
    assert sum(item.identical for item in study.key.items) == 4
    differing = {place for place, item in enumerate(study.key.items) if not item.identical}
    for rows in by_rater(study).values():
        assert {row.item for row, _ in rows if row.kind == "rated"} == differing
        assert Counter(row.kind for row, _ in rows) == {"rated": 36, "repeat": 8, "mismatched": 3, "identical": 3}


@pytest.mark.parametrize("name", ["study", "three"])
def test_key_tells_the_truth(name: str, request: pytest.FixtureRequest) -> None:
    study = request.getfixturevalue(name)
    assert len({row.id for row in study.key.rows}) == len(study.key.rows)
    for rows in by_rater(study).values():
        for row, shown in rows:
            item = study.key.items[row.item]
            assert row.digest == row_digest(study.key.salt, shown)
            assert shown.question == f"question {item.task} {item.item_id[1:]}"
            if item.identical:
                assert shown.answer_a == shown.answer_b
                continue
            for side, system, text in (("A", row.a, shown.answer_a), ("B", row.b, shown.answer_b)):
                # The first five items have the base's answer from every system.
                assert wrote(text)[0] == system or wrote(text)[1].split()[2] < "005"
                assert (wrote(text)[1] == shown.question) == (row.wrong != side)
                assert system in (item.first, item.second)


def test_key_agrees_with_its_sheets(study: Study, compared: Comparisons) -> None:
    key = study.key
    assert StudyKey.model_validate_json(key.model_dump_json()).commitment == key.commitment
    for rater, sheet in study.sheets.items():
        assert (sheet.rater, sheet.study, sheet.commitment, sheet.language) == (rater, key.study, key.commitment, "en")
        assert [row.id for row in sheet.rows] == [row.id for row in key.rows if row.rater == rater]
    assert key.tasks == {"support": "print-of-support"}
    assert [(each.name, each.role, each.content_hash) for each in key.systems] == [
        ("tinybase", "base", "hash-of-tinybase"),
        ("tuned-7", "adapted", "hash-of-tuned-7"),
    ]
    assert {(item.first, item.second) for item in key.items} == {("tuned-7", "tinybase")}


def test_sides_are_balanced_for_raters_pairs_and_items(three: Study) -> None:
    sets: dict[object, list[bool]] = {}
    for row in three.key.rows:
        if row.kind == "rated":
            item = three.key.items[row.item]
            for name in (row.rater, row.item, (row.rater, item.first, item.second)):
                sets.setdefault(name, []).append(row.a == item.first)
    assert len(sets) > 100
    for name, found in sets.items():
        # All rows of a rater are of three pairs, each balanced by itself.
        assert abs(2 * sum(found) - len(found)) <= (3 if name in three.sheets else 1), name


def test_pairs_and_votes_of_three_systems(three: Study) -> None:
    pairs = Counter((item.first, item.second) for item in three.key.items)
    assert pairs == {("alpha", "tinybase"): 30, ("beta", "tinybase"): 30, ("beta", "alpha"): 30}
    votes = Counter(row.item for row in three.key.rows if row.kind == "rated")
    differing = sum(not item.identical for item in three.key.items)
    assert Counter(votes.values()) == {4: 30, 1: differing - 30}


def test_weights_sum_to_the_population_and_flips_are_drawn_more_often(three: Study) -> None:
    weights = {stratum.name: stratum.weight for stratum in three.key.strata}
    assert len(weights) == 12
    assert sum(weights[item.stratum] for item in three.key.items) == pytest.approx(200)
    assert Counter(item.stratum for item in three.key.items) == {each.name: each.drawn for each in three.key.strata}
    flipped = {each.name: each for each in three.key.strata if each.name.endswith(", flipped")}
    drawn, population = (sum(getattr(each, name) for each in flipped.values()) for name in ("drawn", "population"))
    assert population == 2 * (17 + 17)
    share = 2 * population / (2 * population + 200 - population)
    assert drawn == pytest.approx(90 * share, abs=3)


def test_flips_count_as_others_where_asked(sampled: Samples, compared: Comparisons) -> None:
    samples = sampled(300, flip=lambda at: "fixed" if at < 100 else "both_wrong")
    drawn = {}
    for weight in (1.0, 2.0):
        key = make_study(samples, compared(), StudyRequest(items=60, flip_weight=weight)).key
        drawn[weight] = sum(stratum.drawn for stratum in key.strata if stratum.name.endswith(", flipped"))
    assert drawn[1.0] == pytest.approx(20, abs=2)
    assert drawn[2.0] == pytest.approx(30, abs=2)


def test_repeats_have_their_sides_exchanged_and_stand_apart(three: Study) -> None:
    for rows in by_rater(three).values():
        order = [row.id for row, _ in rows]
        known = {row.id: (row, shown) for row, shown in rows}
        repeats = [row for row, _ in rows if row.kind == "repeat"]
        assert len(repeats) == 8 == len({row.of for row in repeats})
        for row in repeats:
            original, shown = known[row.of or ""]
            assert original.kind == "rated"
            assert (row.item, row.a, row.b) == (original.item, original.b, original.a)
            assert known[row.id][1].texts == (shown.question, shown.answer_b, shown.answer_a)
            low, high = sorted((order.index(row.id), order.index(original.id)))
            assert sum(each.kind == "rated" for each, _ in rows[low + 1 : high]) >= 10


def test_mismatched_checks_show_one_answer_to_another_question(three: Study) -> None:
    for rows in by_rater(three).values():
        checks = [(row, shown) for row, shown in rows if row.kind == "mismatched"]
        assert len({row.item for row, _ in checks}) == 3
        for row, shown in checks:
            own, wrong = (shown.answer_b, shown.answer_a) if row.wrong == "A" else (shown.answer_a, shown.answer_b)
            assert wrote(own)[1] == shown.question != wrote(wrong)[1]
            assert wrote(wrong)[1].split()[1] == three.key.items[row.item].task
        others = {row.item for row, _ in rows if row.kind in ("repeat", "identical")}
        assert others.isdisjoint(row.item for row, _ in checks)


def test_checks_favour_items_that_all_systems_answered_rightly(
    three: Study, sampled: Samples, compared: Comparisons
) -> None:
    for row in three.key.rows:
        if row.kind == "mismatched":
            assert FLIPS[int(three.key.items[row.item].item_id[1:]) % 6] == "both_right"
    samples = sampled(90, subjects=("alpha", "beta"), flip=lambda at: "both_right")
    wrong = [
        "fixed" if row["subject"] == "beta" and int(row["item_id"][1:]) % 3 else "both_right"
        for row in samples.to_pylist()
    ]
    samples = samples.set_column(6, "flip", pyarrow.array(wrong))
    key = make_study(samples, compared("alpha", "beta"), StudyRequest(items=90)).key
    checked = {key.items[row.item].item_id for row in key.rows if row.kind == "mismatched"}
    # Beta alone answers the others differently: of alpha and the base too, they are not taken.
    assert all(int(item_id[1:]) % 3 == 0 for item_id in checked)


def test_checks_take_answers_of_about_the_same_length(sampled: Samples, compared: Comparisons) -> None:
    key_and_rows = by_rater(make_study(sampled(200), compared(), StudyRequest(checks=20, raters=2)))
    for rows in key_and_rows.values():
        for row, shown in rows:
            if row.kind == "mismatched":
                assert abs(len(shown.answer_a) - len(shown.answer_b)) <= 10


def test_checks_treat_the_two_systems_alike(sampled: Samples, compared: Comparisons) -> None:
    samples, comparison = sampled(), compared()
    seen: Counter[object] = Counter()
    for _ in range(25):
        key = make_study(samples, comparison, StudyRequest(items=40, raters=2, checks=8, identical=8)).key
        for row in key.rows:
            if row.kind == "mismatched":
                own, stranger = (row.b, row.a) if row.wrong == "A" else (row.a, row.b)
                seen.update([("wrong", row.wrong), ("own", own), ("stranger", stranger), ("linked", own == stranger)])
            elif row.kind == "identical":
                assert row.a == row.b
                seen["identical", row.a] += 1
    assert seen["identical", "tinybase"] == seen["identical", "tuned-7"] == 200
    assert len(seen) == 10
    assert all(abs(count - 200) < 45 for count in seen.values())


def test_identical_rows_come_from_identical_items_first(study: Study, sampled: Samples, compared: Comparisons) -> None:
    for row in study.key.rows:
        if row.kind == "identical":
            assert study.key.items[row.item].identical
            assert {row.a, row.b} == {"tuned-7", "tinybase"}
    few = make_study(sampled(40, 1), compared(), StudyRequest(items=40))
    for rows in by_rater(few).values():
        found = [row for row, shown in rows if shown.answer_a == shown.answer_b]
        assert [row.kind for row in found] == ["identical"] * 3
        assert sum(few.key.items[row.item].identical for row in found) == 1


def test_answers_that_differ_in_outer_white_space_alone_are_identical(study: Study) -> None:
    same = [item for item in study.key.items if item.identical]
    assert {item.item_id for item in same} == {"i000", "i001", "i002", "i003"}
    assert all(item.lengths[0] == item.lengths[1] for item in same)
    rated = {row.item for row in study.key.rows if row.kind == "rated"}
    assert rated.isdisjoint(place for place, item in enumerate(study.key.items) if item.identical)


def test_lengths_are_of_the_texts_shown(three: Study) -> None:
    for rows in by_rater(three).values():
        for row, shown in rows:
            if row.kind == "rated":
                item = three.key.items[row.item]
                lengths = {row.a: len(shown.answer_a), row.b: len(shown.answer_b)}
                assert item.lengths == (lengths[item.first], lengths[item.second])


def test_the_seed_chooses_items_and_nothing_else(sampled: Samples, compared: Comparisons) -> None:
    samples, comparison = sampled(100), compared()
    keys = [make_study(samples, comparison, StudyRequest(items=40, seed=seed)).key for seed in (7, 7, 8)]
    items = [sorted(item.item_id for item in key.items) for key in keys]
    assert items[0] == items[1] != items[2]
    assert keys[0].salt != keys[1].salt
    assert keys[0].study != keys[1].study
    assert keys[0].commitment != keys[1].commitment
    assert {row.id for row in keys[0].rows}.isdisjoint(row.id for row in keys[1].rows)

    def told(key: StudyKey, what: str) -> list[object]:
        rated = [row for row in key.rows if row.kind == "rated"]
        if what == "order":
            return [key.items[row.item].item_id for row in rated]
        if what == "kinds":
            return [row.kind for row in key.rows]
        return sorted((row.rater, key.items[row.item].item_id, row.a) for row in rated)

    assert all(told(keys[0], what) != told(keys[1], what) for what in ("order", "kinds", "sides"))


def test_the_order_of_the_samples_chooses_nothing(sampled: Samples, compared: Comparisons) -> None:
    samples = sampled(100, subjects=("alpha", "beta"))
    turned = samples.take(list(range(samples.num_rows))[::-1])
    chosen = [
        {item.item_id for item in make_study(each, compared("alpha", "beta"), StudyRequest(items=20)).key.items}
        for each in (samples, turned)
    ]
    assert chosen[0] == chosen[1]


def test_ids_are_opaque_and_no_numbers(three: Study) -> None:
    for row in three.key.rows:
        assert re.fullmatch(r"q[0-9a-f]{16}", row.id)
        assert not re.search(r"\de\d", row.id)


def test_sheets_hold_nothing_that_the_key_keeps(study: Study, sampled: Samples, compared: Comparisons) -> None:
    samples = sampled()
    for side in ("base_output", "adapted_output"):
        texts = [f"text {at} {side[0]}" for at in range(40)]
        samples = samples.set_column(samples.schema.get_field_index(side), side, pyarrow.array(texts))
    made = make_study(samples, compared(), StudyRequest())
    sheets = repr(made.sheets)
    for secret in ("tuned-7", "tinybase", "hash-of", "print-of", "i000", "support,", made.key.salt, "mismatched"):
        assert secret not in sheets.replace("question support", "question")
    assert made.key.rows[0].digest not in sheets


def test_systems_are_named_or_all(sampled: Samples, compared: Comparisons) -> None:
    samples, comparison = sampled(subjects=("alpha", "beta", "gamma")), compared("alpha", "beta", "gamma")
    everything = make_study(samples, comparison, StudyRequest())
    assert len({(item.first, item.second) for item in everything.key.items}) == 6
    without_base = make_study(samples, comparison, StudyRequest(systems=("gamma", "alpha")))
    assert {(item.first, item.second) for item in without_base.key.items} == {("gamma", "alpha")}
    assert [system.name for system in without_base.key.systems] == ["alpha", "gamma"]


def test_tasks_are_named_or_all_with_texts(sampled: Samples, compared: Comparisons) -> None:
    tasks = {"support": "generate", "chat": "generate", "quiz": "choice"}
    samples = sampled(tasks=tuple(tasks))
    assert set(make_study(samples, compared(tasks=tasks), StudyRequest()).key.tasks) == {"support", "chat"}
    one = make_study(samples, compared(tasks=tasks), StudyRequest(tasks=["chat"])).key
    assert {item.task for item in one.items} == set(one.tasks) == {"chat"}


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"items": 0}, UsageError, "at least one item"),
        ({"raters": 0}, UsageError, "at least one item"),
        ({"checks": -1}, UsageError, "checks is -1"),
        ({"repeats": -2}, UsageError, "repeats is -2"),
        ({"shared": 41, "items": 40}, UsageError, "41 of 40"),
        ({"shared": 0, "items": 2}, UsageError, "split among 3"),
        ({"flip_weight": 0.5}, UsageError, "weight of flipped items is 0.5"),
        ({"flip_weight": float("nan")}, UsageError, "weight of flipped items is nan"),
        ({"systems": ("tuned-7", "tinybass")}, UsageError, "did you mean 'tinybase'"),
        ({"systems": ("tuned-7", "zzz")}, UsageError, "one of: tinybase, tuned-7"),
        ({"systems": ("tuned-7",)}, UsageError, "'tuned-7' alone"),
        ({"systems": ("tuned-7", "tuned-7")}, UsageError, "'tuned-7' alone"),
        ({"tasks": ("suport",)}, UsageError, "did you mean 'support'"),
        ({"tasks": ("quiz",)}, UsageError, "kind choice"),
    ],
)
def test_requests_that_cannot_be_met(
    changes: dict[str, Any], error: type[LorascopeError], says: str, sampled: Samples, compared: Comparisons
) -> None:
    with pytest.raises(error) as caught:
        make_study(sampled(), compared(), StudyRequest(**changes))
    assert says in str(caught.value)


def test_fewer_items_than_pairs(sampled: Samples, compared: Comparisons) -> None:
    with pytest.raises(UsageError, match="3 pairs, and there are 2 items"):
        make_study(sampled(2, subjects=("a1", "b1")), compared("a1", "b1"), StudyRequest())


def test_results_without_texts(sampled: Samples, compared: Comparisons) -> None:
    empty = sampled().set_column(3, "prompt", pyarrow.nulls(40, pyarrow.string()))
    for samples in (sampled().drop_columns(["adapted_output"]), sampled(subjects=("another",)), empty):
        with pytest.raises(DataError) as caught:
            make_study(samples, compared(), StudyRequest())
        assert "--no-samples" in str(caught.value)


def test_a_base_that_answered_nothing(sampled: Samples, compared: Comparisons) -> None:
    samples = sampled(subjects=("alpha", "beta"))
    samples = samples.set_column(4, "base_output", pyarrow.nulls(80, pyarrow.string()))
    with pytest.raises(DataError, match="no answers of tinybase"):
        make_study(samples, compared("alpha", "beta"), StudyRequest())
    key = make_study(samples, compared("alpha", "beta"), StudyRequest(systems=("alpha", "beta"))).key
    assert len(key.items) == 40


def test_no_task_with_texts(sampled: Samples, compared: Comparisons) -> None:
    with pytest.raises(EvaluationError) as caught:
        make_study(sampled(), compared(tasks={"quiz": "choice"}), StudyRequest())
    assert "quiz (choice)" in str(caught.value)


def test_nothing_to_rate(sampled: Samples, compared: Comparisons) -> None:
    with pytest.raises(EvaluationError, match="nothing to rate"):
        make_study(sampled(5, 5), compared(), StudyRequest())
    with pytest.raises(EvaluationError, match="differing answers: 1, not enough for 3"):
        make_study(sampled(5, 4), compared(), StudyRequest(items=5, shared=0))


def warned(samples: pyarrow.Table, comparison: Comparison, **request: Any) -> list[str]:
    """Warnings, without those about the names that every made-up answer holds."""
    found = make_study(samples, comparison, StudyRequest(**request)).warnings
    return [text for text in found if "names a model" not in text]


def test_a_study_as_asked_for_has_no_warning(sampled: Samples, compared: Comparisons) -> None:
    assert warned(sampled(200), compared()) == []
    assert warned(sampled(200), compared(), shared=30, raters=5) == []


def test_warnings_say_what_falls_short(sampled: Samples, compared: Comparisons) -> None:
    table = sampled(40)
    doubled = pyarrow.concat_tables([table, table.slice(0, 3)])
    texts = [None, None, *table["adapted_output"].to_pylist()[2:]]
    holes = table.set_column(5, "adapted_output", pyarrow.array(texts))
    assert warned(doubled, compared(), items=40) == [
        "rows of the samples left out because their item is there already: 3"
    ]
    assert warned(holes, compared(), items=38) == ["items left out because a compared system has no text for them: 2"]
    assert warned(table, compared()) == ["120 items were asked for and there are 40: all of them are drawn"]
    assert warned(table, compared(), items=40, raters=1)[0].startswith("1 of at least three raters")
    alone = warned(table, compared(), items=40, shared=0, repeats=0)
    assert alone == ["the raters share no item, so their agreement cannot be measured"]
    short = warned(sampled(12), compared(), items=12)
    assert len(short) == 1
    assert re.fullmatch(r"rater-1, rater-2, rater-3: repeats with fewer than 10 rated rows .*: 4", short[0])


def test_checks_that_cannot_be_made(sampled: Samples, compared: Comparisons) -> None:
    one = warned(sampled(1), compared(), items=1, repeats=2)
    assert "rater-1, rater-2, rater-3: 3 mismatched checks were asked for, 0 could be made" in one
    assert "rater-1, rater-2, rater-3: 2 repeats were asked for, 1 could be made" in one
    assert "rater-1, rater-2, rater-3: 3 identical pairs were asked for, 1 could be made" in one


def test_no_check_takes_the_answer_to_the_same_question(sampled: Samples, compared: Comparisons) -> None:
    table = sampled(20).set_column(3, "prompt", pyarrow.array(["the one question"] * 20))
    assert any("3 mismatched checks were asked for, 0" in text for text in warned(table, compared(), items=20))


def test_quality_rows_may_be_left_out(sampled: Samples, compared: Comparisons) -> None:
    key = make_study(sampled(), compared(), StudyRequest(items=40, repeats=0, checks=0, identical=0)).key
    assert {row.kind for row in key.rows} == {"rated"}
    assert len(key.rows) == 120


def plan(**changes: Any) -> StudyPlan:
    values = {"effect": 0.65, "raters": 3, "votes_per_item": 3, "decisive_items": 30, "items": 40}
    return StudyPlan(**values | changes)


def test_the_plan_goes_into_the_key_and_is_compared(sampled: Samples, compared: Comparisons) -> None:
    kept = make_study(sampled(identical=4), compared(), StudyRequest(items=40, plan=plan()))
    assert kept.key.plan == plan()
    assert warned(sampled(), compared(), items=40, plan=plan()) == []
    assert warned(sampled(), compared(), items=40, plan=plan(items=97, raters=5, votes_per_item=5)) == [
        "the plan has 97 items, the study has 40",
        "the plan has 5 raters, the study has 3",
        "the plan has 5 votes an item, the study has 3.00",
    ]
    two = warned(sampled(subjects=("alpha", "beta")), compared("alpha", "beta"), items=40, plan=plan())
    assert two == ["the plan has 40 items for each pair of systems, the study has 13"]


def test_chinese_and_hostile_texts_are_shown_as_they_are(sampled: Samples, compared: Comparisons) -> None:
    given = ['=1+1\t"引号"，和\u2028行\x00', "我认为不对。\r\n\r\n  第二段😀 "]
    as_shown = ['=1+1\t"引号"，和\ufffd行\ufffd', "我认为不对。\n\n  第二段😀"]
    table = sampled(2).set_column(5, "adapted_output", pyarrow.array(given))
    study = make_study(table, compared(), StudyRequest(items=2, languages=("zh",)))
    assert set(as_shown) <= {text for row in study.sheets["rater-2"].rows for text in row.texts}
    assert study.sheets["rater-1"].language == study.key.language == "zh"
    assert {item.lengths[0] for item in study.key.items} == set(map(len, as_shown))


@pytest.mark.parametrize("unseen", ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff"])
def test_outer_signs_without_width_are_not_shown(unseen: str, sampled: Samples, compared: Comparisons) -> None:
    inside = f"می{unseen}خواهم 👩{unseen}💻"
    table = sampled(3)
    base, said = [" alike", inside, "one"], [f"{unseen}alike\u3000{unseen}\n", f"{unseen} {inside} {unseen}", unseen]
    table = table.set_column(4, "base_output", pyarrow.array(base)).set_column(5, "adapted_output", pyarrow.array(said))
    study = make_study(table, compared(), StudyRequest(items=3))
    shown = inside.replace("\ufeff", "\ufffd")
    assert {item.item_id for item in study.key.items if item.identical} == {"i000", "i001"}
    assert {item.lengths for item in study.key.items} == {(5, 5), (len(shown), len(shown)), (0, 3)}
    assert {text for row in study.sheets["rater-1"].rows for text in row.texts[1:]} <= {"alike", shown, "one", ""}


def test_much_outer_space_is_taken_away_at_once() -> None:
    assert clean("\u200b \ufeff\r\n" * 50_000 + "a\u200b b" + "\u2060\u3000" * 50_000) == "a\u200b b"


def test_answers_that_name_a_model_are_flagged(sampled: Samples, compared: Comparisons) -> None:
    table = sampled(3)
    for at, (name, texts) in enumerate(
        {
            "base_output": ["一", "I am ChatGPT.", "two"],
            "adapted_output": ["作为一个人工智能，我", "fine", "three"],
        }.items()
    ):
        table = table.set_column(4 + at, name, pyarrow.array(texts))
    warnings = make_study(table, compared(), StudyRequest(items=3)).warnings
    (flagged,) = [text for text in warnings if "names a model" in text or "name a model" in text]
    assert flagged.startswith("2 items have an answer that names a model")
    assert "support/i001 (ChatGPT)" in flagged
    assert "support/i000 (作为一个人工智能)" in flagged
    assert "i002" not in flagged
