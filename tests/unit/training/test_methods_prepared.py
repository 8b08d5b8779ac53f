"""Every method trains, has the number of parameters that its formula says, and loads again with the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lorascope.errors import CheckpointError, ConfigError
from lorascope.schema.recipe import Recipe
from lorascope.training.adalora import AdaLoraCallback
from lorascope.training.keeping import save_trained
from lorascope.training.methods import parameter_counts, prepare_model
from lorascope.training.pissa import base_weights, lora_layers
from lorascope.training.resuming import method_callbacks

RANK, LABELS, TOKENS = 3, 3, 4
SMALL: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 2], [9, 9, 11, 4, 3, 2]])
METHODS = [
    "full", "lora", "rslora", "dora", "adalora", "pissa", "bitfit", "prompt-tuning", "prefix-tuning", "p-tuning", "ia3",
    "bottleneck",
]  # fmt: skip


def _bert() -> Any:
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=LABELS))


def _tagger() -> Any:
    return BertForTokenClassification(BertConfig(**SMALL, num_labels=LABELS))


def _llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1))


def _gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=32))


def _t5() -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=30, decoder_start_token_id=0, **sizes))


BUILDERS: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (_bert, "labels"),
    "tagger": (_tagger, "tokens"),
    "llama": (_llama, "generate"),
    "gpt2": (_gpt2, "generate"),
    "t5": (_t5, "generate"),
}


def _recipe(kind: str, name: str, **more: Any) -> Recipe:
    method = {"name": name, "rank": RANK, "dropout": 0.0, "virtual_tokens": TOKENS, **more.pop("method", {})}
    fixed = {"version": 1, "base": "base", "out": "out", "task": {"kind": kind, "train": "x"}}
    return Recipe.model_validate({**fixed, "method": method, **more})


def _labels(kind: str) -> torch.Tensor:
    return {"labels": torch.tensor([0, 2]), "tokens": IDS % LABELS, "generate": IDS}[kind]


def _built(family: str, seed: int = 0) -> tuple[Any, str]:
    builder, kind = BUILDERS[family]
    torch.manual_seed(seed)
    return builder(), kind


def _train(model: Any, kind: str, steps: int = 3, moved: Callable[[int], None] | None = None) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    for step in range(1, steps + 1):
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=_labels(kind)).loss.backward()
        assert all(parameter.grad is not None for parameter in parameters)
        optimizer.step()
        if moved is not None:
            moved(step)
        optimizer.zero_grad()


def _logits(model: Any, kind: str) -> torch.Tensor:
    """Logits of the text's own tokens; PEFT gives those of virtual tokens in front as well."""
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS), **more).logits
    return logits[:, -IDS.shape[1] :] if kind == "generate" else logits


REFUSED = {
    ("bert", "prefix-tuning"), ("tagger", "prefix-tuning"), ("tagger", "prompt-tuning"), ("tagger", "p-tuning"),
    ("llama", "bitfit"), ("t5", "bitfit"), ("gpt2", "bottleneck"),
}  # fmt: skip


SHORTER = {
    "tagger": ["full", "lora", "prompt-tuning", "prefix-tuning", "p-tuning"],
    "gpt2": ["lora", "dora", "adalora", "pissa", "bitfit", "prompt-tuning", "prefix-tuning", "ia3", "bottleneck"],
    "t5": ["full", "lora", "pissa", "bitfit", "prompt-tuning", "prefix-tuning"],
}


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in BUILDERS for name in SHORTER.get(family, METHODS)]
)
def test_what_is_trained_is_saved_and_loads_on_the_base(family: str, name: str, tmp_path: Path) -> None:
    model, kind = _built(family)
    base = model.eval()
    base.save_pretrained(tmp_path / "base")
    before = _logits(base, kind)
    recipe = _recipe(kind, name)
    if (family, name) in REFUSED:
        with pytest.raises(ConfigError):
            prepare_model(model, recipe, total_steps=6)
        return
    prepared = prepare_model(model, recipe, total_steps=6)
    assert prepared.training
    callback = AdaLoraCallback(prepared) if name == "adalora" else None
    _train(prepared, kind, steps=6 if callback else 3, moved=callback.move if callback else None)
    after = _logits(prepared, kind)
    assert not torch.allclose(before, after, atol=1e-3)
    save_trained(prepared, tmp_path / "trained")
    assert not [*tmp_path.glob("trained/*.bin"), *tmp_path.glob("trained/README.md")]
    assert [*tmp_path.glob("trained/*.safetensors")]
    whole = type(base) if name in ("full", "bitfit") else None
    torch.manual_seed(123)  # nothing that loads may depend on what is drawn
    fresh = (
        whole.from_pretrained(tmp_path / "trained")
        if whole
        else PeftModel.from_pretrained(BUILDERS[family][0]().from_pretrained(tmp_path / "base"), tmp_path / "trained")
    )
    torch.testing.assert_close(_logits(fresh, kind), after, atol=1e-4, rtol=1e-3)


