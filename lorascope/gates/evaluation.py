"""A policy against a result: every measurement that a gate names, judged, and the report."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lorascope.errors import ConfigError
from lorascope.gates.families import adjusted
from lorascope.gates.judging import Absent, Judgement, Reading, fail_p_value, judge
from lorascope.gates.nearest import hint
from lorascope.gates.pairing import Baseline, baseline_warnings, counterpart, exact_reading, paired_reading
from lorascope.gates.plausibility import check_limit, check_limits, constant_scores, doubts, nothing_to_lose
from lorascope.gates.readings import EXACT_AREAS, nothing_changed, own_delta, own_estimate
from lorascope.gates.scores import RATES
from lorascope.gates.selection import address_of, fits, measurements_at, subjects_of
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.gates import GateReport, GateRow, Outcome
from lorascope.schema.policy import Gate, GatePolicy, LimitName
from lorascope.schema.values import Estimate

_CORRECTIONS = {"holm": "Holm", "benjamini-hochberg": "Benjamini-Hochberg"}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of one gate, with all that it is judged by."""

    gate: Gate
    name: LimitName
    value: float
    policy: GatePolicy
    comparison: Comparison
    baseline: Baseline | None

    @property
    def confidence(self) -> float:
        """Confidence of each one-sided bound."""
        return self.policy.confidence_of(self.gate)

    @property
    def on_own_value(self) -> bool:
        """Whether the limit is on the estimate itself and not on an improvement."""
        return self.name in ("min", "max")

    @property
    def is_pattern(self) -> bool:
        """Whether the address may name several metrics."""
        return "*" in self.gate.address.metric

    @property
    def rule(self) -> str:
        """The limit as the report names it."""
        extra = "" if self.gate.correction == "none" else f", {self.gate.correction}"
        return f"{self.name} = {self.value:g} ({self.gate.rule}{extra})"


@dataclass(frozen=True, slots=True)
class Case:
    """One limit on one measurement; ``found`` is None where nothing is at the address.

    ``harmless``: what is absent cannot have become worse, so that a pattern which names it in passing only warns.
    """

    limit: Limit
    address: str
    reading: Reading | Absent
    found: Measurement | None = None
    unmoved: bool = False
    harmless: bool = False

    @property
    def p_value(self) -> float | None:
        """Of the FAIL test; None where nothing is tested."""
        if isinstance(self.reading, Absent):
            return None
        limit, gate = self.limit, self.limit.gate
        corrected = gate.correction != "none"
        return fail_p_value(self.reading, limit.name, limit.value, gate.rule, limit.confidence, corrected=corrected)


def evaluate(
    policy: GatePolicy,
    comparison: Comparison,
    baseline: Baseline | None = None,
    *,
    name: str = "gates.toml",
) -> GateReport:
    """Judge every measurement that the policy names; ``passed`` when no row blocks.

    A row blocks when its outcome is not PASS and its severity 'fail'; the severity of a row is its gate's, lowered to
    'warn' for INCONCLUSIVE and MISSING rows where the policy says so, and never for INVALID ones. Drops and gains are
    those against the run's own reference, or, with ``baseline``, against that result's adapted checkpoint. What the
    baseline has at a gate's address and the result lacks is MISSING; so is, as a warning alone, what a pattern names
    and both sides leave undefined. The result's two-sided 95 % intervals become one-sided bounds by normal scaling. A
    subject none of whose sampled measurements differs from its reference at all (an adapter that is not applied, a
    scorer that says the same of everything) fails, and so does a measurement whose scores are all the same, unless
    they are the worst of the scale: there nothing is left to lose, and the row is INCONCLUSIVE.

    Errors: ConfigError for a drop of a metric without a better direction and for a limit that no value of the metric's
    scale can break, InvalidComparison for a baseline of another suite altogether.
    """
    try:
        rows = [row for gate in policy.gate for row in _judged(cases_of(gate, policy, comparison, baseline))]
    except ConfigError as error:
        raise error.at(name) from None
    return GateReport(
        policy=name,
        passed=not any(_blocks(row) for row in rows),
        rows=rows,
        confidence=policy.confidence,
        baseline=None if baseline is None else baseline.name,
        warnings=[] if baseline is None else baseline_warnings(comparison, baseline),
    )


