"""The section on a repair scan: every variant is in it, better is up and right, and it fits a terminal."""

from __future__ import annotations

import html
import io
import json
import re
from types import ModuleType
from typing import Any, get_args

import pytest
from rich.cells import cell_len
from rich.console import Console

from lorascope.report.charts import chart_svg
from lorascope.report.html import render_html
from lorascope.report.repair_section import pareto_chart, print_repair, repair_context
from lorascope.report.repair_words import verdict_text, verdict_title
from lorascope.report.texts import load_texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.repair import (
    RepairAdvice,
    RepairAxis,
    RepairChange,
    RepairContrast,
    RepairMetric,
    RepairPoint,
    RepairReason,
    RepairReport,
    RepairRow,
    RepairValue,
    RepairVerdict,
)

TARGET = RepairAxis(tasks=["manual"], metric="rougeL", unit="fraction", scale="0-1", direction="higher")
KEPT = RepairAxis(tasks=["en", "zh"], metric="gold_margin", unit="nats", scale="unbounded", direction="higher")
LOST = RepairAxis(tasks=["en", "zh"], metric="forgotten_rate", unit="fraction", scale="0-1", direction="lower")


def metric(axis: RepairAxis, value: float, change: float | None = None) -> RepairMetric:
    shown = RepairValue(value=value, low=value - 0.04, high=value + 0.04, n=960)
    moved = None
    if change is not None:
        moved = RepairChange(value=change, low=change - 0.02, high=change + 0.02, n=960, p_value=0.01, margin=0.1)
    return RepairMetric(axis=axis, value=shown, change=moved)


def row(family: Any, strength: float, control: Any = None, **changed: Any) -> RepairRow:
    """The stronger the repair, the more comes back; a control brings back half of it."""
    gain = (1 - strength) * (0.3 if control else 0.6)
    cost = (1 - strength) ** 2 * 0.2
    values: dict[str, Any] = {
        "name": f"{family} {strength:g}" + (f", {control}" if control else ""),
        "family": family,
        "strength": strength,
        "control": control,
        "relative_norm": strength if family == "strength" else 0.5 + strength / 2,
        "target": metric(TARGET, 0.5 - cost, -cost),
        "retention": metric(KEPT, gain, gain),
        "others": [metric(LOST, 0.3 - gain / 3, -gain / 3)],
        "front": control is None and family == "all",
    }
    return RepairRow(**{**values, **changed})


def repair_report(**changed: Any) -> RepairReport:
    rows = [row("strength", strength) for strength in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25)]
    rows += [
        row(family, strength, control)
        for family in ("top", "all")
        for strength in (0.1, 0.3, 0.5, 0.7, 0.9)
        for control in (None, "shrink", "neighbour", "random")
    ]
    dropped = {"target": None, "retention": None, "others": [], "front": False}
    rows.append(row("all", 0.95, screened_out=True, **dropped))
    rows.append(row("all", 0.97, note="the answers are not finite", **dropped))
    forgotten = RepairChange(value=0.61, low=0.5, high=0.72, n=960)
    contrasts = [
        RepairContrast(
            family="all",
            strength=0.5,
            control=control,
            retention=RepairChange(value=0.15, low=0.1, high=0.2, n=960, p_value=0.0001),
            target=RepairChange(value=0.01, low=-0.01, high=0.03, n=300, margin=0.02),
            target_kept=True,
            p_adjusted=0.0005,
        )
        for control in ("shrink", "neighbour", "random")
    ]
    values: dict[str, Any] = {
        "subject": "lora-r16",
        "k": 10,
        "epsilon": 0.5,
        "modules": 14,
        "intruders": {"top": 11, "all": 23},
        "target": TARGET,
        "retention": KEPT,
        "base": RepairPoint(target=metric(TARGET, 0.2), retention=metric(KEPT, 0.61, 0.61)),
        "adapted": RepairPoint(target=metric(TARGET, 0.5), retention=metric(KEPT, 0.0)),
        "flipped_items": 120,
        "rows": rows,
        "contrasts": contrasts,
        "verdict": RepairVerdict(
            outcome="explains",
            items=960,
            forgotten=forgotten,
            contrast_margin=0.122,
            best="all 0.5",
            lambdas=(0.1, 0.9),
        ),
        "advice": RepairAdvice(name="all 0.5", command=["lorascope", "repair", "a base", "lora", "--intruders", "0.5"]),
        "notes": ["The head <stays> as it is."],
    }
    return RepairReport(**{**values, **changed})


