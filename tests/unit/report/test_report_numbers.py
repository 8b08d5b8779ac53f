"""Numbers as readers see them."""

from __future__ import annotations

import pytest

from lorascope.report import numbers
from lorascope.schema.values import Estimate


@pytest.mark.parametrize(
    ("value", "unit", "scale", "expected"),
    [
        (0.4123, "fraction", "0-1", "0.412"),
        (-0.4123, "fraction", "0-1", "−0.412"),
        (0.0004, "fraction", "0-1", "0.0004"),
        (0.0, "fraction", "0-1", "0.000"),
        (31.26, "points", "0-100", "31.3"),
        (12.3456, "perplexity", "unbounded", "12.3"),
        (5121.0, "seconds", "unbounded", "1 h 25 min"),
        (61.0, "seconds", "unbounded", "1 min 1 s"),
        (8.13, "seconds", "unbounded", "8.1 s"),
        (17.9e9, "bytes", "unbounded", "16.67 GiB"),
        (512, "bytes", "unbounded", "512 B"),
        (12_615_680, "parameters", "unbounded", "12.6 M"),
        (1.1e9, "parameters", "unbounded", "1.1 B"),
        (280.0, "steps", "unbounded", "280"),
        (None, "fraction", "0-1", "–"),
    ],
)
def test_metric_values(value: float | None, unit: str, scale: str, expected: str) -> None:
    assert numbers.metric_value(value, unit, scale).replace("\u00a0", " ") == expected


def test_a_small_value_is_never_printed_as_zero() -> None:
    for value in (1e-3, 1e-4, 1e-5, 1e-8, -1e-4):
        assert any(digit in numbers.plain(value) for digit in "123456789")


def test_numbers_never_break_from_their_units() -> None:
    for text in (numbers.percent(0.04), numbers.duration(3700), numbers.byte_size(2e9), numbers.count(2e6)):
        assert " " not in text


@pytest.mark.parametrize(("value", "expected"), [(0.0346, "3.5 %"), (0.26, "26 %"), (0.0, "0 %"), (1.04, "104 %")])
def test_percent(value: float, expected: str) -> None:
    assert numbers.percent(value).replace("\u00a0", " ") == expected


def test_differences_always_show_their_sign() -> None:
    assert numbers.signed(0.1, "fraction", "0-1") == "+0.100"
    assert numbers.signed(-0.1, "fraction", "0-1") == "−0.100"
    assert numbers.signed(None, "fraction", "0-1") == numbers.ABSENT


def test_an_interval_that_is_not_defined_is_nothing() -> None:
    half = Estimate(value=0.5, low=0.4, high=None, n=3, method="none")
    assert numbers.interval(half, "fraction", "0-1") == ""
    assert numbers.interval(None, "fraction", "0-1") == ""
    whole = Estimate(value=0.5, low=-0.1, high=0.6, n=30, method="bootstrap")
    assert numbers.interval(whole, "fraction", "0-1", with_sign=True).replace("\u00a0", " ") == "[−0.100, +0.600]"


def test_small_things() -> None:
    assert numbers.p_value(0.0004).replace("\u00a0", " ") == "< 0.001"
    assert numbers.p_value(None) == numbers.ABSENT
    assert numbers.margin(0.02) == "±0.02"
    assert numbers.rounded(0.123456) == 0.1235
    assert numbers.count(-0.0) in ("0", "−0")
    assert numbers.count(1544) == "1,544"
