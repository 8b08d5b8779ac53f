"""The workbook: strings that stay strings, choices to pick from, no trace of who made it or when, and bad workbooks."""

from __future__ import annotations

import datetime
import io
import re
import time
import tracemalloc
import zipfile
from collections.abc import Callable

import pytest
from openpyxl import Workbook, load_workbook
from openpyxl.cell.rich_text import CellRichText, TextBlock
from openpyxl.cell.text import InlineFont
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.worksheet import Worksheet

from lorascope.blind.formats import xlsx_reading
from lorascope.blind.formats.table import COLUMNS
from lorascope.blind.formats.xlsx_reading import read_xlsx
from lorascope.blind.formats.xlsx_sheet import TABS, WORKBOOK_COLUMNS, xlsx_bytes
from lorascope.blind.formats.xlsx_text import escaped, unescaped
from lorascope.blind.rows import RATINGS, FilledRow, Sheet, SheetRow
from lorascope.blind.scales import words
from lorascope.errors import DataError

COMMITMENT = "hmac-" + "0f" * 32
QUESTION, OVERALL, ACCURACY_A, COMMENT = (
    WORKBOOK_COLUMNS.index(name) + 1 for name in ("question", "overall", "accuracy_a", "comment")
)


def _sheet(*texts: str, language: str = "en", rater: str = "rater-1") -> Sheet:
    rows = tuple(SheetRow(f"q{number:02d}f", text, f"{text} a", text) for number, text in enumerate(texts))
    return Sheet("study", COMMITMENT, rater, language, rows)


def _edited(content: bytes, edit: Callable[[Worksheet], object]) -> bytes:
    """The workbook after somebody has edited its first tab."""
    book = load_workbook(io.BytesIO(content), rich_text=True)
    edit(book["Ratings"])
    return _saved(book)


def _saved(book: Workbook) -> bytes:
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _with_cell(row: int, column: int, value: object) -> FilledRow:
    def edit(tab: Worksheet) -> None:
        tab.cell(row, column).value = value

    return read_xlsx(_edited(xlsx_bytes(_sheet("one")), edit), "rater-1.xlsx").rows[0]


