"""The variants of a repair scan: the ΔW' that each one has, module by module, as an engine takes it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorascope.checkpoints.changes import Changes
from lorascope.engines.overriding import NewFactors, NewWeight, Override
from lorascope.schema.repair import RepairControl, RepairFamily, strength_text
from lorascope.weights.deltas import FactoredDelta, WeightDelta
from lorascope.weights.repair import (
    LONGER,
    frobenius,
    remove_random,
    scale_intruders,
    scale_neighbours,
    scale_strength,
    shrink_to_norm,
)
from lorascope.workflows.repair import delta_of, repairable
from lorascope.workflows.repair_intruders import JudgedTriplets, intruder_triplets

CONTROLS: tuple[RepairControl, ...] = ("shrink", "neighbour", "random")
_FAMILIES: tuple[RepairFamily, ...] = ("top", "all")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """One ΔW'. ``strength`` is λ: of the whole ΔW, or of the intruders that the family names; a control matches it."""

    family: RepairFamily
    strength: float
    control: RepairControl | None = None

    @property
    def name(self) -> str:
        """``strength 0.5``, ``top 0.3``, ``all 0.3, shrink``."""
        return f"{self.family} {strength_text(self.strength)}" + (f", {self.control}" if self.control else "")

    @property
    def block(self) -> tuple[str, float]:
        """What is asked or left out together: a repair with its controls, a strength alone."""
        return self.family, self.strength


@dataclass(frozen=True)
class ScannedModule:
    """One linear module with ΔW ≠ 0. ``norms`` holds ‖ΔW'‖_F by family and λ; ``alone`` where no neighbour fits."""

    name: str
    norm: float
    found: dict[RepairFamily, JudgedTriplets] = field(default_factory=dict)
    norms: dict[tuple[RepairFamily, float], float] = field(default_factory=dict)
    alone: frozenset[tuple[RepairFamily, float]] = frozenset()

    @property
    def lengthened(self) -> bool:
        """Whether some repair makes this module's ΔW longer."""
        return any(norm > LONGER * self.norm for norm in self.norms.values())


