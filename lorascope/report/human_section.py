"""The section on the human test: who was preferred, by how much, and how far the raters can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lorascope.report import numbers
from lorascope.report.human_notes import all_told, stratum_name, told
from lorascope.report.human_words import (
    Said,
    alpha_meaning,
    hundredths,
    pair_said,
    share,
    share_interval,
    side_said,
    signed,
    traces,
    two_digits,
)
from lorascope.report.texts import Texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.human import Alpha, HumanReport, HumanStudy, PairOutcome, RaterQuality
from lorascope.schema.values import Estimate

Note = tuple[str, str]
"""A sentence and the code of its language: the result's own English where no text of the page says the same."""
_VOTES = ("first_much", "first", "tie", "both_bad", "second", "second_much")


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value and its interval stand on a track, in per cent of its width; None without an interval."""

    value: float
    low: float | None
    high: float | None

    @property
    def width(self) -> float:
        """Of the interval."""
        return 0.0 if self.low is None or self.high is None else round(self.high - self.low, 2)


@dataclass(frozen=True, slots=True)
class Shown:
    """A value in words with its place on a track; ``note`` says why there is none."""

    label: str
    value: str
    interval: str
    items: str
    span: Span | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """One kind of vote: how many, their share, and the width of their part of the bar in per cent."""

    kind: str
    label: str
    count: str
    share: str
    width: float


@dataclass(frozen=True, slots=True)
class RatingRow:
    """One dimension on both sides."""

    name: str
    first: str
    first_interval: str
    second: str
    second_interval: str
    delta: str
    delta_interval: str
    p: str
    p_adjusted: str
    items: str


@dataclass(frozen=True, slots=True)
class PairView:
    """All that the section shows of two systems."""

    first: str
    second: str
    said: Said
    rates: tuple[Shown, ...]
    votes: tuple[Vote, ...]
    total: str
    ratings: tuple[RatingRow, ...]
    metrics: tuple[tuple[str, Shown, Shown, Note], ...]
    strata: tuple[tuple[str, str, str, str, Shown | None], ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class AlphaRow:
    """Agreement on one question, and what it lets one rest on it."""

    name: str
    level: str
    value: str
    interval: str
    units: str
    meaning: Note


@dataclass(frozen=True, slots=True)
class RaterRow:
    """One rater's sheet and how its repeats and checks came out."""

    name: str
    sheet: str
    rows: str
    repeats: str
    checks: str
    identical: str
    left: str
    state: Literal["counted", "excluded", "absent"]
    why: Note


@dataclass(frozen=True, slots=True)
class StudyView:
    """One study as the section shows it.

    ``departs``: some of the ``traces`` are departures from the plan, told there alone.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    pairs: tuple[PairView, ...]
    standings: tuple[Shown, ...]
    alphas: tuple[AlphaRow, ...]
    no_agreement: str
    raters: tuple[RaterRow, ...]
    side: str
    plan: str | None
    registered: tuple[str, ...]
    deviations: tuple[Note, ...]
    traces: tuple[str, ...]
    departs: bool
    notes: tuple[Note, ...]


def human_context(comparison: Comparison, words: Texts) -> dict[str, Any]:
    """What the section's template needs: every study that was scored into this result."""
    report = comparison.human or HumanReport(studies=[])
    return {"human_studies": [_study(study, report, comparison, words) for study in report.studies]}


def _study(study: HumanStudy, report: HumanReport, comparison: Comparison, words: Texts) -> StudyView:
    others = traces(study, report, words)
    deviations = [each for each in study.deviations if not (others and _is_trace(each, report))]
    return StudyView(
        name=study.study,
        facts=_facts(study, words),
        pairs=tuple(_pair(pair, study, comparison, words) for pair in study.pairs),
        standings=_standings(study),
        alphas=tuple(_alpha(alpha, words) for alpha in study.alphas),
        no_agreement=_no_agreement(study, words),
        raters=tuple(_rater(rater, words) for rater in study.raters),
        side=side_said(study, words),
        plan=study.plan,
        registered=tuple((study.registered or "").splitlines()),
        deviations=all_told(deviations, words),
        traces=tuple(others),
        departs=len(deviations) < len(study.deviations),
        notes=all_told(study.notes, words),
    )


