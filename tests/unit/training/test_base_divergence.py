from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from lorascope.training import base_divergence
from lorascope.training.base_divergence import BaseDivergence


@pytest.fixture(scope="module")
def rows(sign_items, sign_tokenizer):
    made = []
    for item in sign_items[:3]:
        ids = sign_tokenizer(f"{item.prompt} {item.references[0]}")["input_ids"]
        made.append({"input_ids": ids, "labels": [-100] * (len(ids) - 2) + ids[-2:]})
    return made


def by_hand(rows, base, adapted):
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            p, q = (torch.log_softmax(model(ids).logits[0].double(), -1) for model in (adapted, base))
        for place in range(1, len(row["labels"])):
            if row["labels"][place] != -100:
                total += float((p[place - 1].exp() * (p[place - 1] - q[place - 1])).sum())
                count += 1
    return total / count


def test_it_is_the_mean_divergence_of_the_answers_next_tokens(rows, tiny_llama, sign_tokenizer, tmp_path):
    base, adapted = tiny_llama(3).eval(), tiny_llama(4).eval()
    measure = BaseDivergence(rows, tmp_path)
    assert measure(base, sign_tokenizer) == {"kl_to_base": 0.0}
    expected = by_hand(rows, base, adapted)
    assert measure(adapted, sign_tokenizer)["kl_to_base"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01


def test_a_resumed_run_finds_the_base_again(rows, tiny_llama, sign_tokenizer, tmp_path):
    base, adapted = tiny_llama(3).eval(), tiny_llama(4).eval()
    first = BaseDivergence(rows, tmp_path)
    first(base, sign_tokenizer)
    again = BaseDivergence(rows, tmp_path)
    assert again(adapted, sign_tokenizer) == first(adapted, sign_tokenizer)


def test_memory_is_bounded_by_reading_fewer_positions(rows, tiny_llama, sign_tokenizer, tmp_path, monkeypatch):
    base, adapted = tiny_llama(3).eval(), tiny_llama(4).eval()
    monkeypatch.setattr(base_divergence, "_MOST_BYTES", 3 * 4 * base.config.vocab_size)
    measure = BaseDivergence(rows, tmp_path)
    measure(base, sign_tokenizer)
    cut = [rows[0], {**rows[1], "labels": [*rows[1]["labels"][:-1], -100]}]
    assert measure(adapted, sign_tokenizer)["kl_to_base"] == pytest.approx(by_hand(cut, base, adapted), rel=1e-4)


def test_without_a_supervised_position_nothing_is_said(tiny_llama, sign_tokenizer, tmp_path):
    row = {"input_ids": [3, 4, 5], "labels": [-100, -100, -100]}
    assert BaseDivergence([row], tmp_path)(tiny_llama(), sign_tokenizer) == {}


def test_a_one_token_answer_counts_where_a_decoder_of_its_own_writes_it(sign_tokenizer, tiny_llama, tmp_path):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(sign_tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    row = {"input_ids": [5, 6, 7], "labels": [9]}
    assert BaseDivergence([row], tmp_path)(T5ForConditionalGeneration(config).eval(), sign_tokenizer) == {
        "kl_to_base": 0.0
    }
    first = {"input_ids": [5, 6, 7], "labels": [5, -100, -100]}
    assert BaseDivergence([first], tmp_path / "none")(tiny_llama().eval(), sign_tokenizer) == {}


@pytest.mark.parametrize("at_start", [True, False])
def test_the_base_is_read_in_the_precision_that_is_trained_in(train_signs, sign_recipe, tmp_path, at_start):
    recipe = sign_recipe(
        method={"name": "lora"},
        optim={"max_steps": 2, "learning_rate": 1e-12, "precision": "bfloat16"},
        evaluation={"every": 1, "at_start": at_start},
    )
    outcome = train_signs(tmp_path / "run", recipe, live=lambda folder, rows: [BaseDivergence(rows["first"], folder)])
    assert outcome.metrics["eval_kl_to_base"] == 0.0
