"""Findings: sentences that a reader can act on, each with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Comparison, Finding, Measurement, TaskInfo
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.weight_findings import find_in_weights

_OVERFIT_ADVICE = "Keep the checkpoint of the lowest validation loss, train fewer epochs, or add data or dropout."


def find(comparison: Comparison, answers: Sequence[TaskAnswers], notes: Sequence[str]) -> list[Finding]:
    """All findings of a comparison that follow from its measurements, most severe first."""
    found = [
        *_learning(comparison),
        *_forgetting(comparison),
        *_gaps(comparison),
        *_unchanged(comparison, answers),
        *find_in_weights(comparison),
        *_notes([*notes, *(note for answer in answers for note in answer.notes)]),
    ]
    return by_severity(found)


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Critical first; equal ones keep their order."""
    order = {"critical": 0, "warning": 1, "good": 2, "info": 3}
    return sorted(findings, key=lambda finding: order[finding.severity])


def _against_base(comparison: Comparison, task: TaskInfo) -> Iterator[Measurement]:
    """The task's primary measurement of each subject against the base, without a slice."""
    for subject in comparison.subjects:
        whole = [
            found
            for found in comparison.measurements
            if found.subject == subject.name
            and found.reference == comparison.base.name
            and found.task == task.name
            and found.slice is None
            and found.metric == task.metrics[0]
        ]
        yield from whole[:1]


def _learning(comparison: Comparison) -> Iterator[Finding]:
    for task in comparison.tasks:
        if task.role != "target":
            continue
        for found in _against_base(comparison, task):
            if found.delta is None or found.delta.verdict is None:
                continue
            yield _learned(task, found)


def _learned(task: TaskInfo, found: Measurement) -> Finding:
    assert found.delta is not None
    verdict = found.delta.verdict
    severity, title, advice = {
        "improved": ("good", f"{found.subject} improved on {task.name}", None),
        "regressed": (
            "critical",
            f"{found.subject} got worse on {task.name}, the task it was tuned for",
            "Look at the broken answers first; then at learning rate, prompt format and labels.",
        ),
        "equivalent": (
            "warning",
            f"{found.subject} does as well as the base on {task.name}: nothing was gained",
            "Train longer, raise the rank or the learning rate, or check that the data teaches this task.",
        ),
        "inconclusive": (
            "info",
            f"Whether {found.subject} changed on {task.name} cannot be told from {found.delta.n} items",
            _more_items(found),
        ),
    }[str(verdict)]
    return Finding.model_validate(
        {
            "id": f"learning:{task.name}:{found.subject}",
            "severity": severity,
            "area": "task",
            "subject": found.subject,
            "title": title,
            "evidence": [described(found)],
            "advice": advice,
        }
    )


def _forgetting(comparison: Comparison) -> Iterator[Finding]:
    for task in comparison.tasks:
        if task.role != "retention":
            continue
        for found in _against_base(comparison, task):
            if found.delta is None or found.delta.verdict != "regressed":
                continue
            retained = _sibling(comparison, found, "retained_fraction")
            if retained is not None and retained.adapted is None:
                yield _moved_in_the_dark(task, found)
                continue
            evidence = [described(found), *(_described_rate(comparison, found, name) for name in _RATES)]
            lost = retained.adapted.value if retained is not None and retained.adapted is not None else None
            yield Finding(
                id=f"forgetting:{task.name}:{found.subject}",
                severity="critical" if lost is not None and lost < 0.8 else "warning",
                area="forgetting",
                subject=found.subject,
                title=f"{found.subject} forgot general knowledge ({task.name})",
                evidence=[text for text in evidence if text],
                advice="Mix 1-5 % general data into training, lower the learning rate, or scale the adapter down.",
                reference="arXiv 2502.06042 (replay)",
            )


def _moved_in_the_dark(task: TaskInfo, found: Measurement) -> Finding:
    return Finding(
        id=f"forgetting:{task.name}:{found.subject}",
        severity="info",
        area="forgetting",
        subject=found.subject,
        title=f"{found.subject} moved on questions that the base only guesses at ({task.name})",
        evidence=[described(found), "the base is not above chance: this is no loss of knowledge"],
    )


