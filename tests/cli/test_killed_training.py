"""A real training process, killed or interrupted in the middle: the same command ends in the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lorascope.cli.main import run

PATIENCE_SECONDS = 300.0
STEPS = 40
CLOCKS = ("runtime", "per_second")
ADDITIONS: dict[str, dict[str, Any]] = {
    "own replay": {"replay": {"ratio": 0.3, "items": 4, "max_new_tokens": 6}, "task": {"mask_tokens": 0.1}},
    "balanced": {"loss": {"sampler": "balanced"}, "method": {"name": "full"}},
}


def write_recipe(folder: Path, base: Path, kind: str) -> Path:
    if kind == "generate":
        rows: list[dict[str, Any]] = [
            {"prompt": f"Question: {n}?\nAnswer:", "reference": f"it is {n}"} for n in range(9)
        ]
        more = ADDITIONS["own replay"]
    else:
        rows = [{"text": f"the fox {n} jumps", "labels": [["art"], ["music", "sport"], []][n % 3]} for n in range(9)]
        more = ADDITIONS["balanced"]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe: dict[str, Any] = {
        "version": 1,
        "base": str(base),
        "out": "killed",
        "task": {"kind": kind, "train": "train.jsonl", "validation": "train.jsonl", "validation_limit": 3},
        "method": {"rank": 2},
        "optim": {"max_steps": STEPS, "learning_rate": 1e-3, "batch_size": 2},
        "evaluation": {"every": 4, "log_every": 3, "kl_to_base": 2},
        "hardware": {"device": "cpu", "threads": 1},
    }
    for block, values in more.items():
        recipe[block] = {**recipe.get(block, {}), **values}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def start(recipe: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lorascope", "train", str(recipe), "--quiet"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def stopped_after_a_checkpoint(process: subprocess.Popen[str], partial: Path, number: int) -> str:
    """Send the signal once a checkpoint is whole; what the process said."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not list(partial.glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.005)
        process.send_signal(number)
        return process.communicate(timeout=PATIENCE_SECONDS)[1]
    finally:
        process.kill()
        process.wait()


def log_of(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in row.items() if not name.endswith(CLOCKS)} for row in rows]


def same_results(left: Path, right: Path) -> None:
    weights = [load_file(next(folder.glob("*model.safetensors"))) for folder in (left, right)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    logs = [log_of(folder) for folder in (left, right)]
    assert [(row["step"], sorted(row)) for row in logs[0]] == [(row["step"], sorted(row)) for row in logs[1]]
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["generate", "labels"])
def test_a_killed_run_ends_as_if_it_had_not_been(llama: Any, bert: Any, tmp_path: Path, kind: str) -> None:
    recipe = write_recipe(tmp_path, (llama if kind == "generate" else bert).base, kind)
    partial = tmp_path / "killed.partial"
    process = start(recipe)
    stopped_after_a_checkpoint(process, partial, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    if kind == "generate":
        # A resumed run reads the texts that are there; were it to write them again, this mark would be lost.
        kept = partial / "replay.jsonl"
        kept.write_text(kept.read_text() + "\n")
    assert run(["train", str(recipe), "--quiet"]) == 0
    assert run(["train", str(recipe), "--quiet", "--out", str(tmp_path / "straight")]) == 0
    same_results(tmp_path / "killed", tmp_path / "straight")
    assert [row["step"] for row in log_of(tmp_path / "killed") if "loss" in row][-1] == STEPS
    if kind == "generate":
        texts = [(tmp_path / name / "replay.jsonl").read_text() for name in ("killed", "straight")]
        assert texts[0] == texts[1] + "\n"
        assert len(texts[1].splitlines()) == 4


@pytest.mark.slow
def test_control_c_says_that_the_run_goes_on(llama: Any, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, llama.base, "generate")
    process = start(recipe)
    said = stopped_after_a_checkpoint(process, tmp_path / "killed.partial", signal.SIGINT)
    assert process.returncode == 130
    assert "Run the same command again: it resumes where it stopped." in " ".join(said.split())
    assert not (tmp_path / "killed").exists()
    assert list((tmp_path / "killed.partial").glob("checkpoint-*/trainer_state.json"))
