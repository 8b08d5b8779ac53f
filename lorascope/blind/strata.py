"""Kinds of items that are drawn from apart: by task, length of the answers, and whether a checkpoint flipped them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from lorascope.blind.candidates import Candidate

_LENGTHS = ("short", "middle", "long")
_FEWEST_FOR_LENGTHS = 18
_TASK_APART, _FLIP_APART = 10, 100


@dataclass(frozen=True, slots=True)
class _Cell:
    """The finest kind of item. ``length`` is 0, 1, 2, or None in a task that is not divided by it."""

    task: str
    length: int | None
    flipped: bool | None


@dataclass(frozen=True, slots=True)
class Layer:
    """One stratum before it is drawn from. ``flipped``: all of its items are."""

    name: str
    flipped: bool
    items: tuple[Candidate, ...]


_Group = frozenset[_Cell]


def make_layers(candidates: Sequence[Candidate], *, total: int, pairs: int) -> list[Layer]:
    """Divide the candidates into strata from which ``total`` items for ``pairs`` pairs of systems can be drawn.

    The finest division is task by length (terciles of the longest answer's length within the task, where it has 18
    items or more) by flip (fixed or broken by a compared checkpoint, in tasks where flips are known at all).
    A stratum of which nothing is drawn could not be weighted, and one item has no spread. So a stratum with fewer
    items than pairs (or than two) is joined to its neighbour; then the nearest strata are joined until two items for
    each pair can be drawn from every one (all of it where it has fewer). Near are first lengths of one task and flip,
    then tasks, and last flipped and other items; among equally near ones the smallest are joined.
    """
    by_cell = _cells(candidates)
    sizes = {cell: len(items) for cell, items in by_cell.items()}
    groups = [frozenset({cell}) for cell in by_cell]
    while len(groups) > 1 and (joined := _next_join(groups, sizes, total, pairs)):
        groups = [group for group in groups if group not in joined] + [joined[0] | joined[1]]
    groups.sort(key=lambda group: sorted(map(_place, group)))
    return [_layer(group, by_cell, groups) for group in groups]


def _cells(candidates: Sequence[Candidate]) -> dict[_Cell, list[Candidate]]:
    by_task: dict[str, list[Candidate]] = {}
    for each in candidates:
        by_task.setdefault(each.task, []).append(each)
    found: dict[_Cell, list[Candidate]] = {}
    for task, items in by_task.items():
        lengths = sorted(each.length for each in items)
        bounds = [lengths[len(items) * third // 3 - 1] for third in (1, 2)] if len(items) >= _FEWEST_FOR_LENGTHS else []
        divided = bool(bounds) and lengths[-1] > bounds[0]
        known = any(each.flips for each in items)
        for each in items:
            length = sum(each.length > bound for bound in bounds) if divided else None
            found.setdefault(_Cell(task, length, each.flipped if known else None), []).append(each)
    return dict(sorted(found.items(), key=lambda entry: _place(entry[0])))


def _place(cell: _Cell) -> tuple[str, bool, int]:
    return cell.task, bool(cell.flipped), cell.length or 0


def _next_join(
    groups: Sequence[_Group], sizes: Mapping[_Cell, int], total: int, pairs: int
) -> tuple[_Group, _Group] | None:
    """The two strata to join next; None where the strata can stay as they are."""
    populations = {group: sum(sizes[cell] for cell in group) for group in groups}
    smallest = min(groups, key=populations.__getitem__)

    def cost(two: tuple[_Group, _Group]) -> tuple[int, int]:
        return _distance(*two), sum(populations[group] for group in two)

    if populations[smallest] < max(2, pairs):
        return min(((smallest, other) for other in groups if other != smallest), key=cost)
    if sum(min(2 * pairs, population) for population in populations.values()) > total:
        return min(_kin(groups) or combinations(groups, 2), key=cost)
    return None


def _kin(groups: Sequence[_Group]) -> list[tuple[_Group, _Group]]:
    """Pairs of strata that share a task and flip: they are nearer than all others, and few where tasks are many."""
    sharing: dict[tuple[str, bool], list[_Group]] = {}
    for group in groups:
        for kind in sorted({(cell.task, bool(cell.flipped)) for cell in group}):
            sharing.setdefault(kind, []).append(group)
    return [two for kin in sharing.values() for two in combinations(kin, 2)]


def _distance(one: _Group, other: _Group) -> int:
    """How different two strata are; lengths weigh least, flips most."""
    tasks, other_tasks = ({cell.task for cell in group} for group in (one, other))
    flips, other_flips = ({bool(cell.flipped) for cell in group} for group in (one, other))
    steps = min(abs((a.length or 0) - (b.length or 0)) for a in one for b in other)
    return steps + _TASK_APART * tasks.isdisjoint(other_tasks) + _FLIP_APART * flips.isdisjoint(other_flips)


def _layer(group: _Group, by_cell: Mapping[_Cell, Sequence[Candidate]], groups: Sequence[_Group]) -> Layer:
    items = [item for cell in group for item in by_cell[cell]]
    name = "all items" if len(groups) == 1 else " + ".join(_parts(group, by_cell))
    flipped = all(cell.flipped for cell in group)
    return Layer(name, flipped, tuple(sorted(items, key=lambda item: (item.task, item.item_id))))


def _parts(group: _Group, cells: Iterable[_Cell]) -> list[str]:
    """What the stratum's name says of each of its tasks: all of it, or which lengths and flips."""
    parts = []
    for task in sorted({cell.task for cell in group}):
        of_task = {cell for cell in cells if cell.task == task}
        inside = {cell for cell in group if cell.task == task}
        if inside == of_task:
            parts.append(task)
            continue
        for flipped in sorted({cell.flipped for cell in inside}, key=bool):
            some = {cell.length for cell in inside if cell.flipped == flipped}
            whole = {cell.length for cell in of_task if cell.flipped == flipped}
            said = [task]
            if some != whole or (len(whole) == 1 and None not in whole):
                said.append(" and ".join(_LENGTHS[length] for length in sorted(each or 0 for each in some)))
            if flipped is not None:
                said.append("flipped" if flipped else "not flipped")
            parts.append(", ".join(said))
    return parts
