"""Plain files of predictions and those of LLaMA-Factory; pairing, whatever tool the runs are from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.imported.files import read_files
from lorascope.data.imported.llamafactory import read_llamafactory
from lorascope.data.imported.pairing import pair_runs
from lorascope.data.imported.runs import ImportedRun, ImportedTask, Setting
from lorascope.errors import DataError, InvalidComparison
from lorascope.schema.items import GenerateAnswer, GenerateItem


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def texts(run: ImportedRun) -> dict[str, str]:
    [task] = run.tasks.values()
    return {one.key: one.answer.text for one in task.items if isinstance(one.answer, GenerateAnswer)}


def run_of(path: Path, rows: list[dict[str, Any]], **settings: Setting) -> ImportedRun:
    run = read_files(lines(path, rows))
    tasks = {name: replace(task, settings=settings) for name, task in run.tasks.items()}
    return replace(run, tasks=tasks)


def rows_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": n, "prompt": f"{n}?", "prediction": f"say {n}", "reference": str(n)} | more for n in range(count)]


def test_llamafactory_pairs_by_content_and_counts_what_stands_twice(tmp_path: Path) -> None:
    same = {"prompt": "Q", "predict": "one", "label": "A"}
    rows = [same, {"prompt": "R", "predict": "two", "label": "B"}, same | {"predict": "three"}]
    found = texts(read_llamafactory(lines(tmp_path / "generated_predictions.jsonl", rows).parent))
    assert list(found.values()) == ["one", "two", "three"]
    first, _, third = found
    assert third == f"{first}#2"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "Q", "predict": "x"}, "no text in label"),
        ({"prompt": "Q", "predict": None, "label": "A"}, "no text in predict"),
        ({"prompt": "Q", "predict": "x", "label": " "}, "the label is empty"),
    ],
)
def test_llamafactory_lines_that_cannot_be_compared(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    rows = [{"prompt": "P", "predict": "x", "label": "A"}, row]
    with pytest.raises(DataError, match=problem) as error:
        read_llamafactory(lines(tmp_path / "generated_predictions.jsonl", rows))
    assert "line 2" in str(error.value)


def test_llamafactory_several_checkpoints_below_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        lines(tmp_path / name / "generated_predictions.jsonl", [{"prompt": "P", "predict": "x", "label": "A"}])
    with pytest.raises(DataError, match="holds several runs"):
        read_llamafactory(tmp_path)


def test_records_keep_groups_categories_and_several_references(tmp_path: Path) -> None:
    row = {"id": "x", "prediction": "", "references": ["a", "b"], "group": "g", "category": "c"}
    [one] = read_files(lines(tmp_path / "p.jsonl", [row])).tasks["predictions"].items
    assert isinstance(one.item, GenerateItem)
    assert (one.item.references, one.item.group, one.item.category) == (("a", "b"), "g", "c")
    assert one.key == "x"


def test_csv_and_text_with_references_beside_them(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('id,prediction\n7,"a, b"\n8,c\n', "utf-8")
    gold = lines(tmp_path / "gold.jsonl", [{"id": "8", "reference": "C"}, {"id": 7, "reference": "A"}])
    run = read_files(tmp_path / "p.csv", references=gold)
    items = {one.key: one.item for one in run.tasks["predictions"].items}
    assert {key: item.references for key, item in items.items() if isinstance(item, GenerateItem)} == {
        "7": ("A",),
        "8": ("C",),
    }
    (tmp_path / "p.txt").write_text("one\n\nthree\n", "utf-8")
    (tmp_path / "gold.txt").write_text("1\r\n2\r\n3", "utf-8")
    assert texts(read_files(tmp_path / "p.txt", references=tmp_path / "gold.txt")) == {
        "1": "one",
        "2": "",
        "3": "three",
    }


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"id": 1, "prediction": "a", "reference": "b"}] * 2, "the id 1 stands twice"),
        ([{"id": 1, "prediction": "a", "reference": "b"}, {"prediction": "a", "reference": "b"}], "has no id"),
        ([{"id": "", "prediction": "a", "reference": "b"}], "the id is empty"),
        ([{"id": 1, "prediction": None, "reference": "b"}], "'prediction' must be text"),
        ([{"id": 1, "reference": "b"}], "'prediction' is missing"),
        ([{"id": 1, "prediction": "a"}], "no references beside them"),
    ],
)
def test_records_that_cannot_be_compared(tmp_path: Path, rows: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_files(lines(tmp_path / "p.jsonl", rows))


def test_lines_and_references_must_be_as_many(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    (tmp_path / "gold.txt").write_text("1\n")
    with pytest.raises(DataError, match="2 predictions, but 1 references"):
        read_files(tmp_path / "p.txt", references=tmp_path / "gold.txt")
    gold = lines(tmp_path / "gold.jsonl", [{"id": 5, "reference": "A"}])
    with pytest.raises(DataError, match="the id 0 has no reference"):
        read_files(lines(tmp_path / "p.jsonl", rows_of(1)), references=gold)


def test_runs_pair_by_id_in_the_bases_order(tmp_path: Path) -> None:
    rows = rows_of(4)
    runs = {"base": run_of(tmp_path / "a.jsonl", rows), "lora": run_of(tmp_path / "b.jsonl", rows[::-1])}
    [task] = pair_runs("base", runs, tool="files").tasks
    assert [[one.key for one in items] for items in task.runs.values()] == [["0", "1", "2", "3"]] * 2


def test_without_ids_and_prompts_places_pair_and_references_prove_it(tmp_path: Path) -> None:
    one = [{"prediction": "a", "reference": "A"}, {"prediction": "b", "reference": "B"}]
    runs = {"base": run_of(tmp_path / "a.jsonl", one), "lora": run_of(tmp_path / "b.jsonl", one[::-1])}
    with pytest.raises(InvalidComparison, match="right answers of 2 of 2 items"):
        pair_runs("base", runs, tool="files")
    assert pair_runs("base", runs | {"lora": runs["base"]}, tool="files").unpaired == []


def test_places_pair_only_files_of_one_length(tmp_path: Path) -> None:
    """One line less moves all that follow: each answer would be compared with its neighbour's."""
    placed = [{"prediction": "yes" if n % 10 else "no", "reference": "yes"} for n in range(100)]
    runs = {"base": run_of(tmp_path / "a.jsonl", placed), "lora": run_of(tmp_path / "b.jsonl", placed[3:])}
    with pytest.raises(InvalidComparison, match="pair by their place") as error:
        pair_runs("base", runs, tool="files", allow_unpaired=True)
    assert "base: 100 records" in str(error.value)
    assert "lora: 97 records" in str(error.value)
    numbered = [{"id": n, **row} for n, row in enumerate(placed, 1)]
    runs["lora"] = run_of(tmp_path / "b.jsonl", numbered)
    with pytest.raises(InvalidComparison, match="in one run, but in another"):
        pair_runs("base", runs, tool="files")
    asked = [{"prompt": f"{n}?", **row} for n, row in enumerate(placed)]
    runs = {"base": run_of(tmp_path / "a.jsonl", asked), "lora": run_of(tmp_path / "b.jsonl", asked[3:])}
    assert [one.count for one in pair_runs("base", runs, tool="files").unpaired] == [3]


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, "1" * 5_000])
def test_json_that_python_does_not_read_is_no_crash(tmp_path: Path, value: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"prediction": "a", "reference": "a", "more": ' + value + "}")
    with pytest.raises(DataError, match=r"nested too deeply|too long a number|is not read: Exceeds") as error:
        read_files(tmp_path / "p.jsonl")
    assert "p.jsonl" in str(error.value)


def test_items_on_one_side_only_are_counted_and_too_many_are_refused(tmp_path: Path) -> None:
    rows = rows_of(40)
    runs = {"base": run_of(tmp_path / "a.jsonl", rows), "lora": run_of(tmp_path / "b.jsonl", rows[:-1])}
    found = pair_runs("base", runs, tool="files")
    [alone] = found.unpaired
    assert (alone.run, alone.count, alone.total) == ("base", 1, 40)
    assert "39" in alone.examples[0]
    runs["lora"] = run_of(tmp_path / "b.jsonl", rows[:30])
    with pytest.raises(InvalidComparison, match="10 of the 40 items"):
        pair_runs("base", runs, tool="files")
    [task] = pair_runs("base", runs, tool="files", allow_unpaired=True).tasks
    assert len(task.runs["base"]) == 30
    runs["lora"] = run_of(tmp_path / "b.jsonl", [row | {"id": f"n{row['id']}"} for row in rows])
    with pytest.raises(InvalidComparison, match="no item of predictions stands in all runs"):
        pair_runs("base", runs, tool="files", allow_unpaired=True)


def test_another_prompt_is_counted_and_another_answer_refused(tmp_path: Path) -> None:
    rows = rows_of(5)
    runs = {
        "base": run_of(tmp_path / "a.jsonl", rows),
        "lora": run_of(tmp_path / "b.jsonl", [row | {"prompt": f"<s>{row['prompt']}"} for row in rows]),
    }
    [reworded] = pair_runs("base", runs, tool="files").reworded
    assert (reworded.run, reworded.count, reworded.total) == ("lora", 5, 5)
    runs["lora"] = run_of(tmp_path / "b.jsonl", [*rows[:4], rows[4] | {"reference": "else"}])
    with pytest.raises(InvalidComparison, match="right answers of 1 of 5 items"):
        pair_runs("base", runs, tool="files")


def test_settings_that_differ_are_refused_or_told(tmp_path: Path) -> None:
    rows = rows_of(3)
    shots = {"few-shot examples": Setting("0", "refuse"), "version": Setting("1")}
    runs = {
        "base": run_of(tmp_path / "a.jsonl", rows, **shots),
        "lora": run_of(tmp_path / "b.jsonl", rows, **(shots | {"few-shot examples": Setting("5", "refuse")})),
    }
    with pytest.raises(InvalidComparison, match="not evaluated alike: few-shot examples") as error:
        pair_runs("base", runs, tool="lm-eval")
    assert "--allow-different" in str(error.value)
    [told] = pair_runs("base", runs, tool="lm-eval", allow_different=True).differences
    assert (told.base, told.other, told.refused) == ("0", "5", True)
    runs["lora"] = run_of(tmp_path / "b.jsonl", rows, **(shots | {"version": Setting("2")}))
    [told] = pair_runs("base", runs, tool="lm-eval").differences
    assert not told.refused


def test_runs_of_different_tasks(tmp_path: Path) -> None:
    base = run_of(tmp_path / "a.jsonl", rows_of(3))
    [task] = base.tasks.values()
    other = replace(base, tasks={"other": replace(task, name="other")}, left_out={"odd": "it is odd"})
    with pytest.raises(DataError, match="no task of base stands in another run") as error:
        pair_runs("base", {"base": base, "lora": other}, tool="lm-eval")
    assert "lora: other" in str(error.value)
    both = replace(base, tasks={**base.tasks, "other": replace(task, name="other")})
    found = pair_runs("base", {"base": both, "lora": other}, tool="lm-eval")
    assert [paired.name for paired in found.tasks] == ["other"]
    assert found.left_out == {"predictions": "only base has it", "odd": "lora: it is odd"}


def test_a_task_of_two_kinds_is_refused(tmp_path: Path) -> None:
    base = run_of(tmp_path / "a.jsonl", rows_of(3))
    odd = {name: replace(task, kind="choice") for name, task in base.tasks.items()}
    with pytest.raises(DataError, match="of different kinds"):
        pair_runs("base", {"base": base, "lora": replace(base, tasks=odd)}, tool="lm-eval")


def test_a_third_run_without_the_task_is_absent_with_a_reason(tmp_path: Path) -> None:
    base = run_of(tmp_path / "a.jsonl", rows_of(3))
    nothing: dict[str, ImportedTask] = {}
    runs = {"base": base, "lora": base, "full": replace(base, tasks=nothing, left_out={"predictions": "it is odd"})}
    [task] = pair_runs("base", runs, tool="lm-eval").tasks
    assert task.absent == {"full": "it is odd"}
    assert set(task.runs) == {"base", "lora"}
