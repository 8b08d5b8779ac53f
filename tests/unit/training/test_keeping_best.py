"""What is kept is what was measured; and what a run says that ended before its last step and was killed then."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertForSequenceClassification, set_seed

from lorascope.schema.items import LabelsItem
from lorascope.training import running
from lorascope.training.collapse import CollapseAlarm, CollapseNotice
from lorascope.training.collating import collator_for
from lorascope.training.data import TrainingData
from lorascope.training.encoding import encode_items
from lorascope.training.loading import LoadedBase


class Killed(Exception):
    pass


@pytest.fixture
def killed_before_publishing(monkeypatch):
    """A function that runs something as if it were killed after its last step."""

    def kill(*_):
        raise Killed

    def killed(run):
        with monkeypatch.context() as patched:
            patched.setattr(running, "_publish", kill)
            with pytest.raises(Killed):
                run()

    return killed


@pytest.fixture
def misled(sign_items):
    """Data whose validation answers are nonsense, so that an early evaluation is best."""
    wrong = tuple(replace(item, references=("zzzz",)) for item in sign_items[:4])
    return TrainingData(train=sign_items, validation={"first": wrong, "second": sign_items[4:]})


def reloaded_loss(folder, items, recipe, base, tokenizer):
    model = PeftModel.from_pretrained(base, folder).eval()
    batch = collator_for(model, tokenizer)(encode_items(items, recipe.task, tokenizer, name="v").rows)
    with torch.no_grad():
        return float(model(**batch).loss)


@pytest.mark.parametrize("name", ["p-tuning", "lora"])
@pytest.mark.parametrize("killed", [False, True], ids=["straight", "killed after it stopped"])
def test_the_adapter_that_is_kept_has_the_recorded_loss(
    train_signs, sign_recipe, sign_tokenizer, tiny_llama, misled, tmp_path, killed_before_publishing, name, killed
):
    recipe = sign_recipe(
        method={"name": name, "rank": 4} if name == "lora" else {"name": name, "virtual_tokens": 4},
        optim={"epochs": 8, "learning_rate": 0.1, "warmup": 0.0, "early_stopping": {"patience": 3}},
        evaluation={"keep": "best", "every": 2},
    )
    run = lambda: train_signs(tmp_path / "run", recipe, data=misled)  # noqa: E731
    if killed:
        killed_before_publishing(run)
    outcome = run()
    assert 0 < outcome.kept_step < outcome.cost.steps
    found = reloaded_loss(outcome.folder, misled.validation["first"], recipe, tiny_llama(), sign_tokenizer)
    assert found == pytest.approx(outcome.metrics["eval_first_loss"], rel=1e-3)


def test_the_last_prompts_are_saved_too_where_the_run_was_killed_after_it_stopped(
    train_signs, sign_recipe, sign_tokenizer, tiny_llama, misled, tmp_path, killed_before_publishing
):
    recipe = sign_recipe(
        method={"name": "p-tuning", "virtual_tokens": 4},
        optim={"epochs": 8, "learning_rate": 0.1, "warmup": 0.0, "early_stopping": {"patience": 2}},
        evaluation={"every": 2},
    )
    run = lambda: train_signs(tmp_path / "run", recipe, data=misled)  # noqa: E731
    killed_before_publishing(run)
    outcome = run()
    assert outcome.kept_step == outcome.cost.steps < 24
    found = reloaded_loss(outcome.folder, misled.validation["first"], recipe, tiny_llama(), sign_tokenizer)
    assert found == pytest.approx(outcome.metrics["eval_first_loss"], rel=1e-3)


def test_that_no_evaluation_was_better_than_the_base_is_said(train_signs, sign_recipe, tmp_path):
    recipe = sign_recipe(
        optim={"max_steps": 4, "learning_rate": 0.8, "warmup": 0.0}, evaluation={"keep": "best", "every": 2}
    )
    said = []
    outcome = train_signs(tmp_path / "run", recipe, say=said.append)
    rows = json.loads((outcome.folder / "trainer_state.json").read_text())["log_history"]
    losses = {row["step"]: row["eval_first_loss"] for row in rows if "eval_first_loss" in row}
    assert min(losses, key=losses.get) == 0
    (note,) = [note for note in outcome.notes if "better than the base" in note]
    assert note in said
    assert f"{losses[0]:.4g} before" in note
    assert f"step {outcome.kept_step}" in note


def test_the_cost_of_a_run_killed_after_it_stopped_is_that_of_its_steps(
    train_signs, sign_recipe, tmp_path, killed_before_publishing, monkeypatch
):
    recipe = sign_recipe(
        optim={"learning_rate": 0.5, "warmup": 0.0, "epochs": 12, "early_stopping": {"patience": 2}},
        evaluation={"every": 2},
    )
    spent = {}
    elapsed = running.ProgressCallback.elapsed

    def seen(self):
        spent["clock"] = self
        return elapsed(self)

    monkeypatch.setattr(running.ProgressCallback, "elapsed", seen)
    killed_before_publishing(lambda: train_signs(tmp_path / "run", recipe))
    steps = spent["clock"].step_seconds
    cost = train_signs(tmp_path / "run", recipe).cost
    assert spent["clock"].resumed
    assert spent["clock"].step_seconds == pytest.approx(steps)
    assert cost.train_seconds >= steps
    assert cost.tokens_per_second == pytest.approx(cost.tokens / steps)
    assert cost.peak_memory_bytes > 0


def test_what_the_collapse_alarm_said_of_outputs_stays_said(
    train_signs, sign_recipe, sign_tokenizer, tmp_path, killed_before_publishing, monkeypatch
):
    heard = CollapseNotice(kind="collapse", step=1, text="the outputs hardly vary", advice=None)
    monkeypatch.setattr(CollapseAlarm, "evaluation", lambda *_: heard)
    monkeypatch.setattr(CollapseAlarm, "train_loss", lambda *_: None)
    items = tuple(LabelsItem(item_id=str(n), text=f"item {n}", labels=("ab"[n % 2],), multi=False) for n in range(6))
    data = TrainingData(train=items, validation={"first": items}, labels=("a", "b"))

    def load(_):
        set_seed(3)
        config = BertConfig(
            vocab_size=len(sign_tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, num_labels=2, pad_token_id=0,
        )  # fmt: skip
        return LoadedBase(
            model=BertForSequenceClassification(config), tokenizer=sign_tokenizer, new_weights=(), notes=()
        )

    recipe = sign_recipe(
        task={"kind": "labels", "validation": {"first": "a"}},
        optim={"learning_rate": 0.5, "warmup": 0.0, "epochs": 12, "early_stopping": {"patience": 1}},
        evaluation={"every": 1},
    )
    said = []
    run = lambda: train_signs(tmp_path / "run", recipe, data=data, load=load, say=said.append)  # noqa: E731
    killed_before_publishing(run)
    assert run().notes.count(heard.text) == 1
    assert said.count(heard.text) == 1
