from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from lorascope.engines.base import Subject
from lorascope.engines.loading import Need
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.schema.items import GenerateAnswer, GenerateItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
PROMPTS = ["the quick brown", "Question: What is the capital of France?\nAnswer:", "a", "z 9 法国"]
CONTEXT = 64  # positions of every tiny model


def task(**more: Any) -> SuiteTask:
    return SuiteTask.model_validate({"name": "write", "kind": "generate", "data": "x", "max_new_tokens": 8, **more})


def items(prompts: list[str] = PROMPTS) -> list[GenerateItem]:
    return [GenerateItem(item_id=str(n), prompt=prompt, references=("brown fox",)) for n, prompt in enumerate(prompts)]


def answers(
    engine: TransformersEngine, subject: Subject, asked: SuiteTask, of: list[GenerateItem]
) -> list[GenerateAnswer]:
    found = engine.answer(subject, asked, of)
    assert all(isinstance(answer, GenerateAnswer) for answer in found)
    return found  # type: ignore[return-value]


@torch.no_grad()
def greedy(path: Path, prompt: str, steps: int) -> list[int]:
    """Argmax by argmax, one prompt, no padding, no cache."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    given = tokenizer(prompt)["input_ids"]
    if path.name == "t5":
        seq2seq = AutoModelForSeq2SeqLM.from_pretrained(path).eval()
        written = [0]
        for _ in range(steps):
            out = seq2seq(input_ids=torch.tensor([given]), decoder_input_ids=torch.tensor([written]))
            written.append(int(out.logits[0, -1].argmax()))
        return written[1:]
    causal, ids = AutoModelForCausalLM.from_pretrained(path).eval(), list(given)
    for _ in range(steps):
        ids.append(int(causal(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(given) :]


def expected(path: Path, prompt: str, steps: int) -> tuple[str, bool]:
    tokens = greedy(path, prompt, steps)
    end = tokens.index(2) if 2 in tokens else None
    return AutoTokenizer.from_pretrained(path).decode(tokens[:end], skip_special_tokens=True).strip(), end is None


@pytest.mark.parametrize("name", ["llama", "llama-bos", "gpt2", "t5"])
def test_answers_are_the_greedy_ones_of_unpadded_prompts(
    engine: TransformersEngine, subject: Make, checkpoints: Path, name: str
) -> None:
    found = answers(engine, subject(name), task(), items())
    assert [(a.text, a.truncated) for a in found] == [expected(checkpoints / name, p, 8) for p in PROMPTS]


@pytest.mark.parametrize(("name", "base"), [("llama", None), ("t5", None), ("lora", "llama"), ("prompt", "llama")])
def test_batch_size_and_order_do_not_move_answers(subject: Make, name: str, base: str | None) -> None:
    one = answers(TransformersEngine(device="cpu", batch_size=1), subject(name, base), task(), items())
    whole = answers(TransformersEngine(device="cpu"), subject(name, base), task(), items()[::-1])[::-1]
    assert [answer.text for answer in whole] == [answer.text for answer in one]
    gold = [answer.gold_logprob for answer in one]
    assert [answer.gold_logprob for answer in whole] == pytest.approx(gold, abs=1e-4)


def test_stop_strings_end_the_answer_and_are_not_in_it(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    whole = answers(engine, subject("llama"), task(), items())
    stop = next(answer.text for answer in whole if len(answer.text) > 3)[2:4]
    cut = answers(engine, subject("llama"), task(stop=[stop, "never seen"]), items())
    for before, after in zip(whole, cut, strict=True):
        assert after.text == before.text.split(stop)[0].strip()
        assert after.truncated == (before.truncated and stop not in before.text)
    assert any(before.text != after.text for before, after in zip(whole, cut, strict=True))


def test_the_end_of_text_token_ends_an_answer(engine: TransformersEngine, subject: Make, checkpoints: Path) -> None:
    tokens = greedy(checkpoints / "llama", PROMPTS[0], 8)
    ready = engine._holder.ready(subject("llama"), Need("causal"))
    ready.plain.generation_config.eos_token_id = [2, tokens[3]]
    (answer,) = answers(engine, subject("llama"), task(), items()[:1])
    end = tokens.index(tokens[3])
    assert (answer.text, answer.truncated) == (ready.tokenizer.decode(tokens[:end]).strip(), False)


def test_settings_of_the_checkpoint_are_not_used_and_that_is_said(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    ready = engine._holder.ready(subject("llama"), Need("causal"))
    own = GenerationConfig(do_sample=True, temperature=0.6, repetition_penalty=5.0, top_k=50, eos_token_id=2)
    ready.plain.generation_config = own
    found = answers(engine, subject("llama"), task(), items())
    assert [answer.text for answer in found] == [expected(checkpoints / "llama", p, 8)[0] for p in PROMPTS]
    assert ready.plain.generation_config is own
    assert engine.notes == [
        "llama: decoding is greedy; not used of the checkpoint: do_sample=True, temperature=0.6, repetition_penalty=5.0"
    ]


@torch.no_grad()
def test_gold_logprob_is_that_of_the_first_reference_after_a_space(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    item = GenerateItem(item_id="1", prompt="the quick", references=("brown fox", "never read"))
    (answer,) = answers(engine, subject("llama"), task(), [item])
    model = AutoModelForCausalLM.from_pretrained(checkpoints / "llama").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    ids, given = tokenizer("the quick brown fox")["input_ids"], len(tokenizer("the quick")["input_ids"])
    scores = model(input_ids=torch.tensor([ids])).logits.double().log_softmax(-1)[0]
    assert answer.gold_logprob == pytest.approx(
        sum(float(scores[p - 1, ids[p]]) for p in range(given, len(ids))), abs=1e-4
    )


def test_a_reference_beyond_the_context_has_no_logprob(engine: TransformersEngine, subject: Make) -> None:
    item = GenerateItem(item_id="1", prompt="the", references=("z 9 " * 100,))
    (answer,) = answers(engine, subject("llama"), task(), [item, *items()][:1])
    assert answer.gold_logprob is None


def test_long_prompts_lose_their_left_and_that_is_said(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    long = "w x y " * 60 + "the quick brown"
    found = answers(engine, subject("llama"), task(), items([long, "a"]))
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    kept = tokenizer.decode(tokenizer(long)["input_ids"][-(CONTEXT - 8) :])
    assert found[0].text == expected(checkpoints / "llama", kept, 8)[0]
    assert engine.notes == ["write, llama: 1 of 2 items exceed the context; prompts lost their left"]


def test_no_room_for_a_prompt_is_an_error(engine: TransformersEngine, subject: Make) -> None:
    with pytest.raises(EvaluationError, match="no room"):
        engine.answer(subject("llama"), task(max_new_tokens=CONTEXT), items())


def test_chats_need_a_template_and_use_it_without_doubling_special_tokens(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    chat = GenerateItem(item_id="1", prompt=None, messages=({"role": "user", "content": "fox"},), references=("a",))
    with pytest.raises(EvaluationError, match="no chat template"):
        engine.answer(subject("llama-bos"), task(), [chat])
    ready = engine._holder.ready(subject("llama-bos"), Need("causal"))
    ready.tokenizer.chat_template = "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    (by_chat,) = answers(engine, subject("llama-bos"), task(), [chat])
    plain = replace(chat, prompt="user: fox\nassistant:", messages=None)
    (by_text,) = answers(engine, subject("llama-bos"), task(), [plain])
    assert by_chat.text == by_text.text
    assert by_chat.gold_logprob != by_text.gold_logprob  # no space goes between a template and the reference


def test_an_encoder_cannot_write(engine: TransformersEngine, subject: Make) -> None:
    with pytest.raises(EvaluationError, match="is an encoder"):
        engine.answer(subject("bert"), task(), items())
