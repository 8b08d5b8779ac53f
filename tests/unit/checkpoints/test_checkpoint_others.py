"""What is changed and is no linear module: named once, with its kind and size of change, and only where it differs."""

from __future__ import annotations

import peft
import pytest
import torch
from safetensors.torch import load_file

from lorascope.checkpoints.changes import BaseModules, changes_of
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.checkpoints.others import OtherChange, compared

MODEL = "model.safetensors"
ADAPTER = "adapter_model.safetensors"


def lora(**settings):
    return peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **settings})


def opened(base, adapted, task_type=None):
    subject = open_checkpoint(str(adapted), name="adapted")
    modules = BaseModules(open_checkpoint(str(base), name="base"), task_type=task_type)
    return modules, changes_of(subject, modules)


def by_name(changes):
    return {change.name: change for change in changes.others()}


# The comparison of two tensors


def test_equal_values_are_no_change_whatever_their_type():
    values = torch.tensor([1.0, 0.5, -2.0])
    assert compared("x", "bias", values, values.clone()) is None
    assert compared("x", "bias", values, values.to(torch.bfloat16)) is None


def test_the_relative_change_is_the_ratio_of_frobenius_norms():
    old, new = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    change = compared("wte", "embedding", old, new)
    assert change == OtherChange("wte", "embedding", (2, 2), pytest.approx(1 / 5), "1 of 2 rows differ")


def test_a_change_of_nothing_or_of_zeros_has_no_relative_size():
    new = torch.ones(3)
    assert compared("b", "bias", None, new) == OtherChange("b", "bias", (3,), None, "the base has none")
    assert compared("b", "bias", torch.zeros(3), new) == OtherChange("b", "bias", (3,), None)


def test_rows_that_both_have_are_compared():
    old = torch.arange(6.0).reshape(3, 2)
    longer = torch.cat([old, torch.ones(2, 2)])
    change = compared("wte", "embedding", old, longer)
    assert change == OtherChange("wte", "embedding", (5, 2), 0.0, "3 rows in the base, 5 here: the first 3 compared")
    shorter = compared("wte", "embedding", old, old[:2] * 2)
    assert shorter is not None
    assert (shorter.shape, shorter.relative_change) == ((2, 2), pytest.approx(1.0))


def test_another_form_is_named_and_not_compared():
    change = compared("conv", "convolution", torch.ones(2, 3), torch.ones(2, 4))
    assert change == OtherChange("conv", "convolution", (2, 4), None, "2×3 in the base, 2×4 here: not compared")


def test_what_storing_in_a_narrower_type_made_of_it_is_said():
    old = torch.tensor([1.0, 0.1])
    change = compared("norm", "norm", old, old.to(torch.bfloat16))
    assert change is not None
    assert change.note == "the base's, rounded to bfloat16"
    assert 0 < change.relative_change < 0.01


# Full models


def test_only_what_really_differs_is_named(base_of, copied, rewrite):
    folder = copied(base_of("bert"))

    def change(tensors):
        tensors["encoder.layer.1.attention.self.query.bias"] += 0.5
        tensors["encoder.layer.0.output.LayerNorm.weight"][3] = 2.0
        tensors["embeddings.word_embeddings.weight"][7] += 1.0

    rewrite(folder / MODEL, change)
    _, changes = opened(base_of("bert"), folder)
    named = by_name(changes)
    assert {name: change.kind for name, change in named.items()} == {
        "embeddings.word_embeddings.weight": "embedding",
        "encoder.layer.0.output.LayerNorm.weight": "norm",
        "encoder.layer.1.attention.self.query.bias": "bias",
    }
    assert list(named) == sorted(named, key=list(changes.base.skeleton.others).index)
    assert named["encoder.layer.0.output.LayerNorm.weight"].relative_change == pytest.approx(0.25)
    assert named["encoder.layer.1.attention.self.query.bias"].relative_change is None, "the base's bias is zero"
    assert named["embeddings.word_embeddings.weight"].note == "1 of 40 rows differ"


def test_names_are_the_base_files_whatever_head_the_subject_has(build, base_of, tmp_path):
    model = build("bert", "BertForSequenceClassification", num_labels=3)
    base = build("bert")
    model.bert.load_state_dict(base.state_dict())
    model.bert.pooler.dense.bias.data += 1.0
    model.save_pretrained(tmp_path / "full")
    _, changes = opened(base_of("bert"), tmp_path / "full")
    assert list(by_name(changes)) == ["pooler.dense.bias"]


def test_a_resized_vocabulary_is_compared_in_its_common_rows(base_of, build, tmp_path):
    after = build("llama")
    after.resize_token_embeddings(44)
    after.get_input_embeddings().weight.data[:40] *= 1.1
    after.save_pretrained(tmp_path / "full")
    _, changes = opened(base_of("llama"), tmp_path / "full")
    named = by_name(changes)
    assert set(named) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert {change.kind for change in named.values()} == {"embedding"}
    assert {change.note for change in named.values()} == {"40 rows in the base, 44 here: the first 40 compared"}
    assert named["model.embed_tokens.weight"].relative_change == pytest.approx(0.1, rel=1e-4)
    assert named["lm_head.weight"].relative_change == 0.0


