"""Findings about generated answers that are none: empty, in a loop, cut short, in another script, or all wrong.

Right and wrong of free text is an exact comparison, so a checkpoint that writes nothing and one that writes a poor
sentence are both wrong; these findings tell them apart, base and subject side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lorascope.measures.registry import find_spec
from lorascope.measures.repetition import ending_loop
from lorascope.measures.significance import mcnemar
from lorascope.measures.writing import confusable, main_writing
from lorascope.schema.comparison import Finding, Severity
from lorascope.schema.items import Answer, GenerateAnswer, GenerateItem, Item
from lorascope.workflows.estimates import margin_of
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import primary_metric, right, score

Fault = Literal["empty", "loop", "script", "cut"]

_WORDS: Mapping[Fault, str] = {
    "empty": "empty",
    "loop": "in a loop",
    "script": "in another script than the references",
    "cut": "cut by max_new_tokens",
}
_ADVICE: Mapping[Fault, str] = {
    "empty": "Check that the prompt ends as the training prompts did (template, cue, white space), that no stop string "
    "stands at the start of an answer, and that training answers do not begin with end-of-text.",
    "loop": "Train fewer epochs or at a lower learning rate, and end every training answer with end-of-text.",
    "script": "Balance the languages of the training data, or ask for the language in the prompt.",
    "cut": "Raise max_new_tokens or give a stop string, and end every training answer with end-of-text.",
}
_NEITHER = (
    "Check prompt, chat template, stop strings and extraction; else ask something that the base can do in part: "
    "two scores near zero cannot be compared."
)
_NONE = "none empty, in a loop, in another script or cut"
_SURE = 0.01
_NOTABLE_SHARE = 0.1
_NOTABLE = 3
_SCRIPT_SHARE = 0.8
_SOURCE = "Holtzman et al., arXiv 1904.09751 (degeneration)"


@dataclass(frozen=True, slots=True)
class _Said:
    """One checkpoint's faults, one set for each item, and how many empty answers a stop string ended."""

    name: str
    faults: Sequence[frozenset[Fault]]
    stopped: int

    @property
    def count(self) -> int:
        """Answers with any fault."""
        return sum(map(bool, self.faults))

    @property
    def void(self) -> int:
        """Answers with a fault that leaves no answer; what a cut leaves may be one."""
        return sum(bool(faults - {"cut"}) for faults in self.faults)

    def listed(self) -> str:
        """``53 empty, 2 in a loop``, or that there are none."""
        counts = self.by_fault()
        return ", ".join(f"{counts[fault]:,} {_WORDS[fault]}" for fault in _WORDS if counts[fault]) or _NONE

    def described(self) -> str:
        """``base, of 60 answers: 41 empty``."""
        stopped = f" ({self.stopped:,} of the empty ones ended by a stop string)" if self.stopped else ""
        return f"{self.name}, of {len(self.faults):,} answers: {self.listed()}{stopped}"

    def by_fault(self) -> Counter[Fault]:
        """Answers by fault; one answer may have several."""
        return Counter(fault for faults in self.faults for fault in faults)


def find_in_answers(tasks: Sequence[TaskAnswers], pairs: Sequence[Pair]) -> list[Finding]:
    """One finding per task of generated text and subject whose answers are no answers, with the base's beside them.

    Counted are answers that are empty, end in a loop that no reference ends in, are written in another script than all
    references, or were cut by ``max_new_tokens``; of several samples the first; right answers never. A warning where
    the subject surely has more of one fault than its reference (exact McNemar, p < 0.01), where more than half of its
    answers have one other than a cut, or where neither checkpoint scores anything on a target task; information from a
    tenth of the answers (and three) on. Of each subject the first pair counts; it stands alone where the reference did
    not answer.
    """
    found: list[Finding] = []
    for answers in tasks:
        if answers.task.kind != "generate":
            continue
        said = {name: _said(answers, name) for name in answers.asked}
        first = {pair.subject: pair for pair in reversed(pairs) if pair.subject in said}
        for subject in dict.fromkeys(pair.subject for pair in pairs if pair.subject in said):
            found += _of_pair(answers, said[subject], said.get(first[subject].reference))
    return found