def _is_trace(deviation: str, report: HumanReport) -> bool:
    """Whether a departure says what the traces say: an earlier score, or another study of the question."""
    others = tuple(f"{each.study} asked the same" for each in report.studies)
    return deviation.startswith(("scored before", *others))


def _facts(study: HumanStudy, words: Texts) -> tuple[tuple[str, str], ...]:
    language = words(f"human.language.{study.language}")
    return (
        (words("human.study"), study.study),
        (words("human.tasks"), words.joined(study.tasks)),
        (words("human.systems"), words.joined(study.systems)),
        (words("human.sheets"), language),
        (words("human.seed"), str(study.seed)),
        (words("human.commitment"), study.commitment),
    )


def _pair(pair: PairOutcome, study: HumanStudy, comparison: Comparison, words: Texts) -> PairView:
    votes, total = _votes(pair, words)
    return PairView(
        first=pair.first,
        second=pair.second,
        said=pair_said(pair, study, comparison, words),
        rates=_rates(pair, words),
        votes=votes,
        total=words.several("human.votes", total),
        ratings=_ratings(pair, words),
        metrics=_metrics(pair, words),
        strata=_strata(pair, words),
        notes=all_told(pair.notes, words),
    )


def _rates(pair: PairOutcome, words: Texts) -> tuple[Shown, ...]:
    found = (("weighted", pair.win_rate), ("unweighted", pair.unweighted), ("length_adjusted", pair.length_adjusted))
    return tuple(_share(words(f"human.rate.{name}"), rate) for name, rate in found if rate is not None)


def _share(label: str, of: Estimate) -> Shown:
    bounds = None if of.low is None or of.high is None else (of.low, of.high)
    span = _span(of.value, bounds, 0.0, 1.0)
    return Shown(label, share(of.value), share_interval(of), numbers.count(of.n), span)


def _span(value: float, bounds: tuple[float, float] | None, start: float, end: float) -> Span:
    """Places within ``start`` to ``end``; what lies outside stands at the edge."""

    def place(at: float) -> float:
        return round(100 * min(max((at - start) / (end - start), 0.0), 1.0), 2)

    return Span(place(value), place(bounds[0]) if bounds else None, place(bounds[1]) if bounds else None)


def _votes(pair: PairOutcome, words: Texts) -> tuple[tuple[Vote, ...], int]:
    counts: dict[str, int] = {kind: getattr(pair.votes, kind) for kind in _VOTES}
    total = sum(counts.values())
    parts = []
    for kind, count in counts.items():
        part = count / total if total else 0.0
        label = words(f"human.vote.{kind}", first=pair.first, second=pair.second)
        parts.append(Vote(kind, label, numbers.count(count), share(part), round(100 * part, 2)))
    return tuple(parts), total


def _ratings(pair: PairOutcome, words: Texts) -> tuple[RatingRow, ...]:
    return tuple(
        RatingRow(
            name=words(f"human.dimension.{each.dimension}"),
            first=hundredths(each.first.value),
            first_interval=two_digits(each.first),
            second=hundredths(each.second.value),
            second_interval=two_digits(each.second),
            delta=signed(each.delta.value),
            delta_interval=two_digits(each.delta, with_sign=True),
            p=numbers.p_value(each.delta.p_value),
            p_adjusted=numbers.p_value(each.delta.p_adjusted),
            items=numbers.count(each.delta.n),
        )
        for each in pair.ratings
    )


def _metrics(pair: PairOutcome, words: Texts) -> tuple[tuple[str, Shown, Shown, Note], ...]:
    """Task and metric, agreement and correlation, each of its own items, and why there is none."""
    return tuple(
        (
            f"{each.task} · {each.metric}",
            _or_absent(each.agreement, percent=True),
            _or_absent(each.correlation, percent=False),
            told(each.missing_reason or "", words),
        )
        for each in pair.metrics
    )


