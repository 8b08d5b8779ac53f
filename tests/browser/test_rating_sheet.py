"""The rating page in a real browser: rated by keyboard alone, saved, resumed, loaded back, unharmed by hostile text."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from lorascope.blind.formats.html_sheet import html_page, read_html_answers
from lorascope.blind.formats.html_words import page_words
from lorascope.blind.rows import OVERALL, RATINGS, Language, Sheet, SheetRow
from lorascope.blind.scales import words

pytestmark = pytest.mark.browser
LONG = "\n\n".join(f"{n}. " + "A sentence that goes on for a while. " * 12 for n in range(45))[:20_000]
HOSTILE = (
    "<script>window.attacked = 1</script>",
    "</script><script>window.attacked = 1</script>",
    "<img src=x onerror='window.attacked = 1'><svg onload='window.attacked = 1'>",
    "javascript:window.attacked=1",
    "{{ 7 * 7 }} ${window.attacked = 1} <!-- ]]> &lt;b&gt; &amp;",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "https://example.org/a?b=c\nline two\n\n  indented\ttab",
    "W" * 3000,
)
NO_STORAGE = """Object.defineProperty(window, "localStorage", {
  get() { throw new DOMException("The operation is insecure.", "SecurityError"); },
});"""
FULL_STORAGE = 'Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };'


def sheet(rows: int = 4, *, study: str = "study-1", rater: str = "rater-1", language: Language = "en") -> Sheet:
    texts = ("Why?", "Because.\nIt rains.", "No.")
    if language == "zh":
        texts = ("为什么？", "因为下雨。\n\n带上雨伞。", "不知道。")
    made = tuple(SheetRow(f"qa{n:06x}", f"{n + 1}. {texts[0]}", texts[1], texts[2]) for n in range(rows))
    return Sheet(study, f"hmac-{study}", rater, language, made)


@dataclass
class Rater:
    """An opened page, what it complained about or asked for, and the keys to rate with."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def save(self, folder: Path, press: str = "s") -> Path:
        with self.page.expect_download() as download:
            self.page.keyboard.press(press)
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def chosen(self) -> str | None:
        found: str | None = self.page.evaluate("document.querySelector('[name=overall]:checked')?.value ?? null")
        return found

    def at(self) -> str:
        return self.page.locator("#heading").inner_text()


Opener = Callable[..., Rater]


SIZE = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def shared(browser: Browser) -> Iterator[BrowserContext]:
    """The first page of a context starts a process, later ones do not: one context serves a page of most tests."""
    expect.set_options(timeout=20_000)
    context = browser.new_context(accept_downloads=True, viewport=SIZE)
    yield context
    context.close()
    expect.set_options(timeout=5_000)


@pytest.fixture
def opened(browser: Browser, shared: BrowserContext, tmp_path: Path) -> Iterator[Opener]:
    """Opens sheets, each with a storage of its own or, ``again``, with that of an opened one."""
    contexts: list[BrowserContext] = []

    def context_of(again: Rater | None, own: bool, options: dict[str, Any]) -> BrowserContext:
        if again is not None:
            return again.page.context
        fresh = own or bool(options) or shared in contexts
        found = browser.new_context(**{"accept_downloads": True, "viewport": SIZE, **options}) if fresh else shared
        contexts.append(found)
        return found

    def open_sheet(shown: Sheet, *, again: Rater | None = None, script: str = "", **options: Any) -> Rater:
        path = tmp_path / f"{shown.rater}-{shown.study}-{shown.commitment}.html"
        path.write_text(html_page(shown), encoding="utf-8")
        rater = Rater(context_of(again, bool(script), options).new_page())
        if script:
            rater.page.add_init_script(script)
        rater.page.on("console", lambda message: rater.complaints.append(message.text))
        rater.page.on("pageerror", lambda error: rater.complaints.append(str(error)))
        rater.page.on("request", lambda request: rater.requests.append(request.url))
        rater.page.goto(path.as_uri())
        return rater

    yield open_sheet
    for context in contexts:
        if context is not shared:
            context.close()
    if shared in contexts:
        page = shared.pages[0] if shared.pages else shared.new_page()
        page.goto(tmp_path.as_uri())
        page.evaluate("localStorage.clear()")
        for page in shared.pages:
            page.close()


