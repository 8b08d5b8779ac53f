from __future__ import annotations

import runpy
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lorascope.blind.checking import check_sheets
from lorascope.blind.filled_values import is_date, parse_rating, quoted, shown
from lorascope.blind.key import row_digest
from lorascope.blind.rows import FilledSheet, SheetRow
from lorascope.errors import DataError

make = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("filled_study.py"))))
TUNED = make.prefer("tuned")


@pytest.fixture
def made() -> Any:
    return make.make_study()


def problems(sheets: list[FilledSheet], made: Any, **more: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        check_sheets(sheets, made.key, **more)
    head, *lines = caught.value.problem.split("\n")
    assert head.startswith("the sheets cannot be scored: ")
    assert caught.value.remedy
    return [line.removeprefix("  - ") for line in lines]


def test_sheets_in_order_give_every_vote(made: Any) -> None:
    checked = check_sheets(made.fill(TUNED), made.key)
    assert len(checked.votes) == len(made.key.rows)
    assert checked.sheets == {f"rater-{n}": f"rater-{n}.csv" for n in (1, 2, 3)}
    assert checked.open_rows == {}
    assert checked.unverified == 0
    for vote in checked.votes:
        if vote.row.kind == "rated":
            assert vote.preference(made.key.items[vote.row.item]) == 1


def test_sorted_rows_and_absent_raters_are_no_problem(made: Any) -> None:
    sheet = made.sheet("rater-2", TUNED)
    turned = replace(sheet, rows=tuple(sorted(sheet.rows, key=lambda row: row.id)))
    checked = check_sheets([turned], made.key)
    assert list(checked.sheets) == ["rater-2"]


def test_no_sheet_and_no_rows(made: Any) -> None:
    with pytest.raises(DataError, match="no sheet was given"):
        check_sheets([], made.key)
    assert problems([FilledSheet("empty.csv", ())], made) == ["empty.csv: the sheet has no rows"]


def test_sheet_of_another_study(made: Any) -> None:
    other = make.make_study(study="study-2", salt="77" * 32).sheet("rater-1", TUNED, "b.csv")
    assert problems([other], made) == ["b.csv: the sheet belongs to another study than the key"]


def test_key_changed_after_the_export(made: Any) -> None:
    rows = [made.key.rows[0].model_copy(update={"a": made.key.rows[0].b, "b": made.key.rows[0].a}), *made.key.rows[1:]]
    edited = SimpleNamespace(key=made.key.model_copy(update={"rows": rows}))
    assert problems(made.fill(TUNED, ["rater-1"]), edited) == [
        "rater-1.csv: the rows are this key's, but the study's mark is not: the key was changed after the export"
    ]


def test_rows_of_another_study_among_this_ones(made: Any) -> None:
    sheet = make.changed(made.sheet("rater-1", TUNED), 4, commitment="hmac-0")
    found = problems([sheet], made)
    assert "1 row without this study's mark (row 6): sheets were mixed" in found[0]
    assert "a row is missing, of 21" in found[1]


def test_unknown_doubled_and_foreign_rows_are_named(made: Any) -> None:
    first, second = made.fill(TUNED, ["rater-1", "rater-2"])
    sheet = make.changed(first, 0, id="q\x1b[31m\nnope")
    sheet = make.changed(sheet, 2, id=first.rows[1].id)
    sheet = make.changed(sheet, 3, id=second.rows[0].id, rater="rater-2")
    sheet = make.changed(sheet, 5, rater="rater-3")
    sheet = make.changed(sheet, 6, id="")
    found = problems([sheet], made)
    assert found[0] == r"rater-1.csv, row 2 (rater-1): the study has no row 'q\x1b[31m\nnope'"
    doubled = f"row {first.rows[1].id} stands twice in the sheet, first in rater-1.csv, row 3"
    assert found[1] == f"rater-1.csv, row 4 (rater-1): {doubled}"
    assert "the rater column says 'rater-3'" in found[2]
    assert found[3] == "rater-1.csv, row 8 (rater-1): the row has no id"
    assert found[4] == "rater-1.csv (rater-1): 1 row of rater-2 in this sheet (row 5)"
    assert "4 rows are missing, of 21" in found[5]


@pytest.mark.parametrize(("other", "says"), [(TUNED, "the same choices"), (make.prefer("base"), "other choices")])
def test_two_sheets_of_one_rater(made: Any, other: Any, says: str) -> None:
    first, second = made.sheet("rater-1", TUNED), made.sheet("rater-1", other, "again.xlsx")
    found = problems([first, second], made)
    assert found == [f"again.xlsx (rater-1): a second sheet of this rater, with {says}; the first is rater-1.csv"]


def test_missing_rows_are_counted_by_rater(made: Any) -> None:
    sheet = made.sheet("rater-3", TUNED)
    short = replace(sheet, rows=sheet.rows[5:])
    names = ", ".join(row.id for row in sheet.rows[:5])
    assert problems([short], made) == [f"rater-3.csv (rater-3): 5 rows are missing, of 21 ({names})"]
    checked = check_sheets([short], made.key, allow_partial=True)
    assert checked.open_rows == {"rater-3": 5}


def test_open_and_missing_rows_have_remedies_of_their_own(made: Any) -> None:
    sheet = made.sheet("rater-3", TUNED)
    with pytest.raises(DataError) as caught:
        check_sheets([replace(sheet, rows=sheet.rows[1:])], made.key)
    assert "put the missing rows back" in str(caught.value.remedy)
    assert "open rows" not in str(caught.value.remedy)
    with pytest.raises(DataError) as caught:
        check_sheets([make.changed(sheet, 0, overall="")], made.key)
    assert "have the open rows rated" in str(caught.value.remedy)
    assert "missing" not in str(caught.value.remedy)


def test_sheets_of_one_name_are_told_apart_by_their_folders(made: Any) -> None:
    sheets = [replace(made.sheet(rater, TUNED, "s.csv"), folder=f"from/{rater}") for rater in made.key.raters[:2]]
    sheets = [make.changed(sheet, 3, overall="C") for sheet in sheets]
    found = problems([*sheets, make.changed(made.sheet("rater-3", TUNED), 0, overall="")], made)
    assert sorted(line.partition(" (")[0] for line in found) == [
        "from/rater-1/s.csv, row 5",
        "from/rater-2/s.csv, row 5",
        "rater-3.csv",
    ]


@pytest.mark.parametrize(
    ("encoding", "text", "said"),
    [
        ("gbk", "a\ufffdb", "saved as GBK, which cannot hold U+FFFD"),
        ("gbk", "好😀 ok", "saved as GBK, which cannot hold U+1F600"),
        ("cp1252", "ünder 中文", "saved as Windows-1252, which cannot hold U+4E2D (中), U+6587 (文)"),
    ],
)
def test_characters_that_the_encoding_cannot_hold_are_named(encoding: str, text: str, said: str) -> None:
    made = make.make_study(repeats=0, checks=0, same=0)
    rows = {row.id: row for row in made.key.rows}
    item = rows[made.rows["rater-1"][0].id].item
    for shown_rows in made.rows.values():
        for place, row in enumerate(shown_rows):
            if rows[row.id].item == item:
                shown_rows[place] = replace(row, question=text)
    digests = {row.id: row_digest(make.SALT, row) for each in made.rows.values() for row in each}
    keyed = [row.model_copy(update={"digest": digests[row.id]}) for row in made.key.rows]
    made = make.Made(made.key.model_copy(update={"rows": keyed}), made.rows)
    sheets = made.fill(TUNED)
    _, a, b = sheets[0].rows[0].texts
    for lost in (
        text.encode(encoding, "replace").decode(encoding),
        text.replace("😀", "??").encode(encoding, "replace").decode(encoding),
    ):
        spoilt = replace(make.changed(sheets[0], 0, texts=(lost, a, b)), encoding=encoding)
        with pytest.raises(DataError) as caught:
            check_sheets([spoilt, *sheets[1:]], made.key)
        assert f"question is not the text shown: {said}" in caught.value.problem
        assert "CSV UTF-8" in str(caught.value.remedy)


def test_an_edit_is_shown_where_it_stands(made: Any) -> None:
    sheets = made.fill(TUNED)
    question, a, b = sheets[0].rows[0].texts
    (found,) = problems([make.changed(sheets[0], 0, texts=(f"{question[:9]}X{question[9:]}", a, b)), *sheets[1:]], made)
    assert (
        f"question differs from character 10 on: {question[:9] + 'X' + question[9:]!r}, shown was {question!r}" in found
    )
    (found,) = problems([make.changed(sheets[0], 0, texts=(question, a[:6], b)), *sheets[1:]], made)
    assert f"answer A ends after character 6 of {len(a)}" in found


def test_the_reading_whose_digests_verify_is_taken(made: Any) -> None:
    right = made.sheet("rater-1", TUNED)
    wrong = replace(right, rows=tuple(replace(row, texts=("黵", "b", "c")) for row in right.rows), encoding="gbk")
    checked = check_sheets([replace(wrong, otherwise=(replace(right, encoding="cp1252"),))], made.key)
    assert len(checked.votes) == 21
    found = problems([replace(wrong, otherwise=(replace(wrong, encoding="cp1252"),))], made)
    assert len(found) == 21


def test_open_rows_are_counted_and_may_be_allowed(made: Any) -> None:
    sheet = made.sheet("rater-1", TUNED)
    for place in (0, 3, 4, 9):
        sheet = make.changed(sheet, place, overall="")
    whole = made.sheet("rater-2", TUNED)
    assert problems([sheet, whole], made) == ["rater-1.csv (rater-1): overall is empty in 4 rows (rows 2, 5–6, 11)"]
    checked = check_sheets([sheet, whole], made.key, allow_partial=True)
    assert checked.open_rows == {"rater-1": 4}
    assert len(checked.votes) == 2 * 21 - 4


def test_untouched_sheets(made: Any) -> None:
    empty = made.sheet("rater-1", lambda row, item: "")
    assert problems([empty], made) == ["rater-1.csv (rater-1): the sheet is not filled in"]
    with pytest.raises(DataError, match="no sheet is filled in"):
        check_sheets([empty], made.key, allow_partial=True)
    checked = check_sheets([empty, made.sheet("rater-2", TUNED)], made.key, allow_partial=True)
    assert list(checked.sheets) == ["rater-2"]
    assert checked.open_rows == {}
    begun = make.changed(empty, 0, ratings={"logic_a": "3"})
    assert "overall is empty in 21 rows" in problems([begun], made)[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("6", "is '6', not a whole number from 1 to 5"),
        ("0", "not a whole number"),
        ("3.5", "not a whole number"),
        ("-1", "not a whole number"),
        ("five", "not a whole number"),
        ("٣٣", "not a whole number"),
        ("2026-05-04", "turned what was typed (such as 4-5) into a date"),
        ("2026-05-04 00:00:00", "into a date"),
        ("a date: 2026-05-04", "into a date"),
        ("5月4日", "into a date"),
        ("2026年5月4日", "into a date"),
        ("4-May", "into a date"),
        ("May-26", "into a date"),
        ("04.05.2026", "into a date"),
        ("5/4/26", "into a date"),
        ("46146", "number of the day 2026-05-04"),
        ("46146.0", "number of the day 2026-05-04"),
        ("9" * 100_000, "9'…, not a whole number"),
    ],
)
def test_ratings_that_are_none(made: Any, text: str, says: str) -> None:
    sheet = make.changed(made.sheet("rater-1", TUNED), 1, ratings={"accuracy_b": text, "logic_a": "5"})
    (found,) = problems([sheet], made)
    assert found.startswith("rater-1.csv, row 3 (rater-1): accuracy_b is ")
    assert says in found
    assert len(found) < 200


