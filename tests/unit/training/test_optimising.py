"""Groups of parameters, optimisers and schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, Trainer

from lorascope.errors import ConfigError
from lorascope.schema.recipe import Hardware, Optim, Recipe
from lorascope.training.methods import prepare_model
from lorascope.training.optimising import build_optimizer, build_scheduler, parameter_groups, warmup_steps

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _prepared(kind: str, name: str, new_weights: tuple[str, ...] = ()) -> Any:
    torch.manual_seed(0)
    model = (
        LlamaForCausalLM(LlamaConfig(**SMALL))
        if kind == "generate"
        else BertForSequenceClassification(BertConfig(**SMALL, num_labels=3))
    )
    recipe = Recipe.model_validate(
        {
            "version": 1,
            "base": "b",
            "out": "o",
            "task": {"kind": kind, "train": "x"},
            "method": {"name": name, "rank": 2},
        }
    )
    return prepare_model(model, recipe, total_steps=10, new_weights=new_weights)


def _by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in groups}


def test_every_trained_parameter_is_in_one_group_and_no_other() -> None:
    for kind, name in (("labels", "full"), ("labels", "dora"), ("generate", "adalora"), ("labels", "prompt-tuning")):
        model = _prepared(kind, name)
        grouped = [id(parameter) for group in parameter_groups(model, Optim()) for parameter in group["params"]]
        trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
        assert sorted(grouped) == sorted(trained)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_head_has_its_own_rate(name: str) -> None:
    model = _prepared("labels", name)
    groups = _by_name(parameter_groups(model, Optim(learning_rate=1e-4, head_learning_rate=0.05, weight_decay=0.1)))
    assert (groups["head"]["lr"], groups["head"]["weight_decay"]) == (0.05, 0.1)
    assert (groups["head, no decay"]["lr"], groups["head, no decay"]["weight_decay"]) == (0.05, 0.0)
    assert [parameter.shape for parameter in groups["head"]["params"]] == [(3, 8)]
    assert groups["weights"]["lr"] == 1e-4


def test_a_new_pooler_goes_with_the_head() -> None:
    new = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
    for name in ("full", "lora"):
        model = _prepared("labels", name, new)
        groups = _by_name(parameter_groups(model, Optim(head_learning_rate=0.05), new_weights=new))
        assert {tuple(parameter.shape) for parameter in groups["head"]["params"]} == {(3, 8), (8, 8)}


def test_what_is_not_decayed_is_what_the_trainer_does_not_decay() -> None:
    for kind in ("labels", "generate"):
        model = _prepared(kind, "full")
        groups = parameter_groups(model, Optim(weight_decay=0.1))
        ours = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
        names = Trainer.get_decay_parameter_names(None, model)  # it does not look at the trainer
        assert ours == {id(parameter) for name, parameter in model.named_parameters() if name in names}
        assert 0 < len(ours) < len(list(model.parameters()))


def test_lora_plus_gives_the_factors_the_rates_that_peft_gives() -> None:
    model = _prepared("generate", "lora")
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=16.0)
    rates = {id(p): group["lr"] for group in theirs.param_groups for p in group["params"]}
    groups = parameter_groups(model, Optim(learning_rate=1e-4, lora_plus_ratio=16.0))
    assert {id(p): group["lr"] for group in groups for p in group["params"]} == pytest.approx(rates)
    assert set(_by_name(groups)) == {"weights", "factor B"}


def test_nothing_to_train_is_an_error() -> None:
    model = _prepared("labels", "full").requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter is trained"):
        parameter_groups(model, Optim())


@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd"])
def test_every_optimiser_takes_a_step_and_keeps_groups(name: str) -> None:
    model = _prepared("labels", "lora")
    optim = Optim(optimizer=name, learning_rate=0.01, head_learning_rate=0.02, beta1=0.8, beta2=0.95)
    optimizer = build_optimizer(model, optim, Hardware(), CPU)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups}["head"] == 0.02
    ids, labels = torch.tensor([[4, 5, 6]]), torch.tensor([1])
    before = model(input_ids=ids, labels=labels).loss
    before.backward()
    optimizer.step()
    assert model.eval()(input_ids=ids, labels=labels).loss < before
    expected = {"adamw": ("betas", (0.8, 0.95)), "sgd": ("momentum", 0.8), "adafactor": ("relative_step", False)}[name]
    assert optimizer.param_groups[0][expected[0]] == expected[1]


def test_fused_is_for_cuda_unless_it_is_asked_for() -> None:
    model = _prepared("labels", "lora")
    assert not build_optimizer(model, Optim(), Hardware(), CPU).param_groups[0]["fused"]
    assert build_optimizer(model, Optim(), Hardware(fused_optimizer=True), CPU).param_groups[0]["fused"]


@pytest.mark.parametrize(("warmup", "total", "steps"), [(0.1, 95, 10), (0.0, 95, 0), (20, 95, 20), (0.5, 3, 2)])
def test_warm_up_is_a_share_or_steps(warmup: float, total: int, steps: int) -> None:
    assert warmup_steps(Optim(warmup=warmup), total) == steps


def _rates(optim: Optim, total: int) -> list[list[float]]:
    optimizer = build_optimizer(_prepared("labels", "lora"), optim, Hardware(), CPU)
    scheduler = build_scheduler(optimizer, optim, total)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    return rates


def test_the_schedule_scales_every_group() -> None:
    rates = _rates(Optim(learning_rate=0.1, head_learning_rate=0.4, warmup=0.2, scheduler="cosine"), 10)
    for step, row in enumerate(rates):
        share = step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 8))
        assert sorted(set(row)) == pytest.approx(sorted({0.1 * share, 0.4 * share}))


def test_options_reach_the_scheduler_and_wrong_ones_are_named() -> None:
    lowest = Optim(learning_rate=0.1, scheduler="cosine_with_min_lr", scheduler_options={"min_lr_rate": 0.3}, warmup=0)
    assert _rates(lowest, 10)[-1][0] > 0.03
    optimizer = build_optimizer(_prepared("labels", "lora"), Optim(), Hardware(), CPU)
    with pytest.raises(ConfigError, match="takes no option 'power'") as caught:
        build_scheduler(optimizer, Optim(scheduler="cosine", scheduler_options={"power": 2}), 10)
    assert "num_cycles" in str(caught.value.remedy)
    with pytest.raises(ConfigError, match="takes no option 'x'"):
        build_scheduler(optimizer, Optim(scheduler="constant", scheduler_options={"x": 2}), 10)
    for lacking in ("cosine_with_min_lr", "warmup_stable_decay"):
        with pytest.raises(ConfigError, match="cannot be set up"):
            build_scheduler(optimizer, Optim(scheduler=lacking), 10)


@pytest.mark.parametrize("name", ["linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"])
def test_every_scheduler_can_be_built_without_options(name: str) -> None:
    rates = [row[0] for row in _rates(Optim(learning_rate=0.1, scheduler=name, warmup=2), 6)]
    assert max(rates) == pytest.approx(0.1)
    assert (rates[0] == 0.1) == (name == "constant")
