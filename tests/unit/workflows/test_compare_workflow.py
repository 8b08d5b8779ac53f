"""Whole comparisons on tiny models: what they write, what is in it, and that it is true."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorascope import CompareOptions, Questions, compare, load_result
from lorascope.cli.main import run
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.workflows.asking import NOTHING_ASKED


def pick(comparison: Comparison, **wanted: Any) -> list[Measurement]:
    return [
        found for found in comparison.measurements if all(getattr(found, key) == value for key, value in wanted.items())
    ]


@pytest.fixture(scope="module")
def language(llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, LoRA and full fine-tune of a causal model on two named sets, a training set and a part of the probe."""
    root = tmp_path_factory.mktemp("language")
    rows = [{"prompt": f"Question: number {n}?\nAnswer:", "reference": f"it is {n}"} for n in range(18)]
    for name, part in (("a", rows[:6]), ("b", rows[6:12]), ("train", rows[12:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (root / "suite.yaml").write_text(
        "version: 1\ntasks:\n- name: numbers\n  kind: generate\n  data: {first: a.jsonl, second: b.jsonl}\n"
        "  train_data: train.jsonl\n  max_new_tokens: 6\n  metrics: [rougeL, bleu, exact_match]\n"
    )
    options = CompareOptions(
        base=str(llama.base),
        adapted=(str(llama.lora), str(llama.full)),
        questions=Questions(suite=root / "suite.yaml", probe=("en",), limit=24),
        reference="full",
        out=root / "out",
    )
    return compare(options)


def test_all_files_are_written_and_nothing_else(language: Path) -> None:
    names = {path.name for path in language.parent.iterdir()}
    assert names == {
        "result.json",
        "report.html",
        "samples.parquet",
        "weights.parquet",
        "run.json",
        "modules.jsonl",
    }


def test_subjects_stand_beside_each_other_and_against_the_reference(language: Path) -> None:
    comparison = load_result(language)
    pairs = {(found.subject, found.reference) for found in pick(comparison, task="numbers")}
    assert pairs == {("lora", "base"), ("full", "base"), ("lora", "full")}
    against_full = pick(comparison, task="numbers", reference="full", metric="rougeL", slice=None)[0]
    full = pick(comparison, task="numbers", subject="full", metric="rougeL", slice=None)[0]
    assert against_full.base == full.adapted


def test_named_sets_make_one_table(language: Path) -> None:
    comparison = load_result(language)
    splits = [
        found.slice.value
        for found in pick(comparison, task="numbers", subject="lora", reference="base", metric="bleu")
        if found.slice and found.slice.by == "split"
    ]
    assert splits == ["first", "second"]
    assert comparison.tasks[0].metrics[0] == "rougeL"
    assert comparison.tasks[0].items == 12


def test_every_missing_number_has_a_reason_and_every_delta_agrees_with_its_sides(language: Path) -> None:
    comparison = load_result(language)
    assert len(comparison.measurements) > 100
    for found in comparison.measurements:
        if found.adapted is None:
            assert found.missing_reason, found
        if found.delta is not None:
            assert found.base is not None
            assert found.adapted is not None
            assert found.delta.value == pytest.approx(found.adapted.value - found.base.value, abs=1e-9)
            assert found.delta.n == found.adapted.n


def test_the_gap_is_train_minus_evaluation(language: Path) -> None:
    comparison = load_result(language)
    [gap] = pick(comparison, area="gap", subject="lora", reference="base", metric="rougeL_gap")
    assert gap.direction == "none"
    assert gap.adapted is not None
    assert gap.adapted.n == 6 + 12


def test_samples_pair_by_content(language: Path) -> None:
    rows = pyarrow.parquet.read_table(language.parent / "samples.parquet").to_pylist()
    numbers = [row for row in rows if row["task"] == "numbers"]
    assert len(numbers) == 2 * 12
    by_subject = [{row["item_id"]: row for row in numbers if row["subject"] == name} for name in ("lora", "full")]
    assert by_subject[0].keys() == by_subject[1].keys()
    for key, row in by_subject[0].items():
        assert row["base_output"] == by_subject[1][key]["base_output"]
        assert row["flip"] in {"fixed", "broken", "both_right", "both_wrong"}
        assert row["gold_logprob_base"] < 0
    mean = np.mean([row["rougeL_adapted"] for row in by_subject[0].values()])
    [found] = pick(load_result(language), task="numbers", subject="lora", reference="base", metric="rougeL", slice=None)
    assert found.adapted is not None
    assert found.adapted.value == pytest.approx(mean)


def test_weights_agree_with_plain_linear_algebra(language: Path, llama) -> None:
    report = load_result(language).weights["full"]
    base, full = load_file(llama.base / "model.safetensors"), load_file(llama.full / "model.safetensors")
    assert len(report.modules) == 15
    for module in report.modules:
        before, after = base[f"{module.name}.weight"], full[f"{module.name}.weight"]
        delta = after - before
        assert module.frobenius == pytest.approx(float(delta.norm()), rel=1e-4)
        assert module.relative_change == pytest.approx(float(delta.norm() / before.norm()), rel=1e-4)
        left, right = torch.linalg.svd(before)[0], torch.linalg.svd(after)[0][:, :10]
        largest = (left[:, : min(before.shape)].T @ right).abs().max(0).values
        assert module.intruders is not None
        found = torch.tensor([vector.low for vector in module.intruders.vectors])
        assert torch.allclose(found, largest, atol=1e-3)
        assert module.intruders.count == int((largest < 0.5).sum())


def test_asking_again_asks_nothing(language: Path, llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command on a finished folder answers from the cache: no model is loaded for the tasks."""
    from lorascope.engines.transformers_engine import TransformersEngine

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished item was asked again")

    monkeypatch.setattr(TransformersEngine, "_ask", never)
    monkeypatch.setattr(TransformersEngine, "measure_cost", never)
    before = load_result(language)
    root = language.parent.parent
    again = compare(
        CompareOptions(
            base=str(llama.base),
            adapted=(str(llama.lora), str(llama.full)),
            questions=Questions(suite=root / "suite.yaml", probe=("en",), limit=24),
            reference="full",
            out=root / "out",
        )
    )
    after = load_result(again)
    assert pick(before, area="cost")
    key = operator.attrgetter("area", "task", "subject", "reference", "metric", "signature")
    assert sorted(after.measurements, key=key) == sorted(before.measurements, key=key)
    assert {finding.id for finding in after.findings} == {finding.id for finding in before.findings}


def test_other_metrics_load_no_model(language: Path, llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rescoring kept answers in another folder: nothing is asked, and the cost that was not measured says why."""
    from lorascope.engines.holding import Holder

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    root = language.parent.parent
    suite = (root / "suite.yaml").read_text()
    (root / "other.yaml").write_text(suite.replace("[rougeL, bleu, exact_match]", "[token_f1]\n  extract: 'is (\\d+)'"))
    monkeypatch.setattr(Holder, "ready", never)
    rescored = compare(
        CompareOptions(
            base=str(llama.base),
            adapted=(str(llama.lora), str(llama.full)),
            questions=Questions(suite=root / "other.yaml", probe=("en",), limit=24),
            weights=False,
            out=tmp_path / "rescored",
        )
    )
    comparison = load_result(rescored)
    assert {found.metric for found in pick(comparison, task="numbers", area="task")} == {"token_f1", "kl_to_base"}
    assert not pick(comparison, area="cost")
    assert [each.reason for each in comparison.missing if each.area == "cost"] == [NOTHING_ASKED]


def test_a_classifier_without_base_head(bert, topics: Path, tmp_path: Path) -> None:
    """The base cannot do the task: null with a reason, drift is measured, and subjects are compared with each other."""
    result = compare(
        CompareOptions(
            base=str(bert.base),
            adapted=(str(bert.lora), str(bert.full)),
            questions=Questions(data={"": str(topics)}, labels=("art", "music", "sport"), probe=("en",), limit=12),
            out=tmp_path / "out",
        )
    )
    comparison = load_result(result)
    [lone] = pick(comparison, task="topics", subject="lora", reference="base", metric="f1_micro", slice=None)
    assert lone.base is None
    assert lone.delta is None
    assert "no trained weights for classifier" in (lone.missing_reason or "")
    assert pick(comparison, task="topics", subject="full", reference="lora", metric="f1_micro", slice=None)[0].delta
    layers = {
        found.slice.value for found in pick(comparison, area="drift", subject="lora", metric="cka") if found.slice
    }
    assert layers == {"0", "1", "2"}
    by = {found.slice.by for found in pick(comparison, task="topics", subject="full", reference="base") if found.slice}
    assert {"label", "label_group", "threshold"} <= by
    assert any("no language-model head" in missing.reason for missing in comparison.missing)


def test_gates_decide_the_exit_code_and_stand_in_the_report(llama, questions: Path, tmp_path: Path) -> None:
    policy = tmp_path / "gates.toml"
    policy.write_text('version = 1\n[[gate]]\nmetric = "weights.relative_change"\nmax = 0.000001\n')
    arguments = ["compare", str(llama.base), str(llama.lora), "--probe", "none", "--quiet", "--gates", str(policy)]
    assert run([*arguments, "--out", str(tmp_path / "out")]) == 1
    gates = load_result(tmp_path / "out" / "result.json").gates
    assert gates is not None
    assert not gates.passed
    policy.write_text('version = 1\n[[gate]]\nmetric = "weights.relative_change"\nmax = 1000\n')
    assert run([*arguments, "--out", str(tmp_path / "out")]) == 0


def test_no_samples_keeps_texts_out_of_every_output(llama, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["compare", str(llama.base), str(llama.lora), "--data", str(questions), "--probe", "none"]
    assert run([*arguments, "--no-samples", "--quiet", "--out", str(out)]) == 0
    assert not (out / "samples.parquet").exists()
    assert not list(out.glob("answers.sqlite*"))
    for name in ("result.json", "report.html"):
        assert "number 3?" not in (out / name).read_text()


def test_json_prints_the_document(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", str(llama.base), str(llama.lora), "--json", "--quiet", "--out", str(tmp_path / "o")]) == 0
    assert Comparison.model_validate_json(capsys.readouterr().out).subjects[0].name == "lora"


def test_heads_are_matched_by_name_not_by_place(bert, topics: Path, tmp_path: Path, copied: Any) -> None:
    """The same model with its outputs in another order gives the same answers, label by label."""
    turned = copied(bert.full, "turned")
    tensors = load_file(turned / "model.safetensors")
    for key in ("classifier.weight", "classifier.bias"):
        tensors[key] = tensors[key].flip(0).contiguous()
    tensors["bert.embeddings.word_embeddings.weight"][0, 0] += 1e-4  # the padding token: another model, same answers
    save_file(tensors, turned / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((turned / "config.json").read_text())
    config["id2label"] = {"0": "sport", "1": "music", "2": "art"}
    config["label2id"] = {name: int(key) for key, name in config["id2label"].items()}
    (turned / "config.json").write_text(json.dumps(config))
    options = CompareOptions(
        base=str(bert.full),
        adapted=(str(turned),),
        questions=Questions(data={"": str(topics)}, probe=()),
        weights=False,
        out=tmp_path / "out",
    )
    comparison = load_result(compare(options))
    found = [found for found in pick(comparison, task="topics") if found.delta is not None and found.area == "task"]
    assert len(found) > 10
    assert all(abs(found.delta.value) < 1e-6 for found in found if found.delta)
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert all(row["base_output"] == row["adapted_output"] for row in rows)


def test_a_base_trained_for_other_labels_is_null_with_a_reason(bert, topics: Path, tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    torch.manual_seed(3)
    names = {0: "yes", 1: "no"}
    other = BertForSequenceClassification.from_pretrained(bert.base, num_labels=2, id2label=names)
    other.save_pretrained(tmp_path / "other")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "other" / file).write_text((bert.base / file).read_text())
    options = CompareOptions(
        base=str(tmp_path / "other"),
        adapted=(str(bert.full),),
        questions=Questions(data={"": str(topics)}, probe=()),
        weights=False,
        out=tmp_path / "out",
    )
    [found] = pick(load_result(compare(options)), task="topics", metric="f1_micro", slice=None)
    assert found.base is None
    assert found.missing_reason
    assert found.adapted is not None


def test_running_again_keeps_what_raters_said(llama, tmp_path: Path) -> None:
    arguments = ["weights", str(llama.base), str(llama.lora), "--quiet", "--out", str(tmp_path / "out")]
    assert run(arguments) == 0
    path = tmp_path / "out" / "result.json"
    document = json.loads(path.read_text())
    study = {
        "study": "study-1", "commitment": "hmac-1", "seed": 0, "language": "en", "tasks": [],
        "systems": ["base", "lora"], "raters": [], "alphas": [], "pairs": [],
    }  # fmt: skip
    document["human"] = {"studies": [study]}
    path.write_text(json.dumps(document))
    assert run(arguments) == 0
    kept = load_result(path).human
    assert kept is not None
    assert [each.study for each in kept.studies] == ["study-1"]
