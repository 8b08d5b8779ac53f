"""Samples that lm-evaluation-harness wrote: what is read of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.imported.lm_eval import read_lm_eval
from lorascope.errors import DataError
from lorascope.schema.items import ChoiceAnswer, ChoiceItem, GenerateAnswer, GenerateItem, LikelihoodAnswer

RUN = Path(__file__).parent / "fixtures" / "imported" / "lm-eval" / "base"
Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def copy(target: Path, task: str, change: Change = lambda rows: rows, *, results: bool = True) -> Path:
    """One task's samples in a folder of their own, changed; with the results of the same date."""
    [samples] = RUN.glob(f"samples_{task}_*.jsonl")
    target.mkdir(parents=True, exist_ok=True)
    rows = change([json.loads(line) for line in samples.read_text("utf-8").splitlines()])
    (target / samples.name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if results:
        shutil.copy(next(RUN.glob("results_*.json")), target)
    return target / samples.name


def test_a_run_gives_all_its_tasks_and_what_is_known_of_the_model() -> None:
    run = read_lm_eval(RUN)
    kinds = {name: task.kind for name, task in run.tasks.items()}
    assert kinds == {
        "tiny_choice": "choice",
        "tiny_generate-whole": "generate",
        "tiny_generate-first-word": "generate",
        "tiny_rolling": "likelihood",
    }
    assert (run.dtype, run.parameters, run.left_out, run.notes) == ("float32", 38048, {}, ())
    assert {file.suffix for file in run.files} == {".json", ".jsonl"}
    assert run.tasks["tiny_choice"].settings["few-shot examples"].strictness == "refuse"


def test_choices_stand_without_the_delimiter_and_with_their_log_probabilities() -> None:
    one = read_lm_eval(RUN).tasks["tiny_choice"].items[1]
    assert isinstance(one.item, ChoiceItem)
    assert isinstance(one.answer, ChoiceAnswer)
    assert one.item.context == "Question: What freezes at 0 °C?\nAnswer:"
    assert one.item.choices == ("iron", "water", "salt")
    assert one.item.answer == 1
    assert len(one.answer.logprobs) == 3
    assert max(one.answer.logprobs) < 0
    assert set(one.scores) == {"acc", "acc_norm", "exact_match"}
    assert one.place.endswith(".jsonl, line 2")


def test_the_directions_are_those_that_the_results_name() -> None:
    metrics = read_lm_eval(RUN).tasks
    assert metrics["tiny_choice"].metrics["acc"].direction == "higher"
    assert metrics["tiny_rolling"].metrics["word_perplexity"].direction == "lower"
    assert metrics["tiny_rolling"].metrics["word_perplexity"].form == "exp"


def test_each_filter_is_a_task_of_its_own_or_the_one_that_was_chosen() -> None:
    both = read_lm_eval(RUN)
    whole, first = both.tasks["tiny_generate-whole"], both.tasks["tiny_generate-first-word"]
    said = [
        [one.answer.text for one in task.items if isinstance(one.answer, GenerateAnswer)] for task in (whole, first)
    ]
    assert said[0] != said[1]
    assert {one.key for one in whole.items} == {one.key for one in first.items}
    chosen = read_lm_eval(RUN, filter_name="first-word").tasks
    assert set(chosen) == {"tiny_choice", "tiny_generate", "tiny_rolling"}
    assert chosen["tiny_generate"].items == first.items
    with pytest.raises(DataError, match="no filter named 'strict'") as error:
        read_lm_eval(RUN, filter_name="strict")
    assert "whole, first-word" in str(error.value)


def test_running_text_has_bits_of_its_bytes_and_no_perplexity_per_token() -> None:
    task = read_lm_eval(RUN).tasks["tiny_rolling"]
    one = task.items[4]
    assert task.usable == ("bits_per_byte",)
    assert isinstance(one.answer, LikelihoodAnswer)
    assert one.answer.bytes == len("法国的首都是哪里？".encode())
    assert one.scores["word_perplexity"][1] == 1


def test_tasks_can_be_chosen() -> None:
    assert set(read_lm_eval(RUN, tasks=("tiny_choice",)).tasks) == {"tiny_choice"}
    with pytest.raises(DataError, match="no task named 'tiny'") as error:
        read_lm_eval(RUN, tasks=("tiny",))
    assert "tiny_choice, tiny_generate, tiny_rolling" in str(error.value)


def test_without_results_the_samples_are_read_and_it_is_said(tmp_path: Path) -> None:
    run = read_lm_eval(copy(tmp_path, "tiny_choice", results=False))
    assert run.tasks["tiny_choice"].items == tuple(
        type(one)(key=one.key, item=one.item, answer=one.answer, scores=one.scores, place=place.place)
        for one, place in zip(read_lm_eval(RUN).tasks["tiny_choice"].items, run.tasks["tiny_choice"].items, strict=True)
    )
    assert run.tasks["tiny_choice"].metrics["acc"].direction == "none"
    assert set(run.tasks["tiny_choice"].settings) == {"filter"}
    assert any("no results file" in note for note in run.notes)
    assert any("delimiter" in note for note in run.notes)


def test_a_target_may_be_the_text_of_a_choice(tmp_path: Path) -> None:
    def by_text(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"target": row["doc"]["choices"][row["doc"]["answer"]]} for row in rows]

    expected = [
        one.item.answer for one in read_lm_eval(RUN).tasks["tiny_choice"].items if isinstance(one.item, ChoiceItem)
    ]
    items = read_lm_eval(copy(tmp_path, "tiny_choice", by_text)).tasks["tiny_choice"].items
    assert [one.item.answer for one in items if isinstance(one.item, ChoiceItem)] == expected