def _with_part(content: bytes, name: str, part: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.namelist():
            if entry != name:
                target.writestr(entry, source.read(entry))
        target.writestr(name, part)
    return out.getvalue()


def test_the_workbook_has_one_formula_and_it_holds_no_text_of_the_study():
    book = load_workbook(io.BytesIO(xlsx_bytes(_sheet("=1+1", '=HYPERLINK("http://x")', "@A1", "#N/A"))))
    formulas = [cell.value for tab in book for row in tab.iter_rows() for cell in row if cell.data_type == "f"]
    assert formulas == ["=COUNTA('Ratings'!$D$2:$D$5)"]
    assert [book["Ratings"].cell(row, QUESTION).data_type for row in range(2, 6)] == ["s"] * 4
    assert [book["Ratings"].cell(row, QUESTION).quotePrefix for row in range(2, 6)] == [True, True, True, False]
    assert book.sheetnames == ["Ratings", "Instructions"]
    assert book.active.title == "Ratings"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_lists_offer_the_languages_labels_and_the_five_ratings(language: str):
    book = load_workbook(io.BytesIO(xlsx_bytes(_sheet("one", "two", language=language))))
    offers = {str(offer.sqref): offer for offer in book[TABS[language][0]].data_validations.dataValidation}
    assert list(offers) == [f"{letter}2:{letter}3" for letter in "DEFGHIJKL"]
    tab, cells = offers["D2:D3"].formula1.split("!")
    assert [row[0].value for row in book[tab.strip("'")][cells.replace("$", "")]] == list(
        words(language).overall.values()
    )
    assert {offers[f"{letter}2:{letter}3"].formula1 for letter in "EFGHIJKL"} == {'"1,2,3,4,5"'}
    for offer in offers.values():
        assert offer.type == "list"
        assert offer.errorStyle == "stop"
        assert offer.showErrorMessage
        assert offer.error
        assert len(offer.prompt) <= 255


def test_only_the_raters_cells_are_unlocked_and_no_password_is_set():
    tab = load_workbook(io.BytesIO(xlsx_bytes(_sheet("one"))))["Ratings"]
    unlocked = [
        name for place, name in enumerate(WORKBOOK_COLUMNS, start=1) if not tab.cell(2, place).protection.locked
    ]
    assert unlocked == ["overall", *RATINGS, "comment"]
    assert all(cell.protection.locked for cell in tab[1])
    assert tab.protection.sheet
    assert tab.protection.password is None


def test_the_heading_stays_in_sight_and_texts_are_wrapped():
    tab = load_workbook(io.BytesIO(xlsx_bytes(_sheet("one"))))["Ratings"]
    assert tab.freeze_panes == "D2"
    assert all(cell.alignment.wrap_text for row in tab.iter_rows() for cell in row)


def test_choice_and_ratings_are_in_sight_on_a_laptop_beside_the_texts():
    tab = load_workbook(io.BytesIO(xlsx_bytes(_sheet("one"))))["Ratings"]
    widths = [tab.column_dimensions[get_column_letter(place)].width for place in range(1, len(WORKBOOK_COLUMNS) + 1)]
    assert sum(widths[:3]) <= 120
    assert sum(widths[: WORKBOOK_COLUMNS.index("accuracy_a") + 2]) <= 160
    assert WORKBOOK_COLUMNS[-3:] == ("id", "rater", "study")
    assert sorted(WORKBOOK_COLUMNS) == sorted(COLUMNS)


def test_columns_too_wide_for_a_laptop_do_not_stay_while_others_scroll():
    tab = load_workbook(io.BytesIO(xlsx_bytes(_sheet("word " * 400))))["Ratings"]
    assert tab.freeze_panes == "A2"


@pytest.mark.parametrize(("written", "renamed"), [("zh", "Ratings"), ("en", "评分"), ("zh", "Tabelle1")])
def test_the_tab_is_found_by_its_name_in_either_language_or_by_its_headings(written: str, renamed: str):
    book = load_workbook(io.BytesIO(xlsx_bytes(_sheet("one", language=written))))
    assert book.sheetnames == list(TABS[written])
    book[TABS[written][0]].title = renamed
    book.move_sheet(renamed, 1)
    assert [row.id for row in read_xlsx(_saved(book), "r.xlsx").rows] == ["q00f"]


@pytest.mark.parametrize("error", [AttributeError, TypeError, KeyError])
def test_a_fault_of_ours_is_not_called_a_damaged_file(monkeypatch: pytest.MonkeyPatch, error: type[Exception]):
    def broken(value: object) -> str:
        raise error("a slip in the code")

    monkeypatch.setattr(xlsx_reading, "_text", broken)
    with pytest.raises(error, match="a slip"):
        read_xlsx(xlsx_bytes(_sheet("one")), "r.xlsx")


def test_rows_are_as_high_as_their_longest_text_within_what_spreadsheets_show():
    def heights(*texts: str) -> list[float]:
        tab = load_workbook(io.BytesIO(xlsx_bytes(_sheet(*texts))))["Ratings"]
        return [tab.row_dimensions[number].height for number in range(2, len(texts) + 2)]

    short, lines, latin, wide, longest = heights("x", "x\n" * 9 + "x", "x" * 300, "好" * 300, "x\n" * 3000 + "x")
    assert short < latin < wide < longest == 409
    assert lines == 10 * 15 + 3


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_second_tab_holds_instructions_choices_and_anchors(language: str):
    tab = load_workbook(io.BytesIO(xlsx_bytes(_sheet("one", language=language))))[TABS[language][1]]
    texts = {cell.value for row in tab.iter_rows() for cell in row}
    said = words(language)
    expected = {said.title, *said.instructions, *said.overall.values(), said.overall_title}
    expected |= {part for scale in said.scales.values() for part in (scale.name, scale.question, *scale.anchors)}
    assert expected <= texts


def test_the_same_sheet_gives_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch):
    first = xlsx_bytes(_sheet("one", "two"))
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time((2033, 5, 18, 0, 0, 0, 0, 1, 0)))
    assert xlsx_bytes(_sheet("one", "two")) == first


def test_the_archive_names_no_time_author_or_program_user():
    with zipfile.ZipFile(io.BytesIO(xlsx_bytes(_sheet("one")))) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.create_system for entry in archive.infolist()} == {0}
        assert {entry.extra + entry.comment for entry in archive.infolist()} == {b""}
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    year = str(datetime.datetime.now(datetime.UTC).year)
    assert not [name for name, part in parts.items() if re.search(rf"{year}-\d\d|creator|lastModified|openpyxl", part)]


def test_two_raters_workbooks_differ_in_rows_and_rater_alone():
    def parts(rater: str, text: str) -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(xlsx_bytes(_sheet(text, rater=rater)))) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    one, two = parts("rater-1", "one"), parts("rater-2", "two")
    assert [name for name in one if one[name] != two[name]] == ["xl/worksheets/sheet1.xml"]


@pytest.mark.parametrize("text", ["_x0041_", "_x000D_", "_x005F_x0041_", "a_x005f_b", "x005F_", "_x00zz_", "__x0041__"])
def test_what_looks_like_an_escape_is_taken_for_none(text: str):
    assert unescaped(escaped(text)) == text
    (row,) = read_xlsx(xlsx_bytes(_sheet(text)), "r.xlsx").rows
    assert row.texts == (text, f"{text} a", text)


