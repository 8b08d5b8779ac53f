from __future__ import annotations

import math

import numpy as np
import pytest

from lorascope.errors import DataError
from lorascope.measures.choices import chance_levels, score_choices
from lorascope.measures.likelihood import score_kl, score_likelihood
from lorascope.measures.regression import score_regression
from lorascope.measures.tokens import score_entities


def test_length_normalisation_differs_by_characters_and_bytes() -> None:
    """Plain prefers the short choice; per character Chinese costs 2 nats each, per byte a third of that."""
    choices = [["short", "一个长的选择"]]
    scored = score_choices([[-10.0, -11.0]], [1], choices)
    assert (scored["accuracy"].value, scored["accuracy_norm"].value, scored["accuracy_bytes"].value) == (0.0, 1.0, 1.0)
    in_bytes = score_choices([[-6.0, -9.0]], [1], [["abcd", "长的选"]])
    assert (in_bytes["accuracy_norm"].value, in_bytes["accuracy_bytes"].value) == (0.0, 1.0)


def test_gold_margin_is_signed() -> None:
    scored = score_choices([[-1.0, -3.0, -2.0], [-1.0, -3.0, -2.0]], [0, 1], [["a", "b", "c"]] * 2)["gold_margin"]
    assert scored.item_values().tolist() == [1.0, -2.0]
    assert scored.value == -0.5


def test_ties_go_to_the_first_choice() -> None:
    scored = score_choices([[-2.0, -2.0]] * 2, [0, 1], [["aa", "bb"]] * 2)["accuracy"]
    assert scored.item_values().tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "answer", "texts"),
    [
        ([-1.0, -2.0], 0, ["a", "b", "c"]),
        ([-1.0], 0, ["a"]),
        ([-1.0, -2.0], 2, ["a", "b"]),
        ([-1.0, -2.0], -1, ["a", "b"]),
        ([-1.0, float("nan")], 0, ["a", "b"]),
        ([-1.0, float("-inf")], 0, ["a", "b"]),
        ([-1.0, -2.0], 0, ["a", ""]),
    ],
)
def test_wrong_choice_items_are_refused(row: list[float], answer: int, texts: list[str]) -> None:
    with pytest.raises(DataError, match="item 1"):
        score_choices([[-1.0, -2.0], row], [0, answer], [["a", "b"], texts])


def test_chance_by_item() -> None:
    assert chance_levels([["a", "b"], ["a", "b", "c", "d"]]).tolist() == [0.5, 0.25]


def test_likelihood_divides_sums() -> None:
    scored = score_likelihood([-math.log(2) * 10, -math.log(2) * 2], [4, 2], [5, 5])
    assert scored["bits_per_byte"].value == pytest.approx(1.2)
    assert scored["perplexity"].value == pytest.approx(4.0)
    assert scored["bits_per_byte"].item_values().tolist() == pytest.approx([2.0, 0.4])


def test_perplexity_beyond_floats_is_undefined() -> None:
    assert score_likelihood([-1e6], [1], [1])["perplexity"].value is None


@pytest.mark.parametrize(("logprob", "tokens", "count"), [(-1.0, 0, 3), (-1.0, 2, 0), (0.5, 2, 3)])
def test_texts_that_cannot_be_scored_are_refused(logprob: float, tokens: int, count: int) -> None:
    with pytest.raises(DataError, match="item 0"):
        score_likelihood([logprob], [tokens], [count])


def test_kl_weighs_tokens_and_has_no_direction() -> None:
    scored = score_kl([0.1, 0.4], [3, 1])
    assert scored.value == pytest.approx(0.175)
    assert scored.measure.direction == "none"
    with pytest.raises(DataError, match="no tokens"):
        score_kl([0.1], [0])


def test_a_collapsed_scorer_has_no_correlation() -> None:
    scored = score_regression([0.3, 0.3, 0.3], [1.0, 2.0, 3.0])
    assert (scored["pearson"].value, scored["spearman"].value) == (None, None)
    assert scored["mse"].value is not None


def test_one_item_has_no_correlation() -> None:
    scored = score_regression([1.0], [1.0])
    assert (scored["pearson"].value, scored["spearman"].value, scored["mse"].value) == (None, None, 0.0)


def test_nan_scores_are_refused() -> None:
    with pytest.raises(DataError, match="finite"):
        score_regression([1.0, float("nan")], [1.0, 2.0])


def test_correlation_sums_of_items() -> None:
    scored = score_regression(np.arange(9.0), np.arange(9.0) ** 2)["pearson"]
    assert np.isnan(scored.item_values()).all()


def test_entities_need_span_and_type() -> None:
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "O"]]
    said = [["B-PER", "I-PER", "O"], ["B-ORG", "O", "B-LOC"]]
    assert score_entities(said, gold)["entity_f1"].value == pytest.approx(2 * 1 / (3 + 2))


def test_no_entities_at_all_is_undefined() -> None:
    assert score_entities([["O", "O"]], [["O", "O"]])["entity_f1"].value is None


@pytest.mark.parametrize(("said", "gold"), [(["O"], ["O", "O"]), (["PER", "O"], ["O", "O"]), ("OO", ["O", "O"])])
def test_wrong_tags_are_refused(said: list[str], gold: list[str]) -> None:
    with pytest.raises(DataError, match="sentence 0"):
        score_entities([said], [gold])
