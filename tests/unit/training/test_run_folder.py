from __future__ import annotations

import json

import pytest

from lorascope.errors import OutputError
from lorascope.schema.items import LikelihoodItem
from lorascope.schema.recipe import Recipe
from lorascope.training.data import TrainingData
from lorascope.training.record import run_record
from lorascope.training.run_folder import RECORD, RunFolder, write_json

ITEMS = tuple(LikelihoodItem(item_id=text, text=text) for text in ("one", "two"))
PLAIN = {"version": 1, "base": "b", "out": "o", "task": {"kind": "generate", "train": "t", "validation": {"v": "w"}}}


def recipe(**changes):
    return Recipe.model_validate({**PLAIN, **changes})


def record(given=None, start="base", **data):
    held = {"train": ITEMS, "validation": {"v": ITEMS[:1]}, **data}
    return run_record(given or recipe(), TrainingData(**held), start=start)


def finished(out, content):
    folder = RunFolder(out, content)
    assert not folder.claim(overwrite=False)
    (folder.staging() / "weights").write_text("w")
    folder.publish({"kept_step": 3})
    return folder


@pytest.mark.parametrize(
    "other",
    [
        record(recipe(optim={"learning_rate": 2e-4})),
        record(recipe(seed=1)),
        record(recipe(method={"rank": 8})),
        record(recipe(structured_dropout={"preset": "dropkey"})),
        record(recipe(evaluation={"keep": "best"})),
        record(train=ITEMS[::-1]),
        record(train=ITEMS[:1]),
        record(validation={"other name": ITEMS[:1]}),
        record(replay=ITEMS),
        record(weights=(1.0, 2.0)),
        record(start="another base"),
    ],
)
def test_whatever_determines_a_run_changes_its_fingerprint(other):
    assert record() == record()
    assert other["fingerprint"] != record()["fingerprint"]


@pytest.mark.parametrize(
    "same",
    [
        recipe(base="elsewhere", out="there"),
        recipe(task={**PLAIN["task"], "train": "moved.jsonl", "validation": {"v": "moved too.jsonl"}}),
        recipe(hardware={"device": "cpu", "threads": 3}),
        recipe(method={"name": "lora", "rank": 16, "alpha": 32}),
    ],
)
def test_places_and_hardware_and_defaults_written_out_do_not(same):
    assert record(same)["fingerprint"] == record()["fingerprint"]


def test_a_preset_is_the_run_that_it_stands_for():
    preset = recipe(structured_dropout={"preset": "hiddenkey-minus", "rate": 0.2})
    written = recipe(structured_dropout={"attention": {"rate": 0.2}, "hidden": {"rate": 0.2}, "rate": 0.2})
    assert record(preset)["fingerprint"] == record(written)["fingerprint"]


def test_a_run_is_published_whole_and_recognised(tmp_path):
    folder = finished(tmp_path / "run", record())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [RECORD, "weights"]
    assert not folder.partial.exists()
    assert RunFolder(tmp_path / "run", record()).claim(overwrite=False)


@pytest.mark.parametrize("state", ["finished", "begun"])
def test_another_run_is_refused_unless_overwriting(tmp_path, state):
    out = tmp_path / "run"
    if state == "finished":
        finished(out, record())
    else:
        RunFolder(out, record()).claim(overwrite=False)
    other = RunFolder(out, record(start="another"))
    with pytest.raises(OutputError, match="other settings"):
        other.claim(overwrite=False)
    assert not other.claim(overwrite=True)
    assert json.loads((other.partial / RECORD).read_text())["start"] == "another"
    assert not out.exists()


def test_a_folder_that_holds_no_run_is_never_removed(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="no training run"):
        RunFolder(out, record()).claim(overwrite=True)
    assert (out / "thesis.txt").exists()


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    finished(tmp_path / "run", record())
    assert (tmp_path / "run" / "weights").exists()


def test_a_torn_checkpoint_is_passed_over_and_removed(tmp_path):
    folder = RunFolder(tmp_path / "run", record())
    folder.claim(overwrite=False)
    assert folder.resume_point() is None
    for step, state in ((9, "{}"), (100, '{"global_step": 1'), (200, None)):
        checkpoint = folder.partial / f"checkpoint-{step}"
        checkpoint.mkdir()
        if state is not None:
            (checkpoint / "trainer_state.json").write_text(state)
    assert folder.resume_point() == folder.partial / "checkpoint-9"
    assert not (folder.partial / "checkpoint-100").exists()
    assert not (folder.partial / "checkpoint-200").exists()


def test_a_file_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        RunFolder(tmp_path / "file" / "run", record()).claim(overwrite=False)


def test_no_nan_enters_a_file(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