def _of_pair(answers: TaskAnswers, subject: _Said, base: _Said | None) -> Iterator[Finding]:
    task = answers.task.spec.name
    scores = _both_near_zero(answers, base.name, subject.name) if base is not None else None
    severity = _severity(subject, base)
    if scores is not None and base is not None:
        target = answers.task.spec.role == "target"
        faulty = subject.count + base.count > 0
        yield Finding(
            id=f"answers:{task}:{subject.name}",
            severity="warning" if target or severity == "warning" else "info",
            area="task",
            subject=subject.name,
            title=f"Neither {base.name} nor {subject.name} can do {task}",
            evidence=[scores, *(_described(subject, base) if faulty else ())],
            advice=_NEITHER,
            reference=_SOURCE if faulty else None,
        )
    elif severity is not None:
        yield Finding(
            id=f"answers:{task}:{subject.name}",
            severity=severity,
            area="task",
            subject=subject.name,
            title=f"Of {len(subject.faults):,} answers of {subject.name} to {task}: {subject.listed()}",
            evidence=_described(subject, base),
            advice=_ADVICE[_main_fault(subject, base)] if severity == "warning" else None,
            reference=_SOURCE,
        )


def _described(subject: _Said, base: _Said | None) -> list[str]:
    return [each.described() for each in (base, subject) if each is not None]


def _severity(subject: _Said, base: _Said | None) -> Severity | None:
    items = len(subject.faults)
    if 2 * subject.void > items or (base is not None and _grown(subject, base)):
        return "warning"
    most = max(subject.count, base.count if base is not None else 0)
    return "info" if most >= max(_NOTABLE, _NOTABLE_SHARE * items) else None


def _grown(subject: _Said, base: _Said) -> list[Fault]:
    """Faults that the subject surely has more often than the base, item by item."""
    return [fault for fault in _WORDS if _surely_more([fault in one for one in base.faults], subject, fault)]


def _surely_more(before: Sequence[bool], subject: _Said, fault: Fault) -> bool:
    after = [fault in one for one in subject.faults]
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    came = sum(new and not old for old, new in zip(before, after, strict=True))
    return came > lost and mcnemar(lost, came) < _SURE


def _main_fault(subject: _Said, base: _Said | None) -> Fault:
    """The most frequent of the faults that grew, else of all."""
    counts = subject.by_fault()
    candidates = (_grown(subject, base) if base is not None else []) or list(_WORDS)
    return max(candidates, key=lambda fault: counts[fault])


def _said(answers: TaskAnswers, name: str) -> _Said:
    asked = answers.asked[name]
    correct = right(answers.task, asked) or [False] * len(asked.items)
    faults = [
        frozenset() if fine else _faults(item, answer)
        for item, answer, fine in zip(asked.items, asked.answers, correct, strict=True)
    ]
    stopped = sum(
        "empty" in found and isinstance(answer, GenerateAnswer) and answer.stop is not None
        for found, answer in zip(faults, asked.answers, strict=True)
    )
    return _Said(name, faults, stopped)


def _faults(item: Item, answer: Answer) -> frozenset[Fault]:
    assert isinstance(item, GenerateItem)
    assert isinstance(answer, GenerateAnswer)
    text = answer.text
    empty = not any(character.isprintable() and not character.isspace() for character in text)
    if empty:
        return frozenset[Fault](["empty", "cut"] if answer.truncated else ["empty"])
    loops = ending_loop(text) is not None and not any(ending_loop(reference) for reference in item.references)
    held: tuple[tuple[Fault, bool], ...] = (
        ("loop", loops),
        ("script", _in_another_script(text, item.references)),
        ("cut", answer.truncated),
    )
    return frozenset(fault for fault, holds in held if holds)


def _in_another_script(text: str, references: Sequence[str]) -> bool:
    """Whether a text's words are nearly all in a script that no reference is in; unknown counts as no."""
    now = main_writing(text)
    if now is None or not now.telling or now.share < _SCRIPT_SHARE:
        return False
    known = [writing for reference in references if (writing := main_writing(reference)) is not None]
    if len(known) < len(references):
        return False
    return not any(one.script == now.script or confusable(one.script, now.script) for one in known)


def _both_near_zero(answers: TaskAnswers, base: str, subject: str) -> str | None:
    """Both values of the primary metric where both lie within its margin of 0, the worst there is; else None."""
    metric = primary_metric(answers.task)
    spec, margin = find_spec(metric), margin_of(answers.task, metric)
    if spec.direction != "higher" or spec.scale not in ("0-1", "0-100") or margin is None:
        return None
    scored = {name: score(answers.task, answers.asked[name]).get(metric) for name in (base, subject)}
    values = {name: found.value for name, found in scored.items() if found is not None and found.value is not None}
    if len(values) < len(scored) or max(values.values()) >= margin:
        return None
    listed = " and ".join(f"{value:.3f} ({name})" for name, value in values.items())
    return f"{metric} {listed}, both below {margin:g} on {len(answers.asked[subject].items):,} items"
