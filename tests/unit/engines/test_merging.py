from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import BertForSequenceClassification, LlamaForCausalLM

from lorascope.engines import merging
from lorascope.engines.attaching import fingerprint
from lorascope.engines.base import Subject
from lorascope.engines.loading import Need
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.schema.items import Answer, ChoiceAnswer, ChoiceItem, GenerateAnswer, GenerateItem, LabelsItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
CHOICE = SuiteTask(name="choice", kind="choice", data="x")
WRITE = SuiteTask(name="write", kind="generate", data="x", max_new_tokens=4)


def choices(count: int = merging.FEWEST_ITEMS) -> list[ChoiceItem]:
    return [
        ChoiceItem(item_id=str(n), question="?", context=f"the fox {n} and the dog", choices=("a", "b c"), answer=n % 2)
        for n in range(count)
    ]


def prompts(count: int = merging.FEWEST_ITEMS) -> list[GenerateItem]:
    return [GenerateItem(item_id=str(n), prompt=f"the quick {n} fox", references=("brown",)) for n in range(count)]


def scores(answers: list[Answer]) -> list[tuple[float, ...]]:
    return [answer.logprobs for answer in answers if isinstance(answer, ChoiceAnswer)]


@pytest.fixture(scope="module")
def more(checkpoints: Path) -> Path:
    """Adapters of other methods beside the shared ones."""
    for name, config in {
        "merge-dora": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"], use_dora=True),
        "merge-ia3": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=[]),
    }.items():
        model = get_peft_model(LlamaForCausalLM.from_pretrained(checkpoints / "llama"), config)
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(checkpoints / name)
    return checkpoints


@pytest.mark.parametrize("name", ["lora", "pissa", "lora-head", "merge-dora", "merge-ia3"])
def test_a_merged_adapter_answers_as_beside_its_base(subject: Make, more: Path, name: str) -> None:
    adapter = subject(name, base="llama")
    beside, merged = TransformersEngine(device="cpu", merge="never"), TransformersEngine(device="cpu")
    wanted = scores(beside.answer(adapter, CHOICE, choices()))
    found = scores(merged.answer(adapter, CHOICE, choices()))
    assert [pytest.approx(row, abs=1e-4) for row in wanted] == found
    [proof] = merged.proofs
    assert (proof.subject, proof.merged, proof.tolerance) == (name, True, 1e-3)
    assert proof.largest_difference is not None
    assert 0 <= proof.largest_difference <= 1e-3
    assert proof.positions > 50
    assert beside.proofs == []
    written = [engine.answer(adapter, WRITE, prompts()) for engine in (beside, merged)]
    texts = [[answer.text for answer in part if isinstance(answer, GenerateAnswer)] for part in written]
    assert texts[0] == texts[1]


def test_the_base_comes_back_bit_for_bit(subject: Make) -> None:
    engine = TransformersEngine(device="cpu")
    base = subject("llama")
    before = engine.answer(base, CHOICE, choices())
    loaded = engine._holder._loaded
    assert loaded is not None
    bits = fingerprint(loaded.model)
    for name in ("lora", "pissa", "lora"):
        engine.answer(subject(name, base="llama"), CHOICE, choices())
        ready = engine._holder.merged(subject(name, base="llama"), Need("causal"))
        assert ready is not None
        assert any(getattr(module, "merged", False) for module in ready.plain.modules())
    assert engine.answer(base, CHOICE, choices()) == before
    again = engine._holder._loaded
    assert again is not None
    assert fingerprint(again.model) == bits
    assert len(engine.proofs) == 2


def test_whoever_asks_for_the_adapter_itself_gets_it_unmerged(subject: Make) -> None:
    engine, adapter = TransformersEngine(device="cpu"), subject("lora", base="llama")
    engine.answer(adapter, CHOICE, choices())
    ready = engine._holder.ready(adapter, Need("causal"))
    assert not any(getattr(module, "merged", False) for module in ready.plain.modules())
    unmerged = engine.answer(adapter, CHOICE, choices(2))
    cost = engine.measure_cost(adapter, CHOICE, choices(2), merged=True)
    assert "adapter merged" in cost.method
    assert engine.answer(adapter, CHOICE, choices(2)) == unmerged


