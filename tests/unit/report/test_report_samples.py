"""The page carries the answers that matter first, each text once, within its limits."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from lorascope.report import samples
from lorascope.schema.comparison import Comparison


def row(subject: str, item: str, **changed: object) -> dict[str, object]:
    values: dict[str, object] = {
        "subject": subject, "task": "support", "item_id": item, "group": None, "category": None, "prompt": "Why?",
        "references": ["because"], "base_output": "because", "adapted_output": "so", "rougeL_base": 1.0,
        "rougeL_adapted": 0.0, "gold_logprob_base": None, "gold_logprob_adapted": None, "flip": None, "cause": None,
    }  # fmt: skip
    return {**values, **changed}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"flip": "broken"}, "broken"),
        ({"flip": "both_right", "adapted_output": "because"}, "both_right"),
        ({}, "changed"),
        ({"adapted_output": "because"}, "same"),
        ({"base_output": None}, "unpaired"),
    ],
)
def test_outcome(changed: dict[str, object], expected: str) -> None:
    assert samples.outcome(row("a", "1", **changed)) == expected


def test_broken_and_fixed_come_first_then_the_worst_changes(factory: ModuleType, causal: Comparison) -> None:
    rows = [
        row("lora-r16", "same", adapted_output="because", rougeL_adapted=1.0),
        row("lora-r16", "better", rougeL_base=0.0, rougeL_adapted=1.0),
        row("lora-r16", "worse"),
        row("lora-r16", "fixed", flip="fixed"),
        row("lora-r16", "broken", flip="broken"),
        row("lora-r16", "right", flip="both_right"),
    ]
    packed = samples.embed_samples(factory.sample_table(rows), causal)
    assert [item["id"] for item in packed.data["items"]] == ["broken", "fixed", "worse", "better", "right", "same"]


def test_the_largest_fall_of_the_right_answer_comes_first_and_unknown_falls_last(
    factory: ModuleType, causal: Comparison
) -> None:
    falls = {"small": (-2.0, -2.5), "unknown": (-2.0, None), "large": (-1.0, -9.0), "rise": (-3.0, -1.0)}
    rows = [
        row("lora-r16", name, flip="broken", gold_logprob_base=before, gold_logprob_adapted=after)
        for name, (before, after) in falls.items()
    ]
    packed = samples.embed_samples(factory.sample_table(rows), causal)
    assert [item["id"] for item in packed.data["items"]] == ["large", "small", "rise", "unknown"]
    assert [item["answers"][0]["change"] for item in packed.data["items"]] == [-8.0, -0.5, 2.0, None]


def test_causes_stand_in_the_order_of_search_with_their_evidence(factory: ModuleType, causal: Comparison) -> None:
    rows = [
        row("lora-r16", str(at), flip="broken", cause=cause, cause_evidence=f"because {at}")
        for at, cause in enumerate(["of another tool", "format", "empty", "format", None])
    ]
    packed = samples.embed_samples(factory.sample_table(rows), causal)
    assert packed.causes == ("empty", "format", "of another tool")
    found = {item["id"]: packed.data["texts"][item["answers"][0]["evidence"]] for item in packed.data["items"]}
    assert found["1"] == "because 1"


def test_twenty_thousand_broken_items_stay_within_the_page(factory: ModuleType, causal: Comparison) -> None:
    rows = [
        row("lora-r16", f"i{at}", flip="broken", cause="format", cause_evidence=f"evidence {at}",
            gold_logprob_base=-1.0, gold_logprob_adapted=-1.0 - at)
        for at in range(20_000)
    ]  # fmt: skip
    packed = samples.embed_samples(factory.sample_table(rows), causal)
    assert packed.left_out == (samples.LeftOut("support", 400, 20_000),)
    assert packed.counts["lora-r16"]["broken"] == 20_000
    assert packed.data["items"][0]["id"] == "i19999"


def test_an_item_broken_for_one_subject_is_carried_for_all(factory: ModuleType, causal: Comparison) -> None:
    rows = [row("lora-r16", "x", flip="both_right"), row("full-ft", "x", flip="broken"), row("lora-r16", "y"),
            row("full-ft", "y")]  # fmt: skip
    packed = samples.embed_samples(factory.sample_table(rows), causal)
    first = packed.data["items"][0]
    assert first["id"] == "x"
    assert [answer["outcome"] for answer in first["answers"]] == ["both_right", "broken"]
    assert packed.data["subjects"] == ["lora-r16", "full-ft"]


def test_texts_are_stored_once(factory: ModuleType, causal: Comparison) -> None:
    packed = samples.embed_samples(factory.causal_samples(), causal)
    assert len(set(packed.data["texts"])) == len(packed.data["texts"])
    item = packed.data["items"][0]
    assert packed.data["texts"][item["prompt"]].startswith("Question:")


def test_ten_thousand_items_are_cut_and_counted(factory: ModuleType, causal: Comparison) -> None:
    rows = [row("lora-r16", f"i{at}", flip="broken" if at % 100 == 0 else "both_right") for at in range(10_000)]
    packed = samples.embed_samples(factory.sample_table(rows), causal)
    assert packed.left_out == (samples.LeftOut("support", 400, 10_000),)
    assert sum(item["answers"][0]["outcome"] == "broken" for item in packed.data["items"]) == 100
    assert packed.counts["lora-r16"]["both_right"] == 9_900


def test_long_texts_are_cut_with_what_is_left_out(factory: ModuleType, causal: Comparison) -> None:
    packed = samples.embed_samples(factory.sample_table([row("lora-r16", "x", adapted_output="é" * 9000)]), causal)
    text = packed.data["texts"][packed.data["items"][0]["answers"][0]["adapted"]]
    assert text == "é" * 4000 + " […+5,000]"


def test_all_characters_together_are_limited(
    factory: ModuleType, causal: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CHARACTERS_IN_ALL", 1000)
    rows = [row("lora-r16", str(at), adapted_output=f"{at:0100d}") for at in range(50)]
    packed = samples.embed_samples(factory.sample_table(rows), causal)
    assert packed.left_out[0].shown < 15


def test_what_is_undefined_stays_undefined(factory: ModuleType, causal: Comparison) -> None:
    rows = [row("lora-r16", "x", rougeL_base=float("nan"), rougeL_adapted=0.5, base_output=None, adapted_output="y")]
    answer = samples.embed_samples(factory.sample_table(rows), causal).data["items"][0]["answers"][0]
    assert answer["scores"] == {"rougeL": [None, 0.5]}
    assert answer["base"] is None
    json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("plain", ["plain"]),
        ("[not json", ["[not json"]),
        (None, []),
    ],
)
def test_references_in_any_form(factory: ModuleType, causal: Comparison, stored: object, expected: list[str]) -> None:
    data = samples.embed_samples(factory.sample_table([row("lora-r16", "x", references=stored)]), causal).data
    assert [data["texts"][number] for number in data["items"][0]["references"]] == expected


def test_scored_text_without_an_answer_is_not_called_identical(factory: ModuleType, causal: Comparison) -> None:
    rows = [row("lora-r16", "x"), row("lora-r16", "y", base_output=None, adapted_output=None)]
    embedded = samples.embed_samples(factory.sample_table(rows), causal)
    assert len(embedded.data["items"]) == 1
    assert sum(embedded.counts["lora-r16"].values()) == 1
