from __future__ import annotations

import csv
import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from lorascope.errors import DataError, InvalidComparison, OutputError
from lorascope.schema.comparison import Comparison
from lorascope.workflows import blind


def checkpoint(name: str) -> dict[str, Any]:
    return {
        "name": name, "path": name, "role": "base" if name == "base" else "adapted", "kind": "model",
        "architecture": "LlamaForCausalLM", "dtype": "float32", "content_hash": f"hash {name}",
        "parameters": {"total": 10}, "generation_ready": True,
    }  # fmt: skip


def task(name: str) -> dict[str, Any]:
    return {"name": name, "kind": "generate", "role": "target", "items": 12, "fingerprint": name, "metrics": []}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    content = {
        "schema_version": 1, "created": "2025-01-01T00:00:00Z", "command": ["lorascope"], "seed": 0,
        "lorascope_version": "0", "tasks": [task("support")],
        "provenance": {"libraries": {}, "device": "cpu", "dtype": "float32", "timings": {}},
        "checkpoints": [checkpoint("base"), checkpoint("lora"), checkpoint("full")],
        "missing": [{"area": "human", "subject": "lora", "reason": "no study yet"}],
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(content))
    rows = [
        {"subject": subject, "task": "support", "item_id": str(place), "prompt": "q",
         "base_output": f"base {place}", "adapted_output": f"adapted {place}"}
        for subject in ("lora", "full") for place in range(12)
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "samples.parquet")
    return folder / "result.json"


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def played(result: Path, console: Console, subject: str, losses: int) -> tuple[list[Path], Path]:
    """Export a study and rate it: the adapted answer wins but for the first ``losses`` items; accuracy is 4 to 3."""
    folder, key = result.parent / f"sheets-{subject}", result.parent / f"key-{subject}.json"
    study = blind.export(
        result, items=12, raters=2, folder=folder, key_path=key, seed=0, console=console, subject=subject
    )
    for sheet in study.sheets:
        with sheet.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            adapted = "A" if row["answer_a"].startswith("adapted") else "B"
            other = "B" if adapted == "A" else "A"
            row["overall"] = other if int(row["answer_a"].split()[1]) < losses else adapted
            row[f"accuracy_{adapted.lower()}"], row[f"accuracy_{other.lower()}"] = "4", "3"
        with sheet.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return list(study.sheets), key


def human(result: Path) -> dict[tuple[str, str], Any]:
    comparison = Comparison.model_validate_json(result.read_text())
    return {(each.subject, each.metric): each for each in comparison.measurements if each.area == "human"}


def test_whole_study_reaches_the_result(result: Path, console: Console) -> None:
    sheets, key = played(result, console, "lora", losses=3)
    blind.score(sheets, key, result, console)
    found = human(result)
    assert set(found) == {("lora", "win_rate"), ("lora", "accuracy_rating")}
    rate, accuracy = found["lora", "win_rate"], found["lora", "accuracy_rating"]
    assert (rate.adapted.value, rate.adapted.n, rate.base, rate.delta) == (0.75, 12, None, None)
    assert (rate.task, rate.unit, rate.direction, rate.reference) == ("support", "fraction", "higher", "base")
    assert (accuracy.base.value, accuracy.adapted.value, accuracy.delta.value) == (3, 4, 1)
    comparison = Comparison.model_validate_json(result.read_text())
    assert comparison.human is not None
    (study,) = comparison.human["studies"]
    assert (study["subject"], study["votes"]["wins"], study["raters"]) == ("lora", 18, ["rater-1", "rater-2"])
    assert comparison.missing == []
    assert isinstance(console.file, io.StringIO)
    assert "lora: win rate 0.750" in console.file.getvalue()
    assert not [path for path in result.parent.iterdir() if path.name.startswith(".")]


def test_scoring_again_replaces_only_the_own_subject(result: Path, console: Console) -> None:
    first = played(result, console, "lora", losses=3)
    blind.score(*first, result, console)
    blind.score(*played(result, console, "full", losses=6), result, console)
    once = result.read_text()
    assert human(result)["lora", "win_rate"].adapted.value == 0.75
    assert human(result)["full", "win_rate"].adapted.value == 0.5
    blind.score(*first, result, console)
    assert sorted(result.read_text()) == sorted(once)
    assert len(human(result)) == 4


def test_absent_raters_are_told(result: Path, console: Console) -> None:
    sheets, key = played(result, console, "lora", losses=0)
    blind.score(sheets[:1], key, result, console)
    assert isinstance(console.file, io.StringIO)
    assert "no sheet from rater-2" in console.file.getvalue()


@pytest.mark.parametrize("part", ["content_hash", "fingerprint"])
def test_key_of_another_result_is_refused_and_nothing_written(result: Path, console: Console, part: str) -> None:
    sheets, key = played(result, console, "lora", losses=0)
    content = json.loads(result.read_text())
    place = content["tasks"][0] if part == "fingerprint" else content["checkpoints"][0]
    place[part] = "other"
    result.write_text(json.dumps(content))
    with pytest.raises(InvalidComparison, match="other checkpoints or tasks") as caught:
        blind.score(sheets, key, result, console)
    assert caught.value.exit_code == 3
    assert json.loads(result.read_text()) == content


def test_wrong_sheets_leave_the_result_untouched(result: Path, console: Console) -> None:
    sheets, key = played(result, console, "lora", losses=0)
    before = result.read_bytes()
    sheets[0].write_text(sheets[0].read_text().replace(",4,", ",9,", 1))
    with pytest.raises(DataError, match="'9'"):
        blind.score(sheets, key, result, console)
    assert result.read_bytes() == before


def test_result_without_samples_has_nothing_to_show(result: Path, console: Console) -> None:
    (result.parent / "samples.parquet").unlink()
    with pytest.raises(DataError, match="no samples"):
        played(result, console, "lora", losses=0)


def test_failed_writing_leaves_the_old_result(result: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets, key = played(result, console, "lora", losses=0)
    before = {path.name: path.read_bytes() for path in result.parent.glob("*.json")}

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        blind.score(sheets, key, result, console)
    assert {path.name: path.read_bytes() for path in result.parent.glob("*.json")} == before
    assert not [path for path in result.parent.iterdir() if path.name.startswith(".")]
