"""What changed, in a real browser: counts lead to their answers, filters by cause, the largest fall first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser, Page

from lorascope.report.html import render_html
from lorascope.schema.comparison import Comparison
from lorascope.schema.flips import FlipLedger

pytestmark = pytest.mark.browser
Opener = Callable[..., Page]
TASK = "general-knowledge-en"
CAUSES = ("format", "knowledge_loss", "language_switch", "truncated")


def ledgers(rows: list[dict[str, object]], base: str) -> list[FlipLedger]:
    found = []
    for subject in dict.fromkeys(str(row["subject"]) for row in rows):
        mine = [row for row in rows if row["subject"] == subject and row["flip"]]
        counts = {name: sum(row["flip"] == name for row in mine) for name in ("fixed", "broken", "both_right")}
        causes = {name: sum(row["cause"] == name for row in mine) for name in CAUSES}
        found.append(
            FlipLedger(
                subject=subject, reference=base, task=str(mine[0]["task"]), items=len(mine), **counts,
                both_wrong=sum(row["flip"] == "both_wrong" for row in mine), causes=causes, noise=3,
            )
        )  # fmt: skip
    return found


def explained(factory: ModuleType) -> tuple[Comparison, list[dict[str, object]]]:
    """The causal comparison with causes, evidence and falls for its broken answers."""
    rows = factory.causal_samples().to_pylist()
    seen = 0
    for at, row in enumerate(rows):
        row["gold_logprob_adapted"] = row["gold_logprob_base"] - (at * 7 % 40) / 10
        seen += row["flip"] == "broken"
        row["cause"] = CAUSES[(0, 1, 0, 3)[seen % 4]] if row["flip"] == "broken" else None
        row["cause_evidence"] = f"evidence {at} <b>bold</b>" if row["cause"] else None
    comparison = factory.causal_comparison()
    return comparison.model_copy(update={"flips": ledgers(rows, comparison.base.name)}), rows


@pytest.fixture(scope="module")
def pages(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flips")
    comparison, rows = explained(factory)
    hostile = factory.hostile_comparison()
    attacks = factory.ATTACKS
    hostile.flips = [
        FlipLedger(subject=attacks[0], reference=attacks[3], task=attacks[2], items=9, fixed=1, broken=4, both_right=2,
                   both_wrong=2, causes={"format": 4}),
        FlipLedger(subject=attacks[0], reference="base", task=attacks[2], items=9, fixed=1, broken=4, both_right=2,
                   both_wrong=2, causes={"format": 4}),
    ]  # fmt: skip
    evil = [row | {"cause_evidence": row["prompt"]} for row in factory.hostile_samples().to_pylist()]
    made = {
        "en": render_html(comparison, factory.sample_table(rows)),
        "zh": render_html(comparison, factory.sample_table(rows), language="zh"),
        "no-samples": render_html(comparison, None),
        "hostile": render_html(hostile, factory.sample_table(evil)),
    }
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]) -> Iterator[Opener]:
    contexts = []

    def visit(name: str = "en", *, width: int = 1280, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        page.goto(pages[name].as_uri())
        page.wait_for_selector("html[data-charts=drawn]")
        return page

    yield visit
    for context in contexts:
        context.close()


def shown_total(page: Page) -> int:
    return int(page.locator(".answers-bar .status").inner_text().rsplit(" ", 1)[1])


def test_a_count_leads_to_the_answers_that_it_counts(opened: Opener) -> None:
    page = opened()
    row = page.locator("#flips tbody tr", has_text="lora-r16").first
    broken = row.locator("td.broken button")
    count = int(broken.inner_text())
    broken.click()
    assert shown_total(page) == count
    assert page.locator("select[name=subject] option:checked").inner_text() == "lora-r16"
    assert page.locator("select[name=task] option:checked").inner_text() == TASK
    assert page.locator(".answer-detail .outcome").all_inner_texts() == ["▼ broken"]
    assert page.evaluate("document.activeElement.className") == "answer-detail"
    assert page.evaluate("document.getElementById('answers').getBoundingClientRect().top") < 100


def test_a_cause_leads_to_its_answers_with_their_evidence(opened: Opener) -> None:
    page = opened()
    chip = page.locator("#flips .cause-list").first.locator("button", has_text="Knowledge loss")
    count = int(chip.locator("strong").inner_text())
    chip.click()
    assert shown_total(page) == count
    assert page.locator("input[name=cause]:checked").evaluate_all("all => all.map(e => e.value)") == ["knowledge_loss"]
    line = page.locator(".answer-detail .cause-line").inner_text()
    assert line.startswith("Knowledge loss · evidence")
    assert line.endswith("<b>bold</b>")
    assert "Knowledge loss" in page.locator(".answer-list .where").first.inner_text()


def test_causes_filter_and_join(opened: Opener) -> None:
    page = opened()
    totals = []
    for name in ("Format", "Knowledge loss"):
        page.locator(".why-chips label", has_text=name).click()
        totals.append(shown_total(page))
    assert 0 < totals[0] < totals[1]
    page.locator(".why-chips label", has_text="Format").click()
    page.locator(".why-chips label", has_text="Knowledge loss").click()
    assert shown_total(page) == 192


def test_the_largest_fall_of_a_subject_comes_first(opened: Opener) -> None:
    page = opened()
    for subject in ("lora-r16", "full-ft"):
        page.locator("#flips tbody tr", has_text=subject).first.locator("td.broken button").click()
        falls = page.evaluate(
            r"""[...document.querySelectorAll('.answer-list .where')]
                 .map(e => Number(e.textContent.match(/[+−]?[\d.]+ nats/)[0].replace('−', '-').replace(' nats', '')))"""
        )
        assert len(falls) > 3
        assert falls == sorted(falls)


def test_without_samples_counts_stand_alone(opened: Opener) -> None:
    page = opened("no-samples")
    assert page.locator("#flips button").count() == 0
    assert page.locator("#flips .cause-list li").count() > 2
    assert "texts were not kept" in page.locator("#flips").inner_text()


def test_chinese(opened: Opener) -> None:
    page = opened("zh")
    assert page.locator("#flips-heading").inner_text().endswith("哪些回答变了")
    assert "知识丢失" in page.locator("#flips .cause-list").first.inner_text()
    page.locator("#flips .cause-list button").first.click()
    assert "纳特" in page.locator(".answer-list .where").first.inner_text()


def test_hostile_names_do_nothing(opened: Opener, factory: ModuleType) -> None:
    page = opened("hostile")
    page.locator("#flips details summary").click()
    page.locator("#flips td.broken button, #flips td.fixed button").first.click()
    for _ in factory.ATTACKS:
        page.keyboard.press("j")
    assert page.evaluate("window.attacked") is None
    assert page.locator("main img, main iframe, main script, main link, main a").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1280, "dark")])
def test_the_table_fits_its_page(opened: Opener, width: int, scheme: str) -> None:
    page = opened(width=width, scheme=scheme)
    for fold in page.locator("#flips details").all():
        fold.evaluate("fold => { fold.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = "document.querySelector('.flips').closest('.scroll')"
    assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth + 1")