@pytest.mark.parametrize(("text", "rating"), [("1", 1), ("4.0", 4), ("4,00", 4), ("５", 5), ("", None), ("4-5", None)])
def test_ratings_as_programs_write_them(text: str, rating: int | None) -> None:
    assert parse_rating(text) == rating


def test_numbers_and_ranges_are_no_dates() -> None:
    assert not any(is_date(text) for text in ("6", "3.5", "4-5", "4/5", "10000", "maybe", "12345678", "good", "1e5"))


def test_choices_that_are_none_are_shown_cut(made: Any) -> None:
    sheet = make.changed(made.sheet("rater-1", TUNED), 0, overall="C" * 10_000)
    (found,) = problems([sheet], made)
    assert found.startswith("rater-1.csv, row 2 (rater-1): overall is 'CCC")
    assert found.endswith("none of: A much, A, tie, both bad, B, B much")
    assert len(found) < 200


@pytest.mark.parametrize(
    ("place", "changes", "named"),
    [
        (0, {0: "edited"}, "question is"),
        (1, {1: "edited"}, "answer A is"),
        (2, {2: "edited"}, "answer B is"),
        (2, {0: "x", 2: "y"}, "question and answer B are"),
        (2, {0: "x", 1: "y", 2: "z"}, "question and answer A and answer B are"),
    ],
)
def test_edited_texts_are_told_apart_by_other_copies(
    made: Any, place: int, changes: dict[int, str], named: str
) -> None:
    sheets = made.fill(TUNED)
    texts = [changes.get(number, text) for number, text in enumerate(sheets[0].rows[place].texts)]
    sheets[0] = make.changed(sheets[0], place, texts=tuple(texts))
    (found,) = problems(sheets, made)
    assert found.startswith(f"rater-1.csv, row {place + 2} (rater-1): {named} not the text")


