"""What is equal for several checkpoints, said once: findings, sentences and what is missing.

Texts are equal when they differ in the subject's name alone. Nothing is left out: each text stands with its subjects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lorascope.report.numbers import MINUS, SPACE
from lorascope.report.texts import Texts
from lorascope.report.verdicts import Sentence, SubjectVerdict, Topic
from lorascope.schema.comparison import Comparison, Finding, Severity

_EACH = "each"
_URGENT = ("critical", "warning")
_NEGATIVE = re.compile(r"(?<![\w.\-/=])-(?=\d)")
_TIGHT_PERCENT = re.compile(r"(?<=\d) ?%")


@dataclass(frozen=True, slots=True)
class Told:
    """One statement with its evidence, and the subjects that it holds for."""

    title: str
    subjects: tuple[str, ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoldedFinding:
    """Findings of one kind: the statements, and the advice and source that they share."""

    severity: Severity
    told: tuple[Told, ...]
    advice: str | None
    reference: str | None


def typographic(text: str) -> str:
    """Return a finding's text with real minus signs and a space before per cent; ranges and names stay as they are."""
    return _TIGHT_PERCENT.sub(f"{SPACE}%", _NEGATIVE.sub(MINUS, text))


def folded_findings(findings: Sequence[Finding]) -> list[FoldedFinding]:
    """Return findings with equal ones joined; notes of one kind with the same advice stand under it together."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for place, found in enumerate(findings):
        groups.setdefault(_group(found, place), []).append(found)
    return [
        FoldedFinding(group[0].severity, tuple(_told(group)), group[0].advice, group[0].reference)
        for group in groups.values()
    ]


def _group(found: Finding, place: int) -> tuple[object, ...]:
    """What findings must have in common to share an article: for urgent ones every word but the subject's name."""
    if found.subject is None:
        return (place,)
    kind = (found.id.partition(":")[0], found.area, found.severity, found.advice, found.reference)
    return (*kind, _nameless(found)) if found.severity in _URGENT else kind


def _nameless(found: Finding) -> tuple[str, tuple[str, ...]]:
    return _without(found.title, found.subject), tuple(_without(line, found.subject) for line in found.evidence)


def _without(text: str, subject: str | None) -> str:
    if not subject:
        return text
    bounded = re.compile(rf"(?<![\w\-/]){re.escape(subject)}(?![\w\-/])")
    return bounded.sub(_EACH, text.removeprefix(f"{subject}: "))


def _told(group: Sequence[Finding]) -> list[Told]:
    alike: dict[tuple[str, tuple[str, ...]], list[Finding]] = {}
    for found in group:
        alike.setdefault(_nameless(found), []).append(found)
    told = []
    for (title, evidence), same in alike.items():
        if len(same) == 1:
            title, evidence = same[0].title, tuple(same[0].evidence)
        subjects = dict.fromkeys(found.subject for found in same if found.subject is not None)
        told.append(Told(typographic(title), tuple(subjects), tuple(map(typographic, evidence))))
    return told


def folded_missing(comparison: Comparison) -> list[tuple[str, tuple[str, ...], str]]:
    """Return area, subjects and reason of everything missing; no subjects where it holds for the whole comparison."""
    alike: dict[tuple[str, str, bool], dict[str, None]] = {}
    for gap in comparison.missing:
        subjects = alike.setdefault((gap.area, gap.reason, gap.subject is None), {})
        if gap.subject is not None:
            subjects[gap.subject] = None
    return [(area, tuple(subjects), reason) for (area, reason, _), subjects in alike.items()]


def folded_sentences(verdicts: Sequence[SubjectVerdict], topic: Topic) -> list[tuple[tuple[str, ...], Sentence]]:
    """Return the sentences of one topic, each once, with the subjects that it holds for."""
    alike: dict[Sentence, dict[str, None]] = {}
    for verdict in verdicts:
        for sentence in verdict.sentences:
            if sentence.topic == topic:
                alike.setdefault(sentence, {})[verdict.subject] = None
    return [(tuple(subjects), sentence) for sentence, subjects in alike.items()]


def shared_sentences(verdicts: Sequence[SubjectVerdict]) -> list[Sentence]:
    """Return the sentences on training that judge nothing and are the same for all of several subjects."""
    found = folded_sentences(verdicts, "training")
    several = len(verdicts) > 1
    return [each for subjects, each in found if several and len(subjects) == len(verdicts) and each.tone == "neutral"]


def subjects_label(subjects: Sequence[str], comparison: Comparison, words: Texts) -> str:
    """Return one subject's name, or for several their number, with the names where they are not all."""
    if len(subjects) < 2:
        return "".join(subjects)
    number = words.several("checkpoints", len(subjects))
    if len(subjects) == len(comparison.subjects):
        return number
    return words("checkpoints.named", count=number, names=words.joined(list(subjects)))
