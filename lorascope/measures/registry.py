"""One table of all measures: what each number means, its unit, scale, direction, and default margin.

Names follow the public contract. ``<metric>_gap`` is derived from the row of its metric by :func:`find_spec`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lorascope.errors import ConfigError
from lorascope.measures.core import FloatArray, Measure, Scale
from lorascope.schema.model import Direction

Kind = Literal[
    "text", "labels", "score", "tokens", "choice", "likelihood", "forgetting",
    "gap", "curves", "drift", "weights", "cost", "human", "leak", "noise", "decision",
]  # fmt: skip
SCORED_KINDS: frozenset[Kind] = frozenset({"text", "labels", "score", "tokens", "choice", "likelihood", "forgetting"})


@dataclass(frozen=True)
class MeasureSpec:
    """One row of the table. ``margin`` is the default margin in the measure's own scale, None where none is natural."""

    name: str
    kinds: tuple[Kind, ...]
    unit: str
    scale: Scale
    direction: Direction
    margin: float | None
    description: str


_STANDARD_MARGIN: dict[Scale, float | None] = {
    "0-1": 0.02, "-1-1": 0.02, "0-100": 2.0, "0-inf": None, "unbounded": None,
}  # fmt: skip

_Row = tuple[str, str, Scale, Direction, str]

