"""The weight section prints every number with its name and leaves out what nobody measured, never as a zero."""

from __future__ import annotations

import json
from types import ModuleType

from lorascope.report.html import render_html
from lorascope.report.sentences import subject_verdicts
from lorascope.report.texts import load_texts
from lorascope.report.weight_section import pair_rows, weight_context, weight_data
from lorascope.schema.comparison import Comparison

WORDS = load_texts("en")


def facts_of(comparison: Comparison, at: int) -> dict[str, str]:
    data = weight_data(comparison, WORDS)
    module = comparison.weights["lora-r16"].modules[at]
    return dict(zip(data["facts"], data["modules"]["lora-r16"][module.name]["facts"], strict=True))


def test_the_panel_has_every_number_of_a_module(traced: Comparison) -> None:
    facts = facts_of(traced, 13)
    assert facts["Amplification"] == "28.0"
    assert facts["Rank for 95 %"] == "8"
    assert (facts["Intruders, left"], facts["of these, new directions"], facts["of these, rotations"]) == (
        "8", "6", "2"
    )  # fmt: skip
    assert facts["Intruders of a random update"] == "3"
    assert facts["‖ΔW‖₂/‖W₀‖₂"] == "21\u00a0%"
    assert facts["Unchanged entries"] == "0.2\u00a0%"
    assert "–" not in facts.values()


def test_what_is_not_known_is_absent_and_not_zero(causal: Comparison) -> None:
    facts = facts_of(causal, 14)
    assert facts["Intruders, left"] == "3"
    for name in ("Amplification", "Rank for 90 %", "of these, rotations", "of these, new directions", "Rounding floor"):
        assert facts[name] == "–", name
    unjudged = facts_of(causal, -1)
    assert {unjudged["Intruders, left"], unjudged["Undecided"], unjudged["Intruder energy"]} == {"–"}


def test_the_table_has_only_columns_that_somebody_measured(causal: Comparison, traced: Comparison) -> None:
    old, new = (weight_context(each, WORDS)["module_tables"][0] for each in (causal, traced))
    assert "amplification" not in old.columns
    assert {"amplification", "rank_90", "rotations", "null_count"} <= set(new.columns)
    for table in (old, new):
        assert all(len(row.values) == len(table.columns) - 1 for row in table.rows)
        assert all(f"module.{name}" in WORDS.by_key for name in table.columns)


def test_totals_stand_in_reading_order_with_words(traced: Comparison) -> None:
    totals = weight_context(traced, WORDS)["totals"]
    labels = [row.label for row in totals.rows]
    assert labels[:5] == [
        "Relative change", "Intruders, left", "Intruders that are new directions", "Intruders that are rotations",
        "Intruders of a random update of the same norm and rank",
    ]  # fmt: skip
    assert not any("_" in label for label in labels)
    printed = {row.label: row.values[0] for row in totals.rows}
    assert printed["Amplification, median"] == "21.5"
    assert printed["Intruder energy of the random update"] == "8.3\u00a0%"
    assert printed["Rank for 99 %, mean"] == "12.9"
    assert printed["Modules whose intruder count is at its limit"] == "0"


def test_further_thresholds_stand_below_the_count_that_they_repeat(traced: Comparison) -> None:
    for report, counts in zip(traced.weights.values(), ((4.0, 61.0), (None, 30.0), (1.0, 2.0)), strict=True):
        report.totals |= {"intruder_count@0.3": counts[0], "intruder_count@0.7": counts[1]}
    rows = weight_context(traced, WORDS)["totals"].rows
    assert [row.label for row in rows][1:4] == ["Intruders, left", "Intruders at ε = 0.3", "Intruders at ε = 0.7"]
    assert rows[2].values == ("4", "–", "1")
    (said,) = [each.text for each in subject_verdicts(traced)[0].sentences if each.topic == "weights"]
    assert said.endswith("Counted at other thresholds: 4 at ε = 0.3, 61 at ε = 0.7.")