def test_a_number_that_is_index_and_choice_is_decided_by_the_recorded_accuracy(tmp_path: Path) -> None:
    """Target "2" of the choices 1, 2, 3: the index of 3, or the text at index 1. The recorded acc knows."""

    def numbers(right: int) -> Change:
        def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            row = rows[0]
            arguments = {f"gen_args_{i}": {"arg_0": "Pick:", "arg_1": f" {i + 1}"} for i in range(3)}
            said = [["-1.0" if i == right else "-9.0", "False"] for i in range(3)]
            return [row | {"target": "2", "arguments": arguments, "filtered_resps": said, "acc": 1.0}]

        return change

    for right in (1, 2):
        [one] = read_lm_eval(copy(tmp_path / str(right), "tiny_choice", numbers(right))).tasks["tiny_choice"].items
        assert isinstance(one.item, ChoiceItem)
        assert one.item.answer == right


def digits(rows: list[dict[str, Any]], *, twice: bool, acc: str | None = "text") -> list[dict[str, Any]]:
    """Choices "1", "2", "0", and in one row "1", "1", "0"; targets are texts, as ``acc`` tells."""
    changed = []
    for place, row in enumerate(rows):
        texts = ["1", "1", "0"] if twice and place == 5 else ["1", "2", "0"]
        target = texts[place % 3]
        arguments = {f"gen_args_{i}": {"arg_0": f"Pick {place}:", "arg_1": f" {text}"} for i, text in enumerate(texts)}
        said = [[str(-1.0 - (i - place) % 3), "False"] for i in range(3)]
        gold = texts.index(target) if acc == "text" else int(target)
        values = [float(value) for value, _ in said]
        best = values.index(max(values))
        found = row | {"target": target, "arguments": arguments, "filtered_resps": said, "metrics": ["acc"]}
        found |= {"acc": float(best == gold)}
        if acc is None:
            found = {name: value for name, value in found.items() if name != "acc"} | {"metrics": []}
        changed.append(found)
    return changed


def test_choices_that_stand_twice_do_not_turn_texts_into_numbers(tmp_path: Path) -> None:
    """As numbers, all targets would be read as well, and all of them wrongly."""
    for twice in (False, True):
        file = copy(tmp_path / str(twice), "tiny_choice", partial(digits, twice=twice))
        items = read_lm_eval(file).tasks["tiny_choice"].items
        golds = [one.item.answer for one in items if isinstance(one.item, ChoiceItem)]
        assert golds == [place % 3 for place in range(10)]


def test_a_reading_alone_is_held_against_the_recorded_accuracy(tmp_path: Path) -> None:
    def wrong(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*rows[:4], rows[4] | {"acc": 1.0 - rows[4]["acc"]}, *rows[5:]]

    left = read_lm_eval(copy(tmp_path / "a", "tiny_choice", wrong)).left_out
    assert "fits no reading of its targets" in left["tiny_choice"]

    left = read_lm_eval(copy(tmp_path / "b", "tiny_choice", partial(digits, twice=False, acc=None))).left_out
    assert "no accuracy is recorded that tells which" in left["tiny_choice"]


@pytest.mark.parametrize(("name", "value"), [("acc", 10**400), ("target", "1" * 5000)])
def test_numbers_that_nothing_holds_are_no_crash(tmp_path: Path, name: str, value: Any) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [rows[0] | {name: value}, *rows[1:]]

    file = copy(tmp_path, "tiny_choice", change)
    if name == "target":
        assert "tiny_choice" in read_lm_eval(file).left_out
        return
    with pytest.raises(DataError, match="too large to be a score") as error:
        read_lm_eval(file)
    assert "line 1" in str(error.value)


def test_results_that_are_no_document_are_refused(tmp_path: Path) -> None:
    file = copy(tmp_path, "tiny_choice")
    [results] = tmp_path.glob("results_*")
    broken = {
        "[" * 100_000: "nested too deeply",
        "[]": "no JSON object",
        '{"a": "\\ud83d"}': "half a character",
        '{"a": ' + "1" * 5000 + "}": "is not read",
    }
    for text, problem in broken.items():
        results.write_text(text)
        with pytest.raises(DataError, match=problem) as error:
            read_lm_eval(file)
        assert "results_" in str(error.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: [row | {"target": "[0, 1]"} for row in rows], "several right choices"),
        (lambda rows: [_contexts(row) for row in rows], "choices are contexts"),
    ],
)
def test_tasks_whose_right_answer_is_not_known_are_left_out(tmp_path: Path, change: Change, reason: str) -> None:
    run = read_lm_eval(copy(tmp_path, "tiny_choice", change))
    assert run.tasks == {}
    assert reason in run.left_out["tiny_choice"]