def test_escapes_count_as_written_so_that_nothing_is_cut():
    assert read_xlsx(xlsx_bytes(_sheet("x" * 32_765)), "r.xlsx").rows[0].texts[0] == "x" * 32_765
    with pytest.raises(DataError, match="takes 32,768 characters"):
        xlsx_bytes(_sheet("_x0041_" + "x" * 32_755))


def test_escapes_of_other_programs_are_read():
    assert unescaped("a_x000D_\nb") == "a\r\nb"
    assert unescaped("_xD83D__xDE00_ _x005F_x0041_") == "😀 _x0041_"
    assert unescaped("_xD83D_") == "\ufffd"


def test_a_cell_that_was_partly_coloured_is_read_as_its_text():
    rich = CellRichText("on", TextBlock(InlineFont(b=True), "e"))
    assert _with_cell(2, QUESTION, rich).texts == ("one", "one a", "one")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (4, "4"),
        (4.0, "4"),
        ("4", "4"),
        (3.5, "3.5"),
        (6, "6"),
        (None, ""),
        (True, "TRUE"),
        (datetime.datetime(2026, 5, 4), "a date: 2026-05-04"),
        (datetime.datetime(2026, 5, 4, 12, 30), "a date: 2026-05-04 12:30:00"),
        (datetime.time(4, 5), "a time: 04:05:00"),
        ("#N/A", "#N/A"),
    ],
)
def test_what_stands_in_a_rating_cell(value: object, read: str):
    assert _with_cell(2, ACCURACY_A, value).ratings["accuracy_a"] == read


def test_a_date_in_the_overall_cell_says_so():
    assert _with_cell(2, OVERALL, datetime.datetime(2026, 5, 4)).overall == "a date: 2026-05-04"
    assert _with_cell(2, OVERALL, "B, much better").overall == "B much"


def test_a_comment_that_became_a_formula_is_its_text():
    assert _with_cell(2, COMMENT, "=-good").comment == "=-good"


@pytest.mark.parametrize("column", [OVERALL, ACCURACY_A])
def test_a_formula_for_a_rating_is_refused(column: int):
    with pytest.raises(DataError, match="is a formula, not a rating") as caught:
        _with_cell(2, column, "=1+3")
    assert "rater-1.xlsx, row 2" in str(caught.value)
    assert WORKBOOK_COLUMNS[column - 1] in str(caught.value)


def test_rows_are_read_in_any_order_hidden_or_with_empty_ones_between():
    def edit(tab: Worksheet) -> None:
        tab.row_dimensions[3].hidden = True
        tab.insert_rows(3)
        tab.cell(1_000_000, 1).value = ""

    rows = read_xlsx(_edited(xlsx_bytes(_sheet("one", "two")), edit), "r.xlsx").rows
    assert [(row.id, row.place) for row in rows] == [("q00f", "r.xlsx, row 2"), ("q01f", "r.xlsx, row 4")]


def test_a_line_above_the_headings_and_other_tabs_do_no_harm():
    def edit(tab: Worksheet) -> None:
        tab.insert_rows(1)
        tab.title = "Sheet7"
        tab.parent.move_sheet("Instructions", -1)

    (row,) = read_xlsx(_edited(xlsx_bytes(_sheet("one")), edit), "r.xlsx").rows
    assert (row.id, row.place) == ("q00f", "r.xlsx, row 3")


def test_a_csv_sheet_saved_as_a_workbook_loses_its_apostrophes():
    book = Workbook()
    book.active.append(list(COLUMNS))
    book.active.append(["q00f", "'=1+1", "'1-2", "'tis", *[""] * (len(COLUMNS) - 6), "rater-1", COMMITMENT])
    assert read_xlsx(_saved(book), "r.xlsx").rows[0].texts == ("=1+1", "1-2", "'tis")


def test_an_apostrophe_of_the_workbook_itself_stays():
    assert read_xlsx(xlsx_bytes(_sheet("'=1+1")), "r.xlsx").rows[0].texts == ("'=1+1", "'=1+1 a", "'=1+1")


def test_a_missing_heading_is_named():
    def edit(tab: Worksheet) -> None:
        tab.cell(1, ACCURACY_A).value = "Acuracy A"

    with pytest.raises(DataError, match="no column accuracy_a") as caught:
        read_xlsx(_edited(xlsx_bytes(_sheet("one")), edit), "r.xlsx")
    assert "'Acuracy A'" in str(caught.value)


def test_workbooks_that_are_no_rating_sheets():
    book = Workbook()
    with pytest.raises(DataError, match="the workbook is empty"):
        read_xlsx(_saved(book), "r.xlsx")
    book.active["A1"] = "Budget"
    with pytest.raises(DataError, match="none of the headings"):
        read_xlsx(_saved(book), "r.xlsx")


