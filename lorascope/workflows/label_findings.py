"""Findings about label outputs: collapse, a wrong order, too few or too many labels, labels never given, odd pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lorascope.measures.core import BoolArray, FloatArray
from lorascope.measures.label_diagnosis import (
    largest_confusions,
    largest_pair_gaps,
    misplaced_outputs,
    plateau_loss,
    ranking_skill,
    set_variety,
    unseen_share,
)
from lorascope.measures.labels import label_groups
from lorascope.schema.comparison import Finding, Measurement
from lorascope.schema.items import LabelsItem
from lorascope.workflows.label_advice import weigh_thresholds
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import is_multi

COLLAPSED_SPREAD = 0.02
PLATEAU_SKILL = 0.02
RANKS = 0.1
WORSE_THAN_FREQUENCIES = -0.2
_SHUFFLED_SHARE = 0.25
_SHOWN_OUTPUTS = 3
_ALIKE = 0.5
_FEW_SETS = 0.1
_FAR_OFF = 0.25
_GAP = 0.25
_NEVER_SHARE = 0.1
_LISTED = 8


@dataclass(frozen=True)
class Decided:
    """Probabilities, decisions and true labels, each (n, L)."""

    probabilities: FloatArray
    decided: BoolArray
    truth: BoolArray

    @property
    def arrays(self) -> tuple[FloatArray, BoolArray, BoolArray]:
        """All three."""
        return self.probabilities, self.decided, self.truth


@dataclass(frozen=True)
class _Case:
    """One subject's label outputs on one task."""

    answers: TaskAnswers
    subject: str
    rows: Sequence[Measurement]
    fixed: Decided
    tuned: Decided | None
    known: BoolArray | None

    @property
    def task(self) -> str:
        return self.answers.task.spec.name

    def row(self, metric: str, by: str | None = None) -> Measurement | None:
        """The subject's measurement of a metric: of the whole, or of a slice."""
        found = (row for row in self.rows if row.metric == metric and (row.slice.by if row.slice else None) == by)
        return next((row for row in found if row.adapted is not None), None)

    def names(self, indices: Sequence[int]) -> str:
        """Labels by name, the first few."""
        listed = ", ".join(self.answers.labels[index] for index in indices[:_LISTED])
        return listed + (f" and {len(indices) - _LISTED} more" if len(indices) > _LISTED else "")

    def finding(
        self, kind: str, severity: str, title: str, evidence: list[str], advice: str | None = None, source: str = ""
    ) -> Finding:
        """A finding about this subject."""
        return Finding.model_validate(
            {
                "id": f"labels:{kind}:{self.task}:{self.subject}",
                "severity": severity,
                "area": self.answers.area,
                "subject": self.subject,
                "title": title,
                "evidence": evidence,
                "advice": advice,
                "reference": source or None,
            }
        )


def find_in_labels(
    answers: TaskAnswers,
    pair: Pair,
    rows: Sequence[Measurement],
    fixed: Decided,
    tuned: Decided | None,
    known: BoolArray | None,
) -> list[Finding]:
    """Findings about the pair's subject. What follows from a collapse or a wrong order is not blamed on it again."""
    case = _Case(answers, pair.subject, rows, fixed, tuned, known)
    small = _small_outputs(case)
    if small is not None and small.severity == "critical":
        return [small]
    found = [small] if small is not None else []
    worse = _worse_than_frequencies(case)
    if worse is not None:
        found.append(worse)
        if worse.id.startswith("labels:order:"):
            return found
    if not is_multi(answers.task):
        return [*found, *_confusions(case)]
    return [*found, *_cardinality(case), *_never_predicted(case), *_cooccurrence(case), *_unseen(case)]


