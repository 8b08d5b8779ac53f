"""Scoring of extracted answers, of several samples an item, and by plugged-in metrics."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.tasks import LoadedTask
from lorascope.errors import ConfigError, DataError
from lorascope.measures import plugins, registry
from lorascope.schema.items import GenerateAnswer, GenerateItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.measuring import Pair, TaskAnswers, measure_task
from lorascope.workflows.scoring import Asked, extracted, right, same_outputs, score, task_info
from lorascope.workflows.tasks import Questions, load_tasks


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(registry, "_PLUGGED_IN", {})


def task(references: list[str], **more: Any) -> LoadedTask:
    spec = SuiteTask.model_validate({"name": "qa", "kind": "generate", "data": "", **more})
    items = tuple(
        GenerateItem(item_id=str(place), prompt="?", references=(text,)) for place, text in enumerate(references)
    )
    return LoadedTask(spec=spec, kind="generate", items=items, train_items=(), tuning_items=(), fingerprint="f")


def asked(loaded: LoadedTask, *samples: tuple[str, ...]) -> Asked:
    answers = [GenerateAnswer(text=first, truncated=False, others=tuple(others)) for first, *others in samples]
    return Asked(loaded.items, answers)


def test_metrics_see_the_extracted_part_and_texts_stay_whole() -> None:
    loaded = task(["42", "7", "9"], extract=r"answer: (\d+)", metrics=["exact_match", "rougeL"])
    given = asked(loaded, ("the answer: 42, I think",), ("7",), ("answer: 8",))
    assert extracted(loaded, given) == ["42", None, "8"]
    assert right(loaded, given) == [True, False, False]
    scored = score(loaded, given)
    assert list(scored["exact_match"].item_values()) == [1.0, 0.0, 0.0]
    assert scored["rougeL"].value == pytest.approx(1 / 3)
    assert scored["exact_match"].signature.endswith(r"|extract:first:answer: (\d+)")
    assert given.answers[0].text == "the answer: 42, I think"
    plain = task(["42", "7", "9"], metrics=["exact_match"])
    assert extracted(plain, given) == ["the answer: 42, I think", "7", "answer: 8"]
    assert "extract" not in score(plain, given)["exact_match"].signature


def test_samples_are_averaged_and_the_first_decides_right_and_wrong() -> None:
    loaded = task(["a b c d", "e f g h"], metrics=["exact_match", "token_f1", "bleu"])
    given = asked(loaded, ("a b c d", "x", "x y"), ("e f", "e f g h", "e f g h"))
    scored = score(loaded, given)
    assert list(scored["exact_match"].item_values()) == pytest.approx([1 / 3, 2 / 3])
    assert scored["exact_match"].value == pytest.approx(0.5)
    assert not scored["exact_match"].measure.proportion
    assert scored["exact_match"].signature.endswith("|samples:3")
    assert right(loaded, given) == [True, False]
    repeated = task(["a b c d"] * 3 + ["e f g h"] * 3, metrics=["bleu"])
    flat = asked(repeated, ("a b c d",), ("x",), ("x y",), ("e f",), ("e f g h",), ("e f g h",))
    assert scored["bleu"].value == pytest.approx(score(repeated, flat)["bleu"].value, abs=1e-9)
    assert score(loaded, asked(loaded, ("a b c d",), ("e",)))["exact_match"].measure.proportion


def test_other_samples_are_another_output() -> None:
    loaded = task(["a"])
    assert not same_outputs(asked(loaded, ("a", "b")), asked(loaded, ("a", "c")))
    assert same_outputs(asked(loaded, ("a", "b")), asked(loaded, ("a", "b")))


def test_items_with_unequal_numbers_of_samples_are_refused() -> None:
    loaded = task(["a", "b"])
    with pytest.raises(DataError, match="1 to 2 samples"):
        score(loaded, asked(loaded, ("a", "b"), ("b",)))


def test_samples_and_extraction_go_through_to_measurements() -> None:
    loaded = task(["1", "2", "3", "4"], extract=r"\d", metrics=["exact_match"])
    answers = TaskAnswers(loaded)
    answers.asked["base"] = asked(loaded, ("1", "1"), ("no", "2"), ("3", "x"), ("x", "x"))
    answers.asked["tuned"] = asked(loaded, ("1", "1"), ("2", "2"), ("3", "x"), ("x", "4"))
    [found] = measure_task(answers, [Pair("tuned", "base")], seed=0)
    assert found.base is not None
    assert found.adapted is not None
    assert found.delta is not None
    assert (found.base.value, found.adapted.value) == (0.5, 0.75)
    assert found.delta.test != "exact McNemar"


def suite(tmp_path: Path, metrics: list[str], **more: Any) -> Questions:
    rows = [{"prompt": f"{n}?", "reference": f"word {n}"} for n in range(3)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "version": 1,
        "tasks": [{"name": "qa", "kind": "generate", "data": "data.jsonl", "metrics": metrics, **more}],
    }
    (tmp_path / "suite.yaml").write_text(json.dumps(content))
    return Questions(suite=tmp_path / "suite.yaml", probe=())


def words_in(predictions: list[str], references: list[list[str]]) -> list[float]:
    return [float(len(text.split())) for text in predictions]


class Point:
    name, value, dist = "words", "package:words", None

    def load(self) -> Any:
        return words_in


def test_plugged_in_metrics_are_accepted_measured_and_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point()])
    [loaded] = load_tasks(suite(tmp_path, ["words", "exact_match"], primary="words"), False).tasks
    before, after = (
        asked(loaded, *((text,) for text in texts)) for texts in (["a", "b", "c"], ["a b", "c d", "word 2"])
    )
    answers = TaskAnswers(loaded, asked={"base": before, "tuned": after})
    found = {one.metric: one for one in measure_task(answers, [Pair("tuned", "base")], seed=0)}
    assert list(found) == ["words", "exact_match"]
    assert found["words"].delta is not None
    assert (found["words"].delta.value, found["words"].delta.verdict) == (1.0, None)
    assert task_info(loaded, after).metrics == ["words", "exact_match"]


def test_unknown_metrics_are_refused_before_a_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point()])
    with pytest.raises(ConfigError, match="'word'") as caught:
        load_tasks(suite(tmp_path, ["word"]), False)
    assert "did you mean words?" in str(caught.value)
    with pytest.raises(ConfigError, match="no evaluate module") as caught:
        load_tasks(suite(tmp_path, ["evaluate:./mine.py"]), False)
    assert "task 'qa'" in str(caught.value)


def test_an_evaluate_module_lies_beside_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE"):
        monkeypatch.setattr(evaluate.config, name, tmp_path / name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "same_start.py").write_text(
        "import datasets\nimport evaluate\n"
        "class SameStart(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        text = datasets.Value('string')\n"
        "        features = datasets.Features({'predictions': text, 'references': text})\n"
        "        return evaluate.MetricInfo(description='d', citation='', inputs_description='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'same': sum(a[:1] == b[:1] for a, b in zip(predictions, references)) / len(predictions)}\n"
    )
    name = "evaluate:./same_start.py#same|higher"
    [loaded] = load_tasks(suite(tmp_path, [name]), False).tasks
    scored = score(loaded, asked(loaded, ("walk",), ("run",), ("word",)))
    assert list(scored[name].item_values()) == [1.0, 0.0, 1.0]
    assert scored[name].measure.direction == "higher"
