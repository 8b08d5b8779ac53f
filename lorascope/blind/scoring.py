"""From filled sheets to scores: checked against the key, unblinded, with the item as the unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from lorascope.blind.key import SheetRow, StudyKey
from lorascope.blind.sheets import DIMENSIONS, OVERALL, FilledRow, read_sheet
from lorascope.errors import DataError
from lorascope.schema.comparison import Delta, Estimate

RESAMPLES = 9999
_CODES = {code.lower(): code for code in OVERALL}


@dataclass(frozen=True, slots=True)
class Rating:
    """Mean ratings (1–5, higher is better) on one dimension, over the items that were rated on it on both sides."""

    base: Estimate
    adapted: Estimate
    delta: Delta


@dataclass(frozen=True, slots=True)
class StudyScores:
    """What the raters said.

    ``win_rate`` is (wins + ½ ties) / n of the adapted checkpoint, 0–1, 0.5 is a draw; 'both bad' is a tie, and so is
    an item whose two answers are the same. Its unit is the item (mean over its raters). ``sign_test_p`` is the exact
    two-sided sign test over items on which the raters together prefer a side; None when there is none. ``votes``
    counts single votes. ``ratings`` lacks a dimension that nobody rated.
    """

    win_rate: Estimate
    sign_test_p: float | None
    items_preferred: dict[str, int]
    votes: dict[str, int]
    identical_items: int
    raters: tuple[str, ...]
    absent_raters: tuple[str, ...]
    ratings: dict[str, Rating]


@dataclass(frozen=True, slots=True)
class _Vote:
    """One rater's view of one item: preference from -2 (base much) to 2 (adapted much), ratings by dimension."""

    row: SheetRow
    overall: str
    preference: int
    base: Mapping[str, int]
    adapted: Mapping[str, int]


def score_sheets(sheets: Sequence[Path], key: StudyKey, *, seed: int = 0) -> StudyScores:
    """Check and score the sheets; intervals are percentile bootstraps over items (``seed``).

    A rater whose sheet is not among them is reported as absent. DataError, with sheet and row or rater: a sheet of
    another study or a key that was changed, an unknown or doubled row, a rater's row that is missing, an ``overall``
    that is empty or no choice, a rating that is not a whole number from 1 to 5.
    """
    votes = _votes([row for sheet in sheets for row in read_sheet(sheet)], key)
    present = [rater for rater in key.raters if any(vote.row.rater == rater for vote in votes)]
    _all_rows(votes, key, present)
    by_item: dict[tuple[str, str], list[_Vote]] = {}
    for vote in votes:
        by_item.setdefault((vote.row.task, vote.row.item_id), []).append(vote)
    wins = [fmean(_win(vote.preference) for vote in by_item[item]) for item in sorted(by_item)]
    sums = [np.sign(sum(np.sign(vote.preference) for vote in item)) for item in by_item.values()]
    preferred = {"adapted": sums.count(1), "base": sums.count(-1), "neither": sums.count(0) + len(key.identical)}
    ratings = {name: _rating([by_item[item] for item in sorted(by_item)], name, seed) for name in DIMENSIONS}
    return StudyScores(
        win_rate=_estimate(wins + [0.5] * len(key.identical), seed),
        sign_test_p=_sign_test(preferred["adapted"], preferred["base"]),
        items_preferred=preferred,
        votes=_counts(votes),
        identical_items=len(key.identical),
        raters=tuple(present),
        absent_raters=tuple(rater for rater in key.raters if rater not in present),
        ratings={name: rating for name, rating in ratings.items() if rating is not None},
    )


def _votes(filled: Iterable[FilledRow], key: StudyKey) -> list[_Vote]:
    rows = {row.id: row for row in key.rows}
    commitment = key.commitment
    seen: dict[str, str] = {}
    votes = []
    for each in filled:
        if each.study != commitment:
            problem = "the row does not belong to this key: another study's sheet, or a key changed after export"
            raise DataError(problem, where=each.place, remedy="score each study with the key written with it")
        if each.id not in rows:
            raise DataError(f"the study has no row {each.id!r}", where=each.place, remedy="restore the id column")
        where = f"{each.place}, {rows[each.id].rater}"
        if each.id in seen:
            problem = f"row {each.id} is given twice, first in {seen[each.id]}"
            raise DataError(problem, where=where, remedy="give each rater's sheet once")
        seen[each.id] = each.place
        votes.append(_vote(each, rows[each.id], where))
    if not votes:
        raise DataError("the sheets hold no rows", remedy="give the sheets as the raters returned them")
    return votes


