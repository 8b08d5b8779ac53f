from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.blind import score_sheets
from lorascope.errors import DataError

Row = dict[str, str]


def test_a_rater_who_always_prefers_the_adapted_answer(study: Any) -> None:
    study.fill(study.prefer_adapted)
    scores = score_sheets(study.sheets, study.key)
    # 36 items won, 4 identical ones count half
    assert scores.win_rate.value == pytest.approx((36 + 2) / 40)
    assert scores.win_rate.n == 40
    assert scores.win_rate.low is not None
    assert scores.win_rate.low < scores.win_rate.value
    assert scores.sign_test_p == pytest.approx(2 * 0.5**36)
    assert scores.items_preferred == {"adapted": 36, "base": 0, "neither": 4}
    assert scores.votes == {"wins": 108, "losses": 0, "ties": 0, "both_bad": 0}
    assert scores.raters == ("rater-1", "rater-2", "rater-3")
    assert scores.ratings == {}


def test_a_rater_who_always_takes_the_left_is_even(study: Any) -> None:
    study.fill(lambda row: {"overall": "A"})
    sheets = study.sheets[:2]
    scores = score_sheets(sheets, study.key)
    assert scores.win_rate.value == 0.5
    assert scores.win_rate.low is None  # every item came out even: no spread, no interval
    assert scores.sign_test_p is None
    assert scores.absent_raters == ("rater-3",)


def test_ties_and_both_bad_count_half(study: Any) -> None:
    study.fill(lambda row: {"overall": "Both  BAD" if row["id"] < "q8" else "tie"})
    scores = score_sheets(study.sheets, study.key)
    assert scores.win_rate.value == 0.5
    assert scores.votes["ties"] + scores.votes["both_bad"] == 108
    assert scores.votes["both_bad"] > 0


def test_items_are_the_unit(study: Any) -> None:
    """Ten items lost by two raters and won by one: a third of a win each, and a preference for the base."""
    lost = {f"question {place}" for place in range(10)}

    def vote(row: Row, rater: int) -> Mapping[str, str]:
        adapted_left = row["answer_a"].startswith("adapted")
        wins = row["question"] not in lost or rater == 0
        return {"overall": "A" if wins == adapted_left else "B much"}

    for rater, sheet in enumerate(study.sheets):
        study.save(sheet, [row | vote(row, rater) for row in study.rows(sheet)])
    scores = score_sheets(study.sheets, study.key)
    assert scores.win_rate.value == pytest.approx((26 + 10 / 3 + 2) / 40)
    assert scores.items_preferred == {"adapted": 26, "base": 10, "neither": 4}
    from scipy.stats import binomtest

    assert scores.sign_test_p == pytest.approx(binomtest(26, 36).pvalue)


def test_interval_is_a_bootstrap_of_item_means(study: Any) -> None:
    study.fill(lambda row: study.prefer_adapted(row) if int(row["question"].split()[1]) % 3 else {"overall": "tie"})
    found = score_sheets(study.sheets, study.key).win_rate
    items = np.array([1.0] * 24 + [0.5] * 16)
    means = np.random.default_rng(3).choice(items, (20_000, 40)).mean(axis=1)
    assert found.value == pytest.approx(items.mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.013)