def _small_outputs(case: _Case) -> Finding | None:
    """Outputs that hardly vary: a collapse where they tell nothing of the labels either, else only small numbers.

    A head with small logits may rank every label rightly; loss and spread look like a collapse, the order does not.
    """
    spread, skill = case.row("output_spread"), case.row("frequency_skill")
    if spread is None or spread.adapted is None or spread.adapted.value >= COLLAPSED_SPREAD:
        return None
    ranks = ranking_skill(case.fixed.probabilities, case.fixed.truth)
    evidence = [
        f"output_spread {spread.adapted.value:.2g}: the probabilities vary over {len(case.fixed.truth)} items by that "
        "share of what the true labels do",
        _sets(case),
    ]
    if skill is not None and skill.adapted is not None:
        evidence.append(_plateau(case, skill.adapted.value))
    if ranks is not None:
        evidence.append(f"average precision of the labels: {ranks:.0%} of the way from chance to perfect")
    gained = skill is not None and skill.adapted is not None and skill.adapted.value > PLATEAU_SKILL
    if gained or (ranks is not None and ranks > RANKS):
        return _hardly_varies(case, evidence)
    return _collapsed(case, evidence)


def _sets(case: _Case) -> str:
    given, true = set_variety(case.fixed.decided), set_variety(case.fixed.truth)
    commonest = case.names(given.commonest) or "no label"
    return (
        f"distinct label sets: {given.distinct} given, {true.distinct} true; "
        f"{given.commonest_share:.0%} of the items get {commonest}"
    )


def _collapsed(case: _Case, evidence: list[str]) -> Finding:
    given, true = set_variety(case.fixed.decided), set_variety(case.fixed.truth)
    alike = given.commonest_share >= _ALIKE or given.distinct <= max(2, _FEW_SETS * true.distinct)
    how = "{} gives every item nearly the same labels" if alike else "what {} gives has nothing to do with the item"
    return case.finding(
        "collapse",
        "critical",
        f"Collapse on {case.task}: {how.format(case.subject)}",
        evidence,
        "Two causes end here, and the loss by step tells them apart. It never left its first level: give the new head "
        "its own, higher learning rate, and check that the features it reads are not tiny. It was lowest in the first "
        "steps and rose, and the weights moved far (relative change under Weights): lower the learning rate, warm it "
        "up and clip gradients. No threshold can mend either.",
    )


def _hardly_varies(case: _Case, evidence: list[str]) -> Finding:
    advice = "Train longer or give the head a higher learning rate if probabilities are to be read as such"
    if is_multi(case.answers.task):
        advice += "; for decisions tune thresholds on validation items (tune_on)"
    return case.finding(
        "small_outputs",
        "info",
        f"The outputs of {case.subject} hardly vary in size on {case.task}, though they rank the labels",
        evidence,
        f"{advice}.",
    )


def _plateau(case: _Case, skill: float) -> str:
    where = "on the plateau of" if abs(skill) <= PLATEAU_SKILL else "above" if skill < 0 else "below"
    if not is_multi(case.answers.task):
        return f"frequency_skill {skill:.3f}: the loss is {where} what the class frequencies alone give"
    plateau = plateau_loss(case.fixed.truth)
    return (
        f"binary cross-entropy {(1 - skill) * plateau:.4f}, {where} the {plateau:.4f} that the label frequencies "
        f"alone give (frequency_skill {skill:.3f})"
    )


def _worse_than_frequencies(case: _Case) -> Finding | None:
    """Clearly worse than knowing nothing of the item: outputs under wrong names, or right ones far too sure."""
    skill = case.row("frequency_skill")
    if skill is None or skill.adapted is None or skill.adapted.high is None:
        return None
    if skill.adapted.high >= WORSE_THAN_FREQUENCIES:
        return None
    ranks = ranking_skill(case.fixed.probabilities, case.fixed.truth)
    evidence = [
        f"frequency_skill {skill.adapted.value:.2f}{_between(skill.adapted.low, skill.adapted.high)}: always giving "
        "each label's frequency has 0"
    ]
    if ranks is not None:
        evidence.append(f"average precision of the labels: {ranks:.0%} of the way from chance to perfect")
    misplaced = misplaced_outputs(case.fixed.probabilities, case.fixed.truth)
    occurring = int(case.fixed.truth.any(axis=0).sum())
    if len(misplaced) < _SHUFFLED_SHARE * occurring and ranks is not None and ranks > RANKS:
        return _too_sure(case, evidence)
    label = case.answers.labels
    evidence += [
        f"{label[each.label]}: the output listed as {label[each.output]} is nearer to it than its own (correlation "
        f"{each.correlation:.2f} against {each.own:.2f})"
        for each in misplaced[:_SHOWN_OUTPUTS]
    ]
    return case.finding(
        "order",
        "warning",
        f"{case.subject} predicts {case.task} worse than always giving each label's frequency: are the labels in the "
        "order of the head's outputs?",
        evidence,
        "Compare the list that was given (labels, --labels) with the id2label of the training run, and give it in that "
        "order. If the order is right, the training went wrong: look at the loss.",
    )


