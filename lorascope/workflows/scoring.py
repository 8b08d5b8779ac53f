"""From one checkpoint's answers to a task's statistics: the bridge between items and the pure measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import numpy as np

from lorascope.data.tasks import LoadedTask
from lorascope.errors import DataError
from lorascope.measures.choices import chance_levels, score_choices
from lorascope.measures.core import BoolArray, FloatArray, Scored
from lorascope.measures.extraction import extract_answer
from lorascope.measures.labels import label_scores, score_label_groups, score_labels
from lorascope.measures.likelihood import score_likelihood
from lorascope.measures.plugins import is_plugged_in, score_plugin
from lorascope.measures.registry import names_of
from lorascope.measures.regression import score_regression
from lorascope.measures.text import score_text
from lorascope.measures.thresholds import cross_fitted_thresholds, tune_thresholds
from lorascope.measures.tokens import score_entities
from lorascope.schema.comparison import TaskInfo
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    ChoiceItem,
    GenerateAnswer,
    GenerateItem,
    Item,
    LabelsAnswer,
    LabelsItem,
    LikelihoodAnswer,
    ScoreAnswer,
    ScoreItem,
    TokensAnswer,
    TokensItem,
)

_T = TypeVar("_T")
_FOLDS = 5
PRIMARY: Mapping[str, str] = {
    "generate": "rougeL",
    "labels": "f1_micro",
    "score": "spearman",
    "tokens": "entity_f1",
    "choice": "gold_margin",
    "likelihood": "bits_per_byte",
}


@dataclass(frozen=True)
class Asked:
    """Items and one checkpoint's answers to them, in the same order. ``labels`` is the task's label list.

    ``verdicts`` say which items are right where another tool has judged the answers, and judged otherwise than our
    metrics do; None where right and wrong follow from the answers. ``scored`` keeps what :func:`score` has computed.
    """

    items: Sequence[Item]
    answers: Sequence[Answer]
    labels: tuple[str, ...] = ()
    verdicts: tuple[bool, ...] | None = None
    scored: list[tuple[LoadedTask, dict[str, Scored]]] = field(
        default_factory=list, init=False, compare=False, repr=False
    )

    def subset(self, indices: Sequence[int]) -> Asked:
        """The same for some of the items."""
        verdicts = None if self.verdicts is None else tuple(self.verdicts[i] for i in indices)
        return Asked([self.items[i] for i in indices], [self.answers[i] for i in indices], self.labels, verdicts)


def primary_metric(task: LoadedTask) -> str:
    """The metric that verdict lines quote: the suite's, else the usual one of the kind."""
    if task.spec.primary:
        return task.spec.primary
    usual = PRIMARY[task.kind]
    if task.kind == "generate" and task.spec.role == "retention":
        usual = "exact_match"
    if task.kind == "labels" and not is_multi(task):
        usual = "accuracy"
    wanted = task.spec.metrics
    return usual if wanted is None or usual in wanted else wanted[0]


def task_info(task: LoadedTask, asked: Asked | None) -> TaskInfo:
    """The task's entry; its metrics are those that were measured on ``asked``, the primary one first."""
    first = primary_metric(task)
    names = list(score(task, asked)) if asked is not None else []
    return TaskInfo(
        name=task.spec.name,
        kind=task.kind,
        role=task.spec.role,
        items=len(task.items),
        fingerprint=task.fingerprint,
        prompt=task.spec.prompt,
        metrics=[first, *(name for name in names if name != first)],
        margin=task.spec.margin,
    )


def is_multi(task: LoadedTask) -> bool:
    """Whether items of a label task may have any number of labels."""
    return any(item.multi for item in task.items if isinstance(item, LabelsItem))


def same_outputs(one: Asked, other: Asked) -> bool:
    """Whether two checkpoints gave the same answers item by item: equal texts or tags, or numbers equal to the bit."""
    return all(_output(before) == _output(after) for before, after in zip(one.answers, other.answers, strict=True))


def _output(answer: Answer) -> object:
    """What the checkpoint said. A text's own log-probability, or a cut that left the text alike, is no part of it."""
    if isinstance(answer, GenerateAnswer):
        return answer.text, answer.others
    return answer.tags if isinstance(answer, TokensAnswer) else answer


def score(task: LoadedTask, asked: Asked) -> dict[str, Scored]:
    """All metrics that the task asks for, as statistics over the items; thresholds of labels are 0.5.

    Computed once for the same task and answers.
    """
    for known, kept in asked.scored:
        if known is task:
            return dict(kept)
    scored = _SCORERS[task.kind](task, asked)
    wanted = task.spec.metrics
    if wanted is not None:
        scored = {name: scored[name] for name in wanted if name in scored}
    asked.scored.append((task, scored))
    return dict(scored)


