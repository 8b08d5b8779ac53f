"""Scoring into a result: nothing stale stays, nothing is replaced unseen, and only what was rated is compared."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from lorascope.blind.plan import StudyPlan
from lorascope.blind.registration import write_plan
from lorascope.errors import InvalidComparison, OutputError
from lorascope.schema.comparison import Comparison
from lorascope.schema.human import HumanReport, HumanStudy
from lorascope.workflows.blind_score import score_study_files


def load_workflow_tests() -> ModuleType:
    """The builders of the whole workflow's tests: a finished result, and raters who fill their sheets in."""
    path = Path(__file__).with_name("test_blind_workflow.py")
    spec = importlib.util.spec_from_file_location("blind_workflow_builders", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def workflow() -> ModuleType:
    return load_workflow_tests()


@pytest.fixture
def result(workflow: ModuleType, tmp_path: Path) -> Path:
    made: Path = workflow.put_result(tmp_path)
    return made


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def report_of(result: Path) -> HumanReport:
    found = Comparison.model_validate_json(result.read_text()).human
    assert found is not None
    return found


def human(result: Path) -> dict[tuple[str, str], Any]:
    comparison = Comparison.model_validate_json(result.read_text())
    found = [each for each in comparison.measurements if each.area == "human"]
    places = {(each.subject, each.metric): each for each in found}
    assert len(places) == len(found)
    return places


def study_of(workflow: ModuleType, result: Path, console: Console, name: str, **more: Any) -> tuple[list[Path], Path]:
    """A study under its own name, so that several can be made of the same systems; every sheet is rated."""
    folder, key = result.parent.parent / f"sheets-{name}", result.parent.parent / f"key-{name}.json"
    made = workflow.export_study(workflow.options(result, folder=folder, key=key, **more), console)
    for sheet in made.sheets:
        workflow.rate(sheet)
    return list(made.sheets), key


def without_ratings(sheet: Path) -> None:
    with sheet.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= dict.fromkeys([name for name in row if name.endswith(("_a", "_b")) and name[:6] != "answer"], "")
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_ratings_that_are_no_longer_there_leave_the_result(
    workflow: ModuleType, result: Path, console: Console
) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    score_study_files(sheets, key, result, console)
    assert ("lora", "accuracy_rating") in human(result)
    for sheet in sheets:
        without_ratings(sheet)
    score_study_files(sheets, key, result, console)
    assert set(human(result)) == {("lora", "win_rate"), ("lora", "alpha")}


def test_another_study_of_the_pair_leaves_no_measurement_of_the_first(
    workflow: ModuleType, result: Path, console: Console
) -> None:
    score_study_files(*study_of(workflow, result, console, "three", systems=("base", "lora", "full")), result, console)
    first = report_of(result).studies[0].study
    sheets, key = study_of(workflow, result, console, "two")
    for sheet in sheets:
        without_ratings(sheet)
    second = score_study_files(sheets, key, result, console).study
    comparison = Comparison.model_validate_json(result.read_text())
    found = [each for each in comparison.measurements if each.area == "human"]
    own = [each for each in found if {each.subject, each.reference} == {"base", "lora"}]
    assert {each.metric for each in own} == {"win_rate", "alpha"}
    assert all(each.signature.endswith(f"|study:{second}") for each in own)
    others = [each for each in found if each not in own]
    assert others
    assert all(each.signature.endswith(f"|study:{first}") for each in others)


def test_other_sheets_leave_a_trace_and_the_same_none(workflow: ModuleType, result: Path, console: Console) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    first = score_study_files(sheets, key, result, console)
    hashes = [f"sha256-{hashlib.sha256(sheet.read_bytes()).hexdigest()}" for sheet in sheets]
    assert [each.sheet_hash for each in first.raters] == hashes
    assert first.scored is not None
    assert first.scored.endswith("+00:00")
    again = score_study_files(sheets, key, result, console)
    assert again == first
    assert report_of(result).earlier == []
    workflow.rate(sheets[0], losses=6)
    score_study_files(sheets, key, result, console)
    (trace,) = report_of(result).earlier
    assert (trace.study, trace.scored, sorted(trace.sheets)) == (first.study, first.scored, sorted(hashes))
    assert [(each.first, each.second, each.win_rate) for each in trace.win_rates] == [
        (each.first, each.second, each.win_rate) for each in first.pairs
    ]
    assert "scored before with other sheets" in said(console)
    assert "Scored before with other sheets" in (result.parent / "report.html").read_text()
    score_study_files(sheets[1:], key, result, console)
    assert len(report_of(result).earlier) == 2
    assert report_of(result).earlier[0] == trace
    assert report_of(result).studies[-1].raters[0].sheet_hash is None


def test_an_older_record_without_hashes_is_not_said_to_be_of_other_sheets(
    workflow: ModuleType, result: Path, console: Console
) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    score_study_files(sheets, key, result, console)
    document = json.loads(result.read_text(encoding="utf-8"))
    del document["human"]["studies"][0]["raters"][0]["sheet_hash"]
    result.write_text(json.dumps(document), encoding="utf-8")
    score_study_files(sheets, key, result, console)
    (trace,) = report_of(result).earlier
    assert trace.sheets == []
    assert "scored before, with sheets that its record does not name" in said(console)
    assert "with other sheets" not in said(console)
    assert "with other sheets" not in (result.parent / "report.html").read_text(encoding="utf-8")
    score_study_files(sheets, key, result, console)
    assert report_of(result).earlier == [trace]


def test_sheets_of_the_same_file_name_keep_their_own_hashes(
    workflow: ModuleType, result: Path, console: Console, tmp_path: Path
) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    moved = []
    for number, sheet in enumerate(sheets):
        (tmp_path / str(number)).mkdir()
        moved.append(sheet.rename(tmp_path / str(number) / "sheet.csv"))
    found = score_study_files(moved[::-1], key, result, console).raters
    assert [each.sheet_hash for each in found] == [
        f"sha256-{hashlib.sha256(sheet.read_bytes()).hexdigest()}" for sheet in moved
    ]


def plan_file(path: Path) -> Path:
    write_plan(StudyPlan(effect=0.9, raters=2, votes_per_item=2, decisive_items=12, items=12), path)
    return path


def test_a_second_study_stays_beside_the_first_and_departs_from_its_plan(
    workflow: ModuleType, result: Path, console: Console, tmp_path: Path
) -> None:
    first = score_study_files(*study_of(workflow, result, console, "one"), result, console)
    planned = {"plan": plan_file(tmp_path / "plan.json"), "items": None, "raters": None}
    sheets, key = study_of(workflow, result, console, "two", **planned)
    second = score_study_files(sheets, key, result, console)
    assert second.plan is not None
    assert [each.study for each in report_of(result).studies] == [first.study, second.study]
    assert all(each.signature.endswith(f"|study:{second.study}") for each in human(result).values())
    asked = [each for each in second.deviations if each.startswith(f"{first.study} asked the same")]
    assert len(asked) == 1
    assert "lora against base win rate 1.000" in asked[0]
    assert f"departs from the plan: {asked[0]}" in said(console)
    workflow.rate(sheets[0], losses=6)
    third = score_study_files(sheets, key, result, console)
    (before,) = [each for each in third.deviations if each.startswith("scored before with other sheets")]
    assert " UTC)" in before
    assert "+00:00" not in before
    page = (result.parent / "report.html").read_text(encoding="utf-8")
    assert "Another study of the same question" in page
    assert page.lower().count("scored before with other sheets") == 1
    assert "asked the same" not in page


def test_a_study_of_other_systems_is_no_other_try(workflow: ModuleType, result: Path, console: Console) -> None:
    score_study_files(*study_of(workflow, result, console, "one"), result, console)
    score_study_files(*study_of(workflow, result, console, "two", systems=("base", "full")), result, console)
    assert "asked the same" not in said(console)


def test_a_report_that_cannot_be_replaced_leaves_the_result(
    workflow: ModuleType, result: Path, console: Console
) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    before = result.read_bytes()
    (result.parent / "report.html").mkdir()
    with pytest.raises(OutputError) as caught:
        score_study_files(sheets, key, result, console)
    assert result.read_bytes() == before
    assert caught.value.remedy is not None
    assert "--out" not in caught.value.remedy
    assert "score again" in caught.value.remedy
    (result.parent / "report.html").rmdir()
    score_study_files(sheets, key, result, console)


@pytest.mark.parametrize("earlier", ["the page before", None])
def test_a_result_that_cannot_be_replaced_leaves_the_report(
    workflow: ModuleType, result: Path, console: Console, monkeypatch: pytest.MonkeyPatch, earlier: str | None
) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    page, before = result.parent / "report.html", result.read_bytes()
    if earlier is not None:
        page.write_text(earlier)
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == "result.json":
            raise PermissionError(1, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="may not be written"):
        score_study_files(sheets, key, result, console)
    assert result.read_bytes() == before
    assert (page.read_text() if page.exists() else None) == earlier


def changed_samples(result: Path, **changes: Any) -> None:
    """Put other values into the row of the first item for each subject."""
    path = result.parent / "samples.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    rows = [row | changes if row["item_id"] == "0" else row for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    "changes",
    [
        {"adapted_output": "adapted 9"},
        {"base_output": "base 9"},
        {"prompt": "r"},
        {"adapted_output": "a longer answer"},
        {"adapted_output": None},
        {"item_id": "99"},
    ],
)
def test_samples_with_other_texts_are_refused(
    workflow: ModuleType, result: Path, console: Console, changes: dict[str, Any]
) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    before = result.read_bytes()
    changed_samples(result, **changes)
    with pytest.raises(InvalidComparison, match="not those the study was exported from") as caught:
        score_study_files(sheets, key, result, console)
    assert caught.value.exit_code == 3
    assert "1 have other texts (support 0)" in caught.value.problem
    assert result.read_bytes() == before


