"""The verdict in words says what the measurements say: no more, and never less than undecided."""

from __future__ import annotations

from types import ModuleType

import pytest

from lorascope.report.sentences import subject_verdicts
from lorascope.report.verdicts import SubjectVerdict
from lorascope.schema.comparison import Comparison, Finding, Missing, TaskInfo

REASSURING = ("kept", "unchanged", "no change", "nothing lost", "equivalent", "no loss")


def texts_of(verdict: SubjectVerdict, topic: str) -> str:
    return " ".join(f"{each.lead} {each.text}" for each in verdict.sentences if each.topic == topic)


def one_task(factory: ModuleType, base: float | None, adapted: float | None, role: str, **values: object) -> Comparison:
    task = TaskInfo(name="quiz", kind="choice", role=role, items=96, fingerprint="0", metrics=["accuracy"])
    found = factory.measurement(factory.LORA, "accuracy", base, adapted, task="quiz", **values)
    start = factory.checkpoint(factory.BASE, role="base", kind="model", method=None)
    return factory.comparison([start, factory.checkpoint(factory.LORA)], tasks=[task], measurements=[found])


@pytest.mark.parametrize(
    ("adapted", "spread", "target", "retention"),
    [
        (0.6, 0.03, "improved", "improved"),
        (0.4, 0.03, "regressed", "regressed"),
        (0.5, 0.01, "equivalent", "equivalent"),
        (0.49, 0.08, "inconclusive", "inconclusive"),
    ],
)
def test_states_follow_the_verdict(
    factory: ModuleType, adapted: float, spread: float, target: str, retention: str
) -> None:
    aimed = subject_verdicts(one_task(factory, 0.5, adapted, "target", spread=spread))[0]
    kept = subject_verdicts(one_task(factory, 0.5, adapted, "retention", spread=spread))[0]
    assert (aimed.target.state, kept.retention.state) == (target, retention)
    assert aimed.retention.state == kept.target.state == "unmeasured"


def test_inconclusive_is_undecided_and_names_the_items_that_would_decide(factory: ModuleType) -> None:
    verdict = subject_verdicts(one_task(factory, 0.5, 0.499, "retention", spread=0.08))[0]
    said = f"{verdict.retention.text} {texts_of(verdict, 'retention')}".lower()
    assert "undecided" in said
    assert "about 1,544 items would decide it" in said
    assert not any(word in said for word in REASSURING)


def test_inconclusive_without_a_known_number_still_asks_for_more(factory: ModuleType) -> None:
    comparison = one_task(factory, 0.5, 0.499, "retention", spread=0.08)
    delta = comparison.measurements[0].delta
    assert delta is not None
    delta.needed_n = None
    assert "more items are needed" in texts_of(subject_verdicts(comparison)[0], "retention")


def test_a_task_that_the_base_cannot_do_has_a_value_and_a_reason(labels: Comparison) -> None:
    for verdict in subject_verdicts(labels):
        assert verdict.target.state == "absolute"
        assert "no trained classification head" in texts_of(verdict, "target")
        assert "CKA 0." in texts_of(verdict, "retention")


def test_firmness_that_falls_is_said_even_where_accuracy_is_undecided(causal: Comparison) -> None:
    lora, full = subject_verdicts(causal)
    assert (lora.retention.state, full.retention.state) == ("weakened", "regressed")
    assert "gold_margin 1.420 → 1.303" in texts_of(lora, "retention")
    assert "undecided" in texts_of(lora, "retention")


def test_one_lost_task_is_a_loss_and_one_undecided_leaves_all_undecided(factory: ModuleType) -> None:
    def state(*adapted: float) -> str:
        comparison = one_task(factory, 0.5, adapted[0], "retention", spread=0.015)
        for place, value in enumerate(adapted[1:]):
            comparison.tasks.append(comparison.tasks[0].model_copy(update={"name": f"quiz{place}"}))
            comparison.measurements.append(
                factory.measurement(factory.LORA, "accuracy", 0.5, value, task=f"quiz{place}", spread=0.015)
            )
        return subject_verdicts(comparison)[0].retention.state

    assert state(0.5, 0.5) == "equivalent"
    assert state(0.5, 0.49) == "inconclusive"
    assert state(0.6, 0.49) == "inconclusive"
    assert state(0.6, 0.5) == "improved"
    assert state(0.6, 0.4) == "regressed"


