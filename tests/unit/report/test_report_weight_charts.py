"""Charts of weights hold all subjects, keep the certain apart from the possible, and show what chance would give."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import altair as alt
import pytest

from lorascope.report import charts, weight_charts
from lorascope.schema.comparison import Comparison, Series

SUBJECTS = ["lora-r16", "full-ft", "lora-r64"]


def rows(spec: charts.Spec) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["datasets"]["rows"]
    return found


def layers(spec: charts.Spec, mark: str) -> list[dict[str, Any]]:
    return [layer for layer in spec["layer"] if layer["mark"]["type"] == mark]


def drawn(comparison: Comparison) -> dict[str, charts.Spec]:
    return {
        f"{group} {name}": spec
        for group, specs in weight_charts.weight_charts(comparison).items()
        for name, spec in specs.items()
    }


def test_every_chart_is_valid_and_says_what_it_shows(traced: Comparison) -> None:
    found = drawn(traced)
    module = traced.weights["lora-r16"].modules[13]
    found["intervals"] = weight_charts.interval_chart(traced, "lora-r16", module)
    found["spectrum"] = weight_charts.spectrum_chart(traced, "lora-r16", module)
    assert len(found) == 3 + 4 + 3 + 2
    for name, spec in found.items():
        alt.Chart.from_dict({**spec, "$schema": alt.SCHEMA_URL}, validate=True)
        assert spec["title"]["text"], name
        assert spec["description"], name
        assert charts.chart_svg(spec, width=343).startswith("<svg"), name


def test_all_subjects_stand_in_one_chart(traced: Comparison) -> None:
    sweeps = charts.sweep_charts(traced)
    assert list(sweeps) == ["epsilon_curve", "epsilon_curve:right", "k_curve"]
    for spec in sweeps.values():
        assert {row["subject"] for row in rows(spec)} == set(SUBJECTS)
    colours = layers(sweeps["k_curve"], "line")[0]["encoding"]["color"]["scale"]
    marks = charts.subject_marks(traced)
    assert colours["domain"] == SUBJECTS
    assert colours["range"] == [marks[name][0] for name in SUBJECTS]


def test_the_band_reaches_from_certain_to_possible(traced: Comparison) -> None:
    sweeps = charts.sweep_charts(traced)
    (band,) = layers(sweeps["epsilon_curve"], "area")
    assert (band["encoding"]["y"]["field"], band["encoding"]["y2"]["field"]) == ("low", "high")
    banded = [row for row in rows(sweeps["epsilon_curve"]) if "low" in row]
    assert {row["high"] - row["low"] for row in banded} == {4.0}
    assert {0.3 < row["x"] < 0.8 for row in banded} == {True}
    assert layers(sweeps["epsilon_curve:right"], "area") == []
    assert band["encoding"]["opacity"]["scale"] == {"domain": ["up to what is possible"], "range": [0.25, 0.25]}


def test_a_curve_without_a_random_line_says_why(traced: Comparison) -> None:
    sweeps = charts.sweep_charts(traced)
    notes = {name: spec["title"].get("subtitle", "") for name, spec in sweeps.items()}
    assert notes["epsilon_curve"] == ""
    assert "left side only" in notes["epsilon_curve:right"]
    assert "own k only" in notes["k_curve"]
    traced.series = [series for series in traced.series if not series.name.startswith("null_")]
    assert not any("subtitle" in spec["title"] for spec in charts.sweep_charts(traced).values())


def test_the_legend_names_only_marks_that_occur_and_the_judged_are_drawn_last(traced: Comparison) -> None:
    module = traced.weights["lora-r16"].modules[13]
    spec = weight_charts.spectrum_chart(traced, "lora-r16", module)
    assert spec is not None
    (points,) = layers(spec, "point")
    assert points["encoding"]["color"]["legend"]["values"] == [
        "base", "adapted", "undecided", "ΔW", "new direction", "rotation"
    ]  # fmt: skip
    assert [row["line"] for row in rows(spec)][-10:] == ["adapted"] * 10
    unjudged = weight_charts.spectrum_chart(traced, "lora-r16", module.model_copy(update={"intruders": None}))
    assert unjudged is not None
    (points,) = layers(unjudged, "point")
    assert points["encoding"]["shape"]["legend"]["values"] == ["base", "ΔW"]


def test_a_random_update_is_dashed_and_without_points(traced: Comparison) -> None:
    spec = charts.sweep_charts(traced)["epsilon_curve"]
    by_chance = [row for row in rows(spec) if row.get("random")]
    assert len(by_chance) == 3 * 19
    assert {row["update"] for row in by_chance} == {"random, same norm and rank"}
    (line,) = layers(spec, "line")
    assert line["encoding"]["strokeDash"]["scale"]["range"] == [[1, 0], [5, 4]]
    (points,) = layers(spec, "point")
    assert points["transform"] == [{"filter": "!datum.random"}]
    plain = charts.sweep_charts(traced)["epsilon_curve:right"]
    assert "strokeDash" not in layers(plain, "line")[0]["encoding"]


def test_the_reports_threshold_is_marked_and_only_on_its_axis(traced: Comparison) -> None:
    sweeps = charts.sweep_charts(traced)
    (rule,) = layers(sweeps["epsilon_curve"], "rule")
    (label,) = layers(sweeps["epsilon_curve"], "text")
    assert rule["encoding"]["x"]["datum"] == 0.5
    assert label["encoding"]["text"]["value"] == "ε = 0.5"
    assert layers(sweeps["k_curve"], "rule") == []
    first = traced.weights["full-ft"].modules[0].intruders
    assert first is not None
    first.epsilon = 0.7
    assert len(layers(charts.sweep_charts(traced)["epsilon_curve"], "rule")) == 2


def test_growth_stands_in_small_multiples(traced: Comparison) -> None:
    found = weight_charts.growth_charts(traced, "growth")
    assert list(found) == ["growth", "growth:births", "growth:energy", "growth:relative_change"]
    born = [row["y"] for row in rows(found["growth:births"]) if row["subject"] == "lora-r16"]
    grown = [row["y"] for row in rows(found["growth"]) if row["subject"] == "lora-r16"]
    assert sum(born) == grown[-1]
    axis = layers(found["growth:energy"], "line")[0]["encoding"]["y"]["axis"]
    assert axis["labelExpr"] == "format(100 * datum.value, '.3~g') + '\u00a0%'"
    assert weight_charts.growth_charts(traced, "sequence") == {}


def test_a_run_that_is_no_subject_gets_its_own_mark(traced: Comparison) -> None:
    traced.series.append(
        Series(subject="runs/sequence", name="sequence", x_name="stage", x=[1.0, 2.0, 3.0], y=[2.0, None, 7.0])
    )
    (spec,) = weight_charts.growth_charts(traced, "sequence").values()
    assert [(row["x"], row["y"]) for row in rows(spec)] == [(1.0, 2.0), (3.0, 7.0)]
    line = layers(spec, "line")[0]["encoding"]
    assert line["x"]["title"] == "stage: tasks trained so far"
    marks = charts.subject_marks(traced)
    assert list(marks) == [*SUBJECTS, "runs/sequence"]
    assert line["color"]["scale"]["range"] == [marks["runs/sequence"][0]]
    assert marks["runs/sequence"] not in [marks[name] for name in SUBJECTS]


def test_long_names_share_no_row_of_the_legend(factory: ModuleType) -> None:
    names = ("short", "a-run-with-a-long-name/checkpoint-1000", "another", "fourth")
    spec = charts.sweep_charts(factory.traced_weights_comparison(names))["k_curve"]
    legend = layers(spec, "line")[0]["encoding"]["color"]["legend"]
    assert (legend["columns"], legend["labelLimit"]) == (1, 250)
    few = charts.sweep_charts(factory.traced_weights_comparison(("a", "b")))["k_curve"]
    assert "columns" not in layers(few, "line")[0]["encoding"]["color"]["legend"]


def test_pairs_have_their_random_level(traced: Comparison) -> None:
    found = weight_charts.similarity_charts(traced)
    assert [spec["title"]["text"] for spec in found.values()] == [
        "lora-r16 and full-ft", "lora-r16 and lora-r64", "full-ft and lora-r64"
    ]  # fmt: skip
    first = rows(next(iter(found.values())))
    assert {row["level"] for row in first} == {"this pair", "random subspaces"}
    assert [row["y"] for row in first if row["level"] == "random subspaces"][7] == pytest.approx(8 / 2048)


def test_a_pair_recorded_both_ways_counts_once(factory: ModuleType, traced: Comparison) -> None:
    traced.series += factory.pair_series("full-ft", "lora-r16", 0.5)
    pairs = weight_charts.similarity_pairs(traced)
    assert (pairs[0].subject, weight_charts.other_of(pairs[0])) == ("lora-r16", "full-ft")
    assert len(pairs) == 3
    lone = [series for series in traced.series if not series.name.startswith("subspace_random")]
    traced.series = lone
    spec = next(iter(weight_charts.similarity_charts(traced).values()))
    assert {row["level"] for row in rows(spec)} == {"this pair"}


@pytest.mark.parametrize(("subjects", "charts_drawn"), [(3, 3), (4, 0)])
def test_more_than_three_pairs_are_left_to_the_table(factory: ModuleType, subjects: int, charts_drawn: int) -> None:
    many = factory.traced_weights_comparison(tuple(f"run{at}" for at in range(subjects)))
    assert len(weight_charts.similarity_charts(many)) == charts_drawn


def test_nothing_measured_is_no_chart(weights_only: Comparison) -> None:
    assert drawn(weights_only) == {}
    bare = weights_only.weights["lora-r16"].modules[-1]
    assert weight_charts.interval_chart(weights_only, "lora-r16", bare) is None


def test_the_intervals_name_all_marks_and_the_threshold(traced: Comparison) -> None:
    spec = weight_charts.interval_chart(traced, "lora-r16", traced.weights["lora-r16"].modules[13])
    assert spec is not None
    (point,) = layers(spec, "point")
    assert point["encoding"]["y"]["field"] == "decides"
    names, shapes = (point["encoding"]["shape"]["scale"][key] for key in ("domain", "range"))
    assert names == ["adapted", "undecided", "new direction", "rotation"]
    assert len(set(shapes)) == 4
    assert {row["mark"] for row in rows(spec)} <= set(names)
    rule, bounds = layers(spec, "rule")
    assert (rule["encoding"]["y"]["field"], rule["encoding"]["y"]["aggregate"]) == ("epsilon", "min")
    assert (bounds["encoding"]["y"]["field"], bounds["encoding"]["y2"]["field"]) == ("low", "high")
