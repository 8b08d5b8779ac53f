"""Pair the items of imported runs, and say what of them does not pair or was not asked alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lorascope.data.imported.runs import ImportedItem, ImportedRun, ImportedTask, Tool
from lorascope.errors import DataError, InvalidComparison
from lorascope.schema.items import ChoiceItem, GenerateAnswer, GenerateItem, Item

UNPAIRED_LIMIT = 0.05
"""Share of items on one side only above which runs are refused: what is left is no longer the same set of questions."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which a run differs from the base's; ``refused`` where the two were not asked or scored alike."""

    task: str
    run: str
    setting: str
    base: str
    other: str
    refused: bool


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Items of one task that not every run has: how many of a run's items are not compared, and some of them."""

    task: str
    run: str
    count: int
    total: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reworded:
    """Items that a run asked in other words than the base: a changed template."""

    task: str
    run: str
    count: int
    total: int
    example: str


@dataclass
class PairedTask:
    """One task on the items that all its runs share, in the base's order.

    ``runs`` holds each run's items; those at one place are the same question. ``absent`` says why a run has none.
    """

    name: str
    runs: dict[str, list[ImportedItem]]
    tasks: dict[str, ImportedTask]
    absent: dict[str, str] = field(default_factory=dict)


@dataclass
class Pairing:
    """All tasks that the base and at least one other run have, and what was found on the way."""

    tasks: list[PairedTask] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    unpaired: list[Unpaired] = field(default_factory=list)
    reworded: list[Reworded] = field(default_factory=list)


def pair_runs(
    base: str,
    runs: Mapping[str, ImportedRun],
    *,
    tool: Tool,
    allow_unpaired: bool = False,
    allow_different: bool = False,
) -> Pairing:
    """Pair every task of the run named ``base`` with the other runs.

    Raises DataError where the runs have no task in common, and InvalidComparison where they were not asked or scored
    alike (unless ``allow_different``), where the same item has different right answers or was answered in other
    epochs, where more than 5 % of the items stand on one side only (unless ``allow_unpaired``) or all of them do, and
    where files that pair by place are not of one length. DataError where items of one run have unequal numbers of
    answers.
    """
    found = Pairing()
    own = runs[base].tasks
    for name in dict.fromkeys(task for run in runs.values() for task in run.tasks):
        others = {run: read.tasks[name] for run, read in runs.items() if name in read.tasks}
        if name not in own or len(others) < 2:
            found.left_out[name] = f"only {', '.join(others)} {'has' if len(others) == 1 else 'have'} it"
            continue
        found.tasks.append(_pair(name, base, runs, others, found, tool, allow_unpaired))
    for run, read in runs.items():
        found.left_out |= {task: f"{run}: {reason}" for task, reason in read.left_out.items()}
    if not found.tasks:
        raise _nothing_shared(base, runs)
    refused = [one for one in found.differences if one.refused]
    if refused and not allow_different:
        raise _asked_differently(refused)
    return found


def _pair(
    name: str,
    base: str,
    runs: Mapping[str, ImportedRun],
    tasks: dict[str, ImportedTask],
    found: Pairing,
    tool: Tool,
    allow_unpaired: bool,
) -> PairedTask:
    kinds = {task.kind for task in tasks.values()}
    if len(kinds) > 1:
        listed = ", ".join(f"{run}: {task.kind}" for run, task in tasks.items())
        raise DataError(f"the task {name} is of different kinds", where=listed, remedy="give runs of the same task")
    _check_places(name, tasks)
    keyed = {run: {one.key: one for one in task.items} for run, task in tasks.items()}
    shared = [key for key in keyed[base] if all(key in items for items in keyed.values())]
    unpaired = list(_unpaired(name, keyed, set(shared)))
    _check_unpaired(unpaired, shared, tasks, tool, allow_unpaired)
    found.unpaired += unpaired
    matched = {run: [items[key] for key in shared] for run, items in keyed.items()}
    for run, own in matched.items():
        _check_turns(name, run, own, base, matched[base])
    for run in tasks:
        if run != base:
            _check_golds(name, base, run, matched)
            found.reworded += _reworded(name, base, run, matched)
            found.differences += _differences(name, tasks[base], tasks[run], run)
    absent = {run: runs[run].left_out.get(name, f"{run} has no task {name}") for run in runs if run not in tasks}
    return PairedTask(name, matched, tasks, absent)


def _check_places(name: str, tasks: Mapping[str, ImportedTask]) -> None:
    """Where a record is known by its place alone, one line less moves all that follow."""
    counts = {run: len(task.items) for run, task in tasks.items()}
    placed = [task.by_place for task in tasks.values()]
    if not any(placed) or (all(placed) and len(set(counts.values())) == 1):
        return
    how = "has no ids and no prompts" if all(placed) else "has no ids and no prompts in one run, but in another"
    raise InvalidComparison(
        f"{name} {how}: its records pair by their place, for which all files need the same records",
        where="; ".join(f"{run}: {count} records ({tasks[run].items[0].place})" for run, count in counts.items()),
        remedy="give each record an id, or the same records in the same order in every file",
    )