@pytest.fixture
def repaired(causal: Comparison) -> Comparison:
    return causal.model_copy(update={"repair": repair_report()})


def words_of(page: str) -> str:
    body = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("\u00a0", " ")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_every_variant(repaired: Comparison, language: Any) -> None:
    page = render_html(repaired, None, language=language)
    section = page.split('<section id="repair"')[1].split("</section>")[0]
    assert repaired.repair is not None
    assert section.count('<th scope="row"') == len(repaired.repair.rows) + len(repaired.repair.contrasts)
    assert section.count("★") == 5 + 1, "five on the front, and the sign explained"
    assert load_texts(language)("repair.cells", subject="lora-r16") in html.unescape(section)
    assert "The head &lt;stays&gt; as it is." in section
    assert "lorascope repair &#39;a base&#39; lora --intruders 0.5" in section
    assert 'data-chart="pareto"' in section


def test_the_english_page_says_what_was_found(repaired: Comparison) -> None:
    text = words_of(render_html(repaired, None))
    assert "Intruder dimensions explain the forgetting here" in text
    assert "Lost against the base: 0.61 [0.50, 0.72] gold_margin on 960 retention items." in text
    assert "all intruders × 0.5, brings back 0.30 [0.28, 0.32] of it." in text
    assert "it is ahead by +0.15 [+0.10, +0.20] (uniform shrink), +0.15" in text
    assert "A lead would matter from 0.12 on, a fifth of the loss." in text
    assert "Intruder strengths measured: λ from 0.1 to 0.9." in text
    assert "Retention: gold_margin of en, zh." in text
    assert "turns none of the flipped items" in text
    assert "the answers are not finite" in text
    assert "23 in all" in text


def test_without_a_scan_there_is_no_section(causal: Comparison) -> None:
    assert repair_context(causal, {}, "en") == {"repair": None}
    assert 'id="repair"' not in render_html(causal, None)


def test_results_without_a_scan_are_read_as_before(causal: Comparison) -> None:
    raw = json.loads(causal.model_dump_json())
    assert raw["repair"] is None
    assert Comparison.model_validate(raw).repair is None
    del raw["repair"]
    assert Comparison.model_validate(raw).repair is None


def test_a_scan_survives_the_file(repaired: Comparison) -> None:
    assert Comparison.model_validate_json(repaired.model_dump_json()) == repaired


def test_the_chart_has_filled_repairs_hollow_controls_and_both_ends(repaired: Comparison) -> None:
    spec = pareto_chart(repaired)
    assert spec is not None
    rows = spec["datasets"]["rows"]
    assert repaired.repair is not None
    measured = [each for each in repaired.repair.rows if each.retention is not None]
    assert len(rows) == len(measured) + 2
    assert [each["name"] for each in rows if each["end"]] == ["llama-tiny", "lora-r16"]
    assert sum(bool(each.get("control")) for each in rows) == 30
    assert sum(each["front"] for each in rows) == 5
    assert "<svg" in chart_svg(spec)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_chart_says_what_every_mark_is(repaired: Comparison, language: Any) -> None:
    spec = pareto_chart(repaired, language)
    assert spec is not None
    points = [layer["encoding"] for layer in spec["layer"] if layer["mark"]["type"] == "point"]
    assert len(points) == 3
    assert all(each["fill"] == points[0]["fill"] and each["stroke"] == points[0]["stroke"] for each in points)
    looks = {
        name: tuple(points[0][channel]["scale"]["range"][at] for channel in ("stroke", "fill", "shape"))
        for at, name in enumerate(points[0]["fill"]["scale"]["domain"])
    }
    assert len({*looks.values()}) == len(looks) == 3 + 2 + 2
    words = load_texts(language)
    hollow = {words(f"repair.controls_of.{name}") for name in ("top", "all")} | {words("repair.front")}
    assert {name for name, (_, fill, _) in looks.items() if fill == "transparent"} == hollow
    marks = {each["mark"] for each in spec["datasets"]["rows"]}
    assert marks == looks.keys() - {words("repair.front")}
    drawn = chart_svg(spec)
    assert all(name in drawn for name in looks)


