"""What each rule of a policy means in words, and what drop it can see with this many items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lorascope.errors import ConfigError
from lorascope.gates.evaluation import Case, cases_of
from lorascope.gates.judging import Absent, Reading, Targets, quantile
from lorascope.gates.nearest import doubts
from lorascope.gates.pairing import Baseline
from lorascope.gates.power import Chances, Rules, normal_chances, right_wrong_chances
from lorascope.gates.readings import EXACT_AREAS
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Comparison
from lorascope.schema.policy import Gate, GatePolicy, LimitName

_ITEMS = (200, 500, 1_000, 2_000, 5_000)
_DISCORDANT = (0.05, 0.10, 0.20)
_POINTS = 0.05
_POWER = 0.80
_WIDTHS = {"0-1": 1.0, "0-100": 100.0, "-1-1": 1.0}
_LENGTHS = {"0-1": 1.0, "0-100": 100.0, "-1-1": 2.0}
_RIGHT_WRONG = frozenset({"accuracy", "exact_match", "subset_accuracy"})
_NOT_AT_HAND = "The baseline is not at hand: what follows is read off the difference to the run's own reference."
_FIXED = (
    "The spread is held fixed whatever the drop, as if it took the place of changes that are there; "
    "lorascope gate calibrate adds its drops to them, so that more items differ."
)
_REACH = "the shares of FAIL take the correction at its hardest, as if no other test of the gate stood"


@dataclass(frozen=True, slots=True)
class Seen:
    """The chances of each outcome for one true drop, in the metric's own scale, with ``n`` items.

    ``discordant`` is the share of items that differ, where it was assumed and not measured; ``needed`` the items with
    which an unchanged model passes with 80 % probability, None where none do.
    """

    address: str
    n: int
    drop: float
    chances: Chances
    discordant: float | None = None
    needed: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One limit of one gate in words; ``seen`` is empty for limits that have no drop to see.

    ``doubts`` are what the address can hardly mean; those that a result answers better are told without one alone.
    """

    metric: str
    rule: str
    line: int | None
    sentences: list[str]
    seen: list[Seen]
    doubts: tuple[str, ...] = ()


def explain(
    policy: GatePolicy,
    comparison: Comparison | None = None,
    baseline: Baseline | None = None,
    *,
    name: str = "gates.toml",
) -> list[Explanation]:
    """Every limit of the policy: what it compares, what its outcomes mean, and what it can see.

    With a result the numbers are those of its own items, by their number and their spread; without one they are for
    right and wrong answers of which 5, 10 or 20 % differ between the two sides. ``baseline`` is compared with where it
    is given. A baseline that only the policy names is told by name, and the spread is then that against the run's own
    reference, which the sentences say.

    Errors: ConfigError as for :func:`~lorascope.gates.evaluation.evaluate`.
    """
    try:
        return [each for gate in policy.gate for each in _of_gate(gate, policy, comparison, baseline)]
    except ConfigError as error:
        raise error.at(name) from None


def _of_gate(
    gate: Gate, policy: GatePolicy, comparison: Comparison | None, baseline: Baseline | None
) -> Iterator[Explanation]:
    cases = [] if comparison is None else cases_of(gate, policy, comparison, baseline)
    tests = sum(case.p_value is not None for case in cases) if gate.correction != "none" else 1
    source = policy.baseline if baseline is None else baseline.name
    for name, value in gate.limits:
        rules = Rules(name, value, gate.rule, policy.confidence_of(gate), max(tests, 1))
        own = [case for case in cases if case.limit.name == name]
        sentences = [*_meaning(gate, rules, source), *_consequences(gate, policy)]
        seen: list[Seen] = []
        if comparison is None:
            seen = _assumed(gate, rules)
            sentences += [_assumption(gate)] if seen else []
        else:
            if baseline is None and source is not None and name in ("max_drop", "min_gain"):
                sentences.append(_NOT_AT_HAND)
            sentences += [sentence for case in own for sentence in _told(case, rules)]
            seen = [each for case in own for each in _measured(case, rules)]
        rule = f"{name} = {value:g} ({gate.rule}{'' if gate.correction == 'none' else f', {gate.correction}'})"
        seen = [_at_least(each, gate.min_n) for each in seen]
        doubtful = tuple(doubts(gate.address)) if comparison is None else ()
        yield Explanation(gate.metric, rule, gate.line, [*sentences, *_closing(rules, seen)], seen, doubtful)


