from __future__ import annotations

from dataclasses import replace

import pytest

from lorascope.errors import ConfigError, DataError
from lorascope.training.from_scratch import byte_level_tokenizer
from lorascope.training.rows import IGNORED, PromptAnswer, encode_rows
from lorascope.training.settings import TrainingSettings

ROW = PromptAnswer("Question: Where is Oslo?\nAnswer:", " Norway")
SETTINGS = TrainingSettings()


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer([ROW.prompt + ROW.answer] * 3, vocab_size=320)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("num_train_epochs", float("inf")),
        ("r", 0),
        ("per_device_train_batch_size", -1),
        ("max_length", 0),
        ("warmup_steps", -0.1),
        ("lora_dropout", 1.0),
        ("adam_beta2", 1.0),
        ("method", "qlora"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_setting(setting, value):
    with pytest.raises(ConfigError) as caught:
        replace(SETTINGS, **{setting: value})
    assert caught.value.where == setting


def test_settings_at_their_borders_are_accepted():
    edge = replace(SETTINGS, warmup_steps=0, weight_decay=0.0, lora_dropout=0.0, r=1, max_length=1)
    assert edge.r == 1


def test_the_loss_covers_the_answer_and_its_end_alone(tokenizer):
    (row,) = encode_rows([ROW], tokenizer, SETTINGS, name="train")
    asked = [token for token in row["labels"] if token != IGNORED]
    assert tokenizer.decode(asked, skip_special_tokens=True) == " Norway"
    assert asked[-1] == tokenizer.eos_token_id
    given = row["input_ids"][: row["labels"].count(IGNORED)]
    assert given == tokenizer(ROW.prompt)["input_ids"]
    assert given[0] == tokenizer.bos_token_id
    assert len(row["input_ids"]) == len(row["labels"]) == len(row["attention_mask"])


def test_without_answer_only_the_prompt_counts_as_well(tokenizer):
    (row,) = encode_rows([ROW], tokenizer, replace(SETTINGS, answer_only=False), name="train")
    assert row["labels"] == row["input_ids"]


def test_a_token_that_reaches_over_the_border_belongs_to_the_answer(tokenizer):
    joined = PromptAnswer("Question: Where is Oslo?\nAns", "wer: Norway")
    (row,) = encode_rows([joined], tokenizer, SETTINGS, name="train")
    given = row["labels"].count(IGNORED)
    assert given < len(tokenizer(joined.prompt)["input_ids"])
    assert row["labels"][given:] == row["input_ids"][given:]
    assert "Answer" in tokenizer.decode(row["labels"][given:])


def test_an_end_that_the_tokenizer_adds_is_not_doubled(tokenizer):
    class Ending:
        eos_token_id = 9

        def __call__(self, text):
            return {"input_ids": [*range(10, 10 + len(text)), 9]}

    (row,) = encode_rows([PromptAnswer("ab", "cd")], Ending(), SETTINGS, name="train")
    assert row["input_ids"] == [10, 11, 12, 13, 9]
    assert row["labels"] == [IGNORED, IGNORED, 12, 13, 9]


def test_a_row_that_is_too_long_is_named(tokenizer):
    with pytest.raises(DataError, match="more than max_length = 4") as caught:
        encode_rows([ROW], tokenizer, replace(SETTINGS, max_length=4), name="val1")
    assert caught.value.where == "val1, row 1"


def test_an_empty_answer_is_named(tokenizer):
    with pytest.raises(DataError, match="empty") as caught:
        encode_rows([ROW, PromptAnswer("Why?", "  ")], tokenizer, SETTINGS, name="train")
    assert caught.value.where == "train, row 2"


def test_no_rows_are_refused(tokenizer):
    with pytest.raises(DataError, match="nothing to train"):
        encode_rows([], tokenizer, SETTINGS, name="train")


def test_the_tokenizer_writes_every_text_back(tokenizer):
    for text in (" Norway", "naïve 鍋 \t x\n", "unseen words!"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
