"""The offline rating page: what stands in it, what cannot, and the file of ratings that it saves."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import string
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lorascope.blind.formats.html_sheet import answers_name, html_page, read_html_answers
from lorascope.blind.formats.html_words import page_words
from lorascope.blind.rows import OVERALL, RATINGS, Sheet, SheetRow
from lorascope.blind.scales import words
from lorascope.errors import DataError

HOSTILE = "</script><script>window.attacked = 1</script><!-- & \u2028\u2029 ]]> {{ 7 * 7 }}"


def sheet(language: Any = "en", count: int = 3, question: str = "How?") -> Sheet:
    rows = tuple(SheetRow(f"qa{n:06x}", question, f"Long answer {n}", f"Other {n}") for n in range(count))
    return Sheet("study-77aa", "hmac-" + "0f" * 32, "rater-2", language, rows)


class Elements(HTMLParser):
    """Every element with its attributes, and the text inside each script and style."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag
        if tag in ("script", "style"):
            self.raw.append("")

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.raw[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def test_policy_allows_the_pages_own_script_and_style_alone() -> None:
    elements = parsed(html_page(sheet()))
    policies = [each["content"] for tag, each in elements.found if each.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    directives = dict(part.strip().split(" ", 1) for part in str(policies[0]).split(";"))
    style, _data, script = elements.raw
    source = {
        name: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for name, text in {"script-src": script, "style-src": style}.items()
    }
    assert directives == {
        "default-src": "'none'",
        **source,
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_nothing_in_the_page_points_outside() -> None:
    page = html_page(sheet())
    elements = parsed(page)
    places = [value for _, each in elements.found for name, value in each.items() if name in ("src", "href", "action")]
    assert places == ["data:,"]
    assert not [name for _, each in elements.found for name in each if name.startswith("on") or name == "style"]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|innerHTML|eval\(", page)


def test_texts_stand_in_the_data_alone_and_come_back_whole() -> None:
    page = html_page(sheet(question=HOSTILE))
    elements = parsed(page)
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert "window.attacked" not in elements.raw[2]
    data = json.loads(elements.raw[1])
    assert [row["texts"] for row in data["rows"]] == [[HOSTILE, f"Long answer {n}", f"Other {n}"] for n in range(3)]
    assert not set("<>&\u2028\u2029") & set(elements.raw[1])
    outside = page.replace(elements.raw[1], "")
    assert "Long answer" not in outside
    assert "qa00000" not in outside


def test_the_page_holds_the_rows_and_nothing_about_them() -> None:
    page = html_page(sheet())
    data = json.loads(parsed(page).raw[1])
    assert data["head"] == {
        "format": "lorascope-ratings",
        "version": 1,
        "study": "study-77aa",
        "commitment": "hmac-" + "0f" * 32,
        "rater": "rater-2",
        "language": "en",
    }
    assert {name for row in data["rows"] for name in row} == {"id", "texts"}
    assert [row["id"] for row in data["rows"]] == ["qa000000", "qa000001", "qa000002"]
    assert html_page(sheet()) == page, "no time and nothing random may be in it"
    for hint in ("adapted", "checkpoint", "mismatched", "identical", "repeat"):
        assert hint not in page.replace("event.repeat", "").replace("repeat(", "").lower()


def test_a_rater_without_shortcuts_sees_every_scale_and_choice() -> None:
    page = html_page(sheet("zh"))
    elements = parsed(page)
    shown = words("zh")
    radios = [each for tag, each in elements.found if tag == "input" and each.get("type") == "radio"]
    assert [each["value"] for each in radios if each["name"] == "overall"] == list(OVERALL)
    assert {str(each["name"]) for each in radios} == {"overall", *RATINGS}
    assert all([each["value"] for each in radios if each["name"] == name] == ["", *"12345"] for name in RATINGS)
    for text in (shown.title, shown.overall_title, *shown.overall.values(), *shown.instructions):
        assert text in page
    for scale in shown.scales.values():
        assert all(text in page for text in (scale.name, scale.question, *scale.anchors))
    assert next(each for tag, each in elements.found if tag == "html") == {"lang": "zh-Hans"}


def test_both_languages_say_the_same_things() -> None:
    fields = {
        language: {name: sorted(filter(None, (part[1] for part in string.Formatter().parse(text)))) for name, text in
                   page_words(language).items()}
        for language in ("en", "zh")
    }  # fmt: skip
    assert fields["en"] == fields["zh"]
    assert all(text.strip() for language in ("en", "zh") for text in page_words(language).values())


def test_every_word_is_used() -> None:
    templates = Path(html_page.__code__.co_filename).parents[1] / "templates"
    used = "".join((templates / name).read_text(encoding="utf-8") for name in ("sheet.js", "sheet.html.j2"))
    unused = [name for name in page_words("en") if not re.search(rf"""(\bt\.|words\.|say\("){name}\b""", used)]
    assert [name for name in unused if name not in ("row_done", "row_open")] == []


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_can_be_read_in_light_and_in_dark() -> None:
    style = parsed(html_page(sheet())).raw[0]
    schemes = re.findall(r"color-scheme: (light|dark);((?:\s*--[a-z-]+: #[0-9a-f]{6};)+)", style)
    assert {name for name, _ in schemes} == {"light", "dark"}
    pairs = [(text, ground, 4.5) for text in ("ink", "muted") for ground in ("paper", "card", "faint")]
    pairs += [("accent", "paper", 4.5), ("on-accent", "accent", 4.5), ("warn", "paper", 4.5), ("ink", "tint", 4.5)]
    pairs += [("edge", "card", 3.0), ("edge", "paper", 3.0), ("accent", "card", 3.0)]
    for name, block in schemes:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for text, ground, least in pairs:
            dark, light = sorted((luminance(colours[text]), luminance(colours[ground])))
            assert (light + 0.05) / (dark + 0.05) >= least, (name, text, ground)


def test_the_page_is_small() -> None:
    assert len(html_page(sheet(count=1)).encode()) < 64_000


def saved(**changes: Any) -> dict[str, Any]:
    rows = [
        {"id": "qa1", "overall": "A much", "ratings": {"accuracy_a": 5, "fluency_b": 1}, "comment": " fine\r\n",
         "texts": ["How?", "a", "b"]},
        {"id": "qa2", "overall": "", "ratings": {}, "comment": "", "texts": ["Why?", "c", ""]},
    ]  # fmt: skip
    head = {"format": "lorascope-ratings", "version": 1, "study": "study-77aa", "commitment": "hmac-0f"}
    return {**head, "rater": "rater-2", "language": "en", "rows": rows, **changes}


def written(folder: Path, content: object) -> Path:
    path = folder / answers_name("rater-2")
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_utf_16_with_its_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rater-2-ratings.json"
    path.write_bytes(json.dumps(saved()).encode("utf-16"))
    assert read_html_answers(path).rows[0].texts == ("How?", "a", "b")


def test_foreign_names_in_a_message_are_short_and_of_one_line(tmp_path: Path) -> None:
    content = saved()
    content["rows"][0]["x\x1b[2J\n" * 1000] = 1
    for wrong in (content, saved(**{"x\x1b[2J\n" * 1000: 1})):
        with pytest.raises(DataError) as caught:
            read_html_answers(written(tmp_path, wrong))
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value.where)) < len(str(tmp_path)) + 200


@pytest.mark.parametrize("prefix", ["", "\ufeff", "\n"])
def test_reads_what_the_page_saved(tmp_path: Path, prefix: str) -> None:
    filled = read_html_answers(written(tmp_path, prefix + json.dumps(saved())))
    first, second = filled.rows
    assert filled.name == "rater-2-ratings.json"
    assert (first.place, second.place) == ("rater-2-ratings.json, row 1", "rater-2-ratings.json, row 2")
    assert (first.id, first.commitment, first.rater, first.overall) == ("qa1", "hmac-0f", "rater-2", "A much")
    assert first.ratings == {**dict.fromkeys(RATINGS, ""), "accuracy_a": "5", "fluency_b": "1"}
    assert first.comment == "fine"
    assert first.texts == ("How?", "a", "b")
    assert second.overall == ""
    assert set(second.ratings.values()) == {""}


def test_values_out_of_range_are_left_to_the_common_check(tmp_path: Path) -> None:
    content = saved()
    content["rows"][0].update(overall="C", ratings={"accuracy_a": 6})
    row = read_html_answers(written(tmp_path, content)).rows[0]
    assert (row.overall, row.ratings["accuracy_a"]) == ("C", "6")


def row_change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["rows"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.update(format="other"), "that a rating page saved"),
        (lambda content: content.pop("format"), "that a rating page saved"),
        (lambda content: content.update(version=2), "version 2, this lorascope reads 1"),
        (lambda content: content.pop("commitment"), "commitment"),
        (lambda content: content.update(rows=[]), "rows"),
        (lambda content: content.update(rows="none"), "rows"),
        (lambda content: content.update(key="adapted"), "key"),
        (lambda content: content.update(language="fr"), "language"),
        (row_change(ratings={"accuracy": 3}), "row 2, ratings.accuracy"),
        (row_change(ratings={"accuracy_a": "3"}), "row 2, ratings.accuracy_a"),
        (row_change(ratings={"accuracy_a": True}), "row 2, ratings.accuracy_a"),
        (row_change(ratings={"accuracy_a": 2.5}), "row 2, ratings.accuracy_a"),
        (row_change(overall=1), "row 2, overall"),
        (row_change(texts=["How?", "a"]), "row 2, texts"),
        (row_change(system="base"), "row 2, system"),
        (lambda content: content["rows"][1].pop("id"), "row 2, id"),
    ],
)
def test_a_file_that_the_page_did_not_save_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    content = saved()
    change(content)
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_html_answers(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value.where)
    assert "Save ratings" in str(caught.value.remedy)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", "[" * 100_000, '{"format": "\\ud800"}', "PK\x03\x04"])
def test_other_text_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="no file of ratings"):
        read_html_answers(written(tmp_path, content))


def test_other_bytes_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rater-2-ratings.json"
    with pytest.raises(DataError, match="cannot be read"):
        read_html_answers(path)
    path.write_bytes(json.dumps(saved(), ensure_ascii=False).replace("fine", "größer").encode("latin-1"))
    with pytest.raises(DataError, match="not text in UTF-8"):
        read_html_answers(path)
