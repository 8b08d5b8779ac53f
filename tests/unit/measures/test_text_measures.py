"""The quiet lies of text metrics, each refused or told apart."""

from __future__ import annotations

import pytest

from lorascope.errors import ConfigError, DataError
from lorascope.measures.bleu import bleu_tokenizer
from lorascope.measures.core import Scored
from lorascope.measures.text import score_text
from lorascope.measures.tokenisation import answer_words, spaced_words, words

ROUGE = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def score(metric: str, prediction: str, *references: str) -> float | None:
    return score_text([prediction], [list(references)], [metric])[metric].value


def test_references_as_flat_strings_are_refused() -> None:
    with pytest.raises(DataError, match="flat strings"):
        score_text(["a b"], ["a b"], ["bleu"])


def test_transposed_references_are_refused() -> None:
    answers = ["a b c d e", "f g h i j", "k l m n o"]
    with pytest.raises(DataError, match="transposed"):
        score_text(answers, [answers], ["bleu"])


def test_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="2 predictions, 1 references"):
        score_text(["a", "b"], [["a"]], ["exact_match"])


def test_empty_reference_list_is_refused_with_its_item() -> None:
    with pytest.raises(DataError, match="item 1"):
        score_text(["a", "b"], [["a"], []], ["exact_match"])
    with pytest.raises(DataError, match="item 0"):
        score_text(["a"], [None], ["exact_match"])  # type: ignore[list-item]


def test_references_without_any_token_are_refused() -> None:
    with pytest.raises(DataError, match="single token"):
        score_text(["...", "hello"], [["!!!"], ["?"]], ["rougeL"])


def test_one_reference_without_tokens_is_left_out_and_counted() -> None:
    scored = score_text(["hello there", "?!"], [["hello there"], ["?!"]], ["rougeL"])["rougeL"]
    assert scored.value == 1.0
    assert "left-out:1" in scored.signature


def test_a_bare_string_is_no_list_of_predictions() -> None:
    with pytest.raises(DataError, match="list of strings"):
        score_text("abc", [["a"], ["b"], ["c"]], ["exact_match"])


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="rogue1"):
        score_text(["a"], [["a"]], ["rogue1"])


def test_no_metrics_is_no_scores() -> None:
    assert score_text(["a"], [["a"]], []) == {}


@pytest.mark.parametrize("metric", [*ROUGE, "bleu", "chrf", "bleu_nltk", "token_f1"])
def test_identical_chinese_is_perfect(metric: str) -> None:
    best = 100.0 if metric in {"bleu", "chrf"} else 1.0
    assert score(metric, "今天天气很好", "今天天气很好") == pytest.approx(best)


def test_chinese_around_ascii_is_counted() -> None:
    """rouge_score alone sees only ``python 3`` against ``java 3`` and says 0.5; five of six tokens agree."""
    value = score("rouge1", "使用Python 3编程", "使用Java 3编程")
    assert value == pytest.approx(5 / 6)


def test_accents_are_letters() -> None:
    assert score("rouge1", "café", "caf") == 0.0
    assert score("rouge1", "café", "cafe\u0301") == 1.0


def test_an_empty_answer_scores_zero_not_undefined() -> None:
    for metric in [*ROUGE, "bleu", "chrf", "bleu_nltk", "sentence_bleu_nltk", "exact_match", "token_f1"]:
        assert score(metric, "", "the gold answer here") == 0.0, metric


def test_rouge_lsum_needs_lines() -> None:
    one_line = score("rougeLsum", "first part. second part.", "second part. first part.")
    lines = score("rougeLsum", "first part.\nsecond part.", "second part.\nfirst part.")
    assert (one_line, lines) == (0.5, 1.0)


def test_chinese_bleu_takes_the_chinese_tokenizer() -> None:
    scored = score_text(["今天天气很好吗"], [["今天天气很好"]], ["bleu"])["bleu"]
    assert scored.value is not None
    assert scored.value > 50
    assert "tok:zh" in scored.signature


@pytest.mark.parametrize(
    ("reference", "tokenizer"),
    [
        ("plain text", "13a"),
        ("이것은 한국어", "13a"),
        ("汉字 in text", "zh"),
        ("これはテスト", "char"),
        ("ภาษาไทย", "char"),
    ],
)
def test_bleu_tokenizer_follows_the_references(reference: str, tokenizer: str) -> None:
    assert bleu_tokenizer([["ascii"], [reference]]) == tokenizer


