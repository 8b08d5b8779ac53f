from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lorascope.errors import OutputError
from lorascope.training.rows import PromptAnswer
from lorascope.training.run_folder import RECORD, RunFolder, run_record, write_json
from lorascope.training.settings import TrainingSettings

SETTINGS = TrainingSettings()
ROWS = [PromptAnswer("a", " b"), PromptAnswer("c", " d")]


def record(settings=SETTINGS, train=ROWS, validation=None, start="base"):
    return run_record(settings, train, validation or {"held out": ROWS[:1]}, start=start)


def finished(out, content):
    folder = RunFolder(out, content)
    assert not folder.claim(overwrite=False)
    (folder.staging() / "weights").write_text("w")
    folder.publish()
    return folder


@pytest.mark.parametrize(
    "other",
    [
        record(replace(SETTINGS, learning_rate=2e-4)),
        record(replace(SETTINGS, seed=1)),
        record(train=ROWS[::-1]),
        record(validation={"other name": ROWS[:1]}),
        record(start="another base"),
    ],
)
def test_whatever_determines_a_run_changes_its_fingerprint(other):
    assert record() == record()
    assert other["fingerprint"] != record()["fingerprint"]


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
