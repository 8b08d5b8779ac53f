from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorascope.engines import keys
from lorascope.engines.base import Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.keys import Setting, answer_keys, context_of, tokenizer_hash
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.schema.items import ChoiceItem, GenerateItem, Item, LabelsItem, ScoreItem
from lorascope.schema.suite import Sampling, SuiteTask

SETTING = Setting(engine="transformers", dtype="auto", device="cpu")
WRITE = SuiteTask(name="write", kind="generate", data="x", max_new_tokens=4)
CHOICE = SuiteTask(name="choice", kind="choice", data="x")
PROMPT = GenerateItem(item_id="1", prompt="a", references=("b", "other"))
PICK = ChoiceItem(item_id="1", question="?", context="c", choices=("x", "y"), answer=0)


@pytest.fixture
def adapter(tmp_path: Path) -> Subject:
    (tmp_path / "tokenizer.json").write_text("{}")
    return Subject(
        name="lora",
        path=tmp_path,
        kind="adapter",
        tokenizer_path=tmp_path,
        content_hash="adapter",
        base_path=tmp_path,
        base_hash="base",
    )


def key(subject: Subject, task: SuiteTask = WRITE, item: Item = PROMPT, setting: Setting = SETTING, **more: Any) -> str:
    [found] = answer_keys(subject, task, [item], setting, **more)
    return found


def test_whatever_changes_an_answer_changes_its_key(adapter: Subject, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    different = [
        key(adapter),
        key(replace(adapter, content_hash="other")),
        key(replace(adapter, base_hash="other")),
        key(replace(adapter, tokenizer_path=other)),
        key(replace(adapter, kind="model", base_hash=None)),
        key(replace(adapter, labels=("a", "b"))),
        key(adapter, WRITE.model_copy(update={"max_new_tokens": 5})),
        key(adapter, WRITE.model_copy(update={"stop": ["\n"]})),
        key(adapter, WRITE.model_copy(update={"sampling": Sampling()})),
        key(adapter, WRITE.model_copy(update={"sampling": Sampling(seed=1)})),
        key(adapter, item=replace(PROMPT, prompt="b")),
        key(adapter, item=replace(PROMPT, prompt=None, messages=({"role": "user", "content": "a"},))),
        key(adapter, item=replace(PROMPT, references=("c", "other"))),
        key(adapter, setting=replace(SETTING, dtype="bfloat16")),
        key(adapter, setting=replace(SETTING, device="cuda")),
        key(adapter, setting=replace(SETTING, merge="auto")),
        key(adapter, setting=replace(SETTING, engine="openai")),
        key(adapter, beside={"from": "base"}),
        key(adapter, beside={"from": "other"}),
        key(adapter, CHOICE, PICK),
        key(adapter, CHOICE.model_copy(update={"delimiter": ""}), PICK),
        key(adapter, CHOICE, replace(PICK, choices=("x", "z"))),
        key(adapter, CHOICE, replace(PICK, context="", messages=({"role": "user", "content": "c"},))),
    ]
    assert len(set(different)) == len(different)


def test_names_places_and_scoring_do_not(adapter: Subject) -> None:
    renamed = replace(adapter, name="renamed", path=Path("elsewhere"), allow_pickle=True)
    scoring = {"metrics": ["bleu"], "margin": 0.5, "primary": "bleu", "role": "retention", "name": "n", "limit": 3}
    same = [
        key(adapter),
        key(renamed),
        key(adapter, WRITE.model_copy(update=scoring)),
        key(adapter, WRITE.model_copy(update={"extract": {"pattern": "x"}, "chat": True, "few_shot": 3})),
        key(adapter, item=replace(PROMPT, item_id="2", split="s", category="c", group="g")),
        key(adapter, item=replace(PROMPT, references=("b",))),
    ]
    assert len(set(same)) == 1
    assert key(adapter, CHOICE, PICK) == key(adapter, CHOICE, replace(PICK, answer=1, question="other words"))
    score = ScoreItem(item_id="1", text="a", score=1.0)
    spec = SuiteTask(name="s", kind="score", data="x")
    assert key(adapter, spec, score) == key(adapter, spec, replace(score, score=2.0))
    whole = {"beside": {"from": "base"}}
    assert key(adapter, CHOICE, PICK, **whole) != key(adapter, CHOICE, replace(PICK, answer=1), **whole)


def test_merging_is_nothing_to_a_full_model(adapter: Subject) -> None:
    model = replace(adapter, kind="model", base_hash=None)
    assert key(model) == key(model, setting=replace(SETTING, merge="auto"))


def test_a_libraries_next_version_asks_again(adapter: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    before, served = key(adapter), key(adapter, setting=replace(SETTING, engine="openai"))
    monkeypatch.setattr(keys, "_version", lambda name: f"next {name}")
    assert key(adapter) != before
    assert key(adapter, setting=replace(SETTING, engine="openai")) == served


def test_labels_are_asked_with_the_heads_order(adapter: Subject) -> None:
    item = LabelsItem(item_id="1", text="t", labels=("a",), multi=True)
    task = SuiteTask(name="l", kind="labels", data="x", labels=["a", "b"])
    others = [task.model_copy(update=change) for change in ({"labels": ["b", "a"]}, {"multi_label": False})]
    assert len({key(adapter, spec, item) for spec in (task, *others)}) == 3


def test_each_file_of_a_tokenizer_counts(tmp_path: Path) -> None:
    seen = {tokenizer_hash(tmp_path)}
    for name in ("tokenizer.json", "chat_template.jinja", "spiece.model", "vocab.json"):
        (tmp_path / name).write_text("a")
        seen.add(tokenizer_hash(tmp_path))
        (tmp_path / name).write_text("b")
        seen.add(tokenizer_hash(tmp_path))
    assert len(seen) == 9
    for name in ("README.md", "model.safetensors", "trainer_state.json"):
        (tmp_path / name).write_text("a")
    assert tokenizer_hash(tmp_path) in seen


def test_contents_that_move_between_files_do_not_collide(tmp_path: Path) -> None:
    hashes = set()
    for number, (first, second) in enumerate((("ab", "c"), ("a", "bc"), ("", "abc"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "merges.txt").write_text(first)
        (folder / "vocab.json").write_text(second)
        hashes.add(tokenizer_hash(folder))
    assert len(hashes) == 3


def test_the_context_says_whose_answers_they_are(adapter: Subject) -> None:
    context = context_of(adapter, WRITE, SETTING)
    assert (context.subject, context.content_hash, context.base_hash) == ("lora", "adapter", "base")
    assert (context.engine, context.task, context.kind, context.dtype) == ("transformers", "write", "generate", "auto")


def test_the_engine_notes_it_and_two_models_never_share_an_answer(
    subject: Callable[..., Subject], tmp_path: Path
) -> None:
    items = [replace(PICK, item_id=str(n), context="the fox " * (n + 1)) for n in range(3)]
    subjects = [subject("llama"), subject("lora", base="llama"), subject("gpt2")]
    alone = [TransformersEngine(device="cpu").answer(one, CHOICE, items) for one in subjects]
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        for _ in range(2):
            engine = TransformersEngine(device="cpu", cache=cache)
            assert [engine.answer(one, CHOICE, items) for one in subjects] == alone
        assert len(cache) == 9
        held = {holding.context.subject: holding.answers for holding in cache.holdings() if holding.context}
    assert held == {"llama": 3, "lora": 3, "gpt2": 3}
