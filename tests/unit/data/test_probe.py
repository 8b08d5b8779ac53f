from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorascope.data.probe import LANGUAGES, load_probe
from lorascope.errors import DataError, UsageError
from lorascope.schema.items import ChoiceItem, GenerateItem

LINES = {
    "en": [
        {
            "id": "c1",
            "kind": "choice",
            "category": "science",
            "group": "g1",
            "question": "What is H2O?",
            "choices": ["Water", "Salt", "Air", "Gold"],
            "answer": 0,
            "source": "own",
        },
        {
            "id": "s1",
            "kind": "short",
            "category": "places",
            "question": "Capital of France?",
            "answers": ["Paris", "Paris, France"],
            "source": "own",
        },
    ],
    "zh": [
        {
            "id": "c1",
            "kind": "choice",
            "category": "科学",
            "group": "g1",
            "question": "水的化学式是什么？",
            "choices": ["H2O", "CO2", "O2", "N2"],
            "answer": 0,
            "source": "own",
        },
        {
            "id": "s1",
            "kind": "short",
            "category": "地理",
            "question": "法国的首都？",
            "answers": ["巴黎"],
            "source": "own",
        },
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for language, records in LINES.items():
        text = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        (tmp_path / f"{language}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_two_retention_tasks_per_language(folder: Path) -> None:
    choice, short, *chinese = load_probe(("en", "zh"), folder=folder)
    assert [task.spec.name for task in (choice, short, *chinese)] == [
        "general-knowledge-en",
        "general-knowledge-short-en",
        "general-knowledge-zh",
        "general-knowledge-short-zh",
    ]
    assert {task.spec.role for task in (choice, short, *chinese)} == {"retention"}
    (item,) = choice.items
    assert isinstance(item, ChoiceItem)
    assert (item.context, item.answer) == ("Question: What is H2O?\nAnswer:", 0)
    assert (item.category, item.group) == ("science", "g1")
    (answer,) = short.items
    assert isinstance(answer, GenerateItem)
    assert (answer.prompt, answer.references) == ("Question: Capital of France?\nAnswer:", ("Paris", "Paris, France"))
    assert (short.spec.max_new_tokens, short.spec.stop) == (16, ["\n"])
    assert chinese[0].items[0].context == "问题：水的化学式是什么？\n答案："  # type: ignore[attr-defined]
    assert chinese[1].items[0].prompt == "问题：法国的首都？\n答案："  # type: ignore[attr-defined]
    assert len({task.fingerprint for task in (choice, short, *chinese)}) == 4


def test_unknown_languages_and_kinds(folder: Path) -> None:
    with pytest.raises(UsageError, match="'fr'"):
        load_probe(("fr",), folder=folder)  # type: ignore[arg-type]
    (folder / "en.jsonl").write_text('{"kind": "essay", "question": "?"}', encoding="utf-8")
    with pytest.raises(DataError, match="essay"):
        load_probe(("en",), folder=folder)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_packages_own_probe_can_be_asked(language: str) -> None:
    for task in load_probe((language,), limit=30, seed=3):  # type: ignore[arg-type]
        assert len(task.items) == 30
        assert len({item.item_id for item in task.items}) == 30
        assert all(item.category for item in task.items)