def test_corpus_bleu_is_not_the_mean_of_sentences() -> None:
    scored = score_text(
        ["the cat sat on the mat", "dogs run"], [["the cat sat on a mat"], ["dogs run fast today"]], ["bleu"]
    )["bleu"]
    assert scored.value is not None
    assert abs(scored.value - scored.item_values().mean()) > 5


def test_short_exact_answer_under_sentence_bleu() -> None:
    """nltk's smoothing gives a right three-word answer 0.56; the corpus form without smoothing next to nothing."""
    assert score("sentence_bleu_nltk", "a b c", "a b c") == pytest.approx(0.5623, abs=1e-4)
    assert score("bleu_nltk", "a b c", "a b c") == pytest.approx(0.0, abs=1e-70)
    assert score("exact_match", "a b c", "a b c") == 1.0


def test_best_reference_counts_once() -> None:
    """A list of targets is one item: 0.6 stays 0.6 and does not become 1.0."""
    assert score("token_f1", "red green blue", "red green", "no match") == pytest.approx(0.8)
    assert score("rouge1", "red green blue", "no match", "red green") == pytest.approx(0.8)


def test_exact_match_ignores_case_and_white_space_alone() -> None:
    assert score("exact_match", "  New\n York ", "new york") == 1.0
    assert score("exact_match", "New York.", "new york") == 0.0


def test_token_f1_ignores_articles_and_punctuation() -> None:
    assert score("token_f1", "The  Eiffel tower!", "an eiffel tower") == 1.0
    assert score("token_f1", "the", "a") == 1.0  # both empty
    assert score("token_f1", "the", "eiffel") == 0.0


def test_token_f1_reads_chinese_by_character() -> None:
    assert score("token_f1", "北京大学", "北京") == pytest.approx(2 * 2 / 6)


def test_signatures_pin_the_computation() -> None:
    scored = score_text(["a b", "c"], [["a b"], ["c", "d"]], ["rougeL", "bleu", "sentence_bleu_nltk"])
    assert "refs:1-2" in scored["rougeL"].signature
    assert "rouge_score-0.1.2" in scored["rougeL"].signature
    assert "smooth:exp" in scored["bleu"].signature
    assert "version:" in scored["bleu"].signature
    assert "smooth:method1" in scored["sentence_bleu_nltk"].signature


def test_jieba_words_change_scores_and_signature() -> None:
    plain, by_words = (
        score_text(["我爱北京天安门"], [["我爱上海天安门"]], ["rouge1"], chinese_words=choice)["rouge1"]
        for choice in (False, True)
    )
    assert plain.value == pytest.approx(5 / 7)
    assert by_words.value == pytest.approx(3 / 4)
    assert ("cjk=char" in plain.signature, "cjk=jieba" in by_words.signature) == (True, True)


def test_words_of_many_scripts() -> None:
    assert words("It's 2 o'clock") == ["it", "s", "2", "o", "clock"]
    assert words("It’s 2 o'clock") == ["it", "s", "2", "o", "clock"]
    assert words("Привет, мир_1") == ["привет", "мир", "1"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words("Ａ猫b犬。") == ["ａ", "猫", "b", "犬"]
    assert words("\u0301é") == ["é"]
    assert words("한국어 단어") == ["한국어", "단어"]
    assert words("x 北京大学 y", chinese_words=True) == ["x", "北京大学", "y"]


def test_spaced_words_keep_english_as_split_does() -> None:
    assert spaced_words("It's, fine – Café!") == ["It's,", "fine", "–", "Café!"]
    assert spaced_words("用Python写 代码。") == ["用", "Python", "写", "代", "码", "。"]
    assert spaced_words("用Python北京大学", chinese_words=True) == ["用", "Python", "北京大学"]


def test_answer_words_drop_full_width_punctuation() -> None:
    assert answer_words("“北京”，The end。") == ["北", "京", "end"]
    assert answer_words("It's an up-to-date answer") == ["its", "uptodate", "answer"]


def test_statistics_are_not_scored_again() -> None:
    scored = score_text(["a b c d", "x"], [["a b c d"], ["y"]], ["bleu"])["bleu"]
    assert isinstance(scored, Scored)
    assert scored.statistics.shape == (2, 10)
    assert scored.subset([0]).value == pytest.approx(100.0)
