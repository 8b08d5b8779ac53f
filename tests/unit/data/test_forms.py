from __future__ import annotations

from typing import Any

import pytest

from lorascope.data.forms import infer_kind, items_of
from lorascope.data.readers import Row
from lorascope.errors import ConfigError, DataError
from lorascope.schema.items import (
    ChoiceItem,
    GenerateItem,
    Item,
    LabelsItem,
    LikelihoodItem,
    ScoreItem,
    TokensItem,
    content_id,
)
from lorascope.schema.suite import SuiteTask

QUESTION = {"question": "2 + 2?", "choices": ["3", "4", "5"], "answer": 1}


def rows(*records: dict[str, Any], untyped: bool = False) -> list[Row]:
    return [Row(record, f"a.jsonl, line {number}", untyped) for number, record in enumerate(records, start=1)]


def task(kind: str, **more: Any) -> SuiteTask:
    return SuiteTask.model_validate({"name": "t", "kind": kind, "data": "a.jsonl", **more})


def one(record: dict[str, Any], kind: str, *, untyped: bool = False, **more: Any) -> Any:
    (item,) = items_of(rows(record, untyped=untyped), task(kind, **more), split=None)
    return item


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"prompt": "a", "reference": "b"}, "generate"),
        ({"prompt": "a", "references": ["b", "c"], "id": 3, "extra": None}, "generate"),
        ({"instruction": "a", "input": "", "output": "b"}, "generate"),
        ({"messages": []}, "generate"),
        ({"conversations": []}, "generate"),
        ({"text": "a", "labels": []}, "labels"),
        ({"text": "a", "text_pair": "b", "label": "x"}, "labels"),
        ({"text": "a", "label": 0}, "score"),
        ({"text": "a", "label": 2.5}, "score"),
        ({"tokens": ["a"], "tags": ["O"]}, "tokens"),
        (QUESTION, "choice"),
        ({"text": "a"}, "likelihood"),
    ],
)
def test_the_kind_is_read_from_the_names_of_the_fields(record: dict[str, Any], kind: str) -> None:
    assert infer_kind(rows(record, record)) == kind


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"query": "a", "answer": "b"},
        {"prompt": "a"},
        {"prompt": "a", "reference": "b", "instruction": "c", "output": "d"},
        {"prompt": "a", "reference": "b", "text": "c"},
        {"text": "a", "labels": ["x"], "label": "x"},
        {"text": "a", "label": True},
        {"text": "a", "label": None},
        {"text": "a", "label": ["x"]},
    ],
)
def test_what_fits_no_form_or_several_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        infer_kind(rows(record))
    assert caught.value.where == "a.jsonl, line 1"
    assert "suite" in (caught.value.remedy or "")


def test_numbers_in_csv_could_be_classes_or_scores() -> None:
    with pytest.raises(DataError, match="class or a score"):
        infer_kind(rows({"text": "a", "label": "1"}, untyped=True))
    assert infer_kind(rows({"text": "a", "label": "spam"}, untyped=True)) == "labels"
    assert infer_kind(rows({"text": "a", "label": "1"})) == "labels"


@pytest.mark.parametrize(
    "changed", [{"prompt": "a", "reference": "b"}, {"text": "a", "label": 1}, {"text": "a", "labels": ["x"]}]
)
def test_a_file_that_changes_form_is_refused_at_that_line(changed: dict[str, Any]) -> None:
    label = {"text": "a", "label": "x"}
    with pytest.raises(DataError, match="changes") as caught:
        infer_kind(rows(label, label, changed))
    assert caught.value.where == "a.jsonl, line 3"
    prompt, alpaca = {"prompt": "a", "reference": "b"}, {"instruction": "a", "output": "b"}
    with pytest.raises(DataError, match="changes") as caught:
        items_of(rows(prompt, alpaca), task("generate"), split=None)
    assert caught.value.where == "a.jsonl, line 2"


def test_prompts_and_references() -> None:
    item = one({"prompt": "a", "references": ["b", 4], "group": 7, "category": "x", "id": "mine"}, "generate")
    content = {"kind": "generate", "prompt": "a", "messages": None, "references": ["b", "4"]}
    assert item == GenerateItem(item_id=content_id(content), prompt="a", references=("b", "4"), group="7", category="x")
    assert one({"prompt": "a", "answer": 42}, "generate", references="answer").references == ("42",)
    assert one({"q": "a", "gold": ["b"]}, "generate", prompt="Q: {q}", references="gold").prompt == "Q: a"
    chat = one({"q": "a", "reference": "b"}, "generate", messages=[{"role": "user", "content": "{q}!"}])
    assert (chat.prompt, chat.messages) == (None, ({"role": "user", "content": "a!"},))