def test_samples_without_texts_are_refused(workflow: ModuleType, result: Path, console: Console) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    path = result.parent / "samples.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns(["adapted_output"]), path)
    with pytest.raises(InvalidComparison, match="not those the study was exported from"):
        score_study_files(sheets, key, result, console)


def test_identical_answers_must_still_be_identical(workflow: ModuleType, result: Path, console: Console) -> None:
    changed_samples(result, adapted_output="base 0", base_output="base 0")
    sheets, key = study_of(workflow, result, console, "one")
    score_study_files(sheets, key, result, console)
    changed_samples(result, adapted_output="case 0")
    with pytest.raises(InvalidComparison, match=r"1 have other texts \(support 0\)"):
        score_study_files(sheets, key, result, console)


def test_white_space_that_sheets_do_not_show_is_no_difference(
    workflow: ModuleType, result: Path, console: Console
) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    changed_samples(result, adapted_output=" adapted 0\r\n")
    assert isinstance(score_study_files(sheets, key, result, console), HumanStudy)


def test_without_samples_the_metrics_are_left_out(workflow: ModuleType, result: Path, console: Console) -> None:
    sheets, key = study_of(workflow, result, console, "one")
    (result.parent / "samples.parquet").unlink()
    study = score_study_files(sheets, key, result, console)
    assert [pair.metrics for pair in study.pairs] == [[]]
    assert "note: no samples beside the result" in said(console)
    assert report_of(result).studies == [study]


def test_one_item_is_singular(workflow: ModuleType, result: Path, console: Console) -> None:
    more = {"items": 1, "repeats": 0, "checks": 0, "identical": 0}
    score_study_files(*study_of(workflow, result, console, "one", **more), result, console)
    assert ", 1 item, sign test" in said(console)
