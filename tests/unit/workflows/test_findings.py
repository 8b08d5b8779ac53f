"""Findings say what a reader should do, and say it only when the numbers do."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from lorascope.data.tasks import LoadedTask
from lorascope.schema.comparison import Comparison, Finding
from lorascope.schema.flips import CauseName, FlipLedger
from lorascope.schema.items import GenerateAnswer, GenerateItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.findings import by_severity, find, flip_findings
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.scoring import Asked


def document(*measurements: dict[str, Any], **parts: Any) -> Comparison:
    checkpoint = {
        "path": "p",
        "kind": "model",
        "architecture": "A",
        "dtype": "F32",
        "content_hash": "h",
        "parameters": {"total": 1},
        "generation_ready": True,
    }
    return Comparison.model_validate(
        {
            "created": "2026-01-01T00:00:00",
            "command": [],
            "seed": 0,
            "lorascope_version": "0",
            "provenance": {"libraries": {}, "device": "cpu", "dtype": "auto", "timings": {}},
            "checkpoints": [
                {"name": "base", "role": "base"} | checkpoint,
                {"name": "x", "role": "adapted"} | checkpoint,
            ],
            "tasks": [
                {
                    "name": "qa",
                    "kind": "generate",
                    "role": "target",
                    "items": 9,
                    "fingerprint": "f",
                    "metrics": ["rougeL"],
                },
                {"name": "gk", "kind": "choice", "role": "retention", "items": 9, "fingerprint": "f"}
                | {"metrics": ["gold_margin"]},
            ],
            "measurements": list(measurements),
        }
        | parts
    )


def measured(metric: str, verdict: str | None = None, **fields: Any) -> dict[str, Any]:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "method": "m"}
    delta = {"value": 0.1, "low": 0.05, "high": 0.2, "n": 9, "verdict": verdict} if verdict else None
    return {
        "subject": "x",
        "reference": "base",
        "area": "task",
        "task": "qa",
        "metric": metric,
        "unit": "fraction",
        "scale": "0-1",
        "direction": "higher",
        "base": estimate,
        "adapted": estimate,
        "delta": delta,
        "signature": "s",
    } | fields


@pytest.mark.parametrize(
    ("verdict", "severity", "said"),
    [
        ("improved", "good", "improved"),
        ("regressed", "critical", "got worse"),
        ("equivalent", "warning", "nothing was gained"),
        ("inconclusive", "info", "cannot be told"),
    ],
)
def test_what_each_verdict_on_the_target_says(verdict: str, severity: str, said: str) -> None:
    [finding] = find(document(measured("rougeL", verdict)), [], [])
    assert finding.severity == severity
    assert said in finding.title
    assert "rougeL" in finding.evidence[0]


@pytest.mark.parametrize(("retained", "severity"), [(0.5, "critical"), (0.95, "warning")])
def test_forgetting_weighs_by_what_was_retained(retained: float, severity: str) -> None:
    share = {"value": retained, "low": None, "high": None, "n": 9, "method": "m"}
    lost = measured("gold_margin", "regressed", task="gk", area="forgetting")
    kept = measured("retained_fraction", task="gk", area="forgetting", adapted=share, base=None)
    [finding] = find(document(lost, kept), [], [])
    assert finding.severity == severity
    assert any("retained_fraction" in text for text in finding.evidence)


def test_inconclusive_retention_is_never_called_forgetting_or_safe() -> None:
    assert find(document(measured("gold_margin", "inconclusive", task="gk", area="forgetting")), [], []) == []


def test_a_gap_is_named_when_it_is_real_and_larger_than_the_bases() -> None:
    def gap(low: float, base: float) -> list[Finding]:
        estimate = {"value": 0.3, "low": low, "high": 0.5, "n": 9, "method": "m"}
        before = {"value": base, "low": None, "high": None, "n": 9, "method": "m"}
        return find(document(measured("rougeL_gap", area="gap", adapted=estimate, base=before)), [], [])

    assert [finding.area for finding in gap(0.1, 0.0)] == ["gap"]
    assert gap(-0.1, 0.0) == []
    assert gap(0.1, 0.4) == []


def test_a_gap_needs_the_size_of_the_margin_and_something_learned_or_more_than_the_bases() -> None:
    def gap(value: float, base: float, *others: dict[str, Any]) -> list[Finding]:
        estimate = {"value": value, "low": value / 2, "high": 2 * value, "n": 9, "method": "m"}
        before = {"value": base, "low": None, "high": None, "n": 9, "method": "m"}
        found = find(document(measured("rougeL_gap", area="gap", adapted=estimate, base=before), *others), [], [])
        return [finding for finding in found if finding.area == "gap"]

    assert gap(0.01, 0.0) == []
    assert gap(0.01, 0.0, measured("rougeL", "improved")) == []
    assert len(gap(0.03, 0.0)) == 1
    assert gap(0.03, 0.02) == []
    assert len(gap(0.03, 0.02, measured("rougeL", "improved"))) == 1


def test_slices_and_other_references_raise_no_finding() -> None:
    sliced = measured("rougeL", "regressed", slice={"by": "split", "value": "a"})
    other = measured("rougeL", "regressed", reference="x", subject="base")
    assert find(document(sliced, other), [], []) == []


def test_most_severe_first_and_equal_ones_in_order() -> None:
    def one(name: str, severity: str) -> Finding:
        return Finding.model_validate({"id": name, "severity": severity, "area": "a", "title": "t"})

    found = by_severity([one("a", "info"), one("b", "critical"), one("c", "info"), one("d", "warning")])
    assert [finding.id for finding in found] == ["b", "d", "a", "c"]


def test_the_gap_of_a_loss_is_over_fitting_when_it_is_negative() -> None:
    task = {"name": "lm", "kind": "likelihood", "role": "target", "items": 9, "fingerprint": "f"}
    for low, high, count in ((-0.5, -0.1, 1), (0.1, 0.5, 0)):
        estimate = {"value": (low + high) / 2, "low": low, "high": high, "n": 9, "method": "m"}
        gap = measured("bits_per_byte_gap", area="gap", task="lm", adapted=estimate, base=None, direction="none")
        found = find(document(gap, tasks=[task | {"metrics": ["bits_per_byte"]}]), [], [])
        assert len(found) == count


def test_a_base_that_guesses_has_nothing_to_forget() -> None:
    lost = measured("gold_margin", "regressed", task="gk", area="forgetting")
    kept = measured(
        "retained_fraction", task="gk", area="forgetting", adapted=None, base=None, missing_reason="at chance"
    )
    [finding] = find(document(lost, kept), [], [])
    assert finding.severity == "info"
    assert "cannot be told from guessing" in finding.title
    assert "no loss" not in " ".join(finding.evidence)


def test_no_all_clear_for_a_base_near_chance_whose_accuracy_regressed() -> None:
    rows = [measured(name, "regressed", task="gk", area="forgetting") for name in ("gold_margin", "accuracy")]
    kept = measured("retained_fraction", task="gk", area="forgetting", adapted=None, base=None, missing_reason="chance")
    [finding] = find(document(*rows, kept), [], [])
    assert finding.severity == "warning"
    assert finding.evidence[1].startswith("accuracy 0.5")
    assert "no loss" not in " ".join(finding.evidence)


@pytest.mark.parametrize(
    ("golds", "said"),
    [
        ((-1.0, -2.0), "every answer and every log-probability equal"),
        ((None, None), "every answer equal"),
        ((-1.0, None), "every answer equal, and every log-probability where one is known"),
    ],
)
def test_equal_log_probabilities_are_claimed_only_where_known(golds: tuple[float | None, ...], said: str) -> None:
    items = tuple(GenerateItem(item_id=str(at), prompt="Q", references=("a",)) for at in range(2))
    given = [GenerateAnswer(text="a", truncated=False, gold_logprob=gold) for gold in golds]
    spec = SuiteTask(name="qa", kind="generate", data="x.jsonl")
    answers = TaskAnswers(LoadedTask(spec, "generate", items, (), (), "f"))
    answers.asked = {"base": Asked(items, given), "x": Asked(items, list(given))}
    [finding] = find(document(), [answers], [])
    assert finding.evidence == [f"2 items, {said}"]


def ledger(broken: int = 38, fixed: int = 12, **fields: Any) -> FlipLedger:
    counts = {
        "items": 500,
        "broken": broken,
        "fixed": fixed,
        "both_right": 382,
        "both_wrong": 500 - 382 - broken - fixed,
    }
    return FlipLedger.model_validate({"subject": "lora", "reference": "base", "task": "synopsis"} | counts | fields)


def test_a_loss_of_form_is_a_warning_with_every_cause_and_its_own_advice() -> None:
    [finding] = flip_findings([ledger(causes={"knowledge_loss": 2, "format": 31, "truncated": 5})])
    assert finding.title == "lora lost 38 answers of synopsis: 31 by format, 5 truncated, 2 by loss of knowledge"
    assert finding.severity == "warning"
    assert "38 of the 420 that base had right are wrong now (9.0%)" in finding.evidence[0]
    assert "12 of the 80 that it had wrong are right" in finding.evidence[0]
    assert "extraction" in str(finding.advice)


@pytest.mark.parametrize(
    ("causes", "advice"),
    [
        ({"truncated": 38}, "max_new_tokens"),
        ({"stop_string": 38}, "stop strings"),
        ({"language_switch": 38}, "languages"),
        ({"refusal": 38}, "refusals"),
        ({"repetition": 38}, "epochs"),
        ({"knowledge_loss": 38}, "general data"),
        ({"empty": 38}, "end-of-text"),
        ({"unexplained": 38}, "side by side"),
    ],
)
def test_advice_follows_the_largest_cause(causes: dict[str, int], advice: str) -> None:
    [finding] = flip_findings([ledger(causes=causes)])
    assert advice in str(finding.advice)


def test_every_cause_has_its_words() -> None:
    counts = dict.fromkeys(get_args(CauseName), 1)
    [finding] = flip_findings([ledger(broken=len(counts), causes=counts)])
    assert finding.title.count(",") == len(counts) - 1


def test_losses_of_ability_and_a_few_losses_are_for_the_verdicts_to_judge() -> None:
    found = flip_findings([ledger(causes={"knowledge_loss": 38}), ledger(broken=2, causes={"format": 2})])
    assert [finding.severity for finding in found] == ["info", "info"]
    assert found[1].title == "lora lost 2 answers of synopsis and gained 12 (net +10): 2 by format"


def test_nothing_lost_is_no_finding_and_no_causes_are_none() -> None:
    assert flip_findings([ledger(broken=0)]) == []
    [finding] = flip_findings([ledger(broken=1, fixed=0)])
    assert (finding.title, finding.advice) == ("lora lost 1 answer of synopsis", None)


def test_where_the_base_only_guesses_no_lost_knowledge_is_claimed() -> None:
    share = measured("retained_fraction", task="synopsis", area="forgetting", subject="lora", adapted=None, base=None)
    known = document(share).measurements
    turned = ledger(broken=6, fixed=8, causes={"knowledge_loss": 6})
    [finding] = flip_findings([turned], known)
    assert finding.title == "lora lost 6 answers of synopsis and gained 8 (net +2)"
    assert finding.advice is None
    assert "not shown to be above chance" in finding.evidence[-1]
    [fewer] = flip_findings([ledger(broken=8, fixed=6, causes={"knowledge_loss": 5, "format": 3})], known)
    assert fewer.title == "lora lost 8 answers of synopsis and gained 6 (net -2): 3 by format"
    assert "extraction" in str(fewer.advice)


def test_a_net_gain_is_said_and_brings_no_advice_against_forgetting() -> None:
    [finding] = flip_findings([ledger(broken=6, fixed=8, causes={"knowledge_loss": 6})])
    assert finding.title == "lora lost 6 answers of synopsis and gained 8 (net +2): 6 by loss of knowledge"
    assert finding.advice is None
    [form] = flip_findings([ledger(broken=6, fixed=6, causes={"format": 6})])
    assert "(net 0): 6 by format" in form.title
    assert form.advice is not None


def cut(subject: str, count: int, of: str = "evaluation") -> str:
    return f"qa, {subject}, {of} items: {count} of 60 items exceed the context; prompts lost their left"


def test_cut_prompts_are_one_warning_per_task_and_set_with_advice() -> None:
    notes = [cut("base", 56), cut("base", 7, "training"), cut("x", 56), cut("x", 7, "training"), "something else"]
    found = find(document(), [], notes)
    assert [(each.severity, each.title) for each in found] == [
        ("warning", "56 of 60 evaluation items of qa exceed the context: prompts lost their left"),
        ("warning", "7 of 60 training items of qa exceed the context: prompts lost their left"),
        ("info", "something else"),
    ]
    assert found[0].evidence == ["base: 56 of 60 (93%)", "x: 56 of 60 (93%)"]
    assert "few_shot" in str(found[0].advice)


def test_a_few_cut_prompts_are_a_note() -> None:
    [few] = find(document(), [], [cut("base", 5), cut("x", 6)])
    assert (few.severity, few.advice) == ("info", None)
    assert few.title.startswith("5 to 6 of 60 evaluation items")


def test_noise_is_told_from_loss() -> None:
    causes = {"format": 38}
    [some] = flip_findings([ledger(causes=causes, noise=4)])
    assert "of 50 items that turned, 4 (8%) are numerical noise" in some.evidence[1]
    [none] = flip_findings([ledger(causes=causes, noise=50)])
    assert (none.severity, none.advice) == ("info", None)
    assert "no more than noise" in none.evidence[1]
    assert none.title == "lora lost 38 answers of synopsis, no more than numerical noise"