def _at_least(seen: Seen, min_n: int | None) -> Seen:
    """With ``min_n``: what has fewer items does not pass."""
    if min_n is None:
        return seen
    needed = None if seen.needed is None else max(seen.needed, min_n)
    chances = seen.chances
    if seen.n < min_n:
        chances = Chances(0.0, chances.failed, chances.passed + chances.inconclusive)
    return replace(seen, needed=needed, chances=chances)


def _meaning(gate: Gate, rules: Rules, baseline: str | None) -> Iterator[str]:
    """What is compared with what, and what PASS and FAIL mean."""
    address, limit, percent = gate.address, rules.limit, f"{100 * rules.confidence:.4g} %"
    whose = "every adapted checkpoint" if address.subject is None else f"the checkpoint {address.subject}"
    part = f", in the part {address.slice}" if address.slice else ""
    what = f"{address.place}.{address.metric} of {whose}{part}"
    against = "the run's own reference" if baseline is None else f"the adapted checkpoint in the baseline {baseline}"
    if rules.name in ("min", "max"):
        yield f"{what} is held against the fixed number {limit:g}; nothing else is compared with it."
    else:
        yield f"{what} is compared with {against}, over the same items."
    side = _SIDES[rules.name]
    if address.place in EXACT_AREAS:
        yield f"PASS: it is {side.format(limit=limit)}. FAIL: it is not. It is counted, so chance plays no part."
        return
    if rules.rule == "point":
        yield f"PASS: the value alone is {side.format(limit=limit)}. FAIL: it is not. Chance is not allowed for."
        return
    yield f"PASS: with {percent} confidence the true value is {side.format(limit=limit)}."
    if rules.name == "max_drop" and rules.rule == "significant":
        yield f"FAIL: the measured drop exceeds {limit:g}, and with {percent} confidence there is a drop at all."
    else:
        yield f"FAIL: with {percent} confidence the true value is not {side.format(limit=limit)}."
    yield "INCONCLUSIVE: the items can tell neither; the row says how many would."


_SIDES: dict[LimitName, str] = {
    "max_drop": "no more than {limit:g} worse",
    "min_gain": "at least {limit:g} better",
    "min": "at least {limit:g}",
    "max": "at most {limit:g}",
}


def _consequences(gate: Gate, policy: GatePolicy) -> Iterator[str]:
    """What the other settings of the gate do."""
    if gate.min_n is not None:
        yield f"Below {gate.min_n:,} items nothing sampled passes."
    if gate.correction != "none":
        kept = "the probability of any false FAIL" if gate.correction == "holm" else "the expected share of false FAILs"
        error = 100 * (1 - policy.confidence_of(gate))
        yield (
            f"A FAIL has to stand after {gate.correction} over all tests of this gate, which keeps {kept} at or "
            f"below {error:.3g} %; a PASS needs no correction: every row has to earn it."
        )
    if gate.severity == "warn":
        yield "No outcome of this gate fails the policy: its severity is warn."
        return
    states = (("INCONCLUSIVE", policy.on_inconclusive), ("MISSING", policy.on_missing))
    blocking = ["FAIL", *(outcome for outcome, action in states if action == "fail")]
    warned = [outcome for outcome, action in states if action == "warn"]
    tail = f"; {' and '.join(warned)} only warn{'s' if len(warned) == 1 else ''}" if warned else ""
    yield f"{' and '.join(blocking)} fail{'s' if len(blocking) == 1 else ''} the policy{tail}; INVALID exits 3."


def _told(case: Case, rules: Rules) -> Iterator[str]:
    """What the result has for one case, or why it has nothing; for other limits than drops the values it can tell."""
    reading = case.reading
    if isinstance(reading, Absent):
        yield f"{case.address}: {reading.outcome}, {reading.reason}."
    elif reading.exact:
        yield f"{case.address}: counted and not sampled, so the value alone decides ({reading.value:.4g} now)."
    elif (error := _error(reading, rules)) is None:
        yield f'{case.address}: {reading.n:,} items without an interval, so only rule = "point" decides.'
    elif error == 0:
        yield f"{case.address}: {reading.n:,} items that all agree, which proves nothing and does not pass."
    elif rules.name != "max_drop" and rules.rule != "point":
        yield _reach(case, error, reading.n, rules)


