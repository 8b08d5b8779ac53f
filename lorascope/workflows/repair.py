"""Write a repaired checkpoint: intruder dimensions or the whole ΔW scaled down, and what was written read back.

What is repaired is ΔW of the linear modules. Everything else that the adapted checkpoint brings (heads and other
modules saved whole, biases, embeddings, norms) stays as it is there, whatever the strength.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorascope.checkpoints.changes import (
    AdapterChanges,
    BaseModules,
    Changes,
    Factors,
    ModelChanges,
    ModuleChange,
    changes_of,
)
from lorascope.checkpoints.new_folder import free_place, new_checkpoint, write_record
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.checkpoints.saving import save_adapter, save_merged, save_model, save_rescaled_adapter
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.repair import strength_text
from lorascope.version import __version__
from lorascope.weights.deltas import DenseDelta, FactoredDelta, WeightDelta
from lorascope.weights.repair import (
    distance,
    frobenius,
    rounding_bound,
    scale_intruders,
    scale_strength,
    truncate,
)
from lorascope.workflows.repair_intruders import JudgedTriplets, intruder_triplets
from lorascope.workflows.repair_record import module_row, totals
from lorascope.workflows.subjects import Opened, open_all
from lorascope.workflows.watch import Progress, Silent, Watch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["JudgedTriplets", "Repair", "RepairOptions", "delta_of", "intruder_triplets", "repair", "repairable"]


@dataclass(frozen=True)
class RepairOptions:
    """What to repair and how: exactly one of ``intruders`` and ``strength`` is the λ.

    ``which`` scales the highest-ranked intruder of each matrix (``top``, as the paper does) or every judged one.
    ``truncate`` brings an adapter whose ranks grew back to its own ranks.
    """

    base: str
    adapted: str
    out: Path
    intruders: float | None = None
    strength: float | None = None
    which: Literal["top", "all"] = "top"
    k: int = 10
    epsilon: float = 0.5
    truncate: bool = False
    overwrite: bool = False
    allow_pickle: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repair:
    """ΔW and ΔW' of every repaired module. ``found`` holds the intruders to scale, by module; a strength has none."""

    changes: Changes
    options: RepairOptions
    modules: list[str]
    found: dict[str, JudgedTriplets] = field(default_factory=dict)

    @property
    def written(self) -> list[str]:
        """Modules whose weights are written anew; the others are copied."""
        return list(self.found) if self.options.intruders is not None else self.modules

    def delta(self, module: str) -> WeightDelta:
        """ΔW as the adapted checkpoint has it."""
        return delta_of(self.changes, module)

    def repaired(self, module: str) -> tuple[WeightDelta, float]:
        """ΔW', and the relative error that truncating it made (0 where nothing is cut)."""
        delta, options = self.delta(module), self.options
        if options.strength is not None:
            return _at_strength(self.changes, delta, options.strength), 0.0
        if module not in self.found:
            return delta, 0.0
        assert options.intruders is not None
        new = scale_intruders(delta, self.found[module].intruders, options.intruders)
        if options.truncate and isinstance(delta, FactoredDelta):
            return truncate(new, delta.up.shape[1])
        return new, 0.0

    def weight(self, module: str) -> Tensor:
        """W0 + ΔW', (out, in) in float32."""
        delta, _ = self.repaired(module)
        return self.changes.base.weight(module) + delta.dense()


def repair(options: RepairOptions, watch: Watch | None = None) -> Path:
    """Write the repaired checkpoint to ``options.out`` and return that folder.

    A plain LoRA stays an adapter; every other change becomes a whole model. Before the folder appears it is opened
    again and each module's ΔW is held against ΔW', within what the stored type can keep.

    Raises :class:`UsageError` for options that contradict each other, :class:`OutputError` for a folder that may not be
    written, :class:`EvaluationError` where there is nothing to repair or the written checkpoint reads back differently.
    """
    watch = watch or Silent()
    _check(options)
    free_place(options.out, sources=[], overwrite=options.overwrite)
    opened = open_all(options.base, [options.adapted], allow_pickle=options.allow_pickle, watch=watch)
    for finding in opened.findings:
        if finding.severity in ("critical", "warning"):
            watch.say(f"{finding.subject}: {finding.title}")
    changes = opened.subjects[0].changes
    modules = repairable(changes)
    sources = [opened.base.path, opened.subjects[0].checkpoint.path]
    free_place(options.out, sources=sources, overwrite=options.overwrite)
    if options.truncate and not _stays_adapter(changes):
        raise UsageError(
            "--truncate goes with a LoRA adapter: of this checkpoint a whole model is written, which has no ranks",
            where=str(changes.subject.path),
        )
    plan = Repair(changes, options, modules)
    if options.intruders is not None:
        plan = replace(plan, found=_intruders(plan, watch))
    with new_checkpoint(options.out, sources=sources, overwrite=options.overwrite) as part:
        with watch.stage("Writing") as report:
            _write(plan, part, report)
        with watch.stage("Reading back") as report:
            rows = _verified(plan, part, report)
        write_record(part, _record(opened, plan, rows), _sentence(plan))
    return options.out