def test_rated_from_first_row_to_saved_file_by_keyboard_alone(opened: Opener, tmp_path: Path) -> None:
    shown = sheet(7)
    rater = opened(shown)
    rater.press("Enter")
    for place in range(7):
        assert rater.at() == f"Row {place + 1} of 7"
        rater.press(str(place % 6 + 1), "r", *"12345123"[: 8 if place else 3])
        rater.press("c")
        rater.page.keyboard.type(f"n s 1 ? 好 {place}")
        rater.press("Enter")
        rater.page.keyboard.type("→ second line")
        rater.press("Escape", "Enter")
    expect(rater.page.locator("#finish-heading")).to_be_visible()
    assert "Every row is rated" in rater.page.locator("#finish-state").inner_text()
    saved = rater.save(tmp_path, "Enter")
    assert saved.name == "rater-1-ratings.json"
    filled = read_html_answers(saved)
    assert [row.id for row in filled.rows] == [row.id for row in shown.rows]
    assert [row.overall for row in filled.rows] == [*OVERALL, "A much"]
    assert [row.texts for row in filled.rows] == [row.texts for row in shown.rows]
    assert {(row.commitment, row.rater) for row in filled.rows} == {("hmac-study-1", "rater-1")}
    both = [f"{dimension}_{side}" for dimension in ("accuracy", "completeness", "logic", "fluency") for side in "ab"]
    assert filled.rows[0].ratings == {**dict.fromkeys(RATINGS, ""), **dict(zip(both[:3], "123", strict=True))}
    assert filled.rows[6].ratings == dict(zip(both, "12345123", strict=True))
    assert [row.comment for row in filled.rows] == [f"n s 1 ? 好 {place}\n→ second line" for place in range(7)]
    assert rater.complaints == []
    assert [url for url in rater.requests if not url.startswith(("file:", "blob:"))] == []
    assert [url.startswith("file:") for url in rater.requests].count(True) == 1


def test_rated_with_tab_arrows_and_space_alone(opened: Opener, tmp_path: Path) -> None:
    rater = opened(sheet(1))
    rater.page.locator("#keys-on").uncheck()
    rater.page.locator("#start").focus()
    rater.press("Enter", "1", "s")
    assert rater.chosen() is None, "switched off, the shortcuts do nothing"
    rater.press("Tab", "Space", "ArrowDown")
    assert rater.chosen() == "A"
    rater.press("Tab", "Tab", "ArrowRight", "ArrowRight")
    rater.page.locator("#next").focus()
    rater.press("Enter")
    row = read_html_answers(rater.save(tmp_path, "Enter")).rows[0]
    assert row.overall == "A"
    assert {name: score for name, score in row.ratings.items() if score} in ({"accuracy_a": "2"}, {"accuracy_b": "2"})


def test_choices_are_replaced_and_removed(opened: Opener, tmp_path: Path) -> None:
    rater = opened(sheet(3))
    rater.press("Enter", "1", "5")
    assert rater.chosen() == "B"
    rater.press("Backspace")
    assert rater.chosen() is None
    rater.press("2")
    rater.page.locator("#clear").click()
    assert rater.chosen() is None
    rater.press("3", "r", "4", "4")
    rater.page.locator("[name=accuracy_a][value='']").check()
    rater.page.locator("[name=accuracy_b][value='4']").focus()
    rater.press("0")
    assert rater.page.locator("#count").inner_text() == "1 of 3 rated"
    row = read_html_answers(rater.save(tmp_path)).rows[0]
    assert (row.overall, set(row.ratings.values())) == ("tie", {""})


def test_moving_about(opened: Opener) -> None:
    rater = opened(sheet(20))
    rater.press("Enter", "ArrowRight", "ArrowRight", "ArrowLeft", "Enter", "Shift+Enter")
    assert rater.at() == "Row 2 of 20"
    rater.press("1", "g", "ArrowRight", "ArrowRight", "Enter")
    assert rater.at() == "Row 4 of 20"
    assert rater.page.locator("#grid .done").count() == 1
    rater.press("2", "g", "Home", "ArrowLeft", "Enter", "2", "n")
    assert rater.at() == "Row 3 of 20"
    rater.press("n")
    assert rater.at() == "Row 5 of 20"
    rater.press("?")
    expect(rater.page.locator("#guide-heading")).to_be_visible()
    rater.press("?", "g", "End", "Enter", "Enter")
    assert rater.page.locator("#finish-state").inner_text().startswith("Still open: 17 of 20 rows")
    rater.press("Enter")
    assert rater.at() == "Row 3 of 20", "from the end to the first open row"
    assert float(rater.page.locator("#meter").get_attribute("aria-valuenow") or "") == 3


