from __future__ import annotations

import csv
import dataclasses
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

from lorascope.blind.rows import Language
from lorascope.errors import DataError, InvalidComparison, OutputError, UsageError
from lorascope.schema.comparison import Comparison
from lorascope.workflows.blind import ExportOptions, export_study
from lorascope.workflows.blind_plan import PlanOptions, plan_a_study
from lorascope.workflows.blind_score import score_study_files


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
    return put_result(tmp_path)


def put_result(tmp_path: Path) -> Path:
    """A finished result of a base and two adapted checkpoints, with its samples."""
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


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def options(result: Path, **more: Any) -> ExportOptions:
    given: dict[str, Any] = {"formats": ("csv",), "items": 12, "raters": 2, "systems": ("base", "lora"), "repeats": 2}
    return ExportOptions(result=result, **(given | more))


def rate(path: Path, losses: int = 0, rating: str = "4") -> None:
    """Fill a sheet in: the adapted answer wins but for the first ``losses`` items; accuracy is 4 to 3."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        texts = row["answer_a"], row["answer_b"]
        adapted = "A" if texts[0].startswith("adapted") else "B"
        other = "B" if adapted == "A" else "A"
        numbers = [int(text.split()[1]) for text in texts]
        same = texts[0] == texts[1]
        row["overall"] = "tie" if same else other if numbers[adapted == "B"] < losses else adapted
        row[f"accuracy_{adapted.lower()}"], row[f"accuracy_{other.lower()}"] = rating, "3"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def played(result: Path, console: Console, system: str, losses: int) -> tuple[list[Path], Path]:
    """Export a study of the base and one adapted checkpoint, and rate every sheet of it."""
    folder, key = result.parent.parent / f"sheets-{system}", result.parent / f"key-{system}.json"
    made = export_study(options(result, systems=("base", system), folder=folder, key=key), console)
    for sheet in made.sheets:
        rate(sheet, losses)
    return list(made.sheets), key


def human(result: Path) -> dict[tuple[str, str], Any]:
    comparison = Comparison.model_validate_json(result.read_text())
    return {(each.subject, each.metric): each for each in comparison.measurements if each.area == "human"}


def test_whole_study_reaches_the_result_and_its_report(result: Path, console: Console) -> None:
    sheets, key = played(result, console, "lora", losses=3)
    study = score_study_files(sheets, key, result, console)
    found = human(result)
    assert {("lora", "win_rate"), ("lora", "accuracy_rating")} <= set(found)
    rate_of_wins, accuracy = found["lora", "win_rate"], found["lora", "accuracy_rating"]
    assert (rate_of_wins.adapted.value, rate_of_wins.adapted.n, rate_of_wins.reference) == (0.75, 12, "base")
    assert (accuracy.base.value, accuracy.adapted.value, accuracy.delta.value) == (3, 4, 1)
    comparison = Comparison.model_validate_json(result.read_text())
    assert comparison.human is not None
    assert comparison.human.studies == [study]
    assert comparison.missing == []
    assert "lora against base: win rate 0.750" in shown(console)
    assert "lora" in (result.parent / "report.html").read_text()
    assert not [path for path in result.parent.iterdir() if path.name.startswith(".")]


def test_scoring_again_replaces_only_the_own_study(result: Path, console: Console) -> None:
    first = played(result, console, "lora", losses=3)
    score_study_files(*first, result, console)
    score_study_files(*played(result, console, "full", losses=6), result, console)
    assert human(result)["lora", "win_rate"].adapted.value == 0.75
    assert human(result)["full", "win_rate"].adapted.value == pytest.approx(0.5)
    once = human(result)
    score_study_files(*first, result, console)
    assert human(result) == once
    comparison = Comparison.model_validate_json(result.read_text())
    assert comparison.human is not None
    assert [study.systems for study in comparison.human.studies] == [["base", "full"], ["base", "lora"]]


def test_absent_raters_are_told(result: Path, console: Console) -> None:
    sheets, key = played(result, console, "lora", losses=0)
    score_study_files(sheets[:1], key, result, console)
    assert "no sheet from rater-2" in shown(console)


def test_every_rater_gets_every_format_and_any_mixture_is_scored(result: Path, console: Console) -> None:
    formats = ("html", "xlsx", "csv", "label-studio")
    made = export_study(options(result, formats=formats), console)
    folder = result.parent.parent / "run-sheets"
    assert {path.name for path in made.sheets} == {
        f"rater-{number}{suffix}" for number in (1, 2) for suffix in (".html", ".xlsx", ".csv", ".label-studio.json")
    }
    companions = {path.name for path in folder.iterdir()} - {path.name for path in made.sheets}
    assert companions == {"sheets.instructions.txt", "sheets.label-studio.xml"}
    assert len({path.stat().st_mtime_ns for path in folder.iterdir()}) == 1
    assert made.key == result.parent.parent / "run-key" / "key.json"
    assert made.key.stat().st_mode & 0o777 == 0o600
    rate(folder / "rater-1.csv")
    with pytest.raises(DataError, match=r"rater-2|filled"):
        score_study_files([folder / "rater-1.csv", folder / "rater-2.xlsx"], made.key, result, console)
    with pytest.raises(DataError, match="this is a folder"):
        score_study_files([folder], made.key, result, console)


def test_raters_of_one_study_may_read_different_languages(result: Path, console: Console) -> None:
    made = export_study(options(result, formats=("html", "csv"), languages=("zh", "en")), console)
    pages = {path.name: path.read_text(encoding="utf-8") for path in made.sheets if path.suffix == ".html"}
    assert ["回答 A" in pages[f"rater-{number}.html"] for number in (1, 2)] == [True, False]
    names = {path.name for path in made.sheets[0].parent.iterdir()}
    assert {"sheets.en.instructions.txt", "sheets.zh.instructions.txt"} <= names
    for path in made.sheets:
        if path.suffix == ".csv":
            rate(path)
    sheets = [path for path in made.sheets if path.suffix == ".csv"]
    assert score_study_files(sheets, made.key, result, console).language == "zh"
    elsewhere = {"folder": result.parent.parent / "other", "key": result.parent.parent / "other.json"}
    with pytest.raises(UsageError, match="2 languages for 3 raters"):
        export_study(options(result, raters=3, languages=("zh", "en"), **elsewhere), console)


def test_an_older_study_is_never_written_over(result: Path, console: Console) -> None:
    made = export_study(options(result), console)
    before = {path: path.read_bytes() for path in (*made.sheets, made.key)}
    with pytest.raises(OutputError, match="older study"):
        export_study(options(result), console)
    with pytest.raises(OutputError, match="older study"):
        export_study(options(result, key=result.parent / "other.json"), console)
    place = result.parent.parent / "s"
    with pytest.raises(UsageError, match="folder of the sheets"):
        export_study(options(result, folder=place, key=place / "k" / "key.json"), console)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("place", [".", "sheets", "deep/er/sheets", "../run/sheets", "../link/sheets"])
def test_sheets_are_never_put_where_the_result_lies(result: Path, console: Console, place: str) -> None:
    (result.parent.parent / "link").symlink_to(result.parent)
    before = sorted(result.parent.parent.rglob("*"))
    with pytest.raises(UsageError, match="in the result's own folder") as caught:
        export_study(options(result, folder=result.parent / place), console)
    assert "--out" in str(caught.value)
    through = result.parent.parent / "link" / result.name
    with pytest.raises(UsageError, match="in the result's own folder"):
        export_study(options(through, folder=result.parent / place), console)
    assert sorted(result.parent.parent.rglob("*")) == before


@pytest.mark.parametrize("given", ["result.json", "../result.json", "./../run/result.json"])
def test_sheets_lie_beside_the_results_folder_and_the_key_may_lie_in_it(
    result: Path, console: Console, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    inner = result.parent / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner if given == "../result.json" else result.parent)
    made = export_study(options(Path(given), key=result.parent / "key.json"), console)
    assert {path.resolve().parent for path in made.sheets} == {result.parent.parent / "run-sheets"}
    assert (result.parent / "key.json").is_file()
    assert "keep the key, the result, its report and its samples from the raters" in shown(console)


def test_a_study_that_cannot_be_written_leaves_nothing(
    result: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(result.parent.parent.rglob("*"))

    def full(source: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        export_study(options(result), console)
    left = [path for path in sorted(result.parent.parent.rglob("*")) if path.is_file()]
    assert left == [path for path in before if path.is_file()]


def test_the_registered_plan_goes_with_the_study(result: Path, console: Console, tmp_path: Path) -> None:
    wanted = PlanOptions(
        effect=0.9, items=None, ties=0.0, raters=2, votes_per_item=2, correlation=1.0, alpha=0.05, power=0.8,
        min_checks_passed=0.5, min_repeat_consistency=None, language="en",
    )  # fmt: skip
    plan = plan_a_study(wanted, console, out=tmp_path / "plan.json")
    assert plan is not None
    made = export_study(options(result, items=None, raters=None, plan=tmp_path / "plan.json"), console)
    assert made.study.key.plan == plan
    assert len(made.study.key.items) == min(plan.items, 12)
    for sheet in made.sheets:
        rate(sheet)
    study = score_study_files(made.sheets, made.key, result, console)
    assert study.plan == plan.hash
    with pytest.raises(OutputError):
        plan_a_study(wanted, console, out=tmp_path / "plan.json")


def test_a_plan_asks_for_an_effect_or_items(console: Console, tmp_path: Path) -> None:
    neither = PlanOptions(
        effect=None, items=None, ties=0.0, raters=3, votes_per_item=3, correlation=1.0, alpha=0.05, power=0.8,
        min_checks_passed=None, min_repeat_consistency=None, language="en",
    )  # fmt: skip
    with pytest.raises(UsageError, match="nothing to plan"):
        plan_a_study(neither, console)
    for_items = dataclasses.replace(neither, items=60)
    assert plan_a_study(for_items, console) is None
    assert "60 items find a win rate of 0.69" in shown(console)
    with pytest.raises(UsageError, match="names the effect"):
        plan_a_study(for_items, console, out=tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").exists()


def plan_options(**changed: Any) -> PlanOptions:
    values: dict[str, Any] = {
        "effect": 0.7, "items": None, "ties": 0.0, "raters": 3, "votes_per_item": 3, "correlation": 1.0, "alpha": 0.05,
        "power": 0.8, "min_checks_passed": None, "min_repeat_consistency": None, "language": "en",
    }  # fmt: skip
    return PlanOptions(**{**values, **changed})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_plan_is_told_in_one_language_and_one_item_is_singular(console: Console, language: Language) -> None:
    plan_a_study(plan_options(effect=None, items=1, language=language), console)
    told = shown(console)
    if language == "en":
        assert "1 item is too few" in told
        assert "1 items" not in told
    else:
        assert "1 条样本太少" in told
        assert "胜率" in told
        assert not set("abcdefghijklmnopqrstuvwxyz") & set(told)


def test_a_plan_that_cannot_be_put_is_refused_before_anything_is_told(console: Console, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("an older one")
    for out, problem in ((tmp_path / "plan.json", "not overwritten"), (tmp_path, "this is a folder")):
        with pytest.raises(OutputError, match=problem):
            plan_a_study(plan_options(), console, out=out)
    assert shown(console) == ""


@pytest.mark.parametrize("part", ["content_hash", "fingerprint"])
def test_key_of_another_result_is_refused_and_nothing_written(result: Path, console: Console, part: str) -> None:
    sheets, key = played(result, console, "lora", losses=0)
    content = json.loads(result.read_text())
    place = content["tasks"][0] if part == "fingerprint" else content["checkpoints"][0]
    place[part] = "other"
    result.write_text(json.dumps(content))
    with pytest.raises(InvalidComparison, match="another result") as caught:
        score_study_files(sheets, key, result, console)
    assert caught.value.exit_code == 3
    assert json.loads(result.read_text()) == content


def test_wrong_sheets_leave_the_result_untouched(result: Path, console: Console) -> None:
    sheets, key = played(result, console, "lora", losses=0)
    before = result.read_bytes()
    rate(sheets[0], rating="9")
    with pytest.raises(DataError, match="9"):
        score_study_files(sheets, key, result, console)
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
        score_study_files(sheets, key, result, console)
    assert {path.name: path.read_bytes() for path in result.parent.glob("*.json")} == before
    assert not [path for path in result.parent.iterdir() if path.name.startswith(".")]
