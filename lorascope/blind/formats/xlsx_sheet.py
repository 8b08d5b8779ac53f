"""The sheet as a workbook: choices to pick from, locked texts, nothing that runs, nothing that says who made it."""

from __future__ import annotations

import io
import math
import unicodedata
import zipfile
from dataclasses import dataclass

from openpyxl import Workbook
from openpyxl.formatting.rule import Rule
from openpyxl.styles import Alignment, Border, Font, PatternFill, Protection, Side
from openpyxl.styles.differential import DifferentialStyle
from openpyxl.utils import get_column_letter, quote_sheetname
from openpyxl.worksheet.datavalidation import DataValidation
from openpyxl.worksheet.properties import PageSetupProperties
from openpyxl.worksheet.worksheet import Worksheet

from lorascope.blind.formats.table import (
    ENTRIES,
    TEXTS,
    begins_formula,
    headings,
    refuse_long_texts,
)
from lorascope.blind.formats.xlsx_text import escaped
from lorascope.blind.rows import RATINGS, Language, Sheet
from lorascope.blind.scales import Words, words
from lorascope.schema.human import DIMENSIONS

TABS: dict[Language, tuple[str, str]] = {"en": ("Ratings", "Instructions"), "zh": ("评分", "说明")}
"""Names of the tab with the rows and of the one with the instructions."""
WORKBOOK_COLUMNS = (*TEXTS, *ENTRIES, "id", "rater", "study")
"""Columns in the workbook's order: what is read, what is filled in, and last what no rater needs."""
_CORE = (
    b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<cp:coreProperties '
    b'xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties"/>'
)
_LONGEST_ROW = 409.0
_LINE = 15.0
_LONGEST_TITLE, _LONGEST_PROMPT = 32, 255
_WIDTHS = {"question": 30.0, "answer_a": 45.0, "answer_b": 45.0, "overall": 14.0, "comment": 28.0}
_WIDTHS |= dict.fromkeys(RATINGS, 11.0) | {"id": 6.0, "rater": 8.0, "study": 6.0}
_WIDER = 66.0
"""Width of the answers where some would not fit into the highest row that spreadsheets show."""
_FIT = 125.0
"""Width of the columns that may stay while the others scroll: on a laptop, choice and ratings have room beside them."""
_HEADING = PatternFill("solid", fgColor="FFDCE6F1")
_ENTRY = PatternFill("solid", fgColor="FFFFF9E5")
_DONE = PatternFill("solid", bgColor="FFE2F0D9")
_PLAIN, _BOLD = Font(name="Calibri", size=11), Font(name="Calibri", size=11, bold=True)
_EDGE = Side(style="thin", color="FFC9CED6")
_BORDER = Border(left=_EDGE, right=_EDGE, top=_EDGE, bottom=_EDGE)


@dataclass(frozen=True, slots=True)
class _Phrases:
    """What only the workbook says."""

    use: tuple[str, ...]
    done: str
    choose: str
    rate: str


_PHRASES: dict[Language, _Phrases] = {
    "en": _Phrases(
        use=(
            "Rate on the tab '{tab}'. Pick from the lists in the yellow cells; the comment is free.",
            "Where a long text is cut off on the screen, click its cell: the bar above the table shows all of it.",
            "The other cells are locked against slips, without a password. Please do not unlock, sort or edit them.",
            "Save the file as XLSX and send it back.",
        ),
        done="Rows rated so far",
        choose="Pick one of the six choices from the list.",
        rate="A whole number from 1 to 5, or nothing.",
    ),
    "zh": _Phrases(
        use=(
            "请在“{tab}”工作表中评分。在黄色单元格的下拉列表中选择；备注可自由填写。",
            "长文本在屏幕上显示不全时，请单击该单元格，表格上方的编辑栏会显示全文。",
            "其他单元格已锁定以防误改，没有设置密码。请不要解锁、排序或修改。",
            "请保存为 XLSX 文件并交回。",
        ),
        done="已评行数",
        choose="请从列表的六个选项中选择一个。",
        rate="请填 1 到 5 的整数，或留空。",
    ),
}


