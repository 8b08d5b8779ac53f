"""A real process, killed with SIGKILL in the middle of its questions: the same command goes on where it was."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from lorascope.cli.main import run

ITEMS = 10
SUBJECTS = 2
ENOUGH = 3
PATIENCE_SECONDS = 300.0
_COMMAND = "from lorascope.cli.main import entry; entry()"

Rows = dict[str, tuple[float | None, str]]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Ten questions, one a batch, each with a long answer: time enough to be killed in on any machine."""
    rows = [{"prompt": f"Question: number {n}?\nAnswer:", "reference": f"it is {n}"} for n in range(ITEMS)]
    (tmp_path / "numbers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "suite.yaml").write_text(
        "version: 1\ntasks:\n- name: numbers\n  kind: generate\n  data: numbers.jsonl\n  max_new_tokens: 32\n"
        "  metrics: [rougeL, exact_match]\n"
    )
    return tmp_path / "suite.yaml"


def arguments(llama: Any, suite: Path, out: Path) -> list[str]:
    given = ["compare", str(llama.base), str(llama.lora), "--suite", str(suite), "--out", str(out), "--device", "cpu"]
    return [*given, "--no-weights", "--probe", "none", "--batch-size", "1", "--quiet"]


def kept(caches: Path, out: Path) -> Path | None:
    """The cache in use: the user's, or the run's own."""
    return next((path for path in (caches / "answers.sqlite", out / "answers.sqlite") if path.is_file()), None)


def rows_of(path: Path | None) -> Rows:
    """When each answer was stored, and its checksum, read beside the process that writes; empty before there is any."""
    if path is None:
        return {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            return {key: (created, mark) for key, created, mark in connection.execute(_ROWS)}
    except sqlite3.OperationalError:
        return {}


_ROWS = "SELECT key, created, checksum FROM answers WHERE outcome LIKE '%GenerateAnswer%'"


def start(command: list[str], caches: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"LORASCOPE_CACHE_DIR": str(caches), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", _COMMAND, *command], env=environment, stderr=subprocess.PIPE)


def killed_when(process: subprocess.Popen[bytes], due: Callable[[], bool]) -> None:
    """End the process with SIGKILL as soon as it is due; fails where it ends by itself before."""
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not due():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline, "no answer was stored"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"


def results(out: Path) -> tuple[Any, Any]:
    """What was found, without what depends on the clock."""
    document = json.loads((out / "result.json").read_text())
    measured = [found for found in document["measurements"] if found["area"] != "cost"]
    return measured, pyarrow.parquet.read_table(out / "samples.parquet").to_pylist()


def same(one: Any, other: Any) -> bool:
    """Equal but for rounding: what is left after an interruption is computed in other batches."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


@pytest.mark.slow
def test_no_finished_item_is_asked_again(
    llama: Any, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches, out = tmp_path / "caches", tmp_path / "out"
    command = arguments(llama, suite, out)
    process = start(command, caches)
    killed_when(process, lambda: len(rows_of(kept(caches, out))) >= ENOUGH)
    before = rows_of(kept(caches, out))
    assert ENOUGH <= len(before) < ITEMS * SUBJECTS
    assert not (out / "result.json").exists()

    again = start(command, caches)
    _, said = again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0, said.decode()
    after = rows_of(kept(caches, out))
    assert len(after) == ITEMS * SUBJECTS
    # An answer that is given again is stored again, with another time.
    assert {key: after[key] for key in before} == before
    newest = max(created for created, _ in before.values() if created is not None)
    assert all((created or 0) > newest for key, (created, _) in after.items() if key not in before)

    monkeypatch.setenv("LORASCOPE_CACHE_DIR", str(tmp_path / "other caches"))
    assert run(arguments(llama, suite, tmp_path / "uninterrupted")) == 0
    assert same(results(out), results(tmp_path / "uninterrupted"))
