"""Parts of a model that are trained alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lorascope.errors import ConfigError
from lorascope.schema.recipe import Freeze, Recipe
from lorascope.training.freezing import freeze_but, train_biases
from lorascope.training.methods import parameter_counts, prepare_model

SMALL: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


def _bert() -> Any:
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=3))


def _llama(*, tied: bool = False) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied))


def _t5() -> Any:
    return T5ForConditionalGeneration(T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2))


def _trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def _within(model: Any, *starts: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(starts)}


def test_the_head_alone() -> None:
    model = _bert()
    freeze_but(model, Freeze(train="head"))
    assert _trained(model) == {"classifier.weight", "classifier.bias"}
    assert parameter_counts(model).trainable == 8 * 3 + 3


def test_a_new_pooler_is_trained_with_the_head() -> None:
    model = _bert()
    freeze_but(model, Freeze(train="head"), ["bert.pooler.dense.weight", "bert.pooler.dense.bias"])
    assert _trained(model) == _within(model, "classifier", "bert.pooler")


def test_the_output_layer_of_a_language_model_unless_it_is_the_embedding_too() -> None:
    model = _llama()
    freeze_but(model, Freeze(train="head"))
    assert _trained(model) == {"lm_head.weight"}
    for tied in (_llama(tied=True), GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2))):
        with pytest.raises(ConfigError, match="input embedding as well"):
            freeze_but(tied, Freeze(train="head"))


@pytest.mark.parametrize(
    ("build", "count", "starts"),
    [
        (_bert, 2, ("bert.encoder.layer.1.", "bert.encoder.layer.2.", "classifier")),
        (_llama, 1, ("model.layers.2.", "lm_head")),
        (lambda: _llama(tied=True), 1, ("model.layers.2.",)),
        (_t5, 1, ("decoder.block.1.",)),
    ],
)
def test_the_last_layers(build: Callable[[], Any], count: int, starts: tuple[str, ...]) -> None:
    model = build()
    freeze_but(model, Freeze(train="last-layers", layers=count))
    assert _trained(model) == _within(model, *starts)
    assert _trained(model)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ConfigError, match="has 3 layers, fewer than 4"):
        freeze_but(_bert(), Freeze(train="last-layers", layers=4))


def test_patterns_of_names() -> None:
    model = _bert()
    freeze_but(model, Freeze(train=["*LayerNorm*", "bert.encoder.layer.0.attention.self.query.*"]))
    assert _trained(model) == {
        name for name, _ in model.named_parameters() if "LayerNorm" in name or ".0.attention.self.query." in name
    }


def test_a_pattern_that_matches_nothing_is_said_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no parameter 'classifer\.weight'") as caught:
        freeze_but(_bert(), Freeze(train=["*LayerNorm*", "classifer.weight"]))
    assert "classifier.weight" in str(caught.value.remedy)


def test_biases() -> None:
    model = _bert()
    train_biases(model)
    assert _trained(model) == {n for n, _ in model.named_parameters() if n.endswith("bias") or n == "classifier.weight"}
    with pytest.raises(ConfigError, match="llama model has no biases"):
        train_biases(_llama())


def test_what_is_frozen_gets_no_gradient_and_the_recipe_leads_there() -> None:
    task = {"kind": "labels", "train": "x"}
    recipe = Recipe.model_validate(
        {"version": 1, "base": "b", "out": "o", "task": task, "method": {"name": "full"}, "freeze": "head-only"}
    )
    model = prepare_model(_bert(), recipe, total_steps=None)
    assert _trained(model) == {"classifier.weight", "classifier.bias"}
