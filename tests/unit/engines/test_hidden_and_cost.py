from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoTokenizer, BertForSequenceClassification

from lorascope.engines.base import Subject
from lorascope.engines.loading import Need
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.items import ChoiceItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
TEXTS = ["the fox", "Paris is the capital of France", "a b c d e"]
CHOICE = SuiteTask(name="choice", kind="choice", data="x")


@torch.no_grad()
def states(model: torch.nn.Module, tokenizer: object, text: str) -> list[torch.Tensor]:
    out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)  # type: ignore[operator]
    return [layer[0].mean(0) for layer in out.hidden_states]


@pytest.mark.parametrize("name", ["bert", "bert-emotions", "llama"])
def test_states_are_means_over_the_tokens_of_each_text_alone(
    engine: TransformersEngine, subject: Make, checkpoints: Path, name: str
) -> None:
    found = engine.hidden_states(subject(name), TEXTS)
    model, tokenizer = (
        AutoModel.from_pretrained(checkpoints / name).eval(),
        AutoTokenizer.from_pretrained(checkpoints / name),
    )
    assert [layer.shape for layer in found] == [(3, 32)] * 3
    assert {layer.dtype for layer in found} == {np.dtype("float32")}
    for row, text in enumerate(TEXTS):
        for layer, wanted in zip(found, states(model, tokenizer, text), strict=True):
            np.testing.assert_allclose(layer[row], wanted.numpy(), atol=1e-4)


def test_states_of_an_adapter_come_from_the_class_it_was_trained_in(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    folder = checkpoints / "emotions-lora"
    model = BertForSequenceClassification.from_pretrained(checkpoints / "bert-emotions")
    wrapped = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False))
    wrapped.save_pretrained(folder)
    fresh = BertForSequenceClassification.from_pretrained(checkpoints / "bert-emotions")
    adapted = PeftModel.from_pretrained(fresh, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "bert-emotions")
    adapter = subject("emotions-lora", base="bert-emotions", num_labels=3)
    found, plain = engine.hidden_states(adapter, TEXTS), engine.hidden_states(subject("bert-emotions"), TEXTS)
    for layer, wanted in zip(found, states(adapted, tokenizer, TEXTS[1]), strict=True):
        np.testing.assert_allclose(layer[1], wanted.numpy(), atol=1e-4)
    np.testing.assert_allclose(found[0], plain[0], atol=1e-5)
    assert np.abs(found[-1] - plain[-1]).max() > 1e-3


def test_states_of_an_encoder_decoder_are_its_encoders(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    found = engine.hidden_states(subject("t5"), TEXTS)
    encoder = AutoModel.from_pretrained(checkpoints / "t5").eval().get_encoder()
    wanted = states(encoder, AutoTokenizer.from_pretrained(checkpoints / "t5"), TEXTS[0])
    np.testing.assert_allclose(found[-1][0], wanted[-1].numpy(), atol=1e-4)


def test_states_of_no_texts_are_refused(engine: TransformersEngine, subject: Make) -> None:
    with pytest.raises(UsageError):
        engine.hidden_states(subject("bert"), [])


def items(count: int) -> list[ChoiceItem]:
    return [
        ChoiceItem(item_id=str(n), question="?", context=f"the fox {n}", choices=("a", "b c"), answer=0)
        for n in range(count)
    ]


def test_cost_is_of_sixteen_items_at_most_and_counts_the_adapter(engine: TransformersEngine, subject: Make) -> None:
    base = engine.measure_cost(subject("llama"), CHOICE, items(20))
    adapted = engine.measure_cost(subject("lora", base="llama"), CHOICE, items(2))
    plain = engine._holder.ready(subject("llama"), Need("causal")).plain
    wanted = sum(tensor.numel() * tensor.element_size() for tensor in [*plain.parameters(), *plain.buffers()])
    assert base.memory_bytes == wanted
    assert adapted.memory_bytes > base.memory_bytes
    assert base.latency_ms_per_item > 0
    assert base.method.startswith("16 items")
    assert "as loaded" in base.method


def test_merging_for_the_cost_leaves_base_and_adapter_as_they_were(engine: TransformersEngine, subject: Make) -> None:
    adapter, base = subject("lora", base="llama"), subject("llama")
    before = engine.answer(base, CHOICE, items(3)), engine.answer(adapter, CHOICE, items(3))
    cost = engine.measure_cost(adapter, CHOICE, items(2), merged=True)
    assert "adapter merged" in cost.method
    assert (engine.answer(base, CHOICE, items(3)), engine.answer(adapter, CHOICE, items(3))) == before


def test_what_cannot_be_merged_is_said(engine: TransformersEngine, subject: Make) -> None:
    with pytest.raises(EvaluationError, match="cannot be merged"):
        engine.measure_cost(subject("prompt", base="llama"), CHOICE, items(2), merged=True)
    with pytest.raises(EvaluationError, match="nothing to merge"):
        engine.measure_cost(subject("llama"), CHOICE, items(2), merged=True)
    with pytest.raises(EvaluationError, match="no items"):
        engine.measure_cost(subject("llama"), CHOICE, [])