def right(task: LoadedTask, asked: Asked) -> list[bool] | None:
    """Whether each item is right, for flips; None for kinds without right and wrong.

    Verdicts that came with the answers hold. Else a generated text is right where it, or the part that the task
    extracts, matches a reference exactly; of several samples the first counts, for an item is right or wrong once.
    """
    if asked.verdicts is not None:
        return list(asked.verdicts)
    if task.kind == "generate":
        exact = score_text(_scored_texts(task, asked), _references(asked), ["exact_match"])["exact_match"]
        return [bool(value) for value in exact.item_values()]
    if task.kind == "choice":
        return [bool(value) for value in _choice(task, asked)["accuracy"].item_values()]
    if task.kind == "labels":
        probabilities, truth = label_arrays(asked)
        name = "subset_accuracy" if is_multi(task) else "accuracy"
        scored = score_labels(probabilities, truth, multi=is_multi(task), label_names=asked.labels)[name]
        return [bool(value) for value in scored.item_values()]
    if task.kind == "tokens":
        pairs = zip(_typed(asked.items, TokensItem), _typed(asked.answers, TokensAnswer), strict=True)
        return [item.tags == answer.tags for item, answer in pairs]
    return None


def chance(task: LoadedTask, items: Sequence[Item], labels: Sequence[str]) -> FloatArray:
    """Accuracy of guessing, per item: 1 divided by the number of choices or classes, 0 for free answers."""
    if task.kind == "choice":
        return chance_levels([item.choices for item in _typed(items, ChoiceItem)])
    if task.kind == "labels" and not is_multi(task) and labels:
        return np.full(len(items), 1 / len(labels))
    return np.zeros(len(items))


def label_arrays(asked: Asked) -> tuple[FloatArray, BoolArray]:
    """(probabilities, truth), both (items, labels)."""
    probabilities = np.array([answer.probabilities for answer in _typed(asked.answers, LabelsAnswer)])
    position = {label: index for index, label in enumerate(asked.labels)}
    truth = np.zeros(probabilities.shape, dtype=np.bool_)
    for row, item in enumerate(_typed(asked.items, LabelsItem)):
        for label in item.labels:
            truth[row, position[label]] = True
    return probabilities, truth


def tuned_thresholds(asked: Asked, tuning: Asked | None, seed: int) -> tuple[FloatArray, str] | None:
    """Label thresholds for items that they have not seen, and how they were made; None where there are too few items.

    Tuned on the task's own ``tune_on`` items and frozen, else cross-fitted over five folds of the items themselves.
    """
    if tuning is not None and tuning.items:
        return tune_thresholds(*label_arrays(tuning)), "tuned on tune_on"
    try:
        return cross_fitted_thresholds(*label_arrays(asked), folds=_FOLDS, seed=seed), f"cross-fitted:{_FOLDS}"
    except DataError:
        return None


def label_slices(asked: Asked, multi: bool, support: Sequence[int] | None) -> dict[tuple[str, str], Scored]:
    """F1 by label and by head/mid/tail, keyed by (by, value) of the slice. ``support``: counts in the training data."""
    probabilities, truth = label_arrays(asked)
    names = asked.labels
    single = label_scores(probabilities, truth, multi=multi, label_names=names)
    supported = {name for name, column in zip(names, truth.T, strict=True) if column.any()}
    slices = {("label", name): scored for name, scored in single.items() if name in supported}
    groups = score_label_groups(probabilities, truth, multi=multi, label_names=names, support_counts=support)
    return slices | {("label_group", name): scored for name, scored in groups.items()}


def at_thresholds(asked: Asked, thresholds: FloatArray) -> dict[str, Scored]:
    """The threshold-dependent metrics of a multi-label task at other thresholds than 0.5."""
    probabilities, truth = label_arrays(asked)
    scored = score_labels(probabilities, truth, thresholds=thresholds, multi=True, label_names=asked.labels)
    free = {"lrap", "average_precision_macro", "ece"}
    return {name: value for name, value in scored.items() if name not in free}


def extracted(task: LoadedTask, asked: Asked, *, sample: int = 0) -> list[str | None]:
    """What of each generated text is scored: the part that the task's ``extract`` finds, None where it finds nothing.

    The whole text where the task extracts nothing. ``sample`` 0 is the answer itself, others are further samples.
    """
    rule = task.spec.extract
    texts = [_sample(answer, sample) for answer in _typed(asked.answers, GenerateAnswer)]
    return [text if rule is None else extract_answer(text, rule) for text in texts]


