"""The flip ledger: which right answers became wrong and which wrong ones right, and why answers broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lorascope.data.tasks import LoadedTask
from lorascope.measures.answer_forms import answer_key
from lorascope.measures.causes import BrokenText, Cause, cause_of_choice, cause_of_text, label_changes
from lorascope.measures.forgetting import Flip, flips
from lorascope.schema.flips import FlipLedger
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    ChoiceItem,
    GenerateAnswer,
    GenerateItem,
    Item,
    LabelsAnswer,
    LabelsItem,
)
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import Asked, extracted, right

_LABEL_THRESHOLD = 0.5
_MOST_LABELS = 50
_ITEMS_PER_LABEL = 2


@dataclass(frozen=True)
class Explained:
    """What became of every item, and by its place why each broken one broke.

    ``causes`` is None where answers have no text to look at (labels, tags); ``evidence`` is there for all broken
    items about which something can be said.
    """

    flips: Sequence[Flip]
    causes: Mapping[int, Cause] | None
    evidence: Mapping[int, str] = field(default_factory=dict)


def explain(task: LoadedTask, reference: Asked, subject: Asked) -> Explained | None:
    """Flips from ``reference`` to ``subject`` with their causes; None for kinds without right and wrong."""
    before, after = right(task, reference), right(task, subject)
    if before is None or after is None:
        return None
    found = flips(before, after)
    broken = [place for place, flip in enumerate(found) if flip == "broken"]
    if task.kind == "generate":
        causes = dict(zip(broken, _text_causes(task, reference, subject, broken), strict=True))
    elif task.kind == "choice":
        causes = {place: _choice_cause(reference, subject, place) for place in broken}
    else:
        return Explained(found, None, dict(_label_evidence(reference, subject, broken)))
    return Explained(found, causes, {place: cause.evidence for place, cause in causes.items()})


def flip_ledger(answers: TaskAnswers, subject: str, reference: str) -> FlipLedger | None:
    """The task's ledger of ``subject`` against ``reference``, without noise, which takes second runs to know.

    None where one of them was not asked, and for kinds without right and wrong.
    """
    if subject not in answers.asked or reference not in answers.asked:
        return None
    explained = explain(answers.task, answers.asked[reference], answers.asked[subject])
    if explained is None:
        return None
    counts = Counter(explained.flips)
    causes = explained.causes
    return FlipLedger(
        subject=subject,
        reference=reference,
        task=answers.task.spec.name,
        items=len(explained.flips),
        fixed=counts["fixed"],
        broken=counts["broken"],
        both_right=counts["both_right"],
        both_wrong=counts["both_wrong"],
        causes=None if causes is None else dict(Counter(cause.name for cause in causes.values())),
    )


def flip_ledgers(answers: TaskAnswers, pairs: Sequence[Pair]) -> list[FlipLedger]:
    """The ledgers of all pairs that have one, in their order."""
    found = (flip_ledger(answers, pair.subject, pair.reference) for pair in pairs)
    return [ledger for ledger in found if ledger is not None]


def chosen_labels(item: LabelsItem, answer: LabelsAnswer, labels: Sequence[str]) -> list[str]:
    """The labels that an answer gives, sorted: the likeliest one, or all from probability 0.5 on."""
    if not item.multi:
        return [labels[max(range(len(labels)), key=answer.probabilities.__getitem__)]]
    pairs = zip(labels, answer.probabilities, strict=True)
    return sorted(label for label, probability in pairs if probability >= _LABEL_THRESHOLD)


def _text_causes(task: LoadedTask, reference: Asked, subject: Asked, broken: Sequence[int]) -> Iterator[Cause]:
    rule = task.spec.extract is not None
    parts = (extracted(task, reference), extracted(task, subject)) if rule else None
    labels = _label_like(subject.items)
    for place in broken:
        item, before, after = subject.items[place], reference.answers[place], subject.answers[place]
        assert isinstance(item, GenerateItem)
        assert isinstance(before, GenerateAnswer)
        assert isinstance(after, GenerateAnswer)
        own = {answer_key(text) for text in item.references}
        yield cause_of_text(
            BrokenText(
                references=item.references,
                base=before.text,
                adapted=after.text,
                prompt=_question(task.own(item)),
                truncated=after.truncated,
                base_truncated=before.truncated,
                stop=after.stop,
                base_stop=before.stop,
                extracts=rule,
                base_part=parts[0][place] if parts else None,
                adapted_part=parts[1][place] if parts else None,
                gold_before=before.gold_logprob,
                gold_after=after.gold_logprob,
                gold_tokens=_same_count(before, after),
                others=[label for key, label in labels.items() if key not in own],
            )
        )


def _question(item: Item) -> str:
    """What an item asks by itself: the script of examples and system messages around it is not the question's."""
    assert isinstance(item, GenerateItem)
    return item.prompt if item.prompt is not None else chat_text(item.messages or ())


def _same_count(before: GenerateAnswer, after: GenerateAnswer) -> int | None:
    """Tokens of the reference, where both checkpoints cut it alike."""
    return before.gold_tokens if before.gold_tokens == after.gold_tokens else None


def chat_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Chat messages as text, one below the other with their roles."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _label_like(items: Sequence[Item]) -> dict[tuple[str, ...], str]:
    """The task's answers by key, where a few of them answer all items, as labels do; else nothing."""
    firsts = [item.references[0] for item in items if isinstance(item, GenerateItem)]
    labels = {answer_key(text): text for text in dict.fromkeys(firsts)}
    return labels if len(labels) <= min(_MOST_LABELS, len(firsts) // _ITEMS_PER_LABEL) else {}


def _choice_cause(reference: Asked, subject: Asked, place: int) -> Cause:
    item, before, after = subject.items[place], reference.answers[place], subject.answers[place]
    assert isinstance(item, ChoiceItem)
    assert isinstance(before, ChoiceAnswer)
    assert isinstance(after, ChoiceAnswer)
    return cause_of_choice(before.logprobs, after.logprobs, item.answer, item.choices)


def _label_evidence(reference: Asked, subject: Asked, broken: Sequence[int]) -> Iterator[tuple[int, str]]:
    for place in broken:
        item = subject.items[place]
        if not isinstance(item, LabelsItem):
            continue
        said = [_chosen(item, side.answers[place], side.labels) for side in (reference, subject)]
        changes = label_changes(item.labels, *said)
        if changes:
            yield place, changes


def _chosen(item: LabelsItem, answer: Answer, labels: Sequence[str]) -> list[str]:
    assert isinstance(answer, LabelsAnswer)
    return chosen_labels(item, answer, labels)
