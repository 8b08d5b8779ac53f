"""Measures: arrays and strings in, values out; no file access and no model code.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES: dict[str, str] = {
    "CurveReading": "curves",
    "Interval": "statistics",
    "LabelRow": "labels",
    "Measure": "core",
    "MEASURES": "registry",
    "MeasureSpec": "registry",
    "PairedResult": "statistics",
    "Scored": "core",
    "above_chance": "forgetting",
    "benjamini_hochberg": "significance",
    "chance_levels": "choices",
    "cross_fitted_thresholds": "thresholds",
    "estimate": "statistics",
    "estimate_many": "statistics",
    "find_spec": "registry",
    "flips": "forgetting",
    "judge": "verdicts",
    "label_groups": "labels",
    "label_scores": "labels",
    "linear_cka": "drift",
    "load": "evaluate_modules",
    "mean_cosine": "drift",
    "paired": "statistics",
    "paired_many": "statistics",
    "per_label": "labels",
    "read_curves": "curves",
    "read_training": "curves",
    "read_validation": "curves",
    "score_choices": "choices",
    "score_entities": "tokens",
    "score_forgetting": "forgetting",
    "score_kl": "likelihood",
    "score_label_groups": "labels",
    "score_labels": "labels",
    "score_likelihood": "likelihood",
    "score_regression": "regression",
    "score_text": "text",
    "tune_thresholds": "thresholds",
    "unpaired_difference": "statistics",
    "wilson": "intervals",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
