"""The page is one file that asks for nothing, runs nothing but its own scripts, and says everything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from types import ModuleType

import pytest

from lorascope.report.html import json_for_html, render_html
from lorascope.schema.comparison import Comparison


class Page(HTMLParser):
    """What a browser would see: elements with attributes, the scripts' sources, and the text outside scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.data: dict[str, object] = {}
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.data[str(attributes["id"])] = json.loads(data)
        elif tag == "script" and data.strip():
            self.scripts.append(data)
        elif tag != "style":
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", {}))

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def causal_html(factory: ModuleType) -> str:
    return render_html(factory.causal_comparison(), factory.causal_samples())


@pytest.fixture(scope="module")
def causal_page(causal_html: str) -> Page:
    return Page(causal_html)


@pytest.fixture(scope="module")
def hostile_html(factory: ModuleType) -> str:
    return render_html(factory.hostile_comparison(), factory.hostile_samples())


def test_the_policy_allows_exactly_the_scripts_of_the_page(causal_page: Page) -> None:
    policy = next(a["content"] for tag, a in causal_page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    found = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in causal_page.scripts}
    assert found == allowed
    assert len(found) == 5
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src", 1)[1].split(";")[0]


def test_nothing_is_loaded_from_elsewhere(causal_page: Page, hostile_html: str) -> None:
    for page in (causal_page, Page(hostile_html)):
        for tag, attributes in page.elements:
            assert tag not in ("link", "iframe", "img", "base", "object", "embed")
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")


def test_hostile_text_never_becomes_markup(hostile_html: str, factory: ModuleType) -> None:
    page = Page(hostile_html)
    assert len(page.scripts) == 5
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for attack in factory.ATTACKS[:5]:
        assert re.sub(r"\s+", " ", attack) in page.words
    assert "{{ 7 * 7 }} {% raw %}" in page.words


def test_json_cannot_end_its_element() -> None:
    text = json_for_html({"a": "</script><!-- & \u2028\u2029", "b": [1, None]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028\u2029", "b": [1, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        json_for_html(float("nan"))


def test_the_verdict_comes_first_and_every_section_is_linked(causal_page: Page) -> None:
    sections = [a["id"] for tag, a in causal_page.elements if tag == "section"]
    assert sections == [
        "verdict", "metrics", "answers", "forgetting", "training", "weights", "cost", "human", "gates", "provenance"
    ]  # fmt: skip
    links = {a["href"] for tag, a in causal_page.elements if tag == "a"}
    assert {f"#{name}" for name in sections} <= links
    words = causal_page.words
    assert words.index("General ability lost") < words.index("Target tasks")
    assert words.count("How to read this") == len(sections)


def test_the_page_says_what_was_found(causal_page: Page) -> None:
    words = causal_page.words
    for said in (
        "General knowledge held less firmly",
        "about 1,544 items would decide it",
        "Validation loss rises for good from step 280 of 900",
        "no training data was named (train_data)",
        "Compared with full-ft",
        "validation 2",
        "A gate failed",
        "21",
        "lorascope compare models/llama-tiny",
        "bleu|v1|n=96",
        "BSD-3-Clause",
        "University of Washington Interactive Data Lab",
    ):
        assert said in words, said


def test_every_chart_has_its_data(causal_page: Page) -> None:
    wanted = [a["data-chart"] for _, a in causal_page.elements if "data-chart" in a]
    charts = causal_page.data["data-charts"]
    assert isinstance(charts, dict)
    assert sorted(wanted, key=str) == sorted(charts)
    assert len(wanted) == 10


def test_every_cell_of_the_map_has_a_spectrum(causal_page: Page) -> None:
    weights = causal_page.data["data-weights"]
    assert isinstance(weights, dict)
    cells = [a["data-module"] for _, a in causal_page.elements if "data-module" in a]
    assert len(cells) == 2 * 29
    assert set(cells) == set(weights["modules"]["lora-r16"])


def test_three_subjects_stay_small(factory: ModuleType) -> None:
    comparison = factory.causal_comparison()
    samples = factory.causal_samples(96)
    third = factory.checkpoint("dora-r8", method="dora")
    comparison.checkpoints.append(third)
    comparison.measurements += [
        found.model_copy(update={"subject": "dora-r8"})
        for found in comparison.measurements
        if found.subject == "lora-r16"
    ]
    comparison.weights["dora-r8"] = comparison.weights["lora-r16"]
    rows = samples.to_pylist()
    rows += [{**row, "subject": "dora-r8"} for row in rows if row["subject"] == "lora-r16"]
    html = render_html(comparison, factory.sample_table(rows))
    assert len(html.encode()) < 2_500_000
    assert len([a for t, a in Page(html).elements if t == "article" and a.get("class") == "card"]) == 3


def test_labels_without_a_base_head(labels: Comparison) -> None:
    page = Page(render_html(labels, None))
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == ["verdict", "metrics", "forgetting", "provenance"]
    assert "The base has no trained classification head" in page.words.replace("the base", "The base")
    assert "tail: rare labels" in page.words
    assert "tuned per label" in page.words


def test_almost_nothing_still_makes_a_page(weights_only: Comparison) -> None:
    page = Page(render_html(weights_only, None))
    assert [a["id"] for tag, a in page.elements if tag == "section"] == ["verdict", "weights", "provenance"]
    assert "no data was given" in page.words
    assert "0 tasks" not in page.words
    assert page.words.count("No task was asked") == 1
    assert "Task not measured" not in page.words


def test_what_no_model_did_is_said_in_words(weights_only: Comparison) -> None:
    weights_only.provenance.device = weights_only.provenance.dtype = "none"
    words = Page(render_html(weights_only, None)).words
    assert "no model was run" in words
    assert "none · none" not in words


def test_the_content_of_a_long_path_is_whole(weights_only: Comparison) -> None:
    weights_only.checkpoints[0].path = "/srv/" + "models/" * 20
    words = Page(render_html(weights_only, None)).words
    assert weights_only.checkpoints[0].path in words
    assert "Trained are the parameters that training could change" in words


def test_no_samples_and_empty_samples_are_the_same(factory: ModuleType, weights_only: Comparison) -> None:
    empty = factory.causal_samples().slice(0, 0)
    assert render_html(weights_only, empty) == render_html(weights_only, None)


def test_chinese_page(causal: Comparison) -> None:
    html = render_html(causal, None, language="zh")
    page = Page(html)
    assert next(a["lang"] for tag, a in page.elements if tag == "html") == "zh-Hans"
    assert "通用能力受损" in page.words
    assert "How to read this" not in page.words
    assert "PingFang SC" in html


def test_the_same_comparison_gives_the_same_page(factory: ModuleType, causal_html: str) -> None:
    assert render_html(factory.causal_comparison(), factory.causal_samples()) == causal_html
