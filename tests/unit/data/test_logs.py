from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.logs import Curve, find_logs, read_log
from lorascope.errors import DataError


def train(step: int, loss: Any, **more: Any) -> dict[str, Any]:
    return {"loss": loss, "grad_norm": step / 10, "learning_rate": 1e-4, "epoch": step / 100, "step": step, **more}


HISTORY = [
    train(10, 2.0),
    {"eval_loss": 1.9, "eval_runtime": 3.0, "eval_accuracy": 0.5, "epoch": 0.1, "step": 10},
    train(20, 1.5),
    {"eval_val1_loss": 1.7, "epoch": 0.2, "step": 20},
    {"eval_val2_loss": 1.8, "epoch": 0.2, "step": 20},
    {"train_runtime": 60.0, "train_loss": 1.75, "epoch": 0.2, "step": 20},
]


def state(folder: Path, history: list[dict[str, Any]], step: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trainer_state.json"
    last = max((row["step"] for row in history), default=0)
    path.write_text(json.dumps({"global_step": last if step is None else step, "log_history": history}))
    return path


def test_a_trainer_state(tmp_path: Path) -> None:
    log = read_log(state(tmp_path, HISTORY))
    assert log.train == Curve((10, 20), (2.0, 1.5))
    assert log.eval == {"eval": Curve((10,), (1.9,)), "val1": Curve((20,), (1.7,)), "val2": Curve((20,), (1.8,))}
    assert log.grad_norm == Curve((10, 20), (1.0, 2.0))
    assert log.learning_rate == Curve((10, 20), (1e-4, 1e-4))
    assert log.epochs == Curve((10, 20), (0.1, 0.2))
    assert log.source == tmp_path / "trainer_state.json"


def test_nan_is_tolerated_and_no_number(tmp_path: Path) -> None:
    path = state(tmp_path, [train(1, float("nan")), train(2, float("inf")), train(3, 1.0)])
    assert "NaN" in path.read_text()
    assert read_log(path).train == Curve((1, 2, 3), (None, None, 1.0))


def test_of_repeated_steps_the_last_row_counts(tmp_path: Path) -> None:
    log = read_log(state(tmp_path, [train(10, 2.0), train(20, 1.8), train(10, 1.9), train(20, 1.6), train(30, 1.5)]))
    assert log.train == Curve((10, 20, 30), (1.9, 1.6, 1.5))


def test_a_llamafactory_log(tmp_path: Path) -> None:
    rows = [
        {"current_steps": 5, "total_steps": 20, "loss": 2.5, "lr": 5e-5, "epoch": 0.5, "percentage": 25.0},
        {"current_steps": 5, "total_steps": 20, "eval_loss": 2.4, "epoch": 0.5},
        {"current_steps": 10, "loss": 2.0, "eval_loss": None, "lr": 4e-5, "epoch": 1.0},
    ]
    path = tmp_path / "trainer_log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"current_steps": 15, "lo')
    log = read_log(path)
    assert log.train == Curve((5, 10), (2.5, 2.0))
    assert log.eval == {"eval": Curve((5,), (2.4,))}
    assert log.learning_rate.values == (5e-5, 4e-5)
    assert log.grad_norm == Curve((), ())
    path.write_text('{"current_steps": 1, "loss"\n' + json.dumps(rows[0]))
    with pytest.raises(DataError, match="broken JSON") as caught:
        read_log(path)
    assert "line 1" in (caught.value.where or "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "broken JSON"),
        ("[]", "log_history"),
        ('{"log_history": 3}', "log_history"),
        ('{"log_history": []}', "no loss"),
        ('{"log_history": [{"loss": 1.0}]}', "step number"),
        ('{"log_history": [{"loss": 1.0, "step": 1.5}]}', "step number"),
        ('{"log_history": [{"loss": "1.0", "step": 1}]}', "'loss' is '1.0'"),
    ],
)
def test_states_that_cannot_be_read(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        read_log(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such training log"):
        read_log(tmp_path / "trainer_state.json")
    (tmp_path / "log.txt").write_text("x")
    with pytest.raises(DataError, match="not known"):
        read_log(tmp_path / "log.txt")


def test_where_logs_are_found(tmp_path: Path) -> None:
    assert find_logs(tmp_path) == []
    run, adapter = tmp_path / "run", tmp_path / "run" / "checkpoint-30"
    adapter.mkdir(parents=True)
    jsonl = run / "trainer_log.jsonl"
    jsonl.write_text("{}")
    assert find_logs(run) == find_logs(adapter) == [jsonl]
    top = state(run, HISTORY)
    assert find_logs(run) == find_logs(adapter) == [top]
    own = state(adapter, HISTORY)
    assert find_logs(adapter) == [own]
    assert find_logs(run) == [top]
    top.unlink()
    assert find_logs(run) == [own]
    other = run / "adapter"
    other.mkdir()
    assert find_logs(other) == []


def test_of_several_checkpoints_the_one_that_holds_all_others_is_taken(tmp_path: Path) -> None:
    history = [train(step, float("nan") if step == 10 else 1 / step) for step in range(10, 130, 10)]
    for step in (20, 100, 120):
        state(tmp_path / f"checkpoint-{step}", history[: step // 10])
    assert find_logs(tmp_path) == [tmp_path / "checkpoint-120" / "trainer_state.json"]


def test_checkpoints_of_different_runs_are_refused_by_name(tmp_path: Path) -> None:
    state(tmp_path / "checkpoint-20", [train(10, 1.0), train(20, 0.9)])
    state(tmp_path / "checkpoint-30", [train(10, 1.0), train(20, 0.8), train(30, 0.7)])
    with pytest.raises(DataError, match="different runs") as caught:
        find_logs(tmp_path)
    assert "checkpoint-20" in (caught.value.where or "")
    assert "checkpoint-30" in (caught.value.where or "")