def xlsx_bytes(sheet: Sheet) -> bytes:
    """The sheet as an XLSX workbook; the same bytes for the same sheet.

    Every text is stored as a string, whatever it begins with; the one formula counts the rated rows and holds none of
    the study's text. Cells other than the rater's are locked, without a password. The file's properties name no
    author, program user or time. DataError for a text that a cell does not hold.
    """
    # openpyxl cuts what is longer without a word, and it counts escapes as they are written.
    refuse_long_texts(sheet, escaped)
    book = Workbook()
    ratings = book.active
    assert isinstance(ratings, Worksheet)
    ratings.title, title = TABS[sheet.language]
    instructions = book.create_sheet(title)
    choices = _write_instructions(instructions, sheet)
    _write_rows(ratings, sheet)
    _offer_choices(ratings, sheet, choices)
    for tab in (ratings, instructions):
        _protect(tab)
    out = io.BytesIO()
    book.save(out)
    return _without_traces(out.getvalue())


def _write_rows(tab: Worksheet, sheet: Sheet) -> None:
    titles = headings(sheet.language)
    widths = _column_widths(sheet)
    for place, name in enumerate(WORKBOOK_COLUMNS, start=1):
        tab.column_dimensions[get_column_letter(place)].width = widths[name]
        _put(tab, 1, place, titles[name], bold=True)
    tab.row_dimensions[1].height = _height([(titles[name], widths[name]) for name in WORKBOOK_COLUMNS])
    for number, row in enumerate(sheet.rows, start=2):
        known = dict(zip(TEXTS, row.texts, strict=True)) | {"id": row.id, "rater": sheet.rater}
        known["study"] = sheet.commitment
        for place, name in enumerate(WORKBOOK_COLUMNS, start=1):
            _put(tab, number, place, known.get(name, ""), entry=name in ENTRIES)
        tab.row_dimensions[number].height = _height([(known[name], widths[name]) for name in TEXTS])
    texts_fit = sum(widths[name] for name in TEXTS) <= _FIT
    tab.freeze_panes = f"{get_column_letter(len(TEXTS) + 1)}2" if texts_fit else "A2"
    tab.page_setup.orientation = "landscape"
    tab.page_setup.fitToHeight = 0
    tab.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    tab.print_title_rows = "1:1"


def _put(tab: Worksheet, row: int, column: int, text: str, *, bold: bool = False, entry: bool = False) -> None:
    """Write a text as a string, never as what it looks like."""
    cell = tab.cell(row, column)
    if text:
        cell.value = escaped(text)
        cell.data_type = "s"
        # Without it a program makes a formula of the text as soon as somebody edits the cell and leaves it unchanged.
        cell.quotePrefix = begins_formula(text)
    cell.alignment = Alignment(wrap_text=True, vertical="top")
    cell.border = _BORDER
    cell.font = _BOLD if bold else _PLAIN
    if bold or entry:
        cell.fill = _HEADING if bold else _ENTRY
    cell.protection = Protection(locked=not entry)


def _column_widths(sheet: Sheet) -> dict[str, float]:
    texts = [text for row in sheet.rows for text in row.texts]
    highest = max(_height([(text, _WIDTHS["answer_a"])], limit=math.inf) for text in texts)
    wide = {"answer_a": _WIDER, "answer_b": _WIDER} if highest > _LONGEST_ROW else {}
    return _WIDTHS | wide


def _height(texts: list[tuple[str, float]], limit: float = _LONGEST_ROW) -> float:
    """Points for the longest of some texts in columns of the widths given: spreadsheets do not reckon it on opening."""
    lines = max(
        sum(max(1, math.ceil(_width(line) / (width - 2))) for line in text.split("\n")) for text, width in texts
    )
    return min(limit, _LINE * max(lines, 1) + 3)


