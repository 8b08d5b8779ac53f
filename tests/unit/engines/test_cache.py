from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from lorascope.engines.base import Outcome
from lorascope.engines.cache import AnswerCache
from lorascope.errors import DataError, OutputError
from lorascope.schema.items import (
    ChoiceAnswer,
    GenerateAnswer,
    LabelsAnswer,
    LikelihoodAnswer,
    ScoreAnswer,
    TokensAnswer,
)

OUTCOMES = [
    Outcome(GenerateAnswer(text="巴黎 “quoted”\n", truncated=True, gold_logprob=None), 3),
    Outcome(GenerateAnswer(text="", truncated=False, gold_logprob=-1.25)),
    Outcome(LabelsAnswer(probabilities=(0.1, 0.9))),
    Outcome(ScoreAnswer(value=1e-17)),
    Outcome(TokensAnswer(tags=("O", "B-PER"), cut=2), 2),
    Outcome(ChoiceAnswer(logprobs=(-0.1, -2.0 / 3))),
    Outcome(LikelihoodAnswer(logprob=-3.5, tokens=7, bytes=20)),
]


def test_every_kind_of_answer_comes_back_exactly(tmp_path: Path) -> None:
    keys = [f"key{index}" for index in range(len(OUTCOMES))]
    with AnswerCache(tmp_path / "new" / "answers.sqlite") as cache:
        cache.put_many(zip(keys, OUTCOMES, strict=True))
    with AnswerCache(tmp_path / "new" / "answers.sqlite") as cache:
        assert cache.get_many([*keys, "unknown"]) == dict(zip(keys, OUTCOMES, strict=True))
        assert len(cache) == len(OUTCOMES)


def test_many_keys_and_replaced_answers(tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "a.sqlite") as cache:
        cache.put_many((str(number), Outcome(ScoreAnswer(value=number))) for number in range(1201))
        cache.put_many([("7", Outcome(ScoreAnswer(value=-7.0)))])
        found = cache.get_many([str(number) for number in range(1201)] + ["7", "7"])
        assert len(found) == 1201
        assert found["7"].answer == ScoreAnswer(value=-7.0)


def test_what_is_stored_is_there_for_a_second_process_at_once(tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "a.sqlite") as first, AnswerCache(tmp_path / "a.sqlite") as second:
        first.put_many([("k", OUTCOMES[0])])
        assert second.get_many(["k"]) == {"k": OUTCOMES[0]}


def test_a_file_that_is_no_cache_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(DataError, match="damaged") as caught:
        AnswerCache(tmp_path / "a.sqlite")
    assert "delete" in (caught.value.remedy or "")


@pytest.mark.parametrize("text", ["{", '{"type": "Unknown", "answer": {}, "cut": 0}', '{"type": "ScoreAnswer"}', "3"])
def test_a_damaged_answer_is_refused(tmp_path: Path, text: str) -> None:
    AnswerCache(tmp_path / "a.sqlite").close()
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("INSERT INTO answers VALUES ('k', ?)", [text])
    connection.close()
    with AnswerCache(tmp_path / "a.sqlite") as cache, pytest.raises(DataError, match="damaged"):
        cache.get_many(["k"])


def test_a_folder_in_place_of_the_file_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        AnswerCache(tmp_path)
