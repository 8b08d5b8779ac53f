"""Sheets that LibreOffice has opened and saved in its own way read back whole.

LibreOffice Calc runs without a window and with a profile of its own. Where it is missing the tests are skipped; with
LORASCOPE_REQUIRE_OFFICE=1 that is a failure.
"""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from openpyxl import load_workbook

from lorascope.blind.formats import read_sheet, write_sheet
from lorascope.blind.formats.xlsx_sheet import TABS, WORKBOOK_COLUMNS
from lorascope.blind.key import row_digest
from lorascope.blind.rows import OVERALL, RATINGS, FilledSheet, Language, Sheet, SheetRow, clean
from lorascope.blind.scales import words
from lorascope.errors import DataError

pytestmark = [pytest.mark.real, pytest.mark.slow]
SALT = "5a" * 32
COMMITMENT = "hmac-" + "0f" * 32
# A literal "_x005F_" is not among them: LibreOffice 7.4 writes it without the escape that would keep it.
TEXTS = [
    *("=1+1", '=HYPERLINK("http://x","y")', "+1", "-1\n- 2", "@SUM(A1)", "＝1", "1-2", "3/4", "1e5", "0012", "TRUE"),
    *(
        "5 May 2024",
        "2024-05-04",
        "5月4日",
        "$5",
        "50%",
        "#N/A",
        "12:30",
        "1,000.50",
        "1 234",
        "１２",
        "true",
        "May-24",
    ),
    *("'tis", "'=x", "''=x", "'1", "'", '"', '""', '"=1"', "a'b", "_x0041_", "_x000D_", "ax005F_b", "_x00zz_"),
    *("a\nb\n\nc", "a\tb", "a, b; c", "trailing \nline", "in  side", "中文，回答。\n第二行", "😀🏳️‍🌈", "e\u0301 é"),
    *("\u202eRTL\u202c שלום", "\u200bzero", "a\u00a0b", "<b>&amp;</b>", "]]>", "\\n", "x" * 32_767, "", "\x0b\x00odd"),
]
CHOICES = list(OVERALL)


def _sheet(rater: str, language: Language) -> Sheet:
    cleaned = [clean(text) for text in TEXTS]
    rows = tuple(SheetRow(f"q{number:04x}z", text, cleaned[-number - 1], text) for number, text in enumerate(cleaned))
    return Sheet("study", COMMITMENT, rater, language, rows)


ENGLISH, CHINESE = _sheet("rater-1", "en"), _sheet("rater-2", "zh")


def _fill(path: Path, language: Language) -> None:
    """Rate every row the way the lists offer it, with one slip: a date in the fluency of the last answer."""
    book = load_workbook(path)
    tab = book[TABS[language][0]]
    overall, first, comment = (WORKBOOK_COLUMNS.index(name) + 1 for name in ("overall", RATINGS[0], "comment"))
    labels = words(language).overall
    for row in range(2, len(TEXTS) + 2):
        tab.cell(row, overall).value = labels[CHOICES[row % len(CHOICES)]]
        for place in range(len(RATINGS)):
            tab.cell(row, first + place).value = (row + place) % 5 + 1
        tab.cell(row, comment).value = 'so "so"; 还行, 可以'
    tab.cell(len(TEXTS) + 1, comment - 1).value = datetime.datetime(2026, 5, 4)
    book.save(path)


