"""Which penalties a recipe has, what they act on, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from lorascope.errors import ConfigError, DataError
from lorascope.schema.recipe import Recipe
from lorascope.training.fisher import diagonal_fisher
from lorascope.training.methods import prepare_model
from lorascope.training.penalties import NEW_LAYER_BETA, Penalties

SMALL: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
EWC = {"weight": 2.0, "data": "general.jsonl"}
IDS = torch.tensor([[4, 5, 6, 7]])


def _recipe(name: str = "full", kind: str = "generate", **optim: Any) -> Recipe:
    more = optim.pop("hardware", {})
    return Recipe.model_validate(
        {
            "version": 1,
            "base": "b",
            "out": "o",
            "task": {"kind": kind, "train": "x"},
            "method": {"name": name, "rank": 2},
            "optim": optim,
            "hardware": more,
        }
    )


def _prepared(recipe: Recipe, *, tied: bool = False, new: tuple[str, ...] = ()) -> Any:
    torch.manual_seed(0)
    model = (
        LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied))
        if recipe.task.kind == "generate"
        else BertForSequenceClassification(BertConfig(**SMALL, num_labels=2))
    )
    return prepare_model(model, recipe, total_steps=10, new_weights=new)


def _disturb(model: Any, scale: float = 0.1) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn_like(parameter))


def test_a_recipe_without_penalties_has_none() -> None:
    recipe = _recipe("lora")
    assert Penalties.from_recipe(_prepared(recipe), recipe) is None


def test_l1_counts_what_is_trained_once_even_where_it_stands_twice() -> None:
    for name in ("full", "lora"):
        recipe = _recipe(name, l1=0.3)
        model = _prepared(recipe, tied=True)
        penalties = Penalties.from_recipe(model, recipe)
        assert penalties is not None
        expected = 0.3 * sum(p.abs().sum().item() for p in model.parameters() if p.requires_grad)
        assert penalties(model).item() == pytest.approx(expected, rel=1e-5)
        assert penalties.last_values == {"l1": pytest.approx(expected, rel=1e-5)}


def test_every_penalty_is_zero_at_the_base_and_grows_away_from_it() -> None:
    for name in ("full", "lora", "rslora", "dora", "pissa", "bitfit"):
        kind = "labels" if name == "bitfit" else "generate"
        recipe = _recipe(name, kind, l2_sp=1.0)
        model = _prepared(recipe)
        penalties = Penalties.from_recipe(model, recipe)
        assert penalties is not None
        assert penalties().item() == pytest.approx(0.0, abs=1e-8), name
        _disturb(model)
        assert penalties().item() > 1e-3, name


def test_new_layers_are_kept_small_by_the_papers_own_weight() -> None:
    new = ("classifier.weight", "classifier.bias")
    for name in ("full", "lora"):
        recipe = _recipe(name, "labels", l2_sp=5.0)
        model = _prepared(recipe, new=new)
        penalties = Penalties.from_recipe(model, recipe, new_weights=new)
        assert penalties is not None
        _disturb(model)
        penalties()
        head = [p for n, p in model.named_parameters() if "classifier" in n and p.requires_grad]
        expected = 0.5 * NEW_LAYER_BETA * sum(p.square().sum().item() for p in head)
        assert penalties.last_values["l2_new"] == pytest.approx(expected, rel=1e-5)


def test_a_head_that_the_base_has_stays_near_its_start() -> None:
    recipe = _recipe("lora", "labels", l2_sp=2.0)
    model = _prepared(recipe)
    penalties = Penalties.from_recipe(model, recipe)
    assert penalties is not None
    head = model.base_model.model.classifier.modules_to_save["default"]
    with torch.no_grad():
        head.weight.add_(0.5)
    assert penalties().item() == pytest.approx(0.5 * 2.0 * 0.25 * head.weight.numel(), rel=1e-5)
    assert set(penalties.last_values) == {"l2_sp"}


def test_adalora_has_its_orthogonality_without_being_asked() -> None:
    recipe = _recipe("adalora")
    model = _prepared(recipe)
    penalties = Penalties.from_recipe(model, recipe)
    assert penalties is not None
    away = []
    for name, value in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = value @ value.T if "lora_A" in name else value.T @ value
            away.append(torch.norm(gram - torch.eye(len(gram))).item())
    assert penalties().item() == pytest.approx(0.5 * sum(away) / len(away), rel=1e-5)
    # The model's own loss has it left out, so it is not counted twice.
    loss = model(input_ids=IDS, labels=IDS).loss
    assert loss.item() == pytest.approx(model.base_model.model(input_ids=IDS, labels=IDS).loss.item())


def test_gradients_flow_into_what_is_trained_and_nothing_else() -> None:
    recipe = _recipe("lora", "labels", l1=0.1, l2_sp=0.1)
    model = _prepared(recipe)
    _disturb(model)
    penalties = Penalties.from_recipe(model, recipe)
    assert penalties is not None
    penalties().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert penalties().dtype == torch.float32


@pytest.mark.parametrize(
    ("recipe", "new", "said"),
    [
        (_recipe("lora", ewc=EWC), (), "an adapter moves none of them alone"),
        (_recipe("full", "labels", ewc=EWC), ("classifier.weight",), "no head for this task"),
        (_recipe("full", ewc=EWC), (), "needs the base's Fisher information"),
        (_recipe("ia3", l2_sp=1.0), (), "method ia3 has no factors"),
        (_recipe("prompt-tuning", l2_sp=1.0), (), "method prompt-tuning has no factors"),
    ],
)
def test_what_cannot_be_exact_is_refused(recipe: Recipe, new: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Penalties.from_recipe(_prepared(recipe, new=new), recipe, new_weights=new)


def test_divided_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe("full", l2_sp=1.0, hardware={"sharding": "fsdp"})
    assert Penalties.from_recipe(_prepared(recipe), recipe) is not None  # one process divides nothing
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="FSDP divides"):
        Penalties.from_recipe(_prepared(recipe), recipe)


def test_fisher_information_needs_items_with_answers() -> None:
    model = _prepared(_recipe())
    with pytest.raises(DataError, match="no items"):
        diagonal_fisher(model, [], kind="generate")
    silent = {"input_ids": IDS, "labels": torch.full_like(IDS, -100)}
    with pytest.raises(DataError, match="no answer") as caught:
        diagonal_fisher(model, [{"input_ids": IDS, "labels": IDS}, silent], kind="generate")
    assert caught.value.where == "item 2"
    assert model.training


def test_fisher_information_is_taken_without_dropout_and_of_what_is_trained() -> None:
    recipe = _recipe("bitfit", "labels")
    model = _prepared(recipe)
    item = {"input_ids": IDS, "labels": torch.tensor([1])}
    first, again = (diagonal_fisher(model, [item], kind="labels") for _ in range(2))
    assert set(first) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(parameter.grad is None for parameter in model.parameters())