def _linear_sizes(model: Any) -> list[tuple[int, int]]:
    """(out, in) of the linear layers inside the blocks of BERT or Llama."""
    linear = [
        module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and ".layer" in name
    ]
    return [(layer.out_features, layer.in_features) for layer in linear]


HEAD = 16 * LABELS + LABELS


@pytest.mark.parametrize("name", ["lora", "rslora", "pissa", "dora", "adalora", "bottleneck"])
def test_trainable_parameters_follow_the_formulas(name: str) -> None:
    for family, head in (("bert", HEAD), ("llama", 0)):
        model, kind = _built(family)
        sizes = _linear_sizes(model) + ([(16, 16)] if family == "bert" else [])  # and BERT's pooler
        total = sum(parameter.numel() for parameter in model.parameters())
        expected = {
            "dora": sum(RANK * (out + into) + out for out, into in sizes),
            "adalora": sum(RANK * (out + into + 1) for out, into in sizes),
            "bottleneck": sum(2 * RANK * out for out, _ in sizes),
        }.get(name, sum(RANK * (out + into) for out, into in sizes))
        counts = parameter_counts(prepare_model(model, _recipe(kind, name), total_steps=10))
        assert counts.trainable == expected + head
        extra = len(sizes) if name == "adalora" else 0  # its number of ranks, which is not trained
        assert counts.total == total + expected + head + extra


def test_prompts_ia3_and_bitfit_have_few_parameters() -> None:
    expected = {
        "prompt-tuning": TOKENS * 16 + HEAD,
        "bitfit": sum(p.numel() for n, p in _bert().named_parameters() if n.endswith("bias")) + 16 * LABELS,
        "ia3": 2 * (16 + 16 + 16 + 24) + HEAD,  # keys, values, and the inputs of both dense outputs
    }
    for name, count in expected.items():
        model, kind = _built("bert")
        assert parameter_counts(prepare_model(model, _recipe(kind, name), total_steps=None)).trainable == count


def test_all_linear_leaves_head_and_output_layer_out() -> None:
    for family in BUILDERS:
        model, kind = _built(family)
        prepared = prepare_model(model, _recipe(kind, "lora"), total_steps=None)
        adapted = {name for name, _ in prepared.named_modules() if name.endswith("lora_A.default")}
        assert adapted
        assert not [name for name in adapted if "classifier" in name or "lm_head" in name]


def test_new_weights_inside_the_base_are_trained_and_saved(tmp_path: Path) -> None:
    new = ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias")
    for name in ("lora", "prompt-tuning", "ia3"):
        model, kind = _built("bert")
        model.save_pretrained(tmp_path / "base")
        prepared = prepare_model(model, _recipe(kind, name), total_steps=None, new_weights=new)
        trained = {key for key, parameter in prepared.named_parameters() if parameter.requires_grad}
        assert any("pooler.dense.modules_to_save" in key for key in trained)
        assert not any("pooler" in key and "lora_" in key for key in trained)
        _train(prepared, kind)
        after = _logits(prepared, kind)
        save_trained(prepared, tmp_path / name)
        other, _ = _built("bert", seed=9)
        base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
        base.bert.pooler.load_state_dict(other.bert.pooler.state_dict())
        torch.testing.assert_close(_logits(PeftModel.from_pretrained(base, tmp_path / name), kind), after)


