"""How often a policy raises a false alarm on a result's own items, and which drops it finds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

from lorascope.errors import UsageError
from lorascope.gates.calibration_items import ItemPairs
from lorascope.gates.evaluation import Case, cases_of
from lorascope.gates.families import adjusted_columns
from lorascope.gates.judging import Absent, BoolArray, FloatArray, Outcomes, Targets, decide, larger_p, p_of_fail
from lorascope.gates.pairing import Baseline
from lorascope.gates.planting import Answers, Changes, Readings, Sums, Tables, changes_of, draw
from lorascope.gates.scores import ScoredItems
from lorascope.measures.intervals import wilson
from lorascope.measures.resampling import Units
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.gates import CalibrationReport, CalibrationRow, Rate, Scenario
from lorascope.schema.policy import Gate, GatePolicy, is_address

if TYPE_CHECKING:
    import pyarrow

RESAMPLES = 2_000
_POINTS = (0.01, 0.02, 0.03, 0.05, 0.10)
_POINT_MARGIN = 0.02
_ENDS = {"0-1": (0.0, 1.0), "0-100": (0.0, 100.0), "-1-1": (-1.0, 1.0), "0-inf": (0.0, math.inf)}
_WIDTHS = {"0-1": 1.0, "0-100": 100.0, "-1-1": 1.0}
_SCORE_TESTS = ("exact McNemar", "no item changed", "identical outputs")
_FLIPPING = frozenset({"accuracy", "exact_match", "subset_accuracy"})
_NOTE_PLAN = "the drops are added to a change of 0; a result of its own may well have dropped already"
_NOTE_ADDED = (
    "they come on top of the changes that are there, so that more items differ; "
    "lorascope gate explain holds that share and the spread fixed"
)
_NOTE_ITEMS = "the rates cover the drawing of items, and not another training run, another prompt or another judge"


@dataclass(frozen=True, eq=False)
class _Plan:
    """One case with what is resampled for it, and the units it shares with others."""

    case: Case
    keys: tuple[str, ...]
    groups: tuple[str | None, ...] | None
    data: Answers | Changes
    changed: float
    method: str
    noise: float | None


@dataclass(eq=False)
class _Drawn:
    """A plan with its draws, and its readings without any change."""

    plan: _Plan
    draws: Tables | Sums
    unchanged: Readings
    p_values: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.p_values = _p_values(self.plan, self.unchanged, self.draws)


def calibrate(
    comparison: Comparison,
    samples: pyarrow.Table | None,
    policy: GatePolicy | None = None,
    *,
    baseline: Baseline | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    name: str = "gates.toml",
) -> CalibrationReport:
    """Judge ``resamples`` results drawn from this result's items, without any change and with drops planted.

    Every ``max_drop`` on a measurement with item scores is calibrated; everything else is listed with the reason why it
    is not. For right and wrong answers the bounds are Newcombe's and a drop turns right answers wrong at random. For
    all other metrics the bounds are Student's, and a drop makes answers worthless at random, in groups as elsewhere:
    each loses what its score has above the end of the scale. Corpus metrics are linearised: see
    :func:`~lorascope.gates.planting.changes_of`. The drops are 1, 2, 3, 5 and 10 points of the scale, or, on scales
    without ends, as many fiftieths of the limit; one that is more than there is to lose is left out, and ``method``
    says so. Where a noise floor was measured for a right-or-wrong score and there is no baseline, base against base is
    judged with that share of answers flipping. Without a policy every task metric gets ``max_drop`` = its margin. With
    ``baseline`` the items are paired with those of its adapted checkpoint, as a gate pairs them, and with those of the
    run's own reference else, whatever baseline the policy names.

    Errors: ConfigError as for :func:`~lorascope.gates.evaluation.evaluate`, UsageError for fewer than one resample.
    """
    if resamples < 1:
        raise UsageError(f"{resamples} resamples tell nothing", remedy="ask for some thousand")
    policy = policy or default_policy(comparison)
    tables = ItemPairs(comparison, samples, baseline)
    rows: list[CalibrationRow] = []
    alarms: list[FloatArray] = []
    families = [[_plan(case, tables) for case in cases_of(gate, policy, comparison, baseline)] for gate in policy.gate]
    draws = _draw_all([plan for family in families for plan in family if isinstance(plan, _Plan)], resamples, seed)
    for gate, family in zip(policy.gate, families, strict=True):
        drawn = [draws[id(plan)] for plan in family if isinstance(plan, _Plan)]
        generator = np.random.default_rng([seed, 1, len(rows)])
        found = {id(each.plan): each for each in drawn}
        for plan in family:
            if isinstance(plan, CalibrationRow):
                rows.append(plan)
                continue
            judged = _Family(gate, drawn, found[id(plan)])
            rows.append(_row(judged, generator))
            if gate.severity == "fail":
                alarms.append(judged.judge(found[id(plan)].unchanged).fails.astype(float))
    any_alarm = _rate(int(np.any(alarms, axis=0).sum()), resamples) if alarms else None
    return CalibrationReport(
        policy=name, confidence=policy.confidence, resamples=resamples, seed=seed, any_false_alarm=any_alarm,
        rows=rows, baseline=None if baseline is None else baseline.name, notes=[_NOTE_PLAN, _NOTE_ADDED, _NOTE_ITEMS],
    )  # fmt: skip


def default_policy(comparison: Comparison) -> GatePolicy:
    """``max_drop`` = the margin for every metric of a task that has one, on the whole task.

    Tasks of imported results whose names no address can hold (spaces, colons) are left out.
    """
    limits: dict[str, float] = {}
    for each in comparison.measurements:
        margin = each.delta.margin if each.delta is not None else None
        if each.area in ("task", "forgetting") and each.slice is None and margin and each.direction != "none":
            limits.setdefault(f"{each.task or each.area}.{each.metric}", margin)
    gates = [Gate(metric=metric, max_drop=margin) for metric, margin in limits.items() if is_address(metric)]
    return GatePolicy.model_construct(version=1, gate=gates)


def _plan(case: Case, tables: ItemPairs) -> _Plan | CalibrationRow:
    """What to resample for a case, or a row that says why there is nothing."""
    limit, found = case.limit, case.found
    blank = CalibrationRow(address=case.address, rule=limit.rule, severity=limit.gate.severity)
    if isinstance(case.reading, Absent) or found is None:
        reason = case.reading.reason if isinstance(case.reading, Absent) else "it was not measured"
        return blank.model_copy(update={"reason": reason})
    if limit.name != "max_drop":
        reason = f"only max_drop has false alarms; {limit.name} holds whether or not anything changed"
        return blank.model_copy(update={"reason": reason})
    if case.reading.exact:
        return blank.model_copy(update={"reason": "it is counted, not sampled: asked again it is the same"})
    pair = tables.pair(found)
    if isinstance(pair, str):
        return blank.model_copy(update={"reason": pair})
    before, after = pair
    if not before.scored.measure.additive:
        return blank.model_copy(update={"reason": "its value does not follow from sums over items"})
    if len(after.keys) < 2:
        return blank.model_copy(update={"reason": "one item has no spread"})
    if np.array_equal(before.scored.statistics, after.scored.statistics):
        return blank.model_copy(update={"reason": "no item's score differs between the two sides"})
    groups = after.groups if tables.grouped(found, after) else None
    noise = _noise(found, tables.comparison) if tables.baseline is None else None
    return _planned(case, found, before, after, groups, noise)


def _planned(
    case: Case,
    found: Measurement,
    before: ScoredItems,
    after: ScoredItems,
    groups: tuple[str | None, ...] | None,
    noise: float | None,
) -> _Plan:
    units = Units.of(len(after.keys), groups)
    changed = float((before.scored.statistics != after.scored.statistics).any(axis=1).mean())
    sides = before.scored.statistics, after.scored.statistics
    all_tried = all(side.shape[1] == 2 and (side[:, 1] == 1).all() for side in sides)
    drops = _drops(case)
    by_score = case.limit.baseline is not None or found.delta is None or found.delta.test in (None, *_SCORE_TESTS)
    if by_score and before.scored.measure.proportion and all_tried and units.of_item is None:
        right = Answers(sides[0][:, 0] > 0, sides[1][:, 0] > 0)
        method = "Newcombe's bounds; right answers turned wrong at random" + _left_out(drops, right.share)
        return _Plan(case, after.keys, None, right, changed, method, noise)
    better, end = (-1 if found.direction == "lower" else 1), _worst(found)
    data = changes_of(before.scored, after.scored, units, better=better, end=end, drops=drops)
    over = "" if units.of_item is None else " over groups"
    bounds = f"t bounds{over}{'' if _is_mean(after) else ', linearised'}"
    method = f"{bounds}; {_way(end, after, drops)}{_left_out(drops, data.most)}"
    return _Plan(case, after.keys, groups if units.of_item is not None else None, data, changed, method, None)


def _worst(found: Measurement) -> float | None:
    """The end of the scale that is worst; None where there is none."""
    ends = _ENDS.get(found.scale)
    end = None if ends is None else ends[found.direction == "lower"]
    return end if end is not None and math.isfinite(end) else None


def _way(end: float | None, side: ScoredItems, drops: Sequence[float]) -> str:
    """How a drop is planted."""
    if end is None:
        return f"random items lose {2 * max(drops, default=0.0):.4g} each"
    return f"random items lose {'their whole score' if _is_mean(side) else 'an equal share of the whole'}"


def _left_out(drops: Sequence[float], most: float) -> str:
    more = [drop for drop in drops if drop > most]
    return f"; no drop above {most:.4g} was planted, for there is no more to lose" if more else ""


def _is_mean(side: ScoredItems) -> bool:
    statistics = side.scored.statistics
    return statistics.shape[1] == 2 and bool(np.isin(statistics[:, 1], (0.0, 1.0)).all())


def _noise(found: Measurement, comparison: Comparison) -> float | None:
    """The measured share of answers that flip by noise, for the same task and pair; None for other metrics.

    A flip is one between right and wrong, so the share says something of metrics that count right answers alone.
    """
    if found.metric not in _FLIPPING:
        return None
    wanted = (found.subject, found.reference, found.task)
    for each in comparison.measurements:
        same = (each.subject, each.reference, each.task) == wanted and each.metric == "noise_flip_rate"
        if same and each.slice is None and found.slice is None and each.adapted is not None:
            return each.adapted.value
    return None


def _draw_all(plans: Sequence[_Plan], resamples: int, seed: int) -> dict[int, _Drawn]:
    """Draws of all plans; those over the same units share theirs."""
    blocks: dict[tuple[object, ...], list[_Plan]] = {}
    for plan in plans:
        blocks.setdefault((plan.keys, plan.groups), []).append(plan)
    found: dict[int, _Drawn] = {}
    for number, block in enumerate(blocks.values()):
        answers = [plan for plan in block if isinstance(plan.data, Answers)]
        changes = [plan for plan in block if isinstance(plan.data, Changes)]
        tables, sums = draw(
            [plan.data for plan in answers if isinstance(plan.data, Answers)],
            [plan.data for plan in changes if isinstance(plan.data, Changes)],
            resamples=resamples,
            seed=[seed, 0, number],
        )
        drawn: list[Tables | Sums] = [*tables, *sums]
        for plan, each in zip([*answers, *changes], drawn, strict=True):
            confidence = plan.case.limit.confidence
            found[id(plan)] = _Drawn(plan, each, each.readings(confidence))
    return found


def _p_values(plan: _Plan, readings: Readings, draws: Tables | Sums) -> FloatArray:
    """P-values of the FAIL test, as the judge takes them for the gate's correction."""
    limit, gate = plan.case.limit, plan.case.limit.gate
    if gate.rule == "point" or gate.correction == "none":
        return np.full(len(readings.value), np.nan)
    target = Targets.of(limit.name, limit.value, gate.rule).fails_below
    found = p_of_fail(readings.value, readings.high, target, limit.confidence)
    if target == 0 and isinstance(draws, Tables):
        fewer, differ = np.minimum(draws.broken, draws.fixed), draws.broken + draws.fixed
        exact = np.minimum(1.0, 2 * special.bdtr(fewer, np.maximum(differ, 1).astype(np.int64), 0.5))
        return larger_p(found, np.where(differ > 0, exact, 1.0), readings.value)
    return found