def test_composed_and_modified_keys_are_left_alone(opened: Opener) -> None:
    rater = opened(sheet(3))
    rater.press("Enter")
    send = "(keys) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {bubbles: true, ...keys}))"
    for changed in ({"isComposing": True}, {"ctrlKey": True}, {"metaKey": True}, {"keyCode": 229}):
        for key in ("1", "Enter"):
            rater.page.evaluate(send, {"key": key, **changed})
    assert (rater.chosen(), rater.at()) == (None, "Row 1 of 3")
    rater.page.evaluate(send, {"key": "1"})
    assert rater.chosen() == "A much"
    rater.press("c")
    rater.page.evaluate(send, {"key": "Escape", "isComposing": True})
    rater.page.keyboard.type("2n")
    assert rater.page.locator("#comment").input_value() == "2n"
    assert (rater.chosen(), rater.at()) == ("A much", "Row 1 of 3")


def test_a_closed_tab_is_resumed(opened: Opener, tmp_path: Path) -> None:
    shown = sheet(5)
    rater = opened(shown)
    rater.press("Enter", "1", "r", "3", "Shift+Enter", "Enter", "6", "c")
    rater.page.keyboard.type("kept")
    rater.page.close()
    again = opened(shown, again=rater)
    assert again.page.locator("#kept").inner_text() == "This browser has kept your work: 2 of 5 rows are rated."
    assert again.page.locator("#start").inner_text() == "Go on at row 2"
    expect(again.page.locator("#unsaved")).to_be_visible()
    again.press("Enter")
    assert (again.at(), again.chosen()) == ("Row 2 of 5", "B much")
    rows = read_html_answers(again.save(tmp_path)).rows
    assert [row.overall for row in rows] == ["A much", "B much", "", "", ""]
    assert (rows[0].ratings["accuracy_a"], rows[1].comment) == ("3", "kept")
    stranger = opened(sheet(5, rater="rater-2"), again=rater)
    assert stranger.page.locator("#start").inner_text() == "Start rating"
    once = opened(shown, again=rater)
    once.page.locator("#over").click()
    once.page.get_by_role("button", name="Remove all ratings").click()
    expect(once.page.locator("#count")).to_have_text("0 of 5 rated")
    expect(once.page.locator("#start")).to_have_text("Start rating")
    expect(again.page.locator("#count")).to_have_text("0 of 5 rated")


def test_two_tabs_show_the_same_work(opened: Opener) -> None:
    shown = sheet(3)
    one = opened(shown)
    one.press("Enter", "1")
    two = opened(shown, again=one)
    two.press("Enter", "5", "r", "4", "c")
    two.page.keyboard.type("there")
    expect(one.page.locator("#comment")).to_have_value("there")
    assert (one.chosen(), one.page.locator("[name=accuracy_a]:checked").input_value()) == ("B", "4")
    one.press("Enter", "2")
    expect(two.page.locator("#count")).to_have_text("2 of 3 rated")
    assert two.at() == "Row 1 of 3"


def test_a_tab_with_another_key_of_the_study_touches_no_work(opened: Opener) -> None:
    shown = sheet(2)
    rater = opened(shown)
    rater.press("Enter", "1")
    other = opened(replace(shown, commitment="hmac-other"), again=rater)
    assert other.page.locator("#start").inner_text() == "Start rating"
    other.press("Enter", "5")
    resumed = opened(shown, again=rater)
    assert resumed.page.locator("#start").inner_text() == "Go on at row 1"
    write = "(kept) => localStorage.setItem('lorascope-ratings study-1 rater-1 hmac-study-1', kept)"
    for kept in ('{"commitment": "hmac-other", "entries": []}', '{"commitment": "hmac-study-1"}', "{"):
        other.page.evaluate(write, kept)
    other.page.evaluate("localStorage.setItem('last', '1')")
    rater.page.wait_for_function("localStorage.getItem('last')")
    rater.page.wait_for_timeout(100)
    assert (rater.chosen(), rater.page.locator("#count").inner_text()) == ("A much", "1 of 2 rated")


