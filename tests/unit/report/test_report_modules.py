"""Modules find their place in the grid by name, and share one scale."""

from __future__ import annotations

from types import ModuleType

import pytest

from lorascope.report import modules
from lorascope.schema.comparison import Comparison


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.self_attn.q_proj", ("model.layers", 3, "self_attn.q_proj")),
        ("bert.encoder.layer.11.attention.output.dense", ("bert.encoder.layer", 11, "attention.output.dense")),
        ("transformer.h.0.attn.c_attn", ("transformer.h", 0, "attn.c_attn")),
        ("encoder.block.2.layer.0.SelfAttention.q", ("encoder.block", 2, "layer.0.SelfAttention.q")),
        ("model.layers.1.mlp.experts.7.up_proj", ("model.layers", 1, "mlp.experts.7.up_proj")),
        ("lm_head", ("", None, "lm_head")),
        ("classifier.0", ("classifier", 0, "classifier")),
    ],
)
def test_position(name: str, expected: tuple[str, int | None, str]) -> None:
    where = modules.position(name)
    assert (where.stack, where.layer, where.kind) == expected


def test_short_names_stay_apart() -> None:
    kinds = ["attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"]
    names = modules.short_names(kinds)
    assert names["attention.self.query"] == "query"
    assert names["intermediate.dense"] == "intermediate.dense"
    assert len(set(names.values())) == len(kinds)


def test_grid_of_layers_and_kinds(causal: Comparison) -> None:
    scale = modules.grid_scale(causal)
    layers, loose = modules.grids(causal.weights["lora-r16"], scale)
    assert layers.layers == ("0", "1", "2", "3")
    assert [row.label for row in layers.rows] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    ]  # fmt: skip
    assert (loose.layers, loose.rows[0].label) == (("",), "lm_head")
    cell = layers.rows[0].cells[2]
    assert cell is not None
    assert (cell.shown["left"], cell.shown["right"]) == (modules.Shown("3", 1.0), modules.Shown("1", 1.0))
    missing = loose.rows[0].cells[0]
    assert missing is not None
    assert {shown.text for shown in missing.shown.values()} == {"–"}


def test_subjects_share_one_scale(causal: Comparison) -> None:
    scale = modules.grid_scale(causal)
    largest = {
        name: max(
            cell.shown["change"].share for row in modules.grids(report, scale)[0].rows for cell in row.cells if cell
        )
        for name, report in causal.weights.items()
    }
    assert largest["full-ft"] == 1.0
    assert largest["lora-r16"] == pytest.approx((0.018 / 0.041) ** 0.5, abs=1e-3)


def test_one_outlier_leaves_the_others_apart(factory: ModuleType, causal: Comparison) -> None:
    scale = modules.Scale({"change": 1.0}, frozenset())
    shares = [
        modules.shown_values(factory.module("a.0.b", change, 0), scale)["change"].share for change in (0.01, 0.04, 1.0)
    ]
    assert shares == [0.1, 0.2, 1.0]


def test_outside_the_layers_names_are_whole(factory: ModuleType, causal: Comparison) -> None:
    report = causal.weights["lora-r16"]
    report.modules.append(factory.module("pooler.dense", 0.01, 0))
    loose = modules.grids(report, modules.grid_scale(causal))[-1]
    assert [row.label for row in loose.rows] == ["lm_head", "pooler.dense"]


def test_the_map_offers_what_any_module_has(causal: Comparison, traced: Comparison) -> None:
    assert list(modules.grid_scale(causal).largest) == ["change", "left", "energy", "right"]
    assert list(modules.grid_scale(traced).largest) == [
        "change", "left", "corrected", "energy", "right", "amplification"
    ]  # fmt: skip
    traced.weights.clear()
    assert modules.grid_scale(traced).largest == {"change": 0.0}


