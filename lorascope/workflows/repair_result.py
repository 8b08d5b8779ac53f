"""What a repair scan adds to a result: its notes, its finding, the front as a series, and what is missing."""

from __future__ import annotations

import shlex

from lorascope.checkpoints.changes import AdapterChanges, Changes
from lorascope.engines.base import Subject as Asker
from lorascope.engines.transformers_engine import tokenizer_hash
from lorascope.report.repair_words import verdict_text, verdict_title
from lorascope.report.texts import load_texts
from lorascope.schema.comparison import CheckpointInfo, Finding, Missing, Series
from lorascope.schema.repair import RepairReport
from lorascope.workflows.repair_variants import ScannedChanges


def has_only_factors(changes: Changes) -> bool:
    """Whether an adapter holds LoRA factors of linear modules and nothing else: at strength 0 it is the base then."""
    if not isinstance(changes, AdapterChanges):
        return False
    factors = {key for pair in changes.factors.values() for key in (pair.down, pair.up)}
    return set(changes.subject.tensors.specs) == factors


def same_tokenizer(one: Asker, other: Asker) -> bool:
    """Whether two checkpoints are asked with the very same tokenizer files, chat template included."""
    return tokenizer_hash(one.tokenizer_path) == tokenizer_hash(other.tokenizer_path)


def notes_on(scanned: ScannedChanges, tokenizers_differ: bool) -> list[str]:
    """What stays as it is in every variant, and what was left out."""
    changes, notes = scanned.changes, []
    if isinstance(changes, AdapterChanges) and (
        changes.replaced or not (changes.is_merged or has_only_factors(changes))
    ):
        notes.append(
            "What the adapter brings besides ΔW of linear modules (heads and other modules saved whole, biases) stays "
            "as it is in every variant: strength 0 is the base with these."
        )
    if not isinstance(changes, AdapterChanges):
        notes.append(
            "ΔW of the linear modules is scaled; embeddings, norms and biases stay the adapted model's in every "
            "variant: strength 0 is the base with these."
        )
    if isinstance(changes, AdapterChanges) and changes.is_merged:
        notes.append(
            f"{changes.config.method} has no factors to scale: its variants run merged, rounded to the type that the "
            "model is computed in."
        )
    if tokenizers_differ:
        notes.append(
            "The adapted checkpoint has tokenizer files other than the base's: every variant is asked with them, "
            "strength 0 included."
        )
    longer = {module.name for module in scanned.modules if module.lengthened}
    if longer:
        notes.append(
            f"In {len(longer)} of {len(scanned.modules)} modules some repair makes ΔW longer: the intruders there are "
            "rotations that hold part of the base. A control of the same size then stretches ΔW instead of shrinking "
            "it, so a repair after which ΔW as a whole is longer is not held to explain anything."
        )
    if scanned.one_each and scanned.intruders("top"):
        notes.append("No matrix has more than one intruder dimension: the families top and all are the same.")
    return notes


def pareto_series(report: RepairReport) -> list[Series]:
    """The front, by retention: what can be had of the target at each level of retention."""
    places = sorted(
        (row.retention.value.value, row.target.value.value)
        for row in report.rows
        if row.front and row.retention and row.retention.value and row.target and row.target.value
    )
    if not places or report.retention is None:
        return []
    across, up = ([place[axis] for place in places] for axis in (0, 1))
    return [Series(subject=report.subject, name="pareto", x_name=report.retention.metric, x=across, y=list(up))]


def what_is_missing(report: RepairReport, base: CheckpointInfo) -> list[Missing]:
    """The axes that were not measured, with the reason and what to do."""
    found = []
    if report.retention is None:
        why = "no retention task was asked"
        if not base.generation_ready:
            why = f"{base.architecture} has no language-model head, so there is no probe"
        reason = f"{why}: what the variants recover is not measured; give a task of role retention in a suite"
        found.append(Missing(area="forgetting", subject=report.subject, reason=reason))
    if report.target is None:
        reason = "no target task was asked: what the variants cost is not measured; give --data or --suite"
        found.append(Missing(area="task", subject=report.subject, reason=reason))
    return found


def finding_of(report: RepairReport) -> Finding:
    """The verdict as a finding."""
    words = load_texts("en")
    advice = report.advice
    return Finding(
        id="repair",
        severity="info",
        area="weights",
        subject=report.subject,
        title=verdict_title(report, words),
        evidence=[verdict_text(report, words)],
        advice=None if advice is None else shlex.join(advice.command),
        reference="arXiv 2410.21228, arXiv 2607.23711",
    )
