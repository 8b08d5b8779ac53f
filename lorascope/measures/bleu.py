"""BLEU and chrF as summed statistics: sacrebleu's and nltk's counts per item, and the scores that follow from sums.

The counts come from the libraries; the scores are the libraries' formulas over whole arrays, so that thousands of
resamples cost one matrix product. Tests hold them equal to the libraries' own functions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from lorascope.measures.core import FloatArray, ratio
from lorascope.measures.tokenisation import has_han, has_other_unspaced, spaced_words

_ORDER = 4
_CHRF_ORDER = 6
_CHRF_BETA_SQUARED = 4.0
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


def _streams(references: _References) -> list[list[str | None]]:
    """References in sacrebleu's nesting, one stream per reference rank, padded with None."""
    deepest = max(len(accepted) for accepted in references)
    return [[accepted[rank] if rank < len(accepted) else None for accepted in references] for rank in range(deepest)]


def sacrebleu_rows(predictions: Sequence[str], references: _References) -> tuple[FloatArray, str]:
    """(n, 10) counts (answer length, reference length, 4 matches, 4 totals) and sacrebleu's own signature."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=bleu_tokenizer(references), force=True)
    rows = metric._extract_corpus_statistics(predictions, _streams(references))
    return np.asarray(rows, dtype=np.float64), str(metric.get_signature())


def chrf_rows(predictions: Sequence[str], references: _References) -> tuple[FloatArray, str]:
    """(n, 18) counts (answer, reference and matching n-grams for n = 1…6) and sacrebleu's own signature."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    rows = metric._extract_corpus_statistics(predictions, _streams(references))
    return np.asarray(rows, dtype=np.float64), str(metric.get_signature())


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
    """(n, 10) counts by nltk: 4 clipped matches, 4 totals (1 at least), answer length, closest reference length."""
    from nltk.translate.bleu_score import closest_ref_length, modified_precision

    rows = np.zeros((len(predictions), 2 * _ORDER + 2))
    for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
        answer = spaced_words(prediction, chinese_words=chinese_words)
        tokenised = [spaced_words(text, chinese_words=chinese_words) for text in accepted]
        precisions = [modified_precision(tokenised, answer, order + 1) for order in range(_ORDER)]
        rows[index, :_ORDER] = [precision.numerator for precision in precisions]
        rows[index, _ORDER : 2 * _ORDER] = [precision.denominator for precision in precisions]
        rows[index, 2 * _ORDER :] = len(answer), closest_ref_length(tokenised, len(answer))
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


def nltk_sentence_scores(predictions: Sequence[str], references: _References, chinese_words: bool) -> list[float]:
    """nltk's ``sentence_bleu`` of each item in 0–1 with smoothing method 1 (0.1 added to orders without a match)."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method1
    return [
        float(
            sentence_bleu(
                [spaced_words(text, chinese_words=chinese_words) for text in accepted],
                spaced_words(prediction, chinese_words=chinese_words),
                smoothing_function=smoothing,
            )
        )
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
