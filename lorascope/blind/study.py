"""Making a study: from a result's answers to sheets from which nobody can tell the systems, and the key that can.

Who holds every sheet and this source, but not the key, is to do no better than chance at saying which system wrote
which answer, unless the texts themselves tell. The seed decides which items are drawn and nothing more. All else
(pairs, sides, order, ids, checks) comes from the operating system's randomness, and no step asks which of the systems
is which: exchange their names in any way, and every sheet comes about with the same probability. So whatever is seen in
the sheets besides texts, all namings remain equally likely. That a rater's sides are turned round on another's sheet
can be seen; it says that the two rows are opposites, not which of them is which.

With three systems or more this asks for more than with two. A reader may tell the authors apart by their style without
a name for any, and try which order of the systems fits what was balanced. So each pair is balanced by itself, the order
of the pairs is random, a coin for each pair says what counts as its first system, and no row goes by how well the
systems of its pair did.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorascope.blind.arranging import APART, Extra, arrange
from lorascope.blind.assigning import balanced_sides, share_items
from lorascope.blind.candidates import Candidate, Candidates, find_candidates
from lorascope.blind.drafts import Draft
from lorascope.blind.drawing import Drawn, Pair, allocate, deal_pairs, draw
from lorascope.blind.key import KeyRow, Stratum, StudyItem, StudyKey, System
from lorascope.blind.quality_rows import Choosing, Material, alike, identical, mismatched, repeats
from lorascope.blind.request import StudyRequest, check_request, chosen_systems, chosen_tasks
from lorascope.blind.rows import Sheet, SheetRow
from lorascope.blind.strata import Layer, make_layers
from lorascope.blind.study_warnings import study_warnings
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.comparison import CheckpointInfo, Comparison, TaskInfo

if TYPE_CHECKING:
    import random

    import pyarrow

_FEWEST_REPEATS = 8


@dataclass(frozen=True, slots=True)
class Study:
    """A study before it is written: the key, one sheet a rater, and what its maker should know.

    The warnings name items and systems: they are for the maker alone, as the key is.
    """

    key: StudyKey
    sheets: dict[str, Sheet]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Content:
    """What the sheets are made from. ``counts`` goes with ``layers``."""

    systems: list[CheckpointInfo]
    tasks: list[TaskInfo]
    candidates: Candidates
    layers: list[Layer]
    counts: list[int]
    items: list[Drawn]


def make_study(samples: pyarrow.Table, comparison: Comparison, request: StudyRequest) -> Study:
    """Draw items, hide who answered what, and arrange one sheet a rater. Nothing is written.

    Items are drawn by strata (see :func:`~lorascope.blind.strata.make_layers`), each for one pair of systems; all of
    them where there are fewer than asked for. Items whose two answers are the same text, as shown, are ties that
    nobody rates. Of each pair the later system is ``first``: an adapted checkpoint against the base, or the one that
    comes later in the result.

    Errors: UsageError for a request that cannot be met; DataError for samples without the texts; EvaluationError when
    no task has answers to compare, or no two answers differ.
    """
    check_request(request)
    chance = secrets.SystemRandom()
    content = _content(samples, comparison, request, chance)
    rated = {place: item for place, item in enumerate(content.items) if not item.identical}
    if not rated:
        raise EvaluationError("all drawn answers are the same for the compared systems, so there is nothing to rate")
    shares = share_items(rated, request.raters, request.shared, chance)
    if not all(shares):
        problem = f"drawn items with differing answers: {len(rated)}, not enough for {request.raters} raters"
        raise EvaluationError(problem, remedy="ask for more items, or let the raters share some")
    drafts = _drafts(shares, rated, content, request, chance)
    key, sheets = _signed(drafts, content, request)
    return Study(key, sheets, study_warnings(request, content.candidates, content.items, content.systems, drafts))


def _content(samples: pyarrow.Table, comparison: Comparison, request: StudyRequest, chance: random.Random) -> _Content:
    systems = chosen_systems(comparison, request.systems)
    tasks = chosen_tasks(comparison, request.tasks)
    pairs: list[Pair] = [(later.name, earlier.name) for earlier, later in itertools.combinations(systems, 2)]
    base = comparison.base.name
    candidates = find_candidates(samples, systems, [each.name for each in tasks], base)
    total = min(request.items, len(candidates.items))
    if total < len(pairs):
        problem = f"{len(systems)} systems make {len(pairs)} pairs, and there are {total} items to compare them on"
        raise UsageError(problem, remedy="ask for more items, or name fewer systems")
    layers = make_layers(candidates.items, total=total, pairs=len(pairs))
    counts = allocate(layers, total=total, pairs=len(pairs), flip_weight=request.flip_weight)
    items = deal_pairs(draw(layers, counts, request.seed), pairs, chance)
    return _Content(systems, tasks, candidates, layers, counts, items)


def _drafts(
    shares: Sequence[Sequence[int]],
    rated: Mapping[int, Drawn],
    content: _Content,
    request: StudyRequest,
    chance: random.Random,
) -> dict[str, list[Draft]]:
    """Every rater's rows in the order shown."""
    sides = balanced_sides(shares, rated, chance)
    by_task: dict[str, list[Candidate]] = {}
    for each in content.candidates.items:
        by_task.setdefault(each.task, []).append(each)
    to_make = request.raters * max(0, request.identical - len(alike(content.items)))
    odd = chance.randrange(2)
    turns = chance.sample([(place + odd) % 2 for place in range(to_make)], to_make)
    turned = {pair: chance.randrange(2) for pair in sorted({item.pair for item in content.items})}
    material = Material(content.items, by_task, iter(turns), turned, chance)
    return {
        f"rater-{rater + 1}": _rows({place: sides[rater, place] for place in share}, request, material)
        for rater, share in enumerate(shares)
    }


