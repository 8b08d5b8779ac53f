"""``lorascope sweep`` from the command line: what it lists, what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from lorascope.cli.main import run
from lorascope.errors import EvaluationError
from lorascope.training.cost import TrainingCost
from lorascope.workflows import train

COST: dict[str, Any] = {
    "method": "lora", "trainable_parameters": 10, "total_parameters": 100, "steps": 3, "tokens": 30,
    "train_seconds": 120.0, "tokens_per_second": 15.0, "peak_memory_bytes": None, "memory_kind": None,
    "energy_joules": None, "devices": 1,
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    task = {"kind": "labels", "train": "train.jsonl", "validation": "val.jsonl"}
    sweep = {"version": 1, "out": "out", "base": "model", "task": task, "grid": {"method.rank": [2, 4]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return tmp_path / "sweep.yaml"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that a trainer was asked for, which leaves nothing but their cost."""
    names: list[str] = []

    def train_recipe(recipe: Any, **options: Any) -> Any:
        folder = Path(recipe.out)
        names.append(folder.name)
        if recipe.method.rank == 4 and len(names) < 3:
            raise EvaluationError("training came apart: loss is nan")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cost.json").write_text(json.dumps(COST))
        return SimpleNamespace(folder=folder, metrics={}, cost=TrainingCost(**COST), reused=False)

    monkeypatch.setattr(train, "train_recipe", train_recipe)
    return names


def test_a_dry_run_lists_and_writes_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", str(path), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "to do  r2  (rank 2, seed 0)" in text
    assert "2 runs, 2 to do: the time is known when one is finished" in text
    assert not (path.parent / "out").exists()
    assert run(["sweep", str(path), "--dry-run", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed["runs"]] == ["r2", "r4"]
    assert listed["seconds"] is None


def test_runs_alone_fail_go_on_and_are_resumed(
    path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", str(path), "--runs-only"]) == 0
    told = capsys.readouterr()
    assert "Run 1 of 2: r2" in told.err
    assert "Run 2 of 2: r4, about 2 min left for all runs" in told.err
    assert "r4 failed: training came apart: loss is nan. The sweep goes on." in told.err
    assert "r4 has no values: training came apart: loss is nan" in told.out
    assert "without --runs-only compares them" in told.out
    assert run(["sweep", str(path), "--dry-run"]) == 0
    assert "1 to do: about 2 min" in capsys.readouterr().out
    assert run(["sweep", str(path), "--runs-only", "--only", "r4", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert trained[-1] == "r4-s0"
    assert run(["sweep", str(path), "--dry-run"]) == 0
    assert "nothing is left to train" in capsys.readouterr().out


def test_bad_input_is_exit_2(path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", str(path), "--only", "r3"]) == 2
    assert "--only names r3" in capsys.readouterr().err
    assert run(["sweep", str(path.with_name("none.yaml"))]) == 2
    assert "there is no such sweep file" in capsys.readouterr().err
    path.write_text(path.read_text().replace("method.rank", "method.rnak"))
    assert run(["sweep", str(path)]) == 2
    error = capsys.readouterr().err
    assert "unknown key 'method.rnak'" in error
    assert trained == []


def test_ctrl_c_says_that_it_resumes(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(recipe: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_recipe", interrupted)
    assert run(["sweep", str(path), "--runs-only"]) == 130
    assert "it resumes where it stopped" in capsys.readouterr().err
