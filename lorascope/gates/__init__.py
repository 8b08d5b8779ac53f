"""Holding a result to a policy: pass, fail, inconclusive or missing, with the numbers behind each outcome."""

from __future__ import annotations

from lorascope.gates.evaluation import evaluate
from lorascope.gates.pairing import Baseline
from lorascope.gates.rendering import junit, markdown

__all__ = ["Baseline", "evaluate", "junit", "markdown"]
