"""What a repair scan says: do intruders explain the forgetting, which variants are worth having, which one to write.

A repair is compared with its controls at the same ‖ΔW‖, pair by pair on the same items. It has to surpass *all* of
them, so its p-value is the largest of theirs (an intersection–union test, which needs no further correction); over
the repairs of a scan, Benjamini–Hochberg.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lorascope.measures.significance import benjamini_hochberg
from lorascope.schema.repair import (
    RepairAxis,
    RepairChange,
    RepairContrast,
    RepairControl,
    RepairMetric,
    RepairRow,
    RepairVerdict,
)
from lorascope.workflows.repair_scoring import Board, change_of, differences
from lorascope.workflows.repair_variants import CONTROLS, ScannedChanges, Variant

RELEVANT_SHARE = 0.2
"""What a repair has to recover beyond a control to count as more: this share of what was forgotten."""
FEWEST_UNITS = 20
"""With fewer retention items, or groups of them, percentile intervals are too short to decide anything by."""
STRONG_LAMBDA = 0.5
"""That intruders do no more than a control can only be seen where they were scaled by this or less."""
_SIGNIFICANT = 0.05
_Place = tuple[Literal["top", "all"], float]


@dataclass(frozen=True)
class Trial:
    """One repair of a scan and what became of it.

    ``grew``: it makes ΔW longer, so its controls are ΔW stretched. ``neighbours_count`` is False where the neighbour
    control cannot be made in more than half of the modules.
    """

    family: Literal["top", "all"]
    strength: float
    screened_out: bool = False
    grew: bool = False
    neighbours_count: bool = True

    @property
    def name(self) -> str:
        """The repair's name."""
        return Variant(self.family, self.strength).name

    @property
    def required(self) -> list[RepairControl]:
        """The controls that it has to surpass: all that can be made."""
        return [control for control in CONTROLS if control != "neighbour" or self.neighbours_count]

    def name_of(self, control: RepairControl) -> str:
        """The name of one of its controls."""
        return Variant(self.family, self.strength, control).name


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


def trials_of(variants: Iterable[Variant], changes: ScannedChanges, screened_out: Container[str]) -> list[Trial]:
    """Every repair among the variants, with what bears on its comparisons."""
    return [
        Trial(
            each.family,
            each.strength,
            screened_out=each.name in screened_out,
            grew=changes.grew(each),
            neighbours_count=changes.neighbours_count(each),
        )
        for each in variants
        if each.family != "strength" and each.control is None
    ]


def contrast(
    retention: Board, target: Board | None, trials: Sequence[Trial], *, margin: float | None, seed: int
) -> list[RepairContrast]:
    """Every measured repair against each of its measured controls. ``margin`` is what counts as more retention."""
    planned = [(each, control) for each in trials for control in CONTROLS]
    pairs = {
        each.name_of(control): (each.name, each.name_of(control))
        for each, control in planned
        if each.name_of(control) in retention.scores and each.name in retention.scores
    }
    kept = differences(retention, pairs, margin, seed=seed)
    on_target = differences(target, pairs, target.margin, seed=seed) if target is not None else {}
    found = []
    for each, control in planned:
        name = each.name_of(control)
        more = change_of(kept.get(name))
        if more is None:
            continue
        lost = change_of(on_target.get(name))
        found.append(
            RepairContrast(
                family=each.family,
                strength=each.strength,
                control=control,
                retention=more,
                target=lost,
                target_kept=None if target is None else _is_kept(target.axis, lost),
                counts=control in each.required,
            )
        )
    return _adjusted(retention.axis, found)


def units_of(board: Board, items: int) -> int:
    """How many independent units the items are: their groups, an item without one being its own."""
    if board.groups is None:
        return items
    groups = {name for name in board.groups if name is not None}
    return min(items, len(groups) + sum(name is None for name in board.groups))


