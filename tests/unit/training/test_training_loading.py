"""Bases read for training: the right class and head, what is new and what is kept, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from lorascope.errors import CheckpointError, ConfigError, UnsupportedFormat
from lorascope.schema.recipe import Recipe
from lorascope.training.loading import LoadedBase, load_for_training

LABELS = ["anger", "joy", "fear"]
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "</s>", *"abcdefghijklmnopq"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="</s>")


def _named(labels: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    small = {"vocab_size": 20, "bos_token_id": 2, "eos_token_id": 2}
    made = {
        "bert": BertModel(BertConfig(**SMALL)),
        "masked": BertForMaskedLM(BertConfig(**SMALL)),
        "classifier": BertForSequenceClassification(BertConfig(**SMALL, **_named(LABELS))),
        "score": BertForSequenceClassification(BertConfig(**SMALL, num_labels=1)),
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL, pad_token_id=None, bos_token_id=2, eos_token_id=2)),
        "bf16": LlamaForCausalLM(LlamaConfig(**SMALL)).to(torch.bfloat16),
        "gpt2": GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, **small)),
        "t5": T5ForConditionalGeneration(
            T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
        ),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        _tokenizer().save_pretrained(root / name)
    return root


def _recipe(base: Path | str, kind: str = "labels", **more: Any) -> Recipe:
    task = {"kind": kind, "train": "train.jsonl"}
    return Recipe.model_validate({"version": 1, "base": str(base), "out": "out", "task": task, **more})


def _load(base: Path, kind: str = "labels", labels: list[str] = LABELS, multi: bool = False, **more: Any) -> LoadedBase:
    given = labels if kind in ("labels", "tokens") else []
    return load_for_training(str(base), _recipe(base, kind, **more), labels=given, multi_label=multi, device=CPU)


@pytest.mark.parametrize(
    ("base", "kind", "made"),
    [
        ("llama", "generate", "LlamaForCausalLM"),
        ("t5", "generate", "T5ForConditionalGeneration"),
        ("bert", "labels", "BertForSequenceClassification"),
        ("llama", "score", "LlamaForSequenceClassification"),
        ("bert", "tokens", "BertForTokenClassification"),
    ],
)
def test_each_kind_gets_its_class(bases: Path, base: str, kind: str, made: str) -> None:
    loaded = _load(bases / base, kind)
    assert type(loaded.model).__name__ == made
    assert loaded.model.training
    assert bool(loaded.new_weights) == (kind != "generate")


@pytest.mark.parametrize(("multi", "problem"), [(True, "multi_label"), (False, "single_label")])
def test_a_new_head_has_the_labels_and_is_named(bases: Path, multi: bool, problem: str) -> None:
    loaded = _load(bases / "bert", multi=multi)
    assert loaded.new_weights == ("classifier.bias", "classifier.weight")
    assert loaded.model.config.id2label == dict(enumerate(LABELS))
    assert loaded.model.config.problem_type == f"{problem}_classification"
    assert loaded.model.classifier.weight.shape == (3, 16)
    assert any("classifier.weight" in note for note in loaded.notes)


def test_a_pooler_that_the_base_lacks_is_new_as_well(bases: Path) -> None:
    assert "bert.pooler.dense.weight" in _load(bases / "masked").new_weights


def test_the_same_seed_gives_the_same_new_head_and_another_another(bases: Path) -> None:
    first, again, other = (_load(bases / "bert", seed=seed).model.classifier.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_head_with_exactly_these_labels_is_kept(bases: Path) -> None:
    stored = BertForSequenceClassification.from_pretrained(bases / "classifier").classifier.weight
    loaded = _load(bases / "classifier")
    assert torch.equal(loaded.model.classifier.weight, stored)
    assert loaded.new_weights == ()
    assert any("kept" in note for note in loaded.notes)


@pytest.mark.parametrize("labels", [["x", "y", "z"], ["anger", "joy"]])
def test_a_head_for_other_labels_is_made_anew_even_at_the_same_size(bases: Path, labels: list[str]) -> None:
    stored = BertForSequenceClassification.from_pretrained(bases / "classifier").classifier.weight
    loaded = _load(bases / "classifier", labels=labels)
    weight = loaded.model.classifier.weight
    assert set(loaded.new_weights) == {"classifier.bias", "classifier.weight"}
    assert weight.shape[0] == len(labels)
    assert not torch.allclose(weight, stored[: len(labels)], atol=1e-3)
    assert 0.005 < weight.std() < 0.04  # drawn as transformers draws it, at initializer_range
    assert torch.equal(loaded.model.classifier.bias, torch.zeros(len(labels)))


def test_the_same_labels_in_another_order_are_refused_with_the_right_one(bases: Path) -> None:
    with pytest.raises(ConfigError, match="another order") as caught:
        _load(bases / "classifier", labels=sorted(LABELS))
    assert str(LABELS) in str(caught.value.remedy)


def test_a_score_head_is_kept_where_there_is_one(bases: Path) -> None:
    assert _load(bases / "score", "score").new_weights == ()
    made = _load(bases / "classifier", "score")
    assert set(made.new_weights) == {"classifier.bias", "classifier.weight"}
    assert (made.model.config.num_labels, made.model.config.problem_type) == (1, "regression")


def test_an_encoder_is_not_trained_to_write(bases: Path) -> None:
    with pytest.raises(CheckpointError, match="bert model is an encoder"):
        _load(bases / "bert", "generate")


def test_a_language_model_without_its_output_layer_is_refused(bases: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(bases / "llama")
    model.model.save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights for lm_head.weight"):
        _load(tmp_path, "generate")


def test_an_adapter_is_no_base(bases: Path, tmp_path: Path) -> None:
    model = get_peft_model(LlamaForCausalLM.from_pretrained(bases / "llama"), LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="base is an adapter") as caught:
        _load(tmp_path, "generate")
    assert "merge" in str(caught.value.remedy)


def test_pickled_weights_and_missing_folders_are_refused(bases: Path, tmp_path: Path) -> None:
    model = BertModel.from_pretrained(bases / "bert")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedFormat, match="pickled"):
        _load(tmp_path)
    with pytest.raises(CheckpointError, match="configuration cannot be read"):
        _load(tmp_path / "nothing")


def test_quantised_weights_are_refused_where_they_cannot_be_trained(bases: Path, tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFormat, match="gptq"):
        _load(tmp_path, "generate")
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="method full cannot train"):
        _load(tmp_path, "generate", method={"name": "full"})


@pytest.mark.parametrize(
    ("method", "precision", "expected"),
    [
        ("lora", "bfloat16", torch.bfloat16),
        ("lora", "float32", torch.float32),
        ("pissa", "bfloat16", torch.float32),
        ("full", "bfloat16", torch.float32),
    ],
)
def test_16_bit_weights_stay_so_for_adapters_that_compute_in_them(
    bases: Path, method: str, precision: str, expected: torch.dtype
) -> None:
    loaded = _load(bases / "bf16", "generate", method={"name": method}, optim={"precision": precision})
    assert loaded.model.dtype == expected
    assert precision in loaded.notes[0]


def test_float16_needs_a_gpu(bases: Path) -> None:
    with pytest.raises(ConfigError, match="float16 cannot be trained on a CPU"):
        _load(bases / "llama", "generate", optim={"precision": "float16"})


def test_the_models_own_dropout_is_set(bases: Path) -> None:
    model = _load(bases / "bert", model_dropout=0.37).model
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.37}
    gpt2 = _load(bases / "gpt2", "generate", model_dropout=0.21).model
    assert {module.p for module in gpt2.modules() if isinstance(module, torch.nn.Dropout)} == {0.21}
    assert (
        _load(bases / "llama", "generate", model_dropout=0.3).model.model.layers[0].self_attn.attention_dropout == 0.3
    )


def test_attention_is_what_the_recipe_says(bases: Path) -> None:
    assert _load(bases / "llama", "generate").model.config._attn_implementation == "sdpa"
    eager = _load(bases / "llama", "generate", hardware={"attention": "eager"})
    assert eager.model.config._attn_implementation == "eager"
    with pytest.raises(ConfigError, match="flash_attention_2"):
        _load(bases / "llama", "generate", hardware={"attention": "flash_attention_2"})


def test_a_classifier_on_a_language_model_gets_a_padding_token(bases: Path) -> None:
    loaded = _load(bases / "llama")
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id == 0
    assert any("[PAD]" in note for note in loaded.notes)


def test_words_for_tags_get_the_space_that_marks_them(bases: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(bases / "bert").save_pretrained(tmp_path)
    letters = {piece: index for index, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abc"])}
    RobertaTokenizer(vocab=letters, merges=[]).save_pretrained(tmp_path)
    tagger = _load(tmp_path, "tokens").tokenizer
    assert tagger(["a", "b"], is_split_into_words=True)["input_ids"] == [0, 5, 6, 5, 7, 2]
    assert _load(tmp_path, "labels").tokenizer("a b")["input_ids"] == [0, 6, 5, 7, 2]