def exit_code(report: GateReport) -> int:
    """0 when the policy passes or only warns, 3 when a row that blocks is INVALID, else 1.

    3 outranks 1: where some of the comparison was between different questions, the failures beside it may come of the
    same mistake, and whoever reads the code alone should look at the set-up before the model. An INVALID row of
    severity 'warn' blocks as little as any other.
    """
    if any(_blocks(row) and row.outcome == "INVALID" for row in report.rows):
        return 3
    return 0 if report.passed else 1


def _blocks(row: GateRow) -> bool:
    return row.outcome != "PASS" and row.severity == "fail"


def cases_of(gate: Gate, policy: GatePolicy, comparison: Comparison, baseline: Baseline | None) -> list[Case]:
    """Every limit of a gate on every measurement that it names: the family that its correction is for."""
    limits = [Limit(gate, *limit, policy, comparison, baseline) for limit in gate.limits]
    return [case for limit in limits for case in _cases(limit)]


def _cases(limit: Limit) -> Iterator[Case]:
    address, comparison = limit.gate.address, limit.comparison
    subjects = subjects_of(address, comparison)
    if not any(measurements_at(address, each, comparison) for each in subjects):
        check_limits(limit.gate)
    if not subjects:
        reason = f"the result has no such checkpoint; {hint(limit.gate, comparison)}"
        yield Case(limit, limit.gate.metric, Absent("MISSING", reason))
    for subject in subjects:
        found = measurements_at(address, subject, comparison)
        applicable = [each for each in found if _applies(limit, each)]
        for each in applicable:
            check_limit(limit.gate, limit.name, limit.value, each)
        unmoved = nothing_changed(subject, comparison)
        cases = [
            Case(limit, address_of(each), _checked(limit, _read(limit, each), each), each, unmoved)
            for each in applicable
        ]
        vanished = list(_vanished(limit, subject, found))
        yield from _lenient(cases) if limit.is_pattern else cases
        yield from vanished
        if not applicable and not vanished:
            named = limit.gate.metric.removeprefix(f"{address.subject}:")
            yield Case(limit, f"{subject}:{named}", Absent("MISSING", _why_missing(limit, subject, bool(found))))


def _vanished(limit: Limit, subject: str, found: Sequence[Measurement]) -> Iterator[Case]:
    """What the baseline has at the address and the result has not: a drop could hide there."""
    if limit.baseline is None or subject == limit.comparison.base.name:
        return
    old = limit.baseline.comparison
    before = counterpart(subject, old)
    if isinstance(before, Absent):
        return
    here = {_within_subject(each) for each in found}
    for each in measurements_at(limit.gate.address, before.name, old):
        judged = limit.on_own_value or each.direction != "none"
        if each.adapted is not None and judged and _within_subject(each) not in here:
            reason = f"the baseline has it; {_why_missing(limit, subject, named=True)}"
            yield Case(limit, f"{subject}:{_within_subject(each)}", Absent("MISSING", reason))


def _within_subject(found: Measurement) -> str:
    return address_of(found).removeprefix(f"{found.subject}:")


def _lenient(cases: Collection[Case]) -> Iterator[Case]:
    """The cases of a pattern: what neither side defines only warns, as long as something else can be judged."""
    judged = any(isinstance(case.reading, Reading) for case in cases)
    for case in cases:
        undefined = judged and case.found is not None and _undefined_on_both_sides(case.limit, case.found)
        yield replace(case, harmless=undefined)


def _undefined_on_both_sides(limit: Limit, found: Measurement) -> bool:
    """Whether neither side has a value because no item counts for it, so that nothing can have become worse.

    Of a rate of change that follows from its own reference: forgotten answers are counted among those that were right.
    What was not asked or failed is no such case.
    """
    if found.adapted is not None or not _no_item_counts(found):
        return False
    if limit.baseline is not None:
        before = counterpart(found.subject, limit.baseline.comparison)
        return not isinstance(before, Absent) and limit.baseline.left_undefined(found, before.name)
    return found.base is None