def _rows(sides: Mapping[int, bool], request: StudyRequest, material: Material) -> list[Draft]:
    order = material.shuffled(list(sides))
    rated = {place: material.draft(place, sides[place]) for place in order}
    choosing = Choosing(order, material)
    tenth = max(_FEWEST_REPEATS, -(-len(order) // 10))
    again = repeats(rated, tenth if request.repeats is None else request.repeats, choosing, material)
    checks = mismatched(request.checks, choosing, material) + identical(request.identical, choosing, material)
    ranks = {place: rank for rank, place in enumerate(order)}
    # Checks may come nearer on short sheets, so as not to crowd their ends, where they would be expected.
    near = min(APART, len(order) // 4)
    extras = [Extra(row, ranks[row.item]) for row in again]
    extras += [Extra(row, ranks.get(row.item), near) for row in checks]
    return arrange(list(rated.values()), extras, material.chance)


def _signed(
    drafts: Mapping[str, Sequence[Draft]], content: _Content, request: StudyRequest
) -> tuple[StudyKey, dict[str, Sheet]]:
    salt = secrets.token_hex(32)
    known: list[KeyRow] = []
    shown: dict[str, list[SheetRow]] = {}
    for rater, rows in drafts.items():
        parted = [row.parted(rater, salt) for row in rows]
        known += [row for row, _ in parted]
        shown[rater] = [row for _, row in parted]
    key = StudyKey(
        study=f"study-{secrets.token_hex(4)}",
        language=request.languages[0],
        seed=request.seed,
        salt=salt,
        tasks={each.name: each.fingerprint for each in content.tasks},
        systems=[System(name=each.name, role=each.role, content_hash=each.content_hash) for each in content.systems],
        strata=[_stratum(layer, count) for layer, count in zip(content.layers, content.counts, strict=True)],
        items=[_item(item) for item in content.items],
        raters=list(drafts),
        rows=known,
        plan=request.plan,
    )
    commitment = key.commitment
    spoken = list(request.languages) * (request.raters if len(request.languages) == 1 else 1)
    sheets = {
        rater: Sheet(key.study, commitment, rater, language, tuple(rows))
        for (rater, rows), language in zip(shown.items(), spoken, strict=True)
    }
    return key, sheets


def _stratum(layer: Layer, drawn: int) -> Stratum:
    population = len(layer.items)
    return Stratum(name=layer.name, population=population, drawn=drawn, weight=population / drawn)


def _item(item: Drawn) -> StudyItem:
    first, second = item.answers
    return StudyItem(
        task=item.candidate.task,
        item_id=item.candidate.item_id,
        stratum=item.stratum,
        first=item.pair[0],
        second=item.pair[1],
        lengths=(len(first), len(second)),
        identical=item.identical,
    )
