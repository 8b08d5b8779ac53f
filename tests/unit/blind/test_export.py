from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from lorascope.blind import export_sheets, read_key
from lorascope.blind.sheets import COLUMNS, cell, clean
from lorascope.errors import DataError, EvaluationError, InputError, OutputError, UsageError
from lorascope.schema.comparison import Comparison

Answers = Callable[..., pyarrow.Table]
Generated = Callable[..., Comparison]


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"items": 40, "raters": 2, "folder": folder / "sheets", "key_path": folder / "key.json", "seed": 1} | changes


def test_every_rater_gets_every_item_that_differs(study: Any) -> None:
    assert [path.name for path in study.sheets] == ["rater-1.csv", "rater-2.csv", "rater-3.csv"]
    questions = [{row["question"] for row in study.rows(sheet)} for sheet in study.sheets]
    assert all(each == {f"question {place}" for place in range(36)} for each in questions)
    assert len(study.key.identical) == 4
    assert (study.folder / "instructions.txt").read_text(encoding="utf-8")


def test_sides_are_balanced_within_and_across_raters(study: Any) -> None:
    by_rater = Counter((row.rater, row.adapted) for row in study.key.rows)
    assert set(by_rater.values()) == {18}
    by_item = Counter(row.item_id for row in study.key.rows if row.adapted == "A")
    assert set(by_item.values()) <= {1, 2}
    assert len(by_item) == 36


def test_key_tells_the_truth(study: Any) -> None:
    rows = {row["id"]: row for sheet in study.sheets for row in study.rows(sheet)}
    assert len(rows) == 36 * 3
    for each in study.key.rows:
        other = "b" if each.adapted == "A" else "a"
        assert rows[each.id][f"answer_{each.adapted.lower()}"].startswith("adapted")
        assert rows[each.id][f"answer_{other}"].startswith("base")


def test_sheets_hold_nothing_that_names_a_model(study: Any) -> None:
    for sheet in study.sheets:
        text = sheet.read_bytes()
        assert text.startswith(b"\xef\xbb\xbf")
        for secret in (b"tuned", b"tinybase", b"hash-of", b"i00", study.key.salt.encode()):
            assert secret not in text
        assert list(study.rows(sheet)[0]) == list(COLUMNS)
        assert {row["study"] for row in study.rows(sheet)} == {study.key.commitment}
        assert all(row["id"].startswith("q") for row in study.rows(sheet))


def test_the_seed_chooses_items_and_unblinds_nothing(tmp_path: Path, answers: Answers, generated: Generated) -> None:
    keys = []
    for name in "ab":
        export_sheets(answers(), generated(), **settings(tmp_path / name, items=20, raters=1))
        keys.append(read_key(tmp_path / name / "key.json"))
    items = [sorted(row.item_id for row in key.rows) + sorted(key.identical) for key in keys]
    assert items[0] == items[1]
    for told in ("id", "item_id", "adapted"):
        assert [getattr(row, told) for row in keys[0].rows] != [getattr(row, told) for row in keys[1].rows]
    assert keys[0].salt != keys[1].salt


def test_order_of_samples_does_not_choose_items(tmp_path: Path, answers: Answers, generated: Generated) -> None:
    table = answers()
    chosen = []
    for name, samples in {"a": table, "b": table.take(list(range(table.num_rows))[::-1])}.items():
        export_sheets(samples, generated(), **settings(tmp_path / name, items=10))
        chosen.append({row.item_id for row in read_key(tmp_path / name / "key.json").rows})
    assert chosen[0] == chosen[1]


def test_side_says_nothing_about_row_or_id(tmp_path: Path, answers: Answers, generated: Generated) -> None:
    # Over many studies the adapted answer is A as often in the first row, and under the lower id, as anywhere else.
    first = lower = 0
    samples, comparison = answers(6, 0), generated()
    for number in range(200):
        export_sheets(samples, comparison, **settings(tmp_path / str(number), items=6, raters=1))
        rows = read_key(tmp_path / str(number) / "key.json").rows
        first += rows[0].adapted == "A"
        lower += min(rows, key=lambda row: row.id).adapted == "A"
    assert 65 <= first <= 135
    assert 65 <= lower <= 135


