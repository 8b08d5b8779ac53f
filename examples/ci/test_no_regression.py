"""A regression gate as a test: the fixture comes with lorascope, ``pytest`` finds it by itself."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def test_the_adapter_loses_nothing(assert_no_regression) -> None:
    """Fails with every rule that blocks."""
    assert_no_regression(HERE / "reports/gate/result.json", HERE / "gates.toml", baseline=HERE / "baseline.json")
