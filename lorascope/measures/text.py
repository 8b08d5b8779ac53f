"""Scores of generated text against references: ROUGE, BLEU, chrF, exact match, token F1.

The lies that these metrics tell in silence are refused here: references as flat strings, transposed nesting, lists of
different lengths, references without a single token. Each signature pins library, tokenizer, smoothing and the number
of references.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np

from lorascope.errors import ConfigError, DataError
from lorascope.measures import bleu, llamafactory
from lorascope.measures.core import Scored, item_rows, mean_of_items, same_length
from lorascope.measures.registry import define, names_of
from lorascope.measures.rouge import SCORERS, read_text, rouge_f1
from lorascope.measures.tokenisation import answer_words, words

References = Sequence[Sequence[str]]
_LLAMAFACTORY_ROUGE = ("rouge1_llamafactory", "rouge2_llamafactory", "rougeL_llamafactory")


def score_text(
    predictions: Sequence[str], references: References, metrics: Sequence[str], *, chinese_words: bool = False
) -> dict[str, Scored]:
    """Score each prediction against its references, ``references[i]`` being the accepted answers of item ``i``.

    ``metrics`` are names of the registry's kind ``text``. Fractions are in 0–1, ``bleu``, ``chrf`` and LLaMA-Factory's
    in 0–100; higher is better. ``chinese_words`` counts Chinese by jieba's words instead of by character (ROUGE and
    nltk's BLEU). Items whose references keep no token (punctuation alone) are left out of ROUGE and counted in its
    signature.

    Raises DataError for wrong nesting, lengths that differ, empty reference lists, and references none of which
    keeps a token; ConfigError for an unknown metric.
    """
    check_nesting(predictions, references)
    known = names_of("text", on_request=True)
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise ConfigError(f"not a text metric: {', '.join(unknown)}", remedy=f"choose from {', '.join(known)}")
    scored: dict[str, Scored] = {}
    if rouge := [name for name in SCORERS if name in metrics]:
        scored |= _score_rouge(predictions, references, rouge, chinese_words)
    if nltk := [name for name in _NLTK if name in metrics]:
        scored |= _score_nltk(predictions, references, nltk, chinese_words)
    if compatible := [name for name in _LLAMAFACTORY_ROUGE if name in metrics]:
        scored |= _score_llamafactory_rouge(predictions, references, compatible)
    for name in metrics:
        if name in _SINGLE:
            scored[name] = _SINGLE[name](predictions, references)
    return {name: scored[name] for name in metrics}


def check_nesting(predictions: Sequence[str], references: References) -> None:
    """Refuse references that are not one non-empty list of strings per prediction."""
    if isinstance(predictions, str) or any(not isinstance(text, str) for text in predictions):
        raise DataError("predictions must be a list of strings", remedy="give one string per item")
    if any(isinstance(entry, str) for entry in references):
        raise DataError(
            "references are flat strings: each item needs a list of accepted answers",
            remedy="write [['answer'], …] instead of ['answer', …]",
        )
    for index, entry in enumerate(references):
        if not isinstance(entry, Sequence) or len(entry) == 0 or any(not isinstance(text, str) for text in entry):
            remedy = "mend or drop the item"
            raise DataError("an item's references must be at least one string", where=f"item {index}", remedy=remedy)
    if len(references) != len(predictions) and all(len(entry) == len(predictions) for entry in references):
        raise DataError(
            f"references look transposed: {len(references)} lists of {len(predictions)} for {len(predictions)} items",
            remedy="give one list per item, not one list per reference set",
        )
    same_length(predictions=predictions, references=references)


def reference_count(references: References) -> str:
    """Number of references per item for signatures: ``1``, or ``1-3`` where it varies."""
    counts = {len(entry) for entry in references}
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"


def _score_rouge(
    predictions: Sequence[str], references: References, names: list[str], chinese_words: bool
) -> dict[str, Scored]:
    def tokens(text: str) -> list[str]:
        return words(text, chinese_words=chinese_words)

    scores = np.zeros((len(predictions), len(names)))
    scorable = np.ones(len(predictions))
    for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
        usable = [text for text in (read_text(reference, tokens) for reference in accepted) if text.tokens]
        if not usable:
            scorable[index] = 0.0
            continue
        answer = read_text(prediction, tokens)
        scores[index] = [max(rouge_f1(name, reference, answer) for reference in usable) for name in names]
    if not scorable.any():
        raise DataError("no reference keeps a single token", remedy="check the field that the references come from")
    script = "jieba" if chinese_words else "char"
    signature = (
        f"refs:{reference_count(references)}|tok:ascii=rouge_score,other=unicode-words,cjk={script}|stem:no|"
        f"sentences:newline|best:f1|mean:f1|left-out:{int((scorable == 0).sum())}|equal-to:rouge_score-0.1.2"
    )
    return {
        name: Scored(define(name, mean_of_items), item_rows(scores[:, column], scorable), f"{name}|{signature}")
        for column, name in enumerate(names)
    }


def _normal_answer(text: str) -> str:
    return " ".join(text.split()).casefold()


def _score_exact_match(predictions: Sequence[str], references: References) -> Scored:
    hits = [
        _normal_answer(prediction) in {_normal_answer(text) for text in accepted}
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    signature = f"exact_match|refs:{reference_count(references)}|norm:strip,collapse-white-space,casefold"
    return Scored(define("exact_match", mean_of_items, proportion=True), item_rows(hits), signature)


def _overlap_f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * common / (len(prediction) + len(reference))


def _score_token_f1(predictions: Sequence[str], references: References) -> Scored:
    scores = [
        max(_overlap_f1(answer_words(prediction), answer_words(text)) for text in accepted)
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    signature = f"token_f1|refs:{reference_count(references)}|norm:lower,no-punctuation,no-articles|cjk:char|best:max"
    return Scored(define("token_f1", mean_of_items), item_rows(scores), signature)


def _score_bleu(predictions: Sequence[str], references: References) -> Scored:
    rows, signature = bleu.sacrebleu_rows(predictions, references)
    return Scored(define("bleu", bleu.bleu_from_sums), rows, f"bleu|{signature}")


def _score_chrf(predictions: Sequence[str], references: References) -> Scored:
    rows, signature = bleu.chrf_rows(predictions, references)
    return Scored(define("chrf", bleu.chrf_from_sums), rows, f"chrf|{signature}")


def _score_nltk(
    predictions: Sequence[str], references: References, names: list[str], chinese_words: bool
) -> dict[str, Scored]:
    rows = bleu.nltk_rows(predictions, references, chinese_words)
    script = "jieba" if chinese_words else "char"
    given = f"refs:{reference_count(references)}|tok:white-space,cjk={script}|case:mixed|order:4"
    scored: dict[str, Scored] = {}
    for name in names:
        signature = f"{name}|{given}|smooth:{_NLTK[name]}|nltk:{version('nltk')}"
        if name == "bleu_nltk":
            scored[name] = Scored(define(name, bleu.nltk_from_sums), rows, signature)
        else:
            scored[name] = Scored(define(name, mean_of_items), item_rows(bleu.nltk_sentence_scores(rows)), signature)
    return scored


def _score_llamafactory_rouge(
    predictions: Sequence[str], references: References, names: list[str]
) -> dict[str, Scored]:
    scores = llamafactory.rouge(predictions, references, names)
    given = f"refs:{reference_count(references)}|tok:jieba-{version('jieba')}|count:sets|best:f1|mean:f1|decimals:4"
    return {
        name: Scored(
            define(name, mean_of_items), item_rows(scores[:, column]), f"{name}|{given}|as:rouge_chinese-1.0.3"
        )
        for column, name in enumerate(names)
    }


def _score_llamafactory_bleu(predictions: Sequence[str], references: References) -> Scored:
    given = (
        f"refs:{reference_count(references)}|tok:char|case:mixed|order:4|smooth:method3|best:max|mean:items|decimals:4"
    )
    scores = llamafactory.bleu4(predictions, references)
    signature = f"bleu4_llamafactory|{given}|as:nltk-{version('nltk')}"
    return Scored(define("bleu4_llamafactory", mean_of_items), item_rows(scores), signature)


_SINGLE: dict[str, Callable[[Sequence[str], References], Scored]] = {
    "exact_match": _score_exact_match,
    "token_f1": _score_token_f1,
    "bleu": _score_bleu,
    "chrf": _score_chrf,
    "bleu4_llamafactory": _score_llamafactory_bleu,
}
_NLTK = {"bleu_nltk": "none", "sentence_bleu_nltk": "method1"}
