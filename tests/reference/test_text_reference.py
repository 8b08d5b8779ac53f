"""Text measures equal the libraries called directly, on English and on Chinese."""

from __future__ import annotations

import json
import random
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pytest
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from lorascope.measures.core import Scored
from lorascope.measures.text import score_text
from lorascope.measures.tokenisation import spaced_words

LINE = "The cat, sat on a mat; don't run! It's 42 degrees (or so) and small things matter a lot ."
ENGLISH = LINE.split()
CHINESE = [*"今天天气很好我们去公园散步然后回家做饭看书，。", "Python", "3", "编程"]


def _corpus(vocabulary: list[str], joiner: str, seed: int, references: int = 1) -> tuple[list[str], list[list[str]]]:
    random = np.random.default_rng(seed)
    answers, accepted = [], []
    for _ in range(40):
        truth = random.choice(vocabulary, size=random.integers(1, 18)).tolist()
        others = [random.choice(vocabulary, size=random.integers(1, 18)).tolist() for _ in range(references - 1)]
        changed = [w if random.random() < 0.7 else str(random.choice(vocabulary)) for w in truth]
        answers.append(joiner.join(changed[: random.integers(0, len(changed) + 1)]))
        accepted.append([joiner.join(words) for words in [truth, *others]])
    return answers, accepted