def _too_sure(case: _Case, evidence: list[str]) -> Finding:
    return case.finding(
        "too_sure",
        "warning",
        f"The probabilities of {case.subject} on {case.task} are worse than the label frequencies, though they rank "
        "the labels",
        evidence,
        "They are far too sure, or all too high or too low: scale them on validation items (temperature), or stop the "
        "training earlier. Decisions can be good all the same.",
    )


def _cardinality(case: _Case) -> Iterator[Finding]:
    found = case.row("cardinality_error")
    mean = float(case.fixed.truth.sum(axis=1).mean())
    if found is None or found.adapted is None or abs(found.adapted.value) <= _FAR_OFF * mean:
        return
    error = found.adapted
    if error.low is not None and error.high is not None and error.low <= 0 <= error.high:
        return
    evidence = [f"cardinality_error {error.value:+.2f}{_between(error.low, error.high, '+')} at threshold 0.5"]
    empty = case.row("empty_set_rate")
    if empty is not None and empty.adapted is not None and empty.adapted.value > 0:
        evidence.append(f"{empty.adapted.value:.0%} of the items get no label")
    told, advice = _by_thresholds(case, error.value)
    yield case.finding(
        "cardinality",
        "warning",
        f"{case.subject} gives {mean + error.value:.1f} labels an item on {case.task}, where {mean:.1f} are true",
        [*evidence, *told],
        advice,
    )


def _by_thresholds(case: _Case, error: float) -> tuple[list[str], str]:
    """What tuned thresholds change on the items not tuned on, and advice by those numbers."""
    if case.tuned is None:
        return [], "Tune thresholds on validation items (tune_on) in place of 0.5, and keep them with the model."
    tuned_on = bool(case.answers.task.tuning_items)
    usual = case.tuned.probabilities >= 0.5
    return weigh_thresholds(usual, case.tuned.decided, case.tuned.truth, too_few=error < 0, tuned_on=tuned_on)