def _no_item_counts(found: Measurement) -> bool:
    reason = found.missing_reason or ""
    rate = found.area == "forgetting" and found.metric in RATES
    return rate or (found.area in ("task", "forgetting") and reason.endswith("undefined on these items"))


def _applies(limit: Limit, found: Measurement) -> bool:
    """Whether the limit means something for the measurement; a pattern leaves out what has no difference by nature."""
    if limit.on_own_value:
        return True
    if limit.is_pattern:
        return found.direction != "none" and not (limit.baseline is None and _of_one_side(found))
    if found.direction == "none":
        line = f"line {limit.gate.line}" if limit.gate.line else None
        problem = f"{limit.name} on {limit.gate.metric!r}, a metric for which neither direction is better"
        raise ConfigError(problem, where=line, remedy="use min or max")
    return True


def _of_one_side(found: Measurement) -> bool:
    """Whether it has a value and by nature no difference to the run's own reference, as numbers about the change.

    A reference that was not asked or failed is named in front of the reason.
    """
    if found.adapted is None or found.base is not None or found.delta is not None:
        return False
    return found.missing_reason is None or not found.missing_reason.startswith(f"{found.reference}: ")


def _read(limit: Limit, found: Measurement) -> Reading | Absent:
    """The value (``min``, ``max``) or the improvement (``max_drop``, ``min_gain``) that the limit is about."""
    if limit.on_own_value:
        return own_estimate(found, limit.confidence, as_told=limit.gate.rule == "point")
    if limit.baseline is None:
        reading = own_delta(found, limit.confidence)
        if isinstance(reading, Reading) and found.delta is not None:
            reading = replace(reading, p_value=found.delta.p_value)
    elif found.area in EXACT_AREAS:
        reading = exact_reading(found, limit.comparison, limit.baseline)
    else:
        reading = paired_reading(found, limit.comparison, limit.baseline, limit.confidence)
    return reading.negated() if isinstance(reading, Reading) and found.direction == "lower" else reading


def _checked(limit: Limit, reading: Reading | Absent, found: Measurement) -> Reading | Absent:
    """The reading, marked where it must not pass because no score of either side varies or none can become worse.

    Whoever asks for the value alone (``min`` or ``max`` with the rule 'point') gets it, with the doubt beside it.
    """
    if isinstance(reading, Absent) or reading.exact or reading.unchanged_because:
        return reading
    constant = constant_scores(found)
    if limit.on_own_value and limit.gate.rule == "point":
        return replace(reading, warning=reading.warning or constant)
    return replace(
        reading, suspicious_because=reading.suspicious_because or constant, hollow_because=nothing_to_lose(found)
    )  # fmt: skip


def _judged(cases: Sequence[Case]) -> Iterator[GateRow]:
    """The rows of one gate, whose FAIL tests are corrected together."""
    if not cases:
        return
    corrected = adjusted(cases[0].limit.gate.correction, [case.p_value for case in cases])
    tests = sum(each is not None for each in corrected)
    for case, p_adjusted in zip(cases, corrected, strict=True):
        if isinstance(case.reading, Absent) or case.found is None:
            yield _absent_row(case)
        else:
            yield _row(case, case.reading, case.found, p_adjusted, tests)


def _judgement(case: Case, reading: Reading, p_adjusted: float | None) -> Judgement:
    limit, gate = case.limit, case.limit.gate
    found = judge(reading, limit.name, limit.value, gate.rule, limit.confidence, p_adjusted=p_adjusted)
    if found.outcome == "PASS" and gate.min_n is not None and not reading.exact and reading.n < gate.min_n:
        found = Judgement("INCONCLUSIVE", f"the gate asks for {gate.min_n:,} items", gate.min_n)
    if case.unmoved and found.outcome != "FAIL" and not reading.exact:
        note = "no answer differs from the reference anywhere: the adapter is not applied, or the scorer is constant"
        found = Judgement("FAIL", note)
    return found


