"""Label sets, collapsed outputs and curves, on arrays whose numbers can be counted by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lorascope.measures.label_diagnosis import (
    MOST_PAIRS,
    decision_scores,
    largest_confusions,
    largest_pair_gaps,
    misplaced_outputs,
    pair_counts,
    plateau_loss,
    precision_recall_points,
    ranking_skill,
    score_label_outputs,
    score_label_sets,
    set_variety,
    shown_labels,
    unseen_share,
    worst_labels,
)
from lorascope.measures.statistics import paired


def marks(*sets: str) -> np.ndarray:
    """Label sets over a, b, c, d as rows."""
    return np.array([[label in given for label in "abcd"] for given in sets])


def test_sets_counted_by_hand() -> None:
    truth = marks("ab", "ab", "cd", "a")
    decided = marks("ab", "ac", "", "a")
    scored = score_label_sets(decided, truth, decision="0.5", known_sets=marks("ab", "a", "abc"))
    # Pairs, predicted against true: ab 1/2, ac 1/0, cd 0/1.
    assert scored["cooccurrence_gap"].value == pytest.approx(3 / 5)
    assert scored["cardinality_error"].value == pytest.approx(-2 / 4)
    assert scored["empty_set_rate"].value == 0.25
    assert scored["unseen_set_rate"].value == pytest.approx(1 / 3)
    assert unseen_share(truth, marks("ab", "a")) == 0.25


def test_without_known_sets_there_is_no_rate_of_unseen_ones() -> None:
    assert "unseen_set_rate" not in score_label_sets(marks("a"), marks("a"), decision="0.5")


def test_what_is_not_there_has_no_value() -> None:
    alone = score_label_sets(marks("a", ""), marks("b", "a"), decision="0.5", known_sets=marks("a"))
    assert alone["cooccurrence_gap"].value is None
    silent = score_label_sets(marks("", ""), marks("b", "a"), decision="0.5", known_sets=marks("a"))
    assert silent["unseen_set_rate"].value is None
    assert unseen_share(marks(""), marks("a")) is None
    same = score_label_outputs(np.full((3, 4), 0.5), marks("a", "a", "a"), multi=True)
    assert (same["frequency_skill"].value, same["output_spread"].value) == (None, None)
    assert precision_recall_points(np.array([0.1, 0.2]), np.array([False, False])).shape == (0, 2)


def test_many_labels_keep_a_bounded_number_of_columns() -> None:
    random = np.random.default_rng(0)
    truth = random.random((300, 60)) < 0.1
    decided = random.random((300, 60)) < 0.1
    rows, kept = pair_counts(decided, truth)
    assert rows.shape == (300, 2 * (MOST_PAIRS + 1))
    assert "the rest as one" in kept
    pairs = decided.sum(axis=1) * (decided.sum(axis=1) - 1) / 2
    np.testing.assert_allclose(rows[:, : MOST_PAIRS + 1].sum(axis=1), pairs)
    exact = [
        abs(int((decided[:, i] & decided[:, j]).sum()) - int((truth[:, i] & truth[:, j]).sum()))
        for i in range(60)
        for j in range(i + 1, 60)
    ]
    gap = score_label_sets(decided, truth, decision="0.5")["cooccurrence_gap"].value
    assert gap is not None
    assert 0 < gap <= sum(exact) / rows.sum()


def test_pairs_are_chosen_by_the_truth_so_that_checkpoints_can_be_paired() -> None:
    random = np.random.default_rng(1)
    truth = random.random((40, 60)) < 0.1
    one, other = (
        score_label_sets(random.random((40, 60)) < share, truth, decision="0.5")["cooccurrence_gap"]
        for share in (0.1, 0.3)
    )
    assert one.signature == other.signature
    assert paired(one, other, margin=0.02, seed=0, resamples=100).value is not None


def test_the_plateau_has_no_skill_and_no_spread() -> None:
    random = np.random.default_rng(2)
    truth = random.random((400, 20)) < np.linspace(0.3, 0.02, 20)
    plateau = np.tile(truth.mean(axis=0), (400, 1))
    scored = score_label_outputs(plateau, truth, multi=True)
    assert scored["frequency_skill"].value == pytest.approx(0.0, abs=1e-12)
    assert scored["output_spread"].value == pytest.approx(0.0, abs=1e-12)
    informed = 0.5 * plateau + 0.5 * truth
    better = score_label_outputs(informed, truth, multi=True)
    assert (better["frequency_skill"].value or 0) > 0.5
    assert better["output_spread"].value == pytest.approx(0.25)
    worse = score_label_outputs(np.full(truth.shape, 0.5), truth, multi=True)["frequency_skill"].value
    assert worse == pytest.approx(1 - np.log(2) / plateau_loss(truth))


def test_saturated_probabilities_stay_finite_and_right_ones_cost_nothing() -> None:
    truth = marks("a", "b", "ab")
    wrong = score_label_outputs((~truth).astype(float), truth, multi=True)["frequency_skill"].value
    assert wrong is not None
    assert wrong == pytest.approx(1 - 24 * np.log(2) / plateau_loss(truth))
    assert score_label_outputs(truth.astype(float), truth, multi=True)["frequency_skill"].value == 1.0


def test_variety_of_sets() -> None:
    found = set_variety(marks("ab", "ab", "c", ""))
    assert (found.distinct, found.commonest_share, found.commonest) == (3, 0.5, (0, 1))


def test_pairs_and_confusions_leave_out_what_fits() -> None:
    assert largest_pair_gaps(marks("ab", "ac"), marks("ab", "ac"), 5) == []
    [gap] = largest_pair_gaps(marks("ab", "ac"), marks("ab", "a"), 5)
    assert (gap.labels, gap.predicted, gap.actual) == ((0, 2), 0.5, 0.0)
    [confusion] = largest_confusions(marks("a", "b", "b", "b"), marks("a", "b", "a", "a"), 5)
    assert (confusion.actual, confusion.predicted, confusion.items) == (0, 1, 2)
    assert confusion.share == pytest.approx(2 / 3)


def test_few_points_of_a_long_curve() -> None:
    random = np.random.default_rng(3)
    truth = random.random(2_000) < 0.2
    points = precision_recall_points(truth * 0.3 + random.random(2_000), truth, 24)
    assert len(points) == 24
    np.testing.assert_allclose(points[:, 0], np.arange(1, 25) / 24, atol=0.01)


def test_shown_labels_run_from_frequent_to_rare() -> None:
    truth = np.arange(20)[:, None] < np.arange(10)[None, :]
    assert shown_labels(truth, 3).tolist() == [9, 5, 1]
    assert shown_labels(truth, 50).tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_ranking_skill_is_none_by_chance_and_one_if_perfect() -> None:
    rng = np.random.default_rng(8)
    truth = rng.random((300, 12)) < np.linspace(0.4, 0.02, 12)
    assert ranking_skill(np.where(truth, 0.51, 0.49), truth) == pytest.approx(1)
    by_chance = [ranking_skill(rng.random(truth.shape), truth) for _ in range(30)]
    assert np.mean([value for value in by_chance if value is not None]) == pytest.approx(0, abs=0.01)
    assert (ranking_skill(np.full(truth.shape, 0.3), truth) or 0) == pytest.approx(0, abs=0.05)
    assert ranking_skill(rng.random((5, 3)), np.ones((5, 3), dtype=bool)) is None


def test_pairs_are_counted_without_a_table_of_all_labels() -> None:
    rng = np.random.default_rng(9)
    decided, truth = (rng.random((40, 2_000)) < 0.002 for _ in range(2))
    tracemalloc.start()
    pair_counts(decided, truth)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 6 * 2**20


def test_scores_of_decisions_counted_by_hand() -> None:
    scores = decision_scores(marks("ab", "c", ""), marks("ab", "d", "a"))
    assert (scores.micro, scores.whole) == (pytest.approx(2 * 2 / (3 + 4)), pytest.approx(1 / 3))
    assert scores.macro == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert decision_scores(marks(""), marks("")).macro is None


def test_the_worst_labels_have_the_lowest_f1_of_those_with_ten_items() -> None:
    truth = marks(*["ab"] * 10, *["c"] * 9, *["d"] * 12)
    decided = marks(*["a"] * 10, *[""] * 9, *["d"] * 6, *["a"] * 6)
    found = worst_labels(decided, truth, 2)
    assert [(tally.label, tally.support, tally.given, tally.right) for tally in found] == [(1, 10, 0, 0), (3, 12, 6, 6)]
    assert [tally.f1 for tally in found] == [0, pytest.approx(2 * 6 / 18)]
    assert [tally.label for tally in worst_labels(decided, truth, 9)] == [1, 3, 0]


def test_outputs_in_a_wrong_order_are_found_and_noise_is_not() -> None:
    random = np.random.default_rng(5)
    truth = random.random((200, 6)) < 0.3
    right = truth * 0.5 + random.random(truth.shape) * 0.4
    assert misplaced_outputs(right, truth) == []
    assert misplaced_outputs(random.random(truth.shape), truth) == []
    swapped = misplaced_outputs(right[:, [1, 0, 2, 3, 4, 5]], truth)
    assert {(each.label, each.output) for each in swapped} == {(0, 1), (1, 0)}
    assert all(each.correlation > 0.7 and abs(each.own) < 0.3 for each in swapped)
    assert misplaced_outputs(np.full(truth.shape, 0.3), truth) == []
    assert misplaced_outputs(right[:4], truth[:4]) == []


def test_chosen_labels_are_among_those_shown() -> None:
    truth = np.arange(20)[:, None] < np.arange(10)[None, :]
    assert shown_labels(truth, 3, [4]).tolist() == [9, 4, 1]
    assert shown_labels(truth, 2, [4, 5, 6]).tolist() == [6, 5]
    assert shown_labels(truth, 3, [0]).tolist() == [9, 5, 1]
