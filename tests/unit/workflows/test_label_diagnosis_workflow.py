"""From label answers to a diagnosis: numbers, thresholds, curves, and findings that name what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lorascope.data.tasks import LoadedTask
from lorascope.schema.comparison import Finding, Measurement
from lorascope.schema.items import GenerateAnswer, GenerateItem, LabelsAnswer, LabelsItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.label_diagnosis import MOST_CURVES, LabelDiagnosis, diagnose_labels
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
