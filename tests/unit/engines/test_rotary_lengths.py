"""Models whose rotary factors follow the longest sequence of a batch, on both sides of their trained length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
)

from lorascope.engines.base import Subject
from lorascope.engines.choice import may_share
from lorascope.engines.decoding import can_decode
from lorascope.engines.holding import Ready
from lorascope.engines.loading import Need, steady_length
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.schema.items import ChoiceItem, GenerateItem, LabelsItem, LikelihoodItem
from lorascope.schema.suite import SuiteTask

TRAINED = 32
MOST = 12
WHOLE = "the quick brown fox jumps over a lazy dog and runs away again z 9 q w"
WORDS = WHOLE.split() * 3
SHORT, LONG = "the quick brown", " ".join(WORDS)
TEXTS = [SHORT, LONG, *(" ".join(WORDS[3 : 3 + count]) for count in (13, 22, 26, 30, 40)), "a"]
GENERATE = SuiteTask(name="write", kind="generate", data="x", max_new_tokens=MOST)
CHOICE = SuiteTask(name="choice", kind="choice", data="x")
LIKELIHOOD = SuiteTask(name="text", kind="likelihood", data="x")
LABELS = SuiteTask.model_validate({"name": "e", "kind": "labels", "data": "x", "labels": ["anger", "joy"]})


def phi3(vocabulary: int, **more: Any) -> Phi3Config:
    return Phi3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        original_max_position_embeddings=TRAINED,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0, 6.0, 8.0, 10.0],
        },
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **more,
    )


@pytest.fixture(scope="module")
def root(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rotary")
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    torch.manual_seed(0)
    names = {"id2label": {0: "anger", 1: "joy"}, "label2id": {"anger": 0, "joy": 1}}
    models = {
        "phi3": Phi3ForCausalLM(phi3(len(tokenizer))),
        "phi3-labels": Phi3ForSequenceClassification(phi3(len(tokenizer), **names)),
    }
    for name, model in models.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def at(root: Path, name: str = "phi3", **more: Any) -> Subject:
    path = root / name
    return Subject(name=name, path=path, kind="model", tokenizer_path=path, content_hash=name, **more)


def ready_of(root: Path) -> Ready:
    return TransformersEngine(device="cpu")._holder.ready(at(root), Need("causal"))


def likelihoods(texts: Sequence[str] = TEXTS) -> list[LikelihoodItem]:
    return [LikelihoodItem(item_id=str(number), text=text) for number, text in enumerate(texts)]


def written(texts: Sequence[str] = TEXTS) -> list[GenerateItem]:
    return [GenerateItem(item_id=str(n), prompt=text, references=("brown fox",)) for n, text in enumerate(texts)]


def test_the_factors_do_differ_beyond_the_trained_length(root: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(root / "phi3").eval()
    ids = torch.arange(3, 13)[None]
    with torch.inference_mode():
        alone = model(input_ids=ids).logits
        beside = model(input_ids=torch.cat([ids, torch.zeros(1, TRAINED, dtype=torch.long)], dim=1)).logits[:, :10]
    assert (alone - beside).abs().max() > 0.01


def test_sharing_and_decoding_end_at_the_trained_length(root: Path) -> None:
    ready = ready_of(root)
    assert not can_decode(ready)
    assert [can_decode(ready, longest) for longest in (TRAINED, TRAINED + 1)] == [True, False]
    assert [may_share(ready, longest) for longest in (TRAINED, TRAINED + 1)] == [True, False]


def test_steady_lengths() -> None:
    assert steady_length(phi3(100)) == TRAINED
    assert steady_length(LlamaConfig(max_position_embeddings=64)) is None
    dynamic = LlamaConfig(
        max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    )
    assert steady_length(dynamic) == 64
    layered = LlamaConfig(max_position_embeddings=64)
    layered.rope_parameters = {
        "full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 16},
        "sliding_attention": {"rope_type": "default"},
    }
    assert steady_length(layered) == 16


@torch.no_grad()
def test_dynamic_factors_stay_within_what_is_read(checkpoints: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=TRAINED, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "dynamic")
    tokenizer.save_pretrained(tmp_path / "dynamic")
    engine = TransformersEngine(device="cpu")
    ready = engine._holder.ready(at(tmp_path, "dynamic"), Need("causal"))
    assert can_decode(ready)
    rotary = ready.plain.model.rotary_emb
    before = rotary.inv_freq.clone()
    engine.answer(at(tmp_path, "dynamic"), LIKELIHOOD, likelihoods([LONG, SHORT]))
    engine.answer(at(tmp_path, "dynamic"), GENERATE, written([LONG, SHORT]))
    assert torch.equal(rotary.inv_freq, before)
    ready.plain(input_ids=torch.zeros(1, TRAINED + 1, dtype=torch.long))
    assert not torch.equal(rotary.inv_freq, before)


@torch.no_grad()
def test_likelihoods_are_those_of_each_text_alone(root: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(root / "phi3"), AutoTokenizer.from_pretrained(root / "phi3")
    together = TransformersEngine(device="cpu", token_budget=10**6).answer(at(root), LIKELIHOOD, likelihoods())
    for text, answer in zip(TEXTS, together, strict=True):
        ids = [1, *tokenizer(text)["input_ids"]]
        scores = model.eval()(input_ids=torch.tensor([ids[:-1]])).logits.double().log_softmax(-1)[0]
        wanted = sum(float(scores[place, token]) for place, token in enumerate(ids[1:]))
        assert answer.logprob == pytest.approx(wanted, abs=1e-3)  # type: ignore[union-attr]


def test_choices_are_scored_as_alone(root: Path) -> None:
    asked = [
        ChoiceItem(item_id=str(number), question="?", context=text, choices=("fox", "q w e " * 6, "法国"), answer=0)
        for number, text in enumerate(TEXTS)
    ]
    together = TransformersEngine(device="cpu", token_budget=10**6).answer(at(root), CHOICE, asked)
    engine = TransformersEngine(device="cpu")
    for item, answer in zip(asked, together, strict=True):
        for number, choice in enumerate(item.choices):
            alone = ChoiceItem(item_id="x", question="?", context=item.context, choices=(choice,), answer=0)
            (single,) = engine.answer(at(root), CHOICE, [alone])
            assert answer.logprobs[number] == pytest.approx(single.logprobs[0], abs=1e-3)  # type: ignore[union-attr]


@torch.no_grad()
def test_answers_are_those_of_generate_for_each_prompt_alone(root: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(root / "phi3"), AutoTokenizer.from_pretrained(root / "phi3")
    model.eval()
    wanted = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        mask = torch.ones_like(ids)
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MOST, do_sample=False, pad_token_id=0)
        wanted.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert any(length <= TRAINED < length + MOST for length in lengths)
    gold = []
    for size in (1, 5, None):
        engine = TransformersEngine(device="cpu", batch_size=size)
        found = engine.answer(at(root), GENERATE, written())
        assert [answer.text for answer in found] == wanted  # type: ignore[union-attr]
        gold.append([answer.gold_logprob for answer in found])  # type: ignore[union-attr]
    assert gold[1] == pytest.approx(gold[0], abs=1e-4)
    short = [text for text, length in zip(TEXTS, lengths, strict=True) if length + MOST <= TRAINED]
    answers = TransformersEngine(device="cpu").answer(at(root), GENERATE, written(short))
    assert [answer.text for answer in answers] == [wanted[TEXTS.index(text)] for text in short]  # type: ignore[union-attr]


def test_a_long_reference_moves_no_answer(root: Path) -> None:
    wanted = TransformersEngine(device="cpu").answer(at(root), GENERATE, written([SHORT, "a"]))
    long = [GenerateItem(item_id=text, prompt=text, references=(LONG,)) for text in (SHORT, "a")]
    found = TransformersEngine(device="cpu").answer(at(root), GENERATE, long)
    assert [one.text for one in found] == [one.text for one in wanted]  # type: ignore[union-attr]
    (alone,) = TransformersEngine(device="cpu").answer(at(root), GENERATE, long[:1])
    assert found[0].gold_logprob == pytest.approx(alone.gold_logprob, abs=1e-4)  # type: ignore[union-attr]


def test_divergence_labels_and_hidden_states_do_not_follow_the_batch(root: Path) -> None:
    engine = TransformersEngine(device="cpu", token_budget=10**6)
    changed = root / "changed"
    model = AutoModelForCausalLM.from_pretrained(root / "phi3")
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    model.save_pretrained(changed)
    AutoTokenizer.from_pretrained(root / "phi3").save_pretrained(changed)
    together = engine.diverge(at(root), at(root, "changed"), LIKELIHOOD, likelihoods())
    alone = [engine.diverge(at(root), at(root, "changed"), LIKELIHOOD, [item])[0] for item in likelihoods()]
    assert [one.kl for one in together] == pytest.approx([one.kl for one in alone], abs=1e-3)
    states = engine.hidden_states(at(root), TEXTS)
    (first, *_), (last, *_) = engine.hidden_states(at(root), TEXTS[:1])[-1], states[-1]
    assert last == pytest.approx(first, abs=1e-4)
    subject = at(root, "phi3-labels", num_labels=2, labels=("anger", "joy"))
    items = [LabelsItem(item_id=str(n), text=text, labels=("joy",), multi=False) for n, text in enumerate(TEXTS)]
    for item, answer in zip(items, engine.answer(subject, LABELS, items), strict=True):
        (single,) = engine.answer(subject, LABELS, [item])
        assert answer.probabilities == pytest.approx(single.probabilities, abs=1e-5)  # type: ignore[union-attr]