def test_kept_work_of_another_key_or_kind_is_not_taken(opened: Opener) -> None:
    shown = sheet(2)
    rater = opened(shown)
    strange = {"commitment": "hmac-study-1", "at": 99, "entries": [["qa000000", {"overall": "C"}], ["x", 1]]}
    other = {"commitment": "hmac-other", "entries": [["qa000000", {"overall": "A", "ratings": {}, "comment": ""}]]}
    for kept in ("{", "null", "7", json.dumps(strange), json.dumps(other)):
        rater.page.evaluate(
            "(kept) => localStorage.setItem('lorascope-ratings study-1 rater-1 hmac-study-1', kept)", kept
        )
        rater.page.reload()
        assert rater.page.locator("#start").inner_text() == "Start rating"
        rater.press("Enter")
        assert rater.at() == "Row 1 of 2"
    assert rater.complaints == []


@pytest.mark.parametrize("script", [NO_STORAGE, FULL_STORAGE])
def test_works_where_storage_is_refused(opened: Opener, tmp_path: Path, script: str) -> None:
    rater = opened(sheet(2), script=script)
    assert "keeps nothing between visits" in rater.page.locator("#refused").inner_text()
    rater.page.locator("#theme").click()
    rater.page.locator("#start").click()
    rater.press("2", "Enter", "4", "Enter")
    rows = read_html_answers(rater.save(tmp_path, "Enter")).rows
    assert [row.overall for row in rows] == ["A", "both bad"]
    assert rater.complaints == []