@dataclass(frozen=True, eq=False)
class _Family:
    """One plan among those of its gate, which did not change."""

    gate: Gate
    members: Sequence[_Drawn]
    own: _Drawn

    def judge(self, readings: Readings, p_values: FloatArray | None = None) -> Outcomes:
        """Outcomes of the own readings by the judge's rule, with the correction that the family asks for."""
        limit, gate = self.own.plan.case.limit, self.gate
        refuted: BoolArray | bool = True
        if gate.correction != "none":
            own = self.own.p_values if p_values is None else p_values
            place = next(number for number, each in enumerate(self.members) if each is self.own)
            others = [own if each is self.own else each.p_values for each in self.members]
            refuted = np.asarray(adjusted_columns(gate.correction, np.stack(others))[place] <= 1 - limit.confidence)
        found = decide(*readings, Targets.of(limit.name, limit.value, gate.rule), gate.rule, refuted=refuted)
        too_few = gate.min_n is not None and len(self.own.plan.keys) < gate.min_n
        return Outcomes(found.passes & (not too_few), found.fails)

    def scenario(
        self, kind: Literal["no_change", "noise", "drop"], readings: Readings, draws: Tables | Sums, drop: float | None
    ) -> Scenario:
        """The shares of the three outcomes."""
        found = self.judge(readings, _p_values(self.own.plan, readings, draws))
        total = len(readings.value)
        passed, failed = int(found.passes.sum()), int(found.fails.sum())
        return Scenario(
            kind=kind, drop=drop, passed=_rate(passed, total), failed=_rate(failed, total),
            inconclusive=_rate(total - passed - failed, total),
        )  # fmt: skip