def _contexts(row: dict[str, Any]) -> dict[str, Any]:
    arguments = {name: {"arg_0": value["arg_1"], "arg_1": " end"} for name, value in row["arguments"].items()}
    return row | {"arguments": arguments}


def test_lists_of_targets_are_references_each_and_it_is_said(tmp_path: Path) -> None:
    run = read_lm_eval(
        copy(tmp_path, "tiny_generate", lambda rows: [rows[0] | {"target": "['Paris', 'the city']"}, *rows[1:]]),
        filter_name="whole",
    )
    first = run.tasks["tiny_generate"].items[0].item
    assert isinstance(first, GenerateItem)
    assert first.references == ("Paris", "the city")
    assert any("1 targets are lists" in note for note in run.notes)


def test_repeats_are_several_answers_to_one_item(tmp_path: Path) -> None:
    rows = copy(tmp_path, "tiny_generate", lambda rows: [row | {"filtered_resps": [["a", "b"]]} for row in rows])
    one = read_lm_eval(rows, filter_name="whole").tasks["tiny_generate"].items[0]
    assert isinstance(one.answer, GenerateAnswer)
    assert (one.answer.text, one.answer.others) == ("a", ("b",))


def test_the_lists_of_early_versions_are_read_too(tmp_path: Path) -> None:
    def early(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            row["arguments"] = [list(one.values()) for one in row["arguments"].values()]
            row["filtered_resps"] = [[float(value), said == "True"] for value, said in row["filtered_resps"]]
            del row["filter"], row["metrics"]
        return rows

    now = read_lm_eval(RUN).tasks["tiny_choice"].items
    then = read_lm_eval(copy(tmp_path, "tiny_choice", early)).tasks["tiny_choice"].items
    assert [(one.key, one.item, one.answer) for one in now] == [(one.key, one.item, one.answer) for one in then]
    assert then[0].scores == now[0].scores


def test_two_runs_of_a_task_in_one_folder_are_refused(tmp_path: Path) -> None:
    file = copy(tmp_path, "tiny_choice")
    shutil.copy(file, file.with_name("samples_tiny_choice_2025-01-01T00-00-00.000001.jsonl"))
    with pytest.raises(DataError, match="several runs of tiny_choice"):
        read_lm_eval(tmp_path)
    assert set(read_lm_eval(file).tasks) == {"tiny_choice"}


def test_a_file_that_two_runs_were_appended_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="doc_id 0 stands twice") as error:
        read_lm_eval(copy(tmp_path, "tiny_choice", lambda rows: rows + rows))
    assert "line 11 (first: " in str(error.value)


def test_one_document_twice_in_the_data_pairs_by_its_number(tmp_path: Path) -> None:
    def doubled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*rows, rows[0] | {"doc_id": 10}]

    items = read_lm_eval(copy(tmp_path, "tiny_choice", doubled)).tasks["tiny_choice"].items
    assert items[10].key == f"{items[0].key}#2"
    assert items[10].item.item_id == f"{items[0].item.item_id}#2"


def test_broken_files_are_named_with_their_line(tmp_path: Path) -> None:
    file = copy(tmp_path, "tiny_choice")
    file.write_text(file.read_text("utf-8")[:-40], "utf-8")
    with pytest.raises(DataError, match="broken JSON") as error:
        read_lm_eval(file)
    assert "line 10" in str(error.value)
    [results] = tmp_path.glob("results_*")
    results.write_text(results.read_text("utf-8")[:200], "utf-8")
    shutil.copy(next(RUN.glob("samples_tiny_choice*")), file)
    with pytest.raises(DataError, match="broken JSON") as error:
        read_lm_eval(file)
    assert "results_" in str(error.value)
    file.write_text("", "utf-8")
    with pytest.raises(DataError, match="the file is empty"):
        read_lm_eval(file)
    with pytest.raises(DataError, match="no such file"):
        read_lm_eval(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row: row.pop("filtered_resps"), "lacks filtered_resps"),
        (lambda row: row["filtered_resps"].pop(), "a choice has no log-probability"),
        (lambda row: row["filtered_resps"].__setitem__(0, ["-inf", "False"]), "no finite log-probability"),
        (lambda row: row.__setitem__("arguments", {}), "no arguments"),
    ],
)
def test_a_damaged_sample_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], Any], problem: str) -> None:
    def damage(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        change(rows[3])
        return rows

    with pytest.raises(DataError, match=problem) as error:
        read_lm_eval(copy(tmp_path, "tiny_choice", damage))
    assert "line 4" in str(error.value)


def test_another_tools_file_is_told_from_a_broken_one(tmp_path: Path) -> None:
    file = tmp_path / "generated_predictions.jsonl"
    file.write_text('{"prompt": "a", "predict": "b", "label": "c"}\n')
    with pytest.raises(DataError, match="no file of lm-eval") as error:
        read_lm_eval(file)
    assert "lorascope import llamafactory" in str(error.value)
