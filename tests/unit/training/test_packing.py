from __future__ import annotations

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lorascope.errors import ConfigError
from lorascope.training.collating import Collator
from lorascope.training.encoding import IGNORED
from lorascope.training.packing import check_packing, pack_rows

ROTARY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": False}
LENGTHS = (9, 3, 14, 1, 6, 11, 2, 16)


def rows(lengths=LENGTHS):
    draws = torch.Generator().manual_seed(3)
    made = []
    for length in lengths:
        ids = torch.randint(3, 64, (length,), generator=draws).tolist()
        given = max(1, length // 3)
        made.append({"input_ids": ids, "labels": [IGNORED] * given + ids[given:]})
    return made


MODELS = {
    "llama": lambda attention: LlamaForCausalLM(LlamaConfig(**ROTARY, **SPECIAL, attn_implementation=attention)),
    "qwen2": lambda attention: Qwen2ForCausalLM(Qwen2Config(**ROTARY, **SPECIAL, attn_implementation=attention)),
    "gpt2": lambda attention: GPT2LMHeadModel(GPT2Config(**GPT2, **SPECIAL, attn_implementation=attention)),
    "mistral": lambda attention: MistralForCausalLM(
        MistralConfig(**ROTARY, **SPECIAL, sliding_window=4, attn_implementation=attention)
    ),
}


def token_losses(model, collate, group):
    """Losses of all supervised tokens by what is predicted after which token, summed gradients on the way."""
    batch = collate(group)
    labels = batch["labels"]
    logits = model(**{name: values for name, values in batch.items() if name != "labels"}).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    )
    losses.sum().backward()
    return losses[labels[:, 1:] != IGNORED].detach().sort().values


@pytest.mark.parametrize(
    ("name", "attention"), [*((name, "sdpa") for name in MODELS), ("llama", "eager"), ("gpt2", "eager")]
)
def test_packed_items_have_the_losses_and_gradients_that_they_have_alone(name, attention):
    torch.manual_seed(0)
    model = MODELS[name](attention).eval()
    collate = Collator(pad_id=0)
    alone = token_losses(model, collate, rows())
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    packed = pack_rows(rows(), 24, seed=0)
    assert len(packed.rows) > 1  # so that short packed rows are padded beside full ones
    together = token_losses(model, collate, packed.rows)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_one_row_without_padding_gives_the_same_losses():
    torch.manual_seed(0)
    model = MODELS["llama"]("sdpa").eval()
    packed = pack_rows(rows(), 24, seed=0).rows
    padded, flat = (token_losses(model, Collator(pad_id=0, flat=flat), packed) for flat in (False, True))
    torch.testing.assert_close(flat, padded, rtol=1e-4, atol=1e-4)
    assert Collator(pad_id=0, flat=True)(packed)["input_ids"].shape == (1, sum(LENGTHS))


def test_every_item_is_in_exactly_one_row_and_no_row_is_too_long():
    packed = pack_rows(rows(), 20, seed=1)
    restored = []
    for row in packed.rows:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= 20
        starts = [place for place, position in enumerate(row["position_ids"]) if position == 0]
        for begin, end in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True):
            assert row["position_ids"][begin:end] == list(range(end - begin))
            assert row["labels"][begin] == IGNORED
            restored.append((row["input_ids"][begin:end], row["labels"][begin + 1 : end]))
    assert sorted(restored) == sorted((row["input_ids"], row["labels"][1:]) for row in rows())
    assert packed.fill == pytest.approx(sum(LENGTHS) / (20 * len(packed.rows)))


def test_packing_follows_the_seed_and_fills_rows_well():
    many = rows([1 + (7 * number) % 16 for number in range(200)])
    first, again, other = pack_rows(many, 32, seed=0), pack_rows(many, 32, seed=0), pack_rows(many, 32, seed=1)
    assert first.rows == again.rows
    assert first.rows != other.rows
    assert first.fill > 0.98
    assert f"packed into {len(first.rows)} rows of 32 tokens" in first.notes[0]


def test_rows_that_cannot_be_packed_are_refused():
    with pytest.raises(ConfigError, match="a row of 16 tokens does not fit"):
        pack_rows(rows(), 15, seed=0)
    with pytest.raises(ConfigError, match="rows with weight cannot be packed"):
        pack_rows([{**row, "weight": 1.0} for row in rows()], 32, seed=0)


@pytest.mark.parametrize("name", list(MODELS))
def test_models_that_keep_items_apart_pass_and_are_left_as_they_were(name):
    model = MODELS[name]("sdpa")
    model.train()
    model.config.use_cache = True  # a cache would take the border away; the check reads without one
    before = torch.get_rng_state()
    check_packing(model)
    check_packing(model.to(torch.bfloat16))
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "model",
    [
        BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2, **SPECIAL)),
        OPTForCausalLM(
            OPTConfig(
                vocab_size=64,
                hidden_size=32,
                ffn_dim=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                word_embed_proj_dim=32,
            )
        ),
    ],
    ids=["bloom", "opt"],
)
def test_models_in_which_items_see_each_other_are_refused_by_name(model):
    with pytest.raises(ConfigError, match=f"in {type(model).__name__} packed items see each other"):
        check_packing(model)


def test_models_that_count_positions_on_are_refused():
    model = MODELS["gpt2"]("sdpa")
    whole = model.transformer.wpe.forward
    model.transformer.wpe.forward = lambda places: whole(torch.arange(places.shape[1])[None])
    with pytest.raises(ConfigError, match="other positions"):
        check_packing(model)


def test_prompt_methods_and_encoder_decoders_are_refused():
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ConfigError, match="virtual tokens"):
        check_packing(get_peft_model(MODELS["llama"]("sdpa"), config))
    small = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ConfigError, match="encoder–decoder"):
        check_packing(T5ForConditionalGeneration(T5Config(**small, decoder_start_token_id=0)))