def test_warns_before_leaving_with_unsaved_ratings(opened: Opener, tmp_path: Path) -> None:
    rater = opened(sheet(2))
    asked: list[str] = []

    def stay(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    rater.page.on("dialog", stay)
    rater.press("Enter", "1")
    rater.page.close(run_before_unload=True)
    rater.page.wait_for_timeout(200)
    assert asked == ["beforeunload"]
    assert rater.chosen() == "A much", "the page is still there"
    rater.save(tmp_path)
    expect(rater.page.locator("#unsaved")).to_be_hidden()
    with rater.page.expect_event("close"):
        rater.page.close(run_before_unload=True)
    assert asked == ["beforeunload"]


def refusal(rater: Rater, path: Path) -> str:
    """Load a file and return what the page says about it, after closing the message."""
    rater.page.set_input_files("#file", path)
    text = rater.page.locator("#asking-text")
    expect(text).to_be_visible()
    said = text.inner_text()
    rater.press("Enter")
    expect(text).to_be_hidden()
    return said


def test_loads_a_saved_file_back(opened: Opener, tmp_path: Path) -> None:
    shown = sheet(4)
    rater = opened(shown)
    rater.press("Enter", "1", "r", "2", "c")
    rater.page.keyboard.type("first")
    rater.press("Escape", "Enter", "2", "Enter")
    saved = rater.save(tmp_path)
    fresh = opened(shown)
    fresh.page.set_input_files("#file", saved)
    expect(fresh.page.locator("#count")).to_have_text("2 of 4 rated")
    expect(fresh.page.locator("#unsaved")).to_be_hidden()
    assert fresh.page.locator("#start").inner_text() == "Go on at row 3"
    assert json.loads(fresh.save(tmp_path / "again").read_text()) == json.loads(saved.read_text())


def test_asks_before_it_replaces_other_entries(opened: Opener, tmp_path: Path) -> None:
    shown = sheet(3)
    rater = opened(shown)
    rater.press("Enter", "1", "Enter", "2")
    saved = rater.save(tmp_path)
    other = opened(shown)
    other.press("Enter", "6")
    for answer, expected in (("Cancel", "B much"), ("Keep mine, add the missing ones", "B much"),
                             ("Take the file's", "A much")):  # fmt: skip
        other.page.set_input_files("#file", saved)
        expect(other.page.locator("#asking-text")).to_contain_text(
            "this page has other entries than rater-1-ratings.json: 1."
        )
        other.page.get_by_role("button", name=answer).click()
        expect(other.page.locator("#asking")).to_be_hidden()
        expect(other.page.locator("[name=overall]:checked")).to_have_value(expected)
        expect(other.page.locator("#unsaved")).to_be_visible(visible=answer != "Take the file's")
    expect(other.page.locator("#count")).to_have_text("2 of 3 rated")


def test_refuses_files_that_are_not_its_own(opened: Opener, tmp_path: Path) -> None:
    rater = opened(sheet(2))
    rater.press("Enter", "3")
    good = json.loads(rater.save(tmp_path).read_text())
    path = tmp_path / "given.json"
    value = {**good, "rows": [good["rows"][0], {**good["rows"][1], "ratings": {"accuracy_a": 6}}]}
    strange = {**good, "rows": [{**good["rows"][0], "id": "q-other"}]}
    for content, said in (
        ({**good, "study": "study-2"}, "given.json belongs to another study."),
        ({**good, "commitment": "hmac-2"}, "given.json belongs to another study."),
        ({**good, "rater": "<b>rater-3</b>"}, "given.json belongs to <b>rater-3</b>; this page is for rater-1."),
        ({**good, "version": 2}, "another version"),
        ({**good, "format": "x"}, "not a file of ratings"),
        (value, "a value that this page does not know (row 2)"),
        (strange, "a value that this page does not know (row 1)"),
        ([], "not a file of ratings"),
    ):
        path.write_text(json.dumps(content))
        assert said in refusal(rater, path)
    path.write_text("PK\x03\x04 no JSON")
    assert "not a file of ratings" in refusal(rater, path)
    assert (rater.chosen(), rater.page.locator("#count").inner_text()) == ("tie", "1 of 2 rated")
    assert rater.complaints == []


def test_hostile_texts_are_shown_and_do_nothing(opened: Opener, tmp_path: Path) -> None:
    rows = tuple(SheetRow(f"qb{n:06x}", text, text[::-1], text) for n, text in enumerate(HOSTILE))
    rater = opened(Sheet("study-1", "hmac-1", "rater-1", "en", rows))
    rater.press("Enter")
    for row in rows:
        assert rater.page.locator("#text-question").text_content() == row.question
        assert rater.page.locator("#text-a").text_content() == row.answer_a
        assert rater.page.locator("#text-b").text_content() == row.answer_b
        rater.press("1", "Enter")
    assert rater.page.evaluate("window.attacked") is None
    assert rater.page.evaluate("document.querySelectorAll('img, iframe, svg, a, main script').length") == 0
    filled = read_html_answers(rater.save(tmp_path))
    assert [row.texts for row in filled.rows] == [row.texts for row in rows]
    assert rater.complaints == []
    assert len([url for url in rater.requests if not url.startswith("blob:")]) == 1


def test_the_policy_stops_what_the_page_does_not_do_itself(opened: Opener) -> None:
    rater = opened(sheet(1))
    stopped = rater.page.evaluate("""async () => {
      const stopped = [];
      document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
      const script = document.createElement("script");
      script.textContent = "window.attacked = 1";
      document.body.append(script);
      const image = new Image();
      image.src = "http://127.0.0.1:9/x.png";
      await fetch("http://127.0.0.1:9/").catch(() => null);
      await new Promise((done) => setTimeout(done, 100));
      return stopped;
    }""")
    assert set(stopped) == {"script-src-elem", "img-src", "connect-src"}
    assert rater.page.evaluate("window.attacked") is None


def overflow(page: Page) -> int:
    return int(page.evaluate("document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"))


def small_targets(page: Page) -> list[str]:
    """Visible controls that are lower than 44 pixels or narrower than 40."""
    found: list[str] = page.evaluate("""() => [...document.querySelectorAll("button, label, textarea")]
      .filter((each) => each.checkVisibility({ visibilityProperty: true }) && each.id !== "clear")
      .filter((each) => each.getBoundingClientRect().height < 44 || each.getBoundingClientRect().width < 40)
      .map((each) => each.id || each.textContent)""")
    return found


def test_fits_a_phone(opened: Opener) -> None:
    rows = tuple(SheetRow(f"qc{n:06x}", text, text, text) for n, text in enumerate((HOSTILE[-1], LONG)))
    shown = Sheet("study-1", "hmac-1", "rater-1", "en", rows)
    phone = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True}
    rater = opened(shown, **phone)
    page = rater.page
    assert (overflow(page), small_targets(page)) == (0, [])
    page.locator("#start").tap()
    assert (overflow(page), small_targets(page)) == (0, [])
    page.locator("#more").tap()
    assert (overflow(page), small_targets(page)) == (0, [])
    page.locator(".side label").nth(4).tap()
    page.locator("#more").tap()
    page.locator("#rows").tap()
    assert overflow(page) == 0
    page.locator("#grid button").nth(1).tap()
    assert page.locator("#more").inner_text().startswith("Ratings 0/8")
    a, b = (page.locator(f"#text-{side}").bounding_box() for side in "ab")
    assert a is not None
    assert b is not None
    assert b["y"] > a["y"] + a["height"], "the answers stand one under the other"
    expect(page.locator(".overall")).to_be_hidden()
    page.locator("#text-b").evaluate("box => box.scrollIntoView()")
    expect(page.locator(".overall")).to_be_visible()
    page.locator(".overall label").nth(1).tap()
    page.locator("#next").tap()
    assert (overflow(page), small_targets(page)) == (0, [])
    assert rater.complaints == []


