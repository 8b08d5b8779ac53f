"""Lint of an adapter: what its configuration, its tensors and the measured ΔW show to be amiss.

:func:`lint_files` needs the files alone, :func:`lint_weights` the numbers of the weight analysis. What makes a
comparison meaningless, and values that are NaN or infinite, the proof in ``compatibility`` has refused before.
``inference_mode`` is not looked at: PEFT sets it anew at every loading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from lorascope.checkpoints import doubts
from lorascope.checkpoints.adapters import AdapterConfig, method_module, plain_name
from lorascope.checkpoints.changes import AdapterChanges, BaseModules, Changes
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.targeting import own_modules, targeting, whole_modules
from lorascope.schema.comparison import Finding, ModuleWeights
from lorascope.schema.names import position

if TYPE_CHECKING:
    from torch import Tensor

_FACTORS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))
_SHORT_TYPES = ("F16", "BF16")
_NEAR_OVERFLOW = 6e4
# rsLoRA with α ≥ r is pointed out from this rank on, where √r is 4.
_STABILISED_RANK = 16
_OUTLIER = 10.0
_COMPARABLE = 4
_LOST = 0.9


@dataclass(frozen=True)
class _Pair:
    """Two low-rank factors of one module, by their keys: ``down`` (r, in) and ``up`` (out, r)."""

    module: str
    down: str
    up: str


@dataclass
class _Health:
    """What one reading of all tensors shows."""

    untouched: list[str] = field(default_factory=list)
    peaks: list[str] = field(default_factory=list)
    deficient: list[str] = field(default_factory=list)
    lost: int = 0
    directions: int = 0
    causes: Counter[str] = field(default_factory=Counter)


def lint_files(subject: OpenCheckpoint, base: BaseModules, changes: Changes) -> list[Finding]:
    """Findings from the adapter's configuration and tensors; each tensor is read once, the base's are not read.

    Empty for a full model, which has no configuration of how it was adapted.
    """
    if not isinstance(changes, AdapterChanges):
        return []
    pairs = list(_pairs(subject))
    modules = [pair.module for pair in pairs]
    findings = [] if changes.config.is_prompt_method else _targeting(subject, changes)
    if changes.config.peft_type == "LORA":
        findings += _scaling(subject, changes.config, modules)
        start = str(changes.config.raw.get("init_lora_weights"))
        findings += [doubts.redrawn_start(subject, start)] if start.startswith("pissa_niter") else []
    findings += _fan_in_fan_out(subject, changes)
    findings += _tied(subject, base, changes)
    return findings + _tensors(subject, changes, pairs)


def lint_weights(subject: OpenCheckpoint, modules: Sequence[ModuleWeights]) -> list[Finding]:
    """Findings from the weight analysis of one subject; undefined numbers are passed over."""
    return [*scaling_outliers(subject, modules), *rounding(subject, modules), *lost_updates(subject, modules)]


def scaling_outliers(subject: OpenCheckpoint, modules: Sequence[ModuleWeights]) -> list[Finding]:
    """Modules with ‖ΔW‖_F > ‖W0‖_F, and those over 10 or under 1/10 times the median of the others of their kind.

    The kind is the module's name without the layer's number (``self_attn.q_proj``), within one stack of layers. A kind
    with fewer than four changed modules is not judged; modules with ΔW = 0 or W0 = 0 are left out.
    """
    kinds: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for module in modules:
        if module.relative_change:
            stack, _, kind = position(module.name)
            kinds.setdefault((stack, kind), []).append((module.name, module.relative_change))
    far = []
    for members in kinds.values():
        for index, (name, change) in enumerate(members if len(members) >= _COMPARABLE else []):
            usual = median(other for place, (_, other) in enumerate(members) if place != index)
            if not usual / _OUTLIER <= change <= usual * _OUTLIER:
                far.append(f"{name} {change:.3g} (the others' median {usual:.3g})")
    large = [(change, name) for members in kinds.values() for name, change in members if change > 1.0]
    findings = [doubts.outliers(subject, far)] if far else []
    if large:
        named = [f"{name} {change:.3g}" for change, name in sorted(large, reverse=True)]
        findings.append(doubts.overwhelmed(subject, named))
    return findings


def rounding(subject: OpenCheckpoint, modules: Sequence[ModuleWeights]) -> list[Finding]:
    """How much of ΔW lies under the rounding floor of the stored type, for a full model stored in F16 or BF16.

    A warning where most of ‖ΔW‖²_F lies under the floor in more than half of the modules, information where most
    singular values do. A module with more values above the floor than the report keeps counts as above it.
    """
    judged = [
        (module, module.numerical_rank)
        for module in modules
        if module.rounding_floor and module.frobenius and module.numerical_rank is not None
    ]
    if subject.kind != "model" or subject.dtype not in _SHORT_TYPES or not judged:
        return []
    total = sum(min(module.shape) for module, _ in judged)
    under = total - sum(rank for _, rank in judged)
    mostly = [
        module.name
        for module, rank in judged
        if rank <= len(module.singular_values)
        and 2.0 * sum(value**2 for value in module.singular_values[:rank]) < module.frobenius**2
    ]
    if 2 * len(mostly) <= len(judged) and 2 * under <= total:
        return []
    return [doubts.rounding(subject, mostly, len(judged), under, total)]


def lost_updates(subject: OpenCheckpoint, modules: Sequence[ModuleWeights]) -> list[Finding]:
    """A full fine-tune stored in F16 or BF16 with at least 90 % of its entries unchanged: rounding ate the updates.

    Modules that did not change at all are frozen, not rounded, and are left out.
    """
    known = [(module, module.exact_zero_fraction) for module in modules if module.exact_zero_fraction is not None]
    moved = [(module, share) for module, share in known if share < 1.0]
    if subject.kind != "model" or subject.dtype not in _SHORT_TYPES or not moved:
        return []
    sizes = [module.shape[0] * module.shape[1] for module, _ in moved]
    overall = sum(size * share for size, (_, share) in zip(sizes, moved, strict=True)) / sum(sizes)
    if overall < _LOST:
        return []
    named = [f"{module.name} {share:.1%}" for module, share in sorted(moved, key=lambda pair: -pair[1])]
    return [doubts.lost_updates(subject, overall, named, len(known) - len(moved))]


def _pairs(subject: OpenCheckpoint) -> Iterator[_Pair]:
    specs = subject.tensors.specs
    for key in specs:
        for down, up in _FACTORS:
            other = key.removesuffix(down) + up
            if not key.endswith(down) or other not in specs:
                continue
            first, second = specs[key].shape, specs[other].shape
            if len(first) == len(second) == 2 and first[0] == second[1]:
                yield _Pair(plain_name(key).removesuffix(down), key, other)


def _targeting(subject: OpenCheckpoint, changes: AdapterChanges) -> list[Finding]:
    """Configuration against modules, by PEFT's own matching rule."""
    found = targeting(subject, changes)
    if found.refusal is not None:
        return [doubts.refused_config(subject, found.refusal)]
    findings = [doubts.unmatched_entries(subject, found.unmatched)] if found.unmatched else []
    if found.ignored:
        findings.append(doubts.ignored_tensors(subject, found.ignored))
    return findings + ([doubts.absent_tensors(subject, found.absent)] if found.absent else [])


