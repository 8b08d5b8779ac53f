"""Two processes of torchrun on a CPU learn what one learns from the same rows, and go on after both were killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lorascope.cli.main import run

PATIENCE_SECONDS = 300.0
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
_SEVERAL = (
    "import sys\nfrom lorascope.cli.main import run\nsys.exit(max(run(['train', each]) for each in sys.argv[1:]))\n"
)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "labels-full": ("labels", {"method": {"name": "full"}}),
    "labels-lora": ("labels", {}),
    "generate-full": ("generate", {"method": {"name": "full"}, "optim": {"l2_sp": 0.1}}),
    "generate-lora": ("generate", {}),
    "fsdp-full": ("generate", {"method": {"name": "full"}, "hardware": {"sharding": "fsdp"}}),
    "fsdp-lora": ("generate", {"hardware": {"sharding": "fsdp"}}),
}


def recipe_at(folder: Path, base: Path, name: str, kind: str, batch: int, **changes: Any) -> Path:
    """A recipe without any dropout, whose masks differ between one process and two."""
    recipe: dict[str, Any] = {
        "version": 1,
        "base": str(base),
        "out": name,
        "task": {"kind": kind, "train": f"{kind}.jsonl", "validation": {"held": f"{kind}.jsonl"}},
        "method": {"rank": 2, "dropout": 0.0},
        "optim": {"epochs": 2, "learning_rate": 1e-3, "batch_size": batch},
        "evaluation": {"every": 2, "log_every": 1, "kl_to_base": 2},
        "hardware": {"device": "cpu", "threads": 1},
    }
    if kind == "labels":
        recipe["model_dropout"] = 0.0
    for block, values in changes.items():
        recipe[block] = {**recipe.get(block, {}), **values}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def write_data(folder: Path) -> None:
    asked = [{"prompt": f"Question: {n}?\nAnswer:", "reference": f"it is {n}" * (1 + n % 2)} for n in range(8)]
    labelled = [{"text": f"the fox {n} jumps", "labels": [["art"], ["music", "sport"], []][n % 3]} for n in range(8)]
    for name, rows in (("generate", asked), ("labels", labelled)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def pairs(llama: Any, bert: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Every case trained by one process (``one-…``) and by two with half the batch (``two-…``); what the two said."""
    folder = tmp_path_factory.mktemp("distributed")
    write_data(folder)
    several = []
    for name, (kind, changes) in CASES.items():
        base = (bert if kind == "labels" else llama).base
        assert run(["train", str(recipe_at(folder, base, f"one-{name}", kind, 4, **changes)), "--quiet"]) == 0
        several.append(str(recipe_at(folder, base, f"two-{name}", kind, 2, **changes)))
    (folder / "several.py").write_text(_SEVERAL)
    done = subprocess.run(
        [*LAUNCH, str(folder / "several.py"), *several],
        env=environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def log_of(folder: Path) -> list[dict[str, float]]:
    return list(json.loads((folder / "trainer_state.json").read_text())["log_history"])


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(pairs: tuple[Path, str], name: str) -> None:
    one, two = pairs[0] / f"one-{name}", pairs[0] / f"two-{name}"
    left, right = weights_of(one), weights_of(two)
    assert left.keys() == right.keys()
    for key in left:
        assert torch.allclose(left[key], right[key], atol=2e-6), key
    logs = [log_of(one), log_of(two)]
    for key in ("loss", "eval_held_loss", "eval_kl_to_base", "loss_penalty"):
        found = [[(row["step"], row[key]) for row in log if key in row] for log in logs]
        assert len(found[0]) == len(found[1])
        for expected, got in zip(*found, strict=True):
            assert got == pytest.approx(expected, rel=1e-3, abs=1e-5), key
    costs = [json.loads((folder / "cost.json").read_text()) for folder in (one, two)]
    assert [cost["devices"] for cost in costs] == [1, 2]
    for key in ("steps", "tokens", "trainable_parameters", "total_parameters"):
        assert costs[0][key] == costs[1][key], key


@pytest.mark.slow
def test_one_process_speaks_for_both(pairs: tuple[Path, str]) -> None:
    assert pairs[1].count("The run is in") == len(CASES)


def ended(process: subprocess.Popen[str]) -> None:
    """End the launcher and both of its workers, with SIGKILL."""
    for each in [process, *psutil.Process(process.pid).children(recursive=True)]:
        each.kill()
    process.communicate()


@pytest.mark.slow
def test_it_goes_on_after_both_were_killed(pairs: tuple[Path, str], llama: Any) -> None:
    folder = pairs[0]
    recipe = recipe_at(folder, llama.base, "killed", "generate", 2, optim={"max_steps": 60, "learning_rate": 1e-3})
    command = [*LAUNCH, "-m", "lorascope", "train", str(recipe), "--quiet"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not list((folder / "killed.partial").glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.01)
    finally:
        ended(process)
    assert not (folder / "killed").exists()
    again = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert not again.stdout.strip()
    straight = recipe_at(folder, llama.base, "straight", "generate", 4, optim={"max_steps": 60, "learning_rate": 1e-3})
    assert run(["train", str(straight), "--quiet"]) == 0
    left, right = weights_of(folder / "killed"), weights_of(folder / "straight")
    assert all(torch.allclose(left[key], right[key], atol=1e-4) for key in left)
    logs = [[row["step"] for row in log_of(folder / name) if "loss" in row] for name in ("killed", "straight")]
    assert logs[0] == logs[1] == list(range(1, 61))
