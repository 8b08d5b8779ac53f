"""Proof, before anything is measured, that base and adapted checkpoint belong together.

What makes a comparison meaningless raises :class:`InvalidComparison` with the leaf and the mend; what is only doubtful
becomes a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.adapters import owner_module
from lorascope.checkpoints.changes import AdapterChanges, BaseModules, Changes, ModelChanges
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tokenizers import tokenizer_findings
from lorascope.errors import InvalidComparison
from lorascope.schema.comparison import Finding

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]
_SIZES = ("model_type", "hidden_size", "d_model", "n_embd", "num_hidden_layers", "num_layers", "n_layer",
          "num_attention_heads", "num_key_value_heads", "intermediate_size")  # fmt: skip
_HEAD_TASKS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}


@dataclass(frozen=True)
class Proof:
    """What the checks found. ``changed`` counts parameters that differ from the base; ``head`` names trained heads."""

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
    findings = [_note(subject, text) for text in subject.notes]
    findings += tokenizer_findings(subject, base.checkpoint)
    if isinstance(changes, AdapterChanges):
        return _prove_adapter(subject, base, changes, findings, on_progress)
    return _prove_model(subject, base, changes, findings, on_progress)


def _prove_adapter(
    subject: OpenCheckpoint, base: BaseModules, changes: AdapterChanges, findings: list[Finding], on_progress: Progress
) -> Proof:
    config = changes.config
    if not config.is_prompt_method:
        _all_owned(subject, base)
    zero = _zero_tensors(subject, on_progress)
    heads = tuple(key for key in subject.tensors.specs if _is_head(key, base))
    ups = [pair.up for pair in changes.factors.values()]
    dead = [key for key in ups if key in zero]
    if ups and len(dead) == len(ups):
        findings.append(_dead_adapter(subject, ups[0], heads))
    elif dead:
        findings.append(_dead_modules(subject, dead, len(ups)))
    if config.task_type in _HEAD_TASKS and not heads and not _base_has_head(base):
        raise InvalidComparison(
            f"the adapter is for {config.task_type}, but neither it nor the base holds a trained head",
            where=str(subject.path),
            remedy="save it through get_peft_model with task_type set, which keeps the head in modules_to_save",
        )
    findings += _base_name(subject, base.checkpoint)
    shapes = {pair.module: subject.tensors.specs[pair.up].shape[0] for pair in changes.factors.values()}
    changed = sum(
        rows * subject.tensors.specs[pair.down].shape[1]
        for pair in changes.factors.values()
        if pair.up not in zero and (rows := shapes[pair.module])
    )
    trainable = sum(prod(spec.shape) for spec in subject.tensors.specs.values())
    return Proof(findings, changed if changes.factors else None, trainable, heads)


def _prove_model(
    subject: OpenCheckpoint, base: BaseModules, changes: ModelChanges, findings: list[Finding], on_progress: Progress
) -> Proof:
    _same_sizes(subject, base.checkpoint)
    if not changes.keys:
        raise InvalidComparison(
            "base and adapted model share no linear module",
            where=f"{subject.path} against {base.checkpoint.path}",
            remedy="compare models of one architecture",
        )
    changed, shared = _count_changed(subject, base, changes, on_progress)
    if shared and changed == 0:
        raise InvalidComparison(
            f"the adapted model is the base itself: all {shared} shared tensors are equal",
            where=f"{subject.path} against {base.checkpoint.path}",
            remedy="check which folder the fine-tuned weights were saved to",
        )
    if changes.unmatched:
        findings.append(_unmatched(subject, changes.unmatched))
    if subject.dtype != base.checkpoint.dtype:
        findings.append(_dtypes(subject, base.checkpoint))
    heads = tuple(key for key in subject.tensors.specs if _is_head(key, base))
    total = sum(prod(spec.shape) for spec in subject.tensors.specs.values())
    return Proof(findings, changed, total, heads)


def _finite(key: str, tensor: Tensor, checkpoint: OpenCheckpoint) -> None:
    if not tensor.is_floating_point():
        return
    if bool(tensor.float().isfinite().all()):
        return
    bad = int((~tensor.float().isfinite()).sum())
    raise InvalidComparison(
        f"tensor {key} has {bad} values that are NaN or infinite, of {tensor.numel()}",
        where=f"{checkpoint.tensors.specs[key].file} ({checkpoint.name})",
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


def _all_owned(subject: OpenCheckpoint, base: BaseModules) -> None:
    lost = [key for key in subject.tensors.specs if _owner(key, base) is None and not _shared_tensor(key)]
    if lost:
        assert subject.adapter is not None
        raise InvalidComparison(
            f"{len(lost)} of {len(subject.tensors.specs)} adapter tensors belong to no module of the base "
            f"({base.skeleton.class_name}), the first is {lost[0]}",
            where=str(subject.path),
            remedy=f"give the base it was trained on ({subject.adapter.base_name or 'the adapter names none'})",
        )


def _owner(key: str, base: BaseModules) -> str | None:
    return base.skeleton.module_named(owner_module(key))


def _shared_tensor(key: str) -> bool:
    """Projections that a method keeps once for all layers (VeRA, RandLoRA, VB-LoRA) belong to no single module."""
    return any(mark in key for mark in ("vera_A", "vera_B", "randlora_A", "randlora_B", "vblora_vector_bank"))


def _is_head(key: str, base: BaseModules) -> bool:
    """A tensor outside the trunk that the base does not have: a head that training added."""
    if ".lora_" in key:
        return False
    plain = key.removeprefix("base_model.model.")
    if base.skeleton.key_of(plain, base.tensors) is not None:
        return False
    prefix = base.skeleton.prefix
    return plain.split(".")[0] in {"classifier", "score", "qa_outputs", "classification_head", "pre_classifier"} or (
        bool(prefix) and not plain.startswith(f"{prefix}.") and _owner(key, base) is not None
    )


def _base_has_head(base: BaseModules) -> bool:
    names = ("classifier", "score", "qa_outputs", "classification_head")
    return any(key.split(".")[0] in names for key in base.tensors.specs)


def _same_sizes(subject: OpenCheckpoint, base: OpenCheckpoint) -> None:
    ours, theirs = _text_config(subject.config or {}), _text_config(base.config or {})
    for key in _SIZES:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise InvalidComparison(
                f"{key} is {ours[key]} in the adapted model and {theirs[key]} in the base",
                where=f"{subject.path / 'config.json'} against {base.path / 'config.json'}",
                remedy="compare a fine-tuned model with the base it was made from",
            )


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _count_changed(
    subject: OpenCheckpoint, base: BaseModules, changes: ModelChanges, on_progress: Progress
) -> tuple[int, int]:
    """(parameters that differ, tensors that both have); every tensor of the subject is checked for NaN on the way."""
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
        original = base.tensors.get(twin)
        common = original.dtype if original.dtype == tensor.dtype else None
        different = tensor != original if common else tensor.float() != original.float()
        changed += int(different.sum())
    return changed, shared


def _base_name(subject: OpenCheckpoint, base: OpenCheckpoint) -> list[Finding]:
    assert subject.adapter is not None
    said = subject.adapter.base_name
    own = [str(base.path), str(base.path.resolve()), base.given]
    own.append(str((base.config or {}).get("_name_or_path") or base.given))
    fits = said is not None and any(Path(said).name == Path(name).name for name in own)
    revision = subject.adapter.raw.get("revision")
    if fits and (revision is None or base.revision is None or revision == base.revision):
        return []
    return [
        Finding(
            id=f"base-name:{subject.name}",
            severity="warning",
            area="checkpoint",
            subject=subject.name,
            title="The adapter may belong to another base",
            evidence=[
                f"the adapter says {said or 'nothing'}" + (f", revision {revision}" if revision else ""),
                f"the base given is {base.given}" + (f", revision {base.revision}" if base.revision else ""),
                "names and shapes of all tensors fit",
            ],
            advice="Make sure that both are the same model and revision; shapes alone cannot tell.",
        )
    ]


def _dead_adapter(subject: OpenCheckpoint, first: str, heads: tuple[str, ...]) -> Finding:
    if not heads:
        raise InvalidComparison(
            f"the adapter changes nothing: every lora_B is zero, so ‖ΔW‖ = 0 (the first is {first})",
            where=str(subject.path),
            remedy="check that training ran and that the trained adapter was saved (strict=False loads an empty one)",
        )
    return Finding(
        id=f"dead-adapter:{subject.name}",
        severity="critical",
        area="weights",
        subject=subject.name,
        title="Only the head was trained: ‖ΔW‖ = 0 in every linear module",
        evidence=[f"every lora_B is zero, the first is {first}", f"trained head: {', '.join(heads)}"],
        advice="Check the learning rate of the adapter's parameters and that they require gradients.",
    )


def _dead_modules(subject: OpenCheckpoint, dead: list[str], total: int) -> Finding:
    return Finding(
        id=f"dead-modules:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"{len(dead)} of {total} adapted modules never learned",
        evidence=[f"lora_B is zero in {', '.join(dead[:5])}" + (" …" if len(dead) > 5 else "")],
        advice="These modules get no gradient; leave them out of target_modules or find out why.",
    )


def _unmatched(subject: OpenCheckpoint, names: list[str]) -> Finding:
    return Finding(
        id=f"unmatched:{subject.name}",
        severity="info",
        area="weights",
        subject=subject.name,
        title=f"{len(names)} modules exist in the base only and were not compared",
        evidence=[", ".join(names[:8]) + (" …" if len(names) > 8 else "")],
    )


def _dtypes(subject: OpenCheckpoint, base: OpenCheckpoint) -> Finding:
    return Finding(
        id=f"dtype:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"Stored as {subject.dtype}, the base as {base.dtype}: ΔW holds the rounding of one of them",
        evidence=["singular values of ΔW under the rounding floor are marked"],
        advice="Save both in the same type where small changes matter.",
    )


def _note(subject: OpenCheckpoint, text: str) -> Finding:
    return Finding(id=f"taken:{subject.name}", severity="info", area="checkpoint", subject=subject.name, title=text)