def test_alpaca_records() -> None:
    assert one({"instruction": "Add.", "input": "1 2", "output": "3"}, "generate").prompt == "Add.\n1 2"
    assert one({"instruction": "Add.", "input": "", "output": "3"}, "generate").prompt == "Add."
    with pytest.raises(DataError, match="history"):
        one({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "generate")
    assert one({"instruction": "a", "output": "b", "history": []}, "generate").references == ("b",)


def test_conversations_end_with_the_reference() -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "u2"},
        {"role": "assistant", "content": "a2"},
        {"role": "user", "content": "left out"},
    ]
    item = one({"messages": turns}, "generate")
    assert (item.messages, item.references, item.prompt) == (tuple(turns[:4]), ("a2",), None)
    shared = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]
    item = one({"conversations": shared, "system": "s"}, "generate")
    assert item.messages == ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    assert item.references == ("a",)
    item = one({"messages": turns[:2], "gold": "x"}, "generate", references="gold")
    assert (item.messages, item.references) == (tuple(turns[:2]), ("x",))


@pytest.mark.parametrize(
    "turns",
    [
        [],
        "text",
        [{"role": "user", "content": "u"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "u"}, {"role": "assistant", "content": " "}],
        [{"role": "narrator", "content": "u"}, {"role": "assistant", "content": "a"}],
        [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "a"}],
        ["hello", "there"],
    ],
)
def test_conversations_that_cannot_be_used(turns: Any) -> None:
    with pytest.raises(DataError) as caught:
        one({"messages": turns}, "generate")
    assert caught.value.where == "a.jsonl, line 1"


def test_labels() -> None:
    multi = one({"text": "a", "labels": ["x", "y", "x"]}, "labels")
    assert (multi.labels, multi.multi) == (("x", "y"), True)
    assert one({"text": "a", "labels": []}, "labels").labels == ()
    single = one({"text": "a", "text_pair": "b", "label": "x"}, "labels")
    assert (single.labels, single.multi, single.text_pair) == (("x",), False, "b")
    assert one({"text": "a", "label": 1}, "labels", labels=["no", "yes"]).labels == ("yes",)
    assert one({"text": "a", "mood": ["x"]}, "labels", references="mood").multi is True
    assert one({"text": "a", "labels": ["x"]}, "labels", multi_label=False).multi is False
    assert one({"text": "a", "labels": '["x", "y"]'}, "labels", untyped=True).labels == ("x", "y")
    assert one({"title": "t", "label": "x"}, "labels", prompt="About {title}").text == "About t"


@pytest.mark.parametrize(
    ("record", "more", "problem"),
    [
        ({"text": "a", "labels": "x"}, {}, "must be a list"),
        ({"text": "a", "labels": [1, 0]}, {}, "class number 1"),
        ({"text": "a", "label": 2}, {"labels": ["no", "yes"]}, "outside of the 2 labels"),
        ({"text": "a", "label": "z"}, {"labels": ["no", "yes"]}, "'z' is not among"),
        ({"text": "a", "label": True}, {}, "class name"),
        ({"text": "a", "labels": ["x", "y"]}, {"multi_label": False}, "one label per item has 2"),
        ({"text": "a"}, {}, "has no labels: the field 'label' is missing, and its fields are text"),
        ({"text": " ", "label": "x"}, {}, "'text' is empty"),
        ({"text": 3, "label": "x"}, {}, "'text' must be text"),
        ({"label": "x"}, {}, "'text' is missing"),
    ],
)
def test_labels_that_cannot_be_used(record: dict[str, Any], more: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        one(record, "labels", **more)
    assert caught.value.where == "a.jsonl, line 1"


@pytest.mark.parametrize(
    ("record", "known", "remedy"),
    [
        ({"text": "a", "labels": ["printng"]}, ["server", "printing"], "did you mean 'printing'?"),
        ({"text": "a", "labels": ["zzz"]}, [f"l{n}" for n in range(91)], "l10, l11 and 79 more"),
        ({"text": "a", "label": 3}, ["no", "yes"], "count from 0; the labels are no, yes"),
        ({"text": "a", "labels": "x"}, None, '"labels": ["first", "second"]'),
        ({"text": "a"}, None, "'labels' (a list)"),
    ],
)
def test_what_to_do_about_wrong_labels(record: dict[str, Any], known: list[str] | None, remedy: str) -> None:
    with pytest.raises(DataError) as caught:
        one(record, "labels", labels=known)
    assert remedy in (caught.value.remedy or "")


def test_scores() -> None:
    assert one({"text": "a", "text_pair": "b", "label": 3}, "score").score == 3.0
    assert one({"text": "a", "label": "3.5"}, "score", untyped=True).score == 3.5
    for wrong in ("3.5", None, True, float("nan"), float("inf")):
        with pytest.raises(DataError):
            one({"text": "a", "label": wrong}, "score")


def test_tokens() -> None:
    item = one({"tokens": ["A", "b"], "tags": ["B", "O"]}, "tokens")
    assert (item.tokens, item.tags) == (("A", "b"), ("B", "O"))
    assert one({"tokens": ["A"], "ner": [1]}, "tokens", references="ner", labels=["O", "B"]).tags == ("B",)
    for tokens, tags in ((["A"], ["O", "O"]), ([], []), (["A", 2], ["O", "O"]), (["A"], [1])):
        with pytest.raises(DataError):
            one({"tokens": tokens, "tags": tags}, "tokens")


@pytest.mark.parametrize(
    ("choices", "answer", "index"),
    [
        (["3", "4", "5"], 2, 2),
        (["3", "4", "5"], "B", 1),
        (["3", "4", "5"], "5", 2),
        (["red", "blue"], "blue", 1),
        (["A", "B"], "A", 0),
    ],
)
def test_answers_by_number_letter_and_text(choices: list[str], answer: Any, index: int) -> None:
    assert one({"question": "?", "choices": choices, "answer": answer}, "choice").answer == index


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        (["3", "4"], 2),
        (["3", "4"], -1),
        (["3", "4"], "C"),
        (["3", "4"], "b"),
        (["3", "4"], "0"),
        (["3", "4"], True),
        (["3", "4"], 1.0),
        (["B", "A"], "A"),
        (["same", "same"], "same"),
        (["only"], 0),
        (["a", " "], 0),
        ("ab", 0),
    ],
)
def test_answers_that_are_unclear_or_impossible(choices: Any, answer: Any) -> None:
    with pytest.raises(DataError):
        one({"question": "?", "choices": choices, "answer": answer}, "choice")