def test_edited_text_without_another_copy() -> None:
    made = make.make_study(raters=1, repeats=0, checks=0, same=0)
    sheet = make.changed(made.sheet("rater-1", TUNED), 3, texts=("a", "b", "c"))
    assert "the question or an answer is not the text shown" in problems([sheet], made)[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [("x" * 32_767, "cut it at 32,767 characters"), ("答\ufffd", "another encoding"), ("#NAME?", "for a formula")],
)
def test_causes_of_edits(made: Any, text: str, says: str) -> None:
    sheets = made.fill(TUNED)
    question, _, b = sheets[1].rows[0].texts
    sheets[1] = make.changed(sheets[1], 0, texts=(question, text, b))
    assert says in problems(sheets, made)[0]


def test_wrong_side_of_a_check_is_compared_with_no_other_copy(made: Any) -> None:
    sheets = made.fill(TUNED)
    place = next(n for n, row in enumerate(sheets[0].rows) if "something else" in row.texts[1])
    question, a, b = sheets[0].rows[place].texts
    sheets[0] = make.changed(sheets[0], place, texts=(question, f"{a}!", b))
    assert "the question or an answer is not the text shown" in problems(sheets, made)[0]


def test_line_ends_and_outer_space_are_no_edit_and_texts_may_be_absent(made: Any) -> None:
    sheet = made.sheet("rater-1", TUNED)
    question, a, b = sheet.rows[0].texts
    sheet = make.changed(sheet, 0, texts=(f"{question}  \r\n", a, f" {b}"))
    sheet = make.changed(sheet, 1, texts=None)
    assert check_sheets([sheet], made.key).unverified == 1


