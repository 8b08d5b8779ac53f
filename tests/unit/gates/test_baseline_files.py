"""Baseline files on disk: written whole and on demand alone, read back, and refused where they say nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console

from lorascope.errors import DataError, EvaluationError, InvalidComparison, OutputError
from lorascope.gates import evaluate
from lorascope.schema.items import Answer, ChoiceAnswer, ChoiceItem
from lorascope.schema.policy import parse_policy
from lorascope.workflows.gate_baseline import bless, read_baseline
from lorascope.workflows.publish import document, load_result

Save = Callable[..., Path]
POLICY = parse_policy('version = 1\n[[gate]]\nmetric = "support.accuracy"\nmax_drop = 0.02')


def said(seed: int, gold: float) -> list[Answer]:
    rng = np.random.default_rng(seed)
    return [ChoiceAnswer(logprobs=(float(rng.normal()) - gold - 9, float(rng.normal()) - 9)) for _ in range(60)]


@pytest.fixture
def save(tmp_path: Path, run: Callable[..., Any]) -> Save:
    """Write a result with its samples into a folder of its own."""

    def build(name: str, seed: int = 1, gold: float = -1.0, samples: bool = True) -> Path:
        items = [
            ChoiceItem(item_id=f"{place:016x}", question="q", context="secret words", choices=("yes", "no"), answer=0)
            for place in range(60)
        ]
        made = run("choice", items, said(99, -0.5), {"lora": said(seed, gold)}, hashes={"lora": f"h{seed}{gold}"})
        folder = tmp_path / name
        folder.mkdir()
        (folder / "result.json").write_text(document(made.comparison))
        if samples:
            pyarrow.parquet.write_table(made.samples, folder / "samples.parquet")
        return folder / "result.json"

    return build


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_what_was_blessed_is_what_later_results_are_held_to(tmp_path: Path, save: Save, console: Console) -> None:
    old, new = save("old"), save("new", seed=2, gold=1.5)
    target = bless(old, tmp_path / "baseline.json", console)
    assert isinstance(console.file, io.StringIO)
    assert "lora, 1 tasks, 4 measurements with item scores" in console.file.getvalue()
    assert "secret" not in target.read_text()
    pinned, plain = read_baseline(target, new), read_baseline(old, new)
    assert (pinned.name, plain.name) == ("baseline.json", "result.json")
    rows = [evaluate(POLICY, load_result(new), each).rows for each in (pinned, plain)]
    assert rows[0] == rows[1]
    assert rows[0][0].outcome == "FAIL"
    assert (rows[0][0].value or 0) < -0.2


def test_baseline_never_advances_by_itself(tmp_path: Path, save: Save, console: Console) -> None:
    old, new = save("old"), save("new", seed=2)
    target = bless(old, tmp_path / "baseline.json", console)
    before = target.read_bytes()
    evaluate(POLICY, load_result(new), read_baseline(target, new))
    with pytest.raises(OutputError, match="none advances by itself"):
        bless(new, target, console)
    assert target.read_bytes() == before
    bless(new, target, console, overwrite=True)
    assert target.read_bytes() != before
    for place, says in ((new, "replace the result"), (tmp_path, "this is a folder")):
        with pytest.raises(OutputError, match=says):
            bless(new, place, console, overwrite=True)
    with pytest.raises(OutputError):
        bless(new, tmp_path / "nowhere" / "baseline.json", console)


def test_result_without_samples_is_not_blessed(tmp_path: Path, save: Save, console: Console) -> None:
    with pytest.raises(EvaluationError, match=r"no samples\.parquet") as caught:
        bless(save("old", samples=False), tmp_path / "baseline.json", console)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "baseline.json").exists()


def _first_items(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["items"][0]
    return found


CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda content: content.update(baseline_version=2), "version 2, this lorascope reads 1"),
    (lambda content: content.update(baseline_version="x"), "version x"),
    (lambda content: content.pop("tasks"), "the baseline is damaged: Field required"),
    (lambda content: content.update(other=1), "damaged"),
    (lambda content: content.update(checkpoints=content["checkpoints"][:1]), "one base and its adapted"),
    (lambda content: content["tasks"][0].update(name="maths"), "another suite: it has maths"),
    (lambda content: _first_items(content)["scores"]["accuracy"].update(data="AAAA"), "damaged"),
    (lambda content: _first_items(content)["scores"]["accuracy"].update(shape=[10**9, 9]), "shape"),
]


@pytest.mark.parametrize(("change", "says"), CHANGES)
def test_unreadable_baselines_cannot_be_compared_with(
    tmp_path: Path, save: Save, console: Console, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    old, new = save("old"), save("new", seed=2)
    target = bless(old, tmp_path / "baseline.json", console)
    content = json.loads(target.read_text())
    change(content)
    target.write_text(json.dumps(content))
    with pytest.raises(InvalidComparison, match=says) as caught:
        evaluate(POLICY, load_result(new), read_baseline(target, new))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("text", ["", "[]", '{"baseline_version": 1', "\x00\xff", "[" * 100_000])
def test_what_is_neither_baseline_nor_result_is_refused(tmp_path: Path, save: Save, text: str) -> None:
    target = tmp_path / "baseline.json"
    target.write_text(text)
    with pytest.raises(DataError, match="the baseline"):
        read_baseline(target, save("new"))


def test_baseline_that_is_not_there_or_is_the_result(tmp_path: Path, save: Save) -> None:
    result = save("new")
    with pytest.raises(DataError, match="does not exist"):
        read_baseline(tmp_path / "none.json", result)
    with pytest.raises(EvaluationError, match="the result itself"):
        read_baseline(result, result)
    beside = result.parent / "old.json"
    beside.write_bytes(result.read_bytes())
    with pytest.raises(EvaluationError, match=r"share one samples\.parquet"):
        read_baseline(beside, result)
