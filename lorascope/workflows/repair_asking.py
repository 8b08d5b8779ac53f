"""Ask all variants of one checkpoint: first the items that flipped, then all items of those that turned one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lorascope.engines.base import Subject as Asker
from lorascope.engines.overriding import OverridingEngine, overridden
from lorascope.errors import DataError, EvaluationError
from lorascope.report import numbers
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.repair_scoring import flipped, knows_right, retention_pool
from lorascope.workflows.repair_variants import ScannedChanges, Variant
from lorascope.workflows.scoring import Asked, right
from lorascope.workflows.watch import Progress, Watch

FEWEST_FLIPS = 20
"""With fewer flipped items, a variant that turns none of them may still do something: all are asked everything."""

_WORTH_SAYING = 60.0
_Places = Mapping[str, Sequence[int]]


@dataclass
class _Count:
    """Items done over all variants and tasks of a pass."""

    report: Progress
    total: int
    done: int = 0

    def part(self, done: int, total: int) -> None:
        """Progress inside one variant's task."""
        self.report(self.done + done, self.total)


@dataclass
class Asking:
    """The questions of a scan and what is said to them.

    ``tasks`` hold the answers of base and adapted checkpoint and get those of the variants, by the variants' names.
    ``pace`` is in seconds an item. Afterwards ``dropped`` names the variants of the first pass that turned no flipped
    item, ``failed`` says why others could not be asked, ``flipped_items`` counts the first pass's items (None where
    there were too few for one).
    """

    engine: OverridingEngine
    original: Asker
    base: str
    changes: ScannedChanges
    variants: Sequence[Variant]
    tasks: dict[str, TaskAnswers]
    pace: float | None
    base_is_strength_0: bool
    watch: Watch
    settings: dict[str, Any]
    dropped: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    flipped_items: int | None = None

    def ask_all(self) -> None:
        """Both passes; what is stored from an earlier run is not asked again."""
        asked = [variant for variant in self.variants if not self._known_already(variant)]
        asked = self._first_pass(asked)
        places = {name: range(len(answers.task.items)) for name, answers in self.tasks.items()}
        with self._stage("Variants, all items", asked, places, known=self.flipped_items or 0) as count:
            for variant in asked:
                said = self._ask(variant, places, count)
                for name, one in (said or {}).items():
                    self.tasks[name].asked[variant.name] = one

    def _known_already(self, variant: Variant) -> bool:
        """Strength 1 is the adapted checkpoint; strength 0 the base, where an adapter is nothing but ΔW."""
        if variant.family != "strength" or variant.strength not in (0.0, 1.0):
            return False
        same = self.original.name if variant.strength == 1.0 else self.base
        if variant.strength == 0.0 and not self.base_is_strength_0:
            return False
        if not all(same in answers.asked for answers in self.tasks.values()):
            return False
        for answers in self.tasks.values():
            answers.asked[variant.name] = answers.asked[same]
        return True

    def _first_pass(self, variants: Sequence[Variant]) -> list[Variant]:
        """The variants that are worth all items: those of a block in which any turns a flipped item."""
        places = {name: flipped(answers, self.base, self.original.name) for name, answers in self.tasks.items()}
        count = sum(len(found) for found in places.values())
        if count < FEWEST_FLIPS or not self._shows_retention(places):
            return list(variants)
        self.flipped_items = count
        worth: set[tuple[str, float]] = set()
        with self._stage("Variants, flipped items", variants, places) as asking:
            for variant in variants:
                said = self._ask(variant, places, asking)
                if said is not None and self._turns(said, places):
                    worth.add(variant.block)
        self.dropped = {each.name for each in variants if each.block not in worth and each.name not in self.failed}
        return [each for each in variants if each.block in worth and each.name not in self.failed]

    def _shows_retention(self, places: _Places) -> bool:
        """Whether the flipped items tell of retention, where that is measured.

        A variant that turns none of them is taken to do nothing. Flips of the target alone cannot say so, nor can a
        retention task without right and wrong.
        """
        pool = retention_pool(list(self.tasks.values()), self.original.name)
        if not all(knows_right(each, name) for each in pool for name in (self.base, self.original.name)):
            return False
        return not pool or sum(len(places[each.task.spec.name]) for each in pool) >= FEWEST_FLIPS

    def _turns(self, said: Mapping[str, Asked], places: _Places) -> bool:
        """Whether any of these items is right where the adapted checkpoint is wrong, or the other way round."""
        for name, asked in said.items():
            answers = self.tasks[name]
            before = answers.asked[self.original.name].subset(places[name])
            if right(answers.task, asked) != right(answers.task, before):
                return True
        return False

    def _ask(self, variant: Variant, places: _Places, count: _Count) -> dict[str, Asked] | None:
        """Answers by task; None where the variant cannot answer (values that are not finite), with the reason kept."""
        definition = self.changes.definition(variant, **self.settings)
        subject = overridden(self.original, definition, lambda: self.changes.overrides(variant))
        found: dict[str, Asked] = {}
        for name, answers in self.tasks.items():
            items = [answers.task.items[place] for place in places[name]]
            if not items:
                continue
            spec = answers.task.spec
            if spec.kind == "labels" and subject.labels is not None:
                # All heads are asked in one order of labels, as in a comparison.
                spec = spec.model_copy(update={"labels": list(answers.labels)})
            try:
                found[name] = Asked(items, self.engine.answer(subject, spec, items, count.part), answers.labels)
            except (EvaluationError, DataError) as error:
                self.failed[variant.name] = error.problem
                return None
            count.done += len(items)
        return found

    @contextmanager
    def _stage(self, title: str, variants: Sequence[Variant], places: _Places, *, known: int = 0) -> Iterator[_Count]:
        """One bar for a pass, and its expected time; ``known`` items of each variant were asked before."""
        items = sum(len(chosen) for chosen in places.values())
        seconds = (items - known) * len(variants) * self.pace if self.pace is not None else 0.0
        if seconds > _WORTH_SAYING:
            about = f"about {numbers.duration(seconds)} at the pace of the checkpoints"
            self.watch.say(f"{title}: {len(variants)} variants × {items - known} items, {about}")
        with self.watch.stage(title) as report:
            yield _Count(report, items * len(variants))
