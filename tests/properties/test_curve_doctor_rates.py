"""The findings on training curves hit their own fault and leave healthy runs alone, on seeded synthetic runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "curve_doctor.py"


@pytest.fixture(scope="module")
def doctor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("curve_doctor", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["curve_doctor"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("noise", ["low", "medium", "high"])
def test_healthy_runs_get_hardly_a_warning(doctor: ModuleType, noise: str) -> None:
    rates = doctor.measure("healthy", noise, 60)
    assert rates.crossed <= 3, rates.warnings
    assert rates.hits == 60  # each names the checkpoint to keep


@pytest.mark.parametrize(
    ("kind", "fewest"),
    [
        ("over-fitting", 23),
        ("over-fitting, metric improves", 22),
        ("spikes", 23),
        ("divergence", 24),
        ("NaN", 25),
        ("staircase", 21),
        ("base-rate plateau", 20),
        ("standstill", 19),
        ("learning rate too high", 19),
        ("warm-up too short", 20),
        ("validation does not fall", 21),
        ("fluctuation", 23),
        ("learning rate too low", 19),
        ("gap", 23),
    ],
)
def test_a_fault_is_found_at_medium_noise(doctor: ModuleType, kind: str, fewest: int) -> None:
    rates = doctor.measure(kind, "medium", 25)
    assert rates.hits >= fewest, rates
    assert rates.crossed <= 4, rates.warnings


def test_the_same_seed_gives_the_same_rates(doctor: ModuleType) -> None:
    assert doctor.measure("spikes", "low", 5) == doctor.measure("spikes", "low", 5)
