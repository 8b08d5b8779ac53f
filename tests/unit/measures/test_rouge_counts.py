"""ROUGE's own counting is rouge_score's, whatever the tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from lorascope.measures.rouge import SCORERS, RougeText, lcs_length, read_text, rouge_f1
from lorascope.measures.tokenisation import words

few_words = st.lists(st.sampled_from(["a", "b", "c", "a\n", "b\n", "\n", "d. ", "e5", "!\n"]), max_size=45)
texts = few_words.map(" ".join)
any_script = st.text(st.sampled_from("aB3 .\n猫犬がぎé\u0301Σς한ไ่"), max_size=30)
often = settings(max_examples=150, deadline=None, database=None, derandomize=True)


class Words:
    def tokenize(self, text: str) -> list[str]:
        return words(text)


def same_as(scorer: RougeScorer, reference: str, answer: str) -> None:
    direct = scorer.score(reference, answer)
    one, other = read_text(reference, words), read_text(answer, words)
    for name in SCORERS:
        assert rouge_f1(name, one, other) == pytest.approx(direct[name].fmeasure, abs=1e-12), name


@often
@given(texts, texts)
def test_random_lines_of_few_words(reference: str, answer: str) -> None:
    same_as(RougeScorer(list(SCORERS)), reference, answer)


@often
@given(any_script, any_script)
def test_random_lines_of_any_script(reference: str, answer: str) -> None:
    same_as(RougeScorer(list(SCORERS), tokenizer=Words()), reference, answer)


@often
@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_ascii_words_are_rouge_scores(text: str) -> None:
    assert words(text) == tokenize(text, None)


@often
@given(st.lists(st.integers(0, 4).map(str), max_size=90), st.lists(st.integers(0, 4).map(str), max_size=90))
def test_longest_common_subsequence(one: list[str], other: list[str]) -> None:
    table = [[0] * (len(other) + 1)]
    for mine in one:
        row = [0]
        for place, theirs in enumerate(other):
            row.append(table[-1][place] + 1 if mine == theirs else max(row[place], table[-1][place + 1]))
        table.append(row)
    assert lcs_length(one, other) == lcs_length(other, one) == table[-1][-1]


def test_texts_of_more_than_a_machine_word() -> None:
    reference = "\n".join(" ".join(f"w{(7 * i * i + line) % 40}" for i in range(70)) for line in range(3))
    answer = "\n".join(" ".join(f"w{(5 * i * i + 3 * line) % 40}" for i in range(80)) for line in range(4))
    same_as(RougeScorer(list(SCORERS)), reference, answer)


def test_nothing_is_zero() -> None:
    empty, full = RougeText([]), RougeText([["a"]])
    for name in SCORERS:
        assert rouge_f1(name, full, empty) == rouge_f1(name, empty, full) == rouge_f1(name, empty, empty) == 0.0
