"""Checkpoints of one run: which there are, in which order, and what is said where there are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorascope.errors import UsageError
from lorascope.workflows.run_steps import checkpoints_of, saved_steps


def checkpoint(folder: Path, step: int | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text("")
    if step is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def test_steps_are_numbers_and_not_names(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path / f"checkpoint-{step}", step) for step in (120, 40, 80)]
    checkpoint(tmp_path / "checkpoint-7", None)
    assert [step for step, _ in saved_steps(str(tmp_path))] == [40, 80, 120]
    assert checkpoints_of(str(tmp_path)) == [str(folders[1]), str(folders[2]), str(folders[0])]


def test_a_run_folder_with_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "lr=3" / "checkpoint-5", 5)
    assert checkpoints_of(str(tmp_path / "lr=3")) == [str(folder)]
    assert checkpoints_of(f"mine={tmp_path / 'lr=3'}") == [f"mine-5={folder}"]


def test_one_checkpoint_is_no_run(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "run" / "checkpoint-5", 5)
    with pytest.raises(UsageError, match="this is one checkpoint") as error:
        checkpoints_of(str(folder))
    assert str(tmp_path / "run") in str(error.value.remedy)
    alone = checkpoint(tmp_path / "final", None)
    with pytest.raises(UsageError, match="this is one checkpoint") as error:
        checkpoints_of(str(alone))
    assert str(tmp_path) not in str(error.value.remedy)


def test_a_run_folder_that_holds_its_result_beside_its_checkpoints_is_a_run(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "run", None)
    inner = checkpoint(run / "checkpoint-5", 5)
    assert checkpoints_of(str(run)) == [str(inner)]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        checkpoints_of(str(tmp_path / "nowhere"))