def _reach(case: Case, error: float, n: int, rules: Rules) -> str:
    """From where on a limit passes and fails with 80 % probability."""
    sign = -1 if rules.name == "max" else 1
    targets = Targets.of(rules.name, rules.limit, rules.rule)
    distance = error * (quantile(rules.confidence) + quantile(_POWER))
    passes, fails = sign * (targets.floor + distance), sign * (targets.fails_below - distance)
    return (
        f"{case.address}: with {n:,} items it passes with 80 % probability from a true value of {passes:.4g} on, and "
        f"fails with 80 % from {fails:.4g} on."
    )


def _error(reading: Reading, rules: Rules) -> float | None:
    if reading.low is None or reading.high is None:
        return None
    return (reading.high - reading.low) / 2 / quantile(rules.confidence)


def _measured(case: Case, rules: Rules) -> Iterator[Seen]:
    """Chances at the result's own number of items and spread."""
    if isinstance(case.reading, Absent) or case.reading.exact or rules.name != "max_drop":
        return
    error = _error(case.reading, rules)
    if not error:
        return
    n = case.reading.n
    needed = rules.needed(error * math.sqrt(n))
    scale = case.found.scale if case.found is not None else ""
    width = _WIDTHS.get(scale)
    for drop in _drops(rules.limit, None if width is None else _POINTS * width, _LENGTHS.get(scale, math.inf)):
        yield Seen(case.address, n, drop, normal_chances(-drop, error, rules), needed=needed)


def _drops(limit: float, points: float | None, length: float) -> list[float]:
    """No change, half the limit, the limit, twice the limit, and five points; none longer than the scale."""
    drops = {round(each, 12) for each in (0.0, limit / 2, limit, 2 * limit, points or 0.0)}
    return sorted(drop for drop in drops if drop <= length)


def _assumed(gate: Gate, rules: Rules) -> list[Seen]:
    """Chances for right and wrong answers at several numbers of items: of no change, the limit, twice it, five points.

    A drop takes at least as many items that differ, so that a larger one has no chances for a smaller share.
    """
    scale = _scale(gate)
    if rules.name != "max_drop" or scale is None or gate.address.place in EXACT_AREAS:
        return []
    shares = Rules(rules.name, rules.limit / scale, rules.rule, rules.confidence, rules.tests)
    drops = sorted({round(each, 12) for each in (0.0, shares.limit, 2 * shares.limit, _POINTS)})
    return [
        Seen(
            f"{100 * discordant:.0f} % differ",
            n,
            drop * scale,
            right_wrong_chances(-drop, discordant, n, shares),
            discordant,
            shares.needed(math.sqrt(discordant)),
        )
        for discordant in _DISCORDANT
        for n in _ITEMS
        for drop in drops
        if drop <= discordant
    ]


def _assumption(gate: Gate) -> str:
    """On what a table without a result rests."""
    shares = ", ".join(f"{100 * share:.0f}" for share in _DISCORDANT)
    told = f"The table assumes right and wrong answers, of which {shares} % differ between the two sides"
    if gate.address.metric in _RIGHT_WRONG:
        return f"{told}; --result takes the share from a result."
    return f"{told}. For other metrics it is an orientation; --result computes them with their own spread."


def _scale(gate: Gate) -> float | None:
    """What a drop is counted in: 1, or 100 on scales of 0–100; None on scales without ends."""
    try:
        return _WIDTHS.get(find_spec(gate.address.metric).scale)
    except ConfigError:
        return 1.0


def _closing(rules: Rules, seen: Sequence[Seen]) -> Iterator[str]:
    if not seen:
        return
    yield _FIXED
    if rules.tests > 1:
        yield f"{rules.tests:,} tests are corrected together; {_REACH}."
    if rules.limit == 0 and rules.rule != "point":
        yield "With max_drop = 0 an unchanged model hardly ever passes, however many items there are."