def test_lower_is_turned_so_that_better_is_up(causal: Comparison) -> None:
    lower = TARGET.model_copy(update={"direction": "lower"})
    spec = pareto_chart(causal.model_copy(update={"repair": repair_report(target=lower)}))
    assert spec is not None
    encoding = spec["layer"][0]["encoding"]
    assert encoding["y"]["scale"]["reverse"] is True
    assert "lower is better" in encoding["y"]["title"]
    assert encoding["x"]["scale"]["reverse"] is False


def test_one_axis_alone_makes_no_chart_and_still_a_table(causal: Comparison) -> None:
    rows = [row("strength", 0.5, retention=None, others=[])]
    report = repair_report(
        retention=None,
        rows=rows,
        contrasts=[],
        base=RepairPoint(),
        adapted=RepairPoint(target=metric(TARGET, 0.5)),
        verdict=RepairVerdict(outcome="not_measured", items=0),
        advice=None,
    )
    comparison = causal.model_copy(update={"repair": report})
    assert pareto_chart(comparison) is None
    text = words_of(render_html(comparison, None))
    assert "Forgetting was not measured" in text
    assert "0.450" in text


LOSS = RepairChange(value=0.61, low=0.5, high=0.72, n=960)
OUTCOMES = ("explains", "no_more", "no_effect", "undecided", "no_intruders", "nothing_forgotten", "not_measured")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_has_words(outcome: Any, language: Any) -> None:
    forgotten = None if outcome == "not_measured" else RepairChange(value=0.6, low=0.5, high=0.7, n=960)
    against = "shrink" if outcome == "no_more" else None
    verdict = RepairVerdict(outcome=outcome, items=960, forgotten=forgotten, against=against)
    report, words = repair_report(verdict=verdict), load_texts(language)
    assert "{" not in verdict_title(report, words) + verdict_text(report, words)
    if outcome == "no_more":
        assert words("repair.instead.shrink") in verdict_title(report, words)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("reason", get_args(RepairReason))
def test_every_reason_has_words(reason: Any, language: Any) -> None:
    verdict = RepairVerdict(outcome="undecided", items=9, forgotten=LOSS, reasons=[reason])
    words = load_texts(language)
    assert words(f"repair.reason.{reason}") in verdict_text(repair_report(verdict=verdict), words)


def test_a_verdict_against_intruders_is_said_in_plain_words() -> None:
    verdict = RepairVerdict(
        outcome="no_more", items=960, forgotten=LOSS, contrast_margin=0.122, best="all 0.5", against="shrink"
    )
    report, words = repair_report(verdict=verdict), load_texts("en")
    title = (
        "Intruders are not special here: shrinking the whole adapter to the same size does nearly as well, or better"
    )
    assert verdict_title(report, words) == title
    assert "this control (uniform shrink) is surely below 0.12, the fifth" in verdict_text(report, words)


def test_a_loss_is_positive_whatever_the_direction_of_the_metric() -> None:
    lower = KEPT.model_copy(update={"metric": "bits_per_byte", "unit": "bits/byte", "direction": "lower"})
    turned = RepairChange(value=-0.61, low=-0.72, high=-0.5, n=960)
    verdict = RepairVerdict(outcome="nothing_forgotten", items=960, forgotten=turned)
    text = verdict_text(repair_report(retention=lower, verdict=verdict), load_texts("en"))
    assert "0.610 [0.500,\u00a00.720] bits_per_byte" in text