@pytest.mark.parametrize("role", ["target", "retention"])
def test_a_task_without_a_measurement_keeps_the_rest_from_being_kept(factory: ModuleType, role: str) -> None:
    comparison = one_task(factory, 0.5, 0.5, role, spread=0.01)
    comparison.tasks.append(comparison.tasks[0].model_copy(update={"name": "lost"}))
    verdict = subject_verdicts(comparison)[0]
    assert (verdict.target if role == "target" else verdict.retention).state == "inconclusive"
    assert "lost was not measured" in texts_of(verdict, role)


def test_a_metric_without_direction_gives_no_verdict(factory: ModuleType) -> None:
    verdict = subject_verdicts(one_task(factory, 0.5, 0.9, "target", direction="none"))[0]
    assert verdict.target.state == "unmeasured"


def test_a_difference_without_verdict_is_undecided(factory: ModuleType) -> None:
    comparison = one_task(factory, 0.5, 0.6, "target")
    delta = comparison.measurements[0].delta
    assert delta is not None
    delta.verdict, delta.low, delta.high = None, None, None
    verdict = subject_verdicts(comparison)[0]
    assert verdict.target.state == "inconclusive"
    assert "(no interval)" in texts_of(verdict, "target")


@pytest.mark.parametrize(
    ("direction", "gap", "said"), [("lower", 0.2, False), ("lower", -0.2, True), ("higher", 0.2, True)]
)
def test_gaps_are_bad_only_towards_the_training_data(
    factory: ModuleType, direction: str, gap: float, said: bool
) -> None:
    comparison = one_task(factory, 0.5, 0.5, "target", direction=direction)
    comparison.measurements.append(
        factory.measurement(factory.LORA, "accuracy_gap", None, gap, task="quiz", area="gap", direction="none")
    )
    assert ("better on the training data" in texts_of(subject_verdicts(comparison)[0], "training")) is said


def test_many_tasks_are_counted_and_named(factory: ModuleType) -> None:
    comparison = one_task(factory, 0.5, 0.6, "target")
    for place, value in enumerate((0.6, 0.4, 0.51, 0.6)):
        comparison.tasks.append(comparison.tasks[0].model_copy(update={"name": f"quiz{place}"}))
        comparison.measurements.append(
            factory.measurement(factory.LORA, "accuracy", 0.5, value, task=f"quiz{place}", spread=0.03)
        )
    verdict = subject_verdicts(comparison)[0]
    assert verdict.target.state == "mixed"
    said = texts_of(verdict, "target")
    assert "1 of 5 got worse quiz1." in said
    assert "3 of 5 improved quiz, quiz0, quiz3." in said
    assert "1 of 5 undecided quiz2." in said


def test_sets_stand_in_where_the_whole_was_not_measured(factory: ModuleType) -> None:
    comparison = one_task(factory, 0.5, 0.6, "target", part=("split", "validation 1"))
    verdict = subject_verdicts(comparison)[0]
    assert verdict.target.state == "improved"
    assert "quiz (validation 1) improved" in texts_of(verdict, "target")


def test_overfitting_and_its_absence(causal: Comparison) -> None:
    lora, full = subject_verdicts(causal)
    assert "Training over-fitted" in texts_of(full, "training")
    assert "from step 280 on" in texts_of(full, "training")
    assert "rougeL is better on the training data" in texts_of(full, "training")
    assert "No lasting rise" in texts_of(lora, "training")
    assert "over-fitted" not in texts_of(lora, "training")