class _Office:
    """LibreOffice with a profile of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def convert(self, name: str, kind: str, *files: Path, infilter: str | None = None) -> list[Path]:
        """Save files as ``kind`` in a new folder ``name``."""
        out = self.folder / name
        command = ["soffice", "--headless", f"-env:UserInstallation=file://{self.folder}/profile"]
        command += [f"--infilter={infilter}"] if infilter else []
        command += ["--convert-to", kind, "--outdir", str(out), *map(str, files)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        made = [out / f"{file.stem}.{kind.partition(':')[0]}" for file in files]
        assert all(path.stat().st_size for path in made)
        return made


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> _Office:
    if shutil.which("soffice") is None:
        if os.environ.get("LORASCOPE_REQUIRE_OFFICE") == "1":
            pytest.fail("LORASCOPE_REQUIRE_OFFICE is 1 and there is no soffice on the PATH")
        pytest.skip("there is no soffice on the PATH")
    return _Office(tmp_path_factory.mktemp("office"))


@pytest.fixture(scope="module")
def filled(office: _Office) -> list[Path]:
    """Two rated workbooks, English and Chinese."""
    paths = []
    for sheet in (ENGLISH, CHINESE):
        path = office.folder / f"{sheet.rater}.xlsx"
        write_sheet(sheet, path, "xlsx")
        _fill(path, sheet.language)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def saved(office: _Office, filled: list[Path]) -> list[Path]:
    """The rated workbooks as LibreOffice saves them."""
    return office.convert("workbooks", "xlsx", *filled)


def _as_written(sheet: Sheet, read: FilledSheet) -> None:
    """Every row is there once, its digest is that of the row as shown, and it names study and rater."""
    assert [row.id for row in read.rows] == [row.id for row in sheet.rows]
    for shown, back in zip(sheet.rows, read.rows, strict=True):
        assert back.texts is not None
        assert row_digest(SALT, SheetRow(back.id, *back.texts)) == row_digest(SALT, shown), shown.texts
    assert {(row.rater, row.commitment) for row in read.rows} == {(sheet.rater, COMMITMENT)}


def _as_rated(read: FilledSheet) -> None:
    for number, row in enumerate(read.rows[:-1], start=2):
        assert row.overall == CHOICES[number % len(CHOICES)]
        assert row.ratings == {name: str((number + place) % 5 + 1) for place, name in enumerate(RATINGS)}
        assert row.comment == 'so "so"; 还行, 可以'


def test_workbooks_saved_as_workbooks(saved: list[Path]):
    for sheet, path in zip((ENGLISH, CHINESE), saved, strict=True):
        read = read_sheet(path)
        _as_written(sheet, read)
        _as_rated(read)
        assert read.rows[-1].ratings["fluency_b"] == "a date: 2026-05-04"
        assert read.rows[1].place == f"{path.name}, row 3"


@pytest.mark.parametrize(("separator", "encoding"), [(59, 65535), (9, 85)], ids=["semicolon utf-16", "tab gb18030"])
def test_workbooks_saved_as_text(office: _Office, filled: list[Path], separator: int, encoding: int):
    kind = f"csv:Text - txt - csv (StarCalc):{separator},34,{encoding},1"
    for sheet, path in zip((ENGLISH, CHINESE), office.convert(f"text-{encoding}", kind, *filled), strict=True):
        read = read_sheet(path)
        _as_written(sheet, read)
        _as_rated(read)


def test_text_opened_as_any_program_opens_it_and_saved_twice(office: _Office):
    """Without being told to keep quoted cells as text, LibreOffice makes dates, numbers and formulas where it can."""
    source = office.folder / "rater-1.csv"
    write_sheet(ENGLISH, source, "csv")
    books = office.convert("opened", "xlsx", source, infilter="CSV:44,34,76,1")
    texts = office.convert("saved", "csv:Text - txt - csv (StarCalc):44,34,76,1", *books)
    for path in (*books, *texts):
        _as_written(ENGLISH, read_sheet(path))


def test_the_lists_and_the_count_survive(saved: list[Path]):
    book = load_workbook(saved[0])
    offers = {str(offer.sqref): offer.formula1 for offer in book["Ratings"].data_validations.dataValidation}
    assert len(offers) == 9
    assert book["Ratings"].protection.sheet
    counted = load_workbook(saved[0], data_only=True)["Instructions"]
    assert len(TEXTS) in [cell.value for row in counted.iter_rows() for cell in row]


@pytest.mark.parametrize(("kind", "named"), [("ods", "OpenDocument"), ("xls", "old binary workbook")])
def test_other_forms_are_refused_by_name(office: _Office, filled: list[Path], kind: str, named: str):
    (path,) = office.convert(kind, kind, filled[0])
    with pytest.raises(DataError, match=named):
        read_sheet(path)
