from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lorascope.errors import OutputError
from lorascope.schema.items import LikelihoodItem
from lorascope.schema.recipe import Recipe
from lorascope.training import run_folder
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


def test_an_alpha_is_another_one_where_modules_have_ranks_and_thereby_alphas_of_their_own():
    own, same = {"rank": 16, "rank_pattern": {"q_proj": 4}}, {"rank": 16}
    assert record(recipe(method=own))["fingerprint"] != record(recipe(method={**own, "alpha": 32}))["fingerprint"]
    assert record(recipe(method=same))["fingerprint"] == record(recipe(method={**same, "alpha": 32}))["fingerprint"]


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


def checkpoint(folder, step, **state):
    """A checkpoint as the trainer leaves it, with the least in it."""
    path = folder.partial / f"checkpoint-{step}"
    path.mkdir()
    save_file({"weight": torch.ones(2)}, path / "model.safetensors")
    torch.save({"state": {}, "param_groups": []}, path / "optimizer.pt")
    torch.save({"last_epoch": step}, path / "scheduler.pt")
    generators = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    torch.save(generators, path / "rng_state.pth")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step, **state}))
    return path


@pytest.mark.parametrize("state", ["finished", "begun"])
def test_another_run_is_refused_unless_overwriting(tmp_path, state):
    out = tmp_path / "run"
    if state == "finished":
        finished(out, record())
    else:
        folder = RunFolder(out, record())
        folder.claim(overwrite=False)
        checkpoint(folder, 1)
    other = RunFolder(out, record(start="another"))
    with pytest.raises(OutputError, match="other settings"):
        other.claim(overwrite=False)
    assert not other.claim(overwrite=True)
    assert json.loads((other.partial / RECORD).read_text())["start"] == "another"
    assert not list(other.partial.glob("checkpoint-*"))