def test_few_items_are_not_worth_it(subject: Make, engine: TransformersEngine) -> None:
    engine.answer(subject("lora", base="llama"), CHOICE, choices(merging.FEWEST_ITEMS - 1))
    assert engine.proofs == []


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [("prompt", {}, "nothing that could be merged"), ("lora", {"dtype": "bfloat16"}, "the weights are bfloat16")],
)
def test_what_is_not_tried_says_why(subject: Make, name: str, options: dict[str, Any], reason: str) -> None:
    adapter = subject(name, base="llama")
    engine = TransformersEngine(device="cpu", **options)
    found = engine.answer(adapter, CHOICE, choices())
    [proof] = engine.proofs
    assert reason in proof.reason
    assert (proof.merged, proof.largest_difference, proof.positions) == (False, None, 0)
    assert found == TransformersEngine(device="cpu", merge="never", **options).answer(adapter, CHOICE, choices())


@pytest.mark.parametrize("tolerance", [0.0, float("-inf")])
def test_what_is_not_proven_stays_unmerged(subject: Make, monkeypatch: pytest.MonkeyPatch, tolerance: float) -> None:
    adapter = subject("lora", base="llama")
    wanted = TransformersEngine(device="cpu", merge="never").answer(adapter, CHOICE, choices())
    monkeypatch.setattr(merging, "TOLERANCE", tolerance)
    engine = TransformersEngine(device="cpu")
    assert engine.answer(adapter, CHOICE, choices()) == wanted
    assert engine.answer(adapter, CHOICE, choices()[:18]) == wanted[:18]
    [proof] = engine.proofs
    assert not proof.merged
    assert proof.largest_difference is not None
    assert "differ by more" in proof.reason


@pytest.mark.parametrize(
    ("error", "reason"), [(ValueError("NaNs detected"), "NaNs detected"), (MemoryError(), "memory runs out")]
)
def test_a_method_that_fails_half_way_is_taken_back(
    subject: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    from peft import LoraModel

    original = LoraModel.merge_adapter

    def merge_adapter(model: Any, **options: Any) -> None:
        original(model, **options)
        raise error

    adapter = subject("lora", base="llama")
    wanted = TransformersEngine(device="cpu", merge="never").answer(adapter, CHOICE, choices())
    monkeypatch.setattr(LoraModel, "merge_adapter", merge_adapter)
    engine = TransformersEngine(device="cpu")
    assert engine.answer(adapter, CHOICE, choices()) == wanted
    assert reason in engine.proofs[0].reason


def test_other_errors_while_comparing_are_not_swallowed(subject: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(merging, "_outputs", fail)
    with pytest.raises(RuntimeError, match="multiplied"):
        TransformersEngine(device="cpu").answer(subject("lora", base="llama"), CHOICE, choices())


def test_heads_are_compared_by_their_outputs(subject: Make, checkpoints: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(checkpoints / "bert-emotions")
    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False))
    wrapped.save_pretrained(checkpoints / "merge-emotions")
    items = [LabelsItem(item_id=str(n), text=f"the fox {n}", labels=("joy",), multi=False) for n in range(64)]
    asked = SuiteTask.model_validate({"name": "e", "kind": "labels", "data": "x", "labels": ["anger", "joy", "fear"]})
    labels = ("anger", "joy", "fear")
    adapter = subject("merge-emotions", base="bert-emotions", num_labels=3, labels=labels)
    engine = TransformersEngine(device="cpu")
    found = engine.answer(adapter, asked, items)
    wanted = TransformersEngine(device="cpu", merge="never").answer(adapter, asked, items)
    for one, two in zip(found, wanted, strict=True):
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)  # type: ignore[union-attr]
    assert engine.proofs[0].merged


def test_merging_what_cannot_be_merged_is_an_error(subject: Make, engine: TransformersEngine) -> None:
    ready = engine._holder.ready(subject("prompt", base="llama"), Need("causal"))
    with pytest.raises(EvaluationError, match="cannot be merged"):
        merging.merge(ready)
