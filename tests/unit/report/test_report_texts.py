"""Every fixed text exists in both languages, with the same places to fill, and every text asked for exists."""

from __future__ import annotations

import json
import re
import string

import pytest

from lorascope.report.texts import TEMPLATES, load_texts
from lorascope.schema.comparison import Comparison

TABLE = json.loads((TEMPLATES / "texts.json").read_text(encoding="utf-8"))


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_say_the_same_places() -> None:
    for key, entry in TABLE.items():
        assert set(entry) == {"en", "zh"}, key
        assert all(text.strip() for text in entry.values()), key
        assert places(entry["en"]) == places(entry["zh"]), key


def literal_keys() -> set[str]:
    sources = [*TEMPLATES.glob("*.j2"), *TEMPLATES.parent.glob("*.py")]
    calls = re.compile(r"""\b(?:t|words|page\.words)\(\s*"([a-z_]+\.[A-Za-z_.]+)"[,)]""")
    several = re.compile(r"""\.several\(\s*"([a-z_.]+)",""")
    read = re.compile(r"""m\.read\("([a-z_.]+)"\)""")
    found: set[str] = set()
    for source in sources:
        text = source.read_text(encoding="utf-8")
        found |= set(calls.findall(text)) | set(read.findall(text))
        found |= {f"{key}.{form}" for key in several.findall(text) for form in ("one", "other")}
    return found


def test_every_text_that_is_asked_for_exists() -> None:
    keys = literal_keys()
    assert len(keys) > 100
    assert keys - set(TABLE) == set()


def test_scripts_ask_only_for_texts_that_exist() -> None:
    scripts = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("answers.js", "weights.js"))
    asked = set(re.findall(r"\btexts\.(\w+)", scripts))
    assert asked
    assert {f"ui.{name}" for name in asked} <= set(TABLE)


def test_every_metric_of_the_examples_has_a_meaning(causal: Comparison, labels: Comparison) -> None:
    metrics = {found.metric for found in (*causal.measurements, *labels.measurements)}
    lacking = {metric for metric in metrics if f"metric.{metric}" not in TABLE and not metric.endswith("_gap")}
    assert lacking == set()


def test_filling_and_numbers() -> None:
    words = load_texts("en")
    assert words.several("items", 1) == "1 item"
    assert words.several("items", 1544) == "1,544 items"
    assert words.known("metric.unheard_of", "as it is") == "as it is"
    assert words.ended("done.") == words.ended("done") == "done."
    assert load_texts("zh").ended("完成") == "完成。"
    with pytest.raises(KeyError):
        words("no.such.text")
