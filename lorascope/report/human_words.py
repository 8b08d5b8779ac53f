"""What blind raters said, in sentences: which answers they preferred, how far they agree, whether a side drew them.

Where a plan was registered, its sign test decides whether a preference is said, at its level; else the 95 % interval
of the win rate does. Showing no preference is not the same as showing that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorascope.report import numbers
from lorascope.report.human_notes import told as note_told
from lorascope.report.texts import Texts
from lorascope.report.verdicts import SYMBOLS, Tone
from lorascope.schema.comparison import Comparison
from lorascope.schema.human import Alpha, EarlierRate, HumanReport, HumanStudy, PairOutcome, SignTest
from lorascope.schema.values import Delta, Estimate

_TENTATIVE, _RELIABLE = 0.667, 0.8
"""Krippendorff 2004, Content Analysis, chapter 11: for tentative conclusions, and for relying on single ratings."""


@dataclass(frozen=True, slots=True)
class Said:
    """A judgement with its sign, and the numbers that it rests on."""

    tone: Tone
    symbol: str
    lead: str
    text: str


def share(fraction: float) -> str:
    """A share as per cent, a small one as ``< 0.1 %``: its further digits would say nothing."""
    return f"<{numbers.SPACE}0.1{numbers.SPACE}%" if 0 < fraction < 0.001 else numbers.percent(fraction)


def share_interval(of: Estimate | None) -> str:
    """``[54 %, 70 %]``, or nothing where no interval is defined."""
    if of is None or of.low is None or of.high is None:
        return ""
    return f"[{share(of.low)},{numbers.SPACE}{share(of.high)}]"


def two_digits(of: Estimate | Delta | None, *, with_sign: bool = False) -> str:
    """``[0.30, 0.52]``, or nothing where no interval is defined: ratings, agreement and strengths."""
    if of is None or of.low is None or of.high is None:
        return ""
    low, high = (signed(end) if with_sign else hundredths(end) for end in (of.low, of.high))
    return f"[{low},{numbers.SPACE}{high}]"


def hundredths(value: float | None) -> str:
    """Two decimals and no more; what rounds to nothing keeps its minus sign, which tells on which side of 0 it lies."""
    return numbers.ABSENT if value is None else f"{value:.2f}".replace("-", numbers.MINUS)


def signed(value: float) -> str:
    """A difference with two decimals and its sign always shown."""
    return ("+" if value > 0 else "") + hundredths(value)


def favoured(rate: Estimate) -> int:
    """1 when the interval of a share lies above one half, -1 when below, 0 when it holds it or there is none."""
    if rate.low is None or rate.high is None:
        return 0
    return 1 if rate.low > 0.5 else -1 if rate.high < 0.5 else 0


def preferred(pair: PairOutcome, study: HumanStudy) -> int:
    """1 when the raters are said to prefer the first, -1 the second, 0 when no preference is shown.

    With a registered plan its test decides: it must reject at its level, and on the side where the win rate lies.
    Without one the 95 % interval does.
    """
    if study.plan is None:
        return favoured(pair.win_rate)
    leading = (pair.win_rate.value > 0.5) - (pair.win_rate.value < 0.5)
    return leading if _tested(pair.sign_test, study.alpha) == leading else 0


def pair_said(pair: PairOutcome, study: HumanStudy, comparison: Comparison, words: Texts) -> Said:
    """Who is preferred to whom, as far as it is shown, and the numbers: test, items, raters, agreement."""
    side = preferred(pair, study)
    facts = [_test(pair, words), _counted(pair, words), *_trust(study, words)]
    text = words.ended(words.joined(facts))
    doubt = _doubt(pair, study, words)
    tone = _tone(pair, side, comparison)
    lead = _lead(pair, side, words, registered=study.plan is not None)
    return Said(tone, SYMBOLS[tone], lead, f"{text} {doubt}".strip())


def _lead(pair: PairOutcome, side: int, words: Texts, *, registered: bool) -> str:
    rate, winner, loser = pair.win_rate, pair.first, pair.second
    if side < 0:
        ends = {"low": None if rate.high is None else 1 - rate.high, "high": None if rate.low is None else 1 - rate.low}
        rate = rate.model_copy(update={"value": 1 - rate.value, **ends})
        winner, loser = loser, winner
    interval = share_interval(rate)
    if not side and not interval and not registered:
        return words("human.no_interval", first=winner, second=loser, rate=share(rate.value))
    key = "human.preferred" if side else "human.not_registered" if registered else "human.no_preference"
    found = words("human.interval", interval=interval) if interval else words("human.without_interval")
    return words(key, first=winner, second=loser, rate=share(rate.value), interval=found)


def _tone(pair: PairOutcome, side: int, comparison: Comparison) -> Tone:
    """Good or bad only where one of the two is the base; between two adapted checkpoints neither is."""
    if not side:
        return "unclear"
    base = comparison.base.name
    if base not in (pair.first, pair.second):
        return "neutral"
    return "good" if (side > 0) == (pair.second == base) else "bad"


def _test(pair: PairOutcome, words: Texts) -> str:
    test = pair.sign_test
    undecided = numbers.count(test.undecided)
    if test.p_value is None:
        return words("human.no_test", undecided=undecided)
    counts = {
        "wins": words.several("human.test_items", test.wins),
        "losses": numbers.count(test.losses),
        "undecided": undecided,
    }
    return words("human.sign_test", p=_equals(test.p_value), first=pair.first, second=pair.second, **counts)


def _equals(p: float) -> str:
    shown = numbers.p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"


def _tested(test: SignTest, level: float) -> int:
    """1 or -1 where the test rejects at the level (it does so at the level itself), by its side; else 0."""
    if test.p_value is None or test.p_value > level:
        return 0
    return (test.wins > test.losses) - (test.wins < test.losses)


def _doubt(pair: PairOutcome, study: HumanStudy, words: Texts) -> str:
    """Where the interval, weighted back to the population, and the test of the drawn items do not say the same."""
    shown, tested = favoured(pair.win_rate), _tested(pair.sign_test, study.alpha)
    if study.plan is None:
        return "" if shown == tested else words("human.test_shows" if tested else "human.test_silent")
    level = f"{study.alpha:g}"
    if not tested:
        return words("human.registered_silent", level=level) if shown else ""
    if preferred(pair, study) == 0:
        return words("human.registered_against", level=level)
    return "" if shown == tested else words("human.registered_alone", level=level)


def _counted(pair: PairOutcome, words: Texts) -> str:
    items = words.several("items", pair.items)
    return words("human.identical", items=items, count=numbers.count(pair.identical)) if pair.identical else items


def _trust(study: HumanStudy, words: Texts) -> list[str]:
    counted = [rater for rater in study.raters if rater.present and not rater.excluded]
    excluded = sum(rater.excluded is not None for rater in study.raters)
    raters = words.several("human.raters", len(counted))
    told = [words("human.with_excluded", raters=raters, count=excluded) if excluded else raters]
    overall = next((each for each in study.alphas if (each.name, each.level) == ("overall", "nominal")), None)
    if overall is not None and overall.estimate is not None:
        level = words("human.level.nominal")
        alpha = words("human.alpha_of", level=level, value=hundredths(overall.estimate.value))
        told.append(f"{alpha} {two_digits(overall.estimate)}".strip())
    return told if len(study.pairs) < 2 else [words("human.whole_study", told=words.joined(told))]


def alpha_meaning(alpha: Alpha, words: Texts) -> str:
    """What an agreement lets one rest on it, in a few words."""
    found = alpha.estimate
    if found is None:
        return note_told(alpha.missing_reason, words)[0] if alpha.missing_reason else words("human.alpha.unknown")
    if found.high is not None and found.high < 0:
        return words("human.alpha.below")
    if found.low is not None and found.low <= 0:
        return words("human.alpha.chance")
    if found.value < _TENTATIVE:
        return words("human.alpha.low")
    return words("human.alpha.tentative" if found.value < _RELIABLE else "human.alpha.reliable")


def side_said(study: HumanStudy, words: Texts) -> str:
    """Whether the raters leaned to one side, nothing where no vote was decided."""
    rate = study.left_rate
    if rate is None:
        return ""
    lean = {1: "left", -1: "right", 0: "none"}[favoured(rate)]
    key = f"human.side.{lean}" if rate.low is not None else "human.side.unknown"
    return words(key, rate=share(rate.value), interval=share_interval(rate))


def traces(study: HumanStudy, report: HumanReport, words: Texts) -> list[str]:
    """What else was scored into the result that answers the study's question: nothing may be chosen unseen."""
    told = []
    for each in report.earlier:
        if each.study == study.study:
            rates = _rates(each.win_rates, words)
            key = "human.scored_before" if each.sheets else "human.scored_before_unknown"
            told.append(words(key, when=_when(each.scored, words), rates=rates))
    for other in report.studies:
        if other.study != study.study and other.asks_like(study):
            when, rates = _when(other.scored, words), _rates(other.pairs, words)
            told.append(words("human.asked_before", study=other.study, when=when, rates=rates))
    return told


def _when(scored: str | None, words: Texts) -> str:
    return "" if scored is None else words("human.when", time=scored.replace("T", " ").replace("+00:00", " UTC"))


def _rates(found: Sequence[EarlierRate | PairOutcome], words: Texts) -> str:
    told = []
    for each in found:
        pair = words("human.rate_of", first=each.first, second=each.second)
        told.append(f"{pair} {share(each.win_rate.value)} {share_interval(each.win_rate)}".strip())
    return words.joined(told)


def human_lines(comparison: Comparison, words: Texts) -> list[Said]:
    """What the terminal says of the human test: every pair, what was scored besides, then raters left out."""
    report = comparison.human or HumanReport(studies=[])
    lines = []
    for study in report.studies:
        lines += [pair_said(pair, study, comparison, words) for pair in study.pairs]
        lines += [Said("unclear", SYMBOLS["bad"], told, "") for told in traces(study, report, words)]
        for rater in study.raters:
            if rater.excluded is not None:
                told = words("human.left_out", rater=rater.rater, rule=note_told(rater.excluded, words)[0])
                lines.append(Said("unclear", SYMBOLS["bad"], told, ""))
    return lines
