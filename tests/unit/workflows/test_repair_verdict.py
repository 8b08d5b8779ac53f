"""The verdict of a scan on made-up scores, and the two passes on a made-up engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Subject
from lorascope.engines.overriding import OverriddenSubject
from lorascope.errors import EvaluationError
from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.registry import define
from lorascope.schema.items import ChoiceAnswer, ChoiceItem, LikelihoodAnswer, LikelihoodItem
from lorascope.schema.repair import RepairAxis, RepairChange, RepairContrast, RepairMetric, RepairRow, RepairValue
from lorascope.schema.repair import RepairVerdict as Said
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.repair_asking import FEWEST_FLIPS, Asking
from lorascope.workflows.repair_scoring import Board, flipped, make_boards, paired_metrics
from lorascope.workflows.repair_variants import CONTROLS, Variant
from lorascope.workflows.repair_verdict import (
    FEWEST_UNITS,
    RELEVANT_SHARE,
    Trial,
    choose,
    contrast,
    judge_repairs,
    lost_on,
    units_of,
    with_front,
)
from lorascope.workflows.scoring import Asked
from lorascope.workflows.watch import Silent

N = 400
LAMBDAS = (0.1, 0.5, 0.9)
VARIANTS = [
    Variant("top", strength, control)
    for strength in LAMBDAS
    for control in (None, "shrink", "neighbour", "random")  # type: ignore[arg-type]
]
TRIALS = [Trial("top", strength) for strength in LAMBDAS]
Means = Callable[[Variant], float]


def board(metric: str, means: Mapping[str, float], *, noise: float = 0.3, n: int = N, seed: int = 0) -> Board:
    """Scores around the given means; items differ, and everybody answers each of them a little differently."""
    generator = np.random.default_rng(seed)
    items = generator.normal(size=n)
    measure = define(metric, mean_of_items)
    scores = {
        name: Scored(measure, item_rows(items + mean + noise * generator.normal(size=n)), metric)
        for name, mean in means.items()
    }
    axis = RepairAxis(tasks=["t"], metric=metric, unit=measure.unit, scale=measure.scale, direction=measure.direction)
    return Board(axis, scores, None, 0.1)


def judge(
    retention: Means,
    target: Means | None = None,
    *,
    lost: float = 1.0,
    metric: str = "gold_margin",
    trials: Sequence[Trial] = TRIALS,
    absent: Sequence[str] = (),
    n: int = N,
    **options: Any,
) -> tuple[Said, list[RepairContrast]]:
    """The verdict where the base stands ``lost`` above the adapted checkpoint, which stands at 0.

    ``absent`` names variants that could not be measured.
    """
    sign = -1.0 if metric == "bits_per_byte" else 1.0
    measured = [each for each in VARIANTS if each.name not in absent]
    means = {"base": lost * sign, "adapted": 0.0, **{each.name: sign * retention(each) for each in measured}}
    kept = board(metric, means, n=n, **options)
    on_target = None
    if target is not None:
        on_target = board("gold_margin", {"adapted": 0.0} | {each.name: target(each) for each in VARIANTS}, seed=1)
    metrics = paired_metrics(kept, list(kept.scores), "adapted", seed=0)
    forgotten = metrics["base"].change
    loss = lost_on(kept.axis, forgotten)
    margin = None if loss is None else RELEVANT_SHARE * loss
    contrasts = contrast(kept, on_target, trials, margin=margin, seed=0)
    recovered = {name: found.change for name, found in metrics.items() if found.change is not None}
    verdict = judge_repairs(
        kept.axis, forgotten, contrasts, recovered, trials, intruders=3, margin=margin, units=units_of(kept, n)
    )
    return verdict, contrasts


def better_than_controls(variant: Variant) -> float:
    """Scaling intruders to a tenth brings back 0.8 of what was lost, its controls 0.3."""
    recovered = 0.8 if variant.control is None else 0.3
    return recovered * (1 - variant.strength)


def as_good_as_controls(variant: Variant) -> float:
    return 0.8 * (1 - variant.strength)


@pytest.mark.parametrize("metric", ["gold_margin", "bits_per_byte"])
def test_intruders_that_recover_more_than_every_control_explain(metric: str) -> None:
    verdict, contrasts = judge(better_than_controls, lambda variant: 0.0, metric=metric)
    assert verdict.outcome == "explains"
    assert verdict.best == "top 0.1"
    assert verdict.contrast_margin == pytest.approx(RELEVANT_SHARE, rel=0.1)
    assert len(contrasts) == len(LAMBDAS) * len(CONTROLS)
    assert all(each.target_kept for each in contrasts)
    by_strength = {each.strength: each.p_adjusted for each in contrasts}
    assert by_strength[0.1] is not None
    assert by_strength[0.1] < 0.01
    assert len({each.p_adjusted for each in contrasts if each.strength == 0.1}) == 1


@pytest.mark.parametrize("metric", ["gold_margin", "bits_per_byte"])
def test_intruders_that_recover_what_a_shrink_recovers_explain_nothing(metric: str) -> None:
    verdict, contrasts = judge(as_good_as_controls, lambda variant: 0.0, metric=metric)
    assert verdict.outcome == "no_more"
    assert verdict.against == "shrink"
    assert all(each.p_adjusted is not None and each.p_adjusted > 0.05 for each in contrasts)


@pytest.mark.parametrize("strong", ["shrink", "neighbour", "random"])
def test_one_control_that_does_as_well_is_enough_against_it(strong: str) -> None:
    verdict, _ = judge(lambda each: 0.8 * (1 - each.strength) if each.control in (None, strong) else 0.0)
    assert (verdict.outcome, verdict.against) == ("no_more", strong)


def test_what_is_bought_with_the_target_does_not_explain() -> None:
    verdict, contrasts = judge(better_than_controls, lambda each: -0.5 if each.control is None else 0.0)
    assert verdict.outcome == "undecided"
    assert not any(each.target_kept for each in contrasts)


def test_few_noisy_items_decide_nothing() -> None:
    verdict, _ = judge(lambda each: 0.3 if each.control is None else 0.1, lost=1.2, noise=1.5, n=30)
    assert verdict.outcome == "undecided"
    assert verdict.items == 30


def test_recovering_more_than_the_controls_but_nothing_at_all_does_not_explain() -> None:
    verdict, _ = judge(lambda each: 0.0 if each.control is None else -0.5)
    assert verdict.outcome == "undecided"


@pytest.mark.parametrize("lost", [0.0, -0.5])
def test_where_nothing_was_lost_there_is_nothing_to_explain(lost: float) -> None:
    verdict, _ = judge(better_than_controls, lost=lost)
    assert verdict.outcome == "nothing_forgotten"
    assert verdict.contrast_margin is None
    assert verdict.forgotten is not None


AXIS = RepairAxis(tasks=["t"], metric="gold_margin", unit="nats", scale="unbounded", direction="higher")
LOSS = RepairChange(value=1.0, low=0.5, high=1.5, n=90)


def without_contrasts(trials: Sequence[Trial], recovered: Mapping[str, RepairChange], **changed: Any) -> Said:
    given: dict[str, Any] = {"intruders": 3, "margin": 0.2, "units": 90, **changed}
    return judge_repairs(AXIS, LOSS, [], recovered, trials, **given)


def test_no_intruders_and_no_measure_have_words_of_their_own() -> None:
    assert without_contrasts([], {}, intruders=0).outcome == "no_intruders"
    nothing = judge_repairs(None, None, [], {}, TRIALS, intruders=3, margin=None, units=0)
    assert nothing.outcome == "not_measured"


def test_no_effect_is_said_only_where_the_first_pass_dropped_every_repair() -> None:
    dropped = [replace(each, screened_out=True) for each in TRIALS]
    verdict = without_contrasts(dropped, {})
    assert (verdict.outcome, verdict.lambdas, verdict.reasons) == ("no_effect", (0.1, 0.9), [])
    verdict = without_contrasts([*dropped[:2], TRIALS[2]], {})
    assert (verdict.outcome, verdict.lambdas, verdict.reasons) == ("undecided", None, ["none_measured"])
    verdict = without_contrasts(TRIALS, {"top 0.1": LOSS})
    assert (verdict.outcome, verdict.lambdas, verdict.reasons) == ("undecided", (0.1, 0.1), ["no_controls"])
    assert verdict.missing_controls == list(CONTROLS)
    assert without_contrasts([], {}).outcome == "undecided"


def test_a_control_measured_at_one_strength_alone_cannot_rule_intruders_out() -> None:
    """At 0.9 alone the neighbour control does as well; at 0.1 and 0.5 it was never made."""

    def ahead_of_others(each: Variant) -> float:
        return 0.5 * (1 - each.strength) if each.control in (None, "neighbour") else 0.0

    absent = ["top 0.1, neighbour", "top 0.5, neighbour"]
    verdict, _ = judge(ahead_of_others, absent=absent)
    assert (verdict.outcome, verdict.against, verdict.best) == ("undecided", None, "top 0.1")
    assert verdict.missing_controls == ["neighbour"]
    assert judge(ahead_of_others)[0].against == "neighbour"


@pytest.mark.parametrize("control", CONTROLS)
def test_a_missing_control_keeps_intruders_from_explaining(control: str) -> None:
    absent = [f"top {strength}, {control}" for strength in LAMBDAS]
    verdict, _ = judge(better_than_controls, absent=absent)
    assert (verdict.outcome, verdict.missing_controls) == ("undecided", [control])


def test_neighbours_that_cannot_be_made_are_not_missed_and_do_not_count() -> None:
    trials = [replace(each, neighbours_count=False) for each in TRIALS]
    impossible = [f"top {strength}, neighbour" for strength in LAMBDAS]
    verdict, _ = judge(better_than_controls, absent=impossible, trials=trials)
    assert (verdict.outcome, verdict.missing_controls) == ("explains", [])

    def neighbours_as_good(each: Variant) -> float:
        return better_than_controls(replace(each, control=None) if each.control == "neighbour" else each)

    assert judge(neighbours_as_good)[0].against == "neighbour"
    verdict, contrasts = judge(neighbours_as_good, trials=trials)
    assert verdict.outcome == "explains"
    assert {each.control: each.counts for each in contrasts} == {"shrink": True, "neighbour": False, "random": True}
    assert all((each.p_adjusted is None) == (each.control == "neighbour") for each in contrasts)


def test_a_repair_that_lengthens_the_change_explains_nothing() -> None:
    """Its controls stretch ΔW, so they forget more than the adapted checkpoint does."""
    verdict, _ = judge(better_than_controls, trials=[replace(each, grew=True) for each in TRIALS])
    assert (verdict.outcome, verdict.reasons) == ("undecided", ["grew"])
    trials = [replace(TRIALS[0], grew=True), *TRIALS[1:]]
    verdict, _ = judge(better_than_controls, trials=trials)
    assert (verdict.outcome, verdict.best) == ("explains", "top 0.5")


@pytest.mark.parametrize("groups", [None, FEWEST_UNITS - 1])
def test_below_twenty_units_nothing_is_decided(groups: int | None) -> None:
    n = FEWEST_UNITS - 1 if groups is None else N
    kept = board("gold_margin", {"base": 1.0, "adapted": 0.0}, n=n)
    if groups is not None:
        kept = replace(kept, groups=[str(place % groups) for place in range(n)])
    assert units_of(kept, n) == FEWEST_UNITS - 1
    verdict = without_contrasts(TRIALS, {}, units=units_of(kept, n))
    assert (verdict.outcome, verdict.reasons) == ("undecided", ["few_units"])
    for means in (better_than_controls, as_good_as_controls):
        assert judge(means, n=FEWEST_UNITS - 1)[0].outcome == "undecided"
    assert units_of(replace(kept, groups=[None, None, *(["a"] * (n - 2))]), n) == 3


def test_that_intruders_do_no_more_needs_a_strong_enough_repair() -> None:
    weak = [each for each in TRIALS if each.strength > 0.5]
    verdict, _ = judge(as_good_as_controls, trials=weak)
    assert (verdict.outcome, verdict.lambdas, verdict.reasons) == ("undecided", (0.9, 0.9), ["weak_lambdas"])
    assert judge(as_good_as_controls)[0].lambdas == (0.1, 0.9)
    assert judge(as_good_as_controls, trials=TRIALS[1:2])[0].outcome == "no_more"


def test_no_two_strengths_have_one_name() -> None:
    names = [Variant("top", strength).name for strength in (0.1, 0.1 + 1e-9, 0.30000000000000004, 0.3, 1e-7, 1.0, 0.0)]
    assert names[0] == "top 0.1"
    assert names[-2:] == ["top 1", "top 0"]
    assert len(set(names)) == len(names)
    assert all(float(name.split()[1]) == value for name, value in zip(names[1:3], (0.1 + 1e-9, 0.1 + 0.2), strict=True))


def test_p_values_are_adjusted_over_repairs_and_not_over_controls() -> None:
    _, contrasts = judge(lambda each: 0.06 if each.control is None and each.strength == 0.1 else 0.0)
    for strength in LAMBDAS:
        found = [each for each in contrasts if each.strength == strength]
        largest = max(each.retention.p_value or 0.0 if each.retention.value > 0 else 1.0 for each in found)
        assert found[0].p_adjusted is not None
        assert largest <= found[0].p_adjusted <= min(1.0, len(LAMBDAS) * largest) + 1e-12


# --- front and advice ---


def row(name: str, retention: float | None, target: float | None, **changed: Any) -> RepairRow:
    """A variant whose change on both axes is known to ±0.05 against an adapted checkpoint at (0, 0)."""

    def metric(value: float | None) -> RepairMetric | None:
        if value is None:
            return None
        axis = RepairAxis(tasks=["t"], metric="accuracy", unit="fraction", scale="0-1", direction="higher")
        change = RepairChange(value=value, low=value - 0.05, high=value + 0.05, n=100, margin=0.06)
        return RepairMetric(axis=axis, value=RepairValue(value=value, n=100), change=change)

    values = {"family": "strength", "strength": 0.5, "retention": metric(retention), "target": metric(target)}
    return RepairRow(name=name, **{**values, **changed})


def test_the_front_holds_what_nothing_surpasses() -> None:
    rows = with_front(
        [row("a", 0.3, 0.0), row("b", 0.2, 0.1), row("c", 0.2, 0.05), row("d", None, 0.9), row("e", 0.3, 0.0)]
    )
    assert [each.name for each in rows if each.front] == ["a", "b", "e"]


def test_the_advice_recovers_most_without_costing_the_target() -> None:
    rows = with_front(
        [
            row("base", 0.5, -0.005, strength=0.0),
            row("costly", 0.4, -0.02),
            row("control", 0.35, -0.004, family="all", control="shrink"),
            row("good", 0.3, 0.0, family="all"),
            row("less", 0.2, 0.01),
        ]
    )
    chosen = choose(rows)
    assert chosen is not None
    assert chosen.name == "good"


def test_no_advice_on_a_handful_of_items() -> None:
    good = row("good", 0.3, 0.0)
    assert choose(with_front([good])) is not None
    assert good.retention is not None
    assert good.retention.change is not None
    few = good.retention.change.model_copy(update={"n": 6})
    assert choose([good.model_copy(update={"retention": good.retention.model_copy(update={"change": few})})]) is None


def test_no_advice_without_a_sure_gain_or_a_target() -> None:
    assert choose(with_front([row("unsure", 0.04, 0.0)])) is None
    assert choose(with_front([row("blind", 0.4, None)])) is None


# --- the two passes ---


class MadeUpEngine:
    """Answers as it is told: by the name of the subject or of the variant, right or wrong for each item."""

    def __init__(self, right: Mapping[str, Callable[[int], bool]]) -> None:
        self.right = right
        self.asked: list[tuple[str, int]] = []

    def answer(
        self, subject: Subject, task: SuiteTask, items: Sequence[ChoiceItem], report: Callable[[int, int], None]
    ) -> list[ChoiceAnswer]:
        assert isinstance(subject, OverriddenSubject)
        name = subject.content_hash if subject.content_hash in self.right else next(iter(subject.overrides()))
        self.asked.append((str(name), len(items)))
        if str(name) not in self.right:
            raise EvaluationError("values that are not finite")
        report(len(items), len(items))
        return [said(item, self.right[str(name)](int(item.question))) for item in items]


class MadeUpChanges:
    """Variants without weights: what is put into the model is the variant's name."""

    def definition(self, variant: Variant, **settings: Any) -> dict[str, Any]:
        return {"name": variant.name}

    def overrides(self, variant: Variant) -> list[str]:
        return [variant.name]


