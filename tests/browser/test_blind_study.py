"""A whole study: exported in three formats, rated in a browser by keyboard, in a workbook and in a CSV, then scored."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import openpyxl
import pytest
from playwright.sync_api import Browser
from rich.console import Console

from lorascope.blind.rows import OVERALL
from lorascope.schema.comparison import Comparison
from lorascope.workflows.blind import ExportOptions, export_study
from lorascope.workflows.blind_score import score_study_files

pytestmark = pytest.mark.browser
WORKFLOW = Path(__file__).parents[1] / "unit" / "workflows" / "test_blind_workflow.py"


@pytest.fixture(scope="module")
def workflow() -> ModuleType:
    """The small result that the workflow's own tests use."""
    spec = importlib.util.spec_from_file_location("blind_workflow_tests", WORKFLOW)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def preferred(answer_a: str, answer_b: str) -> str:
    """A rater who prefers the adapted checkpoint's answers, and sees when both are the same."""
    if answer_a == answer_b:
        return "tie"
    return "A" if answer_a.startswith("adapted") else "B" if answer_b.startswith("adapted") else "both bad"


def rate_page(browser: Browser, path: Path, folder: Path) -> Path:
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.goto(path.as_uri())
    data = json.loads(page.evaluate("document.querySelector('script[type=\"application/json\"]').textContent"))
    page.keyboard.press("Enter")
    for row in data["rows"]:
        page.keyboard.press(str(list(OVERALL).index(preferred(*row["texts"][1:])) + 1))
        page.keyboard.press("Enter")
    with page.expect_download() as download:
        page.keyboard.press("s")
    saved = folder / download.value.suggested_filename
    download.value.save_as(saved)
    context.close()
    return saved


def rate_workbook(path: Path, folder: Path) -> Path:
    book = openpyxl.load_workbook(path)
    cells = book["Ratings"]
    for row in cells.iter_rows(min_row=2):
        row[3].value = preferred(str(row[1].value), str(row[2].value))
    book.save(folder / "returned.xlsx")
    return folder / "returned.xlsx"


def rate_table(path: Path, folder: Path) -> Path:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["overall"] = preferred(row["answer_a"], row["answer_b"])
    with (folder / "returned.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "returned.csv"


def test_three_raters_three_formats_one_report(browser: Browser, workflow: ModuleType, tmp_path: Path) -> None:
    result = workflow.put_result(tmp_path)
    console = Console(file=io.StringIO(), width=120)
    options = ExportOptions(
        result=result, formats=("html", "xlsx", "csv"), items=12, raters=3, systems=("base", "lora"), repeats=3
    )
    made = export_study(options, console)
    folder = made.sheets[0].parent
    filled = [
        rate_page(browser, folder / "rater-1.html", tmp_path),
        rate_workbook(folder / "rater-2.xlsx", tmp_path),
        rate_table(folder / "rater-3.csv", tmp_path),
    ]
    study = score_study_files(filled, made.key, result, console)
    (pair,) = study.pairs
    assert (pair.first, pair.second, pair.items) == ("lora", "base", 12)
    assert pair.win_rate.value == 1
    assert pair.votes.first == 36
    assert [rater.repeats_consistent for rater in study.raters] == [3, 3, 3]
    overall = next(alpha for alpha in study.alphas if (alpha.name, alpha.level) == ("overall", "nominal"))
    assert overall.estimate is None  # nobody ever disagreed, and nobody ever chose anything else
    assert Comparison.model_validate_json(result.read_text()).human is not None
    assert "lora" in (result.parent / "report.html").read_text()
