"""The report in a real browser: silent, offline, unharmed by hostile text, usable by keyboard and on a phone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.browser
Opener = Callable[..., Any]
NAMES = ("causal", "labels", "weights", "hostile")


def current(page: Page) -> str:
    """The item that the detail panel shows."""
    return page.locator(".answer-detail .id span").nth(1).inner_text()


def listed(page: Page) -> int:
    return page.locator(".answer-list li").count()


@pytest.mark.parametrize("name", NAMES)
def test_silent_and_offline(visit: Opener, name: str) -> None:
    seen = visit(name)
    page = seen.page
    for cell in page.locator(".heat button").all()[:3]:
        cell.click()
    if page.locator(".answer-list").count():
        for _ in range(5):
            page.keyboard.press("j")
    page.wait_for_timeout(100)
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith("file:")] == []
    assert len(seen.requests) == 1


def test_hostile_text_does_nothing(visit: Opener, factory: ModuleType) -> None:
    seen = visit("hostile")
    page = seen.page
    page.locator("#answers").scroll_into_view_if_needed()
    shown = []
    for _ in factory.ATTACKS:
        shown.append(page.locator(".answer-detail .columns .text").first.inner_text())
        page.keyboard.press("j")
    for chart in page.locator(".chart svg").all():
        chart.hover()
    assert page.evaluate("window.attacked") is None
    assert len(set(shown)) == len(factory.ATTACKS)
    assert (
        page.evaluate("document.querySelectorAll('main img, main iframe, main script, main link, main a').length") == 0
    )
    assert page.title().startswith("<script>window.attacked = 1</script>")
    assert seen.complaints == []


def test_charts_are_drawn(visit: Opener) -> None:
    page = visit("causal").page
    places = page.locator("[data-chart]")
    assert places.count() == 10
    assert page.locator("[data-chart] svg").count() == 10
    assert page.locator("figcaption").count() == 10
    drawn = page.evaluate(
        "[...document.querySelectorAll('[data-chart] svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert min(drawn) > 200
    assert "+0.101 ▲" in page.locator("[data-chart]").first.inner_text()


@pytest.mark.parametrize("width", [375, 1280])
def test_no_text_of_a_chart_is_cut(visit: Opener, width: int) -> None:
    page = visit("causal", width=width).page
    page.wait_for_selector("#spectrum svg")
    clipped = page.evaluate(
        """[...document.querySelectorAll('.chart')].filter(c => {
             const box = c.getBoundingClientRect();
             return [...c.querySelectorAll('svg text')].some(t => {
               const r = t.getBoundingClientRect();
               return r.width && (r.left < box.left - 1 || r.right > box.right + 1);
             });
           }).length"""
    )
    assert clipped == 0


def test_filters_narrow_the_items(visit: Opener) -> None:
    page = visit("causal").page
    assert page.locator(".status").inner_text() == "Items 1–25 of 192"
    page.locator("label.chip.broken").click()
    broken = page.locator(".status").inner_text()
    assert broken != "Items 1–25 of 192"
    assert page.locator(".answer-detail .outcome.broken").count() >= 1
    page.locator("select[name=subject]").select_option(label="lora-r16")
    assert page.locator(".answer-detail .columns > div").count() == 2
    assert page.locator(".answer-detail .outcome").all_inner_texts() == ["▼ broken"]
    assert page.locator(".answer-detail del").count() == 1
    assert page.locator(".answer-detail ins").count() == 1
    page.locator("select[name=task]").select_option(label="support")
    assert "No item fits" in page.locator(".status").inner_text()
    page.locator("label.chip.broken").click()
    page.locator("input[name=search]").fill("order 49?")
    assert listed(page) == 1
    assert current(page) == "s0049"


def test_keys_and_pages(visit: Opener) -> None:
    page = visit("causal").page
    page.locator("#answers-app").scroll_into_view_if_needed()
    first = current(page)
    page.keyboard.press("j")
    second = current(page)
    assert second != first
    assert page.evaluate("location.hash") == f"#sample={second}"
    page.keyboard.press("k")
    assert current(page) == first
    page.keyboard.press("k")
    assert current(page) == first
    page.get_by_role("button", name="Next").click()
    assert page.locator(".status").inner_text() == "Items 26–50 of 192"
    page.keyboard.press("k")
    assert page.locator(".status").inner_text() == "Items 1–25 of 192"
    page.locator("input[name=search]").focus()
    page.keyboard.press("k")
    assert page.locator("input[name=search]").input_value() == "k"


def test_keys_rest_while_the_answers_are_out_of_sight(visit: Opener) -> None:
    page = visit("causal").page
    before = current(page)
    page.keyboard.press("j")
    assert current(page) == before
    assert page.evaluate("scrollY") == 0


def test_a_link_opens_its_item(visit: Opener) -> None:
    page = visit("causal", fragment="#sample=s0090").page
    assert current(page) == "s0090"
    assert page.evaluate("scrollY") > 300
    page.evaluate("location.hash = '#sample=k0007'")
    page.wait_for_function("document.querySelector('.answer-detail .id').textContent.includes('k0007')")
    page.evaluate("location.hash = '#sample=%E0%A4%A'")
    page.wait_for_function("document.querySelector('.status').textContent.includes('not in this page')")


def test_a_link_with_hostile_characters(visit: Opener, factory: ModuleType) -> None:
    seen = visit("hostile")
    page = seen.page
    wanted = f"{factory.ATTACKS[3]}3"
    page.evaluate("id => { location.hash = '#sample=' + encodeURIComponent(id); }", wanted)
    page.wait_for_function("id => document.querySelector('.answer-detail .id').textContent.includes(id)", arg=wanted)
    assert page.evaluate("window.attacked") is None


def test_chinese_differs_by_character(visit: Opener) -> None:
    page = visit("causal", fragment="#sample=s0007").page
    page.locator("select[name=subject]").select_option(label="lora-r16")
    page.locator("input[name=search]").fill("order 7?")
    assert page.locator(".answer-detail del").all_inner_texts() == ["七"]
    assert "三十" in page.locator(".answer-detail ins").all_inner_texts()


def test_dark_light_and_the_button(visit: Opener) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = visit("causal").page, visit("causal", scheme="dark").page
    assert light.evaluate(ground) != dark.evaluate(ground)
    ink = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    assert light.evaluate(ink) != dark.evaluate(ink)
    before = light.evaluate(ground)
    light.locator("#theme").click()
    assert light.evaluate(ground) == dark.evaluate(ground)
    light.locator("#theme").click()
    assert light.evaluate(ground) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(visit: Opener, scheme: str) -> None:
    """Every text colour of the page keeps 4.5 : 1 on paper and card."""
    page = visit("causal", scheme=scheme).page
    worst = page.evaluate(
        """() => {
          const probe = document.body.appendChild(document.createElement('span'));
          const rgb = (name) => {
            probe.style.color = `var(--${name})`;
            return getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
          };
          const light = (c) => c.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
          const ratios = [];
          for (const ground of ['paper', 'card']) {
            for (const name of ['ink', 'muted', 'accent', 'improved', 'regressed', 'equivalent', 'inconclusive']) {
              const [a, b] = [light(rgb(ground)), light(rgb(name))];
              ratios.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
            }
          }
          return Math.min(...ratios);
        }"""
    )
    assert worst >= 4.5


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_never_scrolls_sideways(visit: Opener, name: str) -> None:
    page = visit(name, width=375).page
    for fold in page.locator("details").all():
        fold.evaluate("fold => { fold.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.evaluate("scrollTo(100, 0)")
    assert page.evaluate("scrollX") == 0


def test_the_map_switches_and_shows_spectra(visit: Opener) -> None:
    page = visit("causal").page
    cell = page.locator("[data-subject=lora-r16] [data-module='model.layers.2.self_attn.q_proj']")
    assert cell.inner_text() == "1.8"
    page.get_by_role("radio", name="intruders, left").check()
    assert cell.inner_text() == "3"
    page.get_by_role("radio", name="intruders, right").check()
    assert cell.inner_text() == "1"
    cell.click()
    panel = page.locator("#spectrum")
    assert panel.locator("h4").inner_text() == "lora-r16 · model.layers.2.self_attn.q_proj"
    page.wait_for_selector("#spectrum svg")
    assert panel.locator("li").count() == 3
    assert "max |cos| to the base's vectors 0.31–0.34; 12 % of it" in panel.locator("li").first.inner_text()


def test_the_map_moves_by_arrow_keys(visit: Opener) -> None:
    page = visit("causal").page
    page.locator("[data-subject=full-ft] .heat button").first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#spectrum h4").inner_text() == "full-ft · model.layers.1.self_attn.v_proj"
    stops = page.evaluate(
        "[...document.querySelectorAll('.heat')].map(g => g.querySelectorAll('[tabindex=\"0\"]').length)"
    )
    assert set(stops) == {1}


def test_names_and_paths_have_room(visit: Opener) -> None:
    page = visit("paths", width=1200).page
    names = page.evaluate(
        """[...document.querySelectorAll('.checkpoints .subject')].map(e => e.getBoundingClientRect().height
             / parseFloat(getComputedStyle(e).lineHeight))"""
    )
    assert max(names) < 1.3
    heights = page.evaluate(
        "[...document.querySelectorAll('.checkpoints tbody')].map(e => e.getBoundingClientRect().height)"
    )
    assert max(heights) < 160
    box = "document.querySelector('.checkpoints').closest('.scroll')"
    assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth + 1")


def test_only_what_overflows_fades_at_its_edge(visit: Opener) -> None:
    page = visit("paths", width=1200).page
    page.wait_for_timeout(100)
    assert page.locator(".map-scroll").count() == 4
    assert page.locator(".map-scroll.more").count() == 0
    page.set_viewport_size({"width": 230, "height": 900})
    page.wait_for_selector(".map-scroll.more")


def test_no_line_of_the_header_begins_with_a_comma(visit: Opener) -> None:
    page = visit("paths", width=375).page
    apart = page.evaluate(
        """[...document.querySelectorAll('.lede .named')].filter(e => e.querySelector('.and')).map(e => {
             const [name, comma] = [e.querySelector('.subject'), e.querySelector('.and')];
             return comma.getBoundingClientRect().left - name.getBoundingClientRect().right;
           })"""
    )
    assert len(apart) == 3
    assert all(abs(gap) < 2 for gap in apart)


def test_print_is_light_and_without_controls(visit: Opener) -> None:
    page = visit("causal", scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".filters").is_visible()
    assert not page.locator(".contents").is_visible()


def test_the_page_is_named_for_readers_who_cannot_see_it(visit: Opener) -> None:
    page = visit("labels").page
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, select, input')]
             .filter(e => e.offsetParent && !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).length"""
    )
    assert nameless == 0
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
