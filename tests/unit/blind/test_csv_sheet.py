"""The CSV sheet: what is written, what a spreadsheet may make of it, and what cannot be read."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.blind.filled_values import parse_rating
from lorascope.blind.formats.csv_sheet import csv_bytes, read_csv
from lorascope.blind.formats.table import COLUMNS, headings, instructions, overall_code, protect, rating_text, unprotect
from lorascope.blind.rows import OVERALL, RATINGS, Sheet, SheetRow
from lorascope.blind.scales import words
from lorascope.errors import DataError

COMMITMENT = "hmac-" + "0f" * 32
RUN = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "＋1", "－1", "＠A1", "-dash\n- list"]
REWRITTEN = [
    *("1-2", "3/4", "1e5", "0012", "1,000.50", "50%", "$5", "€ 5", "(12)", "12:30", "12:30 pm", "5 May 2024", "May 5"),
    *("2024-05-04", "5月4日", "２０２４年", "１２", "TRUE", "false", "#N/A", "#REF!", "001-002", "1E400", "mai 2024"),
]
NO_DIGITS = ["④", "²", "₄", "⒋", "❹", "𝟒", "４²", "४"]
LEFT_ALONE = [
    "The answer is 42.",
    "'tis so",
    "''",
    "'",
    "",
    "# Title",
    "rater-1",
    "Yes, 3 of them are in the box over there",
]


def _sheet(*texts: str) -> Sheet:
    rows = tuple(SheetRow(f"q{number:02d}f", text, f"{text} a", text) for number, text in enumerate(texts))
    return Sheet("study", COMMITMENT, "rater-1", "en", rows)


def _table(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def _filled(separator: str = ",", heading: tuple[str, ...] = COLUMNS, **changes: str) -> str:
    """One row's sheet as text, rated, with some columns changed."""
    values = {"id": "q01f", "question": "Q?", "answer_a": "yes", "answer_b": "no", "overall": "A much"}
    values |= {"comment": "", "rater": "rater-1", "study": COMMITMENT, **dict.fromkeys(RATINGS, "4"), **changes}
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(heading)
    writer.writerow([values.get(name, "") for name in heading])
    return out.getvalue()


def test_every_cell_is_quoted_after_a_byte_order_mark():
    content = csv_bytes(_sheet("one", "two"))
    assert content.startswith(b'\xef\xbb\xbf"id","question"')
    for line in content.decode("utf-8-sig").splitlines():
        assert line.startswith('"')
        assert line.endswith('"')
        assert line.count('","') == len(COLUMNS) - 1
    assert _table(content)[0] == list(COLUMNS)


def test_nothing_but_rows_rater_and_commitment_is_in_the_sheet():
    row = _table(csv_bytes(_sheet("one")))[1]
    assert dict(zip(COLUMNS, row, strict=True)) == {
        **dict.fromkeys(COLUMNS, ""),
        **{"id": "q00f", "question": "one", "answer_a": "one a", "answer_b": "one"},
        **{"rater": "rater-1", "study": COMMITMENT},
    }


@pytest.mark.parametrize("text", [*RUN, *REWRITTEN])
def test_texts_that_a_spreadsheet_would_run_or_rewrite_begin_with_an_apostrophe(text: str):
    cell = _table(csv_bytes(_sheet(text)))[1][1]
    assert cell == f"'{text}"
    assert unprotect(cell) == text


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_other_texts_stand_as_they_are(text: str):
    assert protect(text) == text
    assert unprotect(text) == text


@given(st.text(alphabet=st.sampled_from("'=+-@1a /:.#％１\tM年\n"), max_size=12) | st.text(max_size=80))
def test_protection_is_undone_exactly(text: str):
    assert unprotect(protect(text)) == text
    assert unprotect(text) in (text, text[1:])


def test_a_program_that_drops_the_apostrophe_does_no_harm():
    for text in [*RUN, *REWRITTEN]:
        assert unprotect(text) == text


def test_a_long_text_cannot_stall_the_recognition():
    for text in ("1" * 60, "1 " * 30, "1a" * 30, " " * 59 + "!", "a1" * 30, "1" + " a" * 29):
        assert unprotect(protect(text)) == text


