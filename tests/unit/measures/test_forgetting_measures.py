from __future__ import annotations

import numpy as np
import pytest

from lorascope.errors import DataError
from lorascope.measures.drift import linear_cka, mean_cosine
from lorascope.measures.forgetting import above_chance, flips, score_forgetting
from lorascope.measures.statistics import estimate

RIGHT, WRONG = True, False


def test_rates_count_among_what_could_change() -> None:
    base = [RIGHT] * 8 + [WRONG] * 2
    adapted = [RIGHT] * 6 + [WRONG] * 2 + [RIGHT, WRONG]
    scored = score_forgetting(base, adapted, chance=0.0)
    assert scored["forgotten_rate"].value == pytest.approx(2 / 8)
    assert scored["gained_rate"].value == pytest.approx(1 / 2)
    assert scored["retained_fraction"].value == pytest.approx(7 / 8)


def test_retention_is_above_chance() -> None:
    """80 % falling to 50 % with four choices keeps (50 − 25)/(80 − 25), not 50/80."""
    base = np.arange(100) < 80
    adapted = np.arange(100) < 50
    assert score_forgetting(base, adapted, chance=0.25)["retained_fraction"].value == pytest.approx(25 / 55)
    mixed = [0.25] * 50 + [0.5] * 50
    assert score_forgetting(base, adapted, chance=mixed)["retained_fraction"].value == pytest.approx(12.5 / 42.5)


def test_a_base_at_chance_has_nothing_to_retain() -> None:
    base = np.arange(40) < 13
    scored = score_forgetting(base, base, chance=0.25)
    assert not above_chance(base, chance=0.25)
    assert "retained_fraction" not in scored
    assert scored["forgotten_rate"].value == 0.0
    assert above_chance(np.arange(400) < 130, chance=0.25)


def test_nothing_right_before_leaves_forgetting_undefined() -> None:
    scored = score_forgetting([WRONG] * 5, [RIGHT] * 5, chance=0.0)
    assert scored["forgotten_rate"].value is None
    assert estimate(scored["forgotten_rate"], seed=0).method.startswith("none: undefined")
    assert scored["gained_rate"].value == 1.0


def test_no_forgetting_seen_is_not_proof_of_none() -> None:
    base = [RIGHT] * 50 + [WRONG] * 10
    found = estimate(score_forgetting(base, base, chance=0.25)["forgotten_rate"], seed=0)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.0714, abs=1e-3)  # Wilson with 50 trials, not 60


def test_retained_fraction_has_a_paired_interval() -> None:
    random = np.random.default_rng(0)
    base = random.random(400) < 0.8
    adapted = base & (random.random(400) < 0.9)
    found = estimate(score_forgetting(base, adapted, chance=0.25)["retained_fraction"], seed=0, resamples=2000)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high < 1.0
    assert found.high - found.low < 0.12  # unpaired it would be about 0.2 wide


def test_flips_by_name() -> None:
    assert flips([0, 1, 1, 0], [1, 0, 1, 0]) == ["fixed", "broken", "both_right", "both_wrong"]  # type: ignore[list-item]


def test_lengths_and_values_are_checked() -> None:
    with pytest.raises(DataError, match="2 base_right, 1 adapted_right"):
        score_forgetting([True, True], [True], chance=0.0)
    with pytest.raises(DataError, match="true and false"):
        score_forgetting([2, 1], [1, 1], chance=0.0)  # type: ignore[list-item]
    with pytest.raises(DataError, match="chance"):
        score_forgetting([True], [True], chance=1.0)


def test_cka_ignores_rotation_and_scale() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(50, 8))
    rotation = np.linalg.qr(random.normal(size=(8, 8)))[0]
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1.0)
    assert linear_cka(x, random.normal(size=(50, 8))) < 0.5  # type: ignore[operator]


def test_cka_of_constant_representations_is_undefined() -> None:
    assert linear_cka(np.full((6, 3), 0.1), np.random.default_rng(0).normal(size=(6, 3))) is None
    assert linear_cka(np.ones((1, 3)), np.ones((1, 3))) is None


def test_cosine_leaves_out_empty_representations() -> None:
    x = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    y = np.array([[5.0, 0.0], [1.0, 1.0], [3.0, 0.0]])
    assert mean_cosine(x, y) == pytest.approx(0.5)
    assert mean_cosine(np.zeros((2, 2)), y[:2]) is None


def test_representations_must_line_up() -> None:
    with pytest.raises(DataError, match="line up"):
        linear_cka(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(DataError, match="equal widths"):
        mean_cosine(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(DataError, match="NaN"):
        linear_cka(np.full((3, 2), np.nan), np.ones((3, 2)))