def judge_repairs(
    axis: RepairAxis | None,
    forgotten: RepairChange | None,
    contrasts: Sequence[RepairContrast],
    recovered: Mapping[str, RepairChange],
    trials: Sequence[Trial],
    *,
    intruders: int,
    margin: float | None,
    units: int,
) -> RepairVerdict:
    """Whether scaling intruders recovers more than its controls do.

    *explains*: some repair that does not lengthen ΔW recovers significantly more than the adapted checkpoint has and,
    adjusted, than each of its controls, none of which is missing, by ``margin`` or more (:data:`RELEVANT_SHARE` of the
    loss), with no target loss of the target's margin. *no_more*: some control was compared with every measured repair,
    and no repair recovers ``margin`` more than it does: the upper ends of all intervals lie below; in each measured
    family some λ is 0.5 or less. *no_effect*: the first pass dropped every repair, as it turned no flipped answer.
    *undecided* otherwise, and always with fewer than :data:`FEWEST_UNITS` units, whose intervals are too short.

    ``forgotten`` is base minus adapted on the axis, ``recovered`` the variants' changes against the adapted checkpoint.
    """
    said = RepairVerdict(
        outcome="not_measured",
        items=forgotten.n if forgotten is not None else 0,
        forgotten=forgotten,
        contrast_margin=margin,
    )
    if axis is None or forgotten is None:
        return said
    if intruders == 0:
        return said.model_copy(update={"outcome": "no_intruders"})
    if units < FEWEST_UNITS:
        return said.model_copy(update={"outcome": "undecided", "reasons": ["few_units"], "contrast_margin": None})
    if margin is None or lost_on(axis, forgotten) is None:
        return said.model_copy(update={"outcome": "nothing_forgotten"})
    if trials and all(each.screened_out for each in trials):
        return said.model_copy(update={"outcome": "no_effect", "lambdas": _span(trials)})
    measured = [each for each in trials if each.name in recovered]
    return said.model_copy(update=_compared(axis, contrasts, recovered, measured, margin))


def _compared(
    axis: RepairAxis,
    contrasts: Sequence[RepairContrast],
    recovered: Mapping[str, RepairChange],
    measured: Sequence[Trial],
    margin: float,
) -> dict[str, Any]:
    """What the comparisons of the measured repairs with their controls come to, as fields of the verdict."""
    found: dict[str, list[RepairContrast]] = {each.name: [] for each in measured}
    for each in contrasts:
        name = Variant(each.family, each.strength).name
        if each.counts and name in found:
            found[name].append(each)
    compared = [each for each in measured if found[each.name]]
    missing = {each.name: _missing(each, found[each.name]) for each in measured}
    said: dict[str, Any] = {"outcome": "undecided", "lambdas": _span(measured)}
    if not compared:
        named = [control for control in CONTROLS if any(control in each for each in missing.values())]
        return said | {"missing_controls": named, "reasons": ["no_controls" if measured else "none_measured"]}
    explaining = [
        each
        for each in compared
        if not each.grew and not missing[each.name] and _explains(axis, found[each.name], recovered[each.name], margin)
    ]
    smallest = {each.name: min(gain(axis, one.retention).value for one in found[each.name]) for each in compared}
    best = max(explaining or compared, key=lambda each: smallest[each.name])
    said |= {"best": best.name, "missing_controls": missing[best.name]}
    if explaining:
        return said | {"outcome": "explains"}
    weak = {each.family for each in measured} - {each.family for each in measured if each.strength <= STRONG_LAMBDA}
    against = None if weak else _unsurpassed(axis, found, margin)
    if against is not None:
        return said | {"outcome": "no_more", "against": against}
    return said | {"reasons": [*(["grew"] if best.grew else []), *(["weak_lambdas"] if weak else [])]}


def _unsurpassed(
    axis: RepairAxis, found: Mapping[str, Sequence[RepairContrast]], margin: float
) -> RepairControl | None:
    """The first control that every measured repair was compared with and that none surpasses by ``margin``."""
    for control in CONTROLS:
        highest = [
            [gain(axis, each.retention).high for each in those if each.control == control] for those in found.values()
        ]
        if all(ends and all(_below(end, margin) for end in ends) for ends in highest):
            return control
    return None


def _missing(trial: Trial, found: Sequence[RepairContrast]) -> list[RepairControl]:
    known = {each.control for each in found}
    return [control for control in trial.required if control not in known]


def _span(trials: Sequence[Trial]) -> tuple[float, float] | None:
    strengths = [each.strength for each in trials]
    return (min(strengths), max(strengths)) if strengths else None


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
    if row.retention.change.n < FEWEST_UNITS:
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
    by_repair: dict[_Place, list[RepairContrast]] = {}
    for each in contrasts:
        if each.counts:
            by_repair.setdefault((each.family, each.strength), []).append(each)
    largest = [max(_p_of_more(axis, each.retention) for each in found) for found in by_repair.values()]
    adjusted = dict(zip(by_repair, benjamini_hochberg(largest), strict=True))
    return [
        each.model_copy(update={"p_adjusted": adjusted[each.family, each.strength]}) if each.counts else each
        for each in contrasts
    ]


def _p_of_more(axis: RepairAxis, change: RepairChange) -> float:
    """The two-sided p-value where the repair recovers more, else 1: a test of one side that errs on the safe side."""
    return change.p_value if change.p_value is not None and gain(axis, change).value > 0 else 1.0


def _explains(axis: RepairAxis, contrasts: Sequence[RepairContrast], recovered: RepairChange, margin: float) -> bool:
    if not _above(gain(axis, recovered).low, 0.0):
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