def said(item: ChoiceItem, right: bool) -> ChoiceAnswer:
    best = item.answer if right else 1 - item.answer
    return ChoiceAnswer(logprobs=tuple(0.0 if place == best else -1.0 for place in (0, 1)))


def asking(
    right: Mapping[str, Callable[[int], bool]], variants: Sequence[Variant], flips: int, *, role: Any = "retention"
) -> Asking:
    """The base has every item right, the adapted checkpoint has the first ``flips`` of fifty wrong."""
    items = tuple(
        ChoiceItem(item_id=str(n), question=str(n), context=str(n), choices=("a", "b"), answer=n % 2) for n in range(50)
    )
    spec = SuiteTask(name="kept", kind="choice", role=role, data="x")
    answers = TaskAnswers(LoadedTask(spec, "choice", items, (), (), "f"))
    answers.asked["base"] = Asked(items, [said(item, True) for item in items])
    answers.asked["adapted"] = Asked(items, [said(item, int(item.question) >= flips) for item in items])
    original = Subject(name="adapted", path=None, kind="adapter", tokenizer_path=None, content_hash="h")  # type: ignore[arg-type]
    return Asking(
        engine=MadeUpEngine(right),  # type: ignore[arg-type]
        original=original,
        base="base",
        changes=MadeUpChanges(),  # type: ignore[arg-type]
        variants=variants,
        tasks={"kept": answers},
        pace=None,
        base_is_strength_0=True,
        watch=Silent(),
        settings={},
    )