def test_readings_per_validation_set_are_told_apart(factory: ModuleType) -> None:
    comparison = one_task(factory, 0.5, 0.6, "target")
    common = {"area": "curves", "unit": "steps", "scale": "unbounded", "direction": "none", "spread": 0.0}
    comparison.measurements += [
        factory.measurement(factory.LORA, "best_step", None, 40.0, part=("split", "easy"), **common),
        factory.measurement(factory.LORA, "best_step", None, 20.0, part=("split", "hard"), **common),
        factory.measurement(factory.LORA, "overfit_step", None, 30.0, part=("split", "hard"), **common),
    ]
    easy, hard = [each for each in subject_verdicts(comparison)[0].sentences if each.topic == "training"]
    assert (easy.lead, easy.tone) == ("easy", "neutral")
    assert (hard.lead, hard.tone) == ("hard · Training over-fitted", "bad")
    assert "step 20." in hard.text


def test_weights(causal: Comparison, weights_only: Comparison) -> None:
    lora, full = subject_verdicts(causal)
    assert "21 intruder dimensions in the 28 modules judged" in texts_of(lora, "weights")
    assert "No intruder dimensions" in texts_of(full, "weights")
    assert "1.8\u00a0%" in texts_of(subject_verdicts(weights_only)[0], "weights")


def test_an_unknown_intruder_count_is_not_none_found(weights_only: Comparison) -> None:
    weights_only.weights["lora-r16"].totals["intruder_count"] = None
    assert "ntruder" not in texts_of(subject_verdicts(weights_only)[0], "weights")


def test_without_a_task_the_weights_come_first_and_nothing_else_is_denied(weights_only: Comparison) -> None:
    (verdict,) = subject_verdicts(weights_only)
    assert not verdict.asked
    assert verdict.target.state == verdict.retention.state == "unmeasured"
    assert [each.topic for each in verdict.sentences] == ["weights", "training"]
    assert verdict.headline == "Weights moved by 1.8\u00a0% · 21 intruder dimensions"
    assert "No training log was found beside the adapter." in texts_of(verdict, "training")
    weights_only.missing = [Missing(area="weights", reason="pickled weights")]
    weights_only.weights = {}
    (bare,) = subject_verdicts(weights_only)
    assert "not analysed. Pickled weights." in texts_of(bare, "weights")
    assert (bare.clauses, bare.headline) == ((), "")


@pytest.mark.parametrize(
    ("level", "said"),
    [(None, "21 intruder dimensions"), (21.0, "no more than random (21)"), (4.0, "a random update has 4")],
)
def test_the_headline_of_weights_stands_beside_chance(weights_only: Comparison, level: float | None, said: str) -> None:
    weights_only.weights["lora-r16"].totals["null_intruder_count"] = level
    assert subject_verdicts(weights_only)[0].headline.endswith(said)


def test_a_task_that_was_asked_and_not_measured_says_so_with_the_reason(factory: ModuleType) -> None:
    comparison = one_task(factory, 0.5, 0.6, "retention")
    comparison.missing = [Missing(area="task", reason="the task file is empty")]
    verdict = subject_verdicts(comparison)[0]
    assert verdict.asked
    assert texts_of(verdict, "target").strip() == "No target task was measured. The task file is empty."


def test_chinese_says_the_same_states(causal: Comparison) -> None:
    english, chinese = subject_verdicts(causal, "en"), subject_verdicts(causal, "zh")
    assert [v.target.state for v in english] == [v.target.state for v in chinese]
    assert "尚无定论" in texts_of(chinese[0], "retention")
    assert "1,544" in texts_of(chinese[0], "retention")
    assert chinese[1].headline == "目标任务有提升 · 通用能力受损"


def test_findings_change_no_verdict(causal: Comparison) -> None:
    before = subject_verdicts(causal)
    causal.findings.append(Finding(id="x", severity="critical", area="task", subject="lora-r16", title="terrible"))
    assert subject_verdicts(causal) == before


