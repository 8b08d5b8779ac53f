"""``lorascope_repair.json``: what a repair did to each module, and its sums."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lorascope.checkpoints.new_folder import RECORD
from lorascope.weights.deltas import FactoredDelta, WeightDelta
from lorascope.weights.repair import LONGER, frobenius


def module_row(
    name: str, before: WeightDelta, after: WeightDelta, *, intruders: Sequence[int], lost: float, away: float
) -> dict[str, Any]:
    """One module. Indices of intruders count from 0 in W0 + ΔW.

    ``lost`` is what truncating took, relative to the ΔW' before it; ``away`` is how far the written ΔW is from ΔW',
    in ‖·‖_F, and is shown relative to ‖ΔW'‖ (None where that is 0).
    """
    norm = frobenius(after)
    ranks = {}
    if isinstance(before, FactoredDelta) and isinstance(after, FactoredDelta):
        ranks = {"rank_before": before.up.shape[1], "rank_after": after.up.shape[1]}
    return {
        "module": name,
        "intruders": list(intruders),
        **ranks,
        "frobenius_before": frobenius(before),
        "frobenius_after": norm,
        "truncation_error": lost,
        "rounding_error": away / norm if norm else None,
    }


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all modules: norms as √Σ‖·‖²_F, the truncation error likewise, the rounding error at its largest.

    ``lengthened_modules`` counts those whose ΔW the repair made longer.
    """
    after = _norm(row["frobenius_after"] for row in rows)
    # An error is relative to ΔW' before the cut, whose square is that of ΔW' after it over 1 − error².
    cut = [(row["frobenius_after"], row["truncation_error"]) for row in rows if row["truncation_error"]]
    lost = _norm(norm * error / math.sqrt(1.0 - error**2) for norm, error in cut)
    return {
        "modules": len(rows),
        "scaled_intruders": sum(len(row["intruders"]) for row in rows),
        "frobenius_before": _norm(row["frobenius_before"] for row in rows),
        "frobenius_after": after,
        "lengthened_modules": sum(row["frobenius_after"] > LONGER * row["frobenius_before"] for row in rows),
        "truncation_error": lost / math.hypot(after, lost) if lost else 0.0,
        "largest_rounding_error": max(
            (row["rounding_error"] for row in rows if row["rounding_error"] is not None), default=None
        ),
    }


def load_record(folder: Path) -> tuple[dict[str, Any], str]:
    """What ``lorascope_repair.json`` of a written checkpoint says, parsed and as it stands."""
    text = (folder / RECORD).read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text)
    return record, text


def _norm(values: Iterable[float]) -> float:
    return math.hypot(*values)