def test_what_turns_no_flipped_item_is_dropped_with_its_controls_alone() -> None:
    idle, useful, useless = Variant("strength", 0.9), Variant("top", 0.5), Variant("top", 0.9)
    variants = [idle, useful, Variant("top", 0.5, "shrink"), useless, Variant("top", 0.9, "shrink")]
    flips = FEWEST_FLIPS + 5
    right = {each.name: (lambda n: n >= flips) for each in variants} | {useful.name: lambda n: n >= flips - 1}
    run = asking(right, variants, flips)
    run.ask_all()
    assert run.flipped_items == flips
    assert run.dropped == {"strength 0.9", "top 0.9", "top 0.9, shrink"}
    assert set(run.tasks["kept"].asked) == {"base", "adapted", "top 0.5", "top 0.5, shrink"}
    assert [count for _, count in run.engine.asked] == [flips] * 5 + [50] * 2  # type: ignore[attr-defined]


def test_with_few_flips_everything_is_asked_everything() -> None:
    variant = Variant("strength", 0.9)
    run = asking({variant.name: lambda n: n >= 3}, [variant], 3)
    run.ask_all()
    assert run.flipped_items is None
    assert run.dropped == set()
    assert len(run.tasks["kept"].asked[variant.name].answers) == 50


def likelihoods() -> TaskAnswers:
    """A retention task without right and wrong."""
    items = tuple(LikelihoodItem(item_id=str(n), text=f"text {n}") for n in range(3))
    task = LoadedTask(SuiteTask(name="fluent", kind="likelihood", role="retention", data="x"), "likelihood", items,
                      (), (), "f")  # fmt: skip
    answer = LikelihoodAnswer(logprob=-1.0, tokens=1, bytes=6)
    return TaskAnswers(task, asked={name: Asked(items, [answer] * 3) for name in ("base", "adapted")})