def test_counts_above_a_random_update_go_below_zero(traced: Comparison) -> None:
    scale = modules.grid_scale(traced)
    assert scale.ends("corrected") == ("−5", "+5")
    assert scale.ends("left") == ("0", "8")
    assert scale.ends("change") == ("0", "7.0\u00a0%")
    first, last = (traced.weights["lora-r16"].modules[at] for at in (0, 13))
    assert modules.shown_values(first, scale)["corrected"] == modules.Shown("−3", -0.775)
    assert modules.shown_values(last, scale)["corrected"] == modules.Shown("+5?", 1.0)
    unknown = last.model_copy(update={"null_count": None})
    assert modules.shown_values(unknown, scale)["corrected"].text.startswith("–")


def test_rotations_are_told_from_new_directions(traced: Comparison) -> None:
    module = traced.weights["lora-r16"].modules[13]
    rows = modules.interval_rows(module)
    assert [row["mark"] for row in rows] == ["intruder"] * 6 + ["rotation"] * 2 + ["undecided", "kept"]
    assert [row["mark"] for row in modules.spectrum_rows(traced, module) if row["line"] == "adapted"] == [
        row["mark"] for row in rows
    ]
    assert [row["index"] for row in rows] == list(range(1, 11))
    for row in rows:
        assert row["epsilon"] == 0.5
        assert row["decides"] == (row["high"] if row["mark"] in ("intruder", "rotation") else row["low"])
    assert modules.interval_rows(module.model_copy(update={"intruders": None})) == []


@pytest.mark.parametrize(("share", "mark"), [(0.49, "intruder"), (0.5, "rotation"), (1.0, "rotation")])
def test_half_of_the_length_makes_a_rotation(factory: ModuleType, share: float, mark: str) -> None:
    vector = factory.traced_vector(0, 1, 0)
    assert modules.mark_of(vector.model_copy(update={"leading_share": share})) == mark
    kept = vector.model_copy(update={"leading_share": share, "verdict": "kept"})
    assert modules.mark_of(kept) == "kept"


def test_very_many_modules_are_cut_to_the_most_changed(
    factory: ModuleType, causal: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "MODULE_LIMIT", 5)
    report = causal.weights["full-ft"]
    shown = modules.shown_modules(report)
    changes = sorted((module.relative_change or 0.0 for module in report.modules), reverse=True)
    assert sorted((module.relative_change or 0.0 for module in shown), reverse=True) == changes[:5]
    with_intruders = modules.shown_modules(causal.weights["lora-r16"])
    assert all(module.intruders is not None and module.intruders.count for module in with_intruders)


def test_spectrum_rows_join_base_adapted_and_delta(causal: Comparison) -> None:
    module = causal.weights["lora-r16"].modules[14]
    rows = modules.spectrum_rows(causal, module)
    lines = {line: [row for row in rows if row["line"] == line] for line in ("base", "adapted", "delta")}
    assert {line: len(found) for line, found in lines.items()} == {"base": 10, "adapted": 10, "delta": 16}
    assert [row["mark"] for row in lines["adapted"]] == ["intruder"] * 3 + ["kept"] * 7
    assert [row["index"] for row in lines["base"]] == list(range(1, 11))


def test_zeros_have_no_place_on_a_log_scale(causal: Comparison) -> None:
    module = causal.weights["lora-r16"].modules[0].model_copy(update={"singular_values": [1.0, 0.0]})
    rows = modules.spectrum_rows(causal, module)
    assert sum(row["line"] == "delta" for row in rows) == 1


def test_spectra_of_the_page_match_the_rows(causal: Comparison) -> None:
    packed = modules.spectra(causal)
    assert set(packed) == {"lora-r16", "full-ft"}
    one = packed["lora-r16"]["model.layers.2.mlp.up_proj"]
    assert len(one["delta"]) == 16
    assert one["vectors"][0] == [0, 8.1, "intruder", 0.31, 0.34, 0.12]
    assert one["epsilon"] == 0.5
    assert packed["lora-r16"]["lm_head"]["epsilon"] is None
