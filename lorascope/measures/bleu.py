"""BLEU and chrF as summed statistics: counts per item as sacrebleu and nltk take them, and the scores of their sums.

Tokens come from sacrebleu's own tokenizers. Matches are counted here, over what both sides share alone, and scores are
the libraries' formulas over whole arrays, so that thousands of resamples cost one matrix product. Tests hold all of it
equal to the libraries' own functions.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

import numpy as np

from lorascope.measures.core import FloatArray, ratio
from lorascope.measures.tokenisation import has_han, has_other_unspaced, spaced_words

_ORDER = 4
_CHRF_ORDER = 6
_CHRF_BETA_SQUARED = 4.0
_EPSILON = 0.1
_References = Sequence[Sequence[str]]


def bleu_tokenizer(references: _References) -> str:
    """sacrebleu tokenizer by the references' script: ``char`` for kana, Thai and such, ``zh`` for Han, else ``13a``.

    On Chinese, 13a sees one token per sentence and scores 0. The answers have no say: base and adapted share one
    tokenizer.
    """
    texts = [text for accepted in references for text in accepted]
    if any(has_other_unspaced(text) for text in texts):
        return "char"
    return "zh" if any(has_han(text) for text in texts) else "13a"


def sacrebleu_rows(predictions: Sequence[str], references: _References) -> tuple[FloatArray, str]:
    """(n, 10) counts (answer length, reference length, 4 matches, 4 totals) and sacrebleu's own signature."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=bleu_tokenizer(references), force=True)
    rows = np.zeros((len(predictions), 2 * _ORDER + 2))
    for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
        answer = metric.tokenizer(prediction.rstrip()).split()
        tokenised = [metric.tokenizer(text.rstrip()).split() for text in accepted]
        totals = [max(len(answer) - less, 0) for less in range(_ORDER)]
        rows[index] = [len(answer), _closest(answer, tokenised), *ngram_matches(answer, tokenised), *totals]
    return rows, _signature(metric, references)