def test_ranks_by_name_keep_the_scaling_where_alpha_is_left_out() -> None:
    model, kind = _built("llama")
    recipe = _recipe(kind, "lora", method={"rank_pattern": {"q_proj": 1, r"layers\.1\.mlp\.down_proj": 5}})
    prepared = prepare_model(model, recipe, total_steps=None)
    layers = dict(lora_layers(prepared))
    ranks = {name.split("model.layers.")[1]: module.r["default"] for name, module in layers.items()}
    assert ranks["0.self_attn.q_proj"] == 1
    assert ranks["1.mlp.down_proj"] == 5
    assert ranks["0.mlp.down_proj"] == RANK
    assert {module.scaling["default"] for module in layers.values()} == {2.0}


@pytest.mark.parametrize(
    ("method", "said", "near"),
    [
        ({"target_modules": ["q_porj"]}, "no module 'q_porj'", "q_proj"),
        ({"modules_to_save": ["embed_token"]}, "no module 'embed_token'", "embed_tokens"),
        ({"rank_pattern": {"v_prj": 2}}, "no adapted module 'v_prj'", "v_proj"),
    ],
)
def test_names_that_are_not_there_are_said_with_the_nearest(method: dict[str, Any], said: str, near: str) -> None:
    model, kind = _built("llama")
    with pytest.raises(ConfigError, match=said) as caught:
        prepare_model(model, _recipe(kind, "lora", method=method), total_steps=None)
    assert near in str(caught.value.remedy)


def test_impossible_wishes_are_refused() -> None:
    wishes: list[tuple[str, str, dict[str, Any], str]] = [
        ("bert", "lora", {"method": {"target_modules": ["classifier"]}}, "belongs to the head"),
        ("bert", "full", {"method": {"modules_to_save": ["pooler"]}}, "beside an adapter"),
        ("llama", "pissa", {"method": {"rank": 17}}, "singular vectors"),
        ("llama", "prefix-tuning", {"hardware": {"activation_checkpointing": True}}, "cannot compute activations"),
        ("gpt2", "bottleneck", {}, "plain linear layers"),
        ("llama", "lora", {"method": {"target_modules": ["mlp"]}}, "does not go with this llama"),
    ]
    for family, name, more, said in wishes:
        model, kind = _built(family)
        with pytest.raises(ConfigError, match=said):
            prepare_model(model, _recipe(kind, name, **more), total_steps=None)


@pytest.mark.parametrize(
    ("steps", "method", "said"),
    [
        (None, {}, "number is not known"),
        (3, {}, "no time to move ranks"),
        (100, {"target_rank": RANK}, "gives up nothing"),
        (100, {"rank": 1}, "gives up nothing"),
    ],
)
def test_adalora_needs_steps_and_ranks_to_give_up(steps: int | None, method: dict[str, Any], said: str) -> None:
    model, kind = _built("llama")
    with pytest.raises(ConfigError, match=said):
        prepare_model(model, _recipe(kind, "adalora", method=method), total_steps=steps)


def test_adalora_arrives_at_the_average_rank_that_was_asked_for() -> None:
    model, kind = _built("llama")
    prepared = prepare_model(model, _recipe(kind, "adalora", method={"rank": 4, "target_rank": 2}), total_steps=20)
    callback = AdaLoraCallback(prepared)
    _train(prepared, kind, steps=20, moved=callback.move)
    kept = [int((value != 0).sum()) for name, value in prepared.named_parameters() if "lora_E" in name]
    assert sum(kept) == 2 * len(kept)


def _arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        per_device_train_batch_size=2,
        learning_rate=0.02,
        save_steps=5,
        logging_steps=100,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        label_names=["labels"],
    )


