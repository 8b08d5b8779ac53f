"""A result with generated answers, an exported study of it, and a rater who fills a sheet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow
import pytest

from lorascope.blind import StudyKey, export_sheets, read_key
from lorascope.schema.comparison import CheckpointInfo, Comparison, ParameterCounts, Provenance, TaskInfo

Row = dict[str, str]


def _checkpoint(name: str) -> CheckpointInfo:
    return CheckpointInfo(
        name=name,
        path=name,
        role="base" if name == "tinybase" else "adapted",
        kind="model",
        architecture="LlamaForCausalLM",
        dtype="float32",
        content_hash=f"hash-of-{name}",
        parameters=ParameterCounts(total=10),
        generation_ready=True,
    )


@pytest.fixture
def generated() -> Callable[..., Comparison]:
    """A comparison with the named adapted checkpoints and one generated task."""

    def build(*subjects: str, kind: str = "generate") -> Comparison:
        return Comparison(
            created="2025-01-01T00:00:00Z",
            command=["lorascope", "compare"],
            seed=0,
            lorascope_version="0",
            provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
            checkpoints=[_checkpoint("tinybase"), *map(_checkpoint, subjects or ("tuned",))],
            tasks=[
                TaskInfo(name="support", kind=kind, role="target", items=40, fingerprint="f1", metrics=["rougeL"]),
                TaskInfo(name="quiz", kind="choice", role="retention", items=4, fingerprint="f2", metrics=["accuracy"]),
            ],
        )

    return build


@pytest.fixture
def answers() -> Callable[..., pyarrow.Table]:
    """Samples of ``items`` items, the last ``identical`` of them with the same answer twice but for white space."""

    def build(items: int = 40, identical: int = 4, subject: str = "tuned") -> pyarrow.Table:
        rows = []
        for place in range(items):
            same = place >= items - identical
            base = f"base answer {place}"
            adapted = f" {base}\n" if same else f"adapted answer {place}"
            texts = {"prompt": f"question {place}", "base_output": base, "adapted_output": adapted}
            rows.append({"subject": subject, "task": "support", "item_id": f"i{place:02}", **texts})
        rows.append({"subject": subject, "task": "quiz", "item_id": "z", "prompt": "?", "base_output": "a",
                     "adapted_output": "b"})  # fmt: skip
        return pyarrow.Table.from_pylist(rows)

    return build


class Study:
    """An exported study on disk; ``fill`` writes what a rater answers, as ``answer`` decides for each row."""

    def __init__(self, folder: Path, key_path: Path) -> None:
        self.folder = folder
        self.key_path = key_path

    @property
    def key(self) -> StudyKey:
        return read_key(self.key_path)

    @property
    def sheets(self) -> list[Path]:
        return sorted(self.folder.glob("rater-*.csv"))

    def rows(self, sheet: Path) -> list[Row]:
        with sheet.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def save(self, sheet: Path, rows: list[Row], delimiter: str = ",") -> None:
        with sheet.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)

    def fill(self, answer: Callable[[Row], Mapping[str, str]]) -> None:
        for sheet in self.sheets:
            self.save(sheet, [row | dict(answer(row)) for row in self.rows(sheet)])

    def prefer_adapted(self, row: Row) -> dict[str, str]:
        """The vote of a rater who sees through the blinding and always takes the adapted answer."""
        return {"overall": "A much" if row["answer_a"].startswith("adapted") else "B much"}


@pytest.fixture
def study(tmp_path: Path, answers: Callable[..., pyarrow.Table], generated: Callable[..., Comparison]) -> Study:
    """40 items (4 identical), three raters."""
    made = Study(tmp_path / "sheets", tmp_path / "keys" / "key.json")
    export_sheets(answers(), generated(), items=40, raters=3, folder=made.folder, key_path=made.key_path, seed=1)
    return made
