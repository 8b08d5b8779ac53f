"""Representation drift: for encoders without a language-model head, how far each layer's features moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorascope.engines.base import Subject as Asker
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.measures.core import FloatArray
from lorascope.measures.drift import linear_cka, mean_cosine
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Estimate, Measurement, Slice
from lorascope.workflows.watch import Watch

_ITSELF = "the base is what drift is measured against"


def measure_drift(
    engine: TransformersEngine, askers: Sequence[Asker], texts: Sequence[str], *, watch: Watch
) -> list[Measurement]:
    """Linear CKA and mean cosine of every layer's mean-pooled features, each subject against the base (the first)."""
    base, *subjects = askers
    with watch.stage(f"{base.name}: representations") as report:
        before = engine.hidden_states(base, texts, report)
    found: list[Measurement] = []
    for subject in subjects:
        with watch.stage(f"{subject.name}: representations") as report:
            after = engine.hidden_states(subject, texts, report)
        for layer, (old, new) in enumerate(zip(before, after, strict=True)):
            found += _layer(base.name, subject.name, layer, old.astype(np.float64), new.astype(np.float64))
    return found


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