def _generate(task: LoadedTask, asked: Asked) -> dict[str, Scored]:
    """Every sample of every item scored by itself, then each item's statistics averaged over its samples."""
    known = names_of("text", on_request=True)
    wanted = (
        [name for name in task.spec.metrics if name in known] if task.spec.metrics is not None else names_of("text")
    )
    if task.spec.role == "retention" and task.spec.metrics is None:
        wanted = ["exact_match", "token_f1"]
    plugged = [name for name in task.spec.metrics or [] if is_plugged_in(name)]
    references = _references(asked)
    samples = [_scored_texts(task, asked, sample) for sample in range(_samples(asked))]
    scored = [score_text(texts, references, wanted) for texts in samples] if wanted else [{} for _ in samples]
    for texts, found in zip(samples, scored, strict=True):
        found |= {name: score_plugin(name, texts, references) for name in plugged}
    return {name: _marked(task, _averaged([found[name] for found in scored])) for name in scored[0]}


def _averaged(scored: Sequence[Scored]) -> Scored:
    """The mean of an item's statistics over its samples; shares of 0 and 1 become means, without score intervals.

    For a sum over the corpus (BLEU, chrF) that is the corpus of all samples, each counted by its share.
    """
    first = scored[0]
    if len(scored) == 1:
        return first
    rows = np.mean([one.statistics for one in scored], axis=0)
    return Scored(replace(first.measure, proportion=False), rows, f"{first.signature}|samples:{len(scored)}")


def _marked(task: LoadedTask, scored: Scored) -> Scored:
    """The signature names the rule by which answers are taken out of the texts."""
    rule = task.spec.extract
    if rule is None:
        return scored
    how = f"{rule.match}{',ignore-case' if rule.ignore_case else ''}"
    return replace(scored, signature=f"{scored.signature}|extract:{how}:{rule.pattern}")


def _samples(asked: Asked) -> int:
    """Answers an item, the same for all."""
    counts = {1 + len(answer.others) for answer in _typed(asked.answers, GenerateAnswer)}
    if len(counts) > 1:
        problem = f"items have {min(counts)} to {max(counts)} samples, and all need the same number"
        raise DataError(problem, remedy="ask again with one sampling.n for the whole task")
    return max(counts, default=1)


def _sample(answer: GenerateAnswer, sample: int) -> str:
    return (answer.text, *answer.others)[sample]


def _scored_texts(task: LoadedTask, asked: Asked, sample: int = 0) -> list[str]:
    """Texts for the metrics: one without a match has no answer and counts as an empty one."""
    return [text or "" for text in extracted(task, asked, sample=sample)]


def _references(asked: Asked) -> list[tuple[str, ...]]:
    return [item.references for item in _typed(asked.items, GenerateItem)]


def _labels(task: LoadedTask, asked: Asked) -> dict[str, Scored]:
    probabilities, truth = label_arrays(asked)
    return score_labels(probabilities, truth, multi=is_multi(task), label_names=asked.labels)


def _score(task: LoadedTask, asked: Asked) -> dict[str, Scored]:
    values = [answer.value for answer in _typed(asked.answers, ScoreAnswer)]
    return score_regression(values, [item.score for item in _typed(asked.items, ScoreItem)])


def _tokens(task: LoadedTask, asked: Asked) -> dict[str, Scored]:
    predicted = [answer.tags for answer in _typed(asked.answers, TokensAnswer)]
    return score_entities(predicted, [item.tags for item in _typed(asked.items, TokensItem)])


def _choice(task: LoadedTask, asked: Asked) -> dict[str, Scored]:
    items = _typed(asked.items, ChoiceItem)
    logprobs = [answer.logprobs for answer in _typed(asked.answers, ChoiceAnswer)]
    return score_choices(logprobs, [item.answer for item in items], [item.choices for item in items])


def _likelihood(task: LoadedTask, asked: Asked) -> dict[str, Scored]:
    answers = _typed(asked.answers, LikelihoodAnswer)
    return score_likelihood(
        [answer.logprob for answer in answers],
        [answer.tokens for answer in answers],
        [answer.bytes for answer in answers],
    )


def _typed(values: Sequence[object], kind: type[_T]) -> list[_T]:
    """The values as ``kind``; a task's items and answers are all of its own kind by construction."""
    assert all(isinstance(value, kind) for value in values)
    return cast("list[_T]", list(values))


_SCORERS = {
    "generate": _generate,
    "labels": _labels,
    "score": _score,
    "tokens": _tokens,
    "choice": _choice,
    "likelihood": _likelihood,
}
