"""Findings about prompts and texts that were longer than a checkpoint's context and were cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorascope.schema.comparison import Finding

_NOTE = re.compile(
    r"(?P<task>\S+), (?P<subject>.+), (?P<set>evaluation|training|tuning) items: (?P<cut>\d+) of (?P<items>\d+) "
    r"items exceed the context; (?P<what>.+)"
)
_MANY = 0.1
_PROMPTS = "Use shorter prompts, fewer few_shot examples, or a model with a longer context."
_TEXTS = "Use shorter texts, or a model with a longer context."


@dataclass(frozen=True, slots=True)
class _Cut:
    """One note: how many of a set's items were cut for one checkpoint."""

    subject: str
    cut: int
    items: int


def find_cuts(notes: Sequence[str]) -> tuple[list[Finding], list[str]]:
    """One finding per task and set of items whose prompts or texts were cut, and the notes that are about other things.

    A warning where more than a tenth of the items were cut for any checkpoint: scores are then those of other
    questions.
    """
    found: dict[tuple[str, str, str], list[_Cut]] = {}
    others: list[str] = []
    for note in dict.fromkeys(notes):
        match = _NOTE.fullmatch(note)
        if match is None:
            others.append(note)
            continue
        cut = _Cut(match["subject"], int(match["cut"]), int(match["items"]))
        found.setdefault((match["task"], match["set"], match["what"]), []).append(cut)
    return list(_findings(found)), others


def _findings(found: dict[tuple[str, str, str], list[_Cut]]) -> Iterator[Finding]:
    for (task, of, what), cuts in found.items():
        most = max(cuts, key=lambda each: each.cut / each.items)
        many = most.cut > _MANY * most.items
        least = min(each.cut for each in cuts)
        count = f"{most.cut:,}" if least == most.cut else f"{least:,} to {most.cut:,}"
        yield Finding(
            id=f"cut:{task}:{of}",
            severity="warning" if many else "info",
            area="behaviour",
            title=f"{count} of {most.items:,} {of} items of {task} exceed the context: {what}",
            evidence=[f"{each.subject}: {each.cut:,} of {each.items:,} ({each.cut / each.items:.0%})" for each in cuts],
            advice=(_PROMPTS if "prompts" in what or "contexts" in what else _TEXTS) if many else None,
        )