def test_every_problem_is_said_at_once_and_no_sheet_is_hidden(made: Any) -> None:
    wild = made.sheet("rater-1", lambda row, item: {"overall": "A", "logic_a": "9", "fluency_b": "0"})
    other = make.changed(made.sheet("rater-2", TUNED), 0, ratings={"logic_a": "7"})
    with pytest.raises(DataError) as caught:
        check_sheets([wild, other], made.key)
    lines = caught.value.problem.split("\n")
    assert lines[0] == "the sheets cannot be scored: 43 problems"
    assert len(lines) == 22
    assert "rater-2.csv, row 2 (rater-2): logic_a is '7'" in lines[20]
    assert lines[-1] == "  … and 23 more"


def test_foreign_text_never_breaks_a_message() -> None:
    assert shown("a\x1b[2J\nb\u202e") == r"a\x1b[2J\nb\u202e"
    assert shown("回答.csv") == "回答.csv"
    assert len(shown("x" * 10_000)) == 81
    assert quoted("y" * 10_000) == f"'{'y' * 40}'…"


def test_hostile_file_names_are_shown_safely(made: Any) -> None:
    sheet = make.changed(made.sheet("rater-1", TUNED, "x\x1b]0;evil\x07.csv"), 0, overall="")
    (found,) = problems([sheet], made)
    assert "\x1b" not in found
    assert "\x07" not in found