def test_a_parameter_that_the_adapted_file_lacks_is_named(base_of, copied, rewrite):
    folder = copied(base_of("llama"))
    rewrite(folder / MODEL, lambda tensors: tensors.pop("model.layers.1.input_layernorm.weight"))
    _, changes = opened(base_of("llama"), folder)
    (change,) = changes.others()
    assert (change.name, change.kind, change.relative_change) == ("model.layers.1.input_layernorm.weight", "norm", None)
    assert "loading would fill it at random" in change.note


def test_a_head_that_only_the_subject_has_is_no_other_change(base_of, disturbed, tmp_path):
    disturbed("bert", "BertForTokenClassification", num_labels=4).save_pretrained(tmp_path / "full")
    _, changes = opened(base_of("bert"), tmp_path / "full")
    assert not any("classifier" in name for name in by_name(changes))


def test_what_else_a_richer_class_brings_is_named(build, disturbed, tmp_path):
    build("bert", "BertForTokenClassification", num_labels=4).save_pretrained(tmp_path / "base")
    disturbed("bert").save_pretrained(tmp_path / "full")
    _, changes = opened(tmp_path / "base", tmp_path / "full")
    new = {name: change for name, change in by_name(changes).items() if "pooler" in name}
    assert {name: change.note for name, change in new.items()} == {
        "pooler.dense.weight": "the base has none",
        "pooler.dense.bias": "the base has none",
    }


def test_an_old_file_with_gamma_and_beta_is_read_by_its_meaning(base_of, copied, rewrite):
    folder = copied(base_of("bert"))

    def rename(tensors):
        for key in list(tensors):
            if "LayerNorm" in key:
                older = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                tensors[older] = tensors.pop(key)
        tensors["encoder.layer.0.output.LayerNorm.gamma"] *= 1.5

    rewrite(folder / MODEL, rename)
    _, changes = opened(base_of("bert"), folder)
    (change,) = changes.others()
    assert change.name == "encoder.layer.0.output.LayerNorm.weight"
    assert change.relative_change == pytest.approx(0.5)
    old, reverse = opened(folder, base_of("bert"))
    assert [change.name for change in reverse.others()] == ["encoder.layer.0.output.LayerNorm.weight"]
    assert old.names == changes.base.names


# Adapters


def test_bias_tuning_with_lora(base_of, adapt):
    config = lora(target_modules=["query"], bias="lora_only")
    _, changes = opened(base_of("bert"), adapt("bert", config))
    assert [(change.name, change.kind) for change in changes.others()] == [
        (f"encoder.layer.{n}.attention.self.query.bias", "bias") for n in (0, 1)
    ]
    assert len(changes.modules()) == 2


def test_a_bias_of_lora_itself_where_the_base_has_none(base_of, adapt):
    _, changes = opened(base_of("llama"), adapt("llama", lora(lora_bias=True)))
    assert [(change.kind, change.relative_change, change.note) for change in changes.others()] == [
        ("bias", None, "the base has none")
    ] * 2


def test_ia3_scales_biases_too_where_it_scales_rows(adapt, build, tmp_path):
    for parameter in (model := build("bert")).parameters():
        parameter.data += 0.1
    model.save_pretrained(tmp_path / "base")
    config = peft.IA3Config(target_modules=["query", "intermediate.dense"], feedforward_modules=["intermediate.dense"])
    _, changes = opened(tmp_path / "base", adapt("bert", config, model=model))
    assert len(changes.modules()) == 4
    assert [change.name for change in changes.others()] == [
        f"encoder.layer.{n}.attention.self.query.bias" for n in (0, 1)
    ]


def test_an_untrained_saved_parameter_is_no_change(base_of, adapt, build):
    folder = adapt("llama", lora(modules_to_save=["norm", "embed_tokens"]), trained=False)
    _, changes = opened(base_of("llama"), folder)
    assert changes.others() == []


def test_prompt_methods_change_no_parameter(base_of, adapt):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    _, changes = opened(base_of("llama"), adapt("llama", config), "CAUSAL_LM")
    assert changes.others() == []
    assert "adds tokens" in changes.why_none


def test_an_adapter_that_carries_another_base_weight_under_its_factors(base_of, adapt, rewrite):
    folder = adapt("llama", lora(target_modules=["lm_head", "q_proj"]))
    key = "base_model.model.lm_head.base_layer.weight"
    assert key in load_file(folder / ADAPTER), "PEFT saves the output layer that it adapts"
    base, same = opened(base_of("llama"), folder)
    assert same.change("lm_head").factors is not None

    def change(tensors):
        tensors[key] += 0.5

    rewrite(folder / ADAPTER, change)
    _, moved = opened(base_of("llama"), folder)
    whole, factors = moved.change("lm_head"), same.change("lm_head").factors
    assert whole.factors is None
    expected = base.weight("lm_head") + 0.5 + factors.scaling * factors.up @ factors.down
    torch.testing.assert_close(whole.adapted, expected)