def _scaling(subject: OpenCheckpoint, config: AdapterConfig, modules: Sequence[str]) -> list[Finding]:
    """Effective scaling of each module as PEFT computes it."""
    ranks, scalings = {m: config.rank(m) for m in modules}, {m: config.scaling(m) for m in modules}
    findings = []
    zero = [module for module in modules if scalings[module] == 0.0]
    if zero:
        findings.append(doubts.zero_scaling(subject, zero))
    groups: dict[tuple[int, float], list[str]] = {}
    for module in modules:
        groups.setdefault((ranks[module], scalings[module]), []).append(module)
    if config.raw.get("rank_pattern") and not config.raw.get("alpha_pattern") and len(set(scalings.values())) > 1:
        said = [
            f"r = {rank}: scaling {scaling:.4g} in {len(names)} modules, the first is {names[0]}"
            for (rank, scaling), names in sorted(groups.items())
        ]
        findings.append(doubts.mixed_scaling(subject, said))
    if config.raw.get("use_rslora"):
        alphas = {module: scalings[module] * ranks[module] ** 0.5 for module in modules}
        # The product of a root and its quotient may fall short of α by a rounding.
        strong = [m for m in modules if ranks[m] >= _STABILISED_RANK and alphas[m] >= ranks[m] * (1 - 1e-9)]
        if strong:
            top = max(strong, key=lambda module: scalings[module])
            findings.append(doubts.rank_stabilised(subject, len(strong), alphas[top], ranks[top]))
    return findings


