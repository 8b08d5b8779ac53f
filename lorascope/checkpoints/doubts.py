"""Findings about checkpoints: what makes a comparison doubtful, in sentences that a reader can act on."""

from __future__ import annotations

from pathlib import Path

from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.schema.comparison import Finding


def taken(subject: OpenCheckpoint, text: str) -> Finding:
    """How the checkpoint was found or read, where that was not plain."""
    return Finding(id=f"taken:{subject.name}", severity="info", area="checkpoint", subject=subject.name, title=text)


def base_name(subject: OpenCheckpoint, base: OpenCheckpoint) -> list[Finding]:
    """A finding with both names and revisions where the adapter says it was trained on another base."""
    assert subject.adapter is not None
    said = subject.adapter.base_name
    own = [str(base.path), str(base.path.resolve()), base.given.split("@")[0]]
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


def dead_adapter(subject: OpenCheckpoint, first: str, others: list[str]) -> Finding:
    """‖ΔW‖ = 0 in every linear module, though the adapter changes something else."""
    return Finding(
        id=f"dead-adapter:{subject.name}",
        severity="critical",
        area="weights",
        subject=subject.name,
        title="‖ΔW‖ = 0 in every linear module: the adapter's own parameters never learned",
        evidence=[f"zero throughout, the first is {first}", f"what it does bring: {_listed(others)}"],
        advice="Check the learning rate of the adapter's parameters and that they require gradients.",
    )


def dead_modules(subject: OpenCheckpoint, dead: list[str], total: int) -> Finding:
    """‖ΔW‖ = 0 in some of the adapted modules."""
    return Finding(
        id=f"dead-modules:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"{len(dead)} of {total} adapted modules never learned",
        evidence=[f"‖ΔW‖ = 0 in {_listed(dead)}"],
        advice="These modules get no gradient; leave them out of target_modules or find out why.",
    )


def no_merge(subject: OpenCheckpoint) -> Finding:
    """A method that works on layers and cannot be merged into them."""
    method = subject.adapter.method if subject.adapter is not None else "full"
    return Finding(
        id=f"no-merge:{subject.name}",
        severity="info",
        area="weights",
        subject=subject.name,
        title=f"{method} cannot be merged into the base's weights: its ΔW is undefined",
        evidence=["PEFT has no merge for it"],
        advice="Compare the behaviour alone.",
    )


def unused_patterns(subject: OpenCheckpoint, patterns: list[str]) -> Finding:
    """Keys of ``rank_pattern`` or ``alpha_pattern`` that match no module."""
    return Finding(
        id=f"pattern:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title="Patterns in the adapter's configuration match no adapted module",
        evidence=[_listed(patterns)],
        advice="PEFT passes over them: those modules were trained with the plain r and lora_alpha.",
    )


def untrained(subject: OpenCheckpoint, names: list[str], class_name: str) -> Finding:
    """Linear modules of the model class that no file holds."""
    return Finding(
        id=f"untrained:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title=f"{len(names)} modules of {class_name} have no weights and are random whenever it is loaded",
        evidence=[_listed(names)],
        advice="Do not rely on anything that is computed through them.",
    )


def unmatched(subject: OpenCheckpoint, names: list[str]) -> Finding:
    """Modules of the base that the adapted architecture does not have."""
    return Finding(
        id=f"unmatched:{subject.name}",
        severity="info",
        area="weights",
        subject=subject.name,
        title=f"{len(names)} modules exist in the base only and were not compared",
        evidence=[_listed(names)],
    )


def resized(subject: OpenCheckpoint, names: list[str]) -> Finding:
    """Heads with another number of outputs than the base's."""
    return Finding(
        id=f"resized:{subject.name}",
        severity="info",
        area="weights",
        subject=subject.name,
        title=f"{len(names)} heads have another number of outputs than the base's: their ΔW is undefined",
        evidence=[_listed(names)],
    )


def vocabulary_size(subject: OpenCheckpoint, ours: int, theirs: int) -> Finding:
    """Another number of token embeddings than the base's."""
    return Finding(
        id=f"vocabulary:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title=f"The vocabulary has {ours} entries in the adapted model and {theirs} in the base",
        evidence=["embeddings and output rows were added or removed; their ΔW is left out"],
        advice="Likelihoods per token are not comparable; use measures per byte or of the generated text.",
    )


def dtypes(subject: OpenCheckpoint, base: OpenCheckpoint) -> Finding:
    """Weights stored in another type than the base's."""
    return Finding(
        id=f"dtype:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"Stored as {subject.dtype}, the base as {base.dtype}: ΔW holds the rounding of one of them",
        evidence=["singular values of ΔW under the rounding floor are marked"],
        advice="Save both in the same type where small changes matter.",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" … and {len(names) - 8} more" if len(names) > 8 else "")
