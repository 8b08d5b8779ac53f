"""Proof, before anything is measured, that base and adapted checkpoint belong together.

What makes a comparison meaningless raises :class:`InvalidComparison` with the leaf and the mend; what is only doubtful
becomes a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from lorascope.checkpoints import doubts
from lorascope.checkpoints.adapters import is_shared, method_module, plain_name, unused_patterns
from lorascope.checkpoints.changes import AdapterChanges, BaseModules, Changes, ModelChanges, right_base, text_config
from lorascope.checkpoints.modules import Skeleton
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tensors import TensorSource
from lorascope.checkpoints.tokenizers import tokenizer_findings
from lorascope.errors import InvalidComparison
from lorascope.schema.comparison import Finding

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]
# PEFT's task types that need no output layer to be trained: the model's features are the answer.
_HEADLESS_TASKS = (None, "FEATURE_EXTRACTION")
# Relative change under which a merge has changed nothing: float32 arithmetic alone gives up to 2e-7.
_NO_CHANGE = 1e-6


@dataclass(frozen=True)
class Proof:
    """What the checks found.

    ``changed`` counts parameters that differ from the base (None where that is not known without merging every layer),
    ``trainable`` those that the subject's files hold, ``head`` names trained tensors of heads that the base lacks.
    """

    findings: list[Finding] = field(default_factory=list)
    changed: int | None = None
    trainable: int | None = None
    head: tuple[str, ...] = ()


def prove_base(base: OpenCheckpoint, on_progress: Progress) -> None:
    """Raise :class:`InvalidComparison` for a base that is an adapter or holds NaN or infinite values."""
    if base.kind == "adapter":
        raise InvalidComparison(
            "the base is an adapter; an adapter has no weights of its own to compare with",
            where=base.given,
            remedy="give the full base model first, then the adapters",
        )
    for done, key in enumerate(base.tensors.specs, 1):
        _finite(key, base.tensors.get(key), base)
        on_progress(done, len(base.tensors.specs))


def prove(subject: OpenCheckpoint, base: BaseModules, changes: Changes, on_progress: Progress) -> Proof:
    """Check one subject against the base, whose own tensors :func:`prove_base` has checked."""
    findings = [doubts.taken(subject, text) for text in subject.notes]
    findings += tokenizer_findings(subject, base.checkpoint)
    if isinstance(changes, AdapterChanges):
        return _prove_adapter(subject, base, changes, findings, on_progress)
    return _prove_model(subject, base, changes, findings, on_progress)


def _prove_adapter(
    subject: OpenCheckpoint, base: BaseModules, changes: AdapterChanges, findings: list[Finding], on_progress: Progress
) -> Proof:
    config = changes.config
    if not (config.is_prompt_method or config.replicates_layers):
        _all_owned(subject, changes)
    patterns = unused_patterns(config, changes.adapted_names)
    if patterns:
        findings.append(doubts.unused_patterns(subject, patterns))
    zero = _zero_tensors(subject, on_progress)
    findings += _untrained(subject, changes.skeleton, _held(changes), config.task_type in _HEADLESS_TASKS)
    findings += _without_effect(subject, changes, zero)
    if changes.has_no_merge:
        findings.append(doubts.no_merge(subject))
    findings += doubts.base_name(subject, base.checkpoint)
    trainable = sum(prod(spec.shape) for spec in subject.tensors.specs.values())
    return Proof(findings, _changed_by_adapter(changes, zero), trainable, _adapter_head(changes))


def _prove_model(
    subject: OpenCheckpoint, base: BaseModules, changes: ModelChanges, findings: list[Finding], on_progress: Progress
) -> Proof:
    """A model that shares every tensor with its base is refused, but for one whose head alone was trained."""
    if not changes.keys:
        raise InvalidComparison(
            "base and adapted model share no linear module",
            where=f"{subject.path} against {base.checkpoint.path}",
            remedy="compare models of one architecture",
        )
    changed, shared = _count_changed(subject, base, changes, on_progress)
    head = _model_head(changes)
    if changed == 0 and not head:
        raise InvalidComparison(
            f"the adapted model is the base itself: all {shared} shared tensors are equal, so ‖ΔW‖ = 0",
            where=f"{subject.path} against {base.checkpoint.path}",
            remedy="check which folder the fine-tuned weights were saved to",
        )
    held = set(changes.skeleton.linear_keys(changes.tensors))
    findings += _untrained(subject, changes.skeleton, held, changes.skeleton.class_name.endswith("Model"))
    if changes.unmatched:
        findings.append(doubts.unmatched(subject, changes.unmatched))
    if changes.resized:
        findings.append(doubts.resized(subject, changes.resized))
    findings += _other_storage(subject, base.checkpoint)
    total = sum(prod(spec.shape) for spec in subject.tensors.specs.values())
    return Proof(findings, changed, total, head)


def _finite(key: str, tensor: Tensor, checkpoint: OpenCheckpoint) -> None:
    if not tensor.is_floating_point():
        return
    finite = tensor.float().isfinite()
    if bool(finite.all()):
        return
    raise InvalidComparison(
        f"tensor {key} has {int((~finite).sum())} values that are NaN or infinite, of {tensor.numel()}",
        where=f"{checkpoint.path} ({checkpoint.name})",
        remedy="take an earlier checkpoint; this one broke in training or in conversion",
    )


def _zero_tensors(subject: OpenCheckpoint, on_progress: Progress) -> set[str]:
    """Keys of the adapter's tensors that are zero throughout; every tensor is checked for NaN on the way."""
    zero = set()
    for done, key in enumerate(subject.tensors.specs, 1):
        tensor = subject.tensors.get(key)
        _finite(key, tensor, subject)
        if not bool(tensor.any()):
            zero.add(key)
        on_progress(done, len(subject.tensors.specs))
    return zero


