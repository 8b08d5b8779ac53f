"""Whether two results were asked the same in the same way, so that their difference is that of the checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from lorascope.errors import InvalidComparison
from lorascope.gates.scores import RATES
from lorascope.schema.comparison import Comparison, Measurement, Provenance, TaskInfo

_MOST_NAMED = 6
_WITHOUT_ANSWERS = frozenset({"weights", "curves", "leak"})
_MEASURE_AGAIN = (
    "measure the baseline's checkpoint again with this release, then replace the baseline with "
    "lorascope gate bless --overwrite"
)
_AUTO = "auto (base stored as "
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def check_suites(comparison: Comparison, baseline: Comparison) -> None:
    """InvalidComparison where both results have tasks and not one in common: another suite altogether."""
    new, old = ([task.name for task in each.tasks] for each in (comparison, baseline))
    if new and old and not set(new) & set(old):
        raise InvalidComparison(
            f"the baseline is of another suite: it has {_listed(old)}, the result {_listed(new)}",
            remedy="give the baseline of the same suite, or bless a result of this one",
        )


def what_differs(found: Measurement, before: Measurement, comparison: Comparison, baseline: Comparison) -> str | None:
    """What of data, prompt, decoding, scorer and engine differs between two measurements, and what to do about it.

    None where they can be compared. What was asked counts where there is a task, and the engine except for what no
    answer enters. Library versions and devices are doubts alone: see :func:`doubts_of_baseline`.
    """
    if found.task is not None and (differing := _task_differs(found.task, comparison, baseline)) is not None:
        return differing
    if found.signature != before.signature:
        return f"scored differently: {_parts_that_differ(before.signature, found.signature)}; {_MEASURE_AGAIN}"
    if found.metric in RATES and comparison.base.content_hash != baseline.base.content_hash:
        return "it counts changes from the base, and the baseline had another base; bless a result of this base"
    return None if found.area in _WITHOUT_ANSWERS else _engine_differs(comparison.provenance, baseline.provenance)


def _parts_that_differ(before: str, after: str) -> str:
    """What of two signatures is not in both; parts stand between ``|``."""
    old, new = before.split("|"), after.split("|")
    if len(old) == len(new):
        pairs = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
        old, new = [one for one, _ in pairs], [other for _, other in pairs]
    elif set(old) != set(new):
        old, new = [each for each in old if each not in new], [each for each in new if each not in old]
    there, here = (" | ".join(repr(each) for each in parts) or "nothing" for parts in (old, new))
    return f"{there} in the baseline, {here} here"


def _task_differs(name: str, comparison: Comparison, baseline: Comparison) -> str | None:
    new, old = _task(name, comparison), _task(name, baseline)
    if new is not None and old is not None and new.fingerprint == old.fingerprint:
        return None
    marks = [None if task is None else task.fingerprint for task in (old, new)]
    what = "asked differently in the baseline"
    if new is not None and old is not None and new.items != old.items:
        what = f"{what}, of {old.items:,} items instead of {new.items:,}"
    remedy = "measure the baseline again with the same items, prompt, decoding and scoring"
    return f"task {name!r} was {what}: fingerprint {marks[0]} there, {marks[1]} here; {remedy}"


def _task(name: str, comparison: Comparison) -> TaskInfo | None:
    return next((task for task in comparison.tasks if task.name == name), None)


def _engine_differs(new: Provenance, old: Provenance) -> str | None:
    if new.engine is not None and old.engine is not None and new.engine != old.engine:
        return f"answered by another engine: {old.engine} in the baseline, {new.engine} here; use the same for both"
    if _precision(new.dtype) != _precision(old.dtype):
        return f"computed in another precision: {old.dtype} in the baseline, {new.dtype} here; use the same --dtype"
    return None


def _precision(dtype: str) -> str:
    """``auto`` computes in what the base is stored in, which files name in their own way."""
    stored = dtype.removeprefix(_AUTO).removesuffix(")") if dtype.startswith(_AUTO) else dtype
    return _STORED.get(stored, stored)


def doubts_of_baseline(comparison: Comparison, baseline: Comparison) -> list[str]:
    """Differences that rarely decide an answer but may: library versions, the device, the base, an unknown engine."""
    return list(_doubts(comparison, baseline))


def _doubts(comparison: Comparison, baseline: Comparison) -> Iterator[str]:
    new, old = comparison.provenance, baseline.provenance
    if comparison.base.content_hash != baseline.base.content_hash:
        yield f"the baseline was measured on another base: {baseline.base.name} there, {comparison.base.name} here"
    if (new.engine is None) != (old.engine is None):
        yield f"which engine answered is not recorded in {'the result' if new.engine is None else 'the baseline'}"
    if new.device != old.device:
        yield f"the baseline was computed on another device: {old.device} there, {new.device} here"
    shared = new.libraries.keys() & old.libraries.keys()
    changed = [
        f"{name} {old.libraries[name]} → {new.libraries[name]}"
        for name in sorted(shared)
        if old.libraries[name] != new.libraries[name]
    ]
    if changed:
        yield f"library versions differ from the baseline's: {_listed(changed)}"


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
