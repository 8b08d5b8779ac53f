from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorascope.errors import ConfigError
from lorascope.schema.items import LikelihoodItem, content_id
from lorascope.training.arguments import training_arguments
from lorascope.training.assembly import Surroundings, assemble
from lorascope.training.data import TrainingData
from lorascope.training.loading import LoadedBase


@pytest.fixture
def assembled(sign_items, sign_recipe, sign_tokenizer, tiny_llama, tmp_path: Path):
    """A function of a recipe's changes to what the trainer would work on."""

    def made(data: TrainingData | None = None, **changes):
        recipe = sign_recipe(**changes)
        around = Surroundings(
            arguments=training_arguments(recipe, tmp_path),
            folder=tmp_path,
            room=lambda model, tokenizer: (64, None),
            say=lambda text: None,
        )
        base = LoadedBase(model=tiny_llama(), tokenizer=sign_tokenizer, new_weights=(), notes=("loaded",))
        return assemble(
            recipe, data or TrainingData(train=sign_items, validation={"first": sign_items[:2]}), base, around
        )

    return made


def passages(count: int) -> tuple[LikelihoodItem, ...]:
    texts = [f"general text {number}" for number in range(count)]
    return tuple(LikelihoodItem(item_id=content_id({"text": text}), text=text) for text in texts)


def test_a_language_model_keeps_its_own_loss_and_the_head_of_the_notes(assembled, sign_items) -> None:
    job = assembled()
    assert job.objective.loss is None
    assert job.objective.penalties is None
    assert job.objective.compensation is None
    assert job.alarm is None
    assert (len(job.train), list(job.validation)) == (len(sign_items), ["first"])
    assert job.notes[0] == "loaded"


def test_weights_follow_their_items_and_replay_counts_like_a_mean_one(assembled, sign_items) -> None:
    weights = tuple(float(number) for number in range(len(sign_items)))
    data = TrainingData(train=sign_items, weights=weights, replay=passages(3))
    job = assembled(
        data, task={"validation": {}}, loss={"sample_weights": "w"}, replay={"data": "general", "ratio": 0.4}
    )
    plain = assembled(TrainingData(train=sign_items), task={"validation": {}})
    scaled = [weight / (sum(weights) / len(weights)) for weight in weights]
    found = {tuple(row["input_ids"]): row["sample_weight"] for row in job.train}
    for row, weight in zip(plain.train, scaled, strict=True):
        assert found[tuple(row["input_ids"])] == pytest.approx(weight)
    own = {tuple(row["input_ids"]) for row in plain.train}
    replayed = [row["sample_weight"] for row in job.train if tuple(row["input_ids"]) not in own]
    assert replayed
    assert set(replayed) == {1.0}


def test_packed_rows_have_no_weights(assembled, sign_items) -> None:
    data = TrainingData(train=sign_items, weights=(1.0,) * len(sign_items))
    with pytest.raises(ConfigError, match="packed"):
        assembled(data, task={"packing": True, "validation": {}}, loss={"sample_weights": "w"})


def test_the_best_token_stands_at_the_label_that_it_is_for(assembled) -> None:
    job = assembled(method={"name": "prompt-tuning", "virtual_tokens": 3})
    labels = torch.tensor([[5, 6, 7]])
    logits = torch.zeros(1, 6, 9)  # three virtual tokens stand in front
    for place, token in ((3, 6), (4, 7), (5, 8)):
        logits[0, place, token] = 1.0
    assert job.kept_of_logits((logits, None), labels).tolist() == [[5, 6, 7]]


def test_virtual_tokens_take_room_of_the_context(assembled) -> None:
    free = assembled()
    longest = max(len(row["input_ids"]) for row in free.train)
    job = assembled(method={"name": "prompt-tuning", "virtual_tokens": 64 - longest + 2})
    assert max(len(row["input_ids"]) for row in job.train) == longest - 2
    assert any("were cut" in note for note in job.notes)


def test_structured_dropout_is_taken_out_again(assembled) -> None:
    job = assembled(structured_dropout={"preset": "hiddenkey-minus"})
    assert any("DropKey" in note for note in job.notes)
    assert "lorascope" in job.model.config._attn_implementation
    job.finish()
    assert job.model.config._attn_implementation == "sdpa"
