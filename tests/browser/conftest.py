"""A Chromium and rendered report pages for the browser tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from lorascope.report.html import render_html

FACTORY = Path(__file__).parents[1] / "unit" / "report" / "comparison_factory.py"


@dataclass
class Visit:
    """An opened page and everything it complained about or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    name = "report_comparison_factory"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FACTORY)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("LORASCOPE_REQUIRE_BROWSER") == "1":
            pytest.fail("LORASCOPE_REQUIRE_BROWSER is 1 and there is no chromium on the PATH")
        pytest.skip("there is no chromium on the PATH")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def pages(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    long = factory.traced_weights_comparison(tuple(f"checkpoint-{step}" for step in (40, 80, 120, 160)))
    for checkpoint in long.checkpoints:
        checkpoint.path = f"/srv/experiments/models/2026/a-run-with-a-long-name/output/{checkpoint.name}"
        checkpoint.architecture = "BertForSequenceClassification"
    made = {
        "paths": render_html(long, None),
        "causal": render_html(factory.causal_comparison(), factory.causal_samples()),
        "labels": render_html(factory.labels_comparison(), None, language="zh"),
        "weights": render_html(factory.weights_only_comparison(), None),
        "hostile": render_html(factory.hostile_comparison(), factory.hostile_samples()),
    }
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


Opener = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, pages: dict[str, Path]) -> Iterator[Opener]:
    contexts = []

    def opened(name: str, *, width: int = 1280, scheme: str = "light", fragment: str = "") -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        made = Visit(context.new_page())
        made.page.on("console", lambda m: made.complaints.append(m.text) if m.type in ("error", "warning") else None)
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on("request", lambda request: made.requests.append(request.url))
        made.page.goto(pages[name].as_uri() + fragment)
        made.page.wait_for_selector("html[data-charts=drawn]")
        return made

    yield opened
    for context in contexts:
        context.close()