def _archive(**parts: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), part)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xd0\xcf\x11\xe0" + b"\0" * 600, "old binary workbook"),
        (b"\xd0\xcf\x11\xe0" + "EncryptedPackage".encode("utf-16-le"), "encrypted with a password"),
        (_archive(mimetype=b"application/vnd.oasis", content_xml=b"<x/>"), "OpenDocument"),
        (_archive(xl__workbook_bin=b""), r"\.xlsb"),
        (_archive(word__document_xml=b""), "no Excel workbook"),
        (_archive(xl__workbook_xml=b"<workbook/>"), "damaged"),
        (b"PK\x03\x04 cut off", "damaged"),
    ],
)
def test_other_and_damaged_files_are_refused_by_name(content: bytes, problem: str):
    with pytest.raises(DataError, match=problem) as caught:
        read_xlsx(content, "rater-3.xlsx")
    assert "rater-3.xlsx" in str(caught.value)
    assert caught.value.remedy


def test_a_workbook_cut_off_or_with_broken_xml_is_refused():
    content = xlsx_bytes(_sheet("one"))
    for broken in (content[: len(content) // 2], _with_part(content, "xl/worksheets/sheet1.xml", b"<worksheet><row")):
        with pytest.raises(DataError, match="damaged"):
            read_xlsx(broken, "r.xlsx")


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xlsx_reading, "LARGEST_UNPACKED", 2**20)
    bomb = _with_part(xlsx_bytes(_sheet("one")), "xl/media/image1.png", b"\0" * (2**20 + 1))
    with pytest.raises(DataError, match="unpacks to"):
        read_xlsx(bomb, "r.xlsx")


def _with_rows(rows: bytes) -> bytes:
    content = xlsx_bytes(_sheet("one"))
    tab = "xl/worksheets/sheet1.xml"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        part = archive.read(tab)
    assert b"</sheetData>" in part
    return _with_part(content, tab, part.replace(b"</sheetData>", rows + b"</sheetData>"))


def test_cells_beyond_the_headings_cost_nothing():
    cells = b"".join(b'<row r="%d"><c r="XFD%d"><v>1</v></c></row>' % (n, n) for n in range(3, 803))
    content = _with_rows(cells + b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>')
    tracemalloc.start()
    rows = read_xlsx(content, "r.xlsx").rows
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [row.id for row in rows] == ["q00f"]
    assert peak < 20 * 2**20


def test_a_row_numbered_beyond_any_spreadsheet_is_not_waited_for():
    assert len(read_xlsx(_with_rows(b'<row r="99999999999999"><c r="A1"><v>1</v></c></row>'), "r.xlsx").rows) == 1


def test_more_rows_than_any_sheet_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xlsx_reading, "MOST_ROWS", 50)
    row = b"<row><c><v>1</v></c></row>"
    assert len(read_xlsx(_with_rows(row * 49), "r.xlsx").rows) == 50
    with pytest.raises(DataError, match="more than 50 rows") as caught:
        read_xlsx(_with_rows(row * 50), "r.xlsx")
    assert "r.xlsx, row 52" in str(caught.value)


def test_one_long_string_that_many_cells_share_is_counted_for_each(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xlsx_reading, "MOST_TEXT", 10_000)
    book = Workbook()
    book.active.append(list(COLUMNS))
    for _ in range(11):
        book.active.append(["q00f", "x" * 1000])
    with pytest.raises(DataError, match="10,000 characters of text"):
        read_xlsx(_saved(book), "r.xlsx")


def test_more_cells_than_any_sheet_are_refused(monkeypatch: pytest.MonkeyPatch):
    assert xlsx_reading.MOST_MARKS <= 1_000_000
    monkeypatch.setattr(xlsx_reading, "MOST_MARKS", 50_000)
    with pytest.raises(DataError, match="more cells than any rating sheet"):
        read_xlsx(_with_rows(b"<row>" + b"<c/>" * 50_000 + b"</row>"), "r.xlsx")


def test_a_part_with_a_document_type_is_refused():
    part = b'<?xml version="1.0"?><!DOCTYPE sst [<!ENTITY a "aaaa">]><sst/>'
    with pytest.raises(DataError, match="document type"):
        read_xlsx(_with_part(xlsx_bytes(_sheet("one")), "xl/sharedStrings.xml", part), "r.xlsx")


def test_macros_and_links_are_left_alone():
    content = _with_part(xlsx_bytes(_sheet("one")), "xl/vbaProject.bin", b"\xd0\xcf\x11\xe0 macro")
    assert len(read_xlsx(content, "r.xlsx").rows) == 1
