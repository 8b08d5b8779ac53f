from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from lorascope.engines.base import Subject
from lorascope.engines.holding import Holder, Ready
from lorascope.engines.loading import Need
from lorascope.engines.prompts import Prompt, choice_delimiter, encode_pair, reference_separator
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.schema.items import ChoiceAnswer, ChoiceItem, LikelihoodAnswer, LikelihoodItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
CONTEXT = 64  # positions of every tiny model
CHOICE = SuiteTask(name="choice", kind="choice", data="x.jsonl")
LIKELIHOOD = SuiteTask(name="text", kind="likelihood", data="x.jsonl")
CONTEXTS = [
    "Question: What is the capital of France?\nAnswer:",
    "the quick",
    "the dog \n ",
    "Question: a b c?\nAnswer:",
    "",
    "问题：法国的首都是哪里？\n答案：",
]
CHOICES = ("Paris", "the lazy dog", "巴黎", "a b c d e f")


def items(contexts: list[str] = CONTEXTS) -> list[ChoiceItem]:
    return [
        ChoiceItem(item_id=f"i{number}", question="?", context=context, choices=CHOICES, answer=0)
        for number, context in enumerate(contexts)
    ]


@torch.no_grad()
def causal_reference(path: Path, context: str, continuation: str) -> float:
    """One string at a time, nothing padded, full logits, written from lm-evaluation-harness's description."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    if context:
        given, whole = tokenizer(context)["input_ids"], tokenizer(context + continuation)["input_ids"]
        asked = whole[len(given) :]
    else:
        given, asked = [tokenizer.bos_token_id], tokenizer(continuation, add_special_tokens=False)["input_ids"]
    ids = (given + asked)[-(CONTEXT + 1) :]
    scores = model(input_ids=torch.tensor([ids[:-1]])).logits.double().log_softmax(-1)[0]
    start = len(ids) - len(asked) - 1
    return sum(float(scores[start + step, token]) for step, token in enumerate(asked))


@pytest.mark.parametrize("name", ["llama", "llama-bos", "gpt2"])
def test_choices_equal_an_unbatched_reference(
    engine: TransformersEngine, subject: Make, checkpoints: Path, name: str
) -> None:
    answers = engine.answer(subject(name), CHOICE, items())
    for item, answer in zip(items(), answers, strict=True):
        assert isinstance(answer, ChoiceAnswer)
        delimiter = "" if item.context.endswith("：") else " "
        wanted = [causal_reference(checkpoints / name, item.context, delimiter + choice) for choice in item.choices]
        assert answer.logprobs == pytest.approx(wanted, abs=1e-4)


def test_an_encoder_decoder_reads_the_context_and_writes_the_choice(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    path = checkpoints / "t5"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    answers = engine.answer(subject("t5"), CHOICE, items())
    for item, answer in zip(items(), answers, strict=True):
        assert isinstance(answer, ChoiceAnswer)
        kept = item.context.rstrip()
        delimiter = item.context[len(kept) :] + ("" if kept.endswith("：") else " ")
        for choice, logprob in zip(item.choices, answer.logprobs, strict=True):
            asked = tokenizer(delimiter + choice, add_special_tokens=False)["input_ids"]
            given = torch.tensor([tokenizer(kept)["input_ids"]])
            with torch.no_grad():
                out = model(input_ids=given, decoder_input_ids=torch.tensor([[0, *asked[:-1]]]))
            scores = out.logits.double().log_softmax(-1)[0]
            assert logprob == pytest.approx(sum(float(scores[i, t]) for i, t in enumerate(asked)), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "base"), [("llama", None), ("gpt2", None), ("t5", None), ("lora", "llama"), ("prompt", "llama")]
)
def test_batch_size_order_and_padding_side_do_not_move_scores(
    checkpoints: Path, subject: Make, name: str, base: str | None
) -> None:
    asked = items()
    one = TransformersEngine(device="cpu", batch_size=1).answer(subject(name, base), CHOICE, asked)
    engine = TransformersEngine(device="cpu", token_budget=10**6)
    ready = engine._holder.ready(subject(name, base), Need("seq2seq" if name == "t5" else "causal"))
    ready.tokenizer.padding_side = "left"
    together = engine.answer(subject(name, base), CHOICE, asked[::-1])[::-1]
    for single, batched in zip(one, together, strict=True):
        assert isinstance(single, ChoiceAnswer)
        assert isinstance(batched, ChoiceAnswer)
        assert batched.logprobs == pytest.approx(single.logprobs, abs=1e-4)


def test_small_passes_do_not_move_scores(
    engine: TransformersEngine, subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engine.answer(subject("llama"), CHOICE, items())
    monkeypatch.setattr("lorascope.engines.logprob_reading._LOGITS_AT_ONCE", 1)
    monkeypatch.setattr("lorascope.engines.logprob_reading.VALUES_AT_ONCE", 3 * 400)
    parts = engine.answer(subject("llama"), CHOICE, items())
    for one, other in zip(whole, parts, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)  # type: ignore[union-attr]


@pytest.fixture
def llama(subject: Make) -> Ready:
    return Holder(device=torch.device("cpu"), dtype="auto").ready(subject("llama"), Need("causal"))


def test_delimiters() -> None:
    assert choice_delimiter(Prompt("Answer:", chat=False)) == " "
    assert choice_delimiter(Prompt("", chat=False)) == " "
    assert choice_delimiter(Prompt("答案：", chat=False)) == ""
    assert choice_delimiter(Prompt("答案\n", chat=False)) == ""
    assert choice_delimiter(Prompt("答案:", chat=False)) == " "
    assert choice_delimiter(Prompt("정답", chat=False)) == " "
    assert choice_delimiter(Prompt("🙂", chat=False)) == " "
    assert choice_delimiter(Prompt("<|assistant|>", chat=True)) == ""


@pytest.mark.parametrize(
    ("prompt", "reference", "separator"),
    [
        ("A:", "Paris", " "),
        ("A: ", "Paris", ""),
        ("A:\n", "P", ""),
        ("A:", " P", ""),
        ("答：", "P", ""),
        ("A:", "巴黎", ""),
    ],
)
def test_reference_separators(prompt: str, reference: str, separator: str) -> None:
    assert reference_separator(Prompt(prompt, chat=False), reference) == separator


def test_pairs_move_trailing_space_and_always_leave_a_token_to_predict(llama: Ready) -> None:
    moved, plain = (
        encode_pair(llama, Prompt(text, chat=False), end) for text, end in [("the ", "dog"), ("the", " dog")]
    )
    assert moved == plain
    assert moved is not None
    text = llama.tokenizer.decode([*moved.context, *moved.target])
    assert text == "the dog"
    merged = encode_pair(llama, Prompt("capita", chat=False), "l")
    assert merged is not None
    assert merged.target


def test_long_contexts_lose_their_left_and_that_is_said(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    long = items(["fox " * 90 + "Answer:", "the quick"])
    answers = engine.answer(subject("llama"), CHOICE, long)
    wanted = [causal_reference(checkpoints / "llama", long[0].context, " " + choice) for choice in CHOICES]
    assert answers[0].logprobs == pytest.approx(wanted, abs=1e-4)  # type: ignore[union-attr]
    assert engine.notes == ["choice, llama: 1 of 2 items exceed the context; contexts lost their left"]


def test_a_choice_beyond_the_context_is_refused(engine: TransformersEngine, subject: Make) -> None:
    item = ChoiceItem(item_id="long", question="?", context="a", choices=("x", "z 9 " * 200), answer=0)
    with pytest.raises(EvaluationError, match="longer than the model's context"):
        engine.answer(subject("llama"), CHOICE, [item])


def test_chat_messages_go_through_the_template(engine: TransformersEngine, subject: Make, checkpoints: Path) -> None:
    messages = ({"role": "user", "content": "the quick"},)
    chat = ChoiceItem(item_id="c", question="?", context="", messages=messages, choices=CHOICES, answer=0)
    with pytest.raises(EvaluationError, match="no chat template"):
        engine.answer(subject("llama-bos"), CHOICE, [chat])
    ready = engine._holder.ready(subject("llama-bos"), Need("causal"))
    ready.tokenizer.chat_template = "<s>{% for m in messages %}[{{ m.content }}]{% endfor %}>"
    ready.plain.load_state_dict(AutoModelForCausalLM.from_pretrained(checkpoints / "llama").state_dict())
    (answer,) = engine.answer(subject("llama-bos"), CHOICE, [chat])
    # as the tokenizer that adds nothing reads the rendered string: one <s>, and no space before the choice
    wanted = [causal_reference(checkpoints / "llama", "<s>[the quick]>", choice) for choice in CHOICES]
    assert answer.logprobs == pytest.approx(wanted, abs=1e-4)  # type: ignore[union-attr]


def test_a_template_that_refuses_is_an_error_with_its_words(engine: TransformersEngine, subject: Make) -> None:
    ready = engine._holder.ready(subject("llama"), Need("causal"))
    ready.tokenizer.chat_template = "{{ raise_exception('no system role here') }}"
    chat = ChoiceItem(
        item_id="c", question="?", context="", messages=({"role": "system", "content": "x"},), choices=CHOICES, answer=0
    )
    with pytest.raises(EvaluationError, match="no system role here"):
        engine.answer(subject("llama"), CHOICE, [chat])


@torch.no_grad()
def text_reference(path: Path, text: str) -> tuple[float, int]:
    """Window by window: first a full one, then half windows with all the context that fits before them."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    ids = [1, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    total, position = 0.0, 1
    while position < len(ids):
        end = min(len(ids), CONTEXT + 1) if position == 1 else min(len(ids), position + CONTEXT // 2)
        start = max(0, end - CONTEXT - 1)
        scores = model(input_ids=torch.tensor([ids[start : end - 1]])).logits.double().log_softmax(-1)[0]
        total += sum(float(scores[at - start - 1, ids[at]]) for at in range(position, end))
        position = end
    return total, len(ids) - 1


@pytest.mark.parametrize("name", ["llama", "llama-bos", "gpt2"])
def test_likelihood_predicts_every_token_once(
    engine: TransformersEngine, subject: Make, checkpoints: Path, name: str
) -> None:
    texts = ["the quick brown fox", "z 9 法国 " * 60, "a", "q w e r t y " * 11]
    asked = [LikelihoodItem(item_id=str(number), text=text) for number, text in enumerate(texts)]
    answers = engine.answer(subject(name), LIKELIHOOD, asked)
    for text, answer in zip(texts, answers, strict=True):
        assert isinstance(answer, LikelihoodAnswer)
        logprob, tokens = text_reference(checkpoints / name, text)
        assert answer.logprob == pytest.approx(logprob, abs=1e-3)
        assert (answer.tokens, answer.bytes) == (tokens, len(text.encode()))
    assert engine.notes == []


def test_likelihood_of_an_encoder_decoder_is_not_defined(engine: TransformersEngine, subject: Make) -> None:
    with pytest.raises(EvaluationError, match="encoder–decoder"):
        engine.answer(subject("t5"), LIKELIHOOD, [LikelihoodItem(item_id="1", text="a b")])


def test_values_that_are_not_finite_are_refused(engine: TransformersEngine, subject: Make) -> None:
    ready: Any = engine._holder.ready(subject("llama"), Need("causal"))
    with torch.no_grad():
        ready.plain.lm_head.weight[5, 5] = float("nan")
    with pytest.raises(EvaluationError, match="NaN"):
        engine.answer(subject("llama"), CHOICE, items())
