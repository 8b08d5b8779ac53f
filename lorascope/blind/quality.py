"""How far each rater can be trusted: repeats, checks, identical rows and sides; whom the registered plan leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lorascope.blind.checking import CheckedSheets
from lorascope.blind.key import StudyKey
from lorascope.blind.plan import Exclusions
from lorascope.blind.votes import BOTH_BAD, Vote
from lorascope.measures.significance import mcnemar
from lorascope.schema.human import RaterQuality

_FEWEST_REPEATS = 4
_FEWEST_DECIDED = 10
_CONSISTENT = 0.6
_CHECKS = 0.5
_ONE_SIDED = 0.001


def rater_quality(checked: CheckedSheets, key: StudyKey) -> list[RaterQuality]:
    """What the rows of every rater of the study say, in the key's order; nobody is excluded yet.

    ``rows`` counts all filled rows, ``left`` and ``right`` the decided votes of rated rows alone, whose sides are
    balanced. A repeat counts only with the row that it repeats. A check is passed by preferring the answer that fits,
    not by a tie; one that is called 'both bad' does not count, since the answer that fits may help nobody either.
    """
    by_rater: dict[str, list[Vote]] = {rater: [] for rater in key.raters}
    for vote in checked.votes:
        by_rater[vote.row.rater].append(vote)
    return [_quality(rater, votes, checked.sheets.get(rater), key) for rater, votes in by_rater.items()]


def _quality(rater: str, votes: Sequence[Vote], sheet: str | None, key: StudyKey) -> RaterQuality:
    rated = {vote.row.id: vote for vote in votes if vote.row.kind == "rated"}
    repeats = [
        _same(rated[vote.row.of], vote, key) for vote in votes if vote.row.kind == "repeat" and vote.row.of in rated
    ]
    checks = [_passed(vote) for vote in votes if vote.row.kind == "mismatched" and vote.choice != BOTH_BAD]
    identical = [vote.for_a == 0 for vote in votes if vote.row.kind == "identical"]
    sides = [vote.for_a for vote in rated.values()]
    return RaterQuality(
        rater=rater,
        sheet=sheet,
        present=sheet is not None,
        rows=len(votes),
        repeats=len(repeats),
        repeats_consistent=sum(repeats),
        checks=len(checks),
        checks_passed=sum(checks),
        identical=len(identical),
        identical_tied=sum(identical),
        left=sum(side > 0 for side in sides),
        right=sum(side < 0 for side in sides),
    )


def _same(original: Vote, repeat: Vote, key: StudyKey) -> bool:
    """Whether both prefer the same system, or none; how much they prefer it does not matter."""
    first, again = (vote.preference(key.items[vote.row.item]) for vote in (original, repeat))
    return (first > 0) - (first < 0) == (again > 0) - (again < 0)


def _passed(check: Vote) -> bool:
    return check.for_a < 0 if check.row.wrong == "A" else check.for_a > 0


def apply_exclusions(qualities: Iterable[RaterQuality], rules: Exclusions | None) -> list[RaterQuality]:
    """The same raters, ``excluded`` filled in with rule and numbers where a registered rule leaves their votes out.

    Shares and rules are compared rounded to two decimals, so that a rule of 0.67 lets two of three pass. A rater with
    no row of the kind that a rule asks for is not excluded by it: see :func:`unjudged`.
    """
    return [each.model_copy(update={"excluded": _excluded(each, rules)}) if rules else each for each in qualities]


def _excluded(quality: RaterQuality, rules: Exclusions) -> str | None:
    judged = (
        ("passed", "checks", quality.checks_passed, quality.checks, rules.min_checks_passed),
        ("consistent in", "repeats", quality.repeats_consistent, quality.repeats, rules.min_repeat_consistency),
    )
    broken = [
        f"{verb} {good} of {of} {rows} ({good / of:.2f}), the plan asks for at least {least:.2f}"
        for verb, rows, good, of, least in judged
        if least is not None and of and round(good / of, 2) < round(least, 2)
    ]
    return "; ".join(broken) or None


def unjudged(qualities: Iterable[RaterQuality], rules: Exclusions) -> list[str]:
    """Registered rules that could not be applied to a rater, in words."""
    found = []
    for each in qualities:
        for rows, of, least in (
            ("checks", each.checks, rules.min_checks_passed),
            ("repeats", each.repeats, rules.min_repeat_consistency),
        ):
            if each.present and least is not None and not of:
                told = f"so the registered rule on {rows} could not be applied"
                found.append(f"{each.rater} answered no {rows} that count, {told}")
    return found


def quality_warnings(qualities: Iterable[RaterQuality]) -> list[str]:
    """What a reader should know of raters whose votes count.

    * Half of the checks or more failed. Clicking at random fails two of three with probability 0.5 to 0.74, a rater
      who sees nine of ten with 0.03.
    * Fewer than 60 % of at least four repeats consistent. Coin tosses between A and B are consistent in half, with
      ties in a third; careful raters in four fifths or more, so that of twelve repeats coin tosses fall below with
      probability 0.81 and careful raters with 0.07.
    * One side chosen far more often than sides can explain (exact binomial p < 0.001, at least ten decided votes).
      Systems stand on both sides equally often, so no preference among them has this effect.
    * A side preferred in more than half of the rows with twice the same answer.
    """
    return [warning for each in qualities if each.present and each.excluded is None for warning in _warnings(each)]


def _warnings(quality: RaterQuality) -> list[str]:
    found, rater = [], quality.rater
    if quality.checks and quality.checks_passed <= _CHECKS * quality.checks:
        found.append(f"{rater} passed only {quality.checks_passed} of {quality.checks} checks")
    if quality.repeats >= _FEWEST_REPEATS and quality.repeats_consistent < _CONSISTENT * quality.repeats:
        found.append(
            f"{rater} was consistent in only {quality.repeats_consistent} of {quality.repeats} repeats; "
            "tossing a coin would be in half"
        )
    decided = quality.left + quality.right
    if decided >= _FEWEST_DECIDED and mcnemar(quality.left, quality.right) < _ONE_SIDED:
        side, votes = ("A", quality.left) if quality.left > quality.right else ("B", quality.right)
        found.append(f"{rater} chose side {side} in {votes} of {decided} decided votes (exact p < {_ONE_SIDED:g})")
    if quality.identical and 2 * quality.identical_tied < quality.identical:
        preferred = quality.identical - quality.identical_tied
        found.append(f"{rater} preferred a side in {preferred} of {quality.identical} rows with twice the same answer")
    return found
