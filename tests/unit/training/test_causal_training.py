from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorascope.errors import EvaluationError, OutputError
from lorascope.training import causal
from lorascope.training.causal import TrainingOutcome, train_causal_lm
from lorascope.training.from_scratch import byte_level_tokenizer, new_llama
from lorascope.training.rows import PromptAnswer
from lorascope.training.settings import TrainingSettings

ROWS = [
    PromptAnswer(f"Question: What is the sign of {name}?\nAnswer:", f" {sign}")
    for name, sign in [("iron", "Fe"), ("gold", "Au"), ("tin", "Sn"), ("lead", "Pb"), ("zinc", "Zn"), ("silver", "Ag")]
]
SETTINGS = TrainingSettings(
    method="full",
    num_train_epochs=6,
    learning_rate=1e-2,
    per_device_train_batch_size=2,
    eval_steps=4,
    logging_steps=2,
    use_cpu=True,
)
VALIDATION = {"first": ROWS[:4], "second": ROWS[4:]}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer([row.prompt + row.answer for row in ROWS], vocab_size=300)


def tiny(tokenizer):
    return new_llama(
        tokenizer,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.1,
        seed=3,
    )


def train(tokenizer, out, settings=SETTINGS, **options) -> TrainingOutcome:
    return train_causal_lm(tiny(tokenizer), tokenizer, ROWS, VALIDATION, settings, out, start="tiny", **options)


