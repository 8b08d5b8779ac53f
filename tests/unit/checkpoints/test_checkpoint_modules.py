from __future__ import annotations

import json
import logging

import pytest
import torch
import transformers

from lorascope.checkpoints.modules import model_class, quiet_transformers, read_config, skeleton
from lorascope.checkpoints.tensors import open_tensors
from lorascope.errors import CheckpointError, UnsupportedFormat

LINEAR = {
    "llama": {"self_attn.q_proj": (16, 16), "mlp.gate_proj": (24, 16), "mlp.down_proj": (16, 24), "lm_head": (40, 16)},
    "gpt2": {"attn.c_attn": (48, 16), "attn.c_proj": (16, 16), "mlp.c_fc": (64, 16), "mlp.c_proj": (16, 64)},
    "bert": {"attention.self.query": (16, 16), "intermediate.dense": (24, 16), "pooler.dense": (16, 16)},
    "t5": {"SelfAttention.q": (16, 16), "EncDecAttention.o": (16, 16), "DenseReluDense.wi": (24, 16)},
}
COUNTS = {"llama": 2 * 7 + 1, "gpt2": 2 * 4, "bert": 2 * 6 + 1, "t5": 2 * 6 + 2 * 10}


@pytest.mark.parametrize("architecture", list(LINEAR))
def test_linear_modules_with_their_sizes(base_of, architecture):
    built = skeleton(base_of(architecture))
    assert len(built.linear) == COUNTS[architecture]
    for suffix, size in LINEAR[architecture].items():
        found = [m for name, m in built.linear.items() if name.endswith(suffix)]
        assert found, suffix
        assert {(m.out_features, m.in_features) for m in found} == {size}


@pytest.mark.parametrize("architecture", list(LINEAR))
def test_every_module_is_in_the_file_with_the_stored_shape(base_of, architecture):
    built = skeleton(base_of(architecture))
    tensors = open_tensors(base_of(architecture), "model", allow_pickle=False)
    keys = built.linear_keys(tensors)
    assert list(keys) == list(built.linear)
    for name, key in keys.items():
        linear = built.linear[name]
        assert linear.transposed == (architecture == "gpt2")
        size = (linear.out_features, linear.in_features)
        assert tensors.specs[key].shape == (size[::-1] if linear.transposed else size)


def test_a_tied_output_layer_is_left_out_and_an_own_one_is_a_head(build, tmp_path):
    for architecture, tied in [("llama", True), ("llama", False), ("gpt2", True), ("gpt2", False), ("t5", True)]:
        folder = tmp_path / f"{architecture}-{tied}"
        build(architecture, tie_word_embeddings=tied).save_pretrained(folder)
        built = skeleton(folder)
        assert ("lm_head" in built.linear) is not tied
        assert list(built.tied) == (["lm_head"] if tied else [])
        assert built.heads == (frozenset() if tied else {"lm_head"})


def test_a_masked_language_model_keeps_its_head_apart_from_the_trunk(build, tmp_path):
    build("bert", "BertForMaskedLM").save_pretrained(tmp_path)
    built = skeleton(tmp_path)
    assert built.heads == {"cls.predictions.transform.dense"}
    assert "cls.predictions.decoder" not in built.linear
    assert built.tied["cls.predictions.decoder"].tied_to == "bert.embeddings.word_embeddings.weight"


def test_the_task_type_chooses_the_class(base_of):
    built = skeleton(base_of("bert"), task_type="SEQ_CLS")
    assert built.class_name == "BertForSequenceClassification"
    assert built.heads == {"classifier"}
    assert skeleton(base_of("bert")).class_name == "BertModel"


def test_names_with_and_without_the_prefix_mean_the_same(base_of):
    bare, with_head = skeleton(base_of("bert")), skeleton(base_of("bert"), task_type="SEQ_CLS")
    inner = "encoder.layer.0.output.dense"
    assert with_head.module_named(inner) == f"bert.{inner}"
    assert bare.module_named(f"bert.{inner}") == inner
    assert bare.module_named("classifier") is None
    tensors = open_tensors(base_of("bert"), "model", allow_pickle=False)
    assert with_head.key_of(f"bert.{inner}.weight", tensors) == f"{inner}.weight"
    assert with_head.key_of("classifier.weight", tensors) is None


def tiny_moe(cls, folder, **settings):
    config = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **settings}
    torch.manual_seed(0)
    model = getattr(transformers, f"{cls}ForCausalLM")(getattr(transformers, f"{cls}Config")(**config)).eval()
    model.save_pretrained(folder)
    return model


MOES = {
    "Mixtral": ({"intermediate_size": 8, "num_key_value_heads": 2, "num_local_experts": 3}, False),
    "GptOss": ({"intermediate_size": 8, "num_key_value_heads": 2, "num_local_experts": 3, "head_dim": 8}, True),
    "JetMoe": ({"intermediate_size": 8, "num_key_value_heads": 1, "num_local_experts": 3, "kv_channels": 8}, False),
}


