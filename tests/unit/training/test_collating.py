from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from lorascope.training.collating import Collator, collator_for, training_pad_id
from lorascope.training.encoding import IGNORED
from lorascope.training.from_scratch import byte_level_tokenizer
from lorascope.training.masking import MaskedRows


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(["where is Oslo"], vocab_size=300)


def llama(**options):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, **sizes, **options))


def test_texts_are_padded_on_the_right_and_their_labels_ignored_there(tokenizer):
    tokenizer.padding_side = "left"
    rows = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8, 9], "labels": [IGNORED, 9]}]
    batch = collator_for(llama(), tokenizer)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED, 9, IGNORED]]


def test_lengths_are_rounded_up_where_asked():
    batch = Collator(pad_id=0, multiple=8)([{"input_ids": [5] * 9, "labels": [5] * 9}])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (1, 16)


def test_labels_of_heads_keep_their_types():
    collate = Collator(pad_id=0)
    text = {"input_ids": [5, 6], "token_type_ids": [0, 1]}
    single = collate([{**text, "labels": 2}, {"input_ids": [5], "token_type_ids": [0], "labels": 0}])
    assert single["labels"].tolist() == [2, 0]
    assert single["labels"].dtype == torch.long
    assert single["token_type_ids"].tolist() == [[0, 1], [0, 0]]
    assert collate([{**text, "labels": [1.0, 0.0]}])["labels"].dtype == torch.float32
    assert collate([{**text, "labels": 0.5}])["labels"].dtype == torch.float32
    assert collate([{**text, "labels": 1, "weight": 0.25}])["weight"].tolist() == [0.25]


def test_without_a_padding_token_the_end_of_text_fills_up(tokenizer):
    plain = copy.deepcopy(tokenizer)
    plain.pad_token = None
    assert training_pad_id(llama(pad_token_id=None), plain) == tokenizer.eos_token_id
    assert training_pad_id(llama(pad_token_id=None), tokenizer) == tokenizer.pad_token_id
    assert training_pad_id(llama(pad_token_id=7), tokenizer) == 7


def test_an_encoder_decoder_gets_its_decoders_inputs_shifted(tokenizer):
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=0, decoder_start_token_id=2,
        )
    )  # fmt: skip
    rows = [{"input_ids": [5, 6, 7], "labels": [8, 2]}, {"input_ids": [5], "labels": [9, 8, 7, 2]}]
    batch = collator_for(model, tokenizer)(rows)
    assert batch["labels"].tolist() == [[8, 2, IGNORED, IGNORED], [9, 8, 7, 2]]
    assert batch["decoder_input_ids"].tolist() == [[2, 8, 2, 0], [2, 9, 8, 7]]
    assert torch.isfinite(model(**batch).loss)


def test_a_collator_can_be_sent_to_a_worker_process():
    collate = pickle.loads(pickle.dumps(Collator(pad_id=3)))
    assert collate([{"input_ids": [1], "labels": [1]}])["input_ids"].tolist() == [[1]]


ROWS = [{"input_ids": [1, *range(10, 60), 2], "labels": [IGNORED, *range(10, 60), 2]} for _ in range(40)]


class WithMask:
    all_special_ids = (0, 1, 2, 3)
    mask_token_id = 3


class WithoutMask(WithMask):
    mask_token_id = None


def test_the_asked_share_of_ordinary_tokens_becomes_the_mask():
    masked = MaskedRows(ROWS, WithMask(), 0.2, seed=0)
    hidden = 0
    for number in range(len(masked)):
        row = masked[number]
        assert row["labels"] == ROWS[number]["labels"]
        assert row["input_ids"][0] == 1
        assert row["input_ids"][-1] == 2
        changed = [new for old, new in zip(ROWS[number]["input_ids"], row["input_ids"], strict=True) if old != new]
        assert set(changed) <= {3}
        hidden += len(changed)
    assert abs(hidden / (40 * 50) - 0.2) < 4 * (0.2 * 0.8 / 2000) ** 0.5
    assert ROWS[0]["input_ids"] == [1, *range(10, 60), 2]


def test_masks_are_new_in_each_epoch_and_return_with_it():
    masked = MaskedRows(ROWS, WithMask(), 0.2, seed=0)
    first = [masked[number]["input_ids"] for number in range(5)]
    assert len({tuple(ids) for ids in first}) == 5
    masked.set_epoch(1)
    assert masked[0]["input_ids"] != first[0]
    again = MaskedRows(ROWS, WithMask(), 0.2, seed=0)
    assert [again[number]["input_ids"] for number in reversed(range(5))] == first[::-1]
    assert MaskedRows(ROWS, WithMask(), 0.2, seed=1)[0]["input_ids"] != first[0]


def test_without_a_mask_token_tokens_are_drawn_as_often_as_the_data_has_them():
    rows = [{"input_ids": [1, *[10] * 30, *[11] * 10], "labels": 0} for _ in range(200)]
    masked = MaskedRows(rows, WithoutMask(), 0.5, seed=0)
    ids = [token for number in range(200) for token in masked[number]["input_ids"]]
    assert set(ids) == {1, 10, 11}
    assert ids.count(1) == 200
    assert abs(ids.count(10) / 8000 - 0.75) < 0.03
    assert [masked[number]["input_ids"] for number in range(200)] != [row["input_ids"] for row in rows]
    assert "drawn from the training data" in masked.note


def test_the_trainer_draws_masks_anew_in_each_epoch_and_for_training_alone(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=64, **sizes, num_labels=2))
    rows = [{"input_ids": list(range(10, 40)), "labels": number % 2} for number in range(4)]
    batches = []

    class Seen(Trainer):
        def training_step(self, model, inputs, *rest):
            batches.append(inputs["input_ids"].tolist())
            return super().training_step(model, inputs, *rest)

    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    data = MaskedRows(rows, WithMask(), 0.3, seed=0)
    Seen(model=model, args=arguments, train_dataset=data, data_collator=Collator(pad_id=0)).train()
    assert len(batches) == 2
    assert sorted(batches[0]) == sorted(MaskedRows(rows, WithMask(), 0.3, seed=0)[n]["input_ids"] for n in range(4))
    assert sorted(batches[0]) != sorted(batches[1])
    assert any(3 in ids for ids in batches[1])