def repairable(changes: Changes) -> list[str]:
    """Modules whose ΔW a repair may scale, by the base's names: those that an adapter brings whole are left out."""
    replaced = changes.replaced if isinstance(changes, AdapterChanges) else {}
    modules = [name for name in changes.modules() if name not in replaced]
    if modules:
        return modules
    reason = changes.why_none if isinstance(changes, AdapterChanges) else None
    raise EvaluationError(
        f"there is nothing to repair: {reason or 'no linear module of the base has a ΔW'}",
        where=str(changes.subject.path),
        remedy="repair works on changed weights: LoRA and other adapters that can be merged, and full fine-tunes",
    )


def delta_of(changes: Changes, module: str) -> WeightDelta:
    """ΔW of one module of an opened checkpoint, factored where its factors are the whole change."""
    return _weight_delta(changes.change(module), changes.base)


def _check(options: RepairOptions) -> None:
    given = [value for value in (options.intruders, options.strength) if value is not None]
    if len(given) != 1:
        raise UsageError("exactly one of --intruders and --strength says what to scale", remedy="give one of them")
    most = math.inf if options.intruders is None else 1.0
    if not math.isfinite(given[0]) or not 0.0 <= given[0] <= most:
        raise UsageError(f"{given[0]} is no strength", remedy="--intruders takes 0 to 1, --strength 0 or more")
    if options.truncate and options.intruders is None:
        raise UsageError("--truncate goes with --intruders: a strength leaves the ranks as they are")


def _intruders(plan: Repair, watch: Watch) -> dict[str, JudgedTriplets]:
    options, found = plan.options, {}
    with watch.stage("Finding intruder dimensions") as report:
        for done, module in enumerate(plan.modules, 1):
            judged = _judged(plan, module)
            if judged is not None and judged.indices:
                found[module] = judged.first(1) if options.which == "top" else judged
            report(done, len(plan.modules))
    if not found:
        raise EvaluationError(
            f"no matrix has an intruder dimension among its {options.k} leading vectors "
            f"(ε = {strength_text(options.epsilon)})",
            where=str(plan.changes.subject.path),
            remedy="there is nothing of this kind to scale; judge more vectors with --k, or use --strength",
        )
    return found


def _judged(plan: Repair, module: str) -> JudgedTriplets | None:
    """None for a module that did not change: where its singular values lie close, its own vectors need not agree."""
    delta = plan.delta(module)
    if frobenius(delta) == 0.0:
        return None
    return intruder_triplets(plan.changes.base.weight(module), delta, plan.options.k, plan.options.epsilon)


def _at_strength(changes: Changes, delta: WeightDelta, strength: float) -> WeightDelta:
    config = changes.subject.adapter
    if isinstance(delta, FactoredDelta) and config is not None and config.raw.get("lora_bias"):
        # Such a bias is multiplied by the scaling as well; the factor alone takes the strength, so the bias stays.
        return replace(delta, up=strength * delta.up)
    return scale_strength(delta, strength)


def _weight_delta(change: ModuleChange, base: BaseModules) -> WeightDelta:
    if change.factors is not None:
        return FactoredDelta(change.factors.up, change.factors.down, change.factors.scaling)
    assert change.adapted is not None
    return DenseDelta(change.adapted - base.weight(change.module))


def _stays_adapter(changes: Changes) -> bool:
    """Whether every ΔW is two factors that an adapter file can hold."""
    return isinstance(changes, AdapterChanges) and all(name in changes.factors for name in repairable(changes))


