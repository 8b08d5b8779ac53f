"""Which measurements an address names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from lorascope.schema.comparison import Comparison, Measurement, Slice
from lorascope.schema.policy import Address

_NO_SCORES = frozenset({"cost", "gap", "leak", "noise"})


def subjects_of(address: Address, comparison: Comparison) -> list[str]:
    """Names of the adapted checkpoints that the address means, or the base where it is named outright."""
    names = [each.name for each in comparison.subjects]
    if address.subject is None:
        return names
    if address.subject == comparison.base.name:
        return [address.subject]
    return [name for name in names if fits(address.subject, name)]


def fits(pattern: str, text: str) -> bool:
    """Whether text fits a pattern in which ``*`` alone is special (labels may hold brackets and question marks)."""
    return fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]"))


def measurements_at(address: Address, subject: str, comparison: Comparison) -> list[Measurement]:
    """Measurements at the address, each once: against the base, or the only other reference that has a difference.

    ``manual.*`` means the scores of a task: a metric with ``*`` that is reached by a task's name, or by a place of
    stars alone, leaves out what stands beside them in scales of their own and is no score: time and memory, gaps
    between training and validation, leaks and noise. ``cost.*``, ``gap.*``, or an outright name, reach them.
    """
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for each in comparison.measurements:
        named = _placed(address, each) and fits(address.metric, each.metric)
        if each.subject == subject and named and _sliced(address, each.slice):
            groups.setdefault((each.area, address_of(each)), []).append(each)
    return [_one_reference(group, comparison.base.name) for group in groups.values()]


def _placed(address: Address, found: Measurement) -> bool:
    by_area = fits(address.place, found.area)
    by_task = found.task is not None and fits(address.place, found.task)
    if "*" in address.metric and found.area in _NO_SCORES:
        return by_area and bool(address.place.strip("*"))
    return by_area or by_task


def address_of(found: Measurement) -> str:
    """The full address of one measurement."""
    part = f"@{found.slice.by}={found.slice.value}" if found.slice else ""
    return f"{found.subject}:{found.task or found.area}.{found.metric}{part}"


def _sliced(address: Address, part: Slice | None) -> bool:
    if address.slice is None or part is None:
        return address.slice is None and part is None
    return fits(address.slice, part.value) or fits(address.slice, f"{part.by}={part.value}")


def _one_reference(group: Sequence[Measurement], base: str) -> Measurement:
    against_base = [each for each in group if each.reference == base]
    compared = [each for each in group if each.delta is not None]
    if len(compared) == 1 and not any(each.delta for each in against_base):
        return compared[0]
    return (against_base or list(group))[0]
