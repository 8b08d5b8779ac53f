"""L2-SP and EWC, values and gradients, against dense computations that form every ΔW and loop over every item."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lorascope.schema.recipe import Recipe
from lorascope.training.fisher import diagonal_fisher
from lorascope.training.methods import prepare_model
from lorascope.training.penalties import Penalties
from lorascope.training.pissa import lora_layers

SMALL: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WEIGHT = 0.7


def _recipe(name: str, kind: str, **optim: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "version": 1,
            "base": "b",
            "out": "o",
            "task": {"kind": kind, "train": "x"},
            "method": {"name": name, "rank": 3, "alpha": 5.0},
            "optim": optim,
        }
    )


def _llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL))


def _gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=2, n_head=2))


def _bert(problem: str = "single_label_classification") -> Any:
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=3, problem_type=problem))


def _disturb(model: Any) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def _by_hand(model: Any, base: dict[str, torch.Tensor]) -> torch.Tensor:
    """½‖W' − W‖² summed over the layers, with W' written out by each method's own definition."""
    total = torch.zeros(())
    for name, layer in lora_layers(model):
        original = base[name.removeprefix("base_model.model.") + ".weight"]
        held, scale = layer.get_base_layer().weight, layer.scaling["default"]
        down, up = layer.lora_A["default"], layer.lora_B["default"]
        if hasattr(layer, "lora_E"):
            moved = up @ torch.diag(layer.lora_E["default"].flatten()) @ down * (scale / (3 + 1e-5))
        else:
            moved = scale * up.weight @ down.weight
        if layer.fan_in_fan_out:
            original, held = original.T, held.T
        after = held + moved
        if layer.lora_magnitude_vector:
            size = layer.lora_magnitude_vector["default"].weight.reshape(-1, 1)
            after = size * after / after.norm(dim=1, keepdim=True)
        total = total + 0.5 * (after - original).square().sum()
    return total


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "pissa", "adalora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_l2_sp_of_an_adapter_is_that_of_the_weights_it_makes(name: str, family: str) -> None:
    torch.manual_seed(0)
    model = {"llama": _llama, "gpt2": _gpt2}[family]()
    base = {key: value.detach().clone() for key, value in model.state_dict().items()}
    recipe = _recipe(name, "generate", l2_sp=WEIGHT)
    prepared = prepare_model(model, recipe, total_steps=10)
    penalties = Penalties.from_recipe(prepared, recipe)
    assert penalties is not None
    _disturb(prepared)
    trained = [parameter for parameter in prepared.parameters() if parameter.requires_grad]
    penalties()
    value = penalties.last_values["l2_sp"]
    expected = WEIGHT * _by_hand(prepared, base)
    assert value == pytest.approx(expected.item(), rel=2e-4)
    wanted = torch.autograd.grad(expected, trained)
    if name == "adalora":
        recipe_alone = _recipe("lora", "generate", l2_sp=WEIGHT)  # the same term without AdaLoRA's orthogonality
        penalties = Penalties.from_recipe(prepared, recipe_alone)
        assert penalties is not None
    found = torch.autograd.grad(penalties(), trained)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=2e-3)


def test_l2_sp_of_a_whole_model_is_the_distance_to_its_start() -> None:
    torch.manual_seed(0)
    recipe = _recipe("full", "labels", l2_sp=WEIGHT)
    model = prepare_model(_bert(), recipe, total_steps=None)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    penalties = Penalties.from_recipe(model, recipe)
    assert penalties is not None
    _disturb(model)
    penalties().backward()
    squared = sum(
        float((value.detach() - start[name]).double().square().sum()) for name, value in model.named_parameters()
    )
    assert penalties().item() == pytest.approx(WEIGHT * squared / 2, rel=1e-5)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, WEIGHT * (value.detach() - start[name]))


def _items(kind: str) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randint(3, 30, (1, length), generator=generator) for length in (4, 7, 5)]
    if kind == "generate":
        masked = [text.clone() for text in texts]
        masked[1][:, :3] = -100
        return [{"input_ids": text, "labels": answer} for text, answer in zip(texts, masked, strict=True)]
    answers = {
        "single": [torch.tensor([index]) for index in (0, 2, 1)],
        "multi": [torch.tensor([row], dtype=torch.float32) for row in ([1, 0, 1], [0, 0, 0], [1, 1, 1])],
    }[kind]
    return [{"input_ids": text, "labels": answer} for text, answer in zip(texts, answers, strict=True)]


def _log_probability(model: Any, item: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    logits = model(input_ids=item["input_ids"]).logits[0]
    if kind == "multi":
        probability = torch.sigmoid(logits)
        return torch.where(item["labels"][0] > 0, probability, 1 - probability).log().sum()
    if kind == "single":
        return functional.log_softmax(logits, dim=-1)[item["labels"][0]]
    logs = functional.log_softmax(logits[:-1], dim=-1)
    pairs = [(place, int(token)) for place, token in enumerate(item["labels"][0, 1:]) if token != -100]
    return torch.stack([logs[place, token] for place, token in pairs]).sum()


@pytest.mark.parametrize("kind", ["generate", "single", "multi"])
def test_fisher_information_and_ewc_against_a_loop_over_items(kind: str) -> None:
    torch.manual_seed(0)
    model = _llama() if kind == "generate" else _bert(f"{kind}_label_classification")
    task = "generate" if kind == "generate" else "labels"
    recipe = _recipe("full", task, ewc={"weight": WEIGHT, "data": "general.jsonl"})
    prepared = prepare_model(model, recipe, total_steps=None)
    items = _items(kind)
    fisher = diagonal_fisher(prepared, items, kind=task)
    named = dict(prepared.eval().named_parameters())
    expected = {name: torch.zeros_like(value) for name, value in named.items()}
    for item in items:
        gradients = torch.autograd.grad(_log_probability(prepared, item, kind), list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                expected[name] += gradient**2 / len(items)
    for name, value in fisher.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-3)
    start = {name: value.detach().clone() for name, value in named.items()}
    penalties = Penalties.from_recipe(prepared, recipe, fisher=fisher)
    assert penalties is not None
    assert penalties().item() == 0.0
    _disturb(prepared)
    penalties().backward()
    distance = sum(float((fisher[name] * (value.detach() - start[name]) ** 2).sum()) for name, value in named.items())
    assert penalties.last_values["ewc"] == pytest.approx(WEIGHT * distance / 2, rel=1e-4)
    for name, value in named.items():
        torch.testing.assert_close(value.grad, WEIGHT * fisher[name] * (value.detach() - start[name]))


def test_fisher_information_of_a_score_is_that_of_a_normal_distribution() -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=1, problem_type="regression")).eval()
    item = {"input_ids": torch.tensor([[4, 5, 6]]), "labels": torch.tensor([0.8])}
    fisher = diagonal_fisher(model, [item], kind="score")
    score = model(input_ids=item["input_ids"]).logits[0, 0]
    (slope,) = torch.autograd.grad(score, [model.classifier.bias])
    torch.testing.assert_close(fisher["classifier.bias"], (slope * (score.detach() - 0.8)) ** 2)
