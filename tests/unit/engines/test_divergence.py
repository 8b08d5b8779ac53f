from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, LlamaForCausalLM

from lorascope.engines.base import Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.divergence import open_sides
from lorascope.engines.holding import Holder
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.schema.items import ChoiceItem, DivergenceAnswer, GenerateItem, Item, LabelsItem, LikelihoodItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
TEXT = SuiteTask(name="text", kind="likelihood", data="x.jsonl")
CHOICE = SuiteTask(name="choice", kind="choice", data="x.jsonl")
WRITE = SuiteTask(name="write", kind="generate", data="x.jsonl", max_new_tokens=4)
TEXTS = ["the quick brown fox", "q w e r t y " * 8, "a"]
CONTEXT = 64


def texts() -> list[LikelihoodItem]:
    return [LikelihoodItem(item_id=str(number), text=text) for number, text in enumerate(TEXTS)]


def choices() -> list[ChoiceItem]:
    return [
        ChoiceItem(item_id="1", question="?", context="Answer:", choices=("Paris", "the lazy dog"), answer=1),
        ChoiceItem(item_id="2", question="?", context="the quick", choices=("brown fox jumps", "a"), answer=0),
    ]


def references() -> list[GenerateItem]:
    return [GenerateItem(item_id="1", prompt="the quick", references=("brown fox", "other"))]


@torch.no_grad()
def direct(base: Any, adapted: Any, ids: Sequence[int], begin: int, virtual: int = 0) -> float:
    """One sequence, nothing padded or cut: the position before each token from ``begin`` on predicts that token."""
    read = torch.tensor([list(ids)])
    old = base(input_ids=read).logits[0].double().log_softmax(-1)
    new = adapted(input_ids=read, attention_mask=torch.ones_like(read)).logits[0].double().log_softmax(-1)
    total = 0.0
    for place in range(begin, len(ids)):
        p, q = new[virtual + place - 1], old[place - 1]
        total += float(sum(p[token].exp() * (p[token] - q[token]) for token in range(len(p))))
    return total


def adapted_model(checkpoints: Path, name: str) -> Any:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoints / "llama"), checkpoints / name)


def kl_of(answers: Sequence[DivergenceAnswer]) -> list[float]:
    return [answer.kl for answer in answers]


@pytest.mark.parametrize("name", ["lora", "lora-head", "pissa", "prompt"])
def test_an_adapter_against_the_freshly_loaded_base(
    engine: TransformersEngine, subject: Make, checkpoints: Path, name: str
) -> None:
    base = AutoModelForCausalLM.from_pretrained(checkpoints / "llama").eval()
    adapted, tokenizer = adapted_model(checkpoints, name).eval(), AutoTokenizer.from_pretrained(checkpoints / "llama")
    found = engine.diverge(subject("llama"), subject(name, "llama"), TEXT, [texts()[0]])
    ids = [1, *tokenizer(TEXTS[0])["input_ids"]]
    wanted = direct(base, adapted, ids, 1, virtual=5 if name == "prompt" else 0)
    assert wanted > 0.05
    assert found == [DivergenceAnswer(kl=pytest.approx(wanted, rel=1e-5), tokens=len(ids) - 1)]