def _fan_in_fan_out(subject: OpenCheckpoint, changes: AdapterChanges) -> list[Finding]:
    said = changes.config.raw.get("fan_in_fan_out")
    named = [changes.skeleton.module_named(name) for name in changes.adapted_names]
    linear = [changes.skeleton.linear[name] for name in named if name in changes.skeleton.linear]
    # With layers of both kinds no single value is right, and PEFT decides layer by layer.
    if not isinstance(said, bool) or not linear or any(module.transposed == said for module in linear):
        return []
    return [doubts.orientation(subject, said, linear[0].name)]


def _tied(subject: OpenCheckpoint, base: BaseModules, changes: AdapterChanges) -> list[Finding]:
    """Output layer and embeddings that share one matrix, of which the adapter changes one, or adds to the output."""
    if changes.config.raw.get("ensure_weight_tying"):
        return []
    resolve = changes.skeleton.module_named
    added = {resolve(name) for name in own_modules(subject, changes)}
    whole = {resolve(name) for name in whole_modules(subject, changes)}
    findings = []
    for output, module in changes.skeleton.tied.items():
        source = str(module.tied_to).removesuffix(".weight")
        if base.named(output) in base.names:
            continue
        touched = {name for name in (output, source) if name in added | whole}
        if len(touched) == 1 or output in added:
            how = [f"{name} ({'by the method' if name in added else 'as a whole'})" for name in sorted(touched)]
            findings.append(doubts.tied(subject, output, source, " and ".join(how)))
    return findings


def _tensors(subject: OpenCheckpoint, changes: AdapterChanges, pairs: Sequence[_Pair]) -> list[Finding]:
    health = _Health()
    counted = {pair.down for pair in changes.factors.values()}
    for pair in pairs:
        down, up = subject.tensors.get(pair.down), subject.tensors.get(pair.up)
        _note_peak(health, subject, pair.down, down)
        _note_peak(health, subject, pair.up, up)
        empty = [key for key, tensor in ((pair.down, down), (pair.up, up)) if not bool(tensor.any())]
        if not empty:
            _note_rank(health, pair.module, down.double(), up.double())
        elif pair.down not in counted:
            health.untouched += empty
    paired = {key for pair in pairs for key in (pair.down, pair.up)}
    for key in subject.tensors.specs:
        if key not in paired:
            tensor = subject.tensors.get(key)
            _note_peak(health, subject, key, tensor)
            if _at_its_start(key, tensor, changes.config.peft_type):
                health.untouched.append(key)
    return _sick(subject, health)


def _note_peak(health: _Health, subject: OpenCheckpoint, key: str, tensor: Tensor) -> None:
    if subject.tensors.specs[key].dtype == "F16" and tensor.numel():
        peak = float(tensor.float().abs().max())
        if peak > _NEAR_OVERFLOW:
            health.peaks.append(f"{plain_name(key)} {peak:.0f}")


def _note_rank(health: _Health, module: str, down: Tensor, up: Tensor) -> None:
    """Numerical rank of up·down from its r×r core, in float64; what float32 training cannot tell from 0 is 0."""
    import torch

    core = torch.linalg.qr(up, mode="r").R @ torch.linalg.qr(down.T, mode="r").R.T
    values = torch.linalg.svdvals(core)
    width, possible = down.shape[0], min(down.shape[0], up.shape[0], down.shape[1])
    rank = int((values > width * torch.finfo(torch.float32).eps * values[0]).sum())
    health.directions += possible
    if rank >= possible:
        return
    health.lost += possible - rank
    health.deficient.append(f"{module} {rank} of {width}")
    alive = down[down.any(dim=1)]
    health.causes["zero rows of A"] += width - len(alive)
    health.causes["zero columns of B"] += width - int(up.any(dim=0).sum())
    health.causes["repeated rows of A"] += len(alive) - len(torch.unique(alive, dim=0))


def _at_its_start(key: str, tensor: Tensor, peft_type: str) -> bool:
    """Whether one of the method's own tensors has the value that changes nothing: zero, or one for IA3."""
    if not tensor.numel() or key.endswith(".bias") or method_module(key, peft_type) is None:
        return False
    return bool((tensor == (1 if peft_type == "IA3" else 0)).all())


def _sick(subject: OpenCheckpoint, health: _Health) -> list[Finding]:
    findings = []
    if health.untouched:
        findings.append(doubts.untouched(subject, health.untouched))
    if health.deficient:
        why = ", ".join(f"{cause}: {count}" for cause, count in health.causes.items() if count)
        why = why or "no row is zero or repeated: the factors are linearly dependent"
        findings.append(doubts.deficient(subject, health.deficient, health.lost, health.directions, why))
    if health.peaks:
        findings.append(doubts.near_overflow(subject, health.peaks))
    return findings
