"""What other libraries answer in silence when called wrongly, pinned; and that lorascope refuses, or is right."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from sklearn.metrics import f1_score

from lorascope.errors import DataError
from lorascope.measures.labels import per_label, score_labels
from lorascope.measures.statistics import paired
from lorascope.measures.text import score_text

SAID = "the quick brown fox jumped over the lazy dog"
WANTED = "the quick brown fox jumps over the lazy dog"


def ours(name: str, prediction: str, *references: str) -> float:
    value = score_text([prediction], [list(references)], [name])[name].value
    assert value is not None
    return value


def theirs(name: str, prediction: str, reference: str) -> float:
    return float(RougeScorer([name]).score(reference, prediction)[name].fmeasure)


def test_nltk_takes_any_nesting() -> None:
    said, wanted = SAID.split(), WANTED.split()
    assert sentence_bleu([wanted], said) == pytest.approx(0.597, abs=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert sentence_bleu(wanted, said) == 0  # every word read as a reference of single characters
    assert sentence_bleu([WANTED], SAID) == pytest.approx(0.916, abs=1e-3)  # a BLEU of characters
    with pytest.raises(DataError, match="flat strings"):
        score_text([SAID], [WANTED], ["bleu_nltk"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="predictions must be a list of strings"):
        score_text(SAID, [[WANTED]], ["bleu_nltk"])
    assert ours("bleu_nltk", SAID, WANTED) == pytest.approx(sentence_bleu([wanted], said), abs=1e-12)


def test_nltk_gives_short_exact_answers_next_to_nothing() -> None:
    short = ["on", "the", "mat"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert 0 < sentence_bleu([short], short) < 1e-70
    smoothed = sentence_bleu([short], short, smoothing_function=SmoothingFunction().method1)
    assert smoothed == pytest.approx(0.562, abs=1e-3)
    assert ours("sentence_bleu_nltk", "on the mat", "on the mat") == pytest.approx(smoothed, abs=1e-12)
    assert ours("exact_match", "on the mat", "on the mat") == ours("rougeL", "on the mat", "on the mat") == 1.0


def test_corpus_bleu_is_not_a_mean() -> None:
    said = [SAID, "dogs run fast"]
    wanted = [[WANTED], ["a dog runs fast there"]]
    lists = [[text.split() for text in refs] for refs in wanted]
    whole = corpus_bleu(lists, [text.split() for text in said])
    smoothing = SmoothingFunction().method1
    mean = np.mean(
        [sentence_bleu(r, h.split(), smoothing_function=smoothing) for r, h in zip(lists, said, strict=True)]
    )
    assert whole - mean > 0.09
    scored = score_text(said, wanted, ["bleu_nltk", "sentence_bleu_nltk"])
    assert scored["bleu_nltk"].value == pytest.approx(whole, abs=1e-12)
    assert scored["sentence_bleu_nltk"].value == pytest.approx(mean, abs=1e-12)
    assert scored["bleu_nltk"].signature != scored["sentence_bleu_nltk"].signature


def test_sacrebleu_takes_transposed_references() -> None:
    said = ["the cat sat on the mat", "dogs run fast in the park", "a bird sings at the roof"]
    wanted = ["the cat sat on a mat", "dogs run quickly in the park", "a bird sings on the roof"]
    right = sacrebleu.corpus_bleu(said, [wanted]).score
    transposed = sacrebleu.corpus_bleu(said, [[said[0]], [wanted[0]]]).score
    assert right < 50 < 99.9 < transposed  # only the first item is compared, the others are dropped
    with pytest.raises(DataError, match="transposed"):
        score_text(said, [wanted], ["bleu"])
    assert score_text(said, [[text] for text in wanted], ["bleu"])["bleu"].value == pytest.approx(right, abs=1e-9)


def test_sacrebleu_reads_chinese_as_one_word() -> None:
    said, wanted = "今天天气很好，我们去公园散步吧。", "今天天气不错，我们去公园散步。"
    found = {
        tokenizer: sacrebleu.corpus_bleu([said], [[wanted]], tokenize=tokenizer).score
        for tokenizer in ("13a", "intl", "zh", "char")
    }
    assert found["13a"] == 0.0
    assert found["intl"] == pytest.approx(19.0, abs=0.1)
    assert found["zh"] == found["char"] == pytest.approx(61.5, abs=0.1)
    assert ours("bleu", said, wanted) == pytest.approx(found["zh"], abs=1e-9)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_score_sees_no_chinese(name: str) -> None:
    assert theirs(name, "今天天气很好", "今天天气很好") == 0.0
    assert ours(name, "今天天气很好", "今天天气很好") == 1.0


def test_rouge_score_counts_the_ascii_of_mixed_text_alone() -> None:
    assert theirs("rouge1", "使用Python 3编程", "使用Java 3编程") == 0.5
    assert ours("rouge1", "使用Python 3编程", "使用Java 3编程") == pytest.approx(5 / 6)


def test_rouge_score_drops_accented_letters() -> None:
    assert theirs("rouge1", "café", "caf") == 1.0
    assert ours("rouge1", "café", "caf") == 0.0
    assert ours("rouge1", "café", "cafe\u0301") == 1.0


def test_rouge_lsum_reads_lines_as_sentences() -> None:
    """No library says so: without line breaks ROUGE-Lsum is ROUGE-L. The signature names the rule."""
    said, wanted = "first part. second part.", "second part. first part."
    for text, value in ((wanted, 0.5), (wanted.replace(". ", ".\n"), 1.0)):
        answer = said.replace(". ", ".\n") if "\n" in text else said
        assert theirs("rougeLsum", answer, text) == ours("rougeLsum", answer, text) == value
    assert "sentences:newline" in score_text([said], [[wanted]], ["rougeLsum"])["rougeLsum"].signature


def test_macro_f1_of_labels_that_never_occur() -> None:
    truth = np.array([[1, 0, 0], [1, 0, 0]])
    found = [f1_score(truth, truth, average="macro", zero_division=rule) for rule in (0, 1, np.nan)]
    assert found == [pytest.approx(1 / 3), 1.0, 1.0]
    given = {"multi": True, "label_names": ["a", "b", "c"]}
    scored = score_labels(truth.astype(float), truth.astype(bool), **given)["f1_macro"]
    assert scored.value == 1.0
    rows = per_label(truth.astype(float), truth.astype(bool), **given)
    assert [row.support for row in rows] == [2, 0, 0]
    wrong = score_labels(np.array([[1.0, 0.9, 0], [1, 0, 0]]), truth.astype(bool), **given)["f1_micro"]
    assert wrong.value == pytest.approx(0.8)  # what is predicted wrongly for such labels shows here


def test_sacrebleu_calls_a_dead_adapter_significant() -> None:
    said = ["the cat sat on the mat today", "dogs run in the big park", "a bird sings on the roof"] * 10
    wanted = ["the cat sat on a mat today", "dogs run in the park", "a bird sings at the roof"] * 10
    tests = PairedTest(
        [("base", said), ("adapted", list(said))], {"BLEU": BLEU()}, [wanted], test_type="ar", n_samples=1000
    )
    assert tests()[1]["BLEU"][1].p_value < 0.001
    scored = score_text(said, [[text] for text in wanted], ["bleu"])["bleu"]
    found = paired(scored, scored, margin=2.0, seed=0, resamples=1000, same_outputs=True)
    assert (found.p_value, found.low, found.high, found.verdict) == (1.0, 0.0, 0.0, "equivalent")


def test_lm_eval_rounds_a_score_up_where_there_are_two_targets(tmp_path: Path) -> None:
    from lm_eval.api.task import ConfigurableTask

    def token_f1(predictions: list[str], references: list[str]) -> float:
        said, wanted = predictions[0].split(), references[0].split()
        return 2 * (Counter(said) & Counter(wanted)).total() / (len(said) + len(wanted))

    answers = ["red green", "no match"]
    (tmp_path / "items.jsonl").write_text(json.dumps({"question": "?", "answers": answers}), encoding="utf-8")
    task = ConfigurableTask(
        config={
            "task": "colours",
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(tmp_path / "items.jsonl")}, "cache_dir": str(tmp_path / "cache")
            },
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "question",
            "doc_to_target": "answers",
            "generation_kwargs": {"until": ["\n"]},
            "metric_list": [{"metric": token_f1, "aggregation": "mean", "higher_is_better": True}],
        }
    )  # fmt: skip
    (doc,) = task.test_docs()
    assert token_f1(["red green blue"], ["red green"]) == 0.8
    assert task.process_results(doc, ["red green blue"]) == {"token_f1": 1.0}
    assert ours("token_f1", "red green blue", *answers) == pytest.approx(0.8)