def ngram_matches(answer: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """How many n-grams of the answer stand in a reference, n = 1…4, each at most as often as in one of them."""
    found = [0] * _ORDER
    for order in range(1, _ORDER + 1):
        accepted = reduce(or_, [_ngrams(reference, order) for reference in references])
        found[order - 1] = _shared(_ngrams(answer, order), accepted)
        if not found[order - 1]:
            break
    return found


def _ngrams(tokens: Sequence[str], order: int) -> Counter[Hashable]:
    if order == 1:
        return Counter(tokens)
    if order == 2:
        return Counter(pairwise(tokens))
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _shared(one: Counter[Hashable], other: Counter[Hashable]) -> int:
    found = 0
    for gram in one.keys() & other.keys():  # the hottest loop of BLEU and chrF: a comparison is half a call of min()
        mine, theirs = one[gram], other[gram]
        found += mine if mine < theirs else theirs
    return found


def _closest(answer: Sequence[str], references: Sequence[Sequence[str]]) -> int:
    """Length of the reference nearest in length to the answer, the shorter of two equally near."""
    return min((abs(len(tokens) - len(answer)), len(tokens)) for tokens in references)[1]


def _signature(metric: Any, references: _References) -> str:
    """The metric's signature; sacrebleu writes a number of references that varies as -1."""
    counts = {len(accepted) for accepted in references}
    metric.num_refs = counts.pop() if len(counts) == 1 else -1
    return str(metric.get_signature())


def chrf_rows(predictions: Sequence[str], references: _References) -> tuple[FloatArray, str]:
    """(n, 18) counts (answer, reference and matching n-grams for n = 1…6) and sacrebleu's own signature.

    Of several references the one with the best chrF2 counts, the first of equals.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    rows = np.zeros((len(predictions), 3 * _CHRF_ORDER))
    for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
        said = _character_ngrams(prediction)
        counts = [_character_matches(said, _character_ngrams(text)) for text in accepted]
        rows[index] = counts[0] if len(counts) == 1 else max(counts, key=metric._compute_f_score)
    return rows, _signature(metric, references)


def _character_ngrams(text: str) -> tuple[int, list[Counter[Hashable]]]:
    """Number of characters without white space, and the counts of their runs of 1…6."""
    bare = "".join(text.split())
    return len(bare), [
        Counter([bare[start : start + order] for start in range(len(bare) - order + 1)])
        for order in range(1, _CHRF_ORDER + 1)
    ]


def _character_matches(
    answer: tuple[int, list[Counter[Hashable]]], reference: tuple[int, list[Counter[Hashable]]]
) -> list[int]:
    """Answer, reference and matching n-grams of each order; sacrebleu leaves an order out that the reference lacks."""
    found: list[int] = []
    for less, (ours, theirs) in enumerate(zip(answer[1], reference[1], strict=True)):
        wanted = max(reference[0] - less, 0)
        given = max(answer[0] - less, 0) if wanted else 0
        found += [given, wanted, _shared(ours, theirs) if given else 0]
    return found


def _brevity(answer_length: FloatArray, reference_length: FloatArray) -> FloatArray:
    penalty = np.exp(1.0 - ratio(reference_length, answer_length))
    return np.where(answer_length == 0, 0.0, np.where(answer_length < reference_length, penalty, 1.0))


def _geometric_mean(precisions: FloatArray) -> FloatArray:
    logarithms = np.log(precisions, out=np.full(precisions.shape, -np.inf), where=precisions > 0)
    mean: FloatArray = np.exp(logarithms.mean(axis=-1))
    return mean


def bleu_from_sums(sums: FloatArray) -> FloatArray:
    """Corpus BLEU in 0–100 from summed counts (…, 10), with sacrebleu's default ``exp`` smoothing.

    The k-th order without a match gets precision 1/(2^k · total); no match at all, or an order without any n-gram in
    the answers, gives 0. On a single row it is the BLEU of one sentence: 0 below four tokens.
    """
    matches, totals = sums[..., 2 : 2 + _ORDER], sums[..., 2 + _ORDER :]
    missing = (matches == 0) & (totals > 0)
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=-1), matches)
    precisions = np.nan_to_num(ratio(smoothed, totals), nan=0.0)
    score = 100.0 * _brevity(sums[..., 0], sums[..., 1]) * _geometric_mean(precisions)
    return np.where(matches.any(axis=-1), score, 0.0)


def chrf_from_sums(sums: FloatArray) -> FloatArray:
    """Corpus chrF2 in 0–100 from summed counts (…, 18), averaging the orders that both sides have."""
    counts = sums.reshape(*sums.shape[:-1], _CHRF_ORDER, 3)
    answers, references, matches = counts[..., 0], counts[..., 1], counts[..., 2]
    both = (answers > 0) & (references > 0)
    orders = both.sum(axis=-1)
    precision = ratio(np.where(both, np.nan_to_num(ratio(matches, answers)), 0.0).sum(axis=-1), orders)
    recall = ratio(np.where(both, np.nan_to_num(ratio(matches, references)), 0.0).sum(axis=-1), orders)
    score = ratio((1 + _CHRF_BETA_SQUARED) * precision * recall, _CHRF_BETA_SQUARED * precision + recall)
    return 100.0 * np.nan_to_num(score, nan=0.0)


def nltk_rows(predictions: Sequence[str], references: _References, chinese_words: bool) -> FloatArray:
    """(n, 10) counts as nltk takes them: 4 clipped matches, 4 totals (1 at least), answer and closest reference."""
    tokenised = [spaced_words(prediction, chinese_words=chinese_words) for prediction in predictions]
    accepted = [[spaced_words(text, chinese_words=chinese_words) for text in texts] for texts in references]
    return nltk_counts(tokenised, accepted)


def nltk_counts(answers: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> FloatArray:
    """The rows of :func:`nltk_rows` for tokens, or for the characters of strings."""
    rows = np.zeros((len(answers), 2 * _ORDER + 2))
    for index, (answer, accepted) in enumerate(zip(answers, references, strict=True)):
        totals = [max(len(answer) - less, 1) for less in range(_ORDER)]
        rows[index] = [*ngram_matches(answer, accepted), *totals, len(answer), _closest(answer, accepted)]
    return rows


def nltk_from_sums(sums: FloatArray) -> FloatArray:
    """nltk's ``corpus_bleu`` in 0–1 from summed counts (…, 10), unsmoothed.

    As in nltk, an order without a match counts as the smallest float instead of 0, so that such scores come out
    around 1e-77 or 1e-155 rather than exactly 0; without any matching word the score is 0.
    """
    matches, totals = sums[..., :_ORDER], sums[..., _ORDER : 2 * _ORDER]
    precisions = np.where(matches > 0, ratio(matches, totals), sys.float_info.min)
    score = _brevity(sums[..., -2], sums[..., -1]) * _geometric_mean(precisions)
    return np.where(matches[..., 0] > 0, score, 0.0)


def nltk_sentence_scores(rows: FloatArray) -> FloatArray:
    """nltk's ``sentence_bleu`` in 0–1 of each row of counts, smoothing method 1: an order without a match counts 0.1.

    Without any matching word the score is 0.
    """
    matches, totals = rows[..., :_ORDER], rows[..., _ORDER : 2 * _ORDER]
    return _smoothed_sentences(rows, np.where(matches > 0, matches, _EPSILON) / totals)


def nltk_sentence_scores_method3(rows: FloatArray) -> FloatArray:
    """The same with smoothing method 3: the k-th order without a match counts 1/2^k (NIST's geometric sequence)."""
    matches, totals = rows[..., :_ORDER], rows[..., _ORDER : 2 * _ORDER]
    missing = matches == 0
    return _smoothed_sentences(rows, np.where(missing, 0.5 ** np.cumsum(missing, axis=-1), matches) / totals)


def _smoothed_sentences(rows: FloatArray, precisions: FloatArray) -> FloatArray:
    score = _brevity(rows[..., -2], rows[..., -1]) * _geometric_mean(precisions)
    return np.where(rows[..., 0] > 0, score, 0.0)
