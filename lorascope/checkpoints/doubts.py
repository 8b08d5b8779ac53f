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


def refused_config(subject: OpenCheckpoint, problem: str) -> Finding:
    """A configuration that PEFT itself does not accept."""
    return Finding(
        id=f"refused-config:{subject.name}",
        severity="critical",
        area="checkpoint",
        subject=subject.name,
        title="PEFT does not accept the adapter's configuration, so the adapter cannot be loaded",
        evidence=[problem],
        advice="Use the adapter_config.json that was saved with these tensors.",
    )


def unmatched_entries(subject: OpenCheckpoint, entries: list[str]) -> Finding:
    """Entries that choose modules (``target_modules``, ``layers_to_transform`` …) and choose none."""
    return Finding(
        id=f"unmatched-entries:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title=f"{len(entries)} entries of the adapter's configuration match no module of the model",
        evidence=[_listed(entries)],
        advice="PEFT passes over them: check the spelling, and whether those modules were meant to be trained.",
    )


def ignored_tensors(subject: OpenCheckpoint, modules: list[str]) -> Finding:
    """Tensors for modules that the configuration does not target: loading leaves them out without a word."""
    return Finding(
        id=f"ignored-tensors:{subject.name}",
        severity="critical",
        area="checkpoint",
        subject=subject.name,
        title=f"The file has tensors for {len(modules)} modules that the configuration does not target",
        evidence=[_listed(modules), "PEFT leaves them out on loading; the ΔW measured here is that of the file"],
        advice="Use the adapter_config.json that was saved with these tensors, or add the modules to target_modules.",
    )


def absent_tensors(subject: OpenCheckpoint, absent: list[str]) -> Finding:
    """What the configuration asks for and the file does not hold."""
    return Finding(
        id=f"absent-tensors:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title="The configuration asks for tensors that the file does not hold",
        evidence=absent,
        advice="PEFT goes on with untrained values in their place: save the adapter again, from the trained model.",
    )


def zero_scaling(subject: OpenCheckpoint, modules: list[str]) -> Finding:
    """Modules whose effective α is zero."""
    return Finding(
        id=f"zero-scaling:{subject.name}",
        severity="critical",
        area="checkpoint",
        subject=subject.name,
        title=f"The effective scaling of {len(modules)} modules is 0: whatever they learned has no effect",
        evidence=[f"lora_alpha or alpha_pattern gives 0 for {_listed(modules)}"],
        advice="Set lora_alpha (or alpha_pattern) to the value that training used.",
    )


def mixed_scaling(subject: OpenCheckpoint, groups: list[str]) -> Finding:
    """Ranks that vary while α does not; ``groups`` says rank, scaling and modules."""
    return Finding(
        id=f"mixed-scaling:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title="rank_pattern varies the rank, but α is the same everywhere: modules of low rank are scaled up",
        evidence=groups,
        advice="Give alpha_pattern beside rank_pattern where one scaling for all modules is meant.",
    )


def redrawn_start(subject: OpenCheckpoint, start: str) -> Finding:
    """PiSSA by a randomised decomposition, saved unconverted: what is subtracted from the base is drawn at loading."""
    return Finding(
        id=f"redrawn-start:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title="The adapter's start is drawn anew at every load: its ΔW is not the same twice",
        evidence=[f"init_lora_weights is {start}, and the adapter was saved without converting it to a plain LoRA"],
        advice="Save it with path_initial_model_for_weight_conversion, or train from init_lora_weights='pissa'.",
        reference="https://huggingface.co/docs/peft/developer_guides/lora#pissa",
    )


def rank_stabilised(subject: OpenCheckpoint, modules: int, alpha: float, rank: int) -> Finding:
    """rsLoRA with an α of the size that α/r calls for; the numbers are those of the largest scaling."""
    root = rank**0.5
    return Finding(
        id=f"rslora-alpha:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title=f"rsLoRA scales by α/√r = {alpha / root:.4g}, {root:.3g} times what α/r would give",
        evidence=[f"{modules} modules have α ≥ r under use_rslora, at most α = {alpha:g}, r = {rank}"],
        advice="An α or learning rate taken over from α/r scaling is too high by √r; look for instability and "
        "forgetting.",
        reference="arXiv 2312.03732 (rsLoRA)",
    )


def untouched(subject: OpenCheckpoint, keys: list[str]) -> Finding:
    """Adapter tensors with the values of their start."""
    return Finding(
        id=f"untouched:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"{len(keys)} adapter tensors are without effect: they were never trained, or pruned",
        evidence=[f"all zero (for IA3: all one) in {_listed(keys)}"],
        advice="Check that these modules take part in the forward pass and get a gradient.",
    )


def deficient(subject: OpenCheckpoint, modules: list[str], lost: int, total: int, why: str) -> Finding:
    """Factors whose product has a lower rank than their size."""
    return Finding(
        id=f"deficient:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"{lost} of {total} adapter directions are unused: B·A has a lower rank than r",
        evidence=[_listed(modules), why],
        advice="A lower r gives the same ΔW; after pruning or truncation this is meant, after training look for dead "
        "rows.",
    )