def test_key_is_for_its_owner_alone(study: Any) -> None:
    assert study.key_path.stat().st_mode & 0o777 == 0o600
    assert json.loads(study.key_path.read_text())["version"] == 1


def test_commitment_pins_the_whole_key(study: Any) -> None:
    key = study.key
    turned = [key.rows[0].model_copy(update={"adapted": "B" if key.rows[0].adapted == "A" else "A"}), *key.rows[1:]]
    for change in ({"rows": turned}, {"identical": []}, {"subject": "other"}, {"salt": "0" * 64}):
        assert key.model_copy(update=change).commitment != key.commitment


@pytest.mark.parametrize("key", ["sheets/key.json", "sheets/deep/key.json"])
def test_key_beside_the_sheets_is_refused(tmp_path: Path, key: str, answers: Answers, generated: Generated) -> None:
    with pytest.raises(UsageError, match="every rater finds it"):
        export_sheets(answers(), generated(), **settings(tmp_path, key_path=tmp_path / key))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("present", ["key.json", "sheets/rater-7.csv"])
def test_older_studies_are_left_alone(tmp_path: Path, present: str, answers: Answers, generated: Generated) -> None:
    older = tmp_path / present
    older.parent.mkdir(exist_ok=True)
    older.write_text("precious")
    with pytest.raises(OutputError, match="older study"):
        export_sheets(answers(), generated(), **settings(tmp_path))
    assert older.read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"items": 0}, UsageError, "at least one"),
        ({"raters": 0}, UsageError, "at least one"),
        ({"subject": "nobody"}, UsageError, "tuned"),
        ({"task": "quiz"}, UsageError, "support"),
    ],
)
def test_requests_that_cannot_be_met(
    tmp_path: Path, changes: dict[str, Any], error: type[InputError], says: str, answers: Answers, generated: Generated
) -> None:
    with pytest.raises(error, match=says):
        export_sheets(answers(), generated(), **settings(tmp_path, **changes))


def test_one_of_several_checkpoints_has_to_be_named(tmp_path: Path, answers: Answers, generated: Generated) -> None:
    with pytest.raises(UsageError, match="tuned, full"):
        export_sheets(answers(), generated("tuned", "full"), **settings(tmp_path))
    export_sheets(answers(), generated("tuned", "full"), **settings(tmp_path, subject="tuned"))


def test_samples_without_texts_are_refused(tmp_path: Path, answers: Answers, generated: Generated) -> None:
    for samples in (answers().drop_columns(["adapted_output"]), answers(subject="another")):
        with pytest.raises(DataError) as caught:
            export_sheets(samples, generated(), **settings(tmp_path))
        assert "--no-samples" in str(caught.value)


def test_nothing_to_rate(tmp_path: Path, answers: Answers, generated: Generated) -> None:
    with pytest.raises(EvaluationError, match="nothing to rate"):
        export_sheets(answers(5, 5), generated(), **settings(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", "\t=1", " =1", "\r\n=cmd|' /C calc'!A0", "＝1"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert cell(text).startswith("'")
    assert cell(text)[1:] == clean(text)


def test_cells_keep_all_other_text() -> None:
    assert cell('a "quoted", text\r\nin two lines') == 'a "quoted", text\nin two lines'
    assert clean("a\x00b\x1bc") == "a\ufffdb\ufffdc"
    with pytest.raises(DataError, match="32,768 characters"):
        cell("x" * 32_768)


def test_hostile_texts_read_back_whole(tmp_path: Path, answers: Answers, generated: Generated) -> None:
    hostile = '你好, "A";\t=HYPERLINK("x")\nline 2\u2028'
    table = answers(2, 0)
    column = pyarrow.array([hostile, hostile, "b"])
    samples = table.set_column(table.schema.get_field_index("adapted_output"), "adapted_output", column)
    export_sheets(samples, generated(), **settings(tmp_path, raters=1))
    import csv

    with (tmp_path / "sheets" / "rater-1.csv").open(encoding="utf-8-sig", newline="") as file:
        found = {row[f"answer_{side}"] for row in csv.DictReader(file) for side in "ab"}
    assert clean(hostile) in found
