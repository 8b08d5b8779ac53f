from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorascope.engines.base import Outcome
from lorascope.engines.cache import AnswerCache, Context
from lorascope.errors import DataError, OutputError
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    DivergenceAnswer,
    GenerateAnswer,
    LabelsAnswer,
    LikelihoodAnswer,
    ScoreAnswer,
    TokensAnswer,
)

OUTCOMES = [
    Outcome(GenerateAnswer(text="巴黎 “quoted”\n", truncated=True, gold_logprob=None), 3),
    Outcome(GenerateAnswer(text="", truncated=False, gold_logprob=-1.25, stop="\n\n", others=("a", ""))),
    Outcome(LabelsAnswer(probabilities=(0.1, 0.9))),
    Outcome(ScoreAnswer(value=1e-17)),
    Outcome(TokensAnswer(tags=("O", "B-PER"), cut=2), 2),
    Outcome(ChoiceAnswer(logprobs=(-0.1, -2.0 / 3))),
    Outcome(LikelihoodAnswer(logprob=-3.5, tokens=7, bytes=20)),
    Outcome(DivergenceAnswer(kl=0.1 + 0.2, tokens=9)),
]
LORA = Context(
    engine="transformers",
    subject="lora",
    content_hash="a" * 64,
    base_hash="b" * 64,
    task="numbers",
    kind="generate",
    dtype="auto",
    device="cpu",
    version="1",
)
BASE = replace(LORA, subject="base", content_hash="b" * 64, base_hash=None)


def scores(*names: str, value: float = 1.0) -> list[tuple[str, Outcome]]:
    return [(name, Outcome(ScoreAnswer(value=value))) for name in names]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def alter(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the cache's back."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_every_kind_of_answer_comes_back_exactly(tmp_path: Path) -> None:
    assert {type(outcome.answer) for outcome in OUTCOMES} == set(Answer.__args__)
    keys = [f"key{index}" for index in range(len(OUTCOMES))]
    with AnswerCache(tmp_path / "new" / "answers.sqlite") as cache:
        cache.put_many(zip(keys, OUTCOMES, strict=True))
    with AnswerCache(tmp_path / "new" / "answers.sqlite") as cache:
        assert cache.get_many([*keys, "unknown"]) == dict(zip(keys, OUTCOMES, strict=True))
        assert len(cache) == len(OUTCOMES)
        assert cache.verify() == []


def test_many_keys_and_replaced_answers(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put_many((str(number), Outcome(ScoreAnswer(value=number))) for number in range(1201))
        cache.put_many(scores("7", value=-7.0))
        cache.put_many([])
        found = cache.get_many([str(number) for number in range(1201)] + ["7", "7"])
        assert len(found) == 1201
        assert found["7"].answer == ScoreAnswer(value=-7.0)


def test_all_answers_of_a_batch_are_kept_or_none(path: Path) -> None:
    with AnswerCache(path) as cache:
        with pytest.raises(ValueError, match="JSON"):
            cache.put_many([*scores("a"), ("b", Outcome(ScoreAnswer(value=float("nan"))))])
        assert len(cache) == 0
        cache.put_many(scores("c"))
        assert len(cache) == 1


# --- several at once ---


def test_what_is_stored_is_there_for_a_second_process_at_once(path: Path) -> None:
    with AnswerCache(path) as first, AnswerCache(path) as second:
        first.put_many([("k", OUTCOMES[0])])
        assert second.get_many(["k"]) == {"k": OUTCOMES[0]}


def test_many_may_open_and_write_a_new_file_at_the_same_moment(path: Path) -> None:
    start, failures = threading.Barrier(6), []

    def write(worker: int) -> None:
        try:
            start.wait()
            with AnswerCache(path) as cache:
                for number in range(20):
                    cache.put_many(scores(f"{worker}:{number}", "shared", value=worker), LORA)
        except Exception as error:  # a thread's exception would be lost otherwise
            failures.append(error)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with AnswerCache(path) as cache:
        assert len(cache) == 6 * 20 + 1
        assert cache.verify() == []
        assert [holding.answers for holding in cache.holdings()] == [121]


_WRITER = """
import sys
from pathlib import Path
from lorascope.engines.base import Outcome
from lorascope.engines.cache import AnswerCache
from lorascope.schema.items import ScoreAnswer
with AnswerCache(Path(sys.argv[1])) as cache:
    for number in range(40):
        cache.put_many([(f"{sys.argv[2]}:{number}", Outcome(ScoreAnswer(value=float(number))))])
"""


def test_two_processes_write_the_same_file(path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), name]) for name in ("a", "b")]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    with AnswerCache(path) as cache:
        assert cache.get_many([f"{name}:39" for name in "ab"]).keys() == {"a:39", "b:39"}
        assert len(cache) == 80


