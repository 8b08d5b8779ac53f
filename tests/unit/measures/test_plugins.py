"""Metrics from outside: entry points, and modules of the evaluate library on a local path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope.errors import ConfigError, DataError
from lorascope.measures import plugins, registry
from lorascope.measures.plugins import (
    PluginMetric,
    is_plugged_in,
    load_metric,
    module_of,
    plugin_names,
    prove_metric,
    score_plugin,
)
from lorascope.measures.registry import MeasureSpec, find_spec, names_of, register

MODULE = """
import datasets
import evaluate


class Module(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="A module of a test.", citation="", inputs_description="",
            features=datasets.Features({{"predictions": datasets.Value("{kind}"), "references": {references}}}),
        )

    def _compute(self, predictions, references):
        return {body}
"""
ONE, SEVERAL = 'datasets.Value("string")', 'datasets.Sequence(datasets.Value("string"))'
SHARE = "sum(a == b for a, b in zip(predictions, references)) / len(predictions)"


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test loads is unknown to the next."""
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(registry, "_PLUGGED_IN", {})


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``module(body)`` writes an evaluate module and returns its metric's name."""
    import evaluate

    for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE"):
        monkeypatch.setattr(evaluate.config, name, tmp_path / name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        monkeypatch.delitem(sys.modules, name)
    made = []

    def make(body: str, references: str = ONE, kind: str = "string") -> str:
        made.append(1)
        path = tmp_path / f"share{len(made)}.py"
        path.write_text(MODULE.format(body=body, references=references, kind=kind))
        return f"evaluate:{path}"

    return make


class Point:
    """An entry point that loads what it is given."""

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.value, self.dist, self._found = name, "package:metric", None, found

    def load(self) -> Any:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


def install(monkeypatch: pytest.MonkeyPatch, **metrics: Any) -> None:
    points = [Point(name, found) for name, found in metrics.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "lorascope.metrics" else [])


def lengths(predictions: list[str], references: list[list[str]]) -> list[float]:
    return [float(len(text)) for text in predictions]


def test_a_function_is_a_metric_without_a_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, length=lengths)
    assert is_plugged_in("length")
    assert plugin_names() == ["length"]
    load_metric("length")
    scored = score_plugin("length", ["ab", "abcd"], [["x"], ["y"]])
    assert scored.value == 3.0
    assert list(scored.item_values()) == [2.0, 4.0]
    spec = find_spec("length")
    assert (spec.direction, spec.scale, spec.margin) == ("none", "unbounded", None)
    assert find_spec("length_gap").kinds == ("gap",)
    assert "length" not in names_of("text")


def test_a_described_metric_keeps_its_direction_scale_and_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = PluginMetric(
        score=lambda p, r: [1.0] * len(p), direction="lower", scale="0-1", unit="fraction", version="3"
    )
    install(monkeypatch, risk=metric)
    load_metric("risk")
    spec = find_spec("risk")
    assert (spec.direction, spec.unit, spec.margin) == ("lower", "fraction", 0.02)
    scored = score_plugin("risk", ["a"], [["a"]])
    assert scored.measure.direction == "lower"
    assert scored.signature == "risk|plug-in:3|mean:items"


def test_a_built_in_name_is_never_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, rougeL=lengths)
    assert not is_plugged_in("rougeL")
    assert plugin_names() == []
    with pytest.raises(ConfigError, match="built-in"):
        register(MeasureSpec("bleu", ("text",), "points", "0-100", "higher", 2.0, "Another."))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda p, r: [1.0], "1 values for 2 items"),
        (lambda p, r: [1.0, float("nan")], "gave nan for item 1"),
        (lambda p, r: 1 / 0, "ZeroDivisionError"),
        (lambda p, r: ["high", "low"], "could not convert"),
    ],
)
def test_metrics_that_fail_are_named(monkeypatch: pytest.MonkeyPatch, answer: Any, said: str) -> None:
    install(monkeypatch, odd=answer)
    load_metric("odd")
    with pytest.raises(DataError, match=said) as caught:
        score_plugin("odd", ["a", "b"], [["a"], ["b"]])
    assert "metric 'odd'" in str(caught.value)
    with pytest.raises(ConfigError):
        prove_metric("odd", [["a"], ["b"]])


def test_entry_points_that_are_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, number=5, broken=ImportError("no module"))
    for name, said in (("number", "neither"), ("broken", "cannot be imported"), ("absent", "no installed package")):
        with pytest.raises(ConfigError, match=said):
            load_metric(name)


def test_a_module_is_asked_item_by_item(module: Callable[..., str]) -> None:
    name = module("{'share': " + SHARE + "}")
    load_metric(name)
    scored = score_plugin(name, ["a", "b", "c"], [["a"], ["x"], ["c"]])
    assert list(scored.item_values()) == [1.0, 0.0, 1.0]
    assert find_spec(name).direction == "none"


def test_of_several_references_the_best_counts_where_a_direction_is_said(module: Callable[..., str]) -> None:
    plain = module("{'share': " + SHARE + ", 'zero': 0.0}") + "#share"
    expected = {"": [0.5, 0.0], "|higher": [1.0, 0.0], "|lower": [0.0, 0.0]}
    for suffix, values in expected.items():
        load_metric(plain + suffix)
        scored = score_plugin(plain + suffix, ["a", "b"], [["x", "a"], ["x", "y"]])
        assert list(scored.item_values()) == values
    assert find_spec(plain + "|lower").direction == "lower"


def test_a_module_that_answers_by_item_is_asked_once(module: Callable[..., str]) -> None:
    body = "{'hits': [float(a in b) + 10 * (len(predictions) > 1) for a, b in zip(predictions, references)]}"
    name = module(body, SEVERAL)
    load_metric(name)
    scored = score_plugin(name, ["a", "b"], [["x", "a"], ["x"]])
    assert list(scored.item_values()) == [11.0, 10.0]


def test_a_list_that_is_not_one_value_an_item_is_refused(module: Callable[..., str]) -> None:
    name = module("{'precisions': [0.1, 0.2]}", SEVERAL)
    load_metric(name)
    with pytest.raises(ConfigError, match="metric failed"):
        prove_metric(name, [["a"], ["b"]])


def test_modules_that_do_not_fit_say_so_before_a_model_runs(module: Callable[..., str]) -> None:
    several, numbers = module("{'a': 1.0, 'b': 2.0}"), module("{'a': 1.0}", kind="int32")
    for name, said in ((several, "add #KEY"), (several + "#c", "choose from a, b"), (numbers, "metric failed")):
        load_metric(name)
        with pytest.raises(ConfigError) as caught:
            prove_metric(name, [["x"]])
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("evaluate:", "not of the form"),
        ("evaluate:a#b|sideways", "not of the form"),
        ("evaluate:{}/broken.py", "cannot be loaded"),
    ],
)
def test_modules_that_cannot_be_loaded(name: str, said: str, tmp_path: Path, module: Callable[..., str]) -> None:
    (tmp_path / "broken.py").write_text("import no_such_library_at_all\n")
    with pytest.raises(ConfigError, match=said):
        load_metric(name.format(tmp_path))


def test_a_hub_name_without_a_network_is_an_error_with_a_way_out(
    module: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluate

    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("the hub cannot be reached")

    monkeypatch.setattr(evaluate, "load", offline)
    with pytest.raises(ConfigError, match="the hub cannot be reached") as caught:
        load_metric("evaluate:exact_match")
    assert "give its path" in str(caught.value)
    assert module_of("evaluate:exact_match#score|higher") == "exact_match"
    assert module_of("exact_match") is None