def _check_turns(
    task: str, run: str, items: Sequence[ImportedItem], base: str, of_base: Sequence[ImportedItem]
) -> None:
    counts = [_answers(one) for one in items]
    if len(set(counts)) > 1:
        raise DataError(
            f"items of {task} have {min(counts)} to {max(counts)} answers in {run}, and all need the same number",
            where=f"{items[counts.index(min(counts))].place} has {min(counts)}",
            remedy="give a run in which every item has all of its epochs or repeats",
        )
    differing = [(one, other) for one, other in zip(of_base, items, strict=True) if one.turns != other.turns]
    if differing:
        one, other = differing[0]
        raise InvalidComparison(
            f"{len(differing)} of {len(items)} items of {task} were answered in other epochs in {run} than in {base}",
            where=f"{one.place}: {_listed(one.turns)}; {other.place}: {_listed(other.turns)}",
            remedy="run both with the same number of epochs",
        )


def _answers(one: ImportedItem) -> int:
    return 1 + len(one.answer.others) if isinstance(one.answer, GenerateAnswer) else 1


def _listed(turns: Sequence[int]) -> str:
    return f"epochs {', '.join(map(str, turns[:_NAMED]))}{' …' if len(turns) > _NAMED else ''}"


def _unpaired(task: str, keyed: Mapping[str, Mapping[str, ImportedItem]], shared: set[str]) -> Iterator[Unpaired]:
    for run, items in keyed.items():
        alone = [one for key, one in items.items() if key not in shared]
        if alone:
            examples = tuple(f"{one.key} ({one.place})" for one in alone[:_NAMED])
            yield Unpaired(task, run, len(alone), len(items), examples)


def _check_unpaired(
    unpaired: Sequence[Unpaired], shared: Sequence[str], tasks: Mapping[str, ImportedTask], tool: Tool, allowed: bool
) -> None:
    worst = max(unpaired, key=lambda one: one.count / one.total, default=None)
    if worst is None or (shared and (allowed or worst.count / worst.total <= UNPAIRED_LIMIT)):
        return
    dropped = [task.dropped for task in tasks.values() if task.dropped]
    where = "; ".join([f"{worst.run}: {'; '.join(worst.examples)}", *dropped])
    if shared:
        problem = f"{worst.count} of the {worst.total} items of {worst.task} in {worst.run} have no counterpart"
        remedy = "evaluate the same items, or pass --allow-unpaired to compare those that all runs have"
        raise InvalidComparison(problem, where=where, remedy=remedy)
    remedy = "give runs over the same data"
    if tool == "llamafactory":
        remedy += "; prompts count, so a changed chat template makes other items: then use import files with ids"
    raise InvalidComparison(f"no item of {worst.task} stands in all runs", where=where, remedy=remedy)


def _check_golds(task: str, base: str, run: str, matched: Mapping[str, Sequence[ImportedItem]]) -> None:
    pairs = list(zip(matched[base], matched[run], strict=True))
    differing = [(one, other) for one, other in pairs if _gold(one.item) != _gold(other.item)]
    if differing:
        one, other = differing[0]
        raise InvalidComparison(
            f"the right answers of {len(differing)} of {len(pairs)} items of {task} differ between {base} and {run}",
            where=f"{one.place} and {other.place}",
            remedy="the task or its data changed between the runs: evaluate both with the same",
        )


def _gold(item: Item) -> object:
    match item:
        case GenerateItem():
            return item.references
        case ChoiceItem():
            return item.choices, item.answer
    return None


def _asked(item: Item) -> object:
    match item:
        case GenerateItem():
            return item.prompt, item.messages
        case ChoiceItem():
            return item.context
    return getattr(item, "text", None)


def _reworded(task: str, base: str, run: str, matched: Mapping[str, Sequence[ImportedItem]]) -> Iterator[Reworded]:
    pairs = list(zip(matched[base], matched[run], strict=True))
    other = [pair for pair in pairs if _asked(pair[0].item) != _asked(pair[1].item)]
    if other:
        yield Reworded(task, run, len(other), len(pairs), f"{other[0][0].place} and {other[0][1].place}")


def _differences(name: str, base: ImportedTask, other: ImportedTask, run: str) -> Iterator[Difference]:
    """Settings that both runs record and that differ."""
    for setting, said in base.settings.items():
        against = other.settings.get(setting)
        if against is not None and against.value != said.value:
            yield Difference(name, run, setting, said.value, against.value, said.strictness == "refuse")


def _nothing_shared(base: str, runs: Mapping[str, ImportedRun]) -> DataError:
    listed = "; ".join(f"{run}: {', '.join(read.tasks) or 'none that can be read'}" for run, read in runs.items())
    reasons = [f"{task}: {reason}" for read in runs.values() for task, reason in read.left_out.items()]
    problem = f"no task of {base} stands in another run"
    if reasons:
        problem += f" ({'; '.join(dict.fromkeys(reasons))})"
    return DataError(problem, where=listed, remedy="give runs of the same tasks, the base's first")


def _asked_differently(refused: Sequence[Difference]) -> InvalidComparison:
    first = refused[0]
    more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
    return InvalidComparison(
        f"base and {first.run} were not evaluated alike: {first.setting} of {first.task} differ{more}",
        where=f"base: {_short(first.base)}; {first.run}: {_short(first.other)}",
        remedy="evaluate both alike, or pass --allow-different to compare them all the same",
    )


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:160]} …"
