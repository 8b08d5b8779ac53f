from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM

from lorascope.checkpoints.hashing import content_hash
from lorascope.data.suites import load_suite
from lorascope.data.tasks import load_task
from lorascope.errors import OutputError
from lorascope.training.from_scratch import byte_level_tokenizer
from lorascope.workflows.demo import DemoPlan, ModelShape, demo_rows, prepare_demo

_DEFAULT = DemoPlan()


def shorter(recipe, epochs, **method):
    plain = recipe.model_dump(exclude_unset=True)
    plain["optim"]["epochs"], plain["evaluation"]["log_every"] = epochs, 1
    plain["method"] |= method
    return type(recipe).model_validate(plain)


PLAN = DemoPlan(
    vocab_size=400,
    shape=ModelShape(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2),
    base=shorter(_DEFAULT.base, 2),
    lora=shorter(_DEFAULT.lora, 1, rank=2),
    full=shorter(_DEFAULT.full, 1),
    probe_limit=8,
    facts=6,
)


class Notes:
    """A watch that writes down what it is told."""

    def __init__(self):
        self.stages, self.lines, self.last = [], [], {}

    @contextmanager
    def stage(self, title):
        self.stages.append(title)
        yield lambda done, total: self.last.update({title: (done, total)})

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder, notes = tmp_path_factory.mktemp("demo"), Notes()
    yield folder, prepare_demo(folder, watch=notes, plan=PLAN), notes
    torch.set_num_threads(before)


def test_the_texts_are_the_whole_probe_and_a_clean_split_of_the_manual():
    rows = demo_rows(DemoPlan())
    assert len(rows.probe) == 480
    assert len(rows.train) == 3 * len(rows.validation) == 288
    assert not {row.prompt for row in rows.train} & {row.prompt for row in rows.validation}
    assert {row.references for row in rows.train} == {row.references for row in rows.validation}
    for row in (*rows.probe, *rows.train, *rows.validation):
        assert row.prompt.startswith("Question: ")
        assert row.prompt.endswith("\nAnswer:")
        assert len(row.references) == 1
        assert row.references[0] == row.references[0].strip() != ""
    assert rows == demo_rows(DemoPlan())


def test_three_checkpoints_are_made_each_with_its_log_and_cost(made):
    folder, files, _ = made
    assert sorted(path.name for path in folder.iterdir()) == [
        "base", "full", "full.yaml", "lora", "lora.yaml", "suite.yaml", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip
    assert (files.lora / "adapter_model.safetensors").exists()
    assert (files.full / "model.safetensors").exists()
    for name, part in (("base", files.base), ("lora", files.lora), ("full", files.full)):
        state = json.loads((part / "trainer_state.json").read_text())
        assert any("loss" in row for row in state["log_history"])
        assert json.loads((part / "cost.json").read_text())["steps"] == files.outcomes[name].cost.steps > 0
    base = AutoModelForCausalLM.from_pretrained(files.base)
    full = AutoModelForCausalLM.from_pretrained(files.full)
    assert any(not torch.equal(a, b) for a, b in zip(base.parameters(), full.parameters(), strict=True))


def test_both_tunes_start_from_the_base_and_are_validated_on_the_same_rows(made):
    _, files, _ = made
    starts = []
    for folder in (files.lora, files.full):
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        starts.append(next(row["eval_validation_loss"] for row in history if "eval_validation_loss" in row))
        assert json.loads((folder / "training.json").read_text())["start"] == content_hash(files.base)
    assert starts[0] == pytest.approx(starts[1], rel=1e-5)
    config = json.loads((files.lora / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(files.base)


def test_the_suite_asks_the_held_out_phrasings_in_the_form_that_was_trained(made):
    _, files, _ = made
    suite, _ = load_suite(files.suite_path)
    task = load_task(suite.tasks[0], root=files.suite_path.parent)
    rows = demo_rows(PLAN)
    assert [(item.prompt, item.references) for item in task.items] == [
        (row.prompt, row.references) for row in rows.validation
    ]
    assert [item.prompt for item in task.train_items] == [row.prompt for row in rows.train]


def test_no_answer_of_the_manual_is_cut_by_the_suites_token_limit():
    rows, plan = demo_rows(DemoPlan()), DemoPlan()
    texts = [f"{row.prompt} {row.references[0]}" for row in (*rows.probe, *rows.train, *rows.validation)]
    tokenizer = byte_level_tokenizer(texts, vocab_size=plan.vocab_size)
    assert max(len(tokenizer(f" {row.references[0]}")["input_ids"]) for row in rows.validation) < 40


def test_it_says_what_it_does_and_what_was_reached(made):
    _, files, notes = made
    assert notes.stages == ["Teach the base", "Train lora", "Train full"]
    assert notes.last["Teach the base"] == (files.outcomes["base"].cost.steps,) * 2
    known = files.outcomes["base"].metrics["eval_probe_exact_match"]
    assert notes.lines[0] == f"The base knows {known:.1%} of 16 answers."
    assert len(notes.lines) == 3


def test_what_is_finished_is_not_made_again(made):
    folder, files, _ = made
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    notes = Notes()
    again = prepare_demo(folder, watch=notes, plan=PLAN)
    assert notes.stages == []
    assert all(outcome.reused for outcome in again.outcomes.values())
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert again.base == files.base


def test_another_seed_in_the_same_folder_is_refused(made):
    folder, _, _ = made
    with pytest.raises(OutputError, match="other settings"):
        prepare_demo(folder, seed=1, plan=PLAN)


def test_a_demo_killed_in_a_stage_goes_on_there(tmp_path):
    class Impatient(Notes):
        @contextmanager
        def stage(self, title):
            if title == "Train full":
                raise KeyboardInterrupt
            with super().stage(title) as report:
                yield report

    torch.set_num_threads(1)
    with pytest.raises(KeyboardInterrupt):
        prepare_demo(tmp_path, watch=Impatient(), plan=PLAN)
    notes = Notes()
    files = prepare_demo(tmp_path, watch=notes, plan=PLAN)
    assert notes.stages == ["Train full"]
    assert files.outcomes["lora"].reused
    assert not files.outcomes["full"].reused


def test_a_file_where_the_folder_should_be_is_an_output_error(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(OutputError):
        prepare_demo(tmp_path / "demo", plan=PLAN)
