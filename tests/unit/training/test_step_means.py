"""How a step's rows are divided into batches changes neither its loss nor its weights, for any model and kind."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from lorascope.schema.items import GenerateItem, LabelsItem, ScoreItem, TokensItem
from lorascope.training.counting import divides_by_count, supervised
from lorascope.training.data import TrainingData
from lorascope.training.encoding import encode_items
from lorascope.training.loading import LoadedBase
from lorascope.training.structured_dropout import compensation

WORDS = ["iron", "gold", "tin", "lead", "zinc", "silver", "a", "b", "c", "d"]
LENGTHS = [1, 2, 9, 3, 10, 1]
SGD = {
    "max_steps": 1, "optimizer": "sgd", "beta1": 0.0, "learning_rate": 0.1, "scheduler": "constant", "warmup": 0,
    "clip": None,
}  # fmt: skip


def bart(vocabulary: int):
    return BartForConditionalGeneration(BartConfig(
        vocab_size=vocabulary, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0.0, init_std=0.1, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None, max_position_embeddings=128,
    ))  # fmt: skip


def t5(vocabulary: int):
    return T5ForConditionalGeneration(T5Config(
        vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
    ))  # fmt: skip


def bert(kind, vocabulary: int, labels: int):
    return kind(BertConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=labels, initializer_range=0.1,
        pad_token_id=0,
    ))  # fmt: skip


def answers():
    return tuple(
        GenerateItem(item_id=f"g{n}", prompt=f"Sign of {WORDS[n]}?", references=(" ".join(WORDS[: LENGTHS[n]]),))
        for n in range(6)
    )


def tagged():
    return tuple(
        TokensItem(item_id=f"t{n}", tokens=tuple(WORDS[:length]), tags=("B-M", *["O"] * (length - 1)))
        for n, length in enumerate(LENGTHS)
    )


def labelled(count: int, *, multi: bool):
    sets = [("a", "b") if multi and n == 2 else ("ab"[n % 2],) for n in range(count)]
    return tuple(
        LabelsItem(item_id=f"l{n}", text=f"{WORDS[n]} is it", labels=labels, multi=multi)
        for n, labels in enumerate(sets)
    )


def scored(count: int):
    return tuple(ScoreItem(item_id=f"s{n}", text=f"{WORDS[n]} is it", score=float(n)) for n in range(count))


@pytest.fixture
def one_step(train_signs, sign_recipe, sign_tokenizer, tmp_path):
    """Loss, its parts and the weights after one step of SGD with a batch and an accumulation."""

    def stepped(make, kind, data, batch, accumulate, **changes):
        def load(_):
            set_seed(3)
            return LoadedBase(model=make(len(sign_tokenizer)), tokenizer=sign_tokenizer, new_weights=(), notes=())

        recipe = sign_recipe(
            task={"kind": kind, "validation": {}},
            optim={**SGD, "batch_size": batch, "accumulate": accumulate, **changes.pop("optim", {})},
            evaluation={"log_every": 1, "every": 1},
            **changes,
        )
        folder = train_signs(tmp_path / f"{batch}-{accumulate}", recipe, data=data, load=load).folder
        rows = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        logged = next(row for row in rows if "loss" in row)
        return {name: logged[name] for name in logged if "loss" in name}, load_file(folder / "model.safetensors")

    return stepped


def check(one_step, make, kind, data, groupings=((6, 1), (2, 3), (1, 6)), **changes):
    (parts, weights), *others = (one_step(make, kind, data, *each, **changes) for each in groupings)
    for other_parts, other_weights in others:
        assert other_parts == pytest.approx(parts, rel=1e-4)
        for name, weight in weights.items():
            torch.testing.assert_close(other_weights[name], weight, atol=5e-6, rtol=1e-4, msg=name)
    return parts


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_texts_whatever_the_model_makes_of_the_count(one_step, tiny_llama, family):
    make = {"llama": lambda _: tiny_llama(), "bart": bart, "t5": t5}[family]
    check(one_step, make, "generate", TrainingData(train=answers()))


def test_tags_of_uneven_texts(one_step):
    data = TrainingData(train=tagged(), labels=("B-M", "O"))
    check(one_step, lambda words: bert(BertForTokenClassification, words, 2), "tokens", data)


@pytest.mark.parametrize("kind", ["one", "several", "score"])
def test_rows_in_a_short_last_batch(one_step, kind):
    outputs = 1 if kind == "score" else 2
    data = TrainingData(train=scored(5))
    if kind != "score":
        several = kind == "several"
        data = TrainingData(train=labelled(5, multi=several), labels=("a", "b"), multi_label=several)
    make = lambda words: bert(BertForSequenceClassification, words, outputs)  # noqa: E731
    check(one_step, make, "score" if kind == "score" else "labels", data, groupings=((5, 1), (2, 3)))


@pytest.mark.parametrize("kind", ["generate", "tokens", "labels"])
def test_the_consistency_term_and_penalties_too(one_step, tiny_llama, sign_tokenizer, monkeypatch, kind):
    real = compensation.consistency_loss

    def against_none(first, second, **options):
        return real(first, torch.zeros_like(second), **options)

    monkeypatch.setattr(compensation, "consistency_loss", against_none)
    make, data = {
        "generate": (lambda _: tiny_llama(), TrainingData(train=answers())),
        "tokens": (
            lambda words: bert(BertForTokenClassification, words, 2),
            TrainingData(train=tagged(), labels=("B-M", "O")),
        ),
        "labels": (
            lambda words: bert(BertForSequenceClassification, words, 2),
            TrainingData(train=labelled(5, multi=True), labels=("a", "b"), multi_label=True),
        ),
    }[kind]
    dropout = {"hidden": {"rate": 0.0}, "compensation": "kl", "branches": "one"}
    groupings = ((5, 1), (2, 3)) if kind == "labels" else ((6, 1), (2, 3))
    parts = check(one_step, make, kind, data, groupings, structured_dropout=dropout, optim={"l1": 1e-3})
    assert parts["loss_consistency"] > 0
    assert parts["loss_penalty"] > 0
    if kind == "labels":  # the mean over rows and labels
        set_seed(3)
        model = make(len(sign_tokenizer)).eval()
        texts = sign_tokenizer([item.text for item in data.train], return_tensors="pt", padding=True)
        with torch.no_grad():
            logits = model(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"]).logits
        expected = float((0.5 * (logits.sigmoid() - 0.5) * logits).mean())
        assert parts["loss_consistency"] == pytest.approx(expected, rel=1e-3)


def test_a_retry_with_smaller_batches_trains_the_same_on_tags(train_signs, sign_recipe, sign_tokenizer, tmp_path):
    def run(name, *, fails):
        tries = []

        def load(_):
            tries.append(name)
            if fails and len(tries) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            set_seed(3)
            model = bert(BertForTokenClassification, len(sign_tokenizer), 2)
            return LoadedBase(model=model, tokenizer=sign_tokenizer, new_weights=(), notes=())

        recipe = sign_recipe(
            task={"kind": "tokens", "validation": {}},
            optim={"epochs": 3, "batch_size": 4},
            evaluation={"log_every": 1},
            hardware={"out_of_memory": "accumulate"},
        )
        data = TrainingData(train=tagged(), labels=("B-M", "O"))
        outcome = train_signs(tmp_path / name, recipe, data=data, load=load)
        rows = json.loads((outcome.folder / "trainer_state.json").read_text())["log_history"]
        return [row["loss"] for row in rows if "loss" in row]

    assert run("retried", fails=True) == pytest.approx(run("straight", fails=False), rel=1e-4)


def test_only_models_that_divide_by_the_count_are_left_their_loss(tiny_llama, sign_tokenizer):
    assert divides_by_count(tiny_llama())
    for make in (bart, t5):
        model = make(len(sign_tokenizer)).train()
        assert not divides_by_count(model)
        assert model.training


def test_what_is_counted():
    asked = torch.tensor([[5, -100, 6, 7], [-100, -100, -100, 8]])
    assert supervised(asked, "generate", encoder_decoder=False) == 3
    assert supervised(asked, "generate", encoder_decoder=True) == 4
    assert supervised(asked, "tokens", encoder_decoder=False) == 4
    assert supervised(torch.zeros(3, 5), "labels", encoder_decoder=False) == 3
    assert supervised(torch.zeros(3), "score", encoder_decoder=True) == 3


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_tokens_are_counted_without_padding_and_with_what_an_encoder_decoder_writes(
    train_signs, sign_recipe, sign_tokenizer, tiny_llama, tmp_path, family
):
    def load(_):
        set_seed(3)
        model = tiny_llama() if family == "llama" else bart(len(sign_tokenizer))
        return LoadedBase(model=model, tokenizer=sign_tokenizer, new_weights=(), notes=())

    packing = family == "llama"
    recipe = sign_recipe(task={"validation": {}, "packing": packing, "max_length": 64}, optim={"epochs": 1})
    cost = train_signs(tmp_path / "run", recipe, data=TrainingData(train=answers()), load=load).cost
    rows = encode_items(answers(), recipe.task, sign_tokenizer, name="train", encoder_decoder=not packing).rows
    read = sum(len(row["input_ids"]) for row in rows)
    assert cost.tokens == read + (0 if packing else sum(len(row["labels"]) for row in rows))
