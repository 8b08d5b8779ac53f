"""Holding a result to a policy: pass, fail, inconclusive, missing or invalid, with the numbers behind each outcome."""

from __future__ import annotations

from lorascope.gates.evaluation import evaluate, exit_code
from lorascope.gates.pairing import Baseline

__all__ = ["Baseline", "evaluate", "exit_code"]