def _run(folder: Path, name: str, checkpoint: Path | None) -> tuple[Any, TrainerState]:
    model, kind = _built("llama")
    recipe = _recipe(kind, name, method={"rank": 4})
    prepared = prepare_model(model, recipe, total_steps=12)
    callbacks = method_callbacks(prepared, recipe.method)
    generator = torch.Generator().manual_seed(4)
    rows = [torch.randint(3, 30, (6,), generator=generator) for _ in range(24)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    trainer = Trainer(model=prepared, args=_arguments(folder), train_dataset=data, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return prepared, trainer.state


@pytest.mark.parametrize("name", ["adalora", "pissa", "p-tuning"])
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    straight, _ = _run(tmp_path / "run", name, None)
    resumed, state = _run(tmp_path / "run", name, tmp_path / "run" / "checkpoint-5")
    assert state.global_step == 12
    for (key, first), (_, second) in zip(straight.named_parameters(), resumed.named_parameters(), strict=True):
        torch.testing.assert_close(first, second, msg=key)


@pytest.mark.parametrize(("name", "said"), [("adalora", "AdaLoRA's state"), ("p-tuning", "prompts' encoder")])
def test_a_checkpoint_without_the_methods_state_is_refused(name: str, said: str, tmp_path: Path) -> None:
    model, kind = _built("llama")
    recipe = _recipe(kind, name)
    (callback,) = method_callbacks(prepare_model(model, recipe, total_steps=12), recipe.method)
    with pytest.raises(CheckpointError, match=f"lacks .*{said}"):
        callback.on_train_begin(_arguments(tmp_path), TrainerState(global_step=5), TrainerControl())


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_pissa_starts_as_the_base_and_gives_the_base_back(family: str) -> None:
    model, kind = _built(family)
    before = _logits(model, kind)
    prepared = prepare_model(model, _recipe(kind, "pissa"), total_steps=None)
    torch.testing.assert_close(_logits(prepared, kind), before, atol=1e-5, rtol=1e-5)
    _train(prepared, kind)
    after = _logits(prepared, kind)
    with base_weights(prepared):
        torch.testing.assert_close(_logits(prepared, kind), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(_logits(prepared, kind), after)


@pytest.mark.parametrize("name", ["lora", "dora", "adalora", "ia3", "bottleneck", "prompt-tuning", "prefix-tuning"])
def test_every_adapter_can_be_switched_off(name: str) -> None:
    model, kind = _built("llama")
    before = _logits(model, kind)
    prepared = prepare_model(model, _recipe(kind, name), total_steps=6)
    _train(prepared, kind)
    assert not torch.allclose(_logits(prepared, kind), before, atol=1e-3)
    with base_weights(prepared):
        torch.testing.assert_close(_logits(prepared, kind), before)


def test_a_whole_model_holds_its_base_no_more() -> None:
    with pytest.raises(ValueError, match="holds its base no more"), base_weights(_bert()):
        pass


@pytest.mark.parametrize("name", ["full", "lora", "bitfit", "prompt-tuning"])
def test_activations_that_are_computed_anew_give_the_same_gradients(name: str) -> None:
    gradients = []
    for anew in (False, True):
        model, kind = _built("bert")
        recipe = _recipe(kind, name, hardware={"activation_checkpointing": anew})
        prepared = prepare_model(model, recipe, total_steps=None)
        assert prepared.is_gradient_checkpointing is anew
        torch.manual_seed(1)
        prepared(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=_labels(kind)).loss.backward()
        gradients.append([p.grad for p in prepared.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_16_bit_base_has_an_adapter_and_head_in_32_bits() -> None:
    model, kind = _built("bert")
    prepared = prepare_model(model.to(torch.bfloat16), _recipe(kind, "lora"), total_steps=None)
    types = {parameter.requires_grad: set() for parameter in prepared.parameters()}
    for parameter in prepared.parameters():
        types[parameter.requires_grad].add(parameter.dtype)
    assert types == {True: {torch.float32}, False: {torch.bfloat16}}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _train(prepared, kind)


def test_the_seed_draws_the_start() -> None:
    def first(seed: int) -> torch.Tensor:
        model, kind = _built("llama")
        prepared = prepare_model(model, _recipe(kind, "lora", seed=seed), total_steps=None)
        return next(value for name, value in prepared.named_parameters() if "lora_A" in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