_TEXT: list[_Row] = [
    ("rouge1", "fraction", "0-1", "higher", "Mean F1 of word overlap with the best reference (Lin 2004)."),
    ("rouge2", "fraction", "0-1", "higher", "Mean F1 of word-pair overlap with the best reference (Lin 2004)."),
    ("rougeL", "fraction", "0-1", "higher", "Mean F1 of the longest common subsequence (Lin 2004)."),
    ("rougeLsum", "fraction", "0-1", "higher", "ROUGE-L over sentences, one per line (Lin 2004, section 3.2)."),
    ("bleu", "points", "0-100", "higher", "Corpus BLEU by sacrebleu (Papineni 2002, Post 2018)."),
    ("chrf", "points", "0-100", "higher", "Corpus chrF2, character 6-gram F-score by sacrebleu (Popović 2015)."),
    ("bleu_nltk", "fraction", "0-1", "higher", "Corpus BLEU by nltk, without smoothing."),
    ("sentence_bleu_nltk", "fraction", "0-1", "higher", "Mean of nltk's sentence BLEU with smoothing method 1."),
    ("exact_match", "fraction", "0-1", "higher", "Share of answers equal to a reference up to case and white space."),
    ("token_f1", "fraction", "0-1", "higher", "Mean token F1 with the best reference, as in SQuAD (Rajpurkar 2016)."),
    ("bleu4_llamafactory", "points", "0-100", "higher", "LLaMA-Factory's bleu-4: sentence BLEU over characters."),
    ("rouge1_llamafactory", "points", "0-100", "higher", "LLaMA-Factory's rouge-1: F of sets of jieba's words."),
    ("rouge2_llamafactory", "points", "0-100", "higher", "LLaMA-Factory's rouge-2: F of sets of pairs of such words."),
    ("rougeL_llamafactory", "points", "0-100", "higher", "LLaMA-Factory's rouge-l: F of the longest common words."),
]
# Computed only where a suite names them: numbers to compare with another program's.
_ON_REQUEST = frozenset({"bleu4_llamafactory", "rouge1_llamafactory", "rouge2_llamafactory", "rougeL_llamafactory"})
_LABELS: list[_Row] = [
    ("f1_micro", "fraction", "0-1", "higher", "F1 over all label decisions together."),
    ("f1_macro", "fraction", "0-1", "higher", "Mean F1 of the labels that truly occur in the data."),
    ("f1_samples", "fraction", "0-1", "higher", "Mean over items of the F1 between predicted and true label sets."),
    ("f1_weighted", "fraction", "0-1", "higher", "Mean F1 of the labels, weighted by how often each truly occurs."),
    ("precision_micro", "fraction", "0-1", "higher", "Share of predicted labels that are true."),
    ("recall_micro", "fraction", "0-1", "higher", "Share of true labels that are predicted."),
    ("subset_accuracy", "fraction", "0-1", "higher", "Share of items whose whole label set is right."),
    ("hamming_loss", "fraction", "0-1", "lower", "Share of single label decisions that are wrong."),
    ("lrap", "fraction", "0-1", "higher", "Label ranking average precision: how far up true labels are ranked."),
    ("average_precision_macro", "fraction", "0-1", "higher", "Mean average precision of the labels that occur."),
    (
        "ece",
        "fraction",
        "0-1",
        "lower",
        "Expected calibration error, 15 equal bins (Guo 2017); too high for few items.",
    ),
    ("mcc", "correlation", "-1-1", "higher", "Matthews correlation of predicted and true class (Gorodkin 2004)."),
    ("cooccurrence_gap", "fraction", "0-1", "lower", "Bray-Curtis distance of predicted and true label pairs."),
    ("cardinality_error", "labels", "unbounded", "none", "Mean number of predicted minus true labels per item."),
    ("empty_set_rate", "fraction", "0-1", "none", "Share of items for which no label is predicted."),
    ("unseen_set_rate", "fraction", "0-1", "none", "Share of predicted label sets that the training data lacks."),
    ("frequency_skill", "fraction", "unbounded", "higher", "Share of the label frequencies' loss that is saved."),
    ("output_spread", "ratio", "0-inf", "none", "Variance of the probabilities over items against the truth's."),
]
_SCORE: list[_Row] = [
    ("pearson", "correlation", "-1-1", "higher", "Linear correlation of predicted and true scores."),
    ("spearman", "correlation", "-1-1", "higher", "Rank correlation of predicted and true scores."),
    ("mse", "squared units", "0-inf", "lower", "Mean squared error of predicted scores."),
]
_TOKENS: list[_Row] = [
    ("entity_f1", "fraction", "0-1", "higher", "F1 of whole entities, span and type both right (seqeval)."),
]
_CHOICE: list[_Row] = [
    ("accuracy_norm", "fraction", "0-1", "higher", "Accuracy by log-probability per character of the choice."),
    ("accuracy_bytes", "fraction", "0-1", "higher", "Accuracy by log-probability per UTF-8 byte of the choice."),
    ("gold_margin", "nats", "unbounded", "higher", "Mean log-probability of the answer minus its best rival's."),
]
_LIKELIHOOD: list[_Row] = [
    ("bits_per_byte", "bits/byte", "0-inf", "lower", "Negative log-likelihood in bits per UTF-8 byte of text."),
    ("perplexity", "perplexity", "0-inf", "lower", "exp of the negative log-likelihood per predicted token."),
    ("kl_to_base", "nats", "0-inf", "none", "Mean KL(adapted‖base) per token on the task's own inputs."),
]
_FORGETTING: list[_Row] = [
    ("retained_fraction", "fraction", "unbounded", "higher", "Accuracy above chance, adapted divided by base."),
    ("forgotten_rate", "fraction", "0-1", "lower", "Share of what the base got right that is now wrong."),
    ("gained_rate", "fraction", "0-1", "higher", "Share of what the base got wrong that is now right."),
]
_CURVES: list[_Row] = [
    ("final_gap", "loss", "unbounded", "lower", "Validation loss minus training loss at the last evaluation."),
    ("best_step", "step", "0-inf", "none", "Step of the lowest validation loss."),
    ("overfit_step", "step", "0-inf", "none", "Step from which the validation loss rises and stays risen."),
    ("spikes", "count", "0-inf", "lower", "Sudden rises of the training loss above its own trend."),
]
_DRIFT: list[_Row] = [
    ("cka", "similarity", "0-1", "none", "Linear CKA of a layer's representations (Kornblith 2019)."),
    ("cosine", "similarity", "-1-1", "none", "Mean cosine between an item's representations before and after."),
]
_WEIGHTS: list[_Row] = [
    ("intruder_count", "count", "0-inf", "lower", "Intruder dimensions, left side, all modules (arXiv 2410.21228)."),
    ("intruder_energy", "fraction", "0-1", "lower", "Share of the leading Σσ² that intruder dimensions carry."),
    ("relative_change", "fraction", "0-inf", "none", "‖ΔW‖ divided by ‖W‖, Frobenius norms."),
    ("effective_rank", "dimensions", "0-inf", "none", "Effective rank of ΔW (Roy and Vetterli 2007)."),
    ("stable_rank", "dimensions", "0-inf", "none", "Stable rank of ΔW: ‖ΔW‖²_F divided by its largest σ²."),
]
_COST: list[_Row] = [
    ("train_seconds", "seconds", "0-inf", "lower", "Wall time of training."),
    ("tokens_per_second", "tokens/second", "0-inf", "higher", "Tokens that training takes in per second."),
    ("peak_memory_bytes", "bytes", "0-inf", "lower", "Peak memory of training."),
    ("trainable_parameters", "parameters", "0-inf", "none", "Parameters that training could change."),
    ("latency_ms_per_item", "ms/item", "0-inf", "lower", "Wall time to answer one item."),
    ("inference_memory_bytes", "bytes", "0-inf", "lower", "Memory that answering takes."),
]
_HUMAN: list[_Row] = [
    ("win_rate", "fraction", "0-1", "higher", "Share of an item's blind votes, ties half, averaged over items."),
    ("accuracy_rating", "points", "unbounded", "higher", "Mean human rating of accuracy."),
    ("completeness_rating", "points", "unbounded", "higher", "Mean human rating of completeness."),
    ("logic_rating", "points", "unbounded", "higher", "Mean human rating of logic."),
    ("fluency_rating", "points", "unbounded", "higher", "Mean human rating of fluency."),
    ("alpha", "agreement", "unbounded", "none", "Krippendorff's alpha of the raters' preferences, nominal; 1 is best."),
]
_OTHER: list[tuple[Kind, _Row]] = [
    ("leak", ("leaked_fraction", "fraction", "0-1", "none", "Share of evaluation items found in the training data.")),
    ("leak", ("leaked_gain", "metric", "unbounded", "none", "Gain on all items minus the gain on clean items.")),
    ("decision", ("tuned_threshold", "fraction", "0-1", "none", "Probability from which a label is predicted.")),
    ("noise", ("noise_flip_rate", "fraction", "0-1", "none", "Share of answers that flip by numerical noise alone.")),
]
# Measures whose scale has no standard margin but whose unit suggests one: a fiftieth of a bit per byte, and a
# tenth of a nat (the odds of the answer against its rival change by about 10 %).
_OWN_MARGIN: dict[str, float] = {
    "bits_per_byte": 0.02, "gold_margin": 0.1, "retained_fraction": 0.02, "frequency_skill": 0.02,
}  # fmt: skip


