"""Structured dropout in whole models: what training drops, and what nothing may change."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lorascope.schema.recipe import AttentionDrop, StructuredDropout
from lorascope.training.structured_dropout import apply_structured_dropout, attention, masks

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.3,
}  # fmt: skip
ENCODER = {name: value for name, value in SHAPE.items() if name not in {"num_key_value_heads"}}
EVERY = [(kind, structure) for kind in ("dropkey", "dropattention") for structure in ("element", "column", "span")]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def llama(**changes):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE | changes))


def mistral():
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4))


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**ENCODER))


def token_bert():
    torch.manual_seed(0)
    return BertForTokenClassification(BertConfig(**ENCODER))


def gpt2():
    torch.manual_seed(0)
    config = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**config, bos_token_id=1, eos_token_id=2))


def t5():
    torch.manual_seed(0)
    config = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**config, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0))


def gemma2():
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=4))


def batch(model, length=12, rows=2, padded="right"):
    torch.manual_seed(1)
    ids = torch.randint(3, 64, (rows, length))
    mask = torch.ones_like(ids)
    if padded == "right":
        mask[0, length - 2 :] = 0
    if padded == "left":
        mask[0, :3] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    return given | ({"labels": ids} if model.config.is_encoder_decoder else {})


def attention_drop(kind="dropkey", structure="column", rate=0.5, span=0.2, layers="all"):
    drop = AttentionDrop(kind=kind, structure=structure, span=span)
    return StructuredDropout(attention=drop, rate=rate, layers=layers)


def seeded(model, seed=5, **inputs):
    torch.manual_seed(seed)
    return model(**inputs).logits


@pytest.mark.parametrize("build", [llama, mistral, bert, gpt2, t5, gemma2])
@pytest.mark.parametrize("padded", [None, "right"])
def test_in_evaluation_mode_the_output_is_that_of_before_bit_for_bit(build, padded):
    model = build().eval()
    given = batch(model, padded=padded)
    with torch.no_grad():
        before = model(**given).logits
        apply_structured_dropout(model, StructuredDropout(preset="hiddenkey-minus", rate=0.5, layers="all"))
        after = model(**given).logits
    real = given["attention_mask"].bool() if after.dim() == 3 else slice(None)
    assert torch.equal(after[real], before[real])


@pytest.mark.parametrize("build", [llama, bert, gpt2, t5, gemma2])
@pytest.mark.parametrize(("kind", "structure"), EVERY)
def test_in_training_something_is_dropped_and_gradients_are_finite(build, kind, structure):
    model = build()
    given = batch(model)
    apply_structured_dropout(model, attention_drop(kind, structure))
    evaluated = seeded(model.eval(), **given)
    model.train()
    first, again, other = (seeded(model, seed, **given) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, evaluated)
    first.square().mean().backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)


def test_a_rate_of_zero_drops_nothing():
    model = llama().train()
    given = batch(model)
    before = model(**given).logits
    apply_structured_dropout(model, StructuredDropout(preset="hiddenkey-minus", rate=0.0, layers="all"))
    assert torch.equal(model(**given).logits, before)


@pytest.mark.parametrize("build", [llama, mistral, gpt2])
@pytest.mark.parametrize(("kind", "structure"), EVERY)
@pytest.mark.parametrize("padded", [None, "left"])
def test_no_position_sees_the_future_when_nearly_every_key_is_dropped(build, kind, structure, padded):
    model = build()
    given = batch(model, padded=padded)
    apply_structured_dropout(model, attention_drop(kind, structure, rate=0.97))
    check_no_leak(model.train(), given)


def test_no_position_sees_the_future_by_the_feature_either(monkeypatch):
    monkeypatch.setattr(attention, "FEATURE_FROM", 2)
    model = llama()
    apply_structured_dropout(model, attention_drop(rate=0.97))
    check_no_leak(model.train(), batch(model, padded=None))


def check_no_leak(model, given, cut=7):
    changed = given | {"input_ids": given["input_ids"].clone()}
    changed["input_ids"][:, cut:] = (changed["input_ids"][:, cut:] + 7) % 60 + 3
    real = given["attention_mask"][:, :cut].bool()
    for seed in range(4):
        before, after = (seeded(model, seed, **each) for each in (given, changed))
        assert torch.isfinite(before).all()
        torch.testing.assert_close(before[:, :cut][real], after[:, :cut][real], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(before[:, cut:], after[:, cut:])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("kind", "structure"), EVERY)
@pytest.mark.parametrize("build", [llama, token_bert])
def test_a_padded_batch_is_the_unpadded_rows_under_the_same_masks(monkeypatch, build, kind, structure, side):
    model = build()
    lengths, total = (5, 9), 9
    apply_structured_dropout(model, attention_drop(kind, structure))
    model.train()
    torch.manual_seed(2)
    ids = [torch.randint(3, 64, (1, length)) for length in lengths]
    prescribed = [torch.rand(1, 4, length, length) < 0.5 for length in lengths]
    if structure == "column":
        prescribed = [each[:, :1, :1].expand_as(each) for each in prescribed]
    alone = []
    for row, mask in zip(ids, prescribed, strict=True):
        monkeypatch.setattr(masks, "dropped_keys", lambda *_, mask=mask, **__: mask)
        alone.append(model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0])
    places = [slice(total - length, total) if side == "left" else slice(0, length) for length in lengths]
    together = torch.rand(2, 4, total, total) < 0.5
    padded, seen = torch.zeros(2, total, dtype=torch.long), torch.zeros(2, total, dtype=torch.long)
    for index, place in enumerate(places):
        together[index, :, place, place] = prescribed[index][0]
        padded[index, place], seen[index, place] = ids[index][0], 1
    monkeypatch.setattr(masks, "dropped_keys", lambda *_, **__: together)
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    result = model(input_ids=padded, attention_mask=seen, position_ids=positions).logits
    for index, place in enumerate(places):
        torch.testing.assert_close(result[index, place], alone[index], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("kind", "structure"), EVERY)
def test_texts_packed_in_a_row_do_not_see_each_other(kind, structure):
    model = llama()
    apply_structured_dropout(model, attention_drop(kind, structure, rate=0.9))
    model.train()
    ids = batch(model, length=10)["input_ids"]
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]).expand(2, -1)
    changed = ids.clone()
    changed[:, :4] = (changed[:, :4] + 7) % 60 + 3
    before, after = (seeded(model, input_ids=each, position_ids=positions, use_cache=False) for each in (ids, changed))
    torch.testing.assert_close(before[:, 4:], after[:, 4:], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[:, :4], after[:, :4])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("kind", "structure"), EVERY)
def test_activation_checkpointing_recomputes_with_the_same_masks(kind, structure, reentrant):
    model = llama()
    given = batch(model) | {"labels": batch(model)["input_ids"]}
    dropout = attention_drop(kind, structure).model_copy(
        update={"hidden": StructuredDropout(preset="hiddencut").resolved().hidden}
    )
    apply_structured_dropout(model, dropout)
    model.train()
    expected = seeded_gradients(model, given)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    found = seeded_gradients(model, given)
    assert model.is_activation_checkpointing
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def seeded_gradients(model, given):
    model.zero_grad()
    torch.manual_seed(4)
    model(**given).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("feature_from", [2, 512])
def test_bfloat16_is_near_float32(monkeypatch, feature_from):
    monkeypatch.setattr(attention, "FEATURE_FROM", feature_from)
    model = llama(initializer_range=0.1)
    given = batch(model, padded=None)
    apply_structured_dropout(model, attention_drop(rate=0.6))
    exact = seeded(model.train(), **given)
    rough = seeded(model.to(torch.bfloat16), **given)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_query_alone_attends_to_what_it_has():
    model = llama()
    apply_structured_dropout(model, attention_drop(rate=0.99))
    one = torch.tensor([[5]])
    torch.testing.assert_close(seeded(model.train(), input_ids=one), seeded(model.eval(), input_ids=one))


def test_generation_in_evaluation_mode_is_as_before():
    model = llama().eval()
    given = {name: value[1:] for name, value in batch(model).items()}
    before = model.generate(**given, max_new_tokens=6, do_sample=False)
    apply_structured_dropout(model, StructuredDropout(preset="hiddenkey-minus", rate=0.5, layers="all"))
    assert torch.equal(model.generate(**given, max_new_tokens=6, do_sample=False), before)
