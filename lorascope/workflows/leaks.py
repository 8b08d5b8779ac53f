"""What stands in the training file too: leaked evaluation items, and how much of a gain rests on them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lorascope.measures.core import BoolArray, FloatArray, Measure, Scored, item_rows, mean_of_items
from lorascope.measures.intervals import wilson
from lorascope.measures.overlap import OVERLAP_KINDS, RULES, Overlap, find_overlaps
from lorascope.measures.registry import define
from lorascope.measures.statistics import PairedResult, estimate_many, paired
from lorascope.schema.comparison import Finding, Measurement, Slice
from lorascope.schema.items import ChoiceItem, GenerateItem, Item, LabelsItem, LikelihoodItem, ScoreItem, TokensItem
from lorascope.schema.values import Estimate
from lorascope.workflows.estimates import OF_THE_PAIR, delta_of, estimate_of, groups_of, margin_of
from lorascope.workflows.leak_findings import Gain, Groups, find_leaks
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.pair_measurement import (
    RESAMPLES,
    Side,
    compare_sides,
    registered,
    side_of,
)
from lorascope.workflows.scoring import primary_metric, same_outputs, score

_OF_THE_DATA = "a number about the data: it is the same for every checkpoint"


@dataclass(frozen=True)
class Leaks:
    """What the leak check adds to a result. ``item_flags``: one entry per item of the task, in its order."""

    measurements: list[Measurement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    item_flags: tuple[Overlap, ...] = ()


def measure_leaks(answers: TaskAnswers, pairs: Sequence[Pair], *, seed: int) -> Leaks:
    """Overlap of the task's items with its training file, and the metrics on clean and on leaked items.

    Compared is what an item asks: the question of a choice, the user's turns of a chat, else its text or prompt. What
    all of them have in common at either end, a prompt's template, does not count, nor do few-shot examples. References
    and choices are left out, since many items share them rightly; but a question with several right answers ("Which of
    these is true?") is another item with every set of choices and is compared with them. Nothing without a training
    file.
    """
    task = answers.task
    if not task.train_items or not task.items:
        return Leaks()
    sides = [[task.own(item) for item in items] for items in (task.items, task.train_items)]
    shared = _shared_questions([item for side in sides for item in side])
    evaluated, trained = ([_asks(item, shared) for item in side] for side in sides)
    flags = find_overlaps(evaluated, trained, seed=seed)
    groups = _shared_groups(answers)
    found = Leaks(item_flags=tuple(flags))
    parts = _sides(answers, flags, seed)
    gains: list[Gain] = []
    for place, pair in enumerate(pairs):
        if pair.subject not in {earlier.subject for earlier in pairs[:place]}:
            found.measurements.extend(_fractions(answers, pair, flags, groups, seed))
        if pair.subject in parts:
            rows, gain = _on_clean(answers, pair, flags, parts, seed)
            found.measurements.extend(rows)
            gains += [gain] if gain is not None else []
    found.findings.extend(find_leaks(task, flags, groups, gains))
    return found


def _shared_questions(items: Sequence[Item]) -> set[str]:
    """Questions of choices that stand with more than one right answer, and so say little without their choices."""
    right: dict[str, set[str]] = {}
    for item in items:
        if isinstance(item, ChoiceItem):
            right.setdefault(_folded(item.question), set()).add(_folded(item.choices[item.answer]))
    return {question for question, answers in right.items() if len(answers) > 1}


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _asks(item: Item, shared: Collection[str]) -> str:
    """What an item asks, as far as possible without what was added to it; choices in an order of their own."""
    if isinstance(item, ChoiceItem):
        choices = sorted(item.choices) if _folded(item.question) in shared else ()
        return "\n".join([item.question, *choices])
    if isinstance(item, GenerateItem):
        turns = [turn["content"] for turn in item.messages or () if turn["role"] == "user"]
        return item.prompt if item.prompt is not None else "\n".join(turns)
    if isinstance(item, TokensItem):
        return " ".join(item.tokens)
    if isinstance(item, LabelsItem | ScoreItem):
        return item.text if item.text_pair is None else f"{item.text}\n{item.text_pair}"
    assert isinstance(item, LikelihoodItem)  # there is no other kind of item
    return item.text


def _shared_groups(answers: TaskAnswers) -> Groups | None:
    """How many of the evaluation items' groups stand in the training file too; None where either has no groups."""
    own = {item.group for item in answers.task.items if item.group is not None}
    trained = {item.group for item in answers.task.train_items if item.group is not None}
    return Groups(len(own & trained), len(own)) if own and trained else None


def _fractions(
    answers: TaskAnswers, pair: Pair, flags: Sequence[Overlap], groups: Groups | None, seed: int
) -> Iterator[Measurement]:
    """The share of leaked items, whole, by kind of overlap (which are not exclusive), and of shared groups."""
    items, name = answers.task.items, answers.task.spec.name
    measure = define("leaked_fraction", mean_of_items, proportion=True)
    flagged = {"": [flag.leaked for flag in flags]}
    flagged |= {kind: [kind in flag.kinds for flag in flags] for kind in OVERLAP_KINDS}
    scored = {kind: Scored(measure, item_rows(held), f"leaked_fraction|{RULES}") for kind, held in flagged.items()}
    estimates = estimate_many(scored, seed=seed, resamples=RESAMPLES, groups=groups_of(answers.task, items))
    for kind, interval in estimates.items():
        yield registered(
            pair,
            name,
            "leak",
            measure.name,
            slice=Slice(by="category", value=kind) if kind else None,
            adapted=estimate_of(interval),
            signature=scored[kind].signature,
            missing_reason=_OF_THE_DATA,
        )
    if groups is not None:
        yield registered(
            pair,
            name,
            "leak",
            measure.name,
            slice=Slice(by="group", value="shared"),
            adapted=_group_estimate(groups),
            signature="leaked_fraction|groups that stand in both files",
            missing_reason=_OF_THE_DATA,
        )


def _group_estimate(groups: Groups) -> Estimate:
    share = groups.shared / groups.all
    if groups.all < 2:
        return Estimate(value=share, n=groups.all, method="none: fewer than two groups")
    low, high = wilson(groups.shared, groups.all)
    return Estimate(value=share, low=low, high=high, n=groups.all, method="wilson")


@dataclass(frozen=True)
class _Parts:
    """One checkpoint's statistics over all items, and its numbers over the clean and over the leaked ones."""

    whole: Mapping[str, Scored]
    clean: Side
    leaked: Side


def _sides(answers: TaskAnswers, flags: Sequence[Overlap], seed: int) -> dict[str, _Parts]:
    """By checkpoint; empty where there are no leaked items, or no clean ones, to tell apart."""
    clean, leaked = _places(flags)
    if not clean or not leaked:
        return {}
    found = {}
    for name, asked in answers.asked.items():
        whole = score(answers.task, asked)
        parts = [
            side_of(
                answers.task,
                {("clean", value, metric): _part(scored, places, value) for metric, scored in whole.items()},
                [asked.items[place] for place in places],
                seed=seed,
            )
            for value, places in (("clean", clean), ("leaked", leaked))
        ]
        found[name] = _Parts(whole, *parts)
    return found


def _places(flags: Sequence[Overlap]) -> tuple[list[int], list[int]]:
    leaked = [place for place, flag in enumerate(flags) if flag.leaked]
    return [place for place, flag in enumerate(flags) if not flag.leaked], leaked


def _part(scored: Scored, places: Sequence[int], value: str) -> Scored:
    part = scored.subset(places)
    return replace(part, signature=f"{scored.signature}|{value} items: {RULES}")


def _on_clean(
    answers: TaskAnswers, pair: Pair, flags: Sequence[Overlap], sides: Mapping[str, _Parts], seed: int
) -> tuple[list[Measurement], Gain | None]:
    """Metrics on clean and on leaked items, and what the primary metric's gain loses without the leaked ones."""
    after, before = sides[pair.subject], sides.get(pair.reference)
    asked = answers.asked[pair.subject]
    rows: list[Measurement] = []
    for places, value in zip(_places(flags), ("clean", "leaked"), strict=True):
        part = asked.subset(places)
        unchanged = before is not None and same_outputs(answers.asked[pair.reference].subset(places), part)
        earlier = (before.clean if value == "clean" else before.leaked) if before is not None else None
        later = after.clean if value == "clean" else after.leaked
        rows += compare_sides(answers, pair, earlier, later, part.items, seed=seed, unchanged=unchanged)
    metric = primary_metric(answers.task)
    if before is None or metric not in after.whole or metric not in before.whole:
        return rows, None
    gain = _gain(answers, pair, metric, (before.whole[metric], after.whole[metric]), flags, seed)
    if gain is not None:
        rows.append(_gain_row(answers, gain, after.whole[metric]))
    return rows, gain


def _gain(
    answers: TaskAnswers, pair: Pair, metric: str, whole: tuple[Scored, Scored], flags: Sequence[Overlap], seed: int
) -> Gain | None:
    """Gain of the subject on all and on clean items; their difference has an interval where the metric is additive."""
    clean, _ = _places(flags)
    on_all, on_clean = _change(*whole), _change(*(scored.subset(clean) for scored in whole))
    if on_all is None or on_clean is None:
        return None
    difference = PairedResult(on_all - on_clean, None, None, len(flags), "none: the metric is no function of a sum")
    if whole[0].measure.additive:
        kept = np.array([not flag.leaked for flag in flags])
        before, after = (_all_minus_clean(scored, kept) for scored in whole)
        base, tuned = answers.asked[pair.reference], answers.asked[pair.subject]
        difference = paired(
            before,
            after,
            margin=None,
            seed=seed,
            resamples=RESAMPLES,
            groups=groups_of(answers.task, tuned.items),
            same_outputs=same_outputs(base, tuned),
        )
    return Gain(
        subject=pair.subject,
        reference=pair.reference,
        metric=metric,
        direction=whole[0].measure.direction,
        margin=margin_of(answers.task, metric),
        on_all=on_all,
        on_clean=on_clean,
        clean_items=len(clean),
        difference=difference,
    )


def _change(before: Scored, after: Scored) -> float | None:
    first, second = before.value, after.value
    return None if first is None or second is None else second - first


def _all_minus_clean(scored: Scored, clean: BoolArray) -> Scored:
    """One checkpoint's value on all items minus its value on clean ones, as a measure with statistics of its own."""
    inner, width = scored.measure.aggregate, scored.statistics.shape[1]

    def difference(sums: FloatArray) -> FloatArray:
        return inner(sums[..., :width]) - inner(sums[..., width:])

    measure = Measure(
        name="leaked_gain",
        unit=scored.measure.unit,
        scale="unbounded",
        direction="none",
        additive=True,
        aggregate=difference,
    )
    rows = np.hstack([scored.statistics, scored.statistics * clean[:, None]])
    return Scored(measure, rows, f"leaked_gain|{scored.signature}|{RULES}")


def _gain_row(answers: TaskAnswers, gain: Gain, scored: Scored) -> Measurement:
    delta = delta_of(gain.difference)
    return registered(
        Pair(gain.subject, gain.reference),
        answers.task.spec.name,
        "leak",
        "leaked_gain",
        unit=scored.measure.unit,
        adapted=None
        if delta is None
        else Estimate(value=delta.value, low=delta.low, high=delta.high, n=delta.n, method=gain.difference.method),
        signature=f"leaked_gain|{scored.signature}|{RULES}",
        missing_reason=OF_THE_PAIR,
    )
