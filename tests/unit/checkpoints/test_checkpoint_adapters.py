from __future__ import annotations

import json
import math

import pytest
import torch
from peft import IA3Config, LoraConfig, VeraConfig, get_peft_model

from lorascope.checkpoints.adapters import (
    StackPart,
    is_shared,
    lora_factors,
    method_module,
    plain_name,
    read_adapter_config,
    unused_patterns,
)
from lorascope.checkpoints.tensors import open_tensors
from lorascope.errors import CheckpointError, InvalidComparison

PREFIX = "base_model.model.model.layers"


def written(tmp_path, **entries):
    raw = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, **entries}
    (tmp_path / "adapter_config.json").write_text(json.dumps(raw))
    return read_adapter_config(tmp_path)


def opened(folder):
    return read_adapter_config(folder), open_tensors(folder, "adapter_model", allow_pickle=False)


def test_scaling_is_alpha_over_rank_and_over_its_root_with_rslora(tmp_path):
    assert written(tmp_path).scaling("q_proj") == 2.0
    assert written(tmp_path, use_rslora=True).scaling("q_proj") == pytest.approx(16 / math.sqrt(8))


def test_patterns_change_rank_and_alpha_of_the_modules_they_match(tmp_path):
    config = written(tmp_path, rank_pattern={"q_proj": 4, r"layers\.1\..*k_proj": 2}, alpha_pattern={"k_proj": 3})
    assert [config.rank(f"model.layers.{n}.self_attn.{kind}_proj") for n in (0, 1) for kind in "qkv"] == [
        4, 8, 8, 4, 2, 8,
    ]  # fmt: skip
    assert config.scaling("model.layers.0.self_attn.q_proj") == 16 / 4
    assert config.scaling("model.layers.1.self_attn.k_proj") == 3 / 2


def test_patterns_that_match_nothing_are_found(tmp_path):
    config = written(tmp_path, rank_pattern={"q_proj": 4, "qkv": 2}, alpha_pattern={"model.x.v_proj": 1, "proj": 3})
    modules = ["model.x.q_proj", "model.x.v_proj"]
    assert unused_patterns(config, modules) == ["rank_pattern: qkv", "alpha_pattern: proj"]


@pytest.mark.parametrize(
    ("entries", "method", "plain"),
    [
        ({}, "lora", True),
        ({"init_lora_weights": "gaussian"}, "lora", True),
        ({"use_rslora": True}, "rslora", True),
        ({"use_dora": True}, "dora", False),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa", False),
        ({"init_lora_weights": "olora"}, "olora", False),
        ({"init_lora_weights": "eva"}, "eva", True),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "lora", False),
        ({"arrow_config": {"top_k": 2}}, "lora", False),
        ({"peft_type": "IA3"}, "ia3", False),
    ],
)
def test_methods_and_which_of_them_are_their_factors_alone(tmp_path, entries, method, plain):
    config = written(tmp_path, **entries)
    assert (config.method, config.is_plain_lora) == (method, plain)


def test_factors_are_the_whole_change_of_targeted_parameters_too(tmp_path):
    config = written(tmp_path, target_parameters=["mlp.experts.down_proj"])
    assert (config.is_factored, config.is_plain_lora) == (True, False)
    assert not written(tmp_path, target_parameters=["x"], use_dora=True).is_factored
    assert not written(tmp_path, layer_replication=[[0, 2]]).is_factored
    assert written(tmp_path, layer_replication=[[0, 2]]).replicates_layers
    assert not written(tmp_path, peft_type="IA3").is_factored


@pytest.mark.parametrize(
    ("entries", "wide"),
    [({}, False), ({"use_dora": True}, False), ({"bias": "all"}, True), ({"init_lora_weights": "olora"}, True),
     ({"peft_type": "LN_TUNING"}, True), ({"peft_type": "IA3"}, False)],
)  # fmt: skip
def test_values_that_peft_would_round_to_the_bases_type_need_a_wide_one(tmp_path, entries, wide):
    assert written(tmp_path, **entries).needs_wide_base is wide