def test_missing_and_uncounted_controls_are_named() -> None:
    contrasts = repair_report().contrasts
    uncounted = [contrasts[0], contrasts[1].model_copy(update={"counts": False})]
    verdict = RepairVerdict(
        outcome="undecided", items=960, forgotten=LOSS, best="all 0.5", missing_controls=["random"], lambdas=(0.5, 0.5)
    )
    report = repair_report(verdict=verdict, contrasts=uncounted)
    text = verdict_text(report, load_texts("en"))
    assert "Not compared with: random directions scaled." in text
    assert "in more than half of the modules none fits" in text
    assert "neighbouring kept vectors scaled)" not in text
    assert "λ = 0.5" in text
    assert "in more than half" not in verdict_text(repair_report(), load_texts("en"))


def test_notes_of_variants_have_a_row_of_their_own(causal: Comparison) -> None:
    rows = [row("all", 0.5, grew=True, note="ΔW grew in 3 of 14 modules")]
    comparison = causal.model_copy(update={"repair": repair_report(rows=rows, contrasts=[])})
    text = words_of(render_html(comparison, None))
    assert "all intruders × 0.5: ΔW grew in 3 of 14 modules" in text


def test_strengths_keep_all_their_digits(causal: Comparison) -> None:
    rows = [row("all", 0.1), row("all", 0.1 + 1e-9)]
    comparison = causal.model_copy(update={"repair": repair_report(rows=rows, contrasts=[])})
    assert "all intruders × 0.100000001" in words_of(render_html(comparison, None))


def test_a_lost_target_is_said(repaired: Comparison) -> None:
    contrasts = [each.model_copy(update={"target_kept": False}) for each in repair_report().contrasts]
    assert "cannot be ruled out" in verdict_text(repair_report(contrasts=contrasts), load_texts("en"))
    assert "cannot be ruled out" not in verdict_text(repair_report(), load_texts("en"))


def test_having_no_advice_is_said() -> None:
    text = "No variant is sure"
    assert text in printed(repair_report(advice=None), 120)
    assert text not in printed(repair_report(), 120)
    assert text not in printed(repair_report(advice=None, target=None), 120)


def printed(report: RepairReport, width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    print_repair(report, Console(file=stream, width=width, legacy_windows=False))
    return raw.getvalue().decode(encoding).replace("\u00a0", " ")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_terminal_table_fits(width: int) -> None:
    short = RepairAdvice(name="all 0.5", command=["lorascope", "repair"])
    lines = printed(repair_report(advice=short), width).splitlines()
    assert max(cell_len(line) for line in lines) <= width


def test_eighty_columns_show_a_variant_on_one_line() -> None:
    text = printed(repair_report(), 80)
    [line] = [line for line in text.splitlines() if line.startswith("all intruders × 0.5")]
    assert " ".join(line.split()) == "all intruders × 0.5 ★ 75 % −0.050 [−0.070, −0.030] +0.30 [+0.28, +0.32]"
    assert "★ no other variant" in text
    rows = text.split("Variant")[1].splitlines()
    assert rows[1].split()[:2] == ["lora-r16", "100"]
    assert rows[2].startswith("difference from it:")
    assert "★" not in printed(repair_report(rows=[row("all", 0.5, front=False)]), 80)
    assert "shrink" not in text.split("Variant")[1]
    assert "lorascope repair 'a base' lora --intruders 0.5" in text


def test_terminals_without_utf_8_get_other_signs() -> None:
    assert "all intruders x 0.5 *" in printed(repair_report(), 80, "ascii")


def test_subjects_named_like_markup_stay_text(factory: ModuleType) -> None:
    comparison = factory.causal_comparison()
    evil = repair_report(subject="<img src=x>", notes=["</script><b>"])
    page = render_html(comparison.model_copy(update={"repair": evil}), None)
    assert "<img src=x>" not in page
    assert "</script><b>" not in page