def test_ratings_are_unblinded_and_paired(study: Any) -> None:
    def rate(row: Row) -> dict[str, str]:
        cells = {}
        for side in "ab":
            adapted = row[f"answer_{side}"].startswith("adapted")
            cells[f"accuracy_{side}"] = "5" if adapted else "2.0"
            cells[f"logic_{side}"] = "3"
            if side == "a":
                cells["fluency_a"] = "4"
        return {"overall": "tie", **cells}

    study.fill(rate)
    ratings = score_sheets(study.sheets, study.key).ratings
    assert (ratings["accuracy"].base.value, ratings["accuracy"].adapted.value) == (2, 5)
    assert (ratings["accuracy"].delta.value, ratings["accuracy"].delta.n) == (3, 36)
    assert ratings["accuracy"].delta.p_value is not None
    assert ratings["accuracy"].delta.p_value < 1e-6
    assert ratings["logic"].delta.p_value == 1
    # rated on one side only, or not at all: no number
    assert set(ratings) == {"accuracy", "logic"}


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_sheets_saved_by_other_programs(study: Any, delimiter: str) -> None:
    for sheet in study.sheets:
        rows = [row | study.prefer_adapted(row) for row in study.rows(sheet)]
        study.save(sheet, [*rows[::-1], dict.fromkeys(rows[0], "")], delimiter)
    assert score_sheets(study.sheets, study.key).votes["wins"] == 108


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("overall", "", "overall is empty"),
        ("overall", "C", "overall is 'C'"),
        ("accuracy_a", "6", "accuracy_a is '6'"),
        ("logic_b", "0", "logic_b is '0'"),
        ("fluency_b", "3.5", "fluency_b is '3.5'"),
        ("accuracy_b", "04-May", "accuracy_b is '04-May'"),
        ("study", "hmac-0", "does not belong to this key"),
        ("id", "q0", "no row 'q0'"),
    ],
)
def test_wrong_cells_are_named_by_sheet_and_row(study: Any, column: str, value: str, says: str) -> None:
    study.fill(study.prefer_adapted)
    rows = study.rows(study.sheets[1])
    rows[4][column] = value
    study.save(study.sheets[1], rows)
    with pytest.raises(DataError) as caught:
        score_sheets(study.sheets, study.key)
    assert says in caught.value.problem
    assert caught.value.where is not None
    assert caught.value.where.startswith("rater-2.csv, row 6")
    if column not in ("study", "id"):
        assert caught.value.where.endswith("rater-2")


def test_a_missing_row_is_named(study: Any) -> None:
    study.fill(study.prefer_adapted)
    rows = study.rows(study.sheets[2])
    study.save(study.sheets[2], rows[:-1])
    with pytest.raises(DataError, match=rf"1 of rater-3's rows are missing, the first is {rows[-1]['id']}"):
        score_sheets(study.sheets, study.key)


def test_a_sheet_given_twice_is_named(study: Any, tmp_path: Path) -> None:
    study.fill(study.prefer_adapted)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(study.sheets[0].read_bytes())
    with pytest.raises(DataError, match=r"given twice, first in rater-1\.csv, row 2") as caught:
        score_sheets([*study.sheets, copy], study.key)
    assert caught.value.where == "copy.csv, row 2, rater-1"


def test_a_key_changed_after_export_is_refused(study: Any) -> None:
    study.fill(study.prefer_adapted)
    key = study.key
    turned = [row.model_copy(update={"adapted": "A"}) for row in key.rows]
    with pytest.raises(DataError, match="changed after export"):
        score_sheets(study.sheets, key.model_copy(update={"rows": turned}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no column"),
        (b"id,overall\nq1,A\n", "no column accuracy_a"),
        ("id,comment\nq1,好\n".encode("gbk"), "not UTF-8"),
        (b'"id","overall\n', "not valid CSV"),
    ],
)
def test_unreadable_sheets(study: Any, tmp_path: Path, content: bytes, says: str) -> None:
    sheet = tmp_path / "bad.csv"
    sheet.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        score_sheets([sheet], study.key)
    assert caught.value.where == "bad.csv"
    with pytest.raises(DataError, match="cannot be read"):
        score_sheets([tmp_path / "none.csv"], study.key)
    with pytest.raises(DataError, match="no rows"):
        score_sheets([], study.key)


def test_unreadable_keys(tmp_path: Path) -> None:
    from lorascope.blind import read_key

    for content, says in ((None, "cannot be read"), ("{", "no study key"), ('{"version": 1}', "no study key: subject")):
        path = tmp_path / "key.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(DataError, match=says):
            read_key(path)
