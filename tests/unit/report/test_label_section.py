"""What the page shows of label tasks and of leaked items, and that no table shows it a second time."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from lorascope.report.charts import chart_svg
from lorascope.report.html import render_html
from lorascope.report.label_section import label_context, shows_labels
from lorascope.report.leak_section import is_of_leaks, leak_context, shows_leaks, without_leaks
from lorascope.report.page import page_context
from lorascope.schema.comparison import Comparison, Measurement, Series

BASE = "bert-base-zh"
SUBJECTS = ("tags-lora", "tags-full")


def label_series() -> list[Series]:
    found = [Series(subject=BASE, name="true_label_count:tags", x_name="labels", x=[0, 1, 2], y=[0.1, 0.6, 0.3])]
    for name in (BASE, *SUBJECTS):
        found.append(Series(subject=name, name="label_count:tags", x_name="labels", x=[0, 1, 2], y=[0.5, 0.4, 0.1]))
        for label in ("网络::server", "use:printing"):
            curve = f"precision_recall:tags:{label}"
            found.append(Series(subject=name, name=curve, x_name="recall", x=[0.2, 0.6, 1.0], y=[1.0, 0.7, 0.3]))
        for label, counts in (("网络::server", [12, 0, 0]), ("use:printing", [20, 8, 4])):
            worst = f"worst_label:tags:{label}"
            found.append(Series(subject=name, name=worst, x_name="true, given, right", x=[0, 1, 2], y=counts))
    return found


def leak_rows(factory: ModuleType, subject: str) -> list[Measurement]:
    common: dict[str, Any] = {"task": "tags", "reference": BASE, "n": 200}
    shares = {"none": 0.17, "exact": 0.005, "13-gram": 0.16}
    rows = [
        factory.measurement(subject, "leaked_fraction", None, value, area="leak", direction="none", spread=0.01,
                            part=None if kind == "none" else ("category", kind), **common)
        for kind, value in shares.items()
    ]  # fmt: skip
    rows.append(factory.measurement(subject, "leaked_fraction", None, 0.25, area="leak", direction="none",
                                    part=("group", "shared"), **common))  # fmt: skip
    rows += [
        factory.measurement(subject, "f1_micro", 0.5, 0.5 + gain, part=("clean", part), **common)
        for part, gain in (("clean", 0.1), ("leaked", 0.3))
    ]
    rows.append(factory.measurement(subject, "leaked_gain", None, 0.03, area="leak", direction="none", **common))
    thresholds = {"a": 0.1, "b": 0.2, "c": 0.6}
    rows += [
        factory.measurement(subject, "tuned_threshold", value / 2, value, direction="none", part=("label", label),
                            **common)
        for label, value in thresholds.items()
    ]  # fmt: skip
    return rows


@pytest.fixture
def told(factory: ModuleType) -> Comparison:
    found = factory.labels_comparison()
    kept = [each for each in found.measurements if each.metric != "f1_micro" or each.slice is not None]
    whole = [factory.measurement(name, "f1_micro", 0.5, 0.62, task="tags", reference=BASE, n=200) for name in SUBJECTS]
    added = [row for name in SUBJECTS for row in leak_rows(factory, name)]
    changed: Comparison = found.model_copy(
        update={"measurements": [*kept, *whole, *added], "series": [*found.series, *label_series()]}
    )
    return changed


def test_charts_of_one_task_by_label(told: Comparison) -> None:
    specs: dict[str, Any] = {}
    [part] = label_context(told, specs, "en")["label_parts"]
    assert (part.task, part.checkpoints) == ("tags", (BASE, *SUBJECTS))
    assert [specs[name]["title"]["text"] for name in part.curves] == ["网络::server", "use:printing"]
    assert part.counts in specs
    assert set(part.curves) < set(specs)
    lines = specs[part.curves[0]]["datasets"]["rows"]
    assert {row["checkpoint"] for row in lines if row["base"]} == {BASE}
    for name in (part.counts, *part.curves):
        assert chart_svg(specs[name]).startswith("<svg")


def test_thresholds_in_a_sentence_each(told: Comparison) -> None:
    [part] = label_context(told, {}, "en")["label_parts"]
    assert dict(part.thresholds) == {
        BASE: "median 0.10, from 0.05 to 0.30, over 3 labels",
        "tags-lora": "median 0.20, from 0.10 to 0.60, over 3 labels",
        "tags-full": "median 0.20, from 0.10 to 0.60, over 3 labels",
    }


def test_the_worst_labels_of_each_adapted_checkpoint(told: Comparison) -> None:
    [part] = label_context(told, {}, "en")["label_parts"]
    assert [name for name, _ in part.worst] == list(SUBJECTS)
    rows = [(row.label, row.f1, row.precision, row.recall, row.support, row.given) for row in part.worst[0][1]]
    assert rows[0][:2] == ("网络::server", "0.00")
    assert rows[0][2] != "0.00"  # nothing was given: the precision is undefined
    assert rows[1] == ("use:printing", "0.29", "0.50", "0.20", "20", "8")
    page = render_html(told, None)
    assert page.index("Worst labels") < page.index("Precision and recall by label")


def test_long_tails_of_label_counts_are_one_column(told: Comparison) -> None:
    sizes = [float(size) for size in range(41)]
    long = [
        each.model_copy(update={"x": sizes, "y": [1 / 41] * 41}) if "label_count" in each.name else each
        for each in told.series
    ]
    specs: dict[str, Any] = {}
    label_context(told.model_copy(update={"series": long}), specs, "en")
    rows = [row for row in specs["label-counts-tags"]["datasets"]["rows"] if row["true"]]
    assert len(rows) == 21
    assert rows[-1]["labels"] == "20+"
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-3)


def test_the_last_column_has_one_name_for_all_checkpoints(told: Comparison) -> None:
    lengths = {"true": 21, BASE: 30, SUBJECTS[0]: 21}

    def longer(each: Series) -> Series:
        size = lengths["true"] if each.name.startswith("true") else lengths.get(each.subject, 12)
        return each.model_copy(update={"x": [float(place) for place in range(size)], "y": [1 / size] * size})

    long = [longer(each) if "label_count" in each.name else each for each in told.series]
    specs: dict[str, Any] = {}
    label_context(told.model_copy(update={"series": long}), specs, "en")
    rows = specs["label-counts-tags"]["datasets"]["rows"]
    assert {row["labels"] for row in rows} == {*(str(place) for place in range(20)), "20+"}


def test_leaks_are_told_once_for_all_subjects(told: Comparison) -> None:
    specs: dict[str, Any] = {}
    context = leak_context(told, specs, "en")
    [part] = context["leak_parts"]
    assert [row.value for row in part.shares] == ["17\u00a0%", "0.5\u00a0%", "16\u00a0%", "25\u00a0%"]
    assert part.shares[0].label == "any kind"
    assert "13 words" in part.shares[2].label
    assert [gain.subject for gain in part.gains] == list(SUBJECTS)
    assert part.gains[0].value == "+0.030"
    rows = specs[part.chart]["datasets"]["rows"]
    assert [(row["part"], round(row["value"], 2)) for row in rows[:3]] == [
        ("all items", 0.12), ("clean items", 0.1), ("leaked items", 0.3),
    ]  # fmt: skip
    assert chart_svg(specs[part.chart]).startswith("<svg")
    [table] = context["leak_tables"]
    assert [row.label for block in table.blocks for row in block.rows] == ["clean", "also in the training data"]


def test_other_tables_leave_leaks_out(told: Comparison) -> None:
    assert not any(is_of_leaks(found) for found in without_leaks(told).measurements)
    context = page_context(told, None, {}, "en")
    checks, metrics = context["parts"]["checks"], context["parts"]["metrics"]
    assert checks.empty
    titles = {table.title for table in metrics.slices}
    assert not any("leaked" in title for title in titles)
    assert {"labels", "leaks"} < {name for name, _ in context["sections"]}


def test_nothing_measured_has_no_section(causal: Comparison) -> None:
    assert not shows_labels(causal)
    assert not shows_leaks(causal)
    assert label_context(causal, {}, "en")["label_parts"] == []
    assert leak_context(causal, {}, "en") == {"leak_parts": [], "leak_tables": []}


@pytest.mark.parametrize(("language", "heading"), [("en", "Tuned thresholds"), ("zh", "调优阈值")])
def test_both_languages_render(told: Comparison, language: Any, heading: str) -> None:
    page = render_html(told, None, language=language)
    assert heading in page
    assert 'id="leaks"' in page
    assert 'data-chart="leaked-gain-tags"' in page