@pytest.mark.parametrize(
    ("task", "items", "ids", "begin"),
    [(CHOICE, choices(), "Answer: the lazy dog", "Answer:"), (WRITE, references(), "the quick brown fox", "the quick")],
)
def test_the_positions_are_those_that_predict_the_right_text(
    engine: TransformersEngine,
    subject: Make,
    checkpoints: Path,
    task: SuiteTask,
    items: list[Item],
    ids: str,
    begin: str,
) -> None:
    base, adapted = (AutoModelForCausalLM.from_pretrained(checkpoints / name).eval() for name in ("llama", "llama-bos"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    plain = subject("llama-bos")
    changed = Subject(**{**_fields(plain), "tokenizer_path": checkpoints / "llama"})
    found = engine.diverge(subject("llama"), changed, task, items)
    given, whole = tokenizer(begin)["input_ids"], tokenizer(ids)["input_ids"]
    wanted = direct(base, adapted, whole, len(given))
    assert found[0].tokens == len(whole) - len(given)
    assert found[0].kl == pytest.approx(wanted, rel=1e-5)


def _fields(subject: Subject) -> dict[str, Any]:
    return {name: getattr(subject, name) for name in Subject.__dataclass_fields__}


@pytest.mark.parametrize(
    ("name", "in_memory"), [("lora", True), ("lora-head", True), ("prompt", True), ("pissa", False)]
)
def test_the_disabled_adapter_is_used_where_it_gives_the_plain_base(
    subject: Make, checkpoints: Path, name: str, in_memory: bool
) -> None:
    holder, beside = (Holder(device=torch.device("cpu"), dtype="auto") for _ in range(2))
    sides = open_sides(holder, beside, subject("llama"), subject(name, "llama"), TEXT)
    assert (sides.base.ready.model is sides.adapted.ready.model) == in_memory
    read = torch.tensor([[1, 7, 9, 300, 2]])
    fresh = AutoModelForCausalLM.from_pretrained(checkpoints / "llama").eval()
    with sides.base.state(), torch.no_grad():
        now = sides.base.ready.model(input_ids=read).logits[:, -5:]
    with torch.no_grad():
        assert torch.equal(now, fresh(input_ids=read).logits)


def test_two_full_models_stand_side_by_side_and_only_the_second_stays(
    engine: TransformersEngine, subject: Make
) -> None:
    there = engine.diverge(subject("llama"), subject("llama-bos"), TEXT, texts())
    back = engine.diverge(subject("llama-bos"), subject("llama"), TEXT, texts())
    assert min(kl_of(there)) > 0.1
    assert kl_of(there) != pytest.approx(kl_of(back), rel=0.01)


def test_a_model_does_not_diverge_from_itself(engine: TransformersEngine, subject: Make) -> None:
    assert kl_of(engine.diverge(subject("llama"), subject("llama"), TEXT, texts())) == [0.0, 0.0, 0.0]


def test_an_encoder_decoder(engine: TransformersEngine, subject: Make, checkpoints: Path, tmp_path: Path) -> None:
    base = AutoModelForSeq2SeqLM.from_pretrained(checkpoints / "t5").eval()
    other = AutoModelForSeq2SeqLM.from_pretrained(checkpoints / "t5").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "t5")
    with torch.no_grad():
        other.lm_head.weight.add_(0.1 * torch.randn_like(other.lm_head.weight))
    other.save_pretrained(tmp_path)
    changed = Subject(**{**_fields(subject("t5")), "name": "other", "path": tmp_path, "content_hash": "other"})
    (found,) = engine.diverge(subject("t5"), changed, WRITE, references())
    given = torch.tensor([tokenizer("the quick")["input_ids"]])
    written = tokenizer(" brown fox", add_special_tokens=False)["input_ids"]
    read = torch.tensor([[0, *written[:-1]]])
    with torch.no_grad():
        old, new = (
            model(input_ids=given, decoder_input_ids=read).logits[0].double().log_softmax(-1) for model in (base, other)
        )
    assert found.tokens == len(written)
    assert found.kl == pytest.approx(float((new.exp() * (new - old)).sum()), rel=1e-5)


def test_batches_and_chunks_do_not_change_it(
    engine: TransformersEngine, subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*texts(), LikelihoodItem(item_id="long", text="z 9 法国 " * 60)]
    whole = engine.diverge(subject("llama"), subject("lora", "llama"), TEXT, asked)
    monkeypatch.setattr("lorascope.engines.logprob_reading.VALUES_AT_ONCE", 3 * 400)
    single = TransformersEngine(device="cpu", batch_size=1)
    parts = single.diverge(subject("llama"), subject("lora", "llama"), TEXT, asked[::-1])[::-1]
    assert kl_of(parts) == pytest.approx(kl_of(whole), rel=1e-6, abs=1e-6)
    assert [one.tokens for one in parts] == [one.tokens for one in whole]


def test_an_adapter_with_tokens_of_its_own_has_no_divergence(
    engine: TransformersEngine, subject: Make, checkpoints: Path, tmp_path: Path
) -> None:
    base = LlamaForCausalLM.from_pretrained(checkpoints / "llama")
    rows = base.get_input_embeddings().weight.shape[0]
    base.resize_token_embeddings(rows + 3, mean_resizing=False)
    whole = ["embed_tokens", "lm_head"]
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=whole)
    get_peft_model(base, config).save_pretrained(tmp_path / "more", save_embedding_layers=True)
    longer = Subject(**{**_fields(subject("lora", "llama")), "name": "more", "path": tmp_path / "more"})
    with pytest.raises(EvaluationError, match=f"among {rows + 3} tokens and its base among {rows}"):
        engine.diverge(subject("llama"), longer, TEXT, texts())
    # the base is the plain one again
    fresh = TransformersEngine(device="cpu").answer(subject("llama"), TEXT, texts())
    assert engine.answer(subject("llama"), TEXT, texts()) == fresh


def test_tokens_under_other_numbers_have_no_divergence(
    engine: TransformersEngine, subject: Make, checkpoints: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    text = (checkpoints / "llama" / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer.save_pretrained(tmp_path)
    swapped = text.replace('"a":', '"?":', 1).replace('"b":', '"a":', 1).replace('"?":', '"b":', 1)
    assert swapped != text
    (tmp_path / "tokenizer.json").write_text(swapped, encoding="utf-8")
    changed = Subject(**{**_fields(subject("llama-bos")), "tokenizer_path": tmp_path})
    with pytest.raises(EvaluationError, match="is number"):
        engine.diverge(subject("llama"), changed, TEXT, texts())


def test_what_predicts_no_text_is_said(engine: TransformersEngine, subject: Make) -> None:
    task = SuiteTask(name="moods", kind="labels", data="x.jsonl", labels=["joy"])
    item = LabelsItem(item_id="1", text="a", labels=("joy",), multi=True)
    with pytest.raises(EvaluationError, match="predicts no text"):
        engine.diverge(subject("llama"), subject("lora", "llama"), task, [item])


def test_a_text_beyond_the_context_has_no_position(engine: TransformersEngine, subject: Make) -> None:
    item = GenerateItem(item_id="1", prompt="a", references=("z 9 " * 200,))
    assert engine.diverge(subject("llama"), subject("lora", "llama"), WRITE, [item, *references()])[0] == (
        DivergenceAnswer(kl=0.0, tokens=0)
    )


def test_what_was_computed_is_not_computed_again(
    subject: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        engine = TransformersEngine(device="cpu", cache=cache)
        first = engine.diverge(subject("llama"), subject("lora", "llama"), TEXT, texts())
        other = engine.diverge(subject("llama-bos"), subject("lora", "llama"), TEXT, texts())
        assert kl_of(first) != kl_of(other)
        monkeypatch.setattr(Holder, "ready", lambda *_: pytest.fail("a model was loaded"))
        seen: list[tuple[int, int]] = []
        again = TransformersEngine(device="cpu", cache=cache).diverge(
            subject("llama"), subject("lora", "llama"), TEXT, texts(), lambda done, total: seen.append((done, total))
        )
    assert again == first
    assert seen == [(3, 3)]
