"""Every format gives back what it was given, and the content of a file tells what it is."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorascope.blind.checking import check_sheets
from lorascope.blind.formats import FORMATS, read_sheet, reading, write_sheet
from lorascope.blind.key import row_digest
from lorascope.blind.rows import RATINGS, Sheet, SheetRow, clean
from lorascope.errors import DataError

make = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("filled_study.py"))))
COMMITMENT = "hmac-" + "0f" * 32
SALT = "5a" * 32
TEXTS = [
    *("=1+1", '=HYPERLINK("http://x","y")', "+1", "-1\n- 2", "@SUM(A1)", "＝1", "1-2", "3/4", "1e5", "0012", "TRUE"),
    *("5 May 2024", "5月4日", "$5", "50%", "#N/A", "'tis", "'=x", "''=x", "'1", "'", '"', '""', '"=1"', "a'b"),
    *("_x0041_", "_x000D_", "_x005F_x0041_", "ax005F_b", "_x0041", "a\nb\n\nc", "a\tb", "a, b; c", "trailing \nline"),
    *("中文，回答。\n第二行", "😀🏳️‍🌈", "\u202eRTL\u202c שלום", "e\u0301 é", "\u200bzero", "a\u00a0b", "in  side"),
    *("<b>&amp;</b>", "</script><!--", "]]>", "${x}", "{{ y }}", "\\n", "x" * 32_767, "", "\x0b\x00\u2028\ufeffodd"),
]
TABLES = ["csv", "xlsx"]
BOTH = [*TABLES, "label-studio"]


def _sheet(texts: list[str], language: str = "en") -> Sheet:
    cleaned = [clean(text) for text in texts]
    rows = tuple(SheetRow(f"q{number:04x}z", text, cleaned[-number - 1], text) for number, text in enumerate(cleaned))
    return Sheet("study", COMMITMENT, "rater-1", language, rows)


def _written(sheet: Sheet, folder: Path, name: str) -> Path:
    path = folder / f"rater-1{FORMATS[name].suffix}"
    write_sheet(sheet, path, name)
    return path


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", BOTH)
def test_texts_come_back_exactly(tmp_path: Path, name: str, language: str):
    sheet = _sheet(TEXTS, language)
    read = read_sheet(_written(sheet, tmp_path, name))
    assert [row.texts for row in read.rows] == [row.texts for row in sheet.rows]
    assert [row.id for row in read.rows] == [row.id for row in sheet.rows]
    assert {(row.commitment, row.rater, row.overall, row.comment) for row in read.rows} == {
        (COMMITMENT, "rater-1", "", "")
    }
    assert all(row.ratings == dict.fromkeys(RATINGS, "") for row in read.rows)
    assert read.name == f"rater-1{FORMATS[name].suffix}"


@pytest.mark.parametrize("name", BOTH)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=40).map(clean), min_size=1, max_size=6))
def test_any_clean_text_keeps_its_digest(tmp_path: Path, name: str, texts: list[str]):
    sheet = _sheet(texts)
    read = read_sheet(_written(sheet, tmp_path, name))
    for row, back in zip(sheet.rows, read.rows, strict=True):
        assert back.texts is not None
        assert row_digest(SALT, SheetRow(back.id, *back.texts)) == row_digest(SALT, row)


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_same_sheet_gives_the_same_file(tmp_path: Path, name: str):
    first = _written(_sheet(["one", "two"]), tmp_path, name).read_bytes()
    assert _written(_sheet(["one", "two"]), tmp_path, name).read_bytes() == first


@pytest.mark.parametrize("name", list(FORMATS))
def test_companions_belong_to_no_rater(name: str):
    companion = FORMATS[name].companion
    if companion is not None:
        suffix, content = companion
        assert suffix != FORMATS[name].suffix
        assert content("en") != content("zh")


@pytest.mark.parametrize("name", ["html", "label-studio"])
def test_texts_that_no_cell_holds_are_for_the_other_formats(tmp_path: Path, name: str):
    assert _written(_sheet(["long " * 20_000]), tmp_path, name).stat().st_size > 100_000


@pytest.mark.parametrize("name", TABLES)
def test_a_text_that_no_cell_holds_writes_nothing(tmp_path: Path, name: str):
    with pytest.raises(DataError, match="html or label-studio"):
        _written(_sheet(["long " * 20_000]), tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", BOTH)
def test_the_content_tells_the_format_whatever_the_file_is_called(tmp_path: Path, name: str):
    misnamed = tmp_path / "ratings.dat"
    _written(_sheet(["one"]), tmp_path, name).rename(misnamed)
    assert read_sheet(misnamed).rows[0].texts == ("one", "one", "one")


def _answers() -> str:
    row = {
        "id": "q0000z",
        "overall": "A",
        "ratings": {"accuracy_a": 4},
        "comment": "",
        "texts": ["one", "two", "three"],
    }
    head = {"format": "lorascope-ratings", "version": 1, "study": "study", "commitment": COMMITMENT}
    return json.dumps({**head, "rater": "rater-1", "language": "en", "rows": [row]})


def test_the_ratings_that_the_page_saves_are_read(tmp_path: Path):
    path = tmp_path / "rater-1-ratings.json"
    path.write_text(_answers(), encoding="utf-8")
    (read,) = read_sheet(path).rows
    assert (read.overall, read.ratings["accuracy_a"], read.texts) == ("A", "4", ("one", "two", "three"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_mark_before_json_tells_its_encoding(tmp_path: Path, encoding: str):
    path = _written(_sheet(["一", "two"]), tmp_path, "label-studio")
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert [row.texts[0] for row in read_sheet(path).rows] == ["一", "two"]
    path.write_bytes(_answers().encode(encoding))
    assert read_sheet(path).rows[0].texts == ("one", "two", "three")


def test_utf_16_without_a_mark_is_said_to_be_another_encoding(tmp_path: Path):
    message = _refusal(tmp_path, _answers().encode("utf-16-le"), "rater-1-ratings.json")
    assert "neither UTF-8 nor UTF-16 with a byte-order mark" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rater": ""}, "the sheet says that its rater is '', but its rows are rater-1's"),
        ({"rater": "rater-2"}, "the sheet says that its rater is 'rater-2', but its rows are rater-1's"),
        ({"study": "study-2"}, "the sheet says that its study is 'study-2', but its rows are of study-1"),
        ({"study": ""}, "the sheet says that its study is '', but its rows are of study-1"),
    ],
)
def test_saved_ratings_with_another_rater_or_study_are_refused_once(tmp_path: Path, changes: dict, said: str):
    made = make.make_study()
    path = tmp_path / "rater-1-ratings.json"
    filled = made.sheet("rater-1", make.prefer("tuned"))
    rows = [
        {"id": row.id, "overall": row.overall, "ratings": {}, "comment": "", "texts": row.texts} for row in filled.rows
    ]
    head = {"format": "lorascope-ratings", "version": 1, "study": "study-1", "commitment": made.commitment}
    head |= {"rater": "rater-1", "language": "en", "rows": rows}
    path.write_text(json.dumps(head), encoding="utf-8")
    assert check_sheets([read_sheet(path)], made.key).sheets == {"rater-1": path.name}
    path.write_text(json.dumps(head | changes), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        check_sheets([read_sheet(path)], made.key)
    lines = [f"  - rater-1-ratings.json (rater-1): {said}"]
    assert caught.value.problem.split("\n") == ["the sheets cannot be scored: 1 problem", *lines]


def test_one_row_with_an_empty_rater_is_named():
    made = make.make_study()
    sheet = make.changed(made.sheet("rater-1", make.prefer("tuned")), 3, rater="")
    with pytest.raises(DataError, match=r"row 5 \(rater-1\): the rater column says ''"):
        check_sheets([sheet], made.key)


def _refusal(tmp_path: Path, content: bytes, name: str = "rater-1.csv") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_sheet(path)
    assert path.read_bytes() == content
    assert name in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def test_the_page_itself_holds_no_ratings(tmp_path: Path):
    page = _written(_sheet(["one"]), tmp_path, "html").read_bytes()
    message = _refusal(tmp_path, page, "rater-1.html")
    assert "rating page, which holds no ratings" in message
    assert "Save ratings" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"%PDF-1.7 ...", "no rating sheet"),
        (b"<?xml version='1.0'?><Workbook/>", "no rating sheet"),
        (b"PAR1....", "no rating sheet"),
        (b'{"salt": "00", "rows": []}', "a study's key, not a rater's sheet"),
        (b'{"rows": []}', "no rating sheet"),
        (b'{"rows": ', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'[{"data": {}}]', "no row, question"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 40, "old binary workbook"),
        (b"\x00\x01\x02\x03" * 9, "encoding"),
        (b"some,thing\nelse,1\n", "none of the headings"),
    ],
)
def test_what_is_no_sheet_is_named(tmp_path: Path, content: bytes, problem: str):
    assert problem in _refusal(tmp_path, content)


def test_a_report_is_told_from_a_rating_page(tmp_path: Path):
    report = b'<!doctype html>\n<html lang="en"><head><meta name="generator" content="lorascope 1.0"></head></html>'
    message = _refusal(tmp_path, report, "report.html")
    assert "report of a result" in message
    assert "rating page" not in message
    assert "a web page, not a rating sheet" in _refusal(tmp_path, b"<html><body>hello</body></html>")


def test_a_place_is_said_with_its_folder(tmp_path: Path):
    assert str(tmp_path / "rater-1.csv") in _refusal(tmp_path, b"name,age\nx,1\n")
    path = _written(_sheet(["one"]), tmp_path, "csv")
    assert read_sheet(path).folder == str(tmp_path)


def test_label_studios_csv_export_is_sent_back_for_json(tmp_path: Path):
    heading = "annotation_id,annotator,answer_a,answer_b,created_at,id,lead_time,overall,question,rater,row,study"
    message = _refusal(tmp_path, f"{heading}\n1,1,a,b,x,1,2,A,q,r,q1,s\n".encode())
    assert "Label Studio" in message
    assert "JSON" in message


def test_a_missing_file_a_folder_and_a_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read") as caught:
            read_sheet(path)
        assert caught.value.remedy
    monkeypatch.setattr(reading, "LARGEST_FILE", 100)
    assert "more than any rating sheet needs" in _refusal(tmp_path, b"x" * 101)
