"""Charts are valid Vega-Lite, say what they show, and put better to the right."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import altair as alt
import pytest

from lorascope.report import charts
from lorascope.report.curve_charts import distinct_runs, thinned
from lorascope.schema.comparison import Comparison, Series


def all_charts(comparison: Comparison) -> dict[str, charts.Spec]:
    found: dict[str, charts.Spec | None] = {
        **charts.forest_charts(comparison),
        **charts.category_charts(comparison),
        **charts.sweep_charts(comparison),
        "flips": charts.flips_chart(comparison),
        "drift": charts.drift_chart(comparison),
    }
    for subject in comparison.subjects:
        found[f"curve {subject.name}"] = charts.curve_chart(comparison, subject.name)
        report = comparison.weights.get(subject.name)
        if report:
            found[f"spectrum {subject.name}"] = charts.spectrum_chart(comparison, subject.name, report.modules[0])
    return {name: spec for name, spec in found.items() if spec is not None}


def encodings(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [layer["encoding"] for layer in spec["layer"] if "encoding" in layer]


def test_every_chart_is_valid_and_says_what_it_shows(causal: Comparison, labels: Comparison) -> None:
    drawn = {**all_charts(causal), **all_charts(labels)}
    assert len(drawn) >= 10
    for name, spec in drawn.items():
        alt.Chart.from_dict({**spec, "$schema": alt.SCHEMA_URL}, validate=True)
        assert spec["title"]["text"], name
        assert spec["description"], name
        titles = [e.get(axis, {}).get("title") for e in encodings(spec) for axis in ("x", "y")]
        assert any(titles), name
        json.dumps(spec, allow_nan=False)


def test_one_forest_per_scale(causal: Comparison) -> None:
    forests = charts.forest_charts(causal)
    assert list(forests) == ["0-1", "0-100", "nats"]
    rows = forests["0-1"]["datasets"]["rows"]
    assert {row["label"] for row in rows} == {
        "support · rougeL", "support · exact_match", "general-knowledge-en · accuracy"
    }  # fmt: skip
    assert forests["0-100"]["title"]["subtitle"] == "metrics from 0 to 100"


def test_other_references_have_their_own_forest(causal: Comparison) -> None:
    rows = charts.forest_charts(causal, "full-ft")["0-1"]["datasets"]["rows"]
    assert [(row["subject"], row["printed"]) for row in rows] == [("lora-r16", "−0.027 ?"), ("lora-r16", "+0.109 ▲")]


def test_lower_is_better_is_turned(factory: ModuleType, causal: Comparison) -> None:
    causal.measurements = [
        factory.measurement("lora-r16", "hamming_loss", 0.3, 0.1, task="support", direction="lower", spread=0.05)
    ]
    (row,) = charts.forest_charts(causal)["0-1"]["datasets"]["rows"]
    assert row["value"] == pytest.approx(0.2)
    assert (row["low"], row["high"]) == (pytest.approx(0.15), pytest.approx(0.25))
    assert "turned" in row["label"]
    assert row["verdict"] == "improved"


def test_a_difference_without_interval_keeps_its_point(factory: ModuleType, causal: Comparison) -> None:
    found = factory.measurement("lora-r16", "rougeL", 0.3, 0.4, task="support")
    found.delta.low = found.delta.high = None
    causal.measurements = [found]
    (row,) = charts.forest_charts(causal)["0-1"]["datasets"]["rows"]
    assert (row["low"], row["high"]) == (None, None)
    assert row["value"] == pytest.approx(0.1)


def test_metrics_without_verdict_stay_out(causal: Comparison) -> None:
    labels_shown = [row["label"] for row in charts.forest_charts(causal)["nats"]["datasets"]["rows"]]
    assert not any("kl_to_base" in label for label in labels_shown)


def test_gold_margin_is_the_first_category_chart(causal: Comparison) -> None:
    assert next(iter(charts.category_charts(causal))).endswith("gold_margin")


def test_flips_go_both_ways(causal: Comparison) -> None:
    spec = charts.flips_chart(causal)
    assert spec is not None
    rows = spec["datasets"]["rows"]
    assert sorted({row["signed"] > 0 for row in rows}) == [False, True]
    assert {(row["subject"], row["printed"]) for row in rows if row["signed"] < 0} == {
        ("lora-r16", "▼ 9.6\u00a0%"), ("full-ft", "▼ 26\u00a0%")
    }  # fmt: skip


def test_curves_share_one_loss_axis_and_mark_steps(causal: Comparison) -> None:
    lora, full = (charts.curve_chart(causal, name) for name in ("lora-r16", "full-ft"))
    assert lora is not None
    assert full is not None
    domains = [
        next(e["y"]["scale"]["domain"] for e in encodings(spec) if "scale" in e.get("y", {})) for spec in (lora, full)
    ]
    assert domains[0] == domains[1]
    assert "rises from step 280" in json.dumps(full)
    assert "rises from" not in json.dumps(lora)


@pytest.mark.parametrize(
    ("architecture", "unit"),
    [
        ("LlamaForCausalLM", "loss, nats per token"),
        ("GPT2LMHeadModel", "loss, nats per token"),
        ("BertForSequenceClassification", "loss"),
        ("BertModel", "loss"),
    ],
)
def test_the_loss_has_a_unit_only_where_it_is_known(causal: Comparison, architecture: str, unit: str) -> None:
    causal.checkpoints[1].architecture = architecture
    spec = charts.curve_chart(causal, "lora-r16")
    assert spec is not None
    assert {each["y"]["title"] for each in encodings(spec) if "title" in each.get("y", {})} == {unit}


def curves(subject: str, *ends: float) -> list[Series]:
    return [Series(subject=subject, name="train_loss", x_name="step", x=[1.0, *ends], y=[2.0, *(1 / x for x in ends)])]


def test_checkpoints_of_one_run_share_the_longest_curve(factory: ModuleType) -> None:
    names = ("step-2", "step-3", "other", "single", "step-4", "bare")
    comparison = factory.comparison(
        [factory.checkpoint("base", role="base"), *map(factory.checkpoint, names)],
        series=[
            *curves("step-2", 2.0), *curves("step-3", 2.0, 3.0), *curves("other", 2.5, 3.0), *curves("single"),
            *curves("step-4", 2.0, 3.0, 4.0),
        ],
    )  # fmt: skip
    assert distinct_runs(comparison) == ["other", "single", "step-4", "bare"]
    spec = charts.curve_chart(comparison, "step-4")
    assert spec is not None
    assert spec["title"]["subtitle"] == "the curves of step-2, step-3 are part of this one"
    comparison.series += curves("bare", 2.0, 3.0, 4.0)
    assert distinct_runs(comparison) == ["other", "single", "bare"]


def test_a_validation_curve_of_its_own_keeps_a_run_apart(causal: Comparison) -> None:
    full = [series for series in causal.series if series.subject == "full-ft"]
    causal.series = [
        *full,
        *(series.model_copy(update={"subject": "lora-r16"}) for series in full if not series.name.endswith("2")),
    ]
    assert distinct_runs(causal) == ["full-ft"]
    causal.series[-1].name = "eval_loss:of its own"
    causal.series.append(causal.series[-1].model_copy(update={"name": "eval_loss:another"}))
    assert distinct_runs(causal) == ["lora-r16", "full-ft"]


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(x), 1.0) for x in range(10_000)]
    points[4321] = (4321.0, 9.0)
    kept = thinned(points, 500)
    assert len(kept) <= 502
    assert (4321.0, 9.0) in kept
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)
    assert thinned(points[:300], 500) == points[:300]


def test_nothing_measured_is_no_chart(weights_only: Comparison) -> None:
    assert charts.forest_charts(weights_only) == {}
    assert charts.category_charts(weights_only) == {}
    assert charts.sweep_charts(weights_only) == {}
    assert charts.flips_chart(weights_only) is None
    assert charts.drift_chart(weights_only) is None
    assert charts.curve_chart(weights_only, "lora-r16") is None
    bare = weights_only.weights["lora-r16"].modules[-1]
    assert charts.spectrum_chart(weights_only, "lora-r16", bare) is None


def test_subjects_differ_by_shape_as_well_as_colour(causal: Comparison) -> None:
    marks = charts.subject_marks(causal)
    assert len({colour for colour, _ in marks.values()}) == len({shape for _, shape in marks.values()}) == 2


def test_svg_is_drawn_without_a_browser(causal: Comparison) -> None:
    svg = charts.chart_svg(charts.forest_charts(causal)["0-1"], width=500)
    assert svg.startswith("<svg")
    assert "Differences from llama-tiny" in svg
    assert "+0.101 ▲" in svg
