from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.recipes import file_hash
from lorascope.errors import ConfigError, DataError, LorascopeError
from lorascope.schema.items import GenerateItem, LabelsItem, LikelihoodItem, ScoreItem, TokensItem
from lorascope.schema.recipe import Recipe
from lorascope.workflows.training_data import LoadedData, load_training_data, sizes


def lines(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return name


def recipe(kind: str, *, task: dict[str, Any] | None = None, **blocks: Any) -> Recipe:
    plain = {"version": 1, "base": "b", "out": "o", "task": {"kind": kind, "train": "train.jsonl", **(task or {})}}
    return Recipe.model_validate({**plain, **blocks})


def load(folder: Path, kind: str, task: dict[str, Any] | None = None, **blocks: Any) -> LoadedData:
    return load_training_data(recipe(kind, task=task, **blocks), folder)


def fails(folder: Path, kind: str, task: dict[str, Any] | None = None, **blocks: Any) -> LorascopeError:
    with pytest.raises((ConfigError, DataError)) as caught:
        load(folder, kind, task, **blocks)
    assert caught.value.where
    assert caught.value.remedy
    return caught.value


def labelled(*names: str, start: str = "text") -> list[dict[str, Any]]:
    return [{"text": f"{start} {place}", "label": name} for place, name in enumerate(names)]


def several(*names: list[str]) -> list[dict[str, Any]]:
    return [{"text": f"text {place}", "labels": name} for place, name in enumerate(names)]


def test_the_forms_of_a_suite(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", [{"instruction": "Add", "input": "1 1", "output": "2"}])
    lines(
        tmp_path, "v.jsonl", [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]
    )
    loaded = load(tmp_path, "generate", {"validation": {"v": "v.jsonl"}})
    item, asked = loaded.data.train[0], loaded.data.validation["v"][0]
    assert isinstance(item, GenerateItem)
    assert (item.prompt, item.references, item.split) == ("Add\n1 1", ("2",), "train")
    assert isinstance(asked, GenerateItem)
    assert asked.messages == ({"role": "user", "content": "Hi"},)
    assert asked.split == "v"
    assert loaded.notes == ()
    assert loaded.files == {str(tmp_path / name): file_hash(tmp_path / name) for name in ("train.jsonl", "v.jsonl")}


def test_templates_and_chat(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", [{"q": "Why?", "a": "So."}])
    task = {"prompt": "Q: {q}", "references": "a", "chat": True, "system": "Be brief."}
    item = load(tmp_path, "generate", task).data.train[0]
    assert isinstance(item, GenerateItem)
    assert item.prompt is None
    assert [turn["content"] for turn in item.messages or ()] == ["Be brief.", "Q: Why?"]


def test_labels_are_those_of_all_training_items(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", labelled("b", "a", "c", "a"))
    lines(tmp_path, "v.jsonl", labelled("c", start="other"))
    loaded = load(tmp_path, "labels", {"validation": "v.jsonl", "limit": 1})
    assert loaded.data.labels == ("a", "b", "c")
    assert not loaded.data.multi_label
    assert len(loaded.data.train) == 1
    assert loaded.train_total == 4
    assert "training: 1 of 4 items, drawn with seed 0" in loaded.notes
    assert any("2 of 3 labels have no training item" in note for note in loaded.notes)
    assert sizes(loaded) == {
        "training items": 1, "validation 'validation'": 1, "labels": 3, "replay items": None, "replay prompts": None,
        "items for elastic weights": None,
    }  # fmt: skip


def test_labels_that_validation_alone_has(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", labelled("sport", "art"))
    lines(tmp_path, "v.jsonl", labelled("art", "sprot", "law"))
    error = fails(tmp_path, "labels", {"validation": {"val1": "v.jsonl"}})
    assert "'val1' has 2 labels that no training item has: law, sprot" in error.problem
    assert (error.where or "").endswith("v.jsonl, line 2")
    assert "did you mean 'sport'?" in (error.remedy or "")
    listed = {"validation": {"val1": "v.jsonl"}, "labels": ["art", "sport", "sprot", "law", "x"]}
    loaded = load(tmp_path, "labels", listed)
    assert loaded.data.labels == ("art", "sport", "sprot", "law", "x")
    assert "3 of 5 labels have no training item: sprot, law, x" in loaded.notes
    assert "validation 'val1' has labels without a training item: law, sprot" in loaded.notes


@pytest.mark.parametrize(
    ("rows", "task", "problem"),
    [
        (labelled("a", "a"), {}, "the task has 1 label;"),
        (several([], []), {}, "the task has 0 labels;"),
        (labelled("a", "b"), {"labels": ["a", "b", "a"]}, "names a label twice"),
        (labelled("a", "b"), {"labels": []}, "0 labels"),
        (labelled("a", "b"), {"labels": ["a", "c"]}, "the label 'b' is not among"),
        ([{"text": "t", "label": 1}, {"text": "u", "label": 0}], {}, "class number 1"),
        ([*labelled("a"), *several(["a", "b"])], {}, "the items before this one have one label"),
        ([*several(["a", "b"]), *labelled("a")], {}, "the items before this one have a list of labels"),
        (several(["a", "b"]), {"multi_label": False}, "one label per item has 2"),
        ([{"text": "t"}], {}, "no labels"),
        ([{"text": " ", "label": "a"}], {}, "is empty"),
        (labelled("a"), {"messages": [{"role": "user", "content": "x"}]}, "take no 'messages'"),
        (labelled("a"), {"chat": True}, "'chat' belongs to"),
        (labelled("a"), {"prompt": "{tex}"}, "'tex'"),
    ],
)
def test_labels_that_cannot_be_used(
    tmp_path: Path, rows: list[dict[str, Any]], task: dict[str, Any], problem: str
) -> None:
    lines(tmp_path, "train.jsonl", rows)
    assert problem in fails(tmp_path, "labels", task).problem


def test_remedies_speak_of_recipes(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", [{"text": "t", "label": 1}])
    remedy = fails(tmp_path, "labels").remedy or ""
    assert "under 'task' in the recipe" in remedy
    assert "suite" not in remedy


def test_several_labels_an_item(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", several(["b", "a"], [], ["c"]))
    loaded = load(tmp_path, "labels")
    assert loaded.data.multi_label
    assert loaded.data.labels == ("a", "b", "c")
    assert isinstance(loaded.data.train[1], LabelsItem)
    assert loaded.data.train[1].labels == ()


def test_mixed_forms_across_sets(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", several(["a"], ["b", "a"]))
    lines(tmp_path, "v.jsonl", labelled("a"))
    error = fails(tmp_path, "labels", {"validation": "v.jsonl"})
    assert (error.where or "").endswith("v.jsonl, line 1")


def test_numbers_with_a_list_of_labels(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", [{"text": "t", "label": 1}, {"text": "u", "label": 0}])
    item = load(tmp_path, "labels", {"labels": ["no", "yes"]}).data.train[0]
    assert isinstance(item, LabelsItem)
    assert item.labels == ("yes",)


def test_scores(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", [{"text": "t", "text_pair": "u", "label": 1.5}])
    item = load(tmp_path, "score").data.train[0]
    assert isinstance(item, ScoreItem)
    assert (item.text_pair, item.score) == ("u", 1.5)
    assert load(tmp_path, "score").data.labels == ()


def test_tags(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", [{"tokens": ["Ann", "ran"], "tags": ["B-PER", "O"]}])
    loaded = load(tmp_path, "tokens")
    assert isinstance(loaded.data.train[0], TokensItem)
    assert loaded.data.labels == ("B-PER", "O")
    assert loaded.notes == ()
    lines(tmp_path, "v.jsonl", [{"tokens": ["Rome"], "tags": ["B-LOC"]}])
    assert "B-LOC" in fails(tmp_path, "tokens", {"validation": "v.jsonl"}).problem
    lines(tmp_path, "train.jsonl", [{"tokens": ["Ann", "ran"], "tags": ["NOUN", "VERB"]}])
    assert any("no IOB tags" in note for note in load(tmp_path, "tokens").notes)


def test_samples_lie_within_one_another_and_validation_is_the_same_for_every_seed(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", labelled(*"abcdefghij" * 4))
    lines(tmp_path, "v.jsonl", labelled(*"abcdefghij" * 4, start="other"))
    task = {"validation": "v.jsonl", "validation_limit": 7}

    def drawn(seed: int, **more: Any) -> tuple[set[str], list[str]]:
        data = load(tmp_path, "labels", {**task, **more}, seed=seed).data
        return {item.item_id for item in data.train}, [item.item_id for item in data.validation["validation"]]

    small, large, other = drawn(1, fraction=0.2), drawn(1, fraction=0.5), drawn(2, fraction=0.2)
    assert len(small[0]) == 8
    assert small[0] < large[0]
    assert small[0] != other[0]
    assert small[1] == large[1] == other[1]
    assert len(small[1]) == 7


def test_leaks_are_counted(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", labelled("a", "b", "a", "b"))
    lines(tmp_path, "v.jsonl", [*labelled("a", "b"), *labelled("a", "b", start="other")])
    notes = load(tmp_path, "labels", {"validation": {"v": "v.jsonl"}}).notes
    assert notes == (
        "warning: 2 of 4 items of validation 'v' (50.0%) are training items, word for word; what is measured on them "
        "is memory",
    )


def test_weights_follow_their_items(tmp_path: Path) -> None:
    rows = [{**row, "w": place} for place, row in enumerate(labelled(*"abababab"))]
    lines(tmp_path, "train.jsonl", [*rows, rows[3] | {"w": 99}])
    loss = {"sample_weights": "w"}
    assert load(tmp_path, "labels", loss=loss).data.weights == (0, 1, 2, 3, 4, 5, 6, 7, 99)
    data = load(tmp_path, "labels", {"limit": 3}, loss=loss).data
    by_text = {row["text"]: {float(row["w"])} for row in rows}
    by_text[rows[3]["text"]].add(99.0)
    assert data.weights is not None
    assert len(data.weights) == 3
    for item, weight in zip(data.train, data.weights, strict=True):
        assert isinstance(item, LabelsItem)
        assert weight in by_text[item.text]


@pytest.mark.parametrize(
    ("weights", "problem", "line"),
    [
        ([1, -0.5], "-0.5, below 0", 2),
        ([1, float("nan")], "finite", 2),
        (["1", 1], "must be a number", 1),
        ([1, None], "must be a number", 2),
        ([0, 0.0], "all weights", 0),
    ],
)
def test_weights_that_are_none(tmp_path: Path, weights: list[Any], problem: str, line: int) -> None:
    rows = [{**row, "w": weight} for row, weight in zip(labelled("a", "b"), weights, strict=True)]
    lines(tmp_path, "train.jsonl", rows)
    with pytest.raises(DataError, match=problem) as caught:
        load(tmp_path, "labels", loss={"sample_weights": "w"})
    assert line == 0 or (caught.value.where or "").endswith(f"line {line}")


QA = [{"prompt": "Q1", "reference": "A1"}]


def test_replay_of_questions_and_of_text(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", QA)
    lines(tmp_path, "text.jsonl", [{"text": "Once."}, {"text": "Twice."}])
    lines(tmp_path, "asked.jsonl", [{"instruction": "Say", "output": "So"}])
    text = load(tmp_path, "generate", replay={"data": "text.jsonl"}).data.replay
    assert [type(item) for item in text] == [LikelihoodItem, LikelihoodItem]
    asked = load(tmp_path, "generate", {"chat": True}, replay={"data": "asked.jsonl"}).data.replay
    assert isinstance(asked[0], GenerateItem)
    assert asked[0].messages == ({"role": "user", "content": "Say"},)


def test_replay_by_the_templates_of_the_task(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", [{"q": "1", "a": "2"}])
    lines(tmp_path, "general.jsonl", [{"q": "3", "a": "4"}])
    task = {"prompt": "Q: {q}", "references": "a"}
    replay = load(tmp_path, "generate", task, replay={"data": "general.jsonl"}).data.replay
    assert isinstance(replay[0], GenerateItem)
    assert (replay[0].prompt, replay[0].references) == ("Q: 3", ("4",))


def test_replay_that_teaches_no_text(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", QA)
    lines(tmp_path, "general.jsonl", labelled("a"))
    assert "of kind labels" in fails(tmp_path, "generate", replay={"data": "general.jsonl"}).problem
    lines(tmp_path, "general.jsonl", [{"x": 1}])
    error = fails(tmp_path, "generate", replay={"data": "general.jsonl"})
    assert "no known form" in error.problem
    assert "plain 'text'" in (error.remedy or "")


def test_prompts_for_texts_that_the_base_writes(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", QA)
    rows = [{"prompt": "Tell"}, {"instruction": "Sum", "input": "1 2"}, {"text": "Once"}, {"question": "Why?"}]
    lines(tmp_path, "p.jsonl", rows)
    loaded = load(tmp_path, "generate", replay={"prompts": "p.jsonl"})
    prompts = [item for item in loaded.data.prompts if isinstance(item, GenerateItem)]
    assert [item.prompt for item in prompts] == ["Tell", "Sum\n1 2", "Once", "Why?"]
    assert all(item.references == () for item in prompts)
    assert str(tmp_path / "p.jsonl") in loaded.files
    lines(tmp_path, "p.jsonl", [{"x": "Tell"}])
    assert "no prompt" in fails(tmp_path, "generate", replay={"prompts": "p.jsonl"}).problem


def test_general_items_of_elastic_weights(tmp_path: Path) -> None:
    lines(tmp_path, "train.jsonl", QA)
    lines(tmp_path, "text.jsonl", [{"text": f"Text {place}."} for place in range(9)])
    ewc = {"weight": 10, "data": "text.jsonl", "items": 4}
    assert len(load(tmp_path, "generate", optim={"ewc": ewc}).data.general) == 4
    lines(tmp_path, "train.jsonl", labelled("a", "b"))
    lines(tmp_path, "text.jsonl", labelled("b", "a", "b", start="other"))
    general = load(tmp_path, "labels", optim={"ewc": ewc}).data.general
    assert [type(item) for item in general] == [LabelsItem] * 3


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    assert "train.jsonl" in str(fails(tmp_path, "labels"))
    (tmp_path / "train.jsonl").write_text('{"text": "t", "label": "a"}\n{"text": \n', encoding="utf-8")
    assert (fails(tmp_path, "labels").where or "").endswith("line 2")


def test_a_missing_file_is_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    assert "relative to the recipe" in (fails(tmp_path, "labels").remedy or "")


@pytest.mark.parametrize(("task", "field"), [({}, "'reference'"), ({"references": "answer"}, "'answer'")])
def test_a_prompt_without_a_reference_is_said_to_lack_it(tmp_path: Path, task: dict[str, Any], field: str) -> None:
    lines(tmp_path, "train.jsonl", [{"prompt": "x"}])
    error = fails(tmp_path, "generate", task)
    assert "no reference" in error.problem
    assert field in (error.remedy or "")
    assert (error.where or "").endswith("line 1")


@pytest.mark.parametrize(("prompt", "same"), [("Answer:", True), ("{{q}}", True), ("{q}", False), ("A {q[0]}", False)])
def test_a_prompt_that_is_the_same_for_all_is_noted(tmp_path: Path, prompt: str, same: bool) -> None:
    lines(tmp_path, "train.jsonl", [{"q": "x", "reference": "1"}, {"q": "y", "reference": "2"}])
    notes = load(tmp_path, "generate", {"prompt": prompt}).notes
    assert any("every item gets the same prompt" in note for note in notes) is same