def near_overflow(subject: OpenCheckpoint, peaks: list[str]) -> Finding:
    """float16 tensors with values close to the largest that the type holds, 65,504."""
    return Finding(
        id=f"near-overflow:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"{len(peaks)} float16 tensors hold values near 65,504, the largest that float16 has",
        evidence=[f"largest magnitudes: {_listed(peaks)}"],
        advice="Products with them overflow in float16: run in bfloat16 or float32, and look at the training for "
        "divergence.",
    )


def orientation(subject: OpenCheckpoint, said: bool, module: str) -> Finding:
    """``fan_in_fan_out`` against the layers' own orientation."""
    layer = "nn.Linear, which stores (out, in)" if said else "Conv1D, which stores (in, out)"
    return Finding(
        id=f"fan-in-fan-out:{subject.name}",
        severity="info",
        area="checkpoint",
        subject=subject.name,
        title=f"fan_in_fan_out is {str(said).lower()}, which is wrong for these layers",
        evidence=[f"every adapted module is {layer}; the first is {module}"],
        advice="PEFT corrects this on loading, as is done here; another program may merge the transpose.",
    )


def tied(subject: OpenCheckpoint, output: str, source: str, changed: str) -> Finding:
    """An output layer and embeddings that are one matrix in the base, and of which the adapter changes one name."""
    return Finding(
        id=f"tied:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title=f"{output} and {source} are one matrix in the base, and the adapter does not change them as one",
        evidence=[f"the adapter changes {changed}"],
        advice="While the adapter is attached they differ; a merge puts the change into both, or is lost on saving. "
        "Train both with ensure_weight_tying, or untie them in the base's configuration.",
        reference="https://github.com/huggingface/peft/issues/2777",
    )


def outliers(subject: OpenCheckpoint, modules: list[str]) -> Finding:
    """Modules whose ‖ΔW‖_F/‖W0‖_F is far from that of their kind; ``modules`` gives both numbers."""
    return Finding(
        id=f"outliers:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"{len(modules)} modules changed more than 10 times as much as others of their kind, or less than a "
        "tenth",
        evidence=[f"‖ΔW‖/‖W0‖: {_listed(modules)}"],
        advice="Look at rank_pattern, alpha_pattern, learning rates per group, and gradients in these layers.",
    )


def overwhelmed(subject: OpenCheckpoint, modules: list[str]) -> Finding:
    """Modules where the change is larger than what was there."""
    return Finding(
        id=f"overwhelmed:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"In {len(modules)} modules ΔW is larger than the base's own weight",
        evidence=[f"‖ΔW‖/‖W0‖: {_listed(modules)}"],
        advice="The pretrained function of these modules is mostly gone: check scaling and learning rate.",
    )


def rounding(subject: OpenCheckpoint, mostly: list[str], modules: int, under: int, total: int) -> Finding:
    """Singular values of ΔW that storing the weights alone would produce.

    ``mostly`` names the modules (of ``modules``) with most of ‖ΔW‖²_F under the floor; ``under`` of ``total`` singular
    values lie under it.
    """
    lost = 2 * len(mostly) > modules
    evidence = [f"{under} of {total} singular values of ΔW ({under / total:.0%}) lie under the rounding floor"]
    if mostly:
        evidence.append(f"most of ‖ΔW‖² lies under it in {len(mostly)} of {modules} modules: {_listed(mostly)}")
    return Finding(
        id=f"rounding:{subject.name}",
        severity="warning" if lost else "info",
        area="weights",
        subject=subject.name,
        title=f"Most of ΔW cannot be told from the rounding of {subject.dtype}"
        if lost
        else f"Most directions of ΔW lie under the rounding of {subject.dtype}: only the leading ones mean anything",
        evidence=evidence,
        advice="Save the fine-tuned model in float32 to see its change, or compare the adapter before merging."
        if lost
        else None,
    )


def lost_updates(subject: OpenCheckpoint, share: float, modules: list[str], frozen: int) -> Finding:
    """A full fine-tune in a short type of which nearly every stored entry equals the base's."""
    evidence = [f"by module: {_listed(modules)}"]
    if frozen:
        evidence.append(f"{frozen} modules did not change at all (frozen) and are not counted")
    return Finding(
        id=f"lost-updates:{subject.name}",
        severity="warning",
        area="weights",
        subject=subject.name,
        title=f"{share:.1%} of the entries that training could move are exactly the base's in {subject.dtype}",
        evidence=evidence,
        advice="Updates smaller than half a unit in the last place are rounded away: keep float32 master weights, "
        "raise the learning rate, or save in float32 if only saving rounded.",
        reference="arXiv 1710.03740, section 3.1; arXiv 2010.06192",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" … and {len(names) - 8} more" if len(names) > 8 else "")