@pytest.mark.parametrize("swapped", [True, False])
def test_the_factors_of_one_expert_are_those_that_peft_multiplies(tmp_path, swapped):
    from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3}  # fmt: skip
    model = MixtralForCausalLM(MixtralConfig(**sizes)) if swapped else GptOssForCausalLM(GptOssConfig(**sizes))
    config = LoraConfig(r=4, lora_alpha=6, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    wrapper = get_peft_model(model, config).get_submodule("base_model.model.model.layers.0.mlp.experts")
    up = torch.nn.init.normal_(wrapper.lora_B["default"].weight)
    theirs = wrapper.get_delta_weight("default")
    for index in range(3):
        part = StackPart(index, 3, turned=not swapped, stacked=True)
        one, other = part.of(up, wrapper.lora_A["default"].weight)
        product = 1.5 * one @ other
        torch.testing.assert_close(product.T if part.turned else product, theirs[index])


def test_only_methods_that_subtract_their_start_rewrite_the_base(tmp_path):
    assert written(tmp_path, init_lora_weights="pissa").rewrites_base
    assert not written(tmp_path, use_dora=True).rewrites_base
    assert not written(tmp_path).rewrites_base


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "has no peft_type"),
        ('{"r": 8}', "has no peft_type"),
        ('{"peft_type": "LORA", "lora_alpha": 8}', "needs a rank r of at least 1, not None"),
        ('{"peft_type": "LORA", "r": 0, "lora_alpha": 8}', "needs a rank r of at least 1, not 0"),
        ('{"peft_type": "LORA", "r": 8, "lora_alpha": "x"}', "needs a number as lora_alpha, not 'x'"),
    ],
)
def test_a_broken_configuration_is_refused_by_name(tmp_path, text, problem):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=problem) as error:
        read_adapter_config(tmp_path)
    assert error.value.where == str(tmp_path / "adapter_config.json")


def test_factors_are_paired_by_name(adapt):
    config, tensors = opened(adapt("llama", LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"])))
    pairs = lora_factors(config, tensors)
    assert [pair.module for pair in pairs] == [
        f"model.layers.{n}.{kind}" for n in (0, 1) for kind in ("mlp.down_proj", "self_attn.q_proj")
    ]
    assert {(pair.rank, pair.scaling) for pair in pairs} == {(3, 2.0)}
    assert all(tensors.specs[pair.down].shape[0] == tensors.specs[pair.up].shape[1] == 3 for pair in pairs)


@pytest.mark.parametrize(("gone", "left"), [("lora_A", "lora_B"), ("lora_B", "lora_A")])
def test_an_unpaired_factor_is_named(adapt, rewrite, gone, left):
    folder = adapt("llama", LoraConfig(r=3, target_modules=["q_proj"]))
    key = f"{PREFIX}.1.self_attn.q_proj"
    rewrite(folder / "adapter_model.safetensors", lambda tensors: tensors.pop(f"{key}.{gone}.weight"))
    with pytest.raises(InvalidComparison) as error:
        lora_factors(*opened(folder))
    assert f"{key}.{left}.weight has no {gone} beside it" in str(error.value)


def test_a_rank_that_is_not_the_configurations(adapt, reconfigure):
    folder = adapt("llama", LoraConfig(r=4, target_modules=["q_proj"]))
    reconfigure(folder / "adapter_config.json", r=8)
    with pytest.raises(InvalidComparison, match=r"gives rank 8, the tensors have 4 \(A\) and 4 \(B\)") as error:
        lora_factors(*opened(folder))
    assert "model.layers.0.self_attn.q_proj" in str(error.value.where)
    assert "rank_pattern" in str(error.value.remedy)


def test_owners_come_from_names_of_the_method(adapt):
    assert method_module(f"{PREFIX}.0.mlp.down_proj.lora_A.weight", "LORA") == "model.layers.0.mlp.down_proj"
    assert method_module(f"{PREFIX}.0.mlp.down_proj.hada_w1_a", "LOHA") == "model.layers.0.mlp.down_proj"
    assert method_module(f"{PREFIX}.0.mlp.down_proj.ia3_l", "LORA") is None
    assert method_module("base_model.model.embed.base_layer.weight", "LORA") == "embed"
    assert method_module("base_model.model.classifier.weight", "LORA") is None
    assert plain_name("base_model.model.classifier.weight") == "classifier.weight"
    assert plain_name("base_model.classifier.weight") == "classifier.weight"


def test_every_tensor_of_real_adapters_has_an_owner_or_is_shared(adapt):
    for name, config in {
        "ia3": IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "vera": VeraConfig(r=2, target_modules=["q_proj", "o_proj"], save_projection=True),
    }.items():
        read, tensors = opened(adapt("llama", config, name))
        owners = {method_module(key, read.peft_type) for key in tensors.specs if not is_shared(key)}
        assert None not in owners
        assert any(is_shared(key) for key in tensors.specs) == (name == "vera")