def _row(family: _Family, generator: np.random.Generator) -> CalibrationRow:
    own = family.own
    plan, limit = own.plan, own.plan.case.limit
    return CalibrationRow(
        address=plan.case.address,
        rule=limit.rule,
        severity=limit.gate.severity,
        n=len(plan.keys),
        changed=plan.changed,
        method=plan.method,
        scenarios=list(_scenarios(family, generator)),
    )


def _scenarios(family: _Family, generator: np.random.Generator) -> Iterator[Scenario]:
    own = family.own
    plan, draws, confidence = own.plan, own.draws, own.plan.case.limit.confidence
    yield family.scenario("no_change", own.unchanged, draws, None)
    if plan.noise is not None and isinstance(draws, Tables):
        noisy = _noisy(draws, plan.noise, len(plan.keys), generator)
        yield family.scenario("noise", noisy.readings(confidence), noisy, None)
    if isinstance(draws, Sums):
        for lost in draws.losses:
            yield family.scenario("drop", draws.readings(confidence, lost), draws, lost.drop)
        return
    for drop in _drops(plan.case):
        if (planted := draws.with_drop(drop, generator)) is not None:
            yield family.scenario("drop", planted.readings(confidence), planted, drop)


def _noisy(draws: Tables, rate: float, items: int, generator: np.random.Generator) -> Tables:
    """Base against base asked once more: items differ with the measured rate, in either direction alike."""
    both = max(draws.right_share - rate / 2, 0.0)
    shares = np.array([both, rate / 2, rate / 2, max(1 - rate - both, 0.0)])
    cells = generator.multinomial(items, shares / shares.sum(), size=len(draws.both)).astype(np.float64)
    return Tables(cells[:, 0], cells[:, 1], cells[:, 2], cells[:, 3], draws.right_share)


def _drops(case: Case) -> list[float]:
    """1, 2, 3, 5 and 10 points of the metric's scale; without ends to it, so many times a fiftieth of the limit."""
    found, limit = case.found, case.limit.value
    width = _WIDTHS.get(found.scale) if found is not None else None
    unit = width if width is not None else limit / _POINT_MARGIN
    return [unit * points for points in _POINTS] if unit > 0 else []


def _rate(count: int, total: int) -> Rate:
    low, high = wilson(count, total)
    return Rate(value=count / total, low=low, high=high)
