"""``assert_no_regression``, and the plug-in by which pytest finds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorascope.errors import ConfigError, DataError, InvalidComparison
from lorascope.testing import assert_no_regression


def result(folder: Path, low: float, value: float, high: float) -> Path:
    estimate = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 400, "method": "bootstrap"}
    checkpoint = {
        "kind": "model", "architecture": "LlamaForCausalLM", "dtype": "float32", "parameters": {"total": 10},
        "generation_ready": True,
    }  # fmt: skip
    document: dict[str, Any] = {
        "schema_version": 1, "created": "2026-01-01T00:00:00Z", "command": ["lorascope"], "seed": 0,
        "lorascope_version": "0",
        "tasks": [{"name": "qa", "kind": "choice", "role": "target", "items": 400, "fingerprint": "f", "metrics": []}],
        "provenance": {"libraries": {}, "device": "cpu", "dtype": "float32", "timings": {}},
        "checkpoints": [
            {**checkpoint, "name": "base", "path": "base", "role": "base", "content_hash": "h0"},
            {**checkpoint, "name": "lora", "path": "lora", "role": "adapted", "content_hash": "h1"},
        ],
        "measurements": [
            {
                "subject": "lora", "reference": "base", "area": "task", "task": "qa", "metric": "accuracy",
                "unit": "fraction", "scale": "0-1", "direction": "higher", "base": estimate, "adapted": estimate,
                "delta": {"value": value, "low": low, "high": high, "n": 400}, "signature": "s",
            }
        ],
    }  # fmt: skip
    path = folder / "result.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "gates.toml"
    path.write_text('version = 1\n[[gate]]\nmetric = "qa.accuracy"\nmax_drop = 0.02\n')
    return path


def test_a_drop_fails_with_its_row(tmp_path: Path, policy: Path) -> None:
    with pytest.raises(AssertionError, match=r"1 FAIL blocks.*\n.*FAIL lora:qa\.accuracy: max_drop = 0\.02"):
        assert_no_regression(result(tmp_path, -0.12, -0.1, -0.08), policy)


def test_what_passes_says_nothing(tmp_path: Path, policy: Path) -> None:
    assert_no_regression(str(result(tmp_path, 0.01, 0.02, 0.03)), str(policy))


def test_what_cannot_be_read_is_no_regression(tmp_path: Path, policy: Path) -> None:
    with pytest.raises(DataError):
        assert_no_regression(tmp_path / "none.json", policy)
    with pytest.raises(ConfigError):
        assert_no_regression(result(tmp_path, 0, 0.1, 0.2), tmp_path / "none.toml")


def test_another_question_is_no_regression_either(tmp_path: Path, policy: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    old = result(other, 0.0, 0.1, 0.2)
    old.write_text(old.read_text().replace('"fingerprint": "f"', '"fingerprint": "g"'))
    with pytest.raises(InvalidComparison):
        assert_no_regression(result(tmp_path, 0.0, 0.1, 0.2), policy, baseline=old)


def test_pytest_finds_the_fixture_and_reports_the_drop(tmp_path: Path, policy: Path) -> None:
    result(tmp_path, -0.12, -0.1, -0.08)
    (tmp_path / "test_gate.py").write_text(
        "import sys\n"
        "def test_drop(assert_no_regression):\n"
        "    assert 'torch' not in sys.modules\n"
        "    assert_no_regression('result.json', 'gates.toml')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_gate.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "FAIL lora:qa.accuracy: max_drop = 0.02" in done.stdout
    assert "lorascope/workflows" not in done.stdout


def test_an_invalid_comparison_fails_the_test_with_its_rows_and_no_inner_frames(tmp_path: Path, policy: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    old = result(other, 0.0, 0.1, 0.2)
    old.write_text(old.read_text().replace('"fingerprint": "f"', '"fingerprint": "g"'))
    result(tmp_path, 0.0, 0.1, 0.2)
    (tmp_path / "test_gate.py").write_text(
        "def test_rows(assert_no_regression):\n"
        "    assert_no_regression('result.json', 'gates.toml', baseline='other/result.json')\n"
        "def test_unreadable(assert_no_regression):\n"
        "    assert_no_regression('result.json', 'none.toml')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_gate.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "2 failed" in done.stdout, done.stdout + done.stderr
    assert "InvalidComparison: gates.toml: failed (1 INVALID blocks)" in done.stdout
    assert "INVALID lora:qa.accuracy: max_drop = 0.02" in done.stdout
    assert "ConfigError: the gate policy cannot be read" in done.stdout
    assert "lorascope/workflows" not in done.stdout
    assert "lorascope/testing.py" not in done.stdout


def test_the_plug_in_costs_nothing_where_it_is_not_used() -> None:
    heavy = "torch transformers pyarrow numpy rich pydantic"
    code = f"import sys, lorascope.pytest_plugin; print([n for n in {heavy.split()!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