@pytest.mark.parametrize(
    "longest", ["x" * 32_767, "😀" * 16_383 + "x", "=" + "x" * 32_765], ids=["letters", "emoji", "with an apostrophe"]
)
def test_a_text_that_a_cell_would_cut_is_refused(longest: str):
    row = SheetRow("q00f", "What is long?", longest, longest)
    csv_bytes(Sheet("study", COMMITMENT, "rater-1", "en", (row,)))
    row = SheetRow("q00f", "What is long?", "", f"{longest}x")
    with pytest.raises(DataError) as caught:
        csv_bytes(Sheet("study", COMMITMENT, "rater-1", "en", (row,)))
    message = str(caught.value)
    assert "answer_b of the question 'What is long?' takes 32,768 characters" in message
    assert "holds 32,767" in message
    assert "rater-1, row q00f" in message
    assert "html or label-studio" in message


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "gbk"])
def test_separators_and_encodings(separator: str, encoding: str):
    text = _filled(separator, question="怎么办；先生？", answer_a="甲, 乙\n丙", comment="好")
    sheet = read_csv(text.encode(encoding), "rater-1.csv")
    (row,) = sheet.rows
    assert row.texts == ("怎么办；先生？", "甲, 乙\n丙", "no")
    assert (row.id, row.rater, row.commitment, row.comment) == ("q01f", "rater-1", COMMITMENT, "好")
    assert (row.overall, row.ratings["fluency_b"], row.place) == ("A much", "4", "rater-1.csv, row 2")


@pytest.mark.parametrize("text", ["größer", "é", "voilà: ça", "Preis 5 € – „gut“"])
def test_a_western_spreadsheets_own_csv_is_read(text: str):
    sheet = read_csv(_filled(";", question=text, answer_a="ä").encode("cp1252"), "rater-1.csv")
    readings = {each.encoding: each.rows[0].texts[0] for each in (sheet, *sheet.otherwise)}
    assert readings["cp1252"] == text
    assert list(readings) in (["cp1252"], ["gbk", "cp1252"], ["gb18030", "cp1252"])


def test_bytes_that_two_encodings_allow_are_chinese_first():
    sheet = read_csv(_filled(question="怎么办").encode("gbk"), "rater-1.csv")
    assert (sheet.encoding, sheet.rows[0].texts[0]) == ("gbk", "怎么办")
    assert [each.encoding for each in sheet.otherwise] == ["cp1252"]
    assert read_csv(_filled(question="x").encode(), "rater-1.csv").otherwise == ()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32", "cp037"])
def test_another_encoding_is_named(encoding: str):
    with pytest.raises(DataError, match=r"encoding is not one of UTF-8, UTF-16 .* GBK/GB18030") as caught:
        read_csv(_filled(question="é").encode(encoding), "rater-1.csv")
    assert "CSV UTF-8" in str(caught.value)


def test_the_line_that_says_the_separator_is_no_row():
    (row,) = read_csv(f"sep=;\r\n{_filled(';')}".encode(), "r.csv").rows
    assert row.place == "r.csv, row 2"


def test_columns_may_be_moved_and_added_and_empty_rows_are_passed_over():
    heading = ("", *reversed(COLUMNS), "my notes")
    text = _filled(heading=heading)
    first, second = text.splitlines()
    rows = read_csv(f"{first}\n\n{',' * 18}\n{second}\n\n".encode(), "r.csv").rows
    assert [(row.id, row.place) for row in rows] == [("q01f", "r.csv, row 4")]
    assert rows[0].texts == ("Q?", "yes", "no")


def test_a_row_is_counted_as_the_spreadsheet_counts_it():
    text = csv_bytes(_sheet("a\nb\nc", "d", "e\n\nf"))
    assert [row.place for row in read_csv(text, "r.csv").rows] == [f"r.csv, row {number}" for number in (2, 3, 4)]


def test_a_missing_column_is_named_with_what_looks_like_it():
    heading = tuple("overal" if name == "overall" else name for name in COLUMNS)
    with pytest.raises(DataError) as caught:
        read_csv(_filled(heading=heading).encode(), "rater-2.csv")
    assert "the sheet has no column overall" in str(caught.value)
    assert "rater-2.csv" in str(caught.value)
    assert "call the column 'overal' 'overall' again" in str(caught.value)


