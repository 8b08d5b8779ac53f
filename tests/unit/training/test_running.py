from __future__ import annotations

import json
import math
import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorascope.errors import EvaluationError, OutputError
from lorascope.training import running
from lorascope.training.from_scratch import byte_level_tokenizer
from lorascope.training.loading import LoadedBase

METHODS = [
    {"name": "full"},
    {"name": "lora", "rank": 2, "dropout": 0.1},
    {"name": "adalora", "rank": 4, "target_rank": 2, "dropout": 0.1},
    {"name": "pissa", "rank": 2, "dropout": 0.1},
    {"name": "prompt-tuning", "virtual_tokens": 4},
]


def history(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def weights(folder):
    return load_file(next(folder.glob("*model.safetensors")))


def are_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "full"


def test_the_folder_holds_the_result_and_nothing_else(train_signs, full):
    train_signs(full, extra_files={"recipe.lock.yaml": "version: 1\n"})
    names = {path.name for path in full.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "trainer_state.json", "cost.json"} <= names
    assert not any(name.startswith(("checkpoint", "README", "optimizer", "training_args")) for name in names)
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    assert [path.name for path in full.parent.iterdir()] == ["full"]
    assert json.loads((full / "config.json").read_text())["use_cache"] is True
    assert (full / "recipe.lock.yaml").read_text() == "version: 1\n"


def test_every_validation_set_is_evaluated_by_name_from_the_first_step_to_the_last(train_signs, full):
    outcome = train_signs(full)
    for name in ("first", "second"):
        steps = [row["step"] for row in history(full) if f"eval_{name}_loss" in row]
        assert steps == [0, 4, 8, 12, 16, 18]
        losses = [row[f"eval_{name}_loss"] for row in history(full) if f"eval_{name}_loss" in row]
        assert losses[-1] < losses[0]
        assert outcome.metrics[f"eval_{name}_loss"] == losses[-1]
    assert [row["step"] for row in history(full) if "loss" in row] == list(range(2, 19, 2))
    assert outcome.kept_step == 18


def test_exact_match_is_what_greedy_decoding_gives(train_signs, full, sign_items):
    outcome = train_signs(full)
    model, saved = AutoModelForCausalLM.from_pretrained(full), AutoTokenizer.from_pretrained(full)
    for name, items in (("first", sign_items[:4]), ("second", sign_items[4:])):
        right = 0
        for item in items:
            given = saved(item.prompt, return_tensors="pt")
            new = model.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
            answer = saved(f" {item.references[0]}", add_special_tokens=False)["input_ids"]
            right += new.tolist() == [*answer[1 if answer[0] == saved.bos_token_id else 0 :], saved.eos_token_id]
        assert outcome.metrics[f"eval_{name}_exact_match"] == pytest.approx(right / len(items))


def test_the_cost_is_what_was_spent(train_signs, full, sign_items, sign_tokenizer, tiny_llama):
    cost = train_signs(full).cost
    lengths = [len(sign_tokenizer(f"{item.prompt} {item.references[0]}")["input_ids"]) + 1 for item in sign_items]
    assert cost.steps == 18
    assert cost.tokens == 6 * sum(lengths)
    assert cost.trainable_parameters == cost.total_parameters == sum(p.numel() for p in tiny_llama().parameters())
    assert cost.tokens_per_second > cost.tokens / cost.train_seconds
    assert cost.memory_kind == ("cuda" if torch.cuda.is_available() else "process")
    assert cost.peak_memory_bytes > 2**20
    assert cost.energy_joules is None or torch.cuda.is_available()


def test_the_same_call_again_trains_nothing_and_another_one_is_refused(train_signs, sign_recipe, full):
    first = train_signs(full)
    again = train_signs(full, on_progress=lambda _: pytest.fail("it trained"))
    assert again.reused
    assert (again.metrics, again.cost, again.fingerprint) == (first.metrics, first.cost, first.fingerprint)
    with pytest.raises(OutputError, match="other settings"):
        train_signs(full, sign_recipe(seed=9))


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
@pytest.mark.parametrize("at", [5, 7], ids=["after its last checkpoint", "between two"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(train_signs, sign_recipe, tmp_path, method, at):
    recipe = sign_recipe(method=method, optim={"epochs": 4}, evaluation={"kl_to_base": 4, "log_every": 3})

    def live(folder, rows):
        from lorascope.training.base_divergence import BaseDivergence

        return [BaseDivergence(rows["first"], folder)]

    def kill(progress):
        if progress.step == at:
            raise Killed

    with pytest.raises(Killed):
        train_signs(tmp_path / "resumed", recipe, on_progress=kill, live=live)
    assert not (tmp_path / "resumed").exists()
    steps = []
    resumed = train_signs(tmp_path / "resumed", recipe, on_progress=lambda p: steps.append(p.step), live=live)
    straight = train_signs(tmp_path / "straight", recipe, live=live)
    assert min(step for step in steps if step) >= 4
    assert steps[-1] == 12
    assert are_equal(weights(resumed.folder), weights(straight.folder))
    assert resumed.cost.tokens == straight.cost.tokens
    assert resumed.metrics == pytest.approx(straight.metrics)
    rows = [
        [{k: v for k, v in row.items() if "second" not in k and "runtime" not in k} for row in history(each.folder)]
        for each in (resumed, straight)
    ]
    assert [row.keys() for row in rows[0]] == [row.keys() for row in rows[1]]
    for left, right in zip(*rows, strict=True):
        assert left == pytest.approx(right, rel=1e-6)


def test_lora_trains_an_adapter_that_goes_with_its_base(train_signs, sign_recipe, tiny_llama, sign_tokenizer, tmp_path):
    tiny_llama().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    recipe = sign_recipe(method={"name": "lora", "rank": 3, "alpha": 6, "dropout": 0.0}, optim={"epochs": 2})
    outcome = train_signs(tmp_path / "lora", recipe, model=base)
    config = json.loads((outcome.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 6)
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    tensors = weights(outcome.folder)
    assert len(tensors) == 2 * 7 * 2  # two factors, seven linear modules, two layers
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(fresh, outcome.folder)
    assert outcome.cost.trainable_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert outcome.cost.total_parameters == sum(parameter.numel() for parameter in loaded.parameters())


def test_the_seed_decides(train_signs, sign_recipe, tmp_path):
    short = {"optim": {"epochs": 1}}
    made = [
        weights(train_signs(tmp_path / str(number), sign_recipe(seed=seed, **short)).folder)
        for number, seed in enumerate((1, 1, 2))
    ]
    assert are_equal(made[0], made[1])
    assert not are_equal(made[0], made[2])


def test_accumulation_learns_what_the_larger_batch_does(train_signs, sign_recipe, tmp_path):
    whole = train_signs(tmp_path / "whole", sign_recipe(optim={"epochs": 2, "batch_size": 4}))
    parts = train_signs(tmp_path / "parts", sign_recipe(optim={"epochs": 2, "batch_size": 2, "accumulate": 2}))
    assert whole.cost.steps == parts.cost.steps == 4
    left, right = weights(whole.folder), weights(parts.folder)
    assert all(torch.allclose(left[name], right[name], atol=2e-5) for name in left)


def test_a_run_without_validation_has_no_metrics(train_signs, sign_recipe, tmp_path):
    recipe = sign_recipe(task={"validation": {}}, optim={"epochs": 1})
    assert train_signs(tmp_path / "plain", recipe).metrics == {}


def test_without_answer_only_exact_match_is_not_measured(train_signs, sign_recipe, tmp_path):
    recipe = sign_recipe(task={"answer_only": False}, optim={"epochs": 1})
    assert {key for key in train_signs(tmp_path / "prompts", recipe).metrics if "match" in key} == set()


def test_the_best_weights_are_kept_where_that_is_asked(train_signs, sign_recipe, sign_items, tmp_path):
    wild = sign_recipe(optim={"learning_rate": 0.3, "scheduler": "constant"}, evaluation={"keep": "best", "every": 1})
    outcome = train_signs(tmp_path / "best", wild)
    rows = {row["step"]: row["eval_first_loss"] for row in history(outcome.folder) if row.get("eval_first_loss")}
    judged = {step: loss for step, loss in rows.items() if step}  # the base itself is no checkpoint of the run
    assert outcome.kept_step == min(judged, key=judged.get) < 18
    assert outcome.metrics["eval_first_loss"] == judged[outcome.kept_step]
    model, saved = AutoModelForCausalLM.from_pretrained(outcome.folder), AutoTokenizer.from_pretrained(outcome.folder)
    total, count = 0.0, 0
    for item in sign_items[:4]:
        prompt = saved(item.prompt)["input_ids"]
        ids = [*saved(f"{item.prompt} {item.references[0]}")["input_ids"], saved.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(prompt), len(ids))
        total -= sum(float(logits[place - 1, ids[place]]) for place in places)
        count += len(places)
    assert total / count == pytest.approx(judged[outcome.kept_step], rel=1e-3)


@pytest.mark.parametrize("rule", [{"patience": 2}, {"rule": "gl", "threshold": 1.0}])
def test_it_stops_early_says_why_and_a_resumed_run_stops_there_too(train_signs, sign_recipe, tmp_path, rule):
    recipe = sign_recipe(
        optim={"learning_rate": 0.5, "warmup": 0.0, "epochs": 12, "early_stopping": rule}, evaluation={"every": 1}
    )
    stopped = train_signs(tmp_path / "stopped", recipe)
    assert stopped.cost.steps < 36
    assert any("stopped early" in note for note in stopped.notes)

    def kill(progress):
        if progress.step == stopped.cost.steps and "eval_second_loss" in progress.values:
            raise Killed

    with pytest.raises(Killed):
        train_signs(tmp_path / "again", recipe, on_progress=kill)
    again = train_signs(tmp_path / "again", recipe)
    assert again.cost.steps == stopped.cost.steps
    assert are_equal(weights(again.folder), weights(stopped.folder))


def test_a_tokenizer_without_padding_is_padded_for_training_alone(
    train_signs, sign_recipe, tiny_llama, sign_items, tmp_path
):
    bare = byte_level_tokenizer([f"{item.prompt} {item.references[0]}" for item in sign_items], vocab_size=300)
    bare.pad_token = None
    recipe = sign_recipe(optim={"epochs": 1})

    def load(_):
        model = tiny_llama()
        return LoadedBase(model=model, tokenizer=bare, new_weights=(), notes=())

    padded = train_signs(tmp_path / "padded", recipe)
    plain = train_signs(tmp_path / "bare", recipe, load=load)
    assert plain.metrics["eval_first_loss"] == pytest.approx(padded.metrics["eval_first_loss"], rel=1e-5)
    assert bare.pad_token is None


def test_progress_counts_every_step_and_carries_the_log(train_signs, sign_recipe, tmp_path):
    seen = []
    train_signs(tmp_path / "told", sign_recipe(optim={"epochs": 1}), on_progress=seen.append)
    assert [one.step for one in seen if not one.values] == [1, 2, 3]
    assert {one.total_steps for one in seen} == {3}
    logged = [key for one in seen for key in one.values]
    assert "loss" in logged
    assert "eval_second_loss" in logged


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_place(train_signs, tiny_llama, tmp_path):
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(EvaluationError, match="nan") as caught:
        train_signs(tmp_path / "nan", model=model)
    assert re.search(r"step \d+ of 18", caught.value.where)
    assert str(tmp_path / "nan.partial") in caught.value.where
    assert not (tmp_path / "nan").exists()


def test_a_full_disk_is_an_output_error_and_leaves_no_result(train_signs, sign_recipe, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running, "save_trained", full_disk)
    with pytest.raises(OutputError, match="No space left") as caught:
        train_signs(tmp_path / "run", sign_recipe(optim={"epochs": 1}))
    assert caught.value.where == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_out_of_memory_says_which_settings_to_lower(train_signs, sign_recipe, tmp_path, monkeypatch):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(running.RecipeTrainer, "training_step", no_room)
    with pytest.raises(EvaluationError, match="memory ran out") as caught:
        train_signs(tmp_path / "run", sign_recipe(optim={"epochs": 1}))
    assert "optim.batch_size (now 2)" in caught.value.remedy
    assert "method.name: lora" in caught.value.remedy


def test_out_of_memory_may_be_met_by_smaller_batches_that_learn_the_same(
    train_signs, sign_recipe, tmp_path, monkeypatch
):
    small = train_signs(tmp_path / "small", sign_recipe(optim={"epochs": 2, "batch_size": 2, "accumulate": 2}))
    step = running.RecipeTrainer.training_step

    def roomless(self, model, inputs, num_items_in_batch=None):
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(running.RecipeTrainer, "training_step", roomless)
    said = []
    recipe = sign_recipe(optim={"epochs": 2, "batch_size": 4}, hardware={"out_of_memory": "accumulate"})
    fitted = train_signs(tmp_path / "fitted", recipe, say=said.append)
    assert any("lowered to 2" in text for text in said)
    assert any("lowered to 2" in note for note in fitted.notes)
    assert are_equal(weights(fitted.folder), weights(small.folder))


def test_whoever_looks_on_sees_each_row_as_it_comes_and_the_run_end(train_signs, sign_recipe, tmp_path):
    from lorascope.workflows.following import Follower

    follower = Follower("run", tmp_path / "run")
    steps = []

    def looked(progress):
        if progress.values:
            follower.poll()
            steps.append(follower.step)

    assert follower.poll() == []
    train_signs(tmp_path / "run", sign_recipe(), on_progress=looked)
    assert steps == sorted(steps)
    assert steps[-1] == 18
    assert not follower.ended or (tmp_path / "run" / "training.json").is_file()
    follower.poll()
    assert follower.ended
    assert set(follower.log.eval) == {"first", "second"}
