"""Details that lighteval wrote: what is read of them, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lorascope.data.imported.lighteval import read_lighteval
from lorascope.errors import DataError
from lorascope.schema.items import ChoiceAnswer, ChoiceItem, GenerateAnswer, GenerateItem

RUN = Path(__file__).parent / "fixtures" / "imported" / "lighteval" / "base"


def changed(target: Path, task: str, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    """One task's details, changed, alone in a folder."""
    [file] = RUN.glob(f"details_{task}-0_*.parquet")
    rows = pyarrow.parquet.read_table(file).to_pylist()
    rows = change(rows) or rows
    path = target / file.name
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_a_run_gives_its_tasks() -> None:
    run = read_lighteval(RUN)
    assert {name: task.kind for name, task in run.tasks.items()} == {
        "tiny_choice|0": "choice",
        "tiny_generate|0": "generate",
    }
    assert (run.dtype, run.notes, run.left_out) == ("float32", (), {})
    task = run.tasks["tiny_choice|0"]
    assert task.metrics["acc"].direction == "higher"
    assert task.settings["few-shot examples"].value == "0"
    one = {one.key: one for one in task.items}["5"]
    assert isinstance(one.item, ChoiceItem)
    assert isinstance(one.answer, ChoiceAnswer)
    assert (one.item.choices, one.item.answer) == (("cat", "dog", "fish"), 1)
    assert one.item.context == "Question: Which animal barks?\nAnswer:"
    assert one.scores == {"acc": (float(one.answer.logprobs.index(max(one.answer.logprobs)) == 1), 1.0)}


def test_generated_text_is_taken_after_post_processing(tmp_path: Path) -> None:
    def thought(rows: list[dict[str, Any]]) -> None:
        rows[0]["model_response"]["text_post_processed"] = ["cleaned"]

    one = read_lighteval(changed(tmp_path, "tiny_generate", thought)).tasks["tiny_generate|0"].items[0]
    assert isinstance(one.item, GenerateItem)
    assert isinstance(one.answer, GenerateAnswer)
    assert one.answer.text == "cleaned"


def test_without_results_it_is_said(tmp_path: Path) -> None:
    run = read_lighteval(changed(tmp_path, "tiny_choice", lambda rows: None))
    assert any("no results file" in note for note in run.notes)
    assert run.tasks["tiny_choice|0"].metrics["acc"].direction == "none"


def test_several_right_choices_and_other_methods_are_left_out(tmp_path: Path) -> None:
    def several(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["doc"]["gold_index"] = [0, 1]

    def perplexity(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["doc"]["sampling_methods"] = ["PERPLEXITY"]

    left = read_lighteval(changed(tmp_path, "tiny_choice", several)).left_out
    assert left == {"tiny_choice|0": "an item has several right choices, or none"}
    left = read_lighteval(changed(tmp_path, "tiny_choice", perplexity)).left_out
    assert left == {"tiny_choice|0": 'its documents are asked by ["PERPLEXITY"], which is not read'}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows + rows, "stands twice"),
        (lambda rows: rows[0]["doc"].__setitem__("gold_index", 9), "not among the document's choices"),
        (lambda rows: rows[0]["model_response"]["logprobs"].pop(), "finite log-probabilities for"),
        (lambda rows: rows[0]["doc"].__setitem__("id", ""), "has no id"),
        (lambda rows: [{"full_prompt": "a", "predictions": "b"}], "not lighteval's doc, metric and model_response"),
    ],
)
def test_damaged_details_are_named(tmp_path: Path, change: Callable[[Any], Any], problem: str) -> None:
    def as_list(rows: list[dict[str, Any]]) -> Any:
        found = change(rows)
        return found if isinstance(found, list) and found and isinstance(found[0], dict) else None

    with pytest.raises(DataError, match=problem) as error:
        read_lighteval(changed(tmp_path, "tiny_choice", as_list))
    assert "details_tiny_choice" in str(error.value)


def test_two_runs_of_a_task_are_refused(tmp_path: Path) -> None:
    for date in ("2025-01-01T00-00-00.000001", "2025-01-02T00-00-00.000001"):
        shutil.copy(next(RUN.glob("details_tiny_choice*")), tmp_path / f"details_tiny_choice-0_{date}.parquet")
    with pytest.raises(DataError, match=r"several runs of tiny_choice\|0"):
        read_lighteval(tmp_path)
