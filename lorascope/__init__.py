"""lorascope: what did this fine-tune change?

The dozen names below are the public surface; they are imported when they are first used, so that ``import lorascope``
costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorascope.version import __version__

if TYPE_CHECKING:
    from lorascope.errors import LorascopeError
    from lorascope.measures.statistics import estimate, paired
    from lorascope.schema.comparison import Comparison, Finding, Measurement
    from lorascope.schema.values import Estimate
    from lorascope.workflows.compare import CompareOptions, compare
    from lorascope.workflows.publish import load_result, render
    from lorascope.workflows.tasks import Questions
    from lorascope.workflows.weights import WeightOptions

_HOMES = {
    "Comparison": "lorascope.schema.comparison",
    "CompareOptions": "lorascope.workflows.compare",
    "Estimate": "lorascope.schema.comparison",
    "Finding": "lorascope.schema.comparison",
    "LorascopeError": "lorascope.errors",
    "Measurement": "lorascope.schema.comparison",
    "Questions": "lorascope.workflows.tasks",
    "WeightOptions": "lorascope.workflows.weights",
    "compare": "lorascope.workflows.compare",
    "estimate": "lorascope.measures.statistics",
    "load_result": "lorascope.workflows.publish",
    "paired": "lorascope.measures.statistics",
    "render": "lorascope.workflows.publish",
}

__all__ = [
    "CompareOptions",
    "Comparison",
    "Estimate",
    "Finding",
    "LorascopeError",
    "Measurement",
    "Questions",
    "WeightOptions",
    "__version__",
    "compare",
    "estimate",
    "load_result",
    "paired",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lorascope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
