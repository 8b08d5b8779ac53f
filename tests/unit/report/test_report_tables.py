"""Tables hold every measurement once, with subjects side by side."""

from __future__ import annotations

from lorascope.report import numbers
from lorascope.report.lookup import references
from lorascope.report.tables import Table, full_rows, section_of, section_tables
from lorascope.report.texts import load_texts
from lorascope.schema.comparison import Comparison

WORDS = load_texts("en")
SECTIONS = ("metrics", "checks", "forgetting", "drift", "training", "weights", "cost", "human")


def cells(table: Table | None) -> int:
    if table is None:
        return 0
    return sum(cell is not None for block in table.blocks for row in block.rows for cell in row.cells)


def test_every_measurement_against_the_base_has_one_cell(causal: Comparison, labels: Comparison) -> None:
    for comparison in (causal, labels):
        base = comparison.base.name
        shown = 0
        for section in SECTIONS:
            whole, slices = section_tables(comparison, section, base, WORDS)
            shown += cells(whole) + sum(cells(table) for table in slices)
        assert shown == sum(found.reference == base for found in comparison.measurements)


def test_other_references_are_their_own_block(causal: Comparison) -> None:
    assert references(causal) == ["llama-tiny", "full-ft"]
    whole, slices = section_tables(causal, None, "full-ft", WORDS)
    assert whole is not None
    assert whole.subjects == ("lora-r16",)
    assert cells(whole) == 2
    assert slices == []
    assert len(full_rows(causal, "full-ft", WORDS)) == 2


def test_retention_belongs_to_forgetting_and_gold_margin_comes_first(causal: Comparison) -> None:
    whole, slices = section_tables(causal, "forgetting", "llama-tiny", WORDS)
    assert whole is not None
    assert [block.title for block in whole.blocks] == ["general-knowledge-en"]
    assert whole.blocks[0].rows[0].label == "gold_margin"
    assert [table.title for table in slices] == ["By category"]
    found = next(each for each in causal.measurements if each.task == "support")
    assert section_of(causal, found) == "metrics"


def test_cells_read_in_the_metrics_own_scale(causal: Comparison) -> None:
    whole, _ = section_tables(causal, "metrics", "llama-tiny", WORDS)
    assert whole is not None
    bleu = next(row for row in whole.blocks[0].rows if row.label == "bleu")
    lora = bleu.cells[0]
    assert lora is not None
    assert (bleu.base, lora.adapted, lora.delta, lora.verdict) == ("12.4", "16.4", "+4.0", "improved")


def test_undecided_cells_name_the_items_needed(causal: Comparison) -> None:
    whole, _ = section_tables(causal, "metrics", "llama-tiny", WORDS)
    assert whole is not None
    row = next(row for row in whole.blocks[0].rows if row.label == "exact_match")
    assert all(cell is not None and cell.note == "1,544 items needed" and cell.needed == 1544 for cell in row.cells)


def test_the_adjusted_p_stands_beside_the_verdict(causal: Comparison) -> None:
    whole, _ = section_tables(causal, "metrics", "llama-tiny", WORDS)
    assert whole is not None
    first = whole.blocks[0].rows[0].cells[0]
    assert first is not None
    assert first.p_adjusted == "0.001"


def test_columns_that_would_be_empty_are_left_out(causal: Comparison, labels: Comparison) -> None:
    training, _ = section_tables(causal, "training", "llama-tiny", WORDS)
    cost, _ = section_tables(causal, "cost", "llama-tiny", WORDS)
    tags, _ = section_tables(labels, "metrics", "bert-base-zh", WORDS)
    assert training is not None
    assert cost is not None
    assert tags is not None
    assert (training.has_base, training.has_delta, training.columns) == (False, False, 1)
    assert (cost.has_base, cost.has_delta, cost.has_verdict, cost.columns) == (True, True, False, 2)
    assert not tags.has_base


def test_a_reason_shared_by_all_rows_is_said_once(causal: Comparison, labels: Comparison) -> None:
    tags, _ = section_tables(labels, "metrics", "bert-base-zh", WORDS)
    assert tags is not None
    assert tags.reason == "the base has no trained classification head"
    assert all(
        cell is not None and cell.note == "" for block in tags.blocks for row in block.rows for cell in row.cells
    )
    training, _ = section_tables(causal, "training", "llama-tiny", WORDS)
    assert training is not None
    overfit = next(row for row in training.blocks[0].rows if row.label == "overfit_step")
    assert overfit.cells[0] is not None
    assert (overfit.cells[0].adapted, overfit.cells[0].note) == (numbers.ABSENT, "no lasting rise")


def test_long_tables_are_folded(labels: Comparison) -> None:
    _, slices = section_tables(labels, None, "tags-full", WORDS)
    assert [(table.title, table.rows, table.folded) for table in slices] == [("By label", 18, True)]
    _, slices = section_tables(labels, "metrics", "bert-base-zh", WORDS)
    assert [table.title for table in slices] == ["By label frequency", "By decision threshold"]
    assert slices[0].blocks[0].rows[2].label == "tail: rare labels"


def test_the_full_table_has_every_statistic(causal: Comparison) -> None:
    row = next(row for row in full_rows(causal, "llama-tiny", WORDS) if row.metric == "exact_match")
    assert (row.place, row.subject, row.n, row.p, row.needed) == ("support", "lora-r16", "96", "0.310", "1,544")
    assert (row.margin, row.verdict) == ("±0.02", "? inconclusive")
    gap = next(row for row in full_rows(causal, "llama-tiny", WORDS) if row.metric == "overfit_step")
    assert (gap.n, gap.verdict, gap.p) == (numbers.ABSENT, numbers.ABSENT, numbers.ABSENT)
