"""LLaMA-Factory's numbers, as the packages that it calls gave them (``make_llamafactory_pins.py``)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from lorascope.measures.registry import names_of
from lorascope.measures.text import score_text

PINS = Path(__file__).with_name("llamafactory_pins.jsonl")
THEIRS = {
    "rouge1_llamafactory": "rouge-1",
    "rouge2_llamafactory": "rouge-2",
    "rougeL_llamafactory": "rouge-l",
    "bleu4_llamafactory": "bleu-4",
}
ROWS = [json.loads(line) for line in PINS.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", THEIRS)
def test_every_item_and_the_mean(name: str) -> None:
    scored = score_text([row["prediction"] for row in ROWS], [[row["reference"]] for row in ROWS], [name])[name]
    expected = [row[THEIRS[name]] for row in ROWS]
    np.testing.assert_allclose(scored.item_values(), expected, atol=1e-9)
    assert scored.value == pytest.approx(np.mean(expected), abs=1e-9)
    assert 10 < np.mean(expected) < 95


def test_bleu4_is_nltks_characters_with_method3_in_every_language() -> None:
    for prediction, reference in (("the cat sat", "the cat sits"), ("今天天气好", "今天天气很好")):
        direct = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3)
        scored = score_text([prediction], [[reference]], ["bleu4_llamafactory"])["bleu4_llamafactory"]
        assert scored.value == pytest.approx(100 * direct, abs=5e-5)


def test_best_of_several_references() -> None:
    for name in THEIRS:
        assert score_text(["北京大学"], [["上海", "北京大学"]], [name])[name].value == pytest.approx(
            score_text(["北京大学"], [["北京大学"]], [name])[name].value
        )


def test_only_on_request() -> None:
    assert not set(THEIRS) & set(names_of("text"))
    assert set(THEIRS) < set(names_of("text", on_request=True))