def test_columns_that_were_deleted_are_named():
    heading = tuple(name for name in COLUMNS if name not in ("logic_a", "study", "comment"))
    with pytest.raises(DataError, match="no columns logic_a, study") as caught:
        read_csv(_filled(heading=heading).encode(), "r.csv")
    assert "with all its columns" in str(caught.value)


def test_a_doubled_column_is_named():
    with pytest.raises(DataError, match="the column overall more than once"):
        read_csv(_filled(heading=(*COLUMNS, "Overall")).encode(), "r.csv")


def test_a_text_that_is_no_sheet():
    with pytest.raises(DataError, match="none of the headings of a rating sheet"):
        read_csv(b"name,age\nx,1\n", "people.csv")
    with pytest.raises(DataError, match="is empty"):
        read_csv(b"", "empty.csv")


def test_unquoted_text_and_open_quotes_say_the_row():
    broken = _filled().replace("no,A much", "no, or yes, or no,A much")
    with pytest.raises(DataError, match=r"18 cells and the heading row 16: a text is not quoted") as caught:
        read_csv(broken.encode(), "r.csv")
    assert "r.csv, row 2" in str(caught.value)
    with pytest.raises(DataError, match="not valid CSV") as caught:
        read_csv((_filled() + '"q02f,open').encode(), "r.csv")
    assert "r.csv, row 3" in str(caught.value)


def test_a_cell_longer_than_any_says_its_row_and_the_likely_cause():
    rows = _filled() + _filled(comment="x" * 140_000).partition("\n")[2]
    with pytest.raises(DataError, match="a cell has more than 131,072 characters") as caught:
        read_csv(rows.encode(), "r.csv")
    assert "r.csv, row 3" in str(caught.value)
    assert "quotation mark" in str(caught.value.remedy)
    assert "CSV UTF-8" not in str(caught.value)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_labels_in_either_language_and_codes_are_the_same_choices(language: str):
    for code, label in words(language).overall.items():
        for said in (code, label, f" {label} ", label.upper(), label.replace(" ", ""), code.lower().replace(" ", "_")):
            assert overall_code(said) == code
    assert list(words(language).overall) == list(OVERALL)


@pytest.mark.parametrize("said", ["A+", "neither", "5", "A or B", "", "a date: 2026-05-04", "Ⓐ", "ᴬ", "𝐀"])
def test_what_is_no_choice_stays_as_it_is(said: str):
    assert overall_code(said) == said


@pytest.mark.parametrize("said", ["Ａ　ｍｕｃｈ", "Ａ，much better", "ａ much"])
def test_full_width_letters_are_the_same_choice(said: str):
    assert overall_code(said) == "A much"


@pytest.mark.parametrize("said", NO_DIGITS)
def test_circled_superscript_and_other_digits_are_no_ratings(said: str):
    assert parse_rating(said) is None
    assert parse_rating(rating_text(said)) is None


@pytest.mark.parametrize("said", ["4", "４", "４．０", "4，0"])
def test_full_width_digits_are_ratings(said: str):
    assert parse_rating(said) == 4


def test_ratings_are_left_for_the_check_except_for_the_programs_own_spelling():
    given_and_read = {"4": "4", "4.0": "4", "4,0": "4", " 3 ": "3", "５": "5", "6": "6", "3.5": "3.5", "": "", "½": "½"}
    given_and_read |= {"４．０": "4", "\u3000４": "4"} | {text: text for text in NO_DIGITS}
    assert {text: rating_text(text) for text in given_and_read} == given_and_read
    (row,) = read_csv(_filled(accuracy_a="6", logic_b="4-May", fluency_a="4.0", overall="x").encode(), "r.csv").rows
    assert (row.ratings["accuracy_a"], row.ratings["logic_b"], row.ratings["fluency_a"]) == ("6", "4-May", "4")
    assert row.overall == "x"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_instructions_say_what_each_column_means(language: str):
    text = instructions(language)
    for name, meant in headings(language).items():
        assert f"  {name}: {meant} (" in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_instructions_hold_every_choice_and_anchor(language: str):
    text, said = instructions(language), words(language)
    expected = [*said.instructions, *said.overall, *said.overall.values()]
    expected += [part for scale in said.scales.values() for part in (scale.name, scale.question, *scale.anchors)]
    assert [part for part in expected if part not in text] == []
