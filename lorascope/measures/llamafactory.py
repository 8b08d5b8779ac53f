"""The numbers that LLaMA-Factory prints after ``predict_with_generate``: for comparison with them, not for new work.

Its ROUGE cuts every language by jieba and scores with rouge_chinese (which counts each n-gram once), its ``bleu-4``
compares characters in every language, each item is rounded to four decimals and the items are averaged. It knows one
reference an item; here the best of several counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from lorascope.measures.bleu import nltk_counts, nltk_sentence_scores_method3
from lorascope.measures.core import FloatArray
from lorascope.measures.rouge import lcs_length
from lorascope.measures.tokenisation import jieba_words

_DECIMALS = 4
# rouge_chinese 1.0.3 breaks lines behind the ends of sentences before it splits at spaces. The order of the rules and
# the sign that each one takes along decide where runs of marks are torn apart.
_BREAKS = tuple(
    re.compile(rule)
    for rule in (r"([。！？?])([^”’])", r"(\.{6})([^”’])", r"(…{2})([^”’])", r"([。！？?][”’])([^，。！？?])")
)


def bleu4(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> FloatArray:
    """LLaMA-Factory's ``bleu-4`` of each item, (n,), in 0–100, higher is better.

    nltk's ``sentence_bleu`` over characters, white space included, with smoothing method 3, best of the references.
    """
    found = np.zeros(len(predictions))
    for rank in range(max(len(accepted) for accepted in references)):
        one = [[accepted[min(rank, len(accepted) - 1)]] for accepted in references]
        found = np.maximum(found, _rounded(nltk_sentence_scores_method3(nltk_counts(predictions, one))))
    return found


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str]) -> FloatArray:
    """LLaMA-Factory's ``rouge-1``, ``rouge-2``, ``rouge-l`` of each item, (n, names), in 0–100, higher is better.

    Words are jieba's. ROUGE-1 and -2 compare sets of n-grams, ROUGE-L the longest common subsequence of all words;
    F = 2pr/(p + r + 1e-8). A side without words scores 0. Raises ConfigError where jieba is not installed.
    """
    found = np.zeros((len(predictions), len(names)))
    for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
        said = _words(prediction)
        lists = [_words(text) for text in accepted]
        found[index] = [max(_F[name](said, words) for words in lists) for name in names]
    return _rounded(found)


def _rounded(fractions: FloatArray) -> FloatArray:
    """Times 100, rounded as Python rounds (half of the last place goes by the exact binary value)."""
    return np.array([round(value * 100, _DECIMALS) for value in fractions.ravel().tolist()]).reshape(fractions.shape)


def _words(text: str) -> list[str]:
    """jieba's words as rouge_chinese splits them; a line of white space alone leaves one empty word."""
    spaced = " ".join(jieba_words(text))
    if not spaced.split():
        return []
    for rule in _BREAKS:
        spaced = rule.sub("\\1\n\\2", spaced)
    lines = [line for line in spaced.rstrip().split("\n") if line]
    return [word for line in lines for word in (line.split() or [""])]


def _f1(matches: int, answer_total: int, reference_total: int) -> float:
    precision = matches / answer_total if answer_total else 0.0
    recall = matches / reference_total if reference_total else 0.0
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _rouge1(answer: list[str], reference: list[str]) -> float:
    said, wanted = set(answer), set(reference)
    return _f1(len(said & wanted), len(said), len(wanted))


def _rouge2(answer: list[str], reference: list[str]) -> float:
    said, wanted = set(pairwise(answer)), set(pairwise(reference))
    return _f1(len(said & wanted), len(said), len(wanted))


def _rouge_l(answer: list[str], reference: list[str]) -> float:
    return _f1(lcs_length(reference, answer), len(answer), len(reference))


_F: Mapping[str, Callable[[list[str], list[str]], float]] = {
    "rouge1_llamafactory": _rouge1,
    "rouge2_llamafactory": _rouge2,
    "rougeL_llamafactory": _rouge_l,
}
