"""From answers to measurements, on answers written by hand: slices, pairs, margins, forgetting, gaps, thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sklearn.metrics import f1_score

from lorascope.data.tasks import LoadedTask
from lorascope.schema.comparison import Measurement
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    ChoiceItem,
    GenerateAnswer,
    GenerateItem,
    Item,
    LabelsAnswer,
    LabelsItem,
    ScoreAnswer,
    TokensAnswer,
)
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.measuring import Pair, TaskAnswers, adjust_p_values, measure_task, plan_pairs
from lorascope.workflows.scoring import Asked, primary_metric, same_outputs, tuned_thresholds


def task_of(items: Sequence[Item], kind: str = "generate", **settings: object) -> LoadedTask:
    spec = SuiteTask.model_validate({"name": "t", "kind": kind, "data": "x.jsonl"} | settings)
    return LoadedTask(spec, spec.kind, tuple(items), (), (), "f")


def said(*texts: str) -> list[Answer]:
    return [GenerateAnswer(text=text, truncated=False) for text in texts]


def asked_for(count: int, split: str | None = None, start: int = 0) -> list[Item]:
    return [
        GenerateItem(item_id=f"{split}{n}", prompt="?", references=(f"answer {n}",), split=split)
        for n in range(start, start + count)
    ]


def only(found: list[Measurement], **wanted: object) -> Measurement:
    [one] = [m for m in found if all(getattr(m, key) == value for key, value in wanted.items())]
    return one


def test_pairs_against_base_reference_and_each_other() -> None:
    assert plan_pairs("b", ["x", "y"], None, True) == [Pair("x", "b"), Pair("y", "b")]
    assert plan_pairs("b", ["x", "y"], "y", True) == [Pair("x", "b"), Pair("y", "b"), Pair("x", "y")]
    assert plan_pairs("b", ["x", "y", "z"], None, False)[3:] == [Pair("y", "x"), Pair("z", "x"), Pair("z", "y")]
    assert plan_pairs("b", ["x"], "b", True) == [Pair("x", "b")]


def test_a_dead_adapter_is_equivalent_with_p_1() -> None:
    items = asked_for(40)
    answers = TaskAnswers(task_of(items, metrics=["rougeL", "bleu", "exact_match"]))
    same = said(*(f"answer {n}" if n % 2 else "other words" for n in range(40)))
    answers.asked = {"b": Asked(items, same), "x": Asked(items, list(same))}
    for found in measure_task(answers, [Pair("x", "b")], seed=0):
        assert found.delta is not None
        assert (found.delta.verdict, found.delta.p_value, found.delta.low, found.delta.high) == ("equivalent", 1, 0, 0)


def test_equal_scores_of_other_texts_are_not_equal_answers() -> None:
    """Nothing right on either side, in other words: no evidence that the checkpoints are equivalent."""
    items = asked_for(40)
    answers = TaskAnswers(task_of(items, metrics=["exact_match", "token_f1"]))
    answers.asked = {"b": Asked(items, said(*["no"] * 40)), "x": Asked(items, said(*["no"] * 39, "never"))}
    for found in measure_task(answers, [Pair("x", "b")], seed=0):
        assert found.delta is not None
        assert (found.delta.value, found.delta.p_value, found.delta.verdict) == (0.0, 1.0, "inconclusive")
        assert found.delta.high == pytest.approx(0.0876, abs=1e-4)
        assert found.delta.needed_n == 189


def test_a_category_with_the_same_answers_is_equivalent_beside_one_without() -> None:
    """Four of four right on both sides: the same log-probabilities in one category, others in the other."""
    items: list[Item] = [
        ChoiceItem(item_id=str(n), question="?", context="?", choices=("a", "b"), answer=0, category="ab"[n // 4])
        for n in range(8)
    ]
    before: list[Answer] = [ChoiceAnswer(logprobs=(-1.0, -2.0))] * 8
    after: list[Answer] = [*before[:4], *[ChoiceAnswer(logprobs=(-1.5, -2.5))] * 4]
    answers = TaskAnswers(task_of(items, "choice", metrics=["accuracy"]))
    answers.asked = {"b": Asked(items, before), "x": Asked(items, after)}
    found = {m.slice.value if m.slice else "whole": m.delta for m in measure_task(answers, [Pair("x", "b")], seed=0)}
    verdicts = {name: (delta.verdict, delta.high == 0) for name, delta in found.items() if delta}
    assert verdicts == {
        "a": ("equivalent", True),
        "b": ("inconclusive", False),
        "whole": ("inconclusive", False),
    }


def test_what_counts_as_the_same_output() -> None:
    items = asked_for(1)

    def same(one: Answer, other: Answer) -> bool:
        return same_outputs(Asked(items, [one]), Asked(items, [other]))

    text = GenerateAnswer(text="a", truncated=False, gold_logprob=-1.0)
    assert same(text, GenerateAnswer(text="a", truncated=True, gold_logprob=-2.0))
    assert not same(text, GenerateAnswer(text="a ", truncated=False, gold_logprob=-1.0))
    assert same(TokensAnswer(tags=("O",), cut=1), TokensAnswer(tags=("O",)))
    assert not same(LabelsAnswer(probabilities=(0.9, 0.1)), LabelsAnswer(probabilities=(0.8, 0.2)))
    assert same(ScoreAnswer(value=0.5), ScoreAnswer(value=0.5))


def test_named_sets_are_slices_and_the_whole_is_their_union() -> None:
    items = asked_for(20, "before") + asked_for(20, "after", 20)
    answers = TaskAnswers(task_of(items, data={"before": "a", "after": "b"}, metrics=["exact_match"]))
    right = [f"answer {n}" for n in range(40)]
    answers.asked = {"b": Asked(items, said(*right[:20], *["no"] * 20)), "x": Asked(items, said(*right))}
    found = measure_task(answers, [Pair("x", "b")], seed=0)
    whole = only(found, slice=None)
    assert whole.base is not None
    assert whole.base.value == 0.5
    parts = {m.slice.value: m for m in found if m.slice}
    assert parts["before"].delta is not None
    assert parts["before"].delta.verdict == "equivalent"
    assert parts["after"].delta is not None
    assert parts["after"].delta.value == 1.0


def test_a_suites_margin_holds_for_its_own_scale_alone() -> None:
    items = asked_for(12)
    answers = TaskAnswers(task_of(items, margin=0.3, metrics=["rougeL", "exact_match", "bleu"]))
    answers.asked = {"b": Asked(items, said(*["no such words"] * 12)), "x": Asked(items, said(*["answer 1"] * 12))}
    found = measure_task(answers, [Pair("x", "b")], seed=0)
    margins = {m.metric: m.delta.margin for m in found if m.delta}
    assert margins == {"rougeL": 0.3, "exact_match": 0.3, "bleu": 2.0}


def test_flips_and_retention_of_a_retention_task() -> None:
    items: list[Item] = [
        ChoiceItem(item_id=str(n), question="?", context="?", choices=("a", "b"), answer=0, category="ab"[n % 2])
        for n in range(100)
    ]
    good, bad = ChoiceAnswer(logprobs=(-1.0, -2.0)), ChoiceAnswer(logprobs=(-2.0, -1.0))
    answers = TaskAnswers(task_of(items, "choice", role="retention"))
    before: list[Answer] = [good] * 90 + [bad] * 10
    after: list[Answer] = [good] * 60 + [bad] * 30 + [good] * 5 + [bad] * 5
    answers.asked = {"b": Asked(items, before), "x": Asked(items, after)}
    found = measure_task(answers, [Pair("x", "b")], seed=0)
    values = {m.metric: m.adapted.value for m in found if m.slice is None and m.adapted}
    assert values["forgotten_rate"] == pytest.approx(30 / 90)
    assert values["gained_rate"] == pytest.approx(5 / 10)
    assert values["retained_fraction"] == pytest.approx((0.65 - 0.5) / (0.9 - 0.5))
    assert {m.slice.value for m in found if m.metric == "forgotten_rate" and m.slice} == {"a", "b"}
    assert all(m.area == "forgetting" for m in found)
    accuracy = only(found, metric="accuracy", slice=None)
    assert accuracy.delta is not None
    assert (accuracy.delta.verdict, accuracy.delta.test) == ("regressed", "exact McNemar")


def test_what_a_base_at_chance_retains_is_not_defined() -> None:
    items: list[Item] = [
        ChoiceItem(item_id=str(n), question="?", context="?", choices=("a", "b"), answer=n % 2) for n in range(40)
    ]
    always_a: list[Answer] = [ChoiceAnswer(logprobs=(-1.0, -2.0))] * 40
    answers = TaskAnswers(task_of(items, "choice", role="retention"))
    answers.asked = {"b": Asked(items, always_a), "x": Asked(items, always_a)}
    retained = only(measure_task(answers, [Pair("x", "b")], seed=0), metric="retained_fraction", slice=None)
    assert retained.adapted is None
    assert retained.missing_reason == "the base is not shown to be above chance here, so what it retains is not defined"


def test_a_checkpoint_that_could_not_answer_is_null_with_the_reason() -> None:
    items = asked_for(5)
    answers = TaskAnswers(task_of(items, metrics=["exact_match"]))
    answers.asked = {"x": Asked(items, said(*["a"] * 5))}
    answers.absent = {"b": "no trained head"}
    [found] = measure_task(answers, [Pair("x", "b")], seed=0)
    assert found.base is None
    assert found.delta is None
    assert found.missing_reason == "b: no trained head"
    assert found.adapted is not None


def test_groups_widen_the_interval() -> None:
    items = asked_for(60)
    grouped: list[Item] = [
        GenerateItem(item_id=i.item_id, prompt="?", references=i.references, group=str(n // 10))
        for n, i in enumerate(items)
        if isinstance(i, GenerateItem)
    ]
    texts = said(*(f"answer {n}" if (n // 10) % 2 else "nothing of it" for n in range(60)))
    widths = []
    for rows in (items, grouped):
        answers = TaskAnswers(task_of(rows, metrics=["rougeL"]))
        answers.asked = {"b": Asked(rows, said(*["x"] * 60)), "x": Asked(rows, texts)}
        delta = measure_task(answers, [Pair("x", "b")], seed=0)[0].delta
        assert delta is not None
        assert delta.high is not None
        assert delta.low is not None
        widths.append(delta.high - delta.low)
    assert widths[1] > 1.5 * widths[0]


def labelled(count: int) -> tuple[list[Item], list[Answer], list[list[bool]]]:
    truth = [[n % 2 == 0, n % 3 == 0] for n in range(count)]
    items: list[Item] = [
        LabelsItem(item_id=str(n), text="t", labels=tuple(x for x, on in zip("ab", row, strict=True) if on), multi=True)
        for n, row in enumerate(truth)
    ]
    answers: list[Answer] = [
        LabelsAnswer(probabilities=(0.3 if row[0] else 0.1, 0.9 if row[1] else 0.2)) for row in truth
    ]
    return items, answers, truth


def test_label_slices_and_thresholds() -> None:
    items, answers, truth = labelled(60)
    task = TaskAnswers(task_of(items, "labels"))
    task.asked = {name: Asked(items, answers, ("a", "b")) for name in ("b", "x")}
    found = measure_task(task, [Pair("x", "b")], seed=0)
    predicted = [[False, row[1]] for row in truth]
    whole = only(found, metric="f1_micro", slice=None)
    assert whole.adapted is not None
    assert whole.adapted.value == pytest.approx(f1_score(truth, predicted, average="micro"))
    sliced = {
        (m.slice.by, m.slice.value): m.adapted.value for m in found if m.slice and m.metric == "f1_micro" and m.adapted
    }
    assert sliced["threshold", "tuned"] == 1.0
    assert sliced["threshold", "0.5"] == whole.adapted.value
    assert sliced["label", "b"] == 1.0


def test_thresholds_are_tuned_on_the_tuning_items_and_frozen() -> None:
    items, answers, _ = labelled(30)
    asked = Asked(items, answers, ("a", "b"))
    wrong = Asked(items, [LabelsAnswer(probabilities=(0.9, 0.9))] * 30, ("a", "b"))
    found = tuned_thresholds(asked, wrong, 0)
    assert found is not None
    assert found[1] == "tuned on tune_on"
    assert all(0.3 < threshold <= 0.9 for threshold in found[0])
    assert tuned_thresholds(asked.subset(range(4)), None, 0) is None


def test_adjusted_p_values_leave_slices_out_and_only_rise() -> None:
    items = asked_for(30, "before") + asked_for(30, "after", 30)
    answers = TaskAnswers(task_of(items, data={"before": "a", "after": "b"}, metrics=["rougeL", "exact_match"]))
    answers.asked = {
        "b": Asked(items, said(*["no"] * 60)),
        "x": Asked(items, said(*(f"answer {n}" if n % 5 == 0 else "answer" for n in range(60)))),
    }
    for found in adjust_p_values(measure_task(answers, [Pair("x", "b")], seed=0)):
        assert found.delta is not None
        if found.slice is not None:
            assert found.delta.p_adjusted is None
        else:
            assert found.delta.p_value is not None
            assert found.delta.p_adjusted is not None
            assert found.delta.p_value <= found.delta.p_adjusted <= 1


def test_tuned_thresholds_are_judged_on_items_they_were_not_tuned_on() -> None:
    items, answers, _ = labelled(60)
    halves: list[Item] = [
        LabelsItem(item_id=i.item_id, text="t", labels=i.labels, multi=True, split="val" if n < 30 else "test")
        for n, i in enumerate(items)
        if isinstance(i, LabelsItem)
    ]
    task = TaskAnswers(task_of(halves, "labels", data={"val": "a", "test": "b"}, tune_on="val"), ("a", "b"))
    task.asked = {name: Asked(halves, answers, ("a", "b")) for name in ("b", "x")}
    task.tuning = {name: Asked(halves[:30], answers[:30], ("a", "b")) for name in ("b", "x")}
    found = measure_task(task, [Pair("x", "b")], seed=0)
    tuned = [m for m in found if m.slice and m.slice.value == "tuned" and m.metric == "f1_micro"]
    assert [m.adapted.n for m in tuned if m.adapted] == [30]
    assert "tuned on tune_on" in tuned[0].signature


def test_an_item_set_that_cannot_be_scored_becomes_a_note() -> None:
    items: list[Item] = [
        GenerateItem(item_id=str(n), prompt="?", references=("=" if n < 5 else "word",), category="ab"[n >= 5])
        for n in range(12)
    ]
    answers = TaskAnswers(task_of(items, metrics=["rougeL"]))
    answers.asked = {name: Asked(items, said(*["word"] * 12)) for name in ("b", "x")}
    found = measure_task(answers, [Pair("x", "b")], seed=0)
    assert [m.slice.value for m in found if m.slice] == ["b"]
    assert len(answers.notes) == 1
    assert "category a" in answers.notes[0]


def test_the_primary_metric_is_one_that_the_task_asks_for() -> None:
    items = asked_for(2)
    assert primary_metric(task_of(items, metrics=["bleu", "rougeL"])) == "rougeL"
    assert primary_metric(task_of(items, metrics=["bleu"])) == "bleu"
    assert primary_metric(task_of(items, role="retention")) == "exact_match"
    assert primary_metric(task_of(items, role="retention", metrics=["rougeL"])) == "rougeL"
    assert primary_metric(task_of(items, primary="chrf")) == "chrf"