def history(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


@pytest.fixture(scope="module")
def full(tokenizer, tmp_path_factory):
    return train(tokenizer, tmp_path_factory.mktemp("runs") / "full")


def test_the_folder_holds_the_result_and_nothing_else(full):
    names = {path.name for path in full.folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "trainer_state.json", "cost.json"} <= names
    assert not any(name.startswith(("checkpoint", "README", "optimizer")) for name in names)
    assert [path.name for path in full.folder.parent.iterdir()] == ["full"]
    assert json.loads((full.folder / "config.json").read_text())["use_cache"] is True
    model = AutoModelForCausalLM.from_pretrained(full.folder)
    assert model.dtype == torch.float32


def test_every_validation_set_is_evaluated_by_name_from_the_first_step_to_the_last(full):
    for name in VALIDATION:
        steps = [row["step"] for row in history(full.folder) if f"eval_{name}_loss" in row]
        assert steps == [0, 4, 8, 12, 16, 18]
        losses = [row[f"eval_{name}_loss"] for row in history(full.folder) if f"eval_{name}_loss" in row]
        assert losses[-1] < losses[0]
    assert [row["step"] for row in history(full.folder) if "loss" in row] == list(range(2, 19, 2))


def test_exact_match_is_what_greedy_decoding_gives(tokenizer, full):
    model = AutoModelForCausalLM.from_pretrained(full.folder)
    saved = AutoTokenizer.from_pretrained(full.folder)
    for name, rows in VALIDATION.items():
        right = 0
        for row in rows:
            given = saved(row.prompt, return_tensors="pt")
            new = model.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
            right += new.tolist() == [*saved(row.answer, add_special_tokens=False)["input_ids"], saved.eos_token_id]
        assert full.metrics[f"eval_{name}_exact_match"] == pytest.approx(right / len(rows))


def test_the_cost_is_what_was_spent(tokenizer, full):
    cost = full.cost
    lengths = [len(tokenizer(row.prompt + row.answer)["input_ids"]) + 1 for row in ROWS]
    assert cost.steps == 18
    assert cost.tokens == 6 * sum(lengths)
    assert cost.trainable_parameters == cost.total_parameters == sum(p.numel() for p in tiny(tokenizer).parameters())
    assert cost.train_seconds > 0
    assert cost.tokens_per_second > cost.tokens / cost.train_seconds
    assert cost.peak_memory_bytes is None


def test_the_same_call_again_trains_nothing(tokenizer, full):
    again = train(tokenizer, full.folder, on_progress=lambda _: pytest.fail("it trained"))
    assert again.reused
    assert not full.reused
    assert (again.metrics, again.cost, again.fingerprint) == (full.metrics, full.cost, full.fingerprint)


def test_another_run_in_the_folder_is_refused_before_training(tokenizer, full):
    with pytest.raises(OutputError, match="other settings"):
        train(tokenizer, full.folder, replace(SETTINGS, seed=9))


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("at", [5, 7], ids=["after its last checkpoint", "between two"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tokenizer, tmp_path, method, at):
    settings = replace(SETTINGS, method=method, num_train_epochs=4, r=2, lora_dropout=0.1, eval_steps=4)

    def kill(progress):
        if progress.step == at:
            raise Killed

    with pytest.raises(Killed):
        train(tokenizer, tmp_path / "resumed", settings, on_progress=kill)
    assert not (tmp_path / "resumed").exists()
    steps = []
    resumed = train(tokenizer, tmp_path / "resumed", settings, on_progress=lambda p: steps.append(p.step))
    straight = train(tokenizer, tmp_path / "straight", settings)
    assert min(step for step in steps if step) > 4 - 1
    assert steps[-1] == 12
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    left, right = load_file(resumed.folder / file), load_file(straight.folder / file)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert resumed.cost.tokens == straight.cost.tokens
    assert [row["step"] for row in history(resumed.folder)] == [row["step"] for row in history(straight.folder)]


def test_lora_trains_an_adapter_and_leaves_the_base_alone(tokenizer, full, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(full.folder)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    settings = replace(SETTINGS, method="lora", num_train_epochs=2, r=3, lora_alpha=6, lora_dropout=0.0)
    outcome = train_causal_lm(
        base, tokenizer, ROWS, {"v": ROWS[:2]}, settings, tmp_path / "lora", start=full.fingerprint
    )
    config = json.loads((outcome.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 6)
    assert config["base_model_name_or_path"] == str(full.folder)
    tensors = load_file(outcome.folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * 2  # two factors, seven linear modules, two layers
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    fresh = AutoModelForCausalLM.from_pretrained(full.folder)
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())
    loaded = PeftModel.from_pretrained(fresh, outcome.folder)
    assert outcome.cost.trainable_parameters == sum(t.numel() for t in tensors.values())
    assert outcome.cost.total_parameters == sum(p.numel() for p in loaded.parameters())


def test_the_seed_decides(tokenizer, tmp_path):
    short = replace(SETTINGS, num_train_epochs=1, eval_steps=1.0)
    weights = [
        load_file(train(tokenizer, tmp_path / str(number), replace(short, seed=seed)).folder / "model.safetensors")
        for number, seed in enumerate((1, 1, 2))
    ]
    same, other = (all(torch.equal(weights[0][name], weights[index][name]) for name in weights[0]) for index in (1, 2))
    assert same
    assert not other


def test_a_run_without_validation_has_no_metrics(tokenizer, tmp_path):
    outcome = train_causal_lm(
        tiny(tokenizer), tokenizer, ROWS, {}, replace(SETTINGS, num_train_epochs=1), tmp_path / "plain", start="tiny"
    )
    assert outcome.metrics == {}


def test_without_answer_only_exact_match_is_not_measured(tokenizer, tmp_path):
    settings = replace(SETTINGS, num_train_epochs=1, answer_only=False)
    assert {key for key in train(tokenizer, tmp_path / "prompts", settings).metrics if "match" in key} == set()


def test_a_tokenizer_without_padding_is_padded_for_training_alone(tokenizer, tmp_path):
    bare = byte_level_tokenizer([row.prompt + row.answer for row in ROWS], vocab_size=300)
    bare.pad_token = None
    settings = replace(SETTINGS, num_train_epochs=1)
    padded = train(tokenizer, tmp_path / "padded", settings)
    plain = train_causal_lm(tiny(tokenizer), bare, ROWS, VALIDATION, settings, tmp_path / "bare", start="tiny")
    assert plain.metrics["eval_first_loss"] == pytest.approx(padded.metrics["eval_first_loss"], rel=1e-5)
    assert bare.pad_token is None


def test_progress_counts_every_step_and_carries_the_log(tokenizer, tmp_path):
    seen = []
    train(tokenizer, tmp_path / "told", replace(SETTINGS, num_train_epochs=1), on_progress=seen.append)
    assert [one.step for one in seen if not one.values] == [1, 2, 3]
    assert {one.total_steps for one in seen} == {3}
    logged = [key for one in seen for key in one.values]
    assert "loss" in logged
    assert "eval_second_loss" in logged


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tokenizer, tmp_path):
    model = tiny(tokenizer)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(EvaluationError, match="nan") as caught:
        train_causal_lm(model, tokenizer, ROWS, VALIDATION, SETTINGS, tmp_path / "nan", start="broken")
    assert re.search(r"step \d+ of 18", caught.value.where)
    assert not (tmp_path / "nan").exists()


def test_a_full_disk_is_an_output_error_and_leaves_no_result(tokenizer, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(causal, "_save", full_disk)
    with pytest.raises(OutputError, match="No space left") as caught:
        train(tokenizer, tmp_path / "run", replace(SETTINGS, num_train_epochs=1))
    assert caught.value.where == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()