def _write(plan: Repair, folder: Path, report: Progress) -> None:
    changes, modules = plan.changes, plan.written
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        report(done, len(modules))

    def weight(module: str) -> Tensor:
        new = plan.weight(module)
        count()
        return new

    if isinstance(changes, ModelChanges):
        save_model(changes, modules, weight, folder)
    elif not _stays_adapter(changes):
        save_merged(changes, modules, weight, folder)
    elif plan.options.strength is not None and not changes.config.raw.get("lora_bias"):
        save_rescaled_adapter(changes, plan.options.strength, folder)
    else:
        factors = {}
        for module in modules:
            delta, _ = plan.repaired(module)
            assert isinstance(delta, FactoredDelta)
            factors[module] = Factors(delta.up, delta.down, delta.scaling)
            count()
        save_adapter(changes, factors, folder)


def _verified(plan: Repair, folder: Path, report: Progress) -> list[dict[str, Any]]:
    """One row a module: what was repaired, and how far the written ΔW is from ΔW'."""
    base = plan.changes.base
    read = changes_of(open_checkpoint(str(folder), name="repaired"), base)
    present = set(read.modules())
    rows = []
    for done, module in enumerate(plan.modules, 1):
        if module not in present:
            raise EvaluationError(f"the written checkpoint has no weight for {module}", where=str(plan.options.out))
        wanted, lost = plan.repaired(module)
        away = _reading_error(wanted, read.change(module), base, plan.options.out)
        judged = plan.found.get(module)
        rows.append(
            module_row(
                base.label(module),
                plan.delta(module),
                wanted,
                intruders=judged.indices if judged else (),
                lost=lost,
                away=away,
            )
        )
        report(done, len(plan.modules))
    return rows


def _reading_error(wanted: WeightDelta, change: ModuleChange, base: BaseModules, out: Path) -> float:
    """‖·‖_F between what was to be written and what reads back; more than rounding explains is an error."""
    away = distance(_weight_delta(change, base), wanted)
    if change.factors is None:
        bound = rounding_bound(DenseDelta(wanted.dense()), change.stored_dtype, base.weight(change.module))
    else:
        bound = rounding_bound(wanted, change.stored_dtype)
    # Twice the bound: the norms themselves are rounded, and ΔW' was formed in float32.
    if away <= 2.0 * bound + 1e-6 * frobenius(wanted):
        return away
    raise EvaluationError(
        f"{change.module} reads back {away:.3g} away from what was to be written; rounding explains {bound:.3g}",
        where=str(out),
        remedy="nothing was kept; please report this with the checkpoint's adapter_config.json or config.json",
    )


def _record(opened: Opened, plan: Repair, rows: list[dict[str, Any]]) -> dict[str, Any]:
    options, [subject] = plan.options, opened.subjects
    scaled: dict[str, Any] = {"option": "strength", "strength": options.strength}
    if options.intruders is not None:
        scaled = {"option": "intruders", "strength": options.intruders, "which": options.which}
        scaled |= {"k": options.k, "epsilon": options.epsilon, "truncated": options.truncate}
    return {
        "lorascope_version": __version__,
        "command": list(options.command),
        "base": {"path": opened.base.given, "content_hash": opened.base.content_hash},
        "adapted": {
            "path": subject.checkpoint.given,
            "content_hash": subject.checkpoint.content_hash,
            "method": subject.info.method,
        },
        **scaled,
        "written_as": "adapter" if _stays_adapter(plan.changes) else "model",
        "totals": {**totals(rows), "scaled_modules": len(plan.written)},
        "modules": rows,
        "kept": _kept(plan.changes),
    }


def _kept(changes: Changes) -> list[str]:
    """What differs from the base and is not scaled: modules that an adapter saves whole, and all but linear weights."""
    replaced = changes.replaced if isinstance(changes, AdapterChanges) else {}
    return [*(changes.base.label(name) for name in replaced), *(change.name for change in changes.others())]


def _sentence(plan: Repair) -> str:
    options = plan.options
    if options.intruders is None:
        assert options.strength is not None
        what = f"ΔW of {len(plan.modules)} linear modules multiplied by {strength_text(options.strength)}"
    else:
        which = "the highest-ranked intruder dimension" if options.which == "top" else "all intruder dimensions"
        what = (
            f"{which} of {len(plan.found)} of {len(plan.modules)} linear modules scaled by "
            f"{strength_text(options.intruders)} (k = {options.k}, ε = {strength_text(options.epsilon)})"
        )
    return f"Repaired with lorascope {__version__}: {what}. Details are in lorascope_repair.json."