class ScannedChanges:
    """One subject's ΔW with its intruders, found once, and every variant's ΔW' made from it on demand.

    Linear modules with a ΔW of their own are scanned. What an adapter saves whole (heads, ``modules_to_save``), biases,
    embeddings and norms are not: they stay as in the adapted checkpoint in every variant, strength 0 included. The
    random control is one draw, by the seed.
    """

    def __init__(
        self,
        changes: Changes,
        lambdas: Sequence[float],
        *,
        k: int,
        epsilon: float,
        seed: int,
        on_progress: Progress,
    ) -> None:
        """Judge all modules; ``on_progress`` counts them. ``EvaluationError`` where no linear module has a ΔW."""
        self.changes = changes
        self._seed = seed
        names = repairable(changes)
        self.modules: list[ScannedModule] = []
        for done, name in enumerate(names, 1):
            module = self._judged(name, lambdas, k, epsilon)
            if module is not None:
                self.modules.append(module)
            on_progress(done, len(names))

    def variants(self, strengths: Sequence[float], lambdas: Sequence[float]) -> list[Variant]:
        """All that can be made: strengths, then per family and λ the repair and its controls.

        The neighbour control is left out where no module has a neighbour that can be scaled at the repair's norm, the
        family ``all`` where no module has more than one intruder: it is ``top`` then.
        """
        planned = [Variant("strength", strength) for strength in strengths]
        for family in _FAMILIES[:1] if self.one_each else _FAMILIES:
            carriers = [module for module in self.modules if family in module.found]
            for strength in lambdas if carriers else ():
                planned.append(Variant(family, strength))
                hopeless = all((family, strength) in module.alone for module in carriers)
                planned += [
                    Variant(family, strength, control)
                    for control in CONTROLS
                    if not (control == "neighbour" and hopeless)
                ]
        return list({variant.name: variant for variant in planned}.values())

    @property
    def one_each(self) -> bool:
        """Whether no module has more than one intruder."""
        return self.intruders("top") == self.intruders("all")

    def intruders(self, family: RepairFamily) -> int:
        """How many intruders the family scales, over all modules."""
        return sum(module.found[family].intruders.count for module in self.modules if family in module.found)

    def relative_norm(self, variant: Variant) -> float:
        """‖ΔW'‖_F / ‖ΔW‖_F over all scanned modules; a control has its repair's."""
        total = math.sqrt(sum(module.norm**2 for module in self.modules))
        if variant.family == "strength":
            return abs(variant.strength)
        norms = [module.norms.get((variant.family, variant.strength), module.norm) for module in self.modules]
        return math.sqrt(sum(norm**2 for norm in norms)) / total

    def grew(self, variant: Variant) -> bool:
        """Whether intruder scaling makes ΔW longer over all modules, so that a control at its norm stretches ΔW."""
        return variant.family != "strength" and self.relative_norm(variant) > LONGER

    def neighbours_count(self, variant: Variant) -> bool:
        """Whether the neighbour control is one: at least half of the modules have neighbours that fit the norm."""
        carriers, alone = self._without_neighbours(variant)
        return 2 * alone <= carriers

    def note(self, variant: Variant) -> str | None:
        """What a reader of this variant has to know."""
        if variant.family == "strength":
            return None
        return "; ".join([*self._growth(variant), *self._lack_of_neighbours(variant)]) or None

    def _growth(self, variant: Variant) -> Iterator[str]:
        place = variant.family, variant.strength
        longer = sum(module.norms[place] > LONGER * module.norm for module in self.modules if place in module.norms)
        if not longer:
            return
        where = f"{longer} of {self._without_neighbours(variant)[0]} modules"
        if variant.control is None:
            whole = "ΔW as a whole grew" if self.grew(variant) else "ΔW as a whole did not"
            yield f"ΔW grew in {where}: the intruders there are rotations that hold part of the base; {whole}"
        else:
            yield f"in {where} this control stretches ΔW, as the repair does"

    def _lack_of_neighbours(self, variant: Variant) -> Iterator[str]:
        carriers, alone = self._without_neighbours(variant)
        if variant.control is None and alone == carriers:
            yield "no module has a neighbour that fits this norm: there is no neighbour control"
        if variant.control == "neighbour" and alone:
            yield f"{alone} of {carriers} modules have no neighbour that fits this norm: ΔW is shrunk there instead"
            if not self.neighbours_count(variant):
                yield "that is more than half, so this control does not count"

    def _without_neighbours(self, variant: Variant) -> tuple[int, int]:
        """Modules that the family scales, and those of them in which no neighbour fits the repair's norm."""
        carriers = [module for module in self.modules if variant.family in module.found]
        return len(carriers), sum((variant.family, variant.strength) in module.alone for module in carriers)

    def overrides(self, variant: Variant) -> Iterator[Override]:
        """The modules whose ΔW' differs from ΔW, as an engine takes them."""
        for module in self.modules:
            if variant.family != "strength" and variant.family not in module.found:
                continue
            repaired = self.repaired(module, variant)
            if isinstance(repaired, FactoredDelta):
                yield NewFactors(module.name, repaired.up, repaired.down, repaired.scaling)
            else:
                yield NewWeight(module.name, self.changes.base.weight(module.name) + repaired.matrix)

    def repaired(self, module: ScannedModule, variant: Variant) -> WeightDelta:
        """ΔW' of one module. A control's ‖ΔW'‖_F is its repair's, in every single module."""
        delta = delta_of(self.changes, module.name)
        if variant.family == "strength":
            return scale_strength(delta, variant.strength)
        found, norm = module.found[variant.family], module.norms[variant.family, variant.strength]
        if variant.control is None:
            return scale_intruders(delta, found.intruders, variant.strength)
        if variant.control == "random":
            removed, seed = module.norm**2 - norm**2, _seed_of(self._seed, module.name)
            return remove_random(delta, removed, rank=found.intruders.count, seed=seed)
        if variant.control == "neighbour":
            scaled = scale_neighbours(delta, found.neighbours, norm, variant.strength)
            if scaled is not None:
                return scaled
        return shrink_to_norm(delta, norm)

    def definition(self, variant: Variant, *, k: int, epsilon: float) -> dict[str, Any]:
        """Everything that a variant's weights depend on beside the adapted checkpoint, for the keys of its answers."""
        stated: dict[str, Any] = {
            "base": self.changes.base.checkpoint.content_hash,
            "family": variant.family,
            "strength": variant.strength,
            "control": variant.control,
        }
        if variant.family != "strength":
            stated |= {"k": k, "epsilon": epsilon}
        return stated | ({"seed": self._seed} if variant.control == "random" else {})

    def _judged(self, name: str, lambdas: Sequence[float], k: int, epsilon: float) -> ScannedModule | None:
        """None for a module with ΔW = 0: there is nothing to scale."""
        delta = delta_of(self.changes, name)
        norm = frobenius(delta)
        if norm == 0.0:
            return None
        judged = intruder_triplets(self.changes.base.weight(name), delta, k, epsilon)
        found: dict[RepairFamily, JudgedTriplets] = {}
        if judged.indices:
            found = {"top": judged.first(1), "all": judged}
        norms = {
            (family, strength): frobenius(scale_intruders(delta, each.intruders, strength))
            for family, each in found.items()
            for strength in lambdas
        }
        alone = frozenset(
            place
            for place, size in norms.items()
            if scale_neighbours(delta, found[place[0]].neighbours, size, place[1]) is None
        )
        return ScannedModule(name, norm, found, norms, alone)


def _seed_of(seed: int, module: str) -> int:
    """One seed per module, whatever other modules there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{module}".encode()).digest()[:7], "big")