def _spec(row: _Row, *kinds: Kind) -> MeasureSpec:
    name, unit, scale, direction, description = row
    margin = None if direction == "none" else _OWN_MARGIN.get(name, _STANDARD_MARGIN[scale])
    return MeasureSpec(name, kinds, unit, scale, direction, margin, description)


def _table() -> dict[str, MeasureSpec]:
    families: list[tuple[Kind, list[_Row]]] = [
        ("text", _TEXT), ("labels", _LABELS), ("score", _SCORE), ("tokens", _TOKENS), ("choice", _CHOICE),
        ("likelihood", _LIKELIHOOD), ("forgetting", _FORGETTING), ("curves", _CURVES), ("drift", _DRIFT),
        ("weights", _WEIGHTS), ("cost", _COST), ("human", _HUMAN),
    ]  # fmt: skip
    specs = [_spec(row, kind) for kind, rows in families for row in rows]
    specs += [_spec(row, kind) for kind, row in _OTHER]
    accuracy: _Row = ("accuracy", "fraction", "0-1", "higher", "Share of items answered right.")
    specs.append(_spec(accuracy, "choice", "labels"))
    return {spec.name: spec for spec in specs}


MEASURES: dict[str, MeasureSpec] = _table()
_PLUGGED_IN: dict[str, MeasureSpec] = {}


def find_spec(name: str) -> MeasureSpec:
    """The row of a measure, also of ``<metric>_gap``; ConfigError with the nearest name for an unknown one."""
    if (known := _row_of(name)) is not None:
        return known
    metric = name.removesuffix("_gap")
    if metric != name and (parent := _row_of(metric)) is not None:
        meaning = f"{metric} on training items minus {metric} on validation items; far from 0 is over-fitting."
        return MeasureSpec(name, ("gap",), parent.unit, "unbounded", "none", None, meaning)
    near = difflib.get_close_matches(name, MEASURES, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"known measures: {', '.join(sorted(MEASURES))}"
    raise ConfigError(f"there is no measure named {name!r}", remedy=remedy)


def _row_of(name: str) -> MeasureSpec | None:
    return MEASURES.get(name) or _PLUGGED_IN.get(name)


def register(spec: MeasureSpec) -> None:
    """Make the row of a plugged-in metric known to :func:`find_spec`; the table and the lists stay.

    A name may be registered again, with a row of its own. ConfigError for a name that the table holds.
    """
    if spec.name in MEASURES:
        raise ConfigError(f"{spec.name!r} is a built-in measure", remedy="give the plugged-in metric another name")
    _PLUGGED_IN[spec.name] = spec


def names_of(kind: Kind, *, on_request: bool = False) -> list[str]:
    """Names of the measures of one kind, in the order of the table; with those that are computed only on request."""
    named = [spec.name for spec in MEASURES.values() if kind in spec.kinds]
    return [name for name in named if on_request or name not in _ON_REQUEST]


def define(
    name: str,
    aggregate: Callable[[FloatArray], FloatArray],
    *,
    proportion: bool = False,
    resampled: Callable[[FloatArray, FloatArray], FloatArray] | None = None,
    carriers: Callable[[FloatArray], int] | None = None,
) -> Measure:
    """The :class:`Measure` of a table row with the function that computes it; ``resampled`` makes it non-additive."""
    spec = find_spec(name)
    return Measure(
        name=name,
        unit=spec.unit,
        scale=spec.scale,
        direction=spec.direction,
        additive=resampled is None,
        aggregate=aggregate,
        proportion=proportion,
        resampled=resampled,
        carriers=carriers,
    )
