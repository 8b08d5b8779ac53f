"""The general text keeps its size, is each passage's own, and stands in the script that it says."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from lorascope.data.general import load_general_text
from lorascope.data.probe import LANGUAGES
from lorascope.errors import DataError, UsageError
from lorascope.schema.items import LikelihoodItem

HAN = re.compile("[\u4e00-\u9fff]")
in_each_language = pytest.mark.parametrize("language", LANGUAGES)


@cache
def records(language: str) -> tuple[dict[str, str], ...]:
    text = (files("lorascope.data") / "general_text" / f"{language}.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


def pieces(language: str, text: str) -> set[str]:
    """What two texts would share if one were taken from the other: six words, or ten Chinese characters."""
    units = re.findall(r"\w+", text.casefold()) if language == "en" else HAN.findall(text)
    length = 6 if language == "en" else 10
    return {" ".join(units[start : start + length]) for start in range(len(units) - length + 1)}


@in_each_language
def test_sixty_passages_in_twelve_registers(language: str) -> None:
    assert all(sorted(record) == ["category", "text"] for record in records(language))
    assert Counter(Counter(record["category"] for record in records(language)).values()) == {5: 12}
    for record in records(language):
        size = len(record["text"].split()) if language == "en" else len(record["text"])
        assert (60 <= size <= 110) if language == "en" else (100 <= size <= 180), record["text"]


@in_each_language
def test_passages_share_nothing_with_each_other(language: str) -> None:
    counts = Counter(piece for record in records(language) for piece in pieces(language, record["text"]))
    assert [piece for piece, count in counts.items() if count > 1] == []


@in_each_language
def test_passages_share_nothing_with_the_probe(language: str) -> None:
    ours = set().union(*(pieces(language, record["text"]) for record in records(language)))
    probe = (files("lorascope.data") / "probe" / f"{language}.jsonl").read_text(encoding="utf-8")
    theirs = set().union(*(pieces(language, json.loads(line)["question"]) for line in probe.splitlines()))
    assert ours & theirs == set()


@in_each_language
def test_script_and_spelling(language: str) -> None:
    for record in records(language):
        text = record["text"]
        share = len(HAN.findall(text)) / len(text)
        assert share == 0 if language == "en" else share > 0.65, text
        assert text == text.strip()
        assert not re.search(r"\s{2,}|\n|\ufffd", text)
        assert text.count("“") == text.count("”")
        assert text.count('"') % 2 == 0


@in_each_language
def test_tasks(language: str) -> None:
    (task,) = load_general_text((language,))  # type: ignore[arg-type]
    assert (task.spec.name, task.kind, task.spec.role) == (f"general-text-{language}", "likelihood", "retention")
    assert len({item.item_id for item in task.items}) == 60
    assert all(isinstance(item, LikelihoodItem) and item.category is None for item in task.items)


def test_samples_are_subsets_and_repeat() -> None:
    few, more = (load_general_text(LANGUAGES, limit=limit, seed=5) for limit in (7, 20))
    assert [task.spec.name for task in few] == ["general-text-en", "general-text-zh"]
    for small, large in zip(few, more, strict=True):
        assert {item.item_id for item in small.items} < {item.item_id for item in large.items}
        assert small.fingerprint != large.fingerprint
    assert [task.fingerprint for task in few] == [
        task.fingerprint for task in load_general_text(LANGUAGES, limit=7, seed=5)
    ]
    assert len(load_general_text(fraction=0.1)[0].items) == 6


def test_unknown_languages_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'fr'"):
        load_general_text(("fr",))  # type: ignore[arg-type]
    (tmp_path / "en.jsonl").write_text('{"category": "news"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        load_general_text(folder=tmp_path)