def test_a_file_that_another_keeps_locked_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorascope.engines.cache._PATIENCE_SECONDS", 0.05)
    with AnswerCache(path) as cache:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutputError, match="locked") as caught:
            cache.put_many(scores("a"))
        assert "another process" in (caught.value.remedy or "")
        other.execute("ROLLBACK")
        other.close()
        cache.put_many(scores("a"))
        assert len(cache) == 1


# --- what stands beside the answers ---


def test_holdings_say_what_there_is(path: Path) -> None:
    before = time.time()
    with AnswerCache(path) as cache:
        assert cache.holdings() == []
        cache.put_many(scores("a", "b"), BASE)
        cache.put_many(scores("c"), LORA)
        cache.put_many(scores("d"), LORA)
        cache.put_many(scores("e"))
        found = {holding.context: holding for holding in cache.holdings()}
    assert {context: holding.answers for context, holding in found.items()} == {BASE: 2, LORA: 2, None: 1}
    one = len(json.dumps({"type": "ScoreAnswer", "answer": {"value": 1.0}, "cut": 0}))
    assert found[BASE].bytes == 2 * one
    assert before <= (found[LORA].oldest or 0) <= (found[LORA].newest or 0) <= time.time()


def test_an_answer_is_found_whatever_context_it_was_noted_with(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put_many(scores("a"), BASE)
        cache.put_many(scores("a", value=2.0), LORA)
        assert cache.get_many(["a"])["a"].answer == ScoreAnswer(value=2.0)
        assert [(holding.context, holding.answers) for holding in cache.holdings()] == [(LORA, 1)]


# --- damage ---

DAMAGE = {
    "another value": ("UPDATE answers SET outcome = replace(outcome, '1.0', '7.0') WHERE key = 'a'", ()),
    "no utf-8": ("UPDATE answers SET outcome = CAST(x'7bff' AS TEXT) WHERE key = 'a'", ()),
    "no text": ("UPDATE answers SET outcome = x'00' WHERE key = 'a'", ()),
    "another's answer": ("UPDATE answers SET checksum = (SELECT checksum FROM answers WHERE key = 'b'), "
                         "outcome = (SELECT outcome FROM answers WHERE key = 'b') WHERE key = 'a'", ()),
    "no checksum": ("UPDATE answers SET checksum = '' WHERE key = 'a'", ()),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_answer_is_found_out_not_given_out_and_replaced(path: Path, name: str) -> None:
    with AnswerCache(path) as cache:
        cache.put_many([*scores("a"), *scores("b", value=3.0)], LORA)
    alter(path, DAMAGE[name][0])
    with AnswerCache(path) as cache:
        assert cache.get_many(["a", "b"]).keys() == {"b"}
        assert cache.damaged == 1
        [damage] = cache.verify()
        assert (damage.key, damage.context) == ("a", LORA)
        assert "checksum" in damage.reason
        cache.put_many(scores("a"), LORA)
        assert cache.verify() == []
        assert cache.get_many(["a"])["a"].answer == ScoreAnswer(value=1.0)


@pytest.mark.parametrize("text", ["{", '{"type": "Unknown", "answer": {}, "cut": 0}', '{"type": "ScoreAnswer"}', "3"])
def test_an_answer_that_cannot_be_decoded_is_damage(path: Path, text: str) -> None:
    from lorascope.engines.cache_schema import checksum

    AnswerCache(path).close()
    alter(path, "INSERT INTO answers VALUES ('k', ?, ?, NULL, NULL)", text, checksum("k", text))
    with AnswerCache(path) as cache:
        assert cache.get_many(["k"]) == {}
        [damage] = cache.verify()
        assert "decoded" in damage.reason
        assert cache.drop([damage.key]) == 1
        assert (cache.verify(), len(cache)) == ([], 0)


def test_a_file_whose_pages_are_damaged_is_told(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put_many([(f"{number}" * 10, OUTCOMES[0]) for number in range(500)])
        cache.shrink()
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 12] = b"\xa5" * 4096 * 9
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged") as caught, AnswerCache(path) as cache:
        cache.verify()
    assert caught.value.where == str(path)
    assert "delete" in (caught.value.remedy or "")


def test_a_file_that_is_no_database_is_refused_with_a_remedy(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(DataError, match="damaged") as caught:
        AnswerCache(path)
    assert "delete" in (caught.value.remedy or "")


# --- other formats ---


def test_an_older_file_is_migrated_with_its_answers(path: Path) -> None:
    stored = json.dumps({"type": "ScoreAnswer", "answer": {"value": 2.5}, "cut": 1})
    alter(path, "CREATE TABLE answers (key TEXT PRIMARY KEY, outcome TEXT NOT NULL) WITHOUT ROWID")
    alter(path, "INSERT INTO answers VALUES ('k', ?), ('l', '{')", stored)
    for _ in range(2):
        with AnswerCache(path) as cache:
            assert cache.get_many(["k", "l"]) == {"k": Outcome(ScoreAnswer(value=2.5), 1)}
            [holding] = cache.holdings()
            assert (holding.context, holding.answers, holding.oldest, holding.newest) == (None, 2, None, None)
            assert [damage.key for damage in cache.verify()] == ["l"]


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("PRAGMA user_version = 99", "format 99"),
        ("CREATE TABLE bookmarks (url TEXT)", "another program"),
        ("CREATE TABLE answers (question TEXT)", "another program"),
    ],
)
def test_what_another_program_or_a_newer_one_wrote_is_left_alone(path: Path, statement: str, problem: str) -> None:
    alter(path, statement)
    before = path.read_bytes()
    with pytest.raises(DataError, match=problem) as caught:
        AnswerCache(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert path.read_bytes() == before


def test_a_folder_in_place_of_the_file_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        AnswerCache(tmp_path)


def test_a_file_that_cannot_be_written_is_found_out_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened read-only: as file permissions do it, which bind no superuser."""
    AnswerCache(path).close()
    connect = sqlite3.connect

    def read_only(file: Path, **more: Any) -> sqlite3.Connection:
        return connect(f"file:{file}?mode=ro", uri=True, **more)

    monkeypatch.setattr("lorascope.engines.cache.sqlite3.connect", read_only)
    with pytest.raises(OutputError, match="readonly") as caught:
        AnswerCache(path)
    assert caught.value.remedy


def test_a_full_disk_is_told_and_what_was_there_stays(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put_many(scores("a"))
        cache._read("PRAGMA max_page_count = 8")
        with pytest.raises(OutputError, match="full") as caught:
            cache.put_many([(str(number), OUTCOMES[0]) for number in range(2000)])
        assert "free some disk space" in (caught.value.remedy or "")
        assert len(cache) == 1


# --- pruning ---


def test_pruning_by_age_and_by_checkpoint(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put_many(scores("a", "b"), BASE)
        cache.put_many(scores("c", "d"), LORA)
        cache.put_many(scores("e"))
    alter(path, "UPDATE answers SET created = 1000.0 WHERE key IN ('a', 'c')")
    with AnswerCache(path) as cache:
        assert cache.prune(before=999.0) == 0
        assert cache.prune(before=1001.0, contents=[LORA.content_hash]) == 1
        assert cache.prune(before=1001.0) == 1
        assert {holding.context for holding in cache.holdings()} == {BASE, LORA, None}
        assert cache.prune(contents=[BASE.content_hash]) == 1
        assert {holding.context for holding in cache.holdings()} == {LORA, None}
        assert cache._read("SELECT COUNT(*) FROM contexts") == [(1,)]
        assert cache.prune() == 2
        assert cache._read("SELECT COUNT(*) FROM contexts") == [(0,)]
        cache.put_many(scores("a"), BASE)
        assert [holding.context for holding in cache.holdings()] == [BASE]


def test_answers_of_an_unknown_time_count_as_old_and_room_is_given_back(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put_many([(str(number), OUTCOMES[0]) for number in range(3000)])
        alter(path, "UPDATE answers SET created = NULL")
        cache.shrink()
        before = path.stat().st_size
        assert cache.prune(before=0.0) == 3000
        cache.shrink()
        assert path.stat().st_size < before / 10