def test_on_a_phone_b_is_seen_before_a_choice_can_be_made(opened: Opener) -> None:
    lines = tuple(SheetRow(f"qd{n:06x}", "Q?\n" * 6, "yes\n" * 8, "no\n" * 3) for n in range(2))
    shown = Sheet("study-1", "hmac-1", "rater-1", "en", lines)
    page = opened(shown, viewport={"width": 375, "height": 667}, has_touch=True, is_mobile=True).page
    page.locator("#start").tap()
    expect(page.locator(".overall")).to_be_hidden()
    expect(page.locator("#next")).to_be_visible()
    page.mouse.wheel(0, 3000)
    expect(page.locator(".overall")).to_be_visible()
    heading, judge = (page.locator(name).bounding_box() for name in ("#heading-b", ".judge"))
    assert heading is not None
    assert judge is not None
    assert heading["y"] + heading["height"] <= judge["y"] + 1
    page.locator("#next").tap()
    expect(page.locator(".overall")).to_be_hidden()
    page.locator("#more").tap()
    expect(page.locator(".overall")).to_be_visible()


def test_keys_that_do_nothing_say_so(opened: Opener) -> None:
    rater = opened(sheet())
    said = rater.page.locator("#notice")
    rater.press("Enter", "8")
    expect(said).to_have_text(page_words("en")["not_a_choice"])
    rater.press("r", "7")
    expect(said).to_have_text(page_words("en")["not_a_rating"])
    assert rater.chosen() is None


@pytest.mark.parametrize("size", [(1280, 800), (1280, 640), (820, 1180), (375, 667)])
def test_long_answers_leave_the_controls_in_sight(opened: Opener, size: tuple[int, int]) -> None:
    width, height = size
    rows = (SheetRow("qd000001", "Why?", LONG, LONG[:4000]), SheetRow("qd000002", "Why?", "a", "b"))
    rater = opened(Sheet("study-1", "hmac-1", "rater-1", "en", rows))
    page = rater.page
    page.set_viewport_size({"width": width, "height": height})
    rater.press("Enter")
    assert page.locator("#text-a").text_content() == LONG
    page.evaluate("scrollTo(0, 1500)")
    shown = [".overall label >> nth=0", ".overall label >> nth=5", "#next", "#save", "#rows", ".answers h3 >> nth=0"]
    for place in [*shown, *([".answers h3 >> nth=1"] if width > 700 else [])]:
        box = page.locator(place).bounding_box()
        assert box is not None
        assert box["y"] >= 0, place
        assert box["y"] + box["height"] <= height, place
    rater.press("1", "PageDown")
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") > 1700, "a choice made by key leaves the texts to be scrolled by key"
    rater.press("Enter")
    box = page.locator("#heading").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < height / 3, "the next row begins at its beginning"


def background(page: Page) -> str:
    found: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return found


def test_no_width_makes_the_page_scroll_sideways(opened: Opener) -> None:
    rater = opened(sheet(133))
    rater.press("Enter", "1", "g", "End", "Enter", "1")
    for width, height in ((320, 568), (640, 400), (699, 900), (700, 900), (812, 375), (1151, 800), (1152, 800)):
        rater.page.set_viewport_size({"width": width, "height": height})
        assert overflow(rater.page) == 0, width
        for name in ("save", "next"):
            box = rater.page.locator(f"#{name}").bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= width, (name, width)


