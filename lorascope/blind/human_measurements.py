"""A study's numbers as measurements of area ``human``, for the result's table and for gates."""

from __future__ import annotations

from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.human import Alpha, HumanStudy, PairOutcome
from lorascope.schema.values import Delta, Estimate


def outcome_measurements(study: HumanStudy, comparison: Comparison) -> list[Measurement]:
    """``win_rate``, ``<dimension>_rating`` and ``alpha`` of the adapted checkpoints in the study.

    Win rates and ratings are those of each pair's ``first``, with ``second`` as reference; ``base`` of a rating is the
    reference's. ``alpha`` is the whole study's, on which system is preferred (nominal): every adapted checkpoint has
    it, with the base as reference, or where the base was not shown the system that it was compared with first.
    ``task`` is null for a study of several tasks.
    """
    adapted = [each.name for each in comparison.subjects if each.name in study.systems]
    found = [each for pair in study.pairs if pair.first in adapted for each in _of_pair(study, pair)]
    alpha = next((each for each in study.alphas if (each.name, each.level) == ("overall", "nominal")), None)
    if alpha is not None:
        base = comparison.base.name if comparison.base.name in study.systems else None
        for subject in adapted:
            reference = base or _opponent(study, subject)
            if reference is not None:
                found.append(_alpha(study, subject, reference, alpha))
    return found


def _of_pair(study: HumanStudy, pair: PairOutcome) -> list[Measurement]:
    names = pair.first, pair.second
    ratings = [
        _measurement(study, names, f"{each.dimension}_rating", each.first, base=each.second, delta=each.delta)
        for each in pair.ratings
    ]
    return [_measurement(study, names, "win_rate", pair.win_rate), *ratings]


def _alpha(study: HumanStudy, subject: str, reference: str, alpha: Alpha) -> Measurement:
    return _measurement(study, (subject, reference), "alpha", alpha.estimate, reason=alpha.missing_reason)


def _opponent(study: HumanStudy, subject: str) -> str | None:
    pairs = [(pair.first, pair.second) for pair in study.pairs]
    return next((second if first == subject else first for first, second in pairs if subject in (first, second)), None)


def _measurement(
    study: HumanStudy,
    names: tuple[str, str],
    metric: str,
    adapted: Estimate | None,
    *,
    base: Estimate | None = None,
    delta: Delta | None = None,
    reason: str | None = None,
) -> Measurement:
    spec = find_spec(metric)
    counted = sum(each.present and each.excluded is None for each in study.raters)
    signature = f"blind:2|raters:{counted}|unit:item|weights:strata"
    return Measurement(
        subject=names[0],
        reference=names[1],
        area="human",
        task=study.tasks[0] if len(study.tasks) == 1 else None,
        metric=metric,
        unit=spec.unit,
        scale=spec.scale,
        direction=spec.direction,
        base=base,
        adapted=adapted,
        delta=delta,
        signature=f"{signature}|nominal" if metric == "alpha" else signature,
        missing_reason=reason,
    )