_RATES = ("retained_fraction", "forgotten_rate", "gained_rate")


def _gaps(comparison: Comparison) -> Iterator[Finding]:
    """Over-fitting by the primary metric: the whole interval of the gap lies on the side of "better on training"."""
    primary = {task.name: task.metrics[0] for task in comparison.tasks}
    for found in comparison.measurements:
        wanted = found.area == "gap" and found.reference == comparison.base.name and found.slice is None
        metric = primary.get(found.task or "", "")
        if not wanted or found.adapted is None or found.metric != f"{metric}_gap":
            continue
        sign = -1.0 if find_spec(metric).direction == "lower" else 1.0
        ends = [sign * end for end in (found.adapted.low, found.adapted.high) if end is not None]
        smaller = found.base is not None and sign * found.adapted.value <= sign * found.base.value
        if not ends or min(ends) <= 0 or smaller:
            continue
        interval = _interval(found.adapted.low, found.adapted.high)
        yield Finding(
            id=f"gap:{found.task}:{found.subject}",
            severity="warning",
            area="gap",
            subject=found.subject,
            title=f"{found.subject} does better on what it was trained on than on new items of {found.task}",
            evidence=[
                f"{found.metric} {found.adapted.value:.3f}{interval}"
                + (f", the base's {found.base.value:.3f}" if found.base else "")
            ],
            advice=_OVERFIT_ADVICE,
        )


def _unchanged(comparison: Comparison, answers: Iterable[TaskAnswers]) -> Iterator[Finding]:
    base = comparison.base.name
    asked = [answer for answer in answers if base in answer.asked]
    for subject in comparison.subjects:
        shared = [answer for answer in asked if subject.name in answer.asked]
        same = [list(answer.asked[base].answers) == list(answer.asked[subject.name].answers) for answer in shared]
        if shared and all(same):
            count = sum(len(answer.asked[base].items) for answer in shared)
            yield Finding(
                id=f"no-op:{subject.name}",
                severity="critical",
                area="task",
                subject=subject.name,
                title=f"{subject.name} answers every item exactly as the base does",
                evidence=[f"{count} items, every answer and every log-probability equal"],
                advice="The adapter may not be active, or it changes nothing that these tasks touch.",
            )


def _notes(notes: Iterable[str]) -> Iterator[Finding]:
    for index, note in enumerate(notes):
        yield Finding(id=f"note:{index}", severity="info", area="behaviour", title=note)


def _sibling(comparison: Comparison, found: Measurement, metric: str) -> Measurement | None:
    return next(
        (
            other
            for other in comparison.measurements
            if (other.subject, other.reference, other.task) == (found.subject, found.reference, found.task)
            and other.metric == metric
            and other.slice is None
        ),
        None,
    )


def _described_rate(comparison: Comparison, found: Measurement, metric: str) -> str | None:
    other = _sibling(comparison, found, metric)
    if other is None or other.adapted is None:
        return None
    return f"{metric} {other.adapted.value:.3f}" + _interval(other.adapted.low, other.adapted.high)


def described(found: Measurement) -> str:
    """One measurement in words: metric, both values, difference with interval, margin, items."""
    assert found.delta is not None
    before = f"{found.base.value:.4g} → " if found.base else ""
    after = f"{found.adapted.value:.4g}" if found.adapted else "undefined"
    interval = _interval(found.delta.low, found.delta.high, signed=True)
    return f"{found.metric} {before}{after}, difference {found.delta.value:+.4g}{interval}, {found.delta.n} items"


def _interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    if low is None or high is None:
        return " (no interval)"
    return f" [{low:+.4g}, {high:+.4g}]" if signed else f" [{low:.4g}, {high:.4g}]"


def _more_items(found: Measurement) -> str:
    assert found.delta is not None
    if found.delta.needed_n:
        return f"About {found.delta.needed_n} items would decide."
    return "Give more items."
