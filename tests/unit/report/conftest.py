"""Fixtures of the report's tests; the comparisons are made in ``comparison_factory.py`` beside this file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lorascope.schema.comparison import Comparison


def load_factory() -> ModuleType:
    name = "report_comparison_factory"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("comparison_factory.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    return load_factory()


@pytest.fixture
def causal(factory: ModuleType) -> Comparison:
    return factory.causal_comparison()


@pytest.fixture
def labels(factory: ModuleType) -> Comparison:
    return factory.labels_comparison()


@pytest.fixture
def weights_only(factory: ModuleType) -> Comparison:
    return factory.weights_only_comparison()


@pytest.fixture
def traced(factory: ModuleType) -> Comparison:
    return factory.traced_weights_comparison()