def _row(case: Case, reading: Reading, found: Measurement, p_adjusted: float | None, tests: int) -> GateRow:
    limit = case.limit
    judgement = _judgement(case, reading, p_adjusted)
    evidence = _evidence(limit, reading, found)
    if p_adjusted is not None and judgement.outcome != "PASS":
        named = _CORRECTIONS[limit.gate.correction]
        evidence += f", p = {case.p_value:.3g} ({p_adjusted:.3g} by {named} over {tests:,} tests)"
    return GateRow(
        address=case.address,
        rule=limit.rule,
        outcome=judgement.outcome,
        severity=_severity(limit, judgement.outcome),
        evidence=f"{evidence}; {judgement.note}" if judgement.note else evidence,
        value=reading.value,
        low=None if reading.exact else reading.low,
        high=None if reading.exact else reading.high,
        limit=limit.value,
        n=reading.n,
        needed_n=judgement.needed_n,
        p_value=case.p_value,
        p_adjusted=p_adjusted,
        warning=doubts(limit.name, limit.value, reading, found, limit.comparison),
        line=limit.gate.line,
    )


def _absent_row(case: Case) -> GateRow:
    limit, absent = case.limit, case.reading
    assert isinstance(absent, Absent)  # a case without a measurement has no reading
    severity = "warn" if case.harmless else _severity(limit, absent.outcome)
    return GateRow(
        address=case.address, rule=limit.rule, outcome=absent.outcome, severity=severity, evidence=absent.reason,
        limit=limit.value, line=limit.gate.line,
    )  # fmt: skip


def _severity(limit: Limit, outcome: Outcome) -> Literal["fail", "warn"]:
    leave = {"INCONCLUSIVE": limit.policy.on_inconclusive, "MISSING": limit.policy.on_missing}
    return "warn" if leave.get(outcome) == "warn" else limit.gate.severity


def _evidence(limit: Limit, reading: Reading, found: Measurement) -> str:
    """The value with its bounds; a worsening is told as a drop, its bounds in the sign of drops."""
    drop = not limit.on_own_value and reading.value < 0
    shown = reading.negated() if drop else reading
    text = f"drop {shown.value:.4g}" if drop else f"improvement {shown.value:+.4g}"
    text = f"{shown.value:.4g}" if limit.on_own_value else text + _old_and_new(limit, reading, found)
    if shown.exact or shown.low is None or shown.high is None:
        return f"{text} ({shown.source}; no interval), n = {shown.n:,}"
    bounds = f"one-sided {100 * limit.confidence:.4g} %: {shown.low:+.4g} to {shown.high:+.4g}"
    return f"{text} ({bounds}; {shown.source}), n = {shown.n:,}"


def _old_and_new(limit: Limit, reading: Reading, found: Measurement) -> str:
    """``, 0.944 → 0.361``; empty where the difference is not that of the two estimates, as over fewer common items."""
    before = found.base if limit.baseline is None else _estimate_before(limit.baseline, limit.comparison, found)
    if before is None or found.adapted is None:
        return ""
    old, new = before.value, found.adapted.value
    if not math.isclose(abs(new - old), abs(reading.value), rel_tol=1e-6, abs_tol=1e-9):
        return ""
    return f", {old:.3g} → {new:.3g}"


def _estimate_before(baseline: Baseline, comparison: Comparison, found: Measurement) -> Estimate | None:
    subject = counterpart(found.subject, baseline.comparison)
    if isinstance(subject, Absent):
        return None
    of_base = found.area in EXACT_AREAS or found.reference == comparison.base.name
    before = baseline.measurement(found, subject.name, of_base=of_base)
    return None if before is None else before.adapted


def _why_missing(limit: Limit, subject: str, named: bool) -> str:
    """The result's own reasons, else that it has nothing there, with the addresses that are spelt most like it."""
    noted = [each for each in limit.comparison.missing if each.subject in (None, subject)]
    reasons = [each.reason for each in noted if fits(limit.gate.address.place, each.area)]
    if reasons:
        return "; ".join(reasons)
    near = "" if named else hint(limit.gate, limit.comparison)
    return "the result has no such measurement" + (f"; {near}" if near else "")
