"""From filled sheets to what the raters said: checked against the key, unblinded, with the item as the unit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from lorascope.blind.checking import CheckedSheets, check_sheets
from lorascope.blind.deviations import deviations
from lorascope.blind.key import StudyKey
from lorascope.blind.metric_agreement import ItemMetrics, as_estimate
from lorascope.blind.pair_scores import comparison_weights, pair_outcome
from lorascope.blind.quality import apply_exclusions, quality_warnings, rater_quality
from lorascope.blind.registration import describe
from lorascope.blind.rows import FilledSheet
from lorascope.blind.votes import PairVotes, pair_votes
from lorascope.errors import EvaluationError
from lorascope.measures.agreement import RESAMPLES, Level, alpha_interval
from lorascope.measures.core import FloatArray
from lorascope.measures.preference import left_rate
from lorascope.measures.preference_models import bradley_terry
from lorascope.measures.preference_strata import item_means
from lorascope.schema.human import DIMENSIONS, Alpha, HumanStudy, RaterQuality, Standing
from lorascope.schema.values import Estimate


def score_study(
    sheets: Sequence[FilledSheet],
    key: StudyKey,
    *,
    metrics: ItemMetrics,
    seed: int = 0,
    allow_partial: bool = False,
    resamples: int = RESAMPLES,
) -> HumanStudy:
    """Check the sheets, unblind them and compute every number of the study.

    ``metrics`` are the automatic metrics to compare with (see :func:`~lorascope.blind.metric_agreement.item_metrics`),
    ``seed`` and ``resamples`` are of the bootstraps of alpha and correlations; all other intervals are computed without
    chance. Raters are excluded by the registered plan alone; where the study departs from it stands in ``deviations``.
    For ``allow_partial`` and the DataError of wrong sheets see
    :func:`~lorascope.blind.checking.check_sheets`; EvaluationError when the plan excludes every rater, or when no
    rated row was filled in.
    """
    checked = check_sheets(sheets, key, allow_partial=allow_partial)
    rules = key.plan.exclusions if key.plan else None
    raters = apply_exclusions(rater_quality(checked, key), rules)
    pairs = _pairs(checked, key, raters)
    departures = deviations(checked, key, raters, pairs)
    standings, unplaced = _standings(pairs, key)
    return HumanStudy(
        study=key.study,
        commitment=key.commitment,
        seed=key.seed,
        language=key.language,
        tasks=sorted({item.task for item in key.items}),
        systems=[system.name for system in key.systems],
        plan=key.plan.hash if key.plan else None,
        registered="\n".join(describe(key.plan, key.language)) if key.plan else None,
        alpha=key.plan.alpha if key.plan else HumanStudy.model_fields["alpha"].default,
        deviations=departures if key.plan else [],
        raters=raters,
        left_rate=_left_rate(pairs, key),
        alphas=_alphas(pairs, key, seed, resamples),
        pairs=[pair_outcome(pair, key, metrics, seed=seed, resamples=resamples) for pair in pairs],
        standings=standings,
        notes=[*([] if key.plan else departures), *_notes(checked, raters), *unplaced],
    )


def _pairs(checked: CheckedSheets, key: StudyKey, raters: Sequence[RaterQuality]) -> list[PairVotes]:
    """The votes of raters who are not excluded."""
    kept = [each.rater for each in raters if each.present and each.excluded is None]
    if not kept:
        told = "; ".join(f"{each.rater} {each.excluded}" for each in raters if each.excluded)
        remedy = "no score can be computed by this plan; find other raters and score their sheets with the same key"
        raise EvaluationError(f"the registered plan excludes every rater: {told}", remedy=remedy)
    excluded = {each.rater for each in raters if each.excluded}
    pairs = pair_votes([vote for vote in checked.votes if vote.row.rater not in excluded], key, kept)
    if not any(np.isfinite(pair.preferences).any() for pair in pairs):
        raise EvaluationError("no comparison of two answers was rated", remedy="have the sheets filled in")
    return pairs


def _notes(checked: CheckedSheets, raters: Sequence[RaterQuality]) -> list[str]:
    notes = quality_warnings(raters)
    if checked.unverified:
        rows = "1 row" if checked.unverified == 1 else f"{checked.unverified} rows"
        notes.append(f"texts of {rows} did not come back: whether they were edited is not known")
    return notes


def _questions(pairs: Sequence[PairVotes], key: StudyKey) -> list[tuple[str, str]]:
    """Task and id of every pair's items: a question on which several pairs were compared is one cluster."""
    return [(key.items[place].task, key.items[place].item_id) for pair in pairs for place in pair.items]


