"""What the terminal says below its table in a few lines: flips with their causes, leaked items, the noise floor."""

from __future__ import annotations

from lorascope.report import numbers
from lorascope.report.lookup import measurements
from lorascope.report.texts import Texts
from lorascope.schema.comparison import Comparison, Measurement, TaskInfo
from lorascope.schema.flips import FlipLedger

_MAIN_CAUSES = 3
_OF_ABILITY = ("knowledge_loss", "unexplained")


def flip_rows(comparison: Comparison, words: Texts) -> list[tuple[str, str, str, str]]:
    """Return task (where it is another than above), subject, broken and fixed answers, and the main causes.

    Where the reference cannot be told from guessing, that stands in place of causes that speak of lost ability.
    """
    rows: list[tuple[str, str, str, str]] = []
    last = None
    places = {task.name: at for at, task in enumerate(comparison.tasks)}
    for ledger in sorted(comparison.flips, key=lambda each: places.get(each.task, len(places))):
        against = "" if ledger.reference == comparison.base.name else words("flips.against", reference=ledger.reference)
        subject = f"{ledger.subject} {against}".strip()
        task = "" if ledger.task == last else ledger.task
        rows.append((task, subject, *_turned(ledger, _guessed(comparison, ledger), words)))
        last = ledger.task
    return rows


def check_lines(comparison: Comparison, words: Texts) -> list[str]:
    """Return one line per task with a training file, on leaked items and the change on clean ones, and one on noise."""
    lines = [line for task in comparison.tasks if (line := _leaks(comparison, task, words))]
    base = comparison.base.name
    noise = measurements(comparison, reference=base, area="noise", metric="noise_flip_rate", by=None)
    shares = [f"{found.task}, {found.subject} {_percent(found)}" for found in noise if found.adapted is not None]
    return [*lines, words("said.noise", shares="; ".join(shares))] if shares else lines


def _guessed(comparison: Comparison, ledger: FlipLedger) -> bool:
    of = {"subject": ledger.subject, "reference": ledger.reference, "task": ledger.task}
    shares = measurements(comparison, **of, metric="retained_fraction", by=None)
    return bool(shares) and all(found.adapted is None for found in shares)


def _turned(ledger: FlipLedger, guessed: bool, words: Texts) -> tuple[str, str]:
    """The counts, and the causes with the most frequent first."""
    if not ledger.broken + ledger.fixed:
        wrong = words("flips.wrong_in_both", wrong=f"{ledger.both_wrong:,}", items=f"{ledger.items:,}")
        return words("flips.none_turned"), wrong if ledger.both_wrong else ""
    known = (ledger.causes or {}).items()
    found = [(name, count) for name, count in known if count and not (guessed and name in _OF_ABILITY)]
    found.sort(key=lambda each: -each[1])
    causes = [f"{words(f'cause.{name}')} {count:,}" for name, count in found[:_MAIN_CAUSES]]
    if guessed:
        causes.append(words("flips.unknown", reference=ledger.reference))
    return words("flips.turned", broken=f"{ledger.broken:,}", fixed=f"{ledger.fixed:,}"), words.joined(causes)


def _leaks(comparison: Comparison, task: TaskInfo, words: Texts) -> str:
    base = comparison.base.name
    shares = measurements(comparison, reference=base, area="leak", task=task.name, metric="leaked_fraction", by=None)
    share = next((found for found in shares if found.adapted is not None), None)
    if share is None:
        return ""
    said = words("said.leaked", task=task.name, share=_percent(share))
    metric = task.metrics[0] if task.metrics else ""
    clean = measurements(comparison, reference=base, task=task.name, metric=metric, by="clean")
    changes = [
        f"{found.subject} {numbers.signed(found.delta.value, found.unit, found.scale)}"
        for found in clean
        if found.delta is not None and found.slice is not None and found.slice.value == "clean"
    ]
    return f"{said} {words('said.clean_gain', metric=metric, changes=words.joined(changes))}" if changes else said


def _percent(found: Measurement) -> str:
    return numbers.percent(found.adapted.value if found.adapted else None)