@pytest.mark.parametrize("kind", ["likelihood", "few flips", "none"])
def test_flips_of_the_target_alone_drop_nothing_where_retention_is_measured(kind: str) -> None:
    """Retention without right and wrong, or with hardly a flip, has not been looked at by the first pass."""
    flips = FEWEST_FLIPS + 5
    idle = Variant("top", 0.5)
    run = asking({idle.name: lambda n: n >= flips}, [idle], flips, role="target")
    if kind == "likelihood":
        run.tasks["fluent"] = likelihoods()
    elif kind == "few flips":
        other = asking({}, [], 1).tasks["kept"]
        run.tasks["other"] = replace(other, task=replace(other.task, spec=other.task.spec.model_copy(
            update={"name": "other"})))  # fmt: skip
    dropped = run._first_pass([idle]) == []
    assert dropped == (kind == "none")
    assert run.dropped == ({idle.name} if kind == "none" else set())


def test_strength_0_is_asked_where_it_is_not_the_base() -> None:
    run = asking({"strength 0": lambda n: n % 2 == 0}, [Variant("strength", 0.0)], 30)
    run.base_is_strength_0 = False
    run.ask_all()
    assert run.tasks["kept"].asked["strength 0"] is not run.tasks["kept"].asked["base"]


def test_the_ends_of_the_strength_scan_are_not_asked() -> None:
    ends = [Variant("strength", 0.0), Variant("strength", 1.0)]
    run = asking({}, ends, 30)
    run.ask_all()
    asked = run.tasks["kept"].asked
    assert asked["strength 0"] is asked["base"]
    assert asked["strength 1"] is asked["adapted"]


