"""A policy against a result: every measurement that a gate names, judged, and the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lorascope.errors import ConfigError, EvaluationError
from lorascope.gates.judging import Absent, Judgement, Outcome, Reading, judge
from lorascope.gates.pairing import Baseline, exact_reading, paired_reading
from lorascope.gates.readings import EXACT_AREAS, nothing_changed, own_delta, own_estimate
from lorascope.gates.selection import address_of, fits, measurements_at, subjects_of
from lorascope.schema.comparison import Comparison, GateReport, GateRow, Measurement
from lorascope.schema.policy import Gate, GatePolicy, LimitName


@dataclass(frozen=True, slots=True)
class _Limit:
    """One limit of one gate, with all that it is judged by."""

    gate: Gate
    name: LimitName
    value: float
    policy: GatePolicy
    comparison: Comparison
    baseline: Baseline | None

    @property
    def on_own_value(self) -> bool:
        return self.name in ("min", "max")

    @property
    def is_pattern(self) -> bool:
        return "*" in self.gate.address.metric


def evaluate(
    policy: GatePolicy, comparison: Comparison, baseline: Baseline | None = None, *, name: str = "gates.toml"
) -> GateReport:
    """Judge every measurement that the policy names; ``passed`` when no row blocks.

    A row blocks when its outcome is not PASS and its severity 'fail'; the severity of a row is its gate's, lowered to
    'warn' for INCONCLUSIVE and MISSING rows where the policy says so. Drops and gains are those against the run's own
    reference, or, with ``baseline``, against that result's adapted checkpoint. The result's two-sided 95 % intervals
    become one-sided bounds by normal scaling. A subject none of whose sampled measurements differs from its reference
    at all (an adapter that is not applied, a scorer that says the same of everything) fails.

    Errors: ConfigError for a drop of a metric without a better direction; InvalidComparison when the baseline was
    asked differently; EvaluationError when items cannot be paired.
    """
    limits = [_Limit(gate, *limit, policy, comparison, baseline) for gate in policy.gate for limit in gate.limits]
    try:
        rows = [row for limit in limits for row in _rows(limit)]
    except ConfigError as error:
        raise error.at(name) from None
    blocked = any(row.outcome != "PASS" and row.severity == "fail" for row in rows)
    return GateReport(policy=name, passed=not blocked, rows=rows)


def _rows(limit: _Limit) -> Iterator[GateRow]:
    address = limit.gate.address
    subjects = subjects_of(address, limit.comparison)
    if not subjects:
        yield _row(limit, limit.gate.metric, "MISSING", "the result has no such checkpoint")
    for subject in subjects:
        found = measurements_at(address, subject, limit.comparison)
        applicable = [each for each in found if _applies(limit, each)]
        unmoved = nothing_changed(subject, limit.comparison)
        for each in applicable:
            yield _judged(limit, each, unmoved)
        if not applicable:
            named = limit.gate.metric.removeprefix(f"{address.subject}:")
            yield _row(limit, f"{subject}:{named}", "MISSING", _why_missing(limit, subject))


def _applies(limit: _Limit, found: Measurement) -> bool:
    """Whether the limit means something for the measurement; a pattern leaves out what has no difference by nature."""
    if limit.on_own_value:
        return True
    if limit.is_pattern:
        only_own_value = found.base is None and found.delta is None and found.missing_reason is None
        return found.direction != "none" and not only_own_value
    if found.direction == "none":
        line = f"line {limit.gate.line}" if limit.gate.line else None
        problem = f"{limit.name} on {limit.gate.metric!r}, a metric for which neither direction is better"
        raise ConfigError(problem, where=line, remedy="use min or max")
    return True


def _read(limit: _Limit, found: Measurement) -> Reading | Absent:
    """The value (``min``, ``max``) or the improvement (``max_drop``, ``min_gain``) that the limit is about."""
    confidence = limit.policy.confidence
    if limit.on_own_value:
        return own_estimate(found, confidence)
    if limit.baseline is None:
        reading = own_delta(found, confidence)
    elif found.area in EXACT_AREAS:
        reading = exact_reading(found, limit.baseline)
    else:
        reading = paired_reading(found, limit.comparison, limit.baseline, confidence)
    return reading.negated() if isinstance(reading, Reading) and found.direction == "lower" else reading


def _judged(limit: _Limit, found: Measurement, unmoved: bool) -> GateRow:
    address = address_of(found)
    reading = _read(limit, found)
    if isinstance(reading, Absent):
        if reading.outcome == "INCONCLUSIVE" and not limit.is_pattern:
            raise EvaluationError(f"{address} {reading.reason}", remedy="gate its own value with min or max instead")
        return _row(limit, address, reading.outcome, reading.reason)
    gate = limit.gate
    judgement = judge(reading, limit.name, limit.value, gate.rule, limit.policy.confidence)
    if judgement.outcome == "PASS" and gate.min_n is not None and not reading.exact and reading.n < gate.min_n:
        judgement = Judgement("INCONCLUSIVE", f"the gate asks for {gate.min_n:,} items")
    if unmoved and judgement.outcome != "FAIL" and not reading.exact:
        note = "no answer differs from the reference anywhere: the adapter is not applied, or the scorer is constant"
        judgement = Judgement("FAIL", note)
    evidence = _evidence(limit, reading)
    return _row(limit, address, judgement.outcome, f"{evidence}; {judgement.note}" if judgement.note else evidence)


def _evidence(limit: _Limit, reading: Reading) -> str:
    text = f"{reading.value:.4g}" if limit.on_own_value else f"improvement {reading.value:+.4g}"
    if reading.exact or reading.low is None or reading.high is None:
        return f"{text} ({reading.source}; no interval), n = {reading.n:,}"
    bounds = f"one-sided {100 * limit.policy.confidence:.4g} %: {reading.low:+.4g} to {reading.high:+.4g}"
    return f"{text} ({bounds}; {reading.source}), n = {reading.n:,}"


def _why_missing(limit: _Limit, subject: str) -> str:
    noted = [each for each in limit.comparison.missing if each.subject in (None, subject)]
    reasons = [each.reason for each in noted if fits(limit.gate.address.place, each.area)]
    return "; ".join(reasons) or "the result has no such measurement"


def _row(limit: _Limit, address: str, outcome: Outcome, evidence: str) -> GateRow:
    leave = {"INCONCLUSIVE": limit.policy.on_inconclusive, "MISSING": limit.policy.on_missing}
    return GateRow(
        address=address,
        rule=f"{limit.name} = {limit.value:g} ({limit.gate.rule})",
        outcome=outcome,
        severity="warn" if leave.get(outcome) == "warn" else limit.gate.severity,
        evidence=evidence,
    )
