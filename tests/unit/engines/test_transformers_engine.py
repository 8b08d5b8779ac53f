from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorascope.engines.base import Engine, Outcome, Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.choice import ChoiceAsker
from lorascope.engines.transformers_engine import TransformersEngine, tokenizer_hash
from lorascope.errors import UsageError
from lorascope.schema.items import ChoiceItem, GenerateItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
CHOICE = SuiteTask(name="choice", kind="choice", data="x")
WRITE = SuiteTask(name="write", kind="generate", data="x", max_new_tokens=4)


def items(count: int = 6) -> list[ChoiceItem]:
    return [
        ChoiceItem(item_id=str(n), question="?", context="the fox " * (n + 1), choices=("a", "b c"), answer=0)
        for n in range(count)
    ]


class Counted:
    """Counts what a kind of asker is asked, and can fail at a given call."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None, error: Exception | None = None
    ) -> None:
        self.calls: list[int] = []
        original = ChoiceAsker.ask

        def ask(asker: ChoiceAsker, indices: Sequence[int]) -> list[Outcome]:
            self.calls.append(len(indices))
            if fail_at == len(self.calls) and error is not None:
                raise error
            return original(asker, indices)

        monkeypatch.setattr(ChoiceAsker, "ask", ask)


def test_it_is_an_engine(engine: TransformersEngine) -> None:
    described: Engine = engine
    assert described.notes == []


def test_a_second_run_asks_nothing(subject: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TransformersEngine(device="cpu").answer(subject("llama"), CHOICE, items())
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        first = TransformersEngine(device="cpu", cache=cache).answer(subject("llama"), CHOICE, items())
        counted = Counted(monkeypatch)
        monkeypatch.setattr("lorascope.engines.holding.load_model", None)
        second = TransformersEngine(device="cpu", cache=cache).answer(subject("llama"), CHOICE, items()[::-1])
    assert counted.calls == []
    assert first == plain
    assert second == first[::-1]


def test_a_killed_run_goes_on_where_it_stopped(subject: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = TransformersEngine(device="cpu", batch_size=2).answer(subject("llama"), CHOICE, items())
    with monkeypatch.context() as patch, AnswerCache(tmp_path / "answers.sqlite") as cache:
        Counted(patch, fail_at=3, error=KeyboardInterrupt())  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            TransformersEngine(device="cpu", batch_size=2, cache=cache).answer(subject("llama"), CHOICE, items())
    counted, seen = Counted(monkeypatch), []
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        engine = TransformersEngine(device="cpu", batch_size=2, cache=cache)
        found = engine.answer(subject("llama"), CHOICE, items(), lambda done, total: seen.append((done, total)))
    assert counted.calls == [2]
    assert seen == [(4, 6), (6, 6)]
    assert found == wanted


@pytest.mark.parametrize("fail_at", [1, 2])
def test_running_out_of_memory_once_changes_no_answer(
    subject: Make, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    wanted = TransformersEngine(device="cpu", batch_size=4).answer(subject("llama"), CHOICE, items())
    counted = Counted(monkeypatch, fail_at, torch.OutOfMemoryError("CUDA out of memory"))
    found = TransformersEngine(device="cpu", batch_size=4).answer(subject("llama"), CHOICE, items())
    assert [one.logprobs for one in found] == [pytest.approx(one.logprobs, abs=1e-4) for one in wanted]  # type: ignore[union-attr]
    assert counted.calls == ([4, 2, 2, 2] if fail_at == 1 else [4, 2, 1, 1])


def test_everything_an_answer_depends_on_is_in_its_key(subject: Make, checkpoints: Path) -> None:
    engine = TransformersEngine(device="cpu")
    item = GenerateItem(item_id="1", prompt="a", references=("b",))
    adapter = subject("lora", base="llama")

    def key(subject: Subject = adapter, task: SuiteTask = WRITE, item: GenerateItem = item, dtype: str = "auto") -> str:
        return (engine if dtype == "auto" else TransformersEngine(device="cpu", dtype=dtype))._keys(
            subject, task, [item]
        )[0]

    others = [
        key(subject("llama")),
        key(replace(adapter, content_hash="other")),
        key(replace(adapter, base_hash="other")),
        key(replace(adapter, tokenizer_path=checkpoints / "t5")),
        key(task=WRITE.model_copy(update={"max_new_tokens": 5})),
        key(task=WRITE.model_copy(update={"stop": ["\n"]})),
        key(item=replace(item, prompt="b")),
        key(item=replace(item, references=("c",))),
        key(dtype="bfloat16"),
    ]
    assert len({key(), *others}) == len(others) + 1
    same = [
        key(replace(adapter, name="renamed", path=Path("elsewhere"))),
        key(task=WRITE.model_copy(update={"name": "other", "margin": 0.5, "role": "retention"})),
        key(item=replace(item, item_id="2", split="validation", category="c")),
    ]
    assert set(same) == {key()}


def test_the_chat_template_is_part_of_the_tokenizer(tmp_path: Path, checkpoints: Path) -> None:
    for path in (checkpoints / "llama").glob("*token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert tokenizer_hash(tmp_path) == tokenizer_hash(checkpoints / "llama")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert tokenizer_hash(tmp_path) != tokenizer_hash(checkpoints / "llama")


def test_notes_on_cut_items_survive_the_cache(subject: Make, tmp_path: Path) -> None:
    long = [ChoiceItem(item_id="1", question="?", context="z 9 " * 90, choices=("a", "b"), answer=0)]
    notes = []
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        for _ in range(2):
            engine = TransformersEngine(device="cpu", cache=cache)
            engine.answer(subject("llama"), CHOICE, long)
            notes.append(engine.notes)
    assert notes[0] == notes[1] != []


def test_base_and_adapters_in_any_order_give_the_same_answers(subject: Make) -> None:
    subjects = [subject("llama"), subject("pissa", base="llama"), subject("lora-head", base="llama"), subject("gpt2")]
    alone: list[Any] = [TransformersEngine(device="cpu").answer(one, CHOICE, items()) for one in subjects]
    shared = TransformersEngine(device="cpu")
    backwards = [shared.answer(one, CHOICE, items()) for one in subjects[::-1]][::-1]
    again = [shared.answer(one, CHOICE, items()) for one in subjects]
    assert backwards == alone
    assert again == alone


def test_bfloat16_runs_and_differs(subject: Make) -> None:
    exact = TransformersEngine(device="cpu").answer(subject("llama"), CHOICE, items())
    rough = TransformersEngine(device="cpu", dtype="bfloat16").answer(subject("llama"), CHOICE, items())
    assert exact != rough


@pytest.mark.parametrize("wrong", [{"device": "abacus"}, {"dtype": "int3"}, {"batch_size": 0}])
def test_options_are_checked_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TransformersEngine(**{"device": "cpu", **wrong})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="CUDA"):
        TransformersEngine(device="cuda")


def test_no_items_give_no_answers_and_load_nothing(engine: TransformersEngine, subject: Make) -> None:
    assert engine.answer(replace(subject("llama"), path=Path("nowhere")), CHOICE, []) == []
