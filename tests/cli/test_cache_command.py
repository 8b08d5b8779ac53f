"""``lorascope cache`` by hand: what it shows, what it finds damaged, what it removes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorascope.cli.main import run
from lorascope.engines.base import Outcome
from lorascope.engines.cache import AnswerCache, Context
from lorascope.schema.items import ScoreAnswer

LORA = Context(
    engine="transformers",
    subject="lora[red]",
    content_hash="ab12cd34ef" + "0" * 54,
    base_hash="b" * 64,
    task="numbers",
    kind="generate",
    dtype="auto",
    device="cpu",
    version="1",
)
BASE = replace(LORA, subject="base", content_hash="b" * 64, base_hash=None)


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three answers of a base, two of an adapter: one of them old."""
    folder = tmp_path / "caches"
    monkeypatch.setenv("LORASCOPE_CACHE_DIR", str(folder))
    with AnswerCache(folder / "answers.sqlite") as cache:
        cache.put_many([(name, Outcome(ScoreAnswer(value=1.0))) for name in "abc"], BASE)
        cache.put_many([(name, Outcome(ScoreAnswer(value=2.0))) for name in "de"], LORA)
    alter(folder, "UPDATE answers SET created = created - 40 * 86400 WHERE key IN ('a', 'd')")
    return folder


def alter(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "answers.sqlite")
    with connection:
        connection.execute(statement)
    connection.close()


def left(folder: Path) -> set[str]:
    connection = sqlite3.connect(folder / "answers.sqlite")
    keys = {key for (key,) in connection.execute("SELECT key FROM answers")}
    connection.close()
    return keys