def test_what_matters_of_a_module_comes_first(traced: Comparison) -> None:
    columns = weight_context(traced, WORDS)["module_tables"][0].columns
    assert columns[:8] == (
        "name", "shape", "relative_change", "left", "new", "rotations", "null_count", "energy"
    )  # fmt: skip


def test_the_script_gets_values_and_scale_of_every_measure(traced: Comparison) -> None:
    data = weight_data(traced, WORDS)
    assert list(data["scale"]) == ["change", "left", "corrected", "energy", "right", "amplification"]
    assert data["scale"]["corrected"] == {"low": "−5", "high": "+5", "both": True}
    assert data["scale"]["amplification"] == {"low": "0", "high": "28", "both": False}
    for modules in data["modules"].values():
        for module in modules.values():
            assert set(module["map"]) == set(data["scale"])
            assert {vector[2] for vector in module["vectors"]} <= set(data["marks"])
    json.dumps(data, allow_nan=False)


def test_few_pairs_are_charts_and_many_a_table(factory: ModuleType, traced: Comparison) -> None:
    assert pair_rows(traced) == []
    many = factory.traced_weights_comparison(tuple(f"run{at}" for at in range(5)))
    found = pair_rows(many)
    assert len(found) == 10
    assert (found[0].first, found[0].second) == ("run3", "run4")
    assert found[0].similarities[-1] == ("0.76", "0.46–1.00")
    assert [value for value, _ in found[0].similarities] == ["0.95", "0.90", "0.83", "0.76"]
    assert found[0].random == "0.00049–0.004"
    values = [float(row.similarities[-1][0]) for row in found]
    assert values == sorted(values, reverse=True)


def test_a_curve_that_ends_early_has_no_value_at_eight(factory: ModuleType) -> None:
    many = factory.traced_weights_comparison(tuple(f"run{at}" for at in range(5)))
    short = next(series for series in many.series if series.name == "subspace_similarity:run4")
    assert short.low is not None
    assert short.high is not None
    for values in (short.x, short.y, short.low, short.high):
        del values[7:]
    last = pair_rows(many)[-1]
    assert (last.first, last.second, last.similarities[-1]) == ("run0", "run4", ("–", ""))
    assert last.similarities[2][0] != "–"


def test_the_page_has_the_groups_and_the_switch(factory: ModuleType, traced: Comparison) -> None:
    html = render_html(traced, None)
    for said in ("How certain the counts are", "Growth over training", "Directions that subjects share"):
        assert f"<h3>{said}</h3>" in html
    assert "Task after task" not in html
    assert html.count('name="weights-show"') == 6
    assert html.count('data-chart="growth-') == 4
    many = render_html(factory.traced_weights_comparison(tuple(f"run{at}" for at in range(5))), None)
    assert 'class="counts pairs"' in many
    assert '<th scope="col" class="num">φ(8)</th>' in many
    assert 'class="counts pairs"' not in html


def test_old_results_keep_a_page_without_the_new_parts(causal: Comparison) -> None:
    html = render_html(causal, None, language="zh")
    assert html.count('name="weights-show"') == 4
    assert 'data-chart="growth-' not in html
    assert 'class="counts pairs"' not in html


def test_the_sentence_says_what_chance_would_give(causal: Comparison, traced: Comparison) -> None:
    (said,) = [each.text for each in subject_verdicts(traced)[0].sentences if each.topic == "weights"]
    assert "31 of the intruders are rotations inside the base's leading directions, not new directions." in said
    assert "123 intruder dimensions in the 28 modules judged; a random update of the same norm and rank has 31." in said
    traced.weights["lora-r16"].totals["null_intruder_count"] = 123.0
    (said,) = [each.text for each in subject_verdicts(traced)[0].sentences if each.topic == "weights"]
    assert "judged, no more than a random update of the same norm and rank has: 123." in said
    (plain,) = [each.text for each in subject_verdicts(causal)[0].sentences if each.topic == "weights"]
    assert "random" not in plain
    assert "rotation" not in plain
