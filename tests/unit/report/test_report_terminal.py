"""The summary in the terminal: verdict first, within the width, readable without colour."""

from __future__ import annotations

import io
from types import ModuleType

import pytest
from rich.cells import cell_len
from rich.console import Console

from lorascope.report.terminal import print_summary
from lorascope.schema.comparison import Comparison
from lorascope.schema.flips import FlipLedger


def summary(comparison: Comparison, width: int = 80, encoding: str = "utf-8", **options: bool) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    print_summary(comparison, Console(file=stream, width=width, legacy_windows=False, **options))
    return raw.getvalue().decode(encoding).replace("\u00a0", " ")


def test_the_first_lines_say_the_verdicts(causal: Comparison) -> None:
    lines = summary(causal).splitlines()
    assert lines[0].split() == ["lora-r16", "▲", "Better", "at", "its", "task"]
    assert lines[1].strip() == "▽ General knowledge held less firmly"
    assert lines[2].startswith("full-ft ▲ Better")
    assert lines[3].strip() == "▼ General ability lost"


def test_the_rest_is_there(causal: Comparison) -> None:
    text = summary(causal)
    flat = " ".join(text.split())
    assert "0.311 → 0.412 +0.101 [+0.063, +0.139] ▲ improved" in flat
    assert "needs 1,544" in flat
    assert "12.4 → 16.4 +4.0" in flat
    assert "Compared with full-ft" in flat
    assert "Of the base's accuracy above chance, 72 %" in flat
    assert "21 intruder dimensions" in flat
    assert "Critical full-ft: Validation loss rises for good" in flat
    assert "2 further notes in report.html" in flat
    assert "No check for leaked items" not in flat
    assert "Leaks: no training data was named" in flat


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(
    causal: Comparison, labels: Comparison, weights_only: Comparison, width: int
) -> None:
    for comparison in (causal, labels, weights_only):
        assert max(cell_len(line) for line in summary(comparison, width).splitlines()) <= width


def test_eighty_columns_cut_no_number(causal: Comparison) -> None:
    lines = summary(causal, 80).splitlines()
    assert sum("▼ regressed" in line and "−0.117 [−0.162, −0.072]" in line for line in lines) == 1
    assert "…" not in "".join(lines)


def test_without_colour_nothing_is_lost(causal: Comparison) -> None:
    plain = summary(causal, no_color=True, force_terminal=False)
    assert "\x1b[" not in plain
    assert plain.count("? inconclusive") == 4
    coloured = summary(causal, force_terminal=True)
    assert "\x1b[" in coloured


def test_a_terminal_without_unicode_gets_plain_signs(causal: Comparison) -> None:
    text = summary(causal, encoding="ascii")
    assert "+ Better at its task" in text
    assert "0.311 -> 0.412" in text
    assert "- regressed" in text
    assert "needs 1,544" in text


def test_names_are_never_read_as_markup(factory: ModuleType) -> None:
    comparison = factory.causal_comparison()
    comparison.findings[0].title = "[red]not red[/red] [/] [link=x]"
    comparison.missing[0].reason = "see [bold]file[/bold] [/x]"
    flat = " ".join(summary(comparison).split())
    assert "[red]not red[/red] [/] [link=x]" in flat
    assert "see [bold]file[/bold] [/x]" in flat


def test_one_subject_takes_one_line_per_metric(factory: ModuleType, causal: Comparison) -> None:
    causal.checkpoints = causal.checkpoints[:2]
    causal.measurements = [found for found in causal.measurements if found.subject == factory.LORA]
    assert any(line.split()[:4] == ["rougeL", "0.311", "→", "0.412"] for line in summary(causal).splitlines())


def test_a_missing_base_gives_values_and_the_reason(labels: Comparison) -> None:
    text = summary(labels)
    assert "• Task measured without a base to compare with" in text
    assert "the base has no trained classification head." in text
    assert "→ 0.710" not in text.split("Compared with")[0]


def test_a_task_without_a_measurement_is_named(causal: Comparison) -> None:
    causal.tasks.append(causal.tasks[0].model_copy(update={"name": "second"}))
    text = " ".join(summary(causal).split())
    assert "Better at 1 of 2 tasks" in text
    assert "second was not measured." in text