def test_show(caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(["cache", "show"]) == 0
    shown = capsys.readouterr().out
    for words in (str(caches / "answers.sqlite"), "5 answers", "lora[red]", "ab12cd34ef00", "numbers (generate)"):
        assert words in shown
    assert "transformers, auto, cpu" in shown
    assert run(["cache", "show", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(caches / "answers.sqlite")
    assert document["answers"] == 5
    assert document["bytes"] > 0
    assert {row["context"]["subject"]: row["answers"] for row in document["holdings"]} == {"base": 3, "lora[red]": 2}


@pytest.mark.parametrize("command", [["show"], ["verify"], ["prune", "--all"], ["prune", "--checkpoint", "x"]])
def test_a_cache_that_is_not_there_is_nothing_wrong_and_is_not_made(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cache", *command, "--cache-dir", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out
    assert run(["cache", *command, "--cache-dir", str(tmp_path / "none"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", [["show"], ["verify"], ["prune", "--all", "--yes"], ["prune", "--checkpoint", "x"]])
def test_an_empty_cache(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    AnswerCache(tmp_path / "answers.sqlite").close()
    assert run(["cache", *command, "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out


def test_verify_tells_damage_by_its_exit_code_and_drops_it_when_told(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cache", "verify"]) == 0
    assert "5 answers, none damaged" in capsys.readouterr().out
    alter(caches, "UPDATE answers SET outcome = replace(outcome, '2.0', '3.0') WHERE key = 'e'")
    assert run(["cache", "verify"]) == 2
    shown = capsys.readouterr().out
    assert "1 of 5 answers damaged" in shown
    assert "e (lora[red], numbers): the checksum does not fit" in shown
    assert "--drop" in shown
    assert run(["cache", "verify", "--json"]) == 2
    [damage] = json.loads(capsys.readouterr().out)["damaged"]
    assert (damage["key"], damage["context"]["subject"]) == ("e", "lora[red]")
    assert run(["cache", "verify", "--drop"]) == 0
    assert "removed" in capsys.readouterr().out
    assert left(caches) == set("abcd")
    assert run(["cache", "verify"]) == 0


def test_a_file_that_is_no_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "answers.sqlite").write_text("no database" * 500)
    for command in (["show"], ["verify"], ["prune", "--all", "--yes"]):
        assert run(["cache", *command, "--cache-dir", str(tmp_path)]) == 2
        assert "delete the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "stay"),
    [
        (["--older-than", "30d"], "bce"),
        (["--older-than", "6w"], "abcde"),
        (["--checkpoint", "base"], "de"),
        (["--checkpoint", "lora[red]"], "abc"),
        (["--checkpoint", "AB12CD34"], "abc"),
        (["--checkpoint", "base", "--older-than", "1d"], "bcde"),
        (["--all", "--yes"], ""),
    ],
)
def test_prune_removes_what_is_named(
    caches: Path, given: list[str], stay: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cache", "prune", *given]) == 0
    shown = capsys.readouterr().out
    assert left(caches) == set(stay)
    gone = 5 - len(stay)
    assert ("Nothing to remove." if gone == 0 else f"Removed {gone} answer") in shown


def test_prune_says_what_it_freed(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with AnswerCache(caches / "answers.sqlite") as cache:
        cache.put_many([(f"{n}", Outcome(ScoreAnswer(value=n / 3))) for n in range(4000)], BASE)
    before = sum(path.stat().st_size for path in caches.iterdir())
    assert run(["cache", "prune", "--checkpoint", "base", "--json"]) == 0
    freed = json.loads(capsys.readouterr().out)
    assert freed["answers"] == 4003
    after = sum(path.stat().st_size for path in caches.iterdir())
    assert freed["bytes"] == pytest.approx(before - after, abs=8192)
    assert after < before / 10


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "say what to remove"),
        (["--all", "--older-than", "1d"], "say what to remove"),
        (["--older-than", "30"], "no time span"),
        (["--older-than", "-1d"], "no time span"),
        (["--all"], "--yes"),
        (["--checkpoint", "lorra"], "base, lora[red]"),
        (["--checkpoint", "ab12"], "no answers of a checkpoint"),
    ],
)
def test_what_prune_refuses(caches: Path, given: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "prune", *given]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert left(caches) == set("abcde")


@pytest.mark.parametrize(("said", "stay"), [("y\n", ""), ("n\n", "abcde")])
def test_all_answers_are_removed_only_when_agreed(
    caches: Path, said: str, stay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorascope.cli.cache.sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda *_: said.strip())
    assert run(["cache", "prune", "--all"]) == (0 if said == "y\n" else 130)
    assert left(caches) == set(stay)


@pytest.mark.slow
def test_a_second_comparison_asks_only_what_is_new(
    llama: Any, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other metrics ask nothing, and another adapter nothing of the base; a run without the cache leaves none."""
    monkeypatch.setenv("LORASCOPE_CACHE_DIR", str(tmp_path / "caches"))

    def compare(out: str, metric: str, *more: str, adapted: tuple[Path, ...] = (llama.lora,)) -> dict[str, set[float]]:
        suite = questions.parent / f"{metric}.yaml"
        suite.write_text(
            f"version: 1\ntasks:\n- name: numbers\n  kind: generate\n  data: {questions.name}\n  max_new_tokens: 4\n"
            f"  metrics: [{metric}]\n"
        )
        given = ["compare", str(llama.base), *map(str, adapted), "--suite", str(suite), "--out", str(tmp_path / out)]
        given += ["--device", "cpu", "--no-weights", "--probe", "none", "--quiet"]
        assert run([*given, *more]) == 0
        return stored(tmp_path / "caches")

    compare("unshared", "rougeL", "--no-cache")
    compare("textless", "rougeL", "--no-samples")
    assert not (tmp_path / "caches").exists()
    assert not list(tmp_path.glob("*/answers.sqlite*"))
    first = compare("first", "rougeL")
    assert first.keys() == {"base", "lora"}
    assert compare("second", "exact_match") == first
    third = compare("third", "exact_match", adapted=(llama.lora, llama.full))
    assert third.keys() == {"base", "lora", "full"}
    assert {name: third[name] for name in first} == first
    assert run(["cache", "verify"]) == 0


def stored(folder: Path) -> dict[str, set[float]]:
    """When the answers of each checkpoint were stored."""
    found: dict[str, set[float]] = {}
    if (folder / "answers.sqlite").is_file():
        connection = sqlite3.connect(folder / "answers.sqlite")
        rows = connection.execute("SELECT subject, answers.created FROM answers JOIN contexts ON contexts.id = context")
        for subject, created in rows:
            found.setdefault(subject, set()).add(created)
        connection.close()
    return found
