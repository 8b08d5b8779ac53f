"""Findings: sentences that a reader can act on, each with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Comparison, Finding, Measurement, Severity, TaskInfo
from lorascope.schema.flips import CauseName, FlipLedger
from lorascope.schema.items import Answer, ChoiceAnswer, GenerateAnswer, LabelsAnswer, LikelihoodAnswer
from lorascope.workflows.cut_findings import find_cuts
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.weight_findings import find_in_weights

_OVERFIT_ADVICE = "Keep the checkpoint of the lowest validation loss, train fewer epochs, or add data or dropout."


def find(comparison: Comparison, answers: Sequence[TaskAnswers], notes: Sequence[str]) -> list[Finding]:
    """All findings of a comparison that follow from its measurements, most severe first."""
    cuts, others = find_cuts([*notes, *(note for answer in answers for note in answer.notes)])
    found = [
        *_learning(comparison),
        *_forgetting(comparison),
        *_gaps(comparison),
        *_unchanged(comparison, answers),
        *find_in_weights(comparison),
        *cuts,
        *_notes(others),
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
                yield _moved_in_the_dark(comparison, task, found)
                continue
            evidence = [described(found), *(_described_rate(comparison, found, name) for name in _RATES)]
            lost = retained.adapted.value if retained is not None and retained.adapted is not None else None
            yield Finding(
                id=f"forgetting:{task.name}:{found.subject}",
                severity="critical" if lost is not None and lost < 0.8 else "warning",
                area="forgetting",
                subject=found.subject,
                title=_lost(found.subject, task),
                evidence=[text for text in evidence if text],
                advice="Mix 1-5 % general data into training, lower the learning rate, or scale the adapter down.",
                reference="arXiv 2502.06042 (replay)",
            )


def _lost(subject: str, task: TaskInfo) -> str:
    if task.kind == "likelihood":
        return f"{subject} predicts running text less well than the base ({task.name})"
    return f"{subject} forgot general knowledge ({task.name})"


def _moved_in_the_dark(comparison: Comparison, task: TaskInfo, found: Measurement) -> Finding:
    """The base was not shown to be above chance, which does not show that it guesses."""
    accuracy = _sibling(comparison, found, "accuracy")
    fell = accuracy is not None and accuracy.delta is not None and accuracy.delta.verdict == "regressed"
    evidence = [described(found), described(accuracy) if fell and accuracy is not None and accuracy != found else None]
    evidence.append("the base's accuracy is not shown to be above chance, so the share of it that is left is unknown")
    return Finding(
        id=f"forgetting:{task.name}:{found.subject}",
        severity="warning" if fell else "info",
        area="forgetting",
        subject=found.subject,
        title=f"{found.subject} moved on {task.name}, where the base cannot be told from guessing",
        evidence=[text for text in evidence if text],
        advice="Give more items of this task: what the base knows of it is not known, and so is what was lost.",
    )


_RATES = ("retained_fraction", "forgotten_rate", "gained_rate")


def _gaps(comparison: Comparison) -> Iterator[Finding]:
    """Over-fitting by the primary metric: the whole interval of the gap on the side of "better on training", its size
    at least the margin, and either the task learned or the base's gap smaller by the margin.
    """
    for task in comparison.tasks:
        learned = {found.subject for found in _against_base(comparison, task) if _improved(found)}
        for found in comparison.measurements:
            wanted = found.area == "gap" and found.reference == comparison.base.name and found.slice is None
            if not wanted or found.task != task.name or found.metric != f"{task.metrics[0]}_gap":
                continue
            spec = find_spec(task.metrics[0])
            margin = task.margin if task.margin is not None else spec.margin or 0.0
            if _overfitted(found, -1.0 if spec.direction == "lower" else 1.0, margin, found.subject in learned):
                yield _gap(task, found)


def _improved(found: Measurement) -> bool:
    return found.delta is not None and found.delta.verdict == "improved"


def _overfitted(found: Measurement, sign: float, margin: float, learned: bool) -> bool:
    if found.adapted is None:
        return False
    ends = [sign * end for end in (found.adapted.low, found.adapted.high) if end is not None]
    gap = sign * found.adapted.value
    if not ends or min(ends) <= 0 or gap < margin:
        return False
    if found.base is None:
        return True
    more = gap - sign * found.base.value
    return more > 0 and (learned or more >= margin)


def _gap(task: TaskInfo, found: Measurement) -> Finding:
    assert found.adapted is not None
    interval = _interval(found.adapted.low, found.adapted.high)
    return Finding(
        id=f"gap:{task.name}:{found.subject}",
        severity="warning",
        area="gap",
        subject=found.subject,
        title=f"{found.subject} does better on what it was trained on than on new items of {task.name}",
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
            known = [_has_numbers(one) for answer in shared for one in answer.asked[base].answers]
            yield Finding(
                id=f"no-op:{subject.name}",
                severity="critical",
                area="task",
                subject=subject.name,
                title=f"{subject.name} answers every item exactly as the base does",
                evidence=[f"{count} items, {_equal(known)}"],
                advice="The adapter may not be active, or it changes nothing that these tasks touch.",
            )


def _has_numbers(answer: Answer) -> bool:
    """Whether an answer has log-probabilities (or probabilities); texts and tags of other tools have none."""
    if isinstance(answer, GenerateAnswer):
        return answer.gold_logprob is not None
    return isinstance(answer, ChoiceAnswer | LikelihoodAnswer | LabelsAnswer)


def _equal(known: Sequence[bool]) -> str:
    if all(known):
        return "every answer and every log-probability equal"
    return "every answer equal" + (", and every log-probability where one is known" if any(known) else "")


_CAUSE_WORDS: Mapping[CauseName, str] = {
    "empty": "empty",
    "repetition": "by repetition",
    "truncated": "truncated",
    "stop_string": "cut by a stop string",
    "language_switch": "by a switch of language",
    "refusal": "by refusal",
    "format": "by format",
    "knowledge_loss": "by loss of knowledge",
    "unexplained": "unexplained",
}
_CAUSE_ADVICE: Mapping[CauseName, str] = {
    "empty": "Look for end-of-text tokens and stop strings at the start of training answers.",
    "repetition": "Train fewer epochs or at a lower learning rate, and end every training answer with end-of-text.",
    "truncated": "Raise max_new_tokens, or teach shorter answers; what the longer answers are worth is not known yet.",
    "stop_string": "Change the task's stop strings, or take them out of the training answers.",
    "language_switch": "Balance the languages of the training data, or ask for the language in the prompt.",
    "refusal": "Look for refusals in the training data, and mix in general instructions that are answered.",
    "format": "Mend the prompt, the chat template or the extraction and compare again: these answers lost by form.",
    "knowledge_loss": "Mix 1-5 % general data into training, lower the learning rate, or scale the adapter down.",
    "unexplained": "Read the broken answers side by side: no cause was found in them.",
}
_OF_FORM: frozenset[CauseName] = frozenset({"empty", "truncated", "stop_string", "format"})
_OF_ABILITY: frozenset[CauseName] = frozenset({"knowledge_loss", "unexplained"})
_FEW = 5
_FLIPS = "arXiv 2407.09141 (flips)"


def flip_findings(ledgers: Sequence[FlipLedger], measurements: Sequence[Measurement] = ()) -> list[Finding]:
    """For each subject and task with broken items, what was lost and why, with advice by the largest cause.

    A warning where at least half of five or more losses are faults of form, which the metrics count as losses of
    ability; else information: whether losses matter is for the verdicts to say. Flips that the noise floor covers are
    said to be no more than noise. ``measurements`` tell where a reference is not shown to be above chance
    (``retained_fraction`` is undefined): right answers may be guesses there, so no loss of knowledge is claimed.
    """
    guessed = {
        (found.subject, found.reference, found.task)
        for found in measurements
        if found.metric == "retained_fraction" and found.slice is None and found.adapted is None
    }
    found = [
        _flipped(ledger, (ledger.subject, ledger.reference, ledger.task) in guessed)
        for ledger in ledgers
        if ledger.broken
    ]
    return by_severity(found)


def _flipped(ledger: FlipLedger, guessed: bool) -> Finding:
    noisy = ledger.noise is not None and ledger.broken + ledger.fixed <= ledger.noise
    causes = [each for each in _by_count(ledger) if not (guessed and each[0] in _OF_ABILITY)]
    unsure = causes[:1] and causes[0][0] in _OF_ABILITY and ledger.fixed >= ledger.broken
    return Finding(
        id=f"flips:{ledger.task}:{ledger.subject}:{ledger.reference}",
        severity="info" if noisy else _flip_severity(ledger),
        area="task",
        subject=ledger.subject,
        title=_flip_title(ledger, causes, noisy, guessed),
        evidence=_flip_evidence(ledger) + ([_guesses(ledger)] if guessed else []),
        advice=_CAUSE_ADVICE[causes[0][0]] if causes and not noisy and not unsure else None,
        reference=_FLIPS,
    )


def _flip_title(ledger: FlipLedger, causes: Sequence[tuple[CauseName, int]], noisy: bool, guessed: bool) -> str:
    """What was lost; with the net change where no less was gained, or where what was right may be guessed."""
    lost = "1 answer" if ledger.broken == 1 else f"{ledger.broken:,} answers"
    title = f"{ledger.subject} lost {lost} of {ledger.task}"
    if guessed or ledger.fixed >= ledger.broken:
        net = ledger.fixed - ledger.broken
        title += f" and gained {ledger.fixed:,} (net {f'{net:+,}' if net else '0'})"
    if noisy:
        return f"{title}, no more than numerical noise"
    listed = ", ".join(f"{count:,} {_CAUSE_WORDS[name]}" for name, count in causes)
    return f"{title}: {listed}" if listed else title


def _guesses(ledger: FlipLedger) -> str:
    return (
        f"{ledger.reference} is not shown to be above chance here: what it had right may be guessed, and answers that "
        "turned are no sign of lost knowledge"
    )


def _by_count(ledger: FlipLedger) -> list[tuple[CauseName, int]]:
    """Causes that occur, most frequent first; equal ones in the order in which they are looked for."""
    found = [(name, (ledger.causes or {}).get(name, 0)) for name in _CAUSE_WORDS]
    return sorted((each for each in found if each[1]), key=lambda each: -each[1])


def _flip_severity(ledger: FlipLedger) -> Severity:
    of_form = sum(count for name, count in (ledger.causes or {}).items() if name in _OF_FORM)
    return "warning" if ledger.broken >= _FEW and 2 * of_form >= ledger.broken else "info"


def _flip_evidence(ledger: FlipLedger) -> list[str]:
    had, lacked = ledger.broken + ledger.both_right, ledger.fixed + ledger.both_wrong
    evidence = [
        f"{ledger.broken:,} of the {had:,} that {ledger.reference} had right are wrong now "
        f"({ledger.broken / had:.1%}); {ledger.fixed:,} of the {lacked:,} that it had wrong are right"
    ]
    if ledger.noise is None:
        return evidence
    turned = ledger.broken + ledger.fixed
    if turned <= ledger.noise:
        sentence = f"no more than noise: all {turned:,} items that turned do so when only the numerics change"
    else:
        sentence = (
            f"of {turned:,} items that turned, {ledger.noise:,} ({ledger.noise / turned:.0%}) are numerical noise: "
            "they turn when only the numerics change"
        )
    return [*evidence, sentence]


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
