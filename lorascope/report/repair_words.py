"""A repair scan in words: its verdict, what that rests on, and the numbers as the section prints them."""

from __future__ import annotations

from collections.abc import Iterator

from lorascope.report import numbers
from lorascope.report.texts import Texts
from lorascope.schema.repair import RepairAxis, RepairChange, RepairReport, RepairRow, RepairValue, strength_text


def verdict_title(report: RepairReport, words: Texts) -> str:
    """Return the verdict as one sentence."""
    verdict = report.verdict
    control = words(f"repair.instead.{verdict.against}") if verdict.against else ""
    return words(f"repair.outcome.{verdict.outcome}", items=f"{verdict.items:,}", control=control, k=report.k)


def verdict_text(report: RepairReport, words: Texts) -> str:
    """Return what the verdict rests on: the loss, what the best repair brings back, alone and beyond its controls.

    Gains are positive whatever the metric's direction. Then why more cannot be said, and over which λ it holds.
    """
    verdict, axis = report.verdict, report.retention
    if axis is None or verdict.forgotten is None:
        return words("repair.strength_only")
    lost = change_text(axis, turned(axis, verdict.forgotten), with_sign=False)
    said = [words("repair.lost", change=lost, metric=axis.metric, items=f"{verdict.forgotten.n:,}")]
    best = next((row for row in report.rows if row.name == verdict.best), None)
    if best is not None:
        said += _best_in_words(report, axis, best, words)
    missing = [words(f"repair.control.{control}") for control in verdict.missing_controls]
    if missing:
        said.append(words("repair.missing", controls=words.joined(missing)))
    said += [words(f"repair.reason.{reason}") for reason in verdict.reasons]
    if verdict.lambdas is not None:
        low, high = (strength_text(strength) for strength in verdict.lambdas)
        said.append(words("repair.lambda" if low == high else "repair.lambdas", low=low, high=high))
    elif best is None:
        said.append(words("repair.strength_only"))
    return " ".join(said)


def _best_in_words(report: RepairReport, axis: RepairAxis, best: RepairRow, words: Texts) -> Iterator[str]:
    verdict = report.verdict
    if best.retention is not None and best.retention.change is not None:
        gained = change_text(axis, turned(axis, best.retention.change), with_sign=False)
        yield words("repair.recovers", name=label_of(best, words), change=gained)
    against = [each for each in report.contrasts if (each.family, each.strength) == (best.family, best.strength)]
    ahead = [
        words(
            "repair.ahead",
            control=words(f"repair.control.{each.control}"),
            change=change_text(axis, turned(axis, each.retention)),
        )
        for each in against
        if each.counts
    ]
    if ahead:
        yield words("repair.minus", ahead=words.joined(ahead))
    if verdict.contrast_margin is not None:
        key = "repair.margin_below" if verdict.outcome == "no_more" else "repair.margin"
        control = words(f"repair.control.{verdict.against}") if verdict.against else ""
        yield words(key, margin=value_text(axis, verdict.contrast_margin), control=control)
    if any(not each.counts for each in against):
        yield words("repair.uncounted")
    if any(each.counts and each.target_kept is False for each in against):
        yield words("repair.target_lost")


def label_of(row: RepairRow, words: Texts) -> str:
    """A variant's name in the reader's language."""
    repair = f"{words(f'repair.short.{row.family}')} × {strength_text(row.strength)}"
    return repair if row.control is None else words.joined([repair, words(f"repair.control.{row.control}")])


def turned(axis: RepairAxis, change: RepairChange) -> RepairChange:
    """The change as a gain: the sign is turned where lower is better."""
    if axis.direction != "lower":
        return change
    low = None if change.high is None else -change.high
    high = None if change.low is None else -change.low
    return change.model_copy(update={"value": -change.value, "low": low, "high": high})


def change_text(axis: RepairAxis, change: RepairChange, *, with_sign: bool = True) -> str:
    """A difference with its interval."""
    value = value_text(axis, change.value, with_sign=with_sign)
    return f"{value} {interval_text(axis, change, with_sign=with_sign)}".strip()


def value_text(axis: RepairAxis, value: float, *, with_sign: bool = False) -> str:
    """The number as everywhere in the report, but nats with two decimals, whatever their size."""
    if axis.unit == "nats" and abs(value) < 1000:
        text = numbers.plain(value, 2)
    else:
        text = numbers.metric_value(value, axis.unit, axis.scale)
    return f"+{text}" if with_sign and value > 0 else text


def interval_text(axis: RepairAxis, bounds: RepairValue | RepairChange, *, with_sign: bool = False) -> str:
    """``[low, high]`` in the digits of :func:`value_text`, or nothing where no interval is defined."""
    if bounds.low is None or bounds.high is None:
        return ""
    low, high = (value_text(axis, bound, with_sign=with_sign) for bound in (bounds.low, bounds.high))
    return f"[{low},{numbers.SPACE}{high}]"
