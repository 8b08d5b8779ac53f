"""What a repair scan says: do intruders explain the forgetting, which variants are worth having, which one to write.

A repair is compared with its controls at the same ‖ΔW‖, pair by pair on the same items. It has to surpass *all* of
them, so its p-value is the largest of theirs (an intersection–union test, which needs no further correction); over
the repairs of a scan, Benjamini–Hochberg.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lorascope.measures.significance import benjamini_hochberg
from lorascope.schema.repair import (
    RepairAxis,
    RepairChange,
    RepairContrast,
    RepairControl,
    RepairMetric,
    RepairOutcome,
    RepairRow,
    RepairVerdict,
)
from lorascope.workflows.repair_scoring import Board, change_of, differences
from lorascope.workflows.repair_variants import CONTROLS, Variant

RELEVANT_SHARE = 0.2
"""What a repair has to recover beyond a control to count as more: this share of what was forgotten."""
_SIGNIFICANT = 0.05
_Place = tuple[Literal["top", "all"], float]


@dataclass(frozen=True)
class Gain:
    """A change with the sign turned so that better is positive; bounds are None where there is no interval."""

    value: float
    low: float | None
    high: float | None


def gain(axis: RepairAxis, change: RepairChange) -> Gain:
    """The improvement that a change on this axis is."""
    if axis.direction != "lower":
        return Gain(change.value, change.low, change.high)
    low = None if change.high is None else -change.high
    return Gain(-change.value, low, None if change.low is None else -change.low)


def lost_on(axis: RepairAxis, base_minus_adapted: RepairChange | None) -> float | None:
    """What was lost on the retention axis, in its own scale, above 0; None where no loss is significant."""
    if base_minus_adapted is None:
        return None
    lost = gain(axis, base_minus_adapted)
    return lost.value if lost.low is not None and lost.low > 0 else None


def contrast(
    retention: Board, target: Board | None, variants: Sequence[Variant], *, margin: float | None, seed: int
) -> list[RepairContrast]:
    """Every measured repair against each of its measured controls. ``margin`` is what counts as more retention."""
    repairs = [each for each in variants if each.family != "strength" and each.control is None]
    controls = [Variant(each.family, each.strength, name) for each in repairs for name in CONTROLS]
    pairs = {
        each.name: (Variant(each.family, each.strength).name, each.name)
        for each in controls
        if each.name in retention.scores and Variant(each.family, each.strength).name in retention.scores
    }
    kept = differences(retention, pairs, margin, seed=seed)
    on_target = differences(target, pairs, target.margin, seed=seed) if target is not None else {}
    found = []
    for each in controls:
        more = change_of(kept.get(each.name))
        if more is None or each.control is None or each.family == "strength":
            continue
        lost = change_of(on_target.get(each.name))
        found.append(
            RepairContrast(
                family=each.family,
                strength=each.strength,
                control=each.control,
                retention=more,
                target=lost,
                target_kept=None if target is None else _is_kept(target.axis, lost),
            )
        )
    return _adjusted(retention.axis, found)


def judge_repairs(
    axis: RepairAxis | None,
    forgotten: RepairChange | None,
    contrasts: Sequence[RepairContrast],
    recovered: Mapping[str, RepairChange],
    *,
    intruders: int,
    margin: float | None,
) -> RepairVerdict:
    """Whether scaling intruders recovers more than its controls do.

    *explains*: some repair recovers significantly more than the adapted checkpoint has and, adjusted, than each of its
    controls, by ``margin`` or more (:data:`RELEVANT_SHARE` of the loss), with no target loss of the target's margin.
    *no_more*: some control is such that no repair recovers ``margin`` more than it does: the upper ends of all
    intervals lie below. *undecided* otherwise; *no_effect* where no repair turned any flipped answer.

    ``forgotten`` is base minus adapted on the axis, ``recovered`` the repairs' changes against the adapted checkpoint.
    """
    items = forgotten.n if forgotten is not None else 0

    def said(outcome: RepairOutcome, best: str | None = None, against: RepairControl | None = None) -> RepairVerdict:
        return RepairVerdict(
            outcome=outcome, items=items, forgotten=forgotten, contrast_margin=margin, best=best, against=against
        )

    if axis is None or forgotten is None:
        return said("not_measured")
    if intruders == 0:
        return said("no_intruders")
    if margin is None or lost_on(axis, forgotten) is None:
        return said("nothing_forgotten")
    by_repair = _by_repair(contrasts)
    if not by_repair:
        return said("no_effect")
    smallest = {place: min(gain(axis, each.retention).value for each in found) for place, found in by_repair.items()}
    explaining = [
        place
        for place, found in by_repair.items()
        if _explains(axis, found, recovered.get(Variant(*place).name), margin)
    ]
    best = Variant(*max(explaining or smallest, key=smallest.__getitem__)).name
    if explaining:
        return said("explains", best)
    for control in CONTROLS:
        against = [each.retention for each in contrasts if each.control == control]
        if against and all(_below(gain(axis, change).high, margin) for change in against):
            return said("no_more", best, control)
    return said("undecided", best)


def with_front(rows: Sequence[RepairRow]) -> list[RepairRow]:
    """Mark the rows that no other row surpasses: at least as good on both axes, and better on one."""
    places = {row.name: _place(row) for row in rows}
    known = {name: place for name, place in places.items() if place is not None}

    def surpassed(place: tuple[float, float]) -> bool:
        return any(other[0] >= place[0] and other[1] >= place[1] and other != place for other in known.values())

    return [row.model_copy(update={"front": row.name in known and not surpassed(known[row.name])}) for row in rows]


def choose(rows: Sequence[RepairRow]) -> RepairRow | None:
    """The variant to write: on the front, surely recovering something, surely without a target loss of the margin.

    Of those, the one with the highest retention; of equal ones, the first. Controls are not written, nor the base
    (strength 0). None where nothing qualifies, and where target or retention was not measured.
    """
    fit = [row for row in rows if row.front and row.control is None and row.strength > 0 and _worth_it(row)]
    return max(fit, key=lambda row: (_place(row) or (0.0, 0.0))[0], default=None)


def _worth_it(row: RepairRow) -> bool:
    if row.retention is None or row.retention.change is None or row.target is None:
        return False
    low = gain(row.retention.axis, row.retention.change).low
    return low is not None and low > 0 and bool(_is_kept(row.target.axis, row.target.change))


def _is_kept(axis: RepairAxis, change: RepairChange | None) -> bool | None:
    """Whether the interval excludes a loss of the margin or more; None without margin or interval."""
    if change is None or change.margin is None:
        return None
    low = gain(axis, change).low
    return None if low is None else low > -change.margin


def _adjusted(axis: RepairAxis, contrasts: Sequence[RepairContrast]) -> list[RepairContrast]:
    by_repair = _by_repair(contrasts)
    largest = [max(_p_of_more(axis, each.retention) for each in found) for found in by_repair.values()]
    adjusted = dict(zip(by_repair, benjamini_hochberg(largest), strict=True))
    return [each.model_copy(update={"p_adjusted": adjusted[each.family, each.strength]}) for each in contrasts]


def _p_of_more(axis: RepairAxis, change: RepairChange) -> float:
    """The two-sided p-value where the repair recovers more, else 1: a test of one side that errs on the safe side."""
    return change.p_value if change.p_value is not None and gain(axis, change).value > 0 else 1.0


def _by_repair(contrasts: Iterable[RepairContrast]) -> dict[_Place, list[RepairContrast]]:
    found: dict[_Place, list[RepairContrast]] = {}
    for each in contrasts:
        found.setdefault((each.family, each.strength), []).append(each)
    return found


def _explains(
    axis: RepairAxis, contrasts: Sequence[RepairContrast], recovered: RepairChange | None, margin: float
) -> bool:
    if recovered is None or not _above(gain(axis, recovered).low, 0.0):
        return False
    return all(
        each.p_adjusted is not None
        and each.p_adjusted <= _SIGNIFICANT
        and _above(gain(axis, each.retention).low, 0.0)
        and gain(axis, each.retention).value >= margin
        and (each.target is None or each.target_kept is True)
        for each in contrasts
    )


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _place(row: RepairRow) -> tuple[float, float] | None:
    """(retention, target), higher is better in both; None where one was not measured."""
    retention, target = _height(row.retention), _height(row.target)
    return None if retention is None or target is None else (retention, target)


def _height(metric: RepairMetric | None) -> float | None:
    if metric is None or metric.value is None:
        return None
    return -metric.value.value if metric.axis.direction == "lower" else metric.value.value
