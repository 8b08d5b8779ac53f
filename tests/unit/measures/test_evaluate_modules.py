from __future__ import annotations

from pathlib import Path

import evaluate
import pytest

from lorascope.errors import ConfigError, DataError
from lorascope.measures.evaluate_modules import load, names
from lorascope.measures.registry import MEASURES, Kind
from lorascope.measures.text import score_text

LABELS = {"predictions": [[0.9, 0.2], [0.1, 0.8], [0.7, 0.6]], "references": [[1, 0], [0, 1], [1, 0]]}
INPUTS: dict[Kind, dict[str, list]] = {
    "text": {
        "predictions": ["the cat sat on a mat", "今天天气"],
        "references": [["the cat sat on a mat"], ["今天", "天"]],
    },
    "labels": LABELS,
    "score": {"predictions": [0.1, 0.5, 0.4], "references": [0.0, 1.0, 0.3]},
    "tokens": {"predictions": [["B-X", "O"]], "references": [["B-X", "B-Y"]]},
    "choice": {"predictions": [[-1.0, -2.0]], "references": [{"answer": 0, "choices": ["a", "b"]}]},
    "likelihood": {"predictions": [-3.0, -4.0], "references": [{"tokens": 2, "bytes": 7}, {"tokens": 3, "bytes": 9}]},
    "forgetting": {"predictions": [True, False, True], "references": [True, True, False]},
}


@pytest.mark.parametrize("name", names())
def test_every_measure_is_an_offline_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache"))
    module = load(name)
    assert isinstance(module, evaluate.Metric)
    known = {"known_sets": [[True, False], [True, True]]} if name == "unseen_set_rate" else {}
    found = module.compute(**INPUTS[MEASURES[name].kinds[0]], resamples=20, **known)
    assert found[name] is not None
    assert found["signature"].startswith(name)
    assert not (tmp_path / "cache").exists()


def test_batches_add_up() -> None:
    module = load("rougeL")
    module.add_batch(predictions=["a b"], references=[["a c"]])
    module.add(prediction="d", reference=["d"])
    direct = score_text(["a b", "d"], [["a c"], ["d"]], ["rougeL"])["rougeL"]
    assert module.compute()["rougeL"] == direct.value


def test_options_reach_the_measure() -> None:
    low, high = (load("f1_micro").compute(**LABELS, thresholds=t)["f1_micro"] for t in (0.65, 0.95))
    assert (low, high) == (1.0, 0.0)
    flat = {"predictions": [True] * 20, "references": [True] * 10 + [False] * 10}
    assert load("retained_fraction").compute(**flat, chance=0.5)["retained_fraction"] is None


def test_accuracy_by_kind() -> None:
    assert load("accuracy", kind="labels").compute(**LABELS)["accuracy"] == 1.0
    assert load("accuracy").compute(**INPUTS["choice"])["accuracy"] == 1.0


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        load("rouge_L")
    with pytest.raises(ConfigError, match="no measure of kind"):
        load("bleu", kind="labels")
    with pytest.raises(ConfigError, match="no measure of kind"):
        load("intruder_count")


def test_wrong_nesting_is_refused() -> None:
    with pytest.raises((ValueError, DataError)):
        load("bleu").compute(predictions=["a b"], references=["a b"])
