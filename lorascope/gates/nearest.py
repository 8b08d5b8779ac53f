"""What somebody may have meant by an address that names nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from lorascope.errors import ConfigError
from lorascope.gates.selection import subjects_of
from lorascope.measures.registry import MEASURES, find_spec
from lorascope.schema.comparison import Comparison
from lorascope.schema.policy import Address, Gate

_MOST = 3
_LIKE = 0.5
_OF_OTHER_PATTERNS = frozenset("|^$()[]{}?+\\")


def hint(gate: Gate, comparison: Comparison) -> str:
    """``nearest: support.rougeL``, or the checkpoints' names where no subject fits; empty without anything alike."""
    address = gate.address
    if not subjects_of(address, comparison):
        return f"its checkpoints: {', '.join(each.name for each in comparison.subjects)}"
    near = difflib.get_close_matches(_written(address), _addresses(comparison), n=_MOST, cutoff=_LIKE)
    return f"nearest: {', '.join(near)}" if near else ""


def doubts(address: Address) -> Iterator[str]:
    """What an address says that it can hardly mean, as far as that shows without a result."""
    signs = sorted(set(address.place + address.metric) & _OF_OTHER_PATTERNS)
    signs += [".*"] if address.place.endswith(".") and address.metric == "*" else []
    if signs:
        yield f"{' '.join(signs)} in an address: only * is a wildcard, and every other sign stands for itself."
    elif "*" not in address.metric:
        try:
            find_spec(address.metric)
        except ConfigError:
            near = difflib.get_close_matches(address.metric, MEASURES, n=1, cutoff=_LIKE)
            told = f"; nearest: {near[0]}" if near else ""
            yield f"{address.metric}: no such metric{told}. Plugged-in metrics are known with a result alone."


def _written(address: Address) -> str:
    return f"{address.place}.{address.metric}" + (f"@{address.slice}" if address.slice else "")


def _addresses(comparison: Comparison) -> list[str]:
    """Every address of the result without its subject, by task and by area."""
    found: dict[str, None] = {}
    for each in comparison.measurements:
        part = f"@{each.slice.by}={each.slice.value}" if each.slice else ""
        for place in (each.task, each.area):
            if place is not None:
                found[f"{place}.{each.metric}{part}"] = None
    return list(found)
