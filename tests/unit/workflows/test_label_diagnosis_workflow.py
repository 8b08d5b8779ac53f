"""From label answers to a diagnosis: numbers, thresholds, curves, and findings that name what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Subject
from lorascope.schema.comparison import Finding, Measurement
from lorascope.schema.items import GenerateAnswer, GenerateItem, LabelsAnswer, LabelsItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.label_diagnosis import MOST_CURVES, LabelDiagnosis, diagnose_labels, find_in_heads
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import Asked

LABELS = tuple(f"l{number:02}" for number in range(20))
ITEMS = 120
PAIR = Pair("tuned", "base")
_RANDOM = np.random.default_rng(4)
TRUTH = _RANDOM.random((ITEMS, 20)) < np.linspace(0.5, 0.06, 20)
FREQUENCIES = TRUTH.mean(axis=0)


def items_of(truth: np.ndarray, *, multi: bool = True, split: str = "") -> tuple[LabelsItem, ...]:
    return tuple(
        LabelsItem(
            item_id=f"{split}{number}",
            text="x",
            labels=tuple(LABELS[index] for index in np.flatnonzero(row)),
            multi=multi,
        )
        for number, row in enumerate(truth)
    )


def answers_of(
    truth: np.ndarray, *, train: np.ndarray | None = None, multi: bool = True, **given: np.ndarray
) -> TaskAnswers:
    spec = SuiteTask(name="tags", kind="labels", data="x.jsonl", labels=list(LABELS))
    items = items_of(truth, multi=multi)
    known = () if train is None else items_of(train, split="train")
    answers = TaskAnswers(LoadedTask(spec, "labels", items, known, (), "f"), LABELS)
    for name, probabilities in given.items():
        answers.asked[name] = asked_of(items, probabilities)
    return answers


def asked_of(items: tuple[LabelsItem, ...], probabilities: np.ndarray) -> Asked:
    return Asked(items, [LabelsAnswer(probabilities=tuple(row)) for row in probabilities.tolist()], LABELS)


def skilled(truth: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(1).random(truth.shape)
    mixed: np.ndarray = np.clip(strength * truth + (1 - strength) * noise * 2 * truth.mean(axis=0), 0.001, 0.999)
    return mixed


def found(diagnosis: LabelDiagnosis, metric: str, by: str | None = None) -> Measurement:
    [one] = [row for row in diagnosis.measurements
             if row.metric == metric and (row.slice.by if row.slice else None) == by]  # fmt: skip
    return one


def kinds(findings: list[Finding]) -> dict[str, str]:
    return {finding.id.split(":")[1]: finding.severity for finding in findings}


@pytest.fixture(scope="module")
def usual() -> LabelDiagnosis:
    answers = answers_of(TRUTH, train=TRUTH[::2], base=skilled(TRUTH, 0.2), tuned=skilled(TRUTH, 0.7))
    return diagnose_labels(answers, [PAIR], seed=0)


def test_every_number_stands_for_both_with_a_difference(usual: LabelDiagnosis) -> None:
    for metric in ("cooccurrence_gap", "cardinality_error", "empty_set_rate", "frequency_skill", "output_spread"):
        row = found(usual, metric)
        assert row.base is not None
        assert row.adapted is not None
        assert row.delta is not None
        assert row.delta.low is not None
        assert (row.area, row.task, row.signature.split("|")[0]) == ("task", "tags", metric)
    assert found(usual, "frequency_skill").delta.verdict == "improved"  # type: ignore[union-attr]
    assert found(usual, "cardinality_error").delta.verdict is None  # type: ignore[union-attr]
    decided = skilled(TRUTH, 0.7) >= 0.5
    expected = (decided.sum() - TRUTH.sum()) / ITEMS
    assert found(usual, "cardinality_error").adapted.value == pytest.approx(expected)  # type: ignore[union-attr]


def test_tuned_thresholds_are_told_and_used(usual: LabelDiagnosis) -> None:
    rows = [row for row in usual.measurements if row.metric == "tuned_threshold"]
    assert [row.slice.value for row in rows if row.slice] == list(LABELS)
    for row in rows:
        assert row.adapted is not None
        assert row.base is not None
        assert row.adapted.low is not None
        assert row.adapted.low <= row.adapted.value <= row.adapted.high  # type: ignore[operator]
        assert "cross-fitted" in row.signature
    at_tuned, fixed = found(usual, "empty_set_rate", "threshold"), found(usual, "empty_set_rate")
    assert at_tuned.base.value < fixed.base.value  # type: ignore[union-attr]
    assert "cross-fitted" in at_tuned.signature


def test_frozen_thresholds_come_from_the_tuning_items() -> None:
    answers = answers_of(TRUTH, base=skilled(TRUTH, 0.3), tuned=skilled(TRUTH, 0.6))
    tuning = _RANDOM.random((60, 20)) < 0.2
    for name, strength in (("base", 0.3), ("tuned", 0.6)):
        answers.tuning[name] = asked_of(items_of(tuning, split="tune"), skilled(tuning, strength))
    diagnosis = diagnose_labels(answers, [PAIR], seed=0)
    first = next(row for row in diagnosis.measurements if row.metric == "tuned_threshold")
    assert first.adapted is not None
    assert (first.adapted.low, first.adapted.method) == (None, "none: tuned on tune_on: 60 items")
    assert found(diagnosis, "cardinality_error", "threshold").adapted.n == ITEMS  # type: ignore[union-attr]


def test_unseen_sets_need_the_training_file(usual: LabelDiagnosis) -> None:
    assert found(usual, "unseen_set_rate").adapted is not None
    without = diagnose_labels(answers_of(TRUTH, base=TRUTH * 0.9, tuned=TRUTH * 0.8), [PAIR], seed=0)
    row = found(without, "unseen_set_rate")
    assert (row.base, row.adapted, row.delta) == (None, None, None)
    assert "train_data" in (row.missing_reason or "")


def test_curves_are_few_and_real(usual: LabelDiagnosis) -> None:
    names = [(series.subject, series.name) for series in usual.series]
    assert len(names) == len(set(names))
    curves = [series for series in usual.series if series.name.startswith("precision_recall:tags:")]
    assert len(curves) == 2 * MOST_CURVES
    assert all(0 <= value <= 1 for series in curves for value in (*series.x, *series.y) if value is not None)
    [truth] = [series for series in usual.series if series.name == "true_label_count:tags"]
    assert sum(share or 0 for share in truth.y) == pytest.approx(1)
    assert truth.y[3] == pytest.approx((TRUTH.sum(axis=1) == 3).mean())


def test_a_collapsed_checkpoint_is_critical_and_not_blamed_twice() -> None:
    flat = np.clip(FREQUENCIES + np.random.default_rng(2).normal(0, 0.003, TRUTH.shape), 0.001, 1)
    answers = answers_of(TRUTH, base=skilled(TRUTH, 0.5), tuned=flat)
    findings = diagnose_labels(answers, [PAIR], seed=0).findings
    assert kinds(findings) == {"collapse": "critical"}
    evidence = " ".join(findings[0].evidence)
    assert "on the plateau" in evidence
    assert "distinct label sets: " in evidence
    assert findings[0].subject == "tuned"


def test_a_constant_far_from_the_frequencies_collapsed_above_the_plateau() -> None:
    answers = answers_of(TRUTH, base=skilled(TRUTH, 0.5), tuned=np.full(TRUTH.shape, 0.45))
    [finding] = diagnose_labels(answers, [PAIR], seed=0).findings
    assert "above the" in " ".join(finding.evidence)
    assert "get no label" in " ".join(finding.evidence)


def test_small_outputs_that_rank_every_label_are_no_collapse() -> None:
    answers = answers_of(TRUTH, base=skilled(TRUTH, 0.5), tuned=np.where(TRUTH, 0.55, 0.45))
    findings = diagnose_labels(answers, [PAIR], seed=0).findings
    assert kinds(findings) == {"small_outputs": "info"}
    assert "100% of the way" in findings[0].evidence[-1]
    shy = answers_of(TRUTH, base=skilled(TRUTH, 0.5), tuned=np.where(TRUTH, 0.15, 0.10))
    told = kinds(diagnose_labels(shy, [PAIR], seed=0).findings)
    assert {"small_outputs", "cardinality", "never"} <= told.keys()


def test_one_of_many_with_small_logits_is_a_collapse_only_without_ranking() -> None:
    truth = np.eye(20, dtype=bool)[np.arange(ITEMS) % 20]
    right, noise = np.exp(truth * 1.0), np.exp(np.random.default_rng(3).normal(0, 0.01, truth.shape))
    for outputs, expected in ((right, "small_outputs"), (noise, "collapse")):
        tuned = outputs / outputs.sum(axis=1, keepdims=True)
        answers = answers_of(truth, multi=False, base=skilled(truth, 0.5), tuned=tuned)
        assert expected in kinds(diagnose_labels(answers, [PAIR], seed=0).findings)


def test_too_few_labels_and_labels_never_given() -> None:
    shy = np.where(TRUTH, 0.45, 0.05)
    shy[:, :3] = np.where(TRUTH[:, :3], 0.8, 0.05)
    answers = answers_of(TRUTH, train=TRUTH, base=skilled(TRUTH, 0.5), tuned=shy)
    findings = diagnose_labels(answers, [PAIR], seed=0).findings
    severities = kinds(findings)
    assert (severities["cardinality"], severities["never"]) == ("warning", "warning")
    told = {finding.id.split(":")[1]: finding for finding in findings}
    assert "tune_on" in (told["cardinality"].advice or "")
    assert "17 of 20" in told["never"].evidence[0]
    assert "tail" in told["never"].evidence[0]
    assert told["never"].evidence[-1] == "at tuned thresholds: 0"
    assert "cooccurrence" in severities


def test_sets_that_training_never_had() -> None:
    paired = np.zeros((ITEMS, 20), dtype=bool)
    paired[np.arange(ITEMS), np.arange(ITEMS) % 20] = True
    paired[np.arange(ITEMS), (np.arange(ITEMS) + 1) % 20] = True
    mixed = np.where(paired, 0.9, 0.1)
    mixed[::2] = np.roll(mixed[::2], 3, axis=1) * 0.5 + mixed[::2] * 0.5
    answers = answers_of(paired, train=paired, base=np.where(paired, 0.8, 0.2), tuned=mixed)
    severities = kinds(diagnose_labels(answers, [PAIR], seed=0).findings)
    assert severities["unseen"] == "info"


def test_a_good_checkpoint_has_nothing_to_be_told() -> None:
    answers = answers_of(TRUTH, train=TRUTH, base=np.where(TRUTH, 0.7, 0.2), tuned=np.where(TRUTH, 0.9, 0.1))
    assert diagnose_labels(answers, [PAIR], seed=0).findings == []


def test_single_labels_get_confusions_and_no_sets() -> None:
    classes = np.arange(ITEMS) % 4
    truth = np.eye(20, dtype=bool)[classes]
    given = np.where(truth, 0.8, 0.2 / 19)
    given[classes == 2] = np.roll(given[classes == 2], 1, axis=1)
    answers = answers_of(truth, multi=False, base=np.where(truth, 0.6, 0.4 / 19), tuned=given)
    diagnosis = diagnose_labels(answers, [PAIR], seed=0)
    assert {row.metric for row in diagnosis.measurements} == {"frequency_skill", "output_spread"}
    assert diagnosis.series == []
    [finding] = diagnosis.findings
    assert (finding.severity, "l02 for l03" in finding.title) == ("info", True)
    assert finding.evidence == ["l02 taken for l03: 30 items, 100% of l02"]


def test_a_base_without_a_head_leaves_the_subject_alone() -> None:
    answers = answers_of(TRUTH, tuned=skilled(TRUTH, 0.7))
    answers.absent["base"] = "no trained head"
    diagnosis = diagnose_labels(answers, [PAIR], seed=0)
    row = found(diagnosis, "output_spread")
    assert row.base is None
    assert row.delta is None
    assert row.adapted is not None
    assert row.missing_reason == "base: no trained head"
    assert found(diagnosis, "cooccurrence_gap", "threshold").base is None


def test_equal_answers_are_equivalent() -> None:
    same = skilled(TRUTH, 0.6)
    diagnosis = diagnose_labels(answers_of(TRUTH, base=same, tuned=same), [PAIR], seed=0)
    for metric in ("frequency_skill", "cooccurrence_gap"):
        delta = found(diagnosis, metric).delta
        assert delta is not None
        assert (delta.value, delta.verdict, delta.test) == (0.0, "equivalent", "identical outputs")


def test_other_kinds_have_no_labels_to_diagnose() -> None:
    spec = SuiteTask(name="t", kind="generate", data="x.jsonl")
    item = GenerateItem(item_id="1", prompt="?", references=("a",))
    answers = TaskAnswers(LoadedTask(spec, "generate", (item,), (), (), "f"))
    answers.asked["tuned"] = Asked([item], [GenerateAnswer(text="a", truncated=False)])
    assert diagnose_labels(answers, [PAIR], seed=0) == LabelDiagnosis()


def test_few_items_have_no_thresholds_and_no_made_up_numbers() -> None:
    answers = answers_of(TRUTH[:3], base=skilled(TRUTH, 0.3)[:3], tuned=skilled(TRUTH, 0.6)[:3])
    diagnosis = diagnose_labels(answers, [PAIR], seed=0)
    assert not [row for row in diagnosis.measurements if row.metric == "tuned_threshold"]
    alone = replace(answers, asked={name: asked.subset([0]) for name, asked in answers.asked.items()})
    alone.task = replace(alone.task, items=alone.task.items[:1])
    row = found(diagnose_labels(alone, [PAIR], seed=0), "output_spread")
    assert (row.base, row.adapted) == (None, None)


def told(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.id.split(":")[1]: finding for finding in findings}


def test_a_list_in_the_wrong_order_is_suspected_and_nothing_else_is_said() -> None:
    right = np.where(TRUTH, 0.9, 0.05)
    answers = answers_of(TRUTH, base=right, tuned=right[:, ::-1])
    findings = told(diagnose_labels(answers, [PAIR], seed=0).findings)
    assert {kind: finding.severity for kind, finding in findings.items()} == {"order": "warning"}
    assert "order of the head's outputs?" in findings["order"].title
    evidence = " ".join(findings["order"].evidence)
    assert "frequency_skill -" in evidence
    assert "l07: the output listed as l12 is nearer to it" in evidence


def test_right_outputs_that_are_too_sure_are_not_taken_for_a_wrong_order() -> None:
    noise = np.random.default_rng(8).random(TRUTH.shape) < 0.12
    sure = np.where(TRUTH ^ noise, 1 - 1e-6, 1e-6)
    findings = told(diagnose_labels(answers_of(TRUTH, base=sure, tuned=sure), [PAIR], seed=0).findings)
    assert findings["too_sure"].severity == "warning"
    assert "order" not in findings


def test_thresholds_that_cost_more_than_they_give_are_told_as_a_trade() -> None:
    weak = np.clip(0.25 * TRUTH + 0.3 * np.random.default_rng(6).random(TRUTH.shape), 0.001, 0.999)
    weak[:, :4] = np.where(TRUTH[:, :4], 0.9, 0.1)
    answers = answers_of(TRUTH, base=skilled(TRUTH, 0.5), tuned=weak)
    tune_truth = np.random.default_rng(9).random((40, 20)) < 0.5
    for name in ("base", "tuned"):
        answers.tuning[name] = asked_of(items_of(tune_truth, split="tune"), np.where(tune_truth, 0.15, 0.05))
    answers.task = replace(answers.task, tuning_items=items_of(tune_truth, split="tune"))
    finding = told(diagnose_labels(answers, [PAIR], seed=0).findings)["cardinality"]
    assert "macro F1 0." in finding.evidence[-1]
    assert "are a trade here: macro F1 rises" in (finding.advice or "")
    assert "the number of labels is no nearer to the truth" in (finding.advice or "")
    assert "the thresholds tuned on tune_on" in (finding.advice or "")


def test_every_threshold_that_was_used_is_told() -> None:
    truth = TRUTH.copy()
    truth[:, 18:] = False
    tuning = _RANDOM.random((60, 20)) < 0.2
    tuning[:, 19] = False
    answers = answers_of(truth, base=skilled(truth, 0.3), tuned=skilled(truth, 0.6))
    for name in ("base", "tuned"):
        answers.tuning[name] = asked_of(items_of(tuning, split="tune"), skilled(tuning, 0.6))
    rows = [row for row in diagnose_labels(answers, [PAIR], seed=0).measurements if row.metric == "tuned_threshold"]
    assert [row.slice.value for row in rows if row.slice] == list(LABELS)
    methods = [row.adapted.method for row in rows if row.adapted]
    assert methods[18] == "none: tuned on tune_on: 60 items"
    assert "no tuning item has the label" in methods[19]
    assert rows[19].adapted is not None
    assert rows[19].adapted.value == 0.5


def test_advice_on_labels_never_given_follows_what_thresholds_do() -> None:
    shy = np.where(TRUTH, 0.45, 0.05)
    helped = told(diagnose_labels(answers_of(TRUTH, base=shy, tuned=shy), [PAIR], seed=0).findings)["never"]
    assert "0.5 is too high for most of them" in (helped.advice or "")
    assert "others" not in (helped.advice or "")
    stuck = answers_of(TRUTH, base=shy, tuned=shy)
    for name in ("base", "tuned"):
        stuck.tuning[name] = asked_of(items_of(np.zeros((5, 20), dtype=bool), split="tune"), shy[:5])
    unhelped = told(diagnose_labels(stuck, [PAIR], seed=0).findings)["never"]
    assert "do not bring them back" in (unhelped.advice or "")
    few = answers_of(TRUTH[:8], base=shy[:8], tuned=shy[:8])
    assert "tune_on" in (told(diagnose_labels(few, [PAIR], seed=0).findings)["never"].advice or "")


def test_a_collapse_names_both_causes_and_how_to_tell_them_apart() -> None:
    answers = answers_of(TRUTH, base=skilled(TRUTH, 0.5), tuned=np.full(TRUTH.shape, 0.2))
    [finding] = diagnose_labels(answers, [PAIR], seed=0).findings
    assert finding.title == "Collapse on tags: tuned gives every item nearly the same labels"
    assert "higher learning rate" in (finding.advice or "")
    assert "lower the learning rate" in (finding.advice or "")


def test_tuning_items_of_a_single_label_task_are_said_to_be_unused() -> None:
    truth = np.eye(20, dtype=bool)[np.arange(ITEMS) % 20]
    answers = answers_of(truth, multi=False, tuned=np.where(truth, 0.81, 0.01))
    answers.task = replace(answers.task, tuning_items=items_of(truth[:10], multi=False, split="tune"))
    [finding] = diagnose_labels(answers, [PAIR], seed=0).findings
    assert (finding.severity, finding.id) == ("warning", "labels:unused_tuning:tags")
    assert "10 tuning items" in finding.title


def test_the_worst_labels_are_told_and_drawn() -> None:
    given = np.where(TRUTH, 0.9, 0.1)
    given[:, 1] = np.where(TRUTH[:, 1], 0.2, 0.1)
    given[:, 2] = 1 - given[:, 2]
    diagnosis = diagnose_labels(answers_of(TRUTH, base=np.where(TRUTH, 0.9, 0.1), tuned=given), [PAIR], seed=0)
    worst = [series for series in diagnosis.series if series.subject == "tuned" and series.name.startswith("worst_")]
    assert [series.name for series in worst[:2]] == ["worst_label:tags:l01", "worst_label:tags:l02"]
    assert worst[0].y == [TRUTH[:, 1].sum(), 0, 0]
    assert worst[1].y == [TRUTH[:, 2].sum(), (~TRUTH[:, 2]).sum(), 0]
    curves = [series.name for series in diagnosis.series if series.name.startswith("precision_recall:")]
    assert {"precision_recall:tags:l01", "precision_recall:tags:l02"} <= set(curves)
    assert len(curves) == 2 * MOST_CURVES


def head(name: str, path: Path, labels: tuple[str, ...] | None) -> Subject:
    return Subject(name=name, path=path, kind="model", tokenizer_path=path, content_hash="h", labels=labels)


def test_an_order_on_trust_is_said_and_another_heads_names_can_contradict_it(tmp_path: Path) -> None:
    answers = answers_of(TRUTH, tuned=skilled(TRUTH, 0.5), full=skilled(TRUTH, 0.5))
    base, tuned = head("base", tmp_path, None), head("tuned", tmp_path, None)
    [alone] = find_in_heads(answers, [base, tuned, head("full", tmp_path, ("other",))])
    assert (alone.severity, alone.evidence) == ("info", [])
    assert "No label names in tuned:" in alone.title
    [backed] = find_in_heads(answers, [tuned, head("full", tmp_path, LABELS)])
    assert (backed.severity, backed.evidence) == ("info", ["it is the order of the own names of full"])
    [doubted] = find_in_heads(answers, [tuned, head("full", tmp_path, (*LABELS[:18], "l19", "l18"))])
    assert doubted.severity == "warning"
    assert doubted.evidence[1] == "output 19: l18 in the list, l19 in the head of full"
    assert find_in_heads(answers, [head("full", tmp_path, LABELS[::-1])]) == []


def test_a_head_for_several_labels_scored_as_one_of_many(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"problem_type": "multi_label_classification"}), encoding="utf-8")
    truth = np.eye(20, dtype=bool)[np.arange(ITEMS) % 20]
    single = answers_of(truth, multi=False, tuned=np.full(truth.shape, 0.05))
    [finding] = find_in_heads(single, [head("tuned", tmp_path, LABELS)])
    assert (finding.severity, finding.subject) == ("warning", "tuned")
    assert "multi_label: true" in (finding.advice or "")
    several = answers_of(TRUTH, tuned=skilled(TRUTH, 0.5))
    assert find_in_heads(several, [head("tuned", tmp_path, LABELS)]) == []
    config.write_text("[1", encoding="utf-8")
    assert find_in_heads(single, [head("tuned", tmp_path, LABELS)]) == []
