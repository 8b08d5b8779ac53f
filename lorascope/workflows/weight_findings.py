"""Findings about weights: intruders against what a random change of the same size would give, and what else changed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from lorascope.schema.comparison import Comparison, Finding, WeightReport

_SOURCE = "arXiv 2410.21228"
_MOSTLY = 0.5
_OTHERS = "changed too: "


def find_in_weights(comparison: Comparison) -> Iterator[Finding]:
    """What a reader should know of each subject's weights."""
    for subject, report in comparison.weights.items():
        yield from _intruders(comparison, subject, report)
        yield from _saturated(subject, report)
        yield from _undecided(subject, report)
        yield from _others(subject, report)


def other_changes_note(kind: str, count: int, largest: str, relative: float | None) -> str:
    """The line of a report's notes about parameters that are no linear module's weight."""
    one, many = {
        "bias": ("bias", "biases"),
        "parameter": ("other parameter", "other parameters"),
        "rounded": ("parameter only by rounding to the stored type", "parameters only by rounding to the stored type"),
    }.get(kind, (kind, f"{kind}s"))
    size = "" if relative is None else f", the relative change is {relative:.3g}"
    return f"{_OTHERS}{count} {one if count == 1 else many}, most in {largest}{size}"


def _intruders(comparison: Comparison, subject: str, report: WeightReport) -> Iterator[Finding]:
    count = report.totals.get("intruder_count")
    if not count:
        return
    new, rotated = report.totals.get("intruder_new") or 0.0, report.totals.get("intruder_rotations") or 0.0
    null = report.totals.get("null_intruder_count")
    ordinary = null is not None and null >= count
    yield Finding(
        id=f"intruders:{subject}",
        severity="info",
        area="weights",
        subject=subject,
        title=f"{subject} has {count:.0f} intruder dimensions in {len(report.modules)} modules"
        + (", no more than random updates of its size have" if ordinary else ""),
        evidence=[
            f"they carry {_percent(report.totals['intruder_energy'])} of the leading energy",
            _where(report),
            f"new directions: {new:.0f}; rotations, at least half inside the base's leading directions: {rotated:.0f}",
            *([] if null is None else [f"random updates of the same norm and rank have {null:.0f}"]),
        ],
        advice=None
        if ordinary
        else "Many intruders went with more forgetting where it was studied, but that is "
        f"disputed; whether they explain it here tests: {_scan_command(comparison, subject)}",
        reference=_SOURCE,
    )


def _percent(share: float | None) -> str:
    return f"{100.0 * (share or 0.0):.2g} %"


def _scan_command(comparison: Comparison, subject: str) -> str:
    paths = {checkpoint.name: checkpoint.path for checkpoint in comparison.checkpoints}
    return shlex.join(["lorascope", "repair", paths[comparison.base.name], paths[subject], "--scan"])


def _where(report: WeightReport) -> str:
    counts = {module.name: module.intruders.count for module in report.modules if module.intruders}
    top = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])[:3]
    return "most in " + ", ".join(f"{name} ({counts[name]})" for name in top)


def _saturated(subject: str, report: WeightReport) -> Iterator[Finding]:
    full, changed = report.totals.get("saturated_modules"), report.totals.get("changed_modules")
    if not full or not changed or full < _MOSTLY * changed:
        return
    yield Finding(
        id=f"saturated:{subject}",
        severity="warning",
        area="weights",
        subject=subject,
        title=f"{subject}'s intruder counts are saturated: read their energy instead",
        evidence=[
            f"{full:.0f} of {changed:.0f} modules have at least nine in ten of the intruders that they can have",
            f"they carry {_percent(report.totals['intruder_energy'])} of the leading energy",
        ],
        advice="A count that cannot grow does not rank checkpoints. Compare the energy, or judge more vectors (--k).",
        reference=_SOURCE,
    )


def _undecided(subject: str, report: WeightReport) -> Iterator[Finding]:
    open_ones = report.totals.get("undecided")
    if open_ones:
        yield Finding(
            id=f"undecided:{subject}",
            severity="warning",
            area="weights",
            subject=subject,
            title=f"{open_ones:.0f} of {report.totals['judged_vectors']:.0f} vectors of {subject} are undecided",
            evidence=[f"between {report.totals['intruder_count']:.0f} and that many more are intruders"],
            advice="Run without --no-fallback: what the certificate leaves open is then decomposed.",
        )


def _others(subject: str, report: WeightReport) -> Iterator[Finding]:
    lines = [note.removeprefix(_OTHERS) for note in report.notes if note.startswith(_OTHERS)]
    if lines:
        yield Finding(
            id=f"other-changes:{subject}",
            severity="info",
            area="weights",
            subject=subject,
            title=f"{subject} changes more than linear modules",
            evidence=lines,
            advice="These have no singular vectors to judge; they are in every answer, but in no weight total.",
        )