def _vote(filled: FilledRow, row: SheetRow, where: str) -> _Vote:
    code = _CODES.get(" ".join(filled.overall.lower().split()))
    if code is None:
        problem = f"overall is {filled.overall!r}" if filled.overall else "overall is empty"
        raise DataError(problem, where=where, remedy=f"one of: {', '.join(OVERALL)}")
    side, other = ("a", "b") if row.adapted == "A" else ("b", "a")
    preference = OVERALL[code] if side == "a" else -OVERALL[code]
    return _Vote(row, code, preference, _scores(filled, other, where), _scores(filled, side, where))


def _scores(filled: FilledRow, side: str, where: str) -> dict[str, int]:
    """Ratings of one side; empty cells are not given and stay out. '4.0' is a spreadsheet's way to write 4."""
    scores = {}
    for dimension in DIMENSIONS:
        text = filled.ratings[f"{dimension}_{side}"]
        if text:
            whole = text.removesuffix(".0")
            if whole not in ("1", "2", "3", "4", "5"):
                problem = f"{dimension}_{side} is {text!r}"
                raise DataError(problem, where=where, remedy="a whole number from 1 to 5, or empty")
            scores[dimension] = int(whole)
    return scores


def _all_rows(votes: Sequence[_Vote], key: StudyKey, present: Sequence[str]) -> None:
    given = {vote.row.id for vote in votes}
    for rater in present:
        missing = [row.id for row in key.rows if row.rater == rater and row.id not in given]
        if missing:
            problem = f"{len(missing)} of {rater}'s rows are missing, the first is {missing[0]}"
            raise DataError(problem, where=rater, remedy="return the whole sheet, every row with an overall choice")


def _win(preference: int) -> float:
    return 0.5 + 0.5 * float(np.sign(preference))


def _counts(votes: Sequence[_Vote]) -> dict[str, int]:
    return {
        "wins": sum(vote.preference > 0 for vote in votes),
        "losses": sum(vote.preference < 0 for vote in votes),
        "ties": sum(vote.overall == "tie" for vote in votes),
        "both_bad": sum(vote.overall == "both bad" for vote in votes),
    }


def _rating(items: Sequence[Sequence[_Vote]], dimension: str, seed: int) -> Rating | None:
    pairs = []
    for votes in items:
        both = [vote for vote in votes if dimension in vote.base and dimension in vote.adapted]
        if both:
            pairs.append((fmean(v.base[dimension] for v in both), fmean(v.adapted[dimension] for v in both)))
    if not pairs:
        return None
    base, adapted = ([pair[side] for pair in pairs] for side in (0, 1))
    changes = [after - before for before, after in pairs]
    mean = _estimate(changes, seed)
    delta = Delta(value=mean.value, low=mean.low, high=mean.high, n=mean.n, p_value=_wilcoxon(changes), test=_WILCOXON)
    return Rating(_estimate(base, seed), _estimate(adapted, seed), delta)


_WILCOXON = "Wilcoxon signed-rank over items (Pratt)"


def _wilcoxon(changes: Sequence[float]) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(changes, zero_method="pratt").pvalue) if any(changes) else 1.0


def _sign_test(wins: int, losses: int) -> float | None:
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else None


def _estimate(values: Sequence[float], seed: int) -> Estimate:
    """Mean with a bootstrap interval over items; no interval for one item or without any spread."""
    sample: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    n, mean = len(sample), float(sample.mean())
    if n < 2 or np.ptp(sample) == 0:
        return Estimate(value=mean, n=n, method="none")
    from scipy.stats import bootstrap

    rng = np.random.default_rng(seed)
    found = bootstrap((sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng, batch=1000)
    low, high = (float(bound) for bound in found.confidence_interval)
    return Estimate(value=mean, low=low, high=high, n=n, method=f"percentile bootstrap over items, {RESAMPLES}")
