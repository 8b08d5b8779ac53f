"""What pytest finds by itself where lorascope is installed: the fixture ``assert_no_regression``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lorascope import testing


@pytest.fixture(scope="session")
def assert_no_regression() -> Callable[..., None]:
    """:func:`lorascope.testing.assert_no_regression`, without an import."""
    return testing.assert_no_regression