def test_a_base_that_guesses_is_never_said_to_have_kept_its_ability(causal):
    def undo(found):
        name = found.metric == "retained_fraction"
        return found.model_copy(update={"adapted": None, "missing_reason": "at chance"}) if name else found

    retention = {task.name for task in causal.tasks if task.role == "retention"}

    def settle(found):
        if found.task not in retention or found.delta is None:
            return found
        return found.model_copy(update={"delta": found.delta.model_copy(update={"verdict": "equivalent"})})

    settled = causal.model_copy(update={"measurements": [settle(found) for found in causal.measurements]})
    assert {verdict.retention.state for verdict in subject_verdicts(settled)} == {"equivalent"}
    guessing = settled.model_copy(update={"measurements": [undo(found) for found in settled.measurements]})
    assert {verdict.retention.state for verdict in subject_verdicts(guessing)} == {"guessing"}


def guessing_beside(factory: ModuleType, value: float) -> Comparison:
    """A retention task that moves to ``value``, and one that improves although its base guesses."""
    comparison = one_task(factory, 0.5, value, "retention", spread=0.01)
    comparison.tasks.append(comparison.tasks[0].model_copy(update={"name": "zh", "metrics": ["gold_margin"]}))
    lead = factory.measurement(factory.LORA, "gold_margin", -8.8, -6.8, task="zh", scale="unbounded", unit="nats")
    share = factory.measurement(factory.LORA, "retained_fraction", None, None, task="zh", reason="not above chance")
    comparison.measurements += [lead, share]
    return comparison


def test_what_a_guessing_base_seems_to_gain_is_no_ability(factory: ModuleType) -> None:
    kept = subject_verdicts(guessing_beside(factory, 0.5))[0]
    assert kept.retention.state == "equivalent"
    assert "at 1 of 2 tasks; at the rest the base cannot be told from guessing" in kept.retention.text
    said = texts_of(kept, "retention")
    assert "On zh the base cannot be told from guessing" in said
    assert "zh improved" not in said
    assert "Certainty of the right answer on zh improved" not in said
    assert subject_verdicts(guessing_beside(factory, 0.6))[0].retention.state == "improved"
    assert subject_verdicts(guessing_beside(factory, 0.4))[0].retention.state == "regressed"


@pytest.mark.parametrize(("before", "after", "state"), [(16.3, 14.3, "guessing"), (16.3, 4.0, "improved"),
                                                        (4.2, 9.0, "regressed"), (4.2, 4.0, "improved")])  # fmt: skip
def test_text_that_neither_can_predict_is_no_ability(
    factory: ModuleType, before: float, after: float, state: str
) -> None:
    comparison = one_task(factory, 0.5, 0.5, "retention")
    comparison.tasks[0].metrics = ["bits_per_byte"]
    bits = factory.measurement(
        factory.LORA, "bits_per_byte", before, after, task="quiz", scale="unbounded", unit="bits", direction="lower"
    )
    comparison.measurements = [bits]
    verdict = subject_verdicts(comparison)[0]
    assert verdict.retention.state == state
    assert ("equal odds for every byte" in texts_of(verdict, "retention")) is (state == "guessing")


def test_guessing_is_no_all_clear_in_either_language(factory: ModuleType) -> None:
    comparison = guessing_beside(factory, 0.5)
    comparison.tasks, comparison.measurements = comparison.tasks[1:], comparison.measurements[1:]
    english, chinese = (subject_verdicts(comparison, language)[0].retention for language in ("en", "zh"))
    assert english.state == chinese.state == "guessing"
    assert english.text == "General ability: the base cannot be told from guessing"
    assert "无从遗忘" not in chinese.text


@pytest.mark.parametrize(
    ("gap", "base", "adapted", "said"),
    [(0.01, 0.0, 0.6, False), (0.03, 0.0, 0.5, True), (0.2, 0.19, 0.5, False), (0.2, 0.19, 0.6, True)],
)
def test_a_gap_is_over_fitting_from_the_margin_on_and_beyond_the_bases(
    factory: ModuleType, gap: float, base: float, adapted: float, said: bool
) -> None:
    comparison = one_task(factory, 0.5, adapted, "target", spread=0.01)
    found = factory.measurement(
        factory.LORA, "accuracy_gap", base, gap, task="quiz", area="gap", direction="none", spread=0.001, paired=False
    )
    comparison.measurements.append(found)
    assert ("better on the training data" in texts_of(subject_verdicts(comparison)[0], "training")) is said