def _between(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None or high is None else f" [{low:{sign}.2f}, {high:{sign}.2f}]"


def _never_predicted(case: _Case) -> Iterator[Finding]:
    """Labels that truly occur and are never given at 0.5, by how frequent they are in the training data."""
    support = case.fixed.truth.sum(axis=0)
    never = np.flatnonzero((support > 0) & ~case.fixed.decided.any(axis=0))
    if not len(never):
        return
    ranked = [int(index) for index in never[np.argsort(-support[never], kind="stable")]]
    groups = label_groups(_training_support(case))
    counts = {name: int(np.isin(never, members).sum()) for name, members in groups.items()}
    spread = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    evidence = [f"{len(never)} of {int((support > 0).sum())} labels that occur" + (f" ({spread})" if spread else "")]
    evidence.append(f"the most frequent of them: {case.names(ranked)}")
    still = None
    if case.tuned is not None:
        still = int((case.tuned.truth.any(axis=0) & ~case.tuned.decided.any(axis=0)).sum())
        evidence.append(f"at tuned thresholds: {still}")
    yield case.finding(
        "never",
        "warning" if len(never) >= _NEVER_SHARE * (support > 0).sum() else "info",
        f"{case.subject} never gives {len(never)} of the labels of {case.task}",
        evidence,
        _advice_for_never(len(never), still),
    )


def _advice_for_never(never: int, still: int | None) -> str:
    """``still`` is how many are never given at tuned thresholds; None where none were tuned."""
    if still is None:
        return (
            "Tune thresholds on validation items (tune_on); if that does not help, weight rare labels in the loss or "
            "add items."
        )
    rest = "weight rare labels in the loss, train longer, or add items"
    if still >= never:
        return f"Thresholds do not bring them back: {rest}."
    share = "most" if 4 * still <= never else "some"
    other = f"; for the others {rest}" if still else ""
    return (
        f"0.5 is too high for {share} of them: thresholds tuned for each label give them. Read precision at those "
        f"thresholds (slice threshold: tuned) before they are used{other}."
    )


def _training_support(case: _Case) -> list[int]:
    """Counts in the training data, else in the evaluated items."""
    place = {label: index for index, label in enumerate(case.answers.labels)}
    counts = [0] * len(place)
    for item in case.answers.task.train_items:
        for label in item.labels if isinstance(item, LabelsItem) else ():
            if label in place:
                counts[place[label]] += 1
    return counts if any(counts) else [int(count) for count in case.fixed.truth.sum(axis=0)]


def _cooccurrence(case: _Case) -> Iterator[Finding]:
    found = case.row("cooccurrence_gap")
    if found is None or found.adapted is None or (found.adapted.low or 0.0) <= _GAP:
        return
    worse = found.delta is not None and found.delta.verdict == "regressed"
    evidence = [f"cooccurrence_gap {found.adapted.value:.2f}{_between(found.adapted.low, found.adapted.high)}"]
    if found.base is not None:
        evidence[0] += f", {found.base.value:.2f} of {found.reference}"
    for gap in largest_pair_gaps(case.fixed.decided, case.fixed.truth, 3):
        together = " + ".join(case.answers.labels[index] for index in gap.labels)
        evidence.append(f"{together}: given together to {gap.predicted:.1%} of the items, true of {gap.actual:.1%}")
    yield case.finding(
        "cooccurrence",
        "warning" if worse else "info",
        f"{case.subject} puts labels of {case.task} together otherwise than they occur",
        evidence,
        _advice_for_pairs(case, found.adapted.value),
    )


def _advice_for_pairs(case: _Case, gap: float) -> str:
    tuned = case.row("cooccurrence_gap", "threshold")
    if tuned is None or tuned.adapted is None:
        return "Thresholds that are too high break pairs first; look at them before the model."
    at_tuned = f"{tuned.adapted.value:.2f} at tuned thresholds"
    if tuned.adapted.value < gap:
        return f"Thresholds are a part of it: the gap is {at_tuned}."
    return f"Thresholds are not the cause: the gap is {at_tuned}. Labels that belong together do not rise together."


def _unseen(case: _Case) -> Iterator[Finding]:
    found = case.row("unseen_set_rate")
    if found is None or found.adapted is None or case.known is None:
        return
    usual = unseen_share(case.fixed.truth, case.known)
    if usual is None or (found.adapted.low or 0.0) <= usual:
        return
    yield case.finding(
        "unseen",
        "info",
        f"{case.subject} makes up label sets on {case.task} that its training data does not have",
        [
            f"unseen_set_rate {found.adapted.value:.2f}{_between(found.adapted.low, found.adapted.high)}, "
            f"of the true sets {usual:.2f}"
        ],
    )


def _confusions(case: _Case) -> Iterator[Finding]:
    confused = largest_confusions(case.fixed.decided, case.fixed.truth, 5)
    if not confused or confused[0].items < 2:
        return
    label = case.answers.labels
    actual, predicted = label[confused[0].actual], label[confused[0].predicted]
    yield case.finding(
        "confusion",
        "info",
        f"{case.subject} most often takes {actual} for {predicted} on {case.task}",
        [
            f"{label[each.actual]} taken for {label[each.predicted]}: {each.items} items, {each.share:.0%} of "
            f"{label[each.actual]}"
            for each in confused
            if each.items > 1
        ],
    )
