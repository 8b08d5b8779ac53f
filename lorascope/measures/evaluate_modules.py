"""The same measures as ``evaluate.Metric`` modules that work offline: nothing is fetched, no cache file is written.

>>> from lorascope.measures.evaluate_modules import load
>>> load("exact_match").compute(predictions=["Paris"], references=[["paris", "Paris, France"]])["exact_match"]
1.0

``compute`` returns ``{name: value or None, "signature": …, "low": …, "high": …}`` with the 95 % interval. Inputs:

- text: predictions ``str``, references ``list[str]``
- labels: predictions list of probabilities, references list of 0/1 per label; ``multi=False`` for single-label
- score: predictions and references ``float``
- tokens: predictions and references ``list[str]`` of tags
- choice: predictions list of log-probabilities, references ``{"answer": index, "choices": list[str]}``
- likelihood: predictions log-probability (for ``kl_to_base`` the mean KL per token), references
  ``{"tokens": int, "bytes": int}``
- forgetting: predictions: adapted right (bool), references: base right (bool); ``chance=``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np

from lorascope.errors import ConfigError
from lorascope.measures.choices import score_choices
from lorascope.measures.core import Scored
from lorascope.measures.forgetting import score_forgetting
from lorascope.measures.label_diagnosis import score_label_outputs, score_label_sets
from lorascope.measures.labels import score_labels
from lorascope.measures.likelihood import score_kl, score_likelihood
from lorascope.measures.registry import MEASURES, SCORED_KINDS, Kind, find_spec
from lorascope.measures.regression import score_regression
from lorascope.measures.statistics import estimate
from lorascope.measures.text import score_text
from lorascope.measures.tokens import score_entities

_THRESHOLD = 0.5
_OF_SETS = frozenset({"cooccurrence_gap", "cardinality_error", "empty_set_rate", "unseen_set_rate"})
_OF_OUTPUTS = frozenset({"frequency_skill", "output_spread"})
_Rows = Sequence[Any]
_Options = Mapping[str, Any]


def names() -> list[str]:
    """Names that :func:`load` knows: every measure that is computed from answers, item by item."""
    return [spec.name for spec in MEASURES.values() if SCORED_KINDS.intersection(spec.kinds)]


def load(name: str, *, kind: Kind | None = None) -> evaluate.Metric:
    """The measure as an ``evaluate`` module; ``kind`` chooses where a name has two (``accuracy``: choice, labels).

    Raises ConfigError for an unknown name, or a kind that the measure does not have.
    """
    spec = find_spec(name)
    chosen = kind or spec.kinds[0]
    if chosen not in spec.kinds or chosen not in _FORMS:
        raise ConfigError(f"{name} is no measure of kind {chosen!r}", remedy=f"choose from {', '.join(names())}")
    return OfflineMetric(name, _FORMS[chosen])


@dataclass(frozen=True)
class _Form:
    """What a kind of measure takes, and how it is scored: (name, predictions, references, options) to statistics."""

    predictions: Any
    references: Any
    score: Callable[[str, _Rows, _Rows, _Options], Mapping[str, Scored]]


class OfflineMetric(evaluate.Metric):  # type: ignore[misc]
    """One measure of the registry; its configuration name is the measure's name."""

    def __init__(self, name: str, form: _Form) -> None:
        self._form = form
        super().__init__(config_name=name, keep_in_memory=True)

    def _build_data_dir(self) -> str:
        """The folder that ``evaluate`` would create; everything stays in memory, so none is made."""
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        spec = find_spec(self.config_name)
        return evaluate.MetricInfo(
            description=spec.description,
            citation="",
            inputs_description=f"\n{spec.description} Unit: {spec.unit}; scale: {spec.scale}.\n",
            features=datasets.Features(predictions=self._form.predictions, references=self._form.references),
        )

    def _compute(
        self, *, predictions: _Rows, references: _Rows, seed: int = 0, resamples: int = 1_000, **options: Any
    ) -> dict[str, Any]:
        name = self.config_name
        scored = self._form.score(name, list(predictions), list(references), options)
        if name not in scored:
            return {name: None, "low": None, "high": None, "signature": f"{name}|undefined on this kind of items"}
        found = estimate(scored[name], seed=seed, resamples=resamples)
        return {name: found.value, "low": found.low, "high": found.high, "signature": scored[name].signature}


def _text(name: str, predictions: _Rows, references: _Rows, options: _Options) -> Mapping[str, Scored]:
    return score_text(predictions, references, [name], **options)


def _labels(name: str, predictions: _Rows, references: _Rows, options: _Options) -> Mapping[str, Scored]:
    probabilities, truth = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.bool_)
    by_position = [str(label) for label in range(truth.shape[-1])]
    if name in _OF_SETS:
        return score_label_sets(probabilities >= _THRESHOLD, truth, decision=f"probability>={_THRESHOLD:g}", **options)
    if name in _OF_OUTPUTS:
        return score_label_outputs(probabilities, truth, multi=bool(options.get("multi", True)))
    given: dict[str, Any] = {"multi": name not in {"accuracy", "mcc"}, "label_names": by_position, **options}
    return score_labels(probabilities, truth, **given)


def _score(name: str, predictions: _Rows, references: _Rows, options: _Options) -> Mapping[str, Scored]:
    return score_regression(predictions, references, **options)


def _tokens(name: str, predictions: _Rows, references: _Rows, options: _Options) -> Mapping[str, Scored]:
    return score_entities(predictions, references, **options)


def _choice(name: str, predictions: _Rows, references: _Rows, options: _Options) -> Mapping[str, Scored]:
    answers = [reference["answer"] for reference in references]
    return score_choices(predictions, answers, [reference["choices"] for reference in references], **options)


def _likelihood(name: str, predictions: _Rows, references: _Rows, options: _Options) -> Mapping[str, Scored]:
    tokens = [reference["tokens"] for reference in references]
    if name == "kl_to_base":
        return {name: score_kl(predictions, tokens, **options)}
    return score_likelihood(predictions, tokens, [reference["bytes"] for reference in references], **options)


def _forgetting(name: str, predictions: _Rows, references: _Rows, options: _Options) -> Mapping[str, Scored]:
    given: dict[str, Any] = {"chance": 0.0, **options}
    return score_forgetting(references, predictions, **given)


_STRING, _REAL, _WHOLE, _TRUTH = (datasets.Value(kind) for kind in ("string", "float64", "int64", "bool"))
_STRINGS = datasets.List(_STRING)
_FORMS: dict[Kind, _Form] = {
    "text": _Form(_STRING, _STRINGS, _text),
    "labels": _Form(datasets.List(_REAL), datasets.List(_TRUTH), _labels),
    "score": _Form(_REAL, _REAL, _score),
    "tokens": _Form(_STRINGS, _STRINGS, _tokens),
    "choice": _Form(datasets.List(_REAL), {"answer": _WHOLE, "choices": _STRINGS}, _choice),
    "likelihood": _Form(_REAL, {"tokens": _WHOLE, "bytes": _WHOLE}, _likelihood),
    "forgetting": _Form(_TRUTH, _TRUTH, _forgetting),
}
