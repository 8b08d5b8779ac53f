"""Real pretrained weights: the example on the 22 M BERT as it stands, and its numbers against plain torch and PEFT."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from peft import PeftModel
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lorascope import load_result
from lorascope.schema.comparison import Comparison

EXAMPLE = Path(__file__).parents[2] / "examples" / "multilabel_minilm.py"
CHECKED = ("encoder.layer.0.attention.self.query", "encoder.layer.3.intermediate.dense", "encoder.layer.5.output.dense")

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("multilabel_minilm", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, run as a user runs it, with few steps."""
    out = tmp_path_factory.mktemp("minilm")
    command = [sys.executable, str(EXAMPLE), "--out", str(out), "--steps", "6", "--limit", "40", "--head-rate", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "report.html" in done.stdout
    return out


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return load_result(folder / "report" / "result.json")


def test_training_and_validation_share_no_question(example: ModuleType) -> None:
    train, validation = example.probe_texts(0)
    assert not {str(row["text"]) for row in train} & {str(row["text"]) for row in validation}


def test_both_subjects_are_measured_and_the_base_says_why_it_is_not(comparison: Comparison) -> None:
    whole = [found for found in comparison.measurements if found.metric == "f1_micro" and found.slice is None]
    assert {(found.subject, found.reference) for found in whole} == {
        ("lora", "minilm"),
        ("full", "minilm"),
        ("full", "lora"),
    }
    assert all(found.base is None and found.missing_reason for found in whole if found.reference == "minilm")
    assert {found.metric for found in comparison.measurements if found.area == "drift"} == {"cka", "cosine"}
    assert any(series.name == "train_loss" for series in comparison.series)


def test_f1_is_what_transformers_and_scikit_learn_say(
    folder: Path, comparison: Comparison, example: ModuleType
) -> None:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(folder / "report" / "samples.parquet").to_pylist()
    rows = [row for row in rows if row["subject"] == "full"]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "full").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "full")
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    with torch.inference_mode():
        logits = torch.cat([model(**tokenizer(row["prompt"], return_tensors="pt")).logits for row in rows])
    predicted = (logits.sigmoid() >= 0.5).numpy()
    truth = [[name in row["references"][0].split(", ") for name in names] for row in rows]
    [found] = [
        found
        for found in comparison.measurements
        if (found.subject, found.metric, found.slice, found.reference) == ("full", "f1_micro", None, "minilm")
    ]
    if found.adapted is None:
        assert not predicted.any()
    else:
        assert found.adapted.value == pytest.approx(f1_score(truth, predicted, average="micro"), abs=1e-9)


def test_intruders_are_those_of_two_plain_svds(folder: Path, comparison: Comparison, example: ModuleType) -> None:
    """The published algorithm on what PEFT itself merges."""
    base = AutoModelForSequenceClassification.from_pretrained(example.minilm(), num_labels=10)
    before = {name: base.get_parameter(f"bert.{name}.weight").detach().clone() for name in CHECKED}
    merged = PeftModel.from_pretrained(base, folder / "lora").merge_and_unload()
    modules = {module.name: module for module in comparison.weights["lora"].modules}
    for name in CHECKED:
        after = merged.get_parameter(f"bert.{name}.weight").detach()
        left, right = torch.linalg.svd(before[name], full_matrices=False)[0], torch.linalg.svd(after)[0][:, :10]
        largest = (left.T @ right).abs().max(dim=0).values
        report = modules[name].intruders
        assert report is not None
        assert report.count == int((largest < 0.5).sum())
        assert torch.allclose(torch.tensor([vector.low for vector in report.vectors]), largest, atol=2e-3)
        delta = after - before[name]
        assert modules[name].relative_change == pytest.approx(float(delta.norm() / before[name].norm()), rel=1e-3)
