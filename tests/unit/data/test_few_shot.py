"""Solved examples before the questions, system messages and prompts as chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.few_shot import draw_examples, put_as_asked
from lorascope.data.tasks import LoadedTask, load_task
from lorascope.errors import ConfigError, DataError
from lorascope.schema.items import ChoiceItem, GenerateItem
from lorascope.schema.seams import answer_separator, choice_separator
from lorascope.schema.suite import SuiteTask


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def asks(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"q": f"q{n}", "a": [f"a{n}", "or"]} for n in range(start, start + count)]


def choices(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"question": f"q{n}", "choices": [f"x{n}", f"y{n}"], "answer": n % 2} for n in range(start, start + count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "val.jsonl", asks(4))
    write(tmp_path / "train.jsonl", asks(20, 100))
    write(tmp_path / "choice.jsonl", choices(4))
    write(tmp_path / "choice-train.jsonl", choices(10, 100))
    return tmp_path


def spec(**more: Any) -> SuiteTask:
    base = {"name": "t", "kind": "generate", "data": "val.jsonl", "prompt": "Q: {q}\nA:", "references": "a"}
    return SuiteTask.model_validate(base | more)


def choice(**more: Any) -> SuiteTask:
    return SuiteTask.model_validate({"name": "t", "kind": "choice", "data": "choice.jsonl"} | more)


def generated(loaded: LoadedTask) -> list[GenerateItem]:
    return [item for item in loaded.items if isinstance(item, GenerateItem)]


def picked(loaded: LoadedTask) -> list[ChoiceItem]:
    return [item for item in loaded.items if isinstance(item, ChoiceItem)]


# --- as text ---


def test_examples_stand_before_the_question_with_blank_lines_between(root: Path) -> None:
    loaded = load_task(spec(few_shot=2, few_shot_data="train.jsonl"), root=root)
    first, *others = generated(loaded)
    parts = str(first.prompt).split("\n\n")
    assert len(parts) == 3
    assert parts[2] == "Q: q0\nA:"
    numbers = [part.split("\n")[0].removeprefix("Q: q") for part in parts[:2]]
    assert parts[:2] == [f"Q: q{n}\nA: a{n}" for n in numbers]
    assert len(set(numbers)) == 2
    assert {int(n) for n in numbers} <= set(range(100, 120))
    shared = "\n\n".join(parts[:2])
    assert all(str(item.prompt).startswith(shared) for item in others)
    assert first.references == ("a0", "or")


def test_choices_are_solved_with_the_delimiter_that_scores_them(root: Path) -> None:
    more = {"few_shot": 1, "few_shot_data": "choice-train.jsonl"}
    for given, shown in ((None, " "), ("", ""), (" → ", " → ")):
        item = picked(load_task(choice(**more, delimiter=given), root=root))[0]
        example, question = item.context.split("\n\n")
        n = int(example.split("\n")[0].removeprefix("Question: q"))
        assert example == f"Question: q{n}\nAnswer:{shown}{'xy'[n % 2]}{n}"
        assert question == "Question: q0\nAnswer:"
        assert (item.question, item.choices) == ("q0", ("x0", "y0"))


def test_chinese_examples_have_no_space_at_the_seam(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"question": f"问{n}", "choices": ["甲", "乙"], "answer": 1} for n in range(3)])
    item = picked(load_task(choice(data="a.jsonl", few_shot=1, few_shot_data="a.jsonl"), root=tmp_path))[0]
    assert "\n答案：乙\n\n问题：问0\n答案：" in item.context
    rows = [{"prompt": f"问{n}。", "reference": "答"} for n in range(3)]
    write(tmp_path / "b.jsonl", rows)
    written = SuiteTask(name="t", kind="generate", data="b.jsonl", few_shot=1, few_shot_data="b.jsonl")
    assert "。答\n\n" in str(generated(load_task(written, root=tmp_path))[0].prompt)


def test_the_item_itself_is_never_an_example(root: Path) -> None:
    """Not with other references either; the example to spare takes the place."""
    write(root / "same.jsonl", [{"q": row["q"], "a": "another answer"} for row in asks(4)])
    for source in ("val.jsonl", "same.jsonl"):
        loaded = load_task(spec(few_shot=3, few_shot_data=source), root=root)
        for item in generated(loaded):
            parts = str(item.prompt).split("\n\n")
            assert len(parts) == 4
            assert len({part.split("\n")[0] for part in parts}) == 4


def test_repeated_examples_count_once(root: Path) -> None:
    write(root / "few.jsonl", asks(2, 50) * 5)
    assert str(generated(load_task(spec(few_shot=2, few_shot_data="few.jsonl"), root=root))[0].prompt).count("A:") == 3
    with pytest.raises(ConfigError, match="asks for 3 examples, and the data has 2") as caught:
        load_task(spec(few_shot=3, few_shot_data="few.jsonl"), root=root)
    assert caught.value.where == "task 't'"
    assert "few_shot_data" in (caught.value.remedy or "")


def test_examples_come_from_the_training_data_where_nothing_else_is_named(root: Path) -> None:
    loaded = load_task(spec(few_shot=2, train_data="train.jsonl"), root=root)
    assert str(generated(loaded)[0].prompt).count("\n\n") == 2
    other = load_task(spec(few_shot=2, train_data="val.jsonl", few_shot_data="train.jsonl"), root=root)
    assert [item.prompt for item in generated(other)] == [item.prompt for item in generated(loaded)]
    with pytest.raises(ConfigError, match="where they come from") as caught:
        load_task(spec(few_shot=2), root=root)
    assert "train_data" in (caught.value.remedy or "")


def test_the_draw_follows_the_seed_and_not_the_order_of_the_file(root: Path) -> None:
    write(root / "back.jsonl", asks(20, 100)[::-1])
    task = spec(few_shot=3, few_shot_data="train.jsonl")
    first = [item.prompt for item in generated(load_task(task, root=root, seed=1))]
    turned = spec(few_shot=3, few_shot_data="back.jsonl")
    assert [item.prompt for item in generated(load_task(turned, root=root, seed=1))] == first
    assert [item.prompt for item in generated(load_task(task, root=root, seed=2))] != first


def test_training_items_are_asked_alike_and_their_own_questions_are_kept(root: Path) -> None:
    loaded = load_task(spec(few_shot=2, train_data="train.jsonl"), root=root)
    plain = load_task(spec(train_data="train.jsonl"), root=root)
    assert [loaded.own(item) for item in loaded.items] == list(plain.items)
    assert [loaded.own(item) for item in loaded.train_items] == list(plain.train_items)
    assert all(str(item.prompt).count("\n\n") == 2 for item in loaded.train_items if isinstance(item, GenerateItem))
    assert [plain.own(item) for item in plain.items] == list(plain.items)
    assert plain.bare == {}


def test_a_limit_does_not_pick_the_examples(root: Path) -> None:
    """The draw of examples is not the draw of the sample, on the same file."""
    shown, asked = set(), set()
    for seed in range(8):
        task = spec(data="train.jsonl", few_shot=2, few_shot_data="train.jsonl")
        for item in generated(load_task(task, root=root, limit=2, seed=seed)):
            *examples, question = str(item.prompt).split("\n\n")
            shown |= {(seed, example.split("\n")[0]) for example in examples}
            asked.add((seed, question.split("\n")[0]))
    assert not asked <= shown


# --- as a chat ---


def test_a_prompt_as_the_users_message(root: Path) -> None:
    item = generated(load_task(spec(chat=True), root=root))[0]
    assert (item.prompt, item.messages) == (None, ({"role": "user", "content": "Q: q0\nA:"},))
    item = generated(load_task(spec(chat=True, system="Be brief."), root=root))[0]
    assert item.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: q0\nA:"},
    )
    asked = picked(load_task(choice(chat=True, system="s"), root=root))[0]
    assert (asked.context, asked.question, [turn["role"] for turn in asked.messages or ()]) == (
        "",
        "q0",
        ["system", "user"],
    )


def test_examples_in_a_chat_are_turns(root: Path) -> None:
    loaded = load_task(spec(chat=True, system="s", few_shot=2, few_shot_data="train.jsonl"), root=root)
    turns = generated(loaded)[0].messages or ()
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    number = turns[1]["content"].removeprefix("Q: q").removesuffix("\nA:")
    assert turns[2]["content"] == f"a{number}"
    assert turns[5]["content"] == "Q: q0\nA:"
    asked = picked(load_task(choice(chat=True, few_shot=1, few_shot_data="choice-train.jsonl"), root=root))[0]
    user, assistant, own = asked.messages or ()
    number = int(user["content"].split("\n")[0].removeprefix("Question: q"))
    assert assistant["content"] == f"{'xy'[number % 2]}{number}"
    assert own["content"] == "Question: q0\nAnswer:"


def test_examples_before_messages_of_the_suite_and_of_the_data(root: Path) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "{q}?"}]
    loaded = load_task(spec(prompt=None, messages=messages, few_shot=1, few_shot_data="train.jsonl"), root=root)
    turns = generated(loaded)[0].messages or ()
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[3]["content"] == "q0?"
    conversations = [
        {"messages": [{"role": role, "content": f"{role}{n}"} for role in ("user", "assistant") * 2]} for n in range(3)
    ]
    write(root / "chats.jsonl", conversations)
    task = SuiteTask(name="t", kind="generate", data="chats.jsonl", few_shot=1, few_shot_data="chats.jsonl")
    item = generated(load_task(task.model_copy(update={"chat": True, "system": "s"}), root=root))[0]
    assert [turn["role"] for turn in item.messages or ()] == ["system", *("user", "assistant") * 3, "user"]
    assert item.references == ("assistant0",)


def test_a_conversation_alone_stays_as_it_is(root: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "system", "user", "assistant")]
    write(root / "chats.jsonl", [{"messages": turns}])
    for chat in (False, True):
        task = SuiteTask(name="t", kind="generate", data="chats.jsonl", chat=chat)
        assert generated(load_task(task, root=root))[0].messages == tuple(turns[:3])


def test_a_second_system_message_is_refused(root: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    write(root / "chats.jsonl", [{"messages": turns}])
    task = SuiteTask(name="t", kind="generate", data="chats.jsonl", chat=True, system="s")
    with pytest.raises(DataError, match="system message") as caught:
        load_task(task, root=root)
    assert "line 1" in (caught.value.where or "")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "{q}"}]
    with pytest.raises(DataError, match="system message"):
        load_task(spec(prompt=None, messages=messages, system="s"), root=root)
    choice_messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "{question}"}]
    with pytest.raises(DataError, match="system message"):
        load_task(choice(messages=choice_messages, system="s"), root=root)


@pytest.mark.parametrize(
    ("roles", "error"),
    [
        (("user", "system", "user", "assistant"), "at its start"),
        (("system", "system", "user", "assistant"), "at its start"),
    ],
)
def test_chats_that_examples_cannot_stand_before(root: Path, roles: tuple[str, ...], error: str) -> None:
    rows = [{"messages": [{"role": role, "content": f"{role}{n}"} for role in roles]} for n in range(3)]
    write(root / "chats.jsonl", rows)
    task = SuiteTask(name="t", kind="generate", data="chats.jsonl", few_shot=1, few_shot_data="chats.jsonl")
    with pytest.raises(DataError, match=error):
        load_task(task, root=root)


def test_examples_with_other_system_messages_or_without_a_question_are_refused(root: Path) -> None:
    rows = [
        {"messages": [{"role": role, "content": f"{role}{n}"} for role in ("system", "user", "assistant")]}
        for n in range(3)
    ]
    write(root / "chats.jsonl", rows)
    task = SuiteTask(name="t", kind="generate", data="chats.jsonl", few_shot=1, few_shot_data="chats.jsonl")
    with pytest.raises(ConfigError, match="system message of its own"):
        load_task(task, root=root)
    started = [{"role": "user", "content": "{q}"}, {"role": "assistant", "content": "It is"}]
    with pytest.raises(ConfigError, match="assistant's turn"):
        load_task(spec(prompt=None, messages=started, few_shot=1, few_shot_data="train.jsonl"), root=root)


# --- identity ---


def test_ids_are_the_questions_own_and_the_fingerprint_is_of_all_around_them(root: Path) -> None:
    plain = load_task(spec(), root=root)
    shots = {"few_shot": 2, "few_shot_data": "train.jsonl"}
    others = [
        load_task(spec(**more), root=root, seed=seed)
        for more, seed in (
            (shots, 0),
            (shots, 5),
            (shots | {"few_shot": 3}, 0),
            ({"chat": True}, 0),
            ({"chat": True, "system": "s"}, 0),
            ({"sampling": {"n": 2}}, 0),
            ({"sampling": {}}, 0),
            ({"extract": "x"}, 0),
        )
    ]
    ids = [item.item_id for item in plain.items]
    assert all([item.item_id for item in loaded.items] == ids for loaded in others)
    assert len({plain.fingerprint, *(loaded.fingerprint for loaded in others)}) == len(others) + 1
    delimited = {load_task(choice(delimiter=one), root=root).fingerprint for one in (None, "", " ")}
    assert len(delimited) == 3


def test_a_fingerprint_without_the_newer_keys_is_what_it_always_was(root: Path) -> None:
    """Baselines that users have blessed must go on to fit."""
    assert load_task(spec(), root=root).fingerprint == "d30a170a76e52dba"
    assert load_task(choice(), root=root).fingerprint == "2c29ff2311a122a9"


@pytest.mark.parametrize(
    ("prompt", "answer", "between"),
    [("A:", "b", " "), ("A:", " b", ""), ("A: ", "b", ""), ("", "b", ""), ("答：", "b", ""), ("A:", "答", ""),
     ("가", "나", " "), ("A:", "", "")],
)  # fmt: skip
def test_what_stands_between_a_prompt_and_its_answer(prompt: str, answer: str, between: str) -> None:
    assert answer_separator(prompt, answer) == between


@pytest.mark.parametrize(("context", "between"), [("A:", " "), ("A: ", " "), ("", " "), ("答：", ""), ("答：\n", "")])
def test_what_stands_between_a_context_and_a_choice(context: str, between: str) -> None:
    assert choice_separator(context) == between


def test_an_items_own_question_is_no_example_in_any_other_dress(tmp_path: Path) -> None:
    """Not with its choices in another order or one of them exchanged, nor as a chat."""
    one = {"question": "Which?", "choices": ["a", "b"], "answer": 0}
    other = {"question": "R", "choices": ["c", "d"], "answer": 0}
    write(tmp_path / "one.jsonl", [one])
    for own in ({**one, "choices": ["b", "a"], "answer": 1}, {**one, "choices": ["a", "x"]}):
        write(tmp_path / "pool.jsonl", [own, other])
        task = choice(data="one.jsonl", few_shot=1, few_shot_data="pool.jsonl")
        for seed in range(4):
            [item] = picked(load_task(task, root=tmp_path, seed=seed))
            assert item.context.count("Which?") == 1
    sentences = [{"question": "Which is right?", "choices": [f"good {n}", f"bad {n}"], "answer": 0} for n in range(3)]
    write(tmp_path / "constant.jsonl", sentences)
    task = choice(data="constant.jsonl", few_shot=2, few_shot_data="constant.jsonl")
    items = picked(load_task(task, root=tmp_path))
    assert [item.context.count("Which is right?") for item in items] == [3, 3, 3]
    assert all(item.choices[0] not in item.context for item in items)


def test_the_same_question_as_chat_and_as_text_is_one_question() -> None:
    plain = GenerateItem(item_id="1", prompt="what is it?", references=("x",))
    turn = {"role": "user", "content": "what  is it?\n"}
    other = GenerateItem(item_id="3", prompt="and that?", references=("z",))
    chat = GenerateItem(
        item_id="2", prompt=None, messages=({"role": "system", "content": "s"}, turn), references=("y",)
    )
    task = spec(few_shot=1, chat=True, system="s")
    for seed in range(4):
        drawn = draw_examples([chat, other], task, seed=seed)
        assert len(drawn) == 2
        [asked] = put_as_asked([plain], task, drawn)
        assert isinstance(asked, GenerateItem)
        assert [turn["content"] for turn in asked.messages or ()] == ["s", "and that?", "z", "what is it?"]


def test_choices_that_a_prompt_lists_may_stand_in_any_order() -> None:
    def item(name: str, question: str, first: str, second: str) -> ChoiceItem:
        context = f"{question} A. {first} B. {second}"
        return ChoiceItem(item_id=name, question=question, context=context, choices=(first, second), answer=0)

    own, turned, other = item("1", "Q?", "oak", "elm"), item("2", "Q?", "elm", "oak"), item("3", "R?", "oak", "elm")
    for seed in range(4):
        task = choice(few_shot=1)
        [asked] = put_as_asked([own], task, draw_examples([turned, other], task, seed=seed))
        assert isinstance(asked, ChoiceItem)
        assert asked.context == "R? A. oak B. elm oak\n\nQ? A. oak B. elm"