def test_in_csv_an_index_is_text() -> None:
    record = {"question": "?", "choices": '["red", "blue"]', "answer": "1"}
    assert one(record, "choice", untyped=True).answer == 1


def test_contexts_of_choices() -> None:
    assert one(QUESTION, "choice").context == "Question: 2 + 2?\nAnswer:"
    assert one({**QUESTION, "question": "二加二？"}, "choice").context == "问题：二加二？\n答案："
    assert one({**QUESTION, "question": "にと二は？"}, "choice").context.startswith("Question:")
    assert one(QUESTION, "choice", prompt="{question} =").context == "2 + 2? ="
    chat = one(QUESTION, "choice", messages=[{"role": "user", "content": "{question}"}])
    assert (chat.context, chat.messages) == ("", ({"role": "user", "content": "2 + 2?"},))
    assert (
        one({"stem": "x", "choices": ["a", "b"], "key": 0}, "choice", prompt="{stem}", references="key").question == "x"
    )


def test_running_text() -> None:
    assert one({"text": "a b", "label": "ignored"}, "likelihood").text == "a b"
    assert one({"title": "t", "body": "b"}, "likelihood", prompt="{title}\n{body}").text == "t\nb"


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("labels", {"messages": [{"role": "user", "content": "x"}]}),
        ("tokens", {"prompt": "x"}),
        ("likelihood", {"references": "x"}),
    ],
)
def test_keys_that_a_kind_does_not_have(kind: str, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        one({"text": "a", "label": "b", "tokens": ["a"], "tags": ["O"]}, kind, **more)


@pytest.mark.parametrize("record", [{"prompt": "a"}, {"prompt": "a", "reference": "b", "references": ["c"]}])
def test_the_reference_must_be_clear(record: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"reference|no prompt"):
        one(record, "generate")


@pytest.mark.parametrize("reference", ["", " ", [], [""], None, {"text": "a"}, True])
def test_empty_or_strange_references(reference: Any) -> None:
    with pytest.raises(DataError):
        one({"prompt": "a", "reference": reference}, "generate")


def ids(records: list[dict[str, Any]], kind: str, **more: Any) -> list[str]:
    return [item.item_id for item in items_of(rows(*records), task(kind, **more), split=None)]


def test_ids_are_of_the_content_alone() -> None:
    record = {"prompt": "a", "reference": "b"}
    (plain,) = ids([record], "generate")
    assert ids([{"prompt": "z", "reference": "b"}, {**record, "category": "c", "id": 9}], "generate")[1] == plain
    assert ids([{"q": "a", "r": "b"}], "generate", prompt="{q}", references="r") == [plain]
    assert ids([{"prompt": "a", "reference": "c"}], "generate") != [plain]
    assert ids([{"text": "a", "labels": ["x", "y"]}], "labels") == ids([{"text": "a", "labels": ["y", "x"]}], "labels")
    kinds = ids([{"text": "a"}], "likelihood") + ids([{"text": "a", "label": "x"}], "labels")
    assert len(set(kinds)) == 2


def test_repeated_contents_get_ids_of_their_own() -> None:
    record, other = {"prompt": "a", "reference": "b"}, {"prompt": "b", "reference": "b"}
    first, second, third, fourth = ids([record, record, other, record], "generate")
    assert (second, fourth) == (f"{first}#2", f"{first}#3")
    assert third != first


def test_items_are_of_their_kind_and_carry_their_set() -> None:
    kinds: dict[str, tuple[type[Item], dict[str, Any]]] = {
        "generate": (GenerateItem, {"prompt": "a", "reference": "b"}),
        "labels": (LabelsItem, {"text": "a", "label": "b"}),
        "score": (ScoreItem, {"text": "a", "label": 1}),
        "tokens": (TokensItem, {"tokens": ["a"], "tags": ["O"]}),
        "choice": (ChoiceItem, QUESTION),
        "likelihood": (LikelihoodItem, {"text": "a"}),
    }
    for kind, (wanted, record) in kinds.items():
        (item,) = items_of(rows(record), task(kind), split="validation")
        assert type(item) is wanted
        assert item.split == "validation"