def test_what_failed_before_its_first_checkpoint_gives_way_by_itself(tmp_path):
    RunFolder(tmp_path / "run", record()).claim(overwrite=False)
    other = RunFolder(tmp_path / "run", record(start="another"))
    assert not other.claim(overwrite=False)
    assert json.loads((other.partial / RECORD).read_text())["start"] == "another"
    (other.partial / "letter.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"1 file that no training run wrote: letter\.txt"):
        RunFolder(tmp_path / "run", record()).claim(overwrite=True)


def test_a_finished_run_stays_until_the_one_that_replaces_it_is_whole(tmp_path):
    out = tmp_path / "run"
    finished(out, record())
    (out / "suite.yaml").write_text("put there by the summary")
    other = RunFolder(out, record(start="another"))
    other.claim(overwrite=True)
    assert (out / "weights").read_text() == "w"
    # Killed, and called again without leave, which was given: another process of the same run may not need it either.
    again = RunFolder(out, record(start="another"))
    assert not again.claim(overwrite=False)
    (again.staging() / "new weights").write_text("n")
    again.publish({})
    assert sorted(path.name for path in out.iterdir()) == ["new weights", RECORD]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_kill_in_the_middle_of_the_exchange_loses_neither(tmp_path, monkeypatch):
    out = tmp_path / "run"
    finished(out, record())
    other = RunFolder(out, record(start="another"))
    other.claim(overwrite=True)
    other.staging()

    def killed(self, target):
        raise KeyboardInterrupt

    rename = type(out).rename
    with monkeypatch.context() as patch:
        patch.setattr(type(out), "rename", lambda self, to: rename(self, to) if self == out else killed(self, to))
        with pytest.raises(KeyboardInterrupt):
            other.publish({})
    assert not out.exists()
    assert RunFolder(out, record()).claim(overwrite=False)
    assert (out / "weights").exists()


def test_a_file_that_appears_in_the_old_run_meanwhile_is_not_removed(tmp_path):
    out = tmp_path / "run"
    finished(out, record())
    other = RunFolder(out, record(start="another"))
    other.claim(overwrite=True)
    other.staging()
    (out / "notes.md").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.md"):
        other.publish({})
    assert (out / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("given", ["{}", '{"fingerprint": "f"}', '{"fingerprint": "f", "start": "s"}', "[1]", "{"])
def test_a_training_json_of_something_else_is_no_run(tmp_path, given):
    out = tmp_path / "run"
    out.mkdir()
    (out / RECORD).write_text(given)
    with pytest.raises(OutputError, match="no training run"):
        RunFolder(out, record()).claim(overwrite=True)
    assert (out / RECORD).read_text() == given


@pytest.mark.parametrize("stranger", ["thesis.txt", "data/train.jsonl", "empty/"])
def test_a_run_with_files_of_others_in_it_is_never_removed(tmp_path, stranger):
    out = tmp_path / "run"
    finished(out, record())
    if stranger.endswith("/"):
        (out / stranger).mkdir()
    else:
        (out / stranger).parent.mkdir(exist_ok=True)
        (out / stranger).write_text("years of work")
    with pytest.raises(OutputError, match=stranger.rstrip("/")):
        RunFolder(out, record(start="another")).claim(overwrite=True)
    assert (out / stranger).exists()
    assert (out / "weights").exists()


def test_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "run", record())
    with folder.held():
        with pytest.raises(OutputError, match="another process is training") as caught, folder.held():
            pass
        assert caught.value.exit_code == 2
        with RunFolder(tmp_path / "deep" / "other", record()).held():
            pass
    with folder.held():
        pass
    assert not list((tmp_path / "deep").iterdir())


HOLDER = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_process_holds_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run", record())
    command = [sys.executable, "-S", "-c", HOLDER, str(tmp_path / ".run.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(OutputError, match="another process"), folder.held():
            pass
        os.kill(process.pid, signal.SIGKILL)
    with folder.held():
        pass


def test_where_there_are_no_locks_it_goes_without(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "fcntl", None)
    folder = RunFolder(tmp_path / "run", record())
    with folder.held(), folder.held():
        assert not list(tmp_path.glob("*.lock")) + list(tmp_path.glob(".*.lock"))


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


def begun(tmp_path, **changes):
    folder = RunFolder(tmp_path / "run", record(recipe(**changes)))
    folder.claim(overwrite=False)
    return folder


def test_a_torn_checkpoint_is_passed_over_and_removed(tmp_path):
    folder = begun(tmp_path)
    assert folder.resume_point() is None
    whole = checkpoint(folder, 9)
    for step, state in ((100, '{"global_step": 1'), (200, None), (300, "{}"), (400, '{"global_step": 9}')):
        torn = checkpoint(folder, step)
        (torn / "trainer_state.json").unlink()
        if state is not None:
            (torn / "trainer_state.json").write_text(state)
    assert folder.resume_point() == whole
    assert [path.name for path in folder.partial.glob("checkpoint-*")] == ["checkpoint-9"]
    assert len(folder.notes) == 4
    assert "checkpoint-400" in folder.notes[0]


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["MALICIOUS"],)


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "another", "pickle", "old pickle"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"])
def test_a_checkpoint_without_all_that_it_takes_is_left_out(tmp_path, monkeypatch, name, damage):
    if name == "scaler.pt" and damage in ("missing", "another"):
        pytest.skip("it is there in float16 alone, and what it holds depends on the scaler")
    monkeypatch.setenv("MALICIOUS", str(tmp_path / "ran"))
    folder = begun(tmp_path)
    whole, damaged = checkpoint(folder, 4), checkpoint(folder, 8)
    assert RunFolder(folder.out, folder.record).resume_point() == damaged
    path = damaged / name
    if damage == "missing":
        path.unlink()
    elif damage == "another":
        torch.save([1, 2], path)
    elif "pickle" in damage:
        torch.save(Malicious(), path, _use_new_zipfile_serialization=damage == "pickle")
    else:
        content = path.read_bytes() if path.exists() else b"1234"
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert folder.resume_point() == whole
    assert f"checkpoint-8 was left out, for it cannot be gone on from: {name}" in folder.notes[0].replace(
        "the weights are", "model.safetensors is"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("method", "file"), [("adalora", "adalora.safetensors"), ("p-tuning", "prompt_encoder.safetensors")]
)
def test_the_files_of_a_method_belong_to_a_whole_checkpoint(tmp_path, method, file):
    folder = begun(tmp_path, method={"name": method})
    checkpoint(folder, 4)
    whole = checkpoint(folder, 8)
    save_file({"one": torch.ones(1)}, whole / file)
    assert folder.resume_point() == whole
    (whole / file).write_bytes(b"")
    assert folder.resume_point() is None
    assert [file in note for note in folder.notes] == [True, True]


def test_parts_and_processes_are_all_looked_at(tmp_path):
    folder = begun(tmp_path)
    split = checkpoint(folder, 8)
    (split / "model.safetensors").rename(split / "model-00001-of-00001.safetensors")
    (split / "rng_state.pth").rename(split / "rng_state_0.pth")
    (split / "rng_state_1.pth").write_bytes((split / "rng_state_0.pth").read_bytes())
    index = {"weight_map": {"weight": "model-00001-of-00001.safetensors"}}
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    assert folder.resume_point() == split
    (split / "rng_state_1.pth").write_bytes(b"")
    assert folder.resume_point() is None


def test_the_best_weights_have_to_be_there_too(tmp_path):
    folder = begun(tmp_path)
    best = checkpoint(folder, 4)
    last = checkpoint(folder, 8, best_model_checkpoint="/elsewhere/run.partial/checkpoint-4")
    assert folder.resume_point() == last
    (best / "model.safetensors").unlink()
    assert folder.resume_point() is None
    assert "of the best weights" in folder.notes[0]


def test_a_file_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        RunFolder(tmp_path / "file" / "run", record()).claim(overwrite=False)


def test_no_nan_enters_a_file(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})


def test_the_refusal_names_what_differs(tmp_path):
    finished(tmp_path / "run", record())
    for other, named in (
        (record(recipe(method={"rank": 4, "alpha": 32})), "method.rank: 16 there, 4 now"),
        (record(recipe(structured_dropout={"preset": "dropkey"})), "structured_dropout"),
        (record(start="another"), "the base's weights"),
        (record(train=ITEMS[:1]), "the data"),
    ):
        with pytest.raises(OutputError, match="other settings") as caught:
            RunFolder(tmp_path / "run", other).claim(overwrite=False)
        assert named in caught.value.problem
        assert "--overwrite" in caught.value.remedy
