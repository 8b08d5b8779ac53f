"""The laws that the probe's items keep, checked on the files that the package ships."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from math import isclose
from typing import Any

import pytest

from lorascope.data.probe import LANGUAGES, load_probe
from lorascope.measures.choices import score_choices

Record = dict[str, Any]
CATEGORIES = {
    "geography": "geo",
    "history": "his",
    "arithmetic": "ari",
    "science": "sci",
    "language": "lan",
    "everyday_reasoning": "eve",
    "health": "hea",
    "computing": "com",
    "arts": "art",
    "time_and_measures": "tim",
}
KEYS = {
    "choice": ["id", "kind", "category", "group", "question", "choices", "answer", "source"],
    "short": ["id", "kind", "category", "question", "answers", "source"],
}
LONGEST = {"en": {"question": 90, "choice": 30}, "zh": {"question": 40, "choice": 12}}
SAME_OPENING = 2
DATED = {
    "en": r"\b(?:today|nowadays|now|currently|(?<!electric )current|latest|recent(?:ly)?|(?:this|last) year|so far)\b",
    "zh": "今天|今日|今年|今晚|现在|现任|现今|目前|当前|如今|最新|最近|近年|迄今|截至|去年|明年",
}
TRAILING = re.compile(r"[\s。．.？?！!：:，,；;]+")
in_each_language = pytest.mark.parametrize("language", LANGUAGES)


@cache
def records(language: str, kind: str = "") -> tuple[Record, ...]:
    text = (files("lorascope.data") / "probe" / f"{language}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return tuple(row for row in rows if kind in {"", row["kind"]})


def groups(language: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for row in records(language, "choice"):
        found[row["group"]].append(row)
    return found


def accepted(row: Record) -> list[str]:
    """Every string that counts as right, the canonical one first."""
    return [row["choices"][row["answer"]]] if row["kind"] == "choice" else list(row["answers"])


def opening(language: str, question: str) -> str:
    """What a template would share: four words of English, five characters of Chinese."""
    if language == "en":
        return " ".join(re.findall(r"[\w'’-]+", question.casefold())[:4])
    return re.sub(r"[“”《》\s]", "", question)[:5]


def repeated(values: Sequence[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


@in_each_language
def test_counts_and_fields(language: str) -> None:
    assert Counter(row["kind"] for row in records(language)) == {"choice": 360, "short": 120}
    for kind, each in (("choice", 36), ("short", 12)):
        rows = records(language, kind)
        assert Counter(row["category"] for row in rows) == dict.fromkeys(CATEGORIES, each)
        assert {tuple(row) for row in rows} == {tuple(KEYS[kind])}


@in_each_language
def test_identifiers_say_language_category_and_group(language: str) -> None:
    assert repeated([row["id"] for row in records(language)]) == []
    for row in records(language, "choice"):
        assert re.fullmatch(rf"{language}-{CATEGORIES[row['category']]}-\d\d", row["group"])
        assert re.fullmatch(re.escape(row["group"]) + "[abcd]", row["id"])
    for row in records(language, "short"):
        assert re.fullmatch(rf"{language}-{CATEGORIES[row['category']]}-s\d\d", row["id"])


@in_each_language
def test_no_question_is_asked_twice(language: str) -> None:
    assert repeated([TRAILING.sub(" ", row["question"].casefold()).strip() for row in records(language)]) == []


def test_the_languages_share_neither_questions_nor_names() -> None:
    english, chinese = records("en"), records("zh")
    for field in ("id", "question"):
        assert not {row[field] for row in english} & {row[field] for row in chinese}
    assert not any(re.search("[\u4e00-\u9fff]", row["question"]) for row in english)
    assert all(row["category"] == "arithmetic" or re.search("[\u4e00-\u9fff]", row["question"]) for row in chinese)


@in_each_language
def test_every_string_of_a_group_is_right_exactly_once(language: str) -> None:
    found = groups(language)
    assert len(found) == 90
    for name, rows in found.items():
        assert [row["id"][-1] for row in rows] == list("abcd"), name
        assert len({tuple(row["choices"]) for row in rows}) == 1, f"{name}: one order of the choices"
        assert len({choice.casefold() for choice in rows[0]["choices"]}) == 4, name
        assert {row["answer"] for row in rows} == {0, 1, 2, 3}, name
        assert len({row["category"] for row in rows}) == 1, name


@in_each_language
def test_right_answers_stand_at_each_place_equally_often(language: str) -> None:
    assert Counter(row["answer"] for row in records(language, "choice")) == dict.fromkeys(range(4), 90)
    for place in "abcd":  # nor does the order of a group's questions give the place away
        at = Counter(row["answer"] for row in records(language, "choice") if row["id"].endswith(place))
        assert max(at.values()) - min(at.values()) <= 1, place


@in_each_language
def test_no_choice_serves_two_groups_of_a_category(language: str) -> None:
    used = [(rows[0]["category"], choice) for rows in groups(language).values() for choice in rows[0]["choices"]]
    assert repeated(used) == []


@in_each_language
def test_questions_and_choices_are_short(language: str) -> None:
    longest = LONGEST[language]
    for row in records(language):
        assert 3 < len(row["question"]) <= longest["question"], row["id"]
        shown = row["choices"] if row["kind"] == "choice" else row["answers"][:1]
        assert all(0 < len(text) <= longest["choice"] for text in shown), row["id"]
        assert all(len(text) <= 30 for text in accepted(row)), row["id"]


@in_each_language
def test_texts_are_clean(language: str) -> None:
    for row in records(language):
        for text in (row["question"], row["source"], *row.get("choices", ()), *row.get("answers", ())):
            assert text, row["id"]
            assert text == text.strip(), row["id"]
            assert not re.search(r"\s{2}|\.\.\s*$|�", text), row["id"]
        assert repeated(accepted(row)) == [], row["id"]


@in_each_language
def test_every_item_names_a_source(language: str) -> None:
    for row in records(language):
        named = re.sub(
            r"^(?:Wikipedia|Merriam-Webster|Wiktionary|维基百科|现代汉语词典|汉典)\s*[:：]?\s*", "", row["source"]
        )
        assert named, f"{row['id']} names a work without the entry"


@in_each_language
def test_no_question_holds_its_answer(language: str) -> None:
    held = [
        row["id"]
        for row in records(language)
        for text in accepted(row)
        if text.casefold() in row["question"].casefold()
    ]
    assert held == []


@in_each_language
def test_no_template_is_worn_out(language: str) -> None:
    shared = Counter(opening(language, row["question"]) for row in records(language))
    assert shared.most_common(1)[0][1] <= SAME_OPENING
    for rows in groups(language).values():
        assert repeated([opening(language, row["question"]) for row in rows]) == []


@in_each_language
def test_nothing_depends_on_the_date(language: str) -> None:
    assert [row["id"] for row in records(language) if re.search(DATED[language], row["question"], re.IGNORECASE)] == []


@in_each_language
def test_the_working_of_arithmetic_is_right(language: str) -> None:
    """Chains such as ``6! = …`` or words are left to readers; a chain of plain terms must hold at every equals sign."""
    checked = 0
    for row in records(language):
        chain = row["source"].replace("²", "**2").replace("^", "**").split("=")
        terms = [text.translate(str.maketrans("×÷−", "*/-")).strip() for text in chain]
        if len(terms) < 2 or not all(re.fullmatch(r"[\d\s.()+*/-]+", term) for term in terms):
            continue
        values = [float(eval(term)) for term in terms]
        assert all(isclose(left, right) for left, right in pairwise(values)), row["id"]
        checked += 1
    assert checked >= 35


def _hashed(seed: int) -> Callable[[str], float]:
    def score(text: str) -> float:
        return float(int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:4], "big"))

    return score


BLIND: dict[str, Callable[[str], float]] = {
    "longest": len,
    "shortest": lambda text: -len(text),
    "first in the alphabet": lambda text: -sum(ord(letter) / 2 ** (21 * place) for place, letter in enumerate(text)),
    "most digits": lambda text: sum(letter.isdigit() for letter in text),
    "constant": lambda text: 0.0,
    **{f"hash {seed}": _hashed(seed) for seed in range(5)},
}


@pytest.mark.parametrize("blind", BLIND)
@in_each_language
def test_whoever_sees_only_the_choices_scores_chance_exactly(language: str, blind: str) -> None:
    """A function of the strings picks one and the same string four times in a group, and is right with it once."""
    rows = records(language, "choice")
    logprobs = [[BLIND[blind](choice) for choice in row["choices"]] for row in rows]
    scored = score_choices(logprobs, [row["answer"] for row in rows], [row["choices"] for row in rows])
    for metric in ("accuracy", "accuracy_norm", "accuracy_bytes"):
        assert scored[metric].statistics[:, 0].sum() == len(rows) / 4, metric
    assert scored["gold_margin"].statistics[:, 0].sum() <= 0


@in_each_language
def test_the_probe_loads_with_all_its_items(language: str) -> None:
    choice, short = load_probe((language,))  # type: ignore[arg-type]
    assert (len(choice.items), len(short.items)) == (360, 120)
    assert {item.category for item in choice.items} == {item.category for item in short.items} == set(CATEGORIES)
