"""What applying structured dropout changes in a model, what it refuses, and that nothing of it stays."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lorascope.errors import ConfigError
from lorascope.schema.recipe import HiddenDrop, StructuredDropout
from lorascope.training.structured_dropout import apply_structured_dropout, attention

ENCODER = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
DECODER = ENCODER | {"num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}
T5_SHAPE = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 4}
BART_SHAPE = {
    "vocab_size": 64, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
MINUS = StructuredDropout(preset="hiddenkey-minus", rate=0.3)
IDS = torch.arange(3, 19).reshape(2, 8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**DECODER))


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**ENCODER))


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2)
    )


def t5():
    config = T5Config(**T5_SHAPE, num_heads=2, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def lora(base, **settings):
    return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.2, **settings))


def marked(model):
    return [name for name, module in model.named_modules() if hasattr(module, attention.MARK)]


def with_layers(layers):
    return MINUS.model_copy(update={"layers": layers})


@pytest.mark.parametrize(
    ("build", "layers", "expected"),
    [
        (llama, "auto", [2, 3, 4]),
        (llama, "all", [0, 1, 2, 3, 4]),
        (llama, "later-half", [2, 3, 4]),
        (llama, [4, 0, 4], [0, 4]),
        (bert, "auto", [0, 1, 2, 3, 4]),
        (bert, "later-half", [2, 3, 4]),
    ],
)
def test_layers(build, layers, expected):
    model = build()
    applied = apply_structured_dropout(model, with_layers(layers))
    assert [int(name.rsplit(".", 1)[1]) for name in applied.layers] == expected
    assert len(applied.hooked) == len(expected)


def test_an_encoder_decoder_drops_in_the_whole_encoder_and_the_later_decoder_but_not_in_cross_attention():
    model = t5()
    applied = apply_structured_dropout(model, MINUS)
    assert applied.layers == tuple(
        [f"encoder.block.{index}" for index in range(3)] + [f"decoder.block.{index}" for index in (2, 3)]
    )
    assert any(name.endswith("SelfAttention") for name in marked(model))
    assert not [name for name in marked(model) if "EncDec" in name or "layer.1" in name]
    bart = BartForConditionalGeneration(BartConfig(**BART_SHAPE))
    apply_structured_dropout(bart, MINUS)
    assert [name.rsplit(".", 1)[1] for name in marked(bart)] == ["self_attn"] * 3


@pytest.mark.parametrize("layers", [[5], [-1, 2], []])
def test_layers_that_are_not_there_are_refused(layers):
    model = llama()
    with pytest.raises(ConfigError, match=r"has no layer|no layer is named") as caught:
        apply_structured_dropout(model, with_layers(layers))
    assert caught.value.where == "structured_dropout.layers"
    assert "0 to 4" in caught.value.remedy
    assert untouched(model)


def untouched(model):
    return not marked(model) and model.config._attn_implementation == "sdpa" and not hooks(model)


def hooks(model):
    return [name for name, module in model.named_modules() if module._forward_hooks]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (llama, "base_model.model.model.layers.4.mlp.down_proj"),
        (bert, "base_model.model.bert.encoder.layer.4.output.dense"),
        (gpt2, "base_model.model.transformer.h.1.mlp.c_proj"),
        (t5, "base_model.model.decoder.block.3.layer.2.DenseReluDense.wo"),
    ],
)
def test_hidden_cut_is_of_base_and_adapter_together(build, expected):
    base = build()
    names = {"fan_in_fan_out": True} if isinstance(base, GPT2LMHeadModel) else {}
    model = lora(base, **names)
    apply_structured_dropout(model, StructuredDropout(preset="hiddencut", rate=0.5, layers="all"))
    assert expected in hooks(model)
    wrapper = model.get_submodule(expected)
    assert hasattr(wrapper, "base_layer")
    with torch.no_grad():
        wrapper.lora_B["default"].weight.normal_()
    given = torch.randn(2, 8, wrapper.in_features)
    whole, cut = wrapper.eval()(given), wrapper.train()(given)
    kept = cut != 0
    assert 0.2 < kept.float().mean() < 0.8
    torch.testing.assert_close(cut[kept], 2 * whole[kept])


@pytest.mark.parametrize("structure", ["column", "span"])
def test_hidden_cut_of_rows_without_an_axis_for_tokens_is_refused(structure):
    model = llama()
    dropout = StructuredDropout(hidden=HiddenDrop(structure=structure), layers="all")
    apply_structured_dropout(model, dropout)
    with pytest.raises(ConfigError, match="cannot tell rows from tokens"):
        model.train().model.layers[0].mlp(torch.randn(4, 16))


def test_other_dropouts_are_zero_beside_it_or_kept():
    model = lora(bert())
    applied = apply_structured_dropout(model, MINUS)
    assert applied.zeroed["base_model.model.bert.embeddings.dropout.p"] == 0.1
    assert applied.zeroed["base_model.model.bert.encoder.layer.0.output.dense.lora_dropout.default.p"] == 0.2
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    assert model.peft_config["default"].lora_dropout == 0.2
    assert model.config.hidden_dropout_prob == 0.1
    applied.remove()
    kept = apply_structured_dropout(model, MINUS.model_copy(update={"other_dropouts": "keep"}))
    assert not kept.zeroed
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.1, 0.2}


def test_dropouts_that_layers_keep_as_numbers_are_zero_too():
    model = t5()
    applied = apply_structured_dropout(model, MINUS)
    assert applied.zeroed["decoder.block.0.layer.1.EncDecAttention.dropout"] == 0.1
    assert model.decoder.block[0].layer[1].EncDecAttention.dropout == 0.0
    applied.remove()
    assert model.decoder.block[0].layer[1].EncDecAttention.dropout == 0.1
    assert model.config.dropout_rate == 0.1


@pytest.mark.parametrize("build", [llama, bert, t5])
@pytest.mark.parametrize("wrapped", [False, True])
def test_remove_restores_everything(build, wrapped):
    model = lora(build()) if wrapped else build()
    given = {"input_ids": IDS} | ({"labels": IDS} if build is t5 else {})
    before, attributes = trained_output(model, given), everything(model)
    applied = apply_structured_dropout(model, MINUS)
    assert not torch.equal(trained_output(model, given), before)
    applied.remove()
    applied.remove()
    assert everything(model) == attributes
    assert torch.equal(trained_output(model, given), before)


def trained_output(model, given):
    torch.manual_seed(1)
    return model.train()(**given).logits


def everything(model):
    """Attributes of all modules that are plain values, attention by configuration, and hooks."""
    plain = {
        (name, attribute): value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, (int, float, str)) or value is None
    }
    names = {name: set(vars(module)) for name, module in model.named_modules()}
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    used = [getattr(config, "_attn_implementation", None) for config in configs]
    return plain, names, hooks(model), used


def test_nothing_is_saved_of_it(tmp_path):
    plain, changed = llama(), llama()
    apply_structured_dropout(changed, MINUS)
    for name, model in (("plain", plain), ("changed", changed)):
        model.save_pretrained(tmp_path / name)
    configs = [json.loads((tmp_path / name / "config.json").read_text("utf-8")) for name in ("plain", "changed")]
    assert configs[0] == configs[1]
    assert "lorascope" not in (tmp_path / "changed" / "config.json").read_text("utf-8")
    assert plain.state_dict().keys() == changed.state_dict().keys()
    assert LlamaForCausalLM.from_pretrained(tmp_path / "changed").config._attn_implementation == "sdpa"
    adapter = lora(llama())
    apply_structured_dropout(adapter, MINUS)
    adapter.save_pretrained(tmp_path / "adapter")
    written = (tmp_path / "adapter" / "adapter_config.json").read_text("utf-8")
    assert "lorascope" not in written
    assert json.loads(written)["lora_dropout"] == 0.2


def test_the_description_says_what_was_done():
    dropout = StructuredDropout(preset="hiddenkey", rate=0.1, branches="one", weight=0.5, layers=[0, 1, 3])
    applied = apply_structured_dropout(lora(llama()), dropout)
    assert applied.description == (
        "structured dropout: DropKey by column, rate 0.1; HiddenCut by element, rate 0.1; "
        "layers: model.layers 0–1, 3 of 5; compensation kl, one branch, weight 0.5; 35 other dropouts set to 0"
    )


def test_a_seed_fixes_the_masks():
    outputs = []
    for _ in range(2):
        model = llama()
        apply_structured_dropout(model, MINUS, seed=11)
        outputs.append(model.train()(input_ids=IDS).logits)
    assert torch.equal(*outputs)
    state = torch.get_rng_state()
    apply_structured_dropout(llama_without_drawing(), MINUS)
    assert torch.equal(torch.get_rng_state(), state)


def llama_without_drawing():
    with torch.random.fork_rng():
        return llama()


def deberta():
    return DebertaV2ForSequenceClassification(DebertaV2Config(**ENCODER))


def falcon():
    return FalconForCausalLM(FalconConfig(**ENCODER, bos_token_id=1, eos_token_id=2))


@pytest.mark.parametrize("build", [deberta, falcon])
def test_attention_that_is_not_exchangeable_is_refused_by_the_models_name(build):
    model = build()
    with pytest.raises(ConfigError, match="is its own and cannot be exchanged") as caught:
        apply_structured_dropout(model, MINUS)
    assert type(model).__name__ in caught.value.problem
    assert "hiddencut" in caught.value.remedy
    assert not marked(model)
    assert not hooks(model)


def test_hidden_cut_alone_needs_no_attention_of_ours():
    model = deberta()
    applied = apply_structured_dropout(model, StructuredDropout(preset="hiddencut"))
    assert applied.hooked[0] == "deberta.encoder.layer.0.output.dense"
    assert model.config._attn_implementation != attention.IMPLEMENTATION


def test_a_mixture_of_experts_is_refused_for_hidden_cut_alone():
    model = MixtralForCausalLM(MixtralConfig(**DECODER, num_local_experts=2, num_experts_per_tok=1))
    with pytest.raises(ConfigError, match="mixture of experts of MixtralForCausalLM") as caught:
        apply_structured_dropout(model, MINUS)
    assert "dropkey" in caught.value.remedy
    assert untouched(model)
    assert apply_structured_dropout(model, StructuredDropout(preset="dropkey")).layers


def test_a_feed_forward_that_is_not_known_is_refused_with_its_layers():
    model = llama()
    for block in model.model.layers:
        block.mlp.narrowing = block.mlp.down_proj
        del block.mlp.down_proj
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM is not known.*mlp\.narrowing"):
        apply_structured_dropout(model, MINUS)
    assert untouched(model)


def test_other_attention_than_sdpa_is_refused():
    model = llama()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ConfigError, match="loaded with the attention flash_attention_2") as caught:
        apply_structured_dropout(model, MINUS)
    assert "sdpa" in caught.value.remedy.lower()


def test_twice_is_refused():
    model = llama()
    applied = apply_structured_dropout(model, MINUS)
    with pytest.raises(ConfigError, match="already"):
        apply_structured_dropout(model, MINUS)
    applied.remove()
    apply_structured_dropout(model, MINUS)