def test_almost_nothing(weights_only: Comparison) -> None:
    text = summary(weights_only)
    assert text.splitlines()[0].split("•")[1].strip() == "Weights moved by 1.8 %"
    assert text.count("No task was asked") == 1
    assert "not measured" not in text.lower()
    assert "0 tasks" not in text
    assert "base → adapted" not in text


def ledger(subject: str, broken: int, fixed: int, **fields: object) -> FlipLedger:
    counts = {"items": 96, "broken": broken, "fixed": fixed, "both_right": 0, "both_wrong": 96 - broken - fixed}
    place = {"subject": subject, "reference": "llama-tiny", "task": "general-knowledge-en"}
    return FlipLedger.model_validate(place | counts | fields)


def test_flips_stand_below_the_table_with_their_main_causes(factory: ModuleType, causal: Comparison) -> None:
    causal.flips = [
        ledger(factory.LORA, 6, 2, causes={"format": 2, "knowledge_loss": 4}),
        ledger(factory.FULL, 0, 0, causes={}),
    ]
    lines = [" ".join(line.split()) for line in summary(causal).splitlines()]
    assert "general-knowledge-en lora-r16 6 broken, 2 fixed Knowledge loss 4, Format 2" in " ".join(lines)
    assert "full-ft none turned 96 of 96 wrong in both" in " ".join(lines)
    for found in causal.measurements:
        if found.metric == "retained_fraction":
            found.adapted, found.delta, found.missing_reason = None, None, "not above chance"
    text = " ".join(summary(causal).split())
    assert "6 broken, 2 fixed Format 2, llama-tiny cannot be told from guessing" in text
    assert "Knowledge loss 4" not in text
    for width in (40, 60, 80):
        assert max(cell_len(line) for line in summary(causal, width).splitlines()) <= width


def test_leaks_gaps_and_noise_are_said(factory: ModuleType, causal: Comparison) -> None:
    of = {"task": "support", "direction": "none"}
    causal.measurements = [found for found in causal.measurements if found.area not in ("gap", "leak", "noise")]
    causal.measurements += [
        factory.measurement(factory.LORA, "leaked_fraction", None, 0.2, area="leak", **of),
        factory.measurement(factory.LORA, "rougeL", 0.3, 0.35, task="support", area="leak", part=("clean", "clean")),
        factory.measurement(factory.LORA, "noise_flip_rate", None, 0.031, area="noise", **of),
        factory.measurement(factory.LORA, "rougeL_gap", 0.01, 0.12, area="gap", paired=False, **of),
    ]
    text = " ".join(summary(causal).split())
    assert "support: 20 % of the items stand in the training data. rougeL on clean items: lora-r16 +0.050." in text
    assert "only the numerics change: support, lora-r16 3.1 %." in text
    assert "rougeL_gap lora-r16 0.010 → 0.120" in text


def test_a_reason_is_said_once_for_a_metric_and_names_its_tasks(factory: ModuleType, causal: Comparison) -> None:
    for found in causal.measurements:
        if found.metric == "gained_rate" and found.slice is None:
            found.adapted, found.delta, found.missing_reason = None, None, "no item to count"
    flat = " ".join(summary(causal).split())
    assert flat.count("no item to count") == 1
    assert "gained_rate, general-knowledge-en (lora-r16, full-ft): no item to count." in flat


def test_wide_values_do_not_cut_the_verdict(factory: ModuleType) -> None:
    comparison = factory.causal_comparison()
    found = next(each for each in comparison.measurements if each.metric == "rougeL" and each.slice is None)
    assert found.base is not None
    assert found.delta is not None
    found.base.value, found.scale = 0.0000123, "unbounded"
    found.delta.low, found.delta.high = -0.0000123, 123456.0
    found.delta.verdict = "inconclusive"
    text = summary(comparison, 80)
    assert text.count("? inconclusive") == 5
    assert max(cell_len(line) for line in text.splitlines()) <= 80


def test_a_rounding_of_zero_is_zero(factory: ModuleType) -> None:
    comparison = factory.causal_comparison()
    found = next(each for each in comparison.measurements if each.metric == "rougeL" and each.slice is None)
    assert found.adapted is not None
    found.adapted.value = 6.3e-232
    assert "e-232" not in summary(comparison)
    assert "0.311 → 0.000" in summary(comparison)