def test_a_variant_that_cannot_answer_is_named_and_the_others_go_on() -> None:
    broken, fine = Variant("strength", 1.25), Variant("strength", 0.5)
    run = asking({fine.name: lambda n: True}, [broken, fine], 30)
    run.ask_all()
    assert run.failed == {broken.name: "values that are not finite"}
    assert broken.name not in run.dropped
    assert fine.name in run.tasks["kept"].asked


def test_flips_and_boards_come_from_the_answers() -> None:
    variant = Variant("strength", 0.5)
    run = asking({variant.name: lambda n: n >= 12}, [variant], 25)
    run.ask_all()
    answers = run.tasks["kept"]
    assert flipped(answers, "base", "adapted") == list(range(25))
    assert flipped(answers, "nobody", "adapted") == []
    boards = make_boards([answers], "base", "adapted")
    assert boards.target is None
    assert boards.retention is not None
    assert boards.retention.axis.metric == "gold_margin"
    rates = {each.axis.metric: each.scores[variant.name].value for each in boards.others}
    assert rates == {"forgotten_rate": pytest.approx(12 / 50), "retained_fraction": pytest.approx((38 - 25) / 25)}


def test_equal_answers_are_told_from_answers_that_score_alike() -> None:
    """Both variants score as the adapted checkpoint does; only one of them says the same in every item."""
    same, alike = Variant("strength", 1.0), Variant("strength", 0.5)
    run = asking({alike.name: lambda n: n >= 9}, [same, alike], 9)
    run.ask_all()
    answers = run.tasks["kept"]
    shifted = [ChoiceAnswer(logprobs=tuple(each - 1.0 for each in one.logprobs))
               for one in answers.asked[alike.name].answers if isinstance(one, ChoiceAnswer)]  # fmt: skip
    answers.asked[alike.name] = replace(answers.asked[alike.name], answers=shifted)
    kept = make_boards([answers], "base", "adapted").retention
    assert kept is not None
    assert kept.same_outputs(same.name, "adapted")
    assert not kept.same_outputs(alike.name, "adapted")
    metrics = paired_metrics(kept, [same.name, alike.name], "adapted", seed=0)
    changes = [metrics[each.name].change for each in (same, alike)]
    assert [change and change.value for change in changes] == [0.0, 0.0]
    assert [change and (change.low, change.high) for change in changes] == [(0.0, 0.0), (None, None)]


class Listener(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text.replace("\u00a0", " "))


@pytest.mark.parametrize(("pace", "said_so"), [(None, []), (0.001, []), (10.0, ["8 min 20 s", "4 min 10 s"])])
def test_a_long_scan_says_how_long_it_will_take(pace: float | None, said_so: list[str]) -> None:
    """Two variants: 25 flipped items first, then, of the one that turned something, the 25 others."""
    idle, useful = Variant("strength", 0.9), Variant("strength", 0.5)
    run = asking({idle.name: lambda n: n >= 25, useful.name: lambda n: True}, [idle, useful], 25)
    run.pace, run.watch = pace, Listener()
    run.ask_all()
    times = [each.partition("about ")[2].partition(" at")[0] for each in run.watch.heard]
    assert times == said_so