def _all_owned(subject: OpenCheckpoint, changes: AdapterChanges) -> None:
    lost = [key for key in changes.tensors.specs if not is_shared(key) and not _owned(key, changes)]
    if lost:
        raise InvalidComparison(
            f"{len(lost)} of {len(changes.tensors.specs)} adapter tensors belong to no module of the base "
            f"({changes.base.checkpoint.architecture or changes.skeleton.class_name}), the first is {lost[0]}",
            where=str(subject.path),
            remedy=right_base(subject),
        )


def _owned(key: str, changes: AdapterChanges) -> bool:
    module = method_module(key, changes.config.peft_type)
    if module is None:
        return changes.skeleton.has_parameter(plain_name(key))
    return changes.skeleton.module_named(module) is not None


def _whole_tensors(changes: AdapterChanges) -> list[str]:
    """Adapter tensors that are whole parameters of the model, saved under their own names."""
    return [key for key in changes.tensors.specs if method_module(key, changes.config.peft_type) is None]


def _adapter_head(changes: AdapterChanges) -> tuple[str, ...]:
    """Whole head tensors of the adapter that the base lacks, or has in another size (another set of labels)."""
    base, specs = changes.base, changes.tensors.specs
    heads = []
    for key in _whole_tensors(changes):
        twin = base.skeleton.key_of(plain_name(key), base.tensors)
        same = twin is not None and base.tensors.specs[twin].shape == specs[key].shape
        if not same and changes.skeleton.module_named(plain_name(key).rpartition(".")[0]) in changes.skeleton.heads:
            heads.append(key)
    return tuple(heads)


def _model_head(changes: ModelChanges) -> tuple[str, ...]:
    base, own = changes.base, changes.skeleton
    return tuple(
        key
        for key in changes.tensors.specs
        if base.skeleton.key_of(key, base.tensors) is None and own.module_named(key.rpartition(".")[0]) in own.heads
    )


def _held(changes: AdapterChanges) -> set[str]:
    """Linear modules of the adapter's model class whose weights the base or the adapter holds."""
    base, own = changes.base, changes.skeleton
    sources: list[TensorSource] = [base.tensors, base.checkpoint.tensors]
    held = {name for source in sources for name in own.linear_keys(source)}
    brought = {name for key in _whole_tensors(changes) for name in own.spellings(plain_name(key))}
    return held | {name for name, module in own.linear.items() if module.parameter in brought}