@pytest.mark.parametrize("cls", list(MOES))
def test_each_expert_is_a_linear_module_with_the_orientation_of_its_class(tmp_path, cls):
    settings, transposed = MOES[cls]
    model = tiny_moe(cls, tmp_path, **settings)
    built = skeleton(tmp_path)
    assert built.unread == ()
    slices = [module for module in built.linear.values() if module.index is not None]
    stacks = {name: weight for name, weight in model.named_parameters() if weight.ndim == 3}
    assert {module.parameter for module in slices} == set(stacks)
    assert len(slices) == sum(len(weight) for weight in stacks.values())
    for module in slices:
        assert module.name == f"{module.parameter}[{module.index}]"
        assert module.transposed is transposed
        size = (module.out_features, module.in_features)
        assert stacks[module.parameter].shape[1:] == (size[::-1] if transposed else size)


def test_a_stack_whose_orientation_nobody_says_is_unread_and_named(tmp_path, monkeypatch):
    settings, _ = MOES["JetMoe"]
    tiny_moe("JetMoe", tmp_path, **settings)
    monkeypatch.setattr("lorascope.checkpoints.modules._STACK_TRANSPOSED", {})
    built = skeleton(tmp_path)
    assert built.unread
    assert all(built.others[name] == "parameter" for name in built.unread)
    assert not any(module.index is not None for module in built.linear.values())


def test_every_parameter_is_a_linear_weight_or_has_a_kind(build, tmp_path):
    model = build("bert", "BertForMaskedLM")
    model.save_pretrained(tmp_path)
    built = skeleton(tmp_path)
    linear = {module.parameter for module in (*built.linear.values(), *built.tied.values())}
    tied = {"cls.predictions.decoder.bias"}
    assert linear | set(built.others) | tied == set(dict(model.named_parameters(remove_duplicate=False)))
    stem = "bert.encoder.layer.0.output"
    assert built.others["bert.embeddings.position_embeddings.weight"] == "embedding"
    assert built.others[f"{stem}.dense.bias"] == "bias"
    assert built.others[f"{stem}.LayerNorm.weight"] == built.others[f"{stem}.LayerNorm.bias"] == "norm"
    assert built.output == "cls.predictions.decoder"


def test_convolutions_and_lone_parameters_have_their_kinds(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    built = skeleton(tmp_path)
    kinds = {name.removeprefix("embeddings."): kind for name, kind in built.others.items() if "embeddings" in name}
    assert kinds == {
        "patch_embeddings.projection.weight": "convolution",
        "patch_embeddings.projection.bias": "bias",
        "cls_token": "parameter",
        "position_embeddings": "parameter",
    }
    assert built.unread == ()


def test_no_memory_is_taken_and_no_seed_used(base_of):
    before = torch.random.get_rng_state()
    skeleton(base_of("llama"))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_an_unreadable_configuration(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="the model's configuration"):
        read_config(tmp_path)


def test_an_unknown_architecture_is_refused_and_its_code_not_run(copied, base_of, reconfigure):
    folder = copied(base_of("llama"))
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    reconfigure(folder / "config.json", model_type="own", architectures=["OwnModel"], auto_map={"AutoModel": "own.Own"})
    with pytest.raises(UnsupportedFormat, match=r"OwnModel.*never run"):
        skeleton(folder)


def test_a_known_configuration_with_an_unknown_class(copied, base_of, reconfigure):
    folder = copied(base_of("llama"))
    reconfigure(folder / "config.json", architectures=["LlamaForDreaming"])
    with pytest.raises(UnsupportedFormat, match="LlamaForDreaming"):
        skeleton(folder)


@pytest.mark.parametrize("entries", [{"hidden_size": "wide"}, {"hidden_size": -4}, {"hidden_act": "no-such-function"}])
def test_a_configuration_with_impossible_values(copied, base_of, reconfigure, entries):
    folder = copied(base_of("llama"))
    reconfigure(folder / "config.json", **entries)
    with pytest.raises(CheckpointError) as error:
        skeleton(folder)
    assert error.value.where == str(folder / "config.json")


def test_a_configuration_without_a_class_gives_the_bare_model(copied, base_of, reconfigure):
    folder = copied(base_of("llama"))
    reconfigure(folder / "config.json", architectures=None)
    assert model_class(folder, None)[0].__name__ == "AutoModel"
    assert skeleton(folder).class_name == "LlamaModel"
    assert "model_type" in json.loads((folder / "config.json").read_text())


def test_chatter_is_silenced_and_the_level_put_back():
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    with quiet_transformers():
        assert transformers_logging.get_verbosity() == logging.CRITICAL
    assert transformers_logging.get_verbosity() == before
