"""The map of layers in a real browser: every measure it offers, the colours below zero, and the panel of one module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser, Page

from lorascope.report.html import render_html

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def document(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    comparison = factory.traced_weights_comparison()
    for report in comparison.weights.values():
        report.modules.append(factory.module("lm_head", None, 0))
    path = tmp_path_factory.mktemp("map") / "traced.html"
    path.write_text(render_html(comparison, None), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Browser, document: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": getattr(request, "param", 1280), "height": 900})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(document.as_uri())
    opened.wait_for_selector("html[data-charts=drawn]")
    yield opened
    assert complaints == []
    context.close()


def test_the_switch_shows_every_measure(page: Page) -> None:
    cell = page.locator("[data-subject=lora-r16] [data-module='model.layers.0.self_attn.q_proj']")
    high = page.locator(".weight-maps .legend .high")
    expected = {
        "change": ("1.0", "7.0\u00a0%"), "left": ("0", "8"), "corrected": ("−3", "+5"), "energy": ("0", "24\u00a0%"),
        "right": ("0", "4"), "amplification": ("4.0", "28"),
    }  # fmt: skip
    for measure, (text, largest) in expected.items():
        page.locator(f"input[value={measure}]").check()
        assert (cell.inner_text(), high.inner_text()) == (text, largest)
        assert cell.get_attribute("aria-label") == f"model.layers.0.self_attn.q_proj: {text}"
        below = [printed.startswith("−") for printed in page.locator(".heat button").all_inner_texts()]
        assert page.locator(".heat button.below").count() == sum(below)
        assert any(below) == (measure == "corrected")


def test_a_value_below_zero_has_a_colour_of_its_own(page: Page) -> None:
    colour = "e => getComputedStyle(e).backgroundColor"
    subject = page.locator("[data-subject=lora-r16]")
    below = subject.locator("[data-module='model.layers.0.self_attn.q_proj']")
    above = subject.locator("[data-module='model.layers.0.mlp.down_proj']")
    page.locator("input[value=corrected]").check()
    assert (below.inner_text(), above.inner_text()) == ("−3", "+3?")
    assert below.evaluate(colour) != above.evaluate(colour)


def test_the_panel_opens_at_the_most_intruded_module_and_lists_its_numbers(page: Page) -> None:
    panel = page.locator("#spectrum")
    assert panel.locator("h4").inner_text() == "lora-r16 · model.layers.1.mlp.down_proj"
    numbers = dict(
        zip(panel.locator(".numbers dt").all_inner_texts(), panel.locator(".numbers dd").all_inner_texts(), strict=True)
    )
    assert (numbers["Amplification"], numbers["of these, rotations"], numbers["Rank for 99 %"]) == ("28.0", "2", "13")
    page.wait_for_selector("#spectrum .of-intervals svg")
    assert panel.locator("li").count() == 9
    assert (
        panel.locator("li").last.inner_text().startswith("undecided, rank 9: max |cos| to the base's vectors 0.5–0.74")
    )


def test_an_unjudged_module_has_no_interval_chart(page: Page) -> None:
    page.locator("[data-subject=full-ft] [data-module=lm_head]").click()
    panel = page.locator("#spectrum")
    assert panel.locator("h4").inner_text() == "full-ft · lm_head"
    assert panel.locator("svg:visible").count() == 0
    assert "Amplification" not in panel.locator(".numbers").inner_text()
    page.locator("[data-subject=full-ft] [data-module='model.layers.0.mlp.up_proj']").click()
    assert panel.locator("svg:visible").count() == 2


@pytest.mark.parametrize("page", [375, 1200], indirect=True)
def test_a_chosen_cell_is_marked_and_brings_its_panel_into_view(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    top = "document.getElementById('spectrum').getBoundingClientRect().top"
    page.evaluate("document.querySelector('.weight-maps').scrollIntoView()")
    assert page.evaluate(f"{top} > innerHeight * 0.6")
    cell = page.locator("[data-subject=lora-r16] .heat button").first
    cell.click()
    page.wait_for_function(f"{top} >= 0 && {top} < innerHeight")
    assert page.locator(".heat button[aria-pressed=true]").count() == 1
    assert cell.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    place = page.evaluate("scrollY")
    cell.evaluate("e => e.click()")
    assert page.evaluate("scrollY") == place


def test_arrow_keys_alone_do_not_scroll_to_the_panel(page: Page) -> None:
    page.locator("[data-subject=lora-r16] .heat button").first.focus()
    place = page.evaluate("scrollY")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("scrollY") == place


def test_the_legend_names_only_what_the_module_has(page: Page) -> None:
    page.locator("[data-subject=lora-r16] [data-module='model.layers.0.self_attn.q_proj']").click()
    legend = page.locator("#spectrum .of-spectrum .role-legend-label text")
    assert legend.all_text_contents() == ["base", "adapted", "ΔW"]
    judged = page.locator("#spectrum .of-intervals .role-legend-label text")
    assert judged.all_text_contents() == ["adapted"]
    page.locator("[data-subject=lora-r16] [data-module='model.layers.1.mlp.down_proj']").click()
    assert legend.count() == 6


def test_judged_vectors_are_drawn_over_the_update(page: Page) -> None:
    page.wait_for_selector("#spectrum .of-spectrum svg")
    fills = page.evaluate(
        """[...document.querySelectorAll('#spectrum .of-spectrum .mark-symbol.role-mark path')]
             .map(e => e.getAttribute('fill'))"""
    )
    assert max(at for at, fill in enumerate(fills) if fill == "#00896b") < fills.index("#c04f00")


@pytest.mark.parametrize("page", [375], indirect=True)
def test_what_is_wider_than_its_box_says_so_until_the_end(page: Page) -> None:
    fold = page.locator("details", has=page.locator("table.modules")).first
    fold.evaluate("fold => { fold.open = true; }")
    box, hint = fold.locator(".scroll"), fold.locator(".scroll-hint")
    hint.wait_for(state="visible")
    first = fold.locator("tbody th").first
    before = first.bounding_box()
    assert before is not None
    box.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
    hint.wait_for(state="hidden")
    after = first.bounding_box()
    # Sideways alone: charts further up may still be growing.
    assert after is not None
    assert after["x"] == before["x"]
    assert not box.evaluate("e => e.classList.contains('more')")


@pytest.mark.parametrize("page", [1200], indirect=True)
def test_no_large_part_of_the_map_section_is_empty(page: Page) -> None:
    maps, panel, whole = (page.locator(each).bounding_box() for each in (".maps", "#spectrum", ".map-and-spectrum"))
    assert maps is not None
    assert panel is not None
    assert whole is not None
    assert panel["y"] >= maps["y"] + maps["height"]
    assert panel["width"] > 0.95 * whole["width"]
    assert panel["height"] < 1100


@pytest.mark.parametrize("page", [375, 1200], indirect=True)
def test_nothing_is_cut(page: Page) -> None:
    page.wait_for_selector("#spectrum .of-intervals svg")
    cut = page.evaluate(
        """[...document.querySelectorAll('.chart')].flatMap(chart => {
             const box = chart.getBoundingClientRect();
             return [...chart.querySelectorAll('svg text')].filter(text => {
               const place = text.getBoundingClientRect();
               return place.width && (place.left < box.left - 1 || place.right > box.right + 1);
             }).map(text => text.textContent);
           })"""
    )
    assert cut == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