def _left_rate(pairs: Sequence[PairVotes], key: StudyKey) -> Estimate | None:
    """Share of decided votes for side A, over the rated rows of all pairs, the question being the unit."""
    seen: dict[tuple[str, str], int] = {}
    question = [seen.setdefault(name, len(seen)) for name in _questions(pairs, key)]
    left, decided = np.zeros(len(seen)), np.zeros(len(seen))
    np.add.at(left, question, np.concatenate([np.nansum(pair.left, axis=0) for pair in pairs]))
    np.add.at(decided, question, np.concatenate([np.isfinite(pair.left).sum(axis=0) for pair in pairs]))
    return as_estimate(left_rate(left, decided))


def _alphas(pairs: Sequence[PairVotes], key: StudyKey, seed: int, resamples: int) -> list[Alpha]:
    """Overall twice: on the preferred system or tie (nominal), and on how much it is preferred (ordinal, -2 to 2).

    The former is what win rates rest on. Ratings are ordinal, the units single answers; intervals draw whole questions.
    """
    questions = _questions(pairs, key)
    preferences = np.concatenate([pair.preferences for pair in pairs], axis=1)
    tables: list[tuple[str, Level, FloatArray]] = [
        ("overall", "nominal", np.sign(preferences)),
        ("overall", "ordinal", preferences),
    ]
    for dimension in DIMENSIONS:
        sides = [np.concatenate([pair.ratings[dimension][side] for pair in pairs], axis=1) for side in (0, 1)]
        tables.append((dimension, "ordinal", np.concatenate(sides, axis=1)))
    return [_alpha(*table, questions, seed, resamples) for table in tables]


def _alpha(
    name: str, level: Level, ratings: FloatArray, questions: Sequence[Hashable], seed: int, resamples: int
) -> Alpha:
    groups = [*questions] * (ratings.shape[1] // len(questions))
    found = alpha_interval(ratings, level=level, groups=groups, seed=seed, resamples=resamples)
    reason = found.method.removeprefix("none: ") if found.value is None else None
    if reason is not None and np.isfinite(ratings).any(axis=1).sum() == 1:
        reason = "all ratings that count are by one rater"
    return Alpha.model_validate(
        {"name": name, "level": level, "estimate": as_estimate(found), "units": found.n, "missing_reason": reason}
    )


def _standings(pairs: Sequence[PairVotes], key: StudyKey) -> tuple[list[Standing], list[str]]:
    """Bradley-Terry strengths from three systems on, and notes on systems without one.

    The reference is the base, or the key's first system where the base is not in the study.
    """
    compared = {name for pair in pairs for name in (pair.first, pair.second)}
    if len(compared) < 3:
        return [], []
    systems = [system.name for system in key.systems if system.name in compared]
    reference = next((each.name for each in key.systems if each.role == "base" and each.name in compared), systems[0])
    places = [place for pair in pairs for place in pair.items]
    strengths = bradley_terry(
        [key.items[place].first for place in places],
        [key.items[place].second for place in places],
        np.concatenate([item_means(pair.wins) for pair in pairs]),
        items=_questions(pairs, key),
        reference=reference,
        weights=comparison_weights(pairs, key),
    )
    standings, notes = [], []
    for name in systems:
        if (strength := as_estimate(strengths[name])) is None:
            notes.append(f"no strength for {name}: {strengths[name].method.removeprefix('none: ')}")
        else:
            standings.append(Standing(system=name, strength=strength))
    if reference not in {each.name for each in key.systems if each.role == "base"}:
        notes.append(f"the base is not in the study: strengths are against {reference}")
    return standings, notes