def _or_absent(of: Estimate | None, *, percent: bool) -> Shown:
    if of is None:
        return Shown("", numbers.ABSENT, "", numbers.ABSENT, None)
    if percent:
        return _share("", of)
    return Shown("", signed(of.value), two_digits(of, with_sign=True), numbers.count(of.n), None)


def _strata(pair: PairOutcome, words: Texts) -> tuple[tuple[str, str, str, str, Shown | None], ...]:
    """Name, population, drawn, weight, and the stratum's own win rate; empty where one stratum is all there is."""
    if len(pair.strata) < 2:
        return ()
    return tuple(
        (
            stratum_name(each.stratum, words),
            numbers.count(each.population),
            numbers.count(each.drawn),
            numbers.plain(each.weight, 2),
            _share("", each.win_rate) if each.win_rate else None,
        )
        for each in pair.strata
    )


def _standings(study: HumanStudy) -> tuple[Shown, ...]:
    """Strengths, the strongest first, on one scale that holds every interval and zero."""
    found = sorted(study.standings, key=lambda each: -each.strength.value)
    ends = [end for each in found for end in (each.strength.low, each.strength.value, each.strength.high)]
    reach = max((abs(end) for end in ends if end is not None), default=0.0) or 1.0
    return tuple(_standing(each.system, each.strength, reach) for each in found)


def _standing(system: str, strength: Estimate, reach: float) -> Shown:
    bounds = None if strength.low is None or strength.high is None else (strength.low, strength.high)
    span = _span(strength.value, bounds, -reach, reach)
    interval = two_digits(strength, with_sign=True)
    return Shown(system, signed(strength.value), interval, numbers.count(strength.n), span)


def _alpha(alpha: Alpha, words: Texts) -> AlphaRow:
    found = alpha.estimate
    name = words("human.overall") if alpha.name == "overall" else words(f"human.dimension.{alpha.name}")
    return AlphaRow(
        name=name,
        level=words(f"human.level.{alpha.level}"),
        value=hundredths(found.value if found else None),
        interval=two_digits(found),
        units=numbers.count(alpha.units),
        meaning=_meaning(alpha, words),
    )


def _meaning(alpha: Alpha, words: Texts) -> Note:
    text = alpha_meaning(alpha, words)
    free = alpha.estimate is None and text == alpha.missing_reason
    return text, "en" if free else words.language


def _no_agreement(study: HumanStudy, words: Texts) -> str:
    """One sentence in place of the table where agreement is undefined throughout, for lack of a second rating."""
    if not study.alphas or any(alpha.estimate is not None or alpha.units for alpha in study.alphas):
        return ""
    reasons = list(dict.fromkeys(alpha.missing_reason for alpha in study.alphas if alpha.missing_reason))
    reason = f" ({told(reasons[0], words)[0]})" if reasons else ""
    return words.ended(f"{words('human.agreement')} (α): {words('human.alpha.unknown')}{reason}")


def _rater(rater: RaterQuality, words: Texts) -> RaterRow:
    decided = rater.left + rater.right
    state: Literal["counted", "excluded", "absent"] = (
        "absent" if not rater.present else "excluded" if rater.excluded is not None else "counted"
    )
    return RaterRow(
        name=rater.rater,
        sheet=rater.sheet or numbers.ABSENT,
        rows=numbers.count(rater.rows) if rater.present else numbers.ABSENT,
        repeats=_of(rater.repeats_consistent, rater.repeats),
        checks=_of(rater.checks_passed, rater.checks),
        identical=_of(rater.identical_tied, rater.identical),
        left=f"{share(rater.left / decided)} ({rater.left:,} / {decided:,})" if decided else numbers.ABSENT,
        state=state,
        why=told(rater.excluded or "", words),
    )


def _of(part: int, whole: int) -> str:
    return f"{part:,} / {whole:,}" if whole else numbers.ABSENT