def test_time_grows_with_the_rows_alone() -> None:
    def seconds(items: int) -> float:
        made = make.make_study(items, 1, repeats=items // 10)
        sheet = made.sheet("rater-1", TUNED)
        rows = tuple(replace(row, texts=("no", "such", "text"), ratings={"logic_a": "9"}, comment="c" * 10_000,
                             overall="C") for row in sheet.rows)  # fmt: skip
        start = time.process_time()
        problems([FilledSheet("a.csv", rows + rows)], made)
        return time.process_time() - start

    seconds(50)
    small, large = seconds(500), seconds(4000)
    assert large < 3.0
    assert large < 30 * small + 0.5


def test_digest_is_of_the_row_with_its_id(made: Any) -> None:
    # Two rows of one rater with exchanged ids: every text is a known one, and still both are found.
    sheet = made.sheet("rater-1", TUNED)
    first, second = sheet.rows[:2]
    sheet = make.changed(make.changed(sheet, 0, id=second.id), 1, id=first.id)
    found = problems([sheet, *made.fill(TUNED, ["rater-2"])], made)
    assert len(found) == 2
    assert all("question and answer A and answer B are not the texts shown" in line for line in found)
    assert SheetRow(first.id, *first.texts) in made.rows["rater-1"]


@pytest.mark.parametrize("seed", range(30))
def test_any_disorder_ends_in_one_error_or_in_votes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = make.make_study(8, 3)
    sheets = made.fill(TUNED)
    ids = [row.id for row in made.key.rows]
    cells: dict[str, list[Any]] = {
        "id": ["", "x\ny", *ids[:5]],
        "commitment": ["", "hmac-1"],
        "rater": ["", "rater-2", "nobody"],
        "overall": ["", "C", "tie", "A much"],
        "ratings": [{}, {"logic_a": "6"}, {"unknown_column": "1"}, {"logic_b": "4.0"}],
        "texts": [None, ("", "", ""), sheets[0].rows[0].texts],
    }
    for _ in range(int(rng.integers(1, 12))):
        which, name = int(rng.integers(3)), str(rng.choice(list(cells)))
        value = cells[name][int(rng.integers(len(cells[name])))]
        sheets[which] = make.changed(sheets[which], int(rng.integers(len(sheets[which].rows))), **{name: value})
    given = [sheets[int(place)] for place in rng.integers(0, 3, size=int(rng.integers(1, 5)))]
    lines: list[str] = []
    try:
        checked = check_sheets(given, made.key, allow_partial=bool(rng.integers(2)))
    except DataError as error:
        lines = error.problem.split("\n")
    else:
        assert len({vote.row.id for vote in checked.votes}) == len(checked.votes)
    assert len(lines) != 1
    assert len(lines) <= 22