def _passages(language: str, seed: int) -> tuple[list[str], list[str]]:
    """Real text: the built-in passages, one sentence a line, against themselves with words lost, doubled and moved."""
    lines = (files("lorascope.data") / "general_text" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    source = random.Random(seed)
    answers, truths = [], []
    for line in lines:
        truth = re.sub(r"([.。?!]) ?", r"\1\n", json.loads(line)["text"])
        units = re.split("( )", truth) if language == "en" else list(truth)
        for _ in range(len(units) // 12):
            one, other = source.randrange(len(units)), source.randrange(len(units))
            units[one], units[other] = units[other], units[one]
        answers.append("".join(unit * source.choice((0, 1, 1, 1, 1, 1, 1, 2)) for unit in units))
        truths.append(truth)
    return answers, truths


def test_every_metric_on_real_english_is_its_library() -> None:
    answers, truths = _passages("en", 1)
    second = truths[1:] + truths[:1]
    accepted = [list(pair) for pair in zip(truths, second, strict=True)]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scored = score_text(answers, accepted, [*names, "bleu", "chrf", "bleu_nltk", "sentence_bleu_nltk"])
    scorer = RougeScorer(names)
    direct = [scorer.score_multi(refs, answer) for refs, answer in zip(accepted, answers, strict=True)]
    for name in names:
        np.testing.assert_allclose(scored[name].item_values(), [row[name].fmeasure for row in direct], atol=1e-12)
    _same_bleu(scored, answers, accepted, "13a", str.split)


def test_every_metric_on_real_chinese_is_its_library() -> None:
    answers, truths = _passages("zh", 2)
    accepted = [[truth] for truth in truths]
    scored = score_text(answers, accepted, ["bleu", "chrf", "bleu_nltk", "sentence_bleu_nltk"])
    _same_bleu(scored, answers, accepted, "zh", spaced_words)


def _same_bleu(
    scored: dict[str, Scored],
    answers: list[str],
    accepted: list[list[str]],
    tokenizer: str,
    split: Callable[[str], list[str]],
) -> None:
    streams = [list(stream) for stream in zip(*accepted, strict=True)]
    hypotheses, lists = [split(answer) for answer in answers], [[split(text) for text in refs] for refs in accepted]
    smoothing = SmoothingFunction().method1
    expected = {
        "bleu": sacrebleu.corpus_bleu(answers, streams, tokenize=tokenizer).score,
        "chrf": sacrebleu.corpus_chrf(answers, streams).score,
        "bleu_nltk": corpus_bleu(lists, hypotheses),
        "sentence_bleu_nltk": np.mean(
            [
                sentence_bleu(refs, answer, smoothing_function=smoothing)
                for refs, answer in zip(lists, hypotheses, strict=True)
            ]
        ),
    }
    for name, value in expected.items():
        assert scored[name].value == pytest.approx(value, abs=1e-9), name
        assert value > 0.05


@pytest.mark.parametrize("references", [1, 3])
def test_rouge_on_english_is_rouge_score(references: int) -> None:
    answers, accepted = _corpus(ENGLISH, " ", 1, references)
    answers[0], accepted[0] = "one line\nand the other line", ["the other line\nand one line", *accepted[0][1:]]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names)
    direct = [scorer.score_multi(refs, answer) for refs, answer in zip(accepted, answers, strict=True)]
    scorable = [bool(re.search("[a-z0-9]", " ".join(refs).lower())) for refs in accepted]
    for name, scored in score_text(answers, accepted, names).items():
        expected = [row[name].fmeasure for row, kept in zip(direct, scorable, strict=True) if kept]
        assert scored.value == pytest.approx(np.mean(expected), abs=1e-12)


def test_rouge_on_chinese_is_rouge_score_on_numbered_characters() -> None:
    """An independent route: every character becomes an ASCII word, which rouge_score reads by itself."""
    answers, accepted = _corpus(list("今天天气很好我们去公园散步"), "", 2)
    names = ["rouge1", "rouge2", "rougeL"]

    def spelled(text: str) -> str:
        return " ".join(f"u{ord(character):x}" for character in text)

    scorer = RougeScorer(names)
    for name, scored in score_text(answers, accepted, names).items():
        expected = [
            scorer.score(spelled(refs[0]), spelled(answer))[name].fmeasure
            for refs, answer in zip(accepted, answers, strict=True)
        ]
        np.testing.assert_allclose(scored.item_values(), expected, atol=1e-12)
        assert scored.value is not None
        assert scored.value > 0.2


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize(("vocabulary", "joiner", "tokenizer"), [(ENGLISH, " ", "13a"), (CHINESE, "", "zh")])
def test_bleu_and_chrf_are_sacrebleu(vocabulary: list[str], joiner: str, tokenizer: str, references: int) -> None:
    answers, accepted = _corpus(vocabulary, joiner, 3, references)
    streams = [list(stream) for stream in zip(*accepted, strict=True)]
    scored = score_text(answers, accepted, ["bleu", "chrf"])
    assert scored["bleu"].value == pytest.approx(
        sacrebleu.corpus_bleu(answers, streams, tokenize=tokenizer).score, abs=1e-9
    )
    assert scored["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(answers, streams).score, abs=1e-9)
    assert f"tok:{tokenizer}" in scored["bleu"].signature


def test_single_items_are_sacrebleu_on_one_sentence() -> None:
    answers, accepted = _corpus(ENGLISH, " ", 4)
    scored = score_text(answers, accepted, ["bleu", "chrf"])
    metrics = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF()}
    for name, metric in metrics.items():
        expected = [metric.corpus_score([a], [[r[0]]]).score for a, r in zip(answers, accepted, strict=True)]
        np.testing.assert_allclose(scored[name].item_values(), expected, atol=1e-9)


def test_references_may_vary_in_number() -> None:
    answers, accepted = ["a b c d e", "f g h i"], [["a b c d x", "a b c e e"], ["f g h j"]]
    direct = sacrebleu.corpus_bleu(answers, [[accepted[0][0], accepted[1][0]], [accepted[0][1], None]])
    assert score_text(answers, accepted, ["bleu"])["bleu"].value == pytest.approx(direct.score, abs=1e-9)


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize(("vocabulary", "joiner"), [(ENGLISH, " "), (list("今天天气很好我们去公园散步"), "")])
def test_nltk_measures_are_nltk(vocabulary: list[str], joiner: str, references: int) -> None:
    answers, accepted = _corpus(vocabulary, joiner, 5, references)
    split = str.split if joiner else list
    hypotheses = [split(answer) for answer in answers]
    lists = [[split(text) for text in refs] for refs in accepted]
    smoothing = SmoothingFunction().method1
    sentences = [
        sentence_bleu(refs, answer, smoothing_function=smoothing)
        for refs, answer in zip(lists, hypotheses, strict=True)
    ]
    scored = score_text(answers, accepted, ["bleu_nltk", "sentence_bleu_nltk"])
    assert scored["bleu_nltk"].value == pytest.approx(corpus_bleu(lists, hypotheses), abs=1e-12)
    assert scored["sentence_bleu_nltk"].value == pytest.approx(np.mean(sentences), abs=1e-12)


def test_nltk_corpus_without_long_matches_keeps_nltks_tiny_number() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        direct = corpus_bleu([[["a", "b", "c"]]], [["a", "b", "c"]])
    assert direct < 1e-70
    assert score_text(["a b c"], [["a b c"]], ["bleu_nltk"])["bleu_nltk"].value == pytest.approx(direct, rel=1e-9)


def _squad_words(text: str) -> list[str]:
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return [word for word in bare.split() if word not in {"a", "an", "the"}]


def test_token_f1_on_english_is_squads() -> None:
    answers, accepted = _corpus(ENGLISH, " ", 6, 2)
    expected = []
    for answer, refs in zip(answers, accepted, strict=True):
        best = 0.0
        for text in refs:
            said, gold = _squad_words(answer), _squad_words(text)
            common = (Counter(said) & Counter(gold)).total()
            if not said or not gold:
                best = max(best, float(said == gold))
            elif common:
                precision, recall = common / len(said), common / len(gold)
                best = max(best, 2 * precision * recall / (precision + recall))
        expected.append(best)
    scored = score_text(answers, accepted, ["token_f1"])["token_f1"]
    np.testing.assert_allclose(scored.item_values(), expected, atol=1e-12)