def _untrained(subject: OpenCheckpoint, built: Skeleton, held: set[str], headless: bool) -> list[Finding]:
    """Modules that loading would fill at random: fatal for a model with a head, doubtful for one without."""
    lacking = [name for name in built.linear if name not in held]
    if not lacking:
        return []
    if headless:
        return [doubts.untrained(subject, lacking, built.class_name)]
    raise InvalidComparison(
        f"no trained {lacking[0]}: {built.class_name} needs it, and no file holds its weights "
        f"({len(lacking)} such modules)",
        where=str(subject.path),
        remedy="save the head with the checkpoint (for PEFT: task_type and modules_to_save); loading would fill it "
        "at random",
    )


def _without_effect(subject: OpenCheckpoint, changes: AdapterChanges, zero: set[str]) -> list[Finding]:
    """Refuse an adapter that changes nothing at all; report one whose ΔW is zero everywhere or in some modules."""
    adapted = [name for name in changes.modules() if name in changes.factors or name not in changes.replaced]
    dead = [name for name in adapted if _is_dead(changes, name, zero)]
    if len(dead) < len(adapted):
        return [doubts.dead_modules(subject, dead, len(adapted))] if dead else []
    if changes.config.is_prompt_method or changes.config.replicates_layers or changes.has_no_merge:
        return []
    named = [change.name for change in changes.others()]
    saved = {changes.base.parameter_label(parameter) for parameter in changes.saved}
    if changes.is_merged and not saved.issuperset(named):
        return []  # The method itself works on something else than the layers' matrices: biases, norms, embeddings.
    others = named + [changes.base.label(name) for name in changes.replaced if not _unchanged(changes, name)]
    others += [key for key in _adapter_head(changes) if key not in zero]
    if not others:
        where = f"in all {len(dead)} adapted modules (the first is {dead[0]})" if dead else "everywhere"
        raise InvalidComparison(
            f"the adapter changes nothing: ‖ΔW‖ = 0 {where}",
            where=str(subject.path),
            remedy="check that training ran and that the trained adapter was saved (strict=False loads an empty one)",
        )
    return [doubts.dead_adapter(subject, dead[0], others)] if dead else []


def _is_dead(changes: AdapterChanges, module: str, zero: set[str]) -> bool:
    pair = changes.factors.get(module)
    if pair is None:
        return _unchanged(changes, module)
    if pair.up in zero or pair.down in zero or pair.scaling == 0.0:
        return True
    if pair.part is None:
        return False
    # An expert that no token reached keeps its start in tensors that the others' factors share.
    factors = changes.change(module).factors
    return factors is not None and not (bool(factors.up.any()) and bool(factors.down.any()))


def _unchanged(changes: AdapterChanges, module: str) -> bool:
    adapted = changes.change(module).adapted
    original = changes.base.weight(module)
    return adapted is not None and float((adapted - original).norm()) <= _NO_CHANGE * float(original.norm())


def _changed_by_adapter(changes: AdapterChanges, zero: set[str]) -> int | None:
    if not changes.factors:
        return None
    alive = [changes.base.linear(name) for name in changes.factors if not _is_dead(changes, name, zero)]
    return sum(module.out_features * module.in_features for module in alive)


def _other_storage(subject: OpenCheckpoint, base: OpenCheckpoint) -> list[Finding]:
    findings = []
    ours, theirs = text_config(subject).get("vocab_size"), text_config(base).get("vocab_size")
    if ours is not None and theirs is not None and ours != theirs:
        findings.append(doubts.vocabulary_size(subject, int(ours), int(theirs)))
    if subject.dtype != base.dtype:
        findings.append(doubts.dtypes(subject, base))
    return findings


def _count_changed(
    subject: OpenCheckpoint, base: BaseModules, changes: ModelChanges, on_progress: Progress
) -> tuple[int, int]:
    """(parameters that differ, tensors that both have); every tensor of the subject is checked for NaN on the way.

    The base is taken in the subject's type: what storing in a narrower type alone makes of a weight is no change.
    """
    changed = shared = 0
    specs = changes.tensors.specs
    for done, key in enumerate(specs, 1):
        tensor = changes.tensors.get(key)
        _finite(key, tensor, subject)
        on_progress(done, len(specs))
        twin = base.skeleton.key_of(key, base.tensors)
        if twin is None or base.tensors.specs[twin].shape != tuple(tensor.shape):
            continue
        shared += 1
        changed += int((tensor != base.tensors.get(twin).to(tensor.dtype)).sum())
    return changed, shared