def _width(line: str) -> float:
    """Columns that a line takes: Chinese and other wide signs take two."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in line)


def _write_instructions(tab: Worksheet, sheet: Sheet) -> str:
    """Write title, instructions, choices and scales; the range of the choices, for the list to pick from."""
    said, phrases = words(sheet.language), _PHRASES[sheet.language]
    tab.column_dimensions["A"].width = 34
    for letter in "BCDE":
        tab.column_dimensions[letter].width = 30
    _line(tab, 1, said.title, bold=True)
    number = 2
    for sentence in (*said.instructions, *phrases.use):
        _line(tab, number, sentence.replace("{tab}", TABS[sheet.language][0]))
        number += 1
    letter = get_column_letter(WORKBOOK_COLUMNS.index("overall") + 1)
    filled = f"{quote_sheetname(TABS[sheet.language][0])}!${letter}$2:${letter}${len(sheet.rows) + 1}"
    for place, text in enumerate((phrases.done, "", f"/ {len(sheet.rows)}"), start=1):
        _put(tab, number + 1, place, text, bold=place == 1)
    tab.cell(number + 1, 2).value = f"=COUNTA({filled})"
    number += 3
    _put(tab, number, 1, said.overall_title, bold=True)
    for place, label in enumerate(said.overall.values(), start=number + 1):
        _put(tab, place, 1, label)
    last_choice = number + len(said.overall)
    _write_scales(tab, said, last_choice + 2)
    return f"{quote_sheetname(tab.title)}!$A${number + 1}:$A${last_choice}"


def _write_scales(tab: Worksheet, said: Words, number: int) -> None:
    for place, text in enumerate(("", "", "1", "3", "5"), start=1):
        _put(tab, number, place, text, bold=True)
    for line, name in enumerate(DIMENSIONS, start=number + 1):
        scale = said.scales[name]
        texts = (scale.name, scale.question, *scale.anchors)
        for place, text in enumerate(texts, start=1):
            _put(tab, line, place, text, bold=place == 1)
        tab.row_dimensions[line].height = _height([(text, 30.0) for text in texts])


def _line(tab: Worksheet, number: int, text: str, *, bold: bool = False) -> None:
    _put(tab, number, 1, text, bold=bold)
    tab.merge_cells(start_row=number, start_column=1, end_row=number, end_column=5)
    tab.row_dimensions[number].height = _height([(text, 150.0)])


def _offer_choices(tab: Worksheet, sheet: Sheet, choices: str) -> None:
    """Lists to pick from in the rater's cells, and a green choice where the row has one."""
    said, phrases = words(sheet.language), _PHRASES[sheet.language]
    titles = headings(sheet.language)
    last = len(sheet.rows) + 1
    # The labels hold commas, which part the choices of a list given in place; so they are pointed at.
    columns = {"overall": (choices, f"{said.overall_title}\n{phrases.choose}")}
    for name in RATINGS:
        dimension = next(one for one in DIMENSIONS if name.startswith(one))
        low, middle, high = said.scales[dimension].anchors
        columns[name] = ('"1,2,3,4,5"', f"{said.scales[dimension].question}\n1 {low}\n3 {middle}\n5 {high}")
    for name, (source, prompt) in columns.items():
        letter = get_column_letter(WORKBOOK_COLUMNS.index(name) + 1)
        offer = DataValidation(type="list", formula1=source, allow_blank=True, errorStyle="stop")
        offer.error = phrases.choose if name == "overall" else phrases.rate
        offer.prompt = prompt[:_LONGEST_PROMPT]
        if len(titles[name]) <= _LONGEST_TITLE:
            offer.errorTitle = offer.promptTitle = titles[name]
        offer.showErrorMessage = offer.showInputMessage = True
        offer.add(f"{letter}2:{letter}{last}")
        tab.add_data_validation(offer)
    overall = get_column_letter(WORKBOOK_COLUMNS.index("overall") + 1)
    done = Rule(type="expression", formula=[f"LEN(${overall}2)>0"], dxf=DifferentialStyle(fill=_DONE))
    tab.conditional_formatting.add(f"{overall}2:{overall}{last}", done)


def _protect(tab: Worksheet) -> None:
    """Lock against slips; columns and rows may still be made wider and higher."""
    tab.protection.enable()
    tab.protection.formatColumns = tab.protection.formatRows = False


def _without_traces(workbook: bytes) -> bytes:
    """The same workbook with fixed times in its archive and empty properties."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 0
            target.writestr(entry, _CORE if name == "docProps/core.xml" else source.read(name))
    return out.getvalue()
