"""Representation drift: for encoders without a language-model head, how far each layer's features moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorascope.engines.base import Subject as Asker
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.measures.core import FloatArray
from lorascope.measures.drift import linear_cka, mean_cosine
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Measurement, Missing, Slice
from lorascope.schema.values import Estimate
from lorascope.workflows.watch import Watch

_ITSELF = "the base is what drift is measured against"


def measure_drift(
    engine: TransformersEngine, askers: Sequence[Asker], texts: Sequence[str], *, watch: Watch
) -> tuple[list[Measurement], list[Missing]]:
    """Linear CKA and mean cosine of every layer's mean-pooled features, each subject against the base (the first)."""
    base, *subjects = askers
    states: dict[str, Sequence[FloatArray]] = {}
    missing: list[Missing] = []
    for asker in askers:
        try:
            with watch.stage(f"{asker.name}: representations") as report:
                found = engine.hidden_states(asker, texts, report)
            states[asker.name] = [layer.astype(np.float64) for layer in found]
        except EvaluationError as error:
            missing.append(Missing(area="drift", subject=asker.name, reason=error.problem))
    if base.name not in states:
        return [], missing
    pairs = [(subject.name, states[subject.name]) for subject in subjects if subject.name in states]
    measured = [
        measurement
        for name, after in pairs
        for layer, (old, new) in enumerate(zip(states[base.name], after, strict=True))
        for measurement in _layer(base.name, name, layer, old, new)
    ]
    return measured, missing


def _layer(base: str, subject: str, layer: int, before: FloatArray, after: FloatArray) -> list[Measurement]:
    return [
        _measurement(base, subject, layer, "cka", linear_cka(before, after), len(before)),
        _measurement(base, subject, layer, "cosine", mean_cosine(before, after), len(before)),
    ]


def _measurement(base: str, subject: str, layer: int, metric: str, value: float | None, items: int) -> Measurement:
    spec = find_spec(metric)
    # Resampled items repeat, and repeated items raise CKA: a bootstrap would not bracket it, so no interval is given.
    adapted = None if value is None else Estimate(value=value, n=items, method="none")
    return Measurement(
        subject=subject,
        reference=base,
        area="drift",
        slice=Slice(by="layer", value=str(layer)),
        metric=metric,
        unit=spec.unit,
        scale=spec.scale,
        direction="none",
        adapted=adapted,
        signature=f"{metric}|features: mean over tokens",
        missing_reason=_ITSELF if adapted else "undefined: the features do not vary",
    )