def test_light_and_dark(opened: Opener) -> None:
    shown = sheet(2)
    light, dark = opened(shown), opened(shown, color_scheme="dark")
    assert background(light.page) == "rgb(251, 250, 248)"
    assert background(dark.page) == "rgb(20, 22, 26)"
    light.page.locator("#theme").click()
    assert background(light.page) == background(dark.page)
    assert background(opened(shown, again=light).page) == background(dark.page)


def test_in_chinese_from_start_to_end(opened: Opener, tmp_path: Path) -> None:
    shown, own = sheet(2, language="zh"), page_words("zh")
    rater = opened(shown)
    page = rater.page
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    assert page.locator("#start").inner_text() == own["start"]
    rater.press("Enter")
    assert rater.at() == "第 1 行，共 2 行"
    assert page.locator("#text-a").get_attribute("lang") == "zh-Hans"
    assert page.locator("#text-a").inner_text() == shown.rows[0].answer_a
    labels = page.locator(".overall .choice span").all_inner_texts()
    assert labels == list(words("zh").overall.values())
    rater.press("2", "c")
    page.keyboard.insert_text("回答 A 更完整。")
    rater.press("Escape")
    seen = re.sub(r"\brater-1\b", "", page.locator("body").inner_text())
    assert re.findall(r"[A-Za-z]{2,}", seen) == []
    rater.press("Enter", "4", "Enter")
    assert page.locator("#finish-state").inner_text() == own["done_all"]
    rows = read_html_answers(rater.save(tmp_path, "Enter")).rows
    assert [(row.overall, row.comment) for row in rows] == [("A", "回答 A 更完整。"), ("both bad", "")]


def test_an_english_page_marks_chinese_and_japanese_answers(opened: Opener) -> None:
    rows = (
        SheetRow("qe000001", "Translate.", "这是回答。", "これは答えです。"),
        SheetRow("qe000002", "x", "y", ""),
    )
    rater = opened(Sheet("study-1", "hmac-1", "rater-1", "en", rows))
    rater.press("Enter")
    languages = [rater.page.locator(f"#text-{name}").get_attribute("lang") for name in ("question", "a", "b")]
    assert languages == [None, "zh-Hans", "ja"]
    rater.press("Enter")
    assert rater.page.locator("#text-a").get_attribute("lang") is None
    assert rater.page.locator("#text-b").inner_text() == "(This answer is empty.)"


def test_what_a_screen_reader_is_told(opened: Opener) -> None:
    rater = opened(sheet(2))
    page = rater.page
    rater.press("Enter")
    assert page.evaluate("document.activeElement.id") == "heading"
    assert page.get_by_role("radiogroup").count() == 9
    group = page.get_by_role("radiogroup", name="Which answer would you rather get?")
    assert group.get_by_role("radio").count() == 6
    assert page.get_by_role("radiogroup", name="Logic, Answer B").get_by_role("radio").count() == 6
    assert page.get_by_role("radio", name="5 nothing wrong").count() == 2
    rater.press("2")
    assert page.locator("#spoken").text_content() == "A, better"
    assert page.get_by_role("progressbar", name="Rows rated").get_attribute("aria-valuenow") == "1"
    ring = "(id) => getComputedStyle(document.getElementById(id)).outlineStyle"
    rater.press("r", *"11111111")
    assert page.evaluate("document.activeElement.id") == "next"
    assert page.evaluate(ring, "next") == "solid"


def test_two_hundred_rows_are_quick(opened: Opener) -> None:
    rows = tuple(SheetRow(f"qf{n:06x}", "Why? " * 20, LONG[:3000], LONG[:2500]) for n in range(200))
    started = time.monotonic()
    rater = opened(Sheet("study-1", "hmac-1", "rater-1", "en", rows))
    rater.press("Enter", "1")
    assert time.monotonic() - started < 10
    spent = rater.page.evaluate("""() => {
      const started = performance.now();
      for (let row = 0; row < 199; row += 1) {
        for (const key of ["1", "Enter"]) {
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        }
        document.body.getBoundingClientRect();
      }
      return performance.now() - started;
    }""")
    assert rater.at() == "Row 200 of 200"
    assert spent / 199 < 50, "milliseconds for one row"
