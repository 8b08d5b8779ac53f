"""The ledgers as the page shows them: by task, causes by size, leading only to answers that the page carries."""

from __future__ import annotations

import random
import re
from types import ModuleType
from typing import Any, get_args

import pytest

from lorascope.report.flip_section import FlipRow, flip_context
from lorascope.report.html import render_html
from lorascope.report.samples import embed_samples
from lorascope.report.texts import TEMPLATES, load_texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.flips import CauseName, FlipLedger


def ledger(**fields: Any) -> FlipLedger:
    counts = {"items": 96, "broken": 12, "fixed": 3, "both_right": 60, "both_wrong": 21}
    names = {"subject": "lora-r16", "reference": "llama-tiny", "task": "general-knowledge-en"}
    return FlipLedger.model_validate(names | counts | fields)


def with_flips(comparison: Comparison, *ledgers: FlipLedger) -> Comparison:
    return comparison.model_copy(update={"flips": list(ledgers)})


def section(html: str) -> str:
    found = re.search(r'<section id="flips".*?</section>', html, re.DOTALL)
    assert found is not None
    return found.group()


def row_of(comparison: Comparison, samples: Any = None) -> FlipRow:
    [task] = flip_context(comparison, samples)["flip_tasks"]
    return task.rows[0]


def test_tasks_stand_in_their_own_order_and_causes_by_size(causal: Comparison) -> None:
    made = with_flips(
        causal,
        ledger(causes={"truncated": 2, "format": 2, "knowledge_loss": 8}),
        ledger(task="support", subject="full-ft"),
        ledger(subject="full-ft"),
    )
    tasks = flip_context(made, None)["flip_tasks"]
    assert [(task.name, [row.ledger.subject for row in task.rows]) for task in tasks] == [
        ("support", ["full-ft"]),
        ("general-knowledge-en", ["lora-r16", "full-ft"]),
    ]
    causes = [(cause.name, cause.count) for cause in tasks[1].rows[0].causes]
    assert causes == [("knowledge_loss", 8), ("truncated", 2), ("format", 2)]
    assert flip_context(made, None)["cause_names"] == ["truncated", "format", "knowledge_loss"]


def test_no_ledgers_no_section(causal: Comparison) -> None:
    assert 'id="flips"' not in render_html(causal, None)


def test_only_answers_in_the_page_are_led_to(factory: ModuleType, causal: Comparison) -> None:
    rows = [factory.knowledge_row("lora-r16", at, random.Random(0)) for at in range(3)]
    for row, flip in zip(rows, ("broken", "both_right", "broken"), strict=True):
        row.update(flip=flip, cause="format" if flip == "broken" else None)
    packed = embed_samples(factory.sample_table(rows), causal)
    causes = {"format": 11, "empty": 1}
    row = row_of(with_flips(causal, ledger(causes=causes)), packed)
    assert row.shown == {"broken", "both_right", "cause:format"}
    assert {cause.name: cause.shown for cause in row.causes} == {"format": True, "empty": False}
    other = row_of(with_flips(causal, ledger(causes=causes, reference="full-ft")), packed)
    assert (other.against, other.shown) == ("full-ft", frozenset())


@pytest.mark.parametrize(("language", "words"), [("en", "Knowledge loss"), ("zh", "知识丢失")])
def test_the_section_says_counts_causes_and_noise(causal: Comparison, language: Any, words: str) -> None:
    made = with_flips(causal, ledger(causes={"knowledge_loss": 12}, noise=2))
    html = section(render_html(made, None, language=language))
    assert words in html
    assert load_texts(language).several("flips.noise", 15, noise="2") in html
    assert "<button" not in html
    assert html.count("flex-grow: 12") == 1


def test_a_ledger_without_causes_is_counts_alone(causal: Comparison) -> None:
    html = section(render_html(with_flips(causal, ledger()), None))
    assert "cause-bar" not in html
    assert "What the causes mean" not in html


def test_every_cause_has_a_name_a_meaning_and_a_colour() -> None:
    for language in ("en", "zh"):
        words = load_texts(language)
        names = [words(f"cause.{name}") for name in get_args(CauseName)]
        assert len(set(names)) == len(get_args(CauseName))
        assert all(words(f"cause.means.{name}") for name in get_args(CauseName))
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    colours = re.findall(r"\.cause-(\w+) \{ --cause: (#\w{6}); \}", style)
    assert {name for name, _ in colours} == set(get_args(CauseName))
    assert len({colour for _, colour in colours}) == len(colours)
