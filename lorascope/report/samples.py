"""The answers that the page carries: the changed ones first, each text stored once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from lorascope.report.numbers import rounded
from lorascope.schema.comparison import Comparison
from lorascope.schema.flips import CauseName

if TYPE_CHECKING:
    import pyarrow

Outcome = Literal["broken", "fixed", "changed", "both_wrong", "both_right", "same", "unpaired"]
OUTCOMES: tuple[Outcome, ...] = ("broken", "fixed", "changed", "both_wrong", "both_right", "same", "unpaired")
ITEMS_PER_TASK = 400
ANSWERS_IN_ALL = 6000
CHARACTERS_IN_ALL = 4_000_000
TEXT_LIMIT = 4000
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many items of a task the page shows, of how many there are."""

    task: str
    shown: int
    total: int


@dataclass(frozen=True, slots=True)
class Samples:
    """The page's answers: ``data`` goes into the page as JSON; ``counts`` are over all items, shown or not.

    ``causes`` are those of the items shown, in the order in which causes are looked for.
    """

    data: dict[str, Any]
    counts: dict[str, dict[str, int]]
    left_out: tuple[LeftOut, ...]
    causes: tuple[str, ...] = ()


class _Pool:
    """Texts by number, so that a prompt or a base answer shared by all subjects is stored once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.characters = 0
        self._numbers: dict[str, int] = {}

    def number(self, text: str | None) -> int | None:
        """Return the number of a text, cut at ``TEXT_LIMIT`` with the number of characters that are left out."""
        if text is None:
            return None
        if len(text) > TEXT_LIMIT:
            text = f"{text[:TEXT_LIMIT]} […+{len(text) - TEXT_LIMIT:,}]"
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
            self.characters += len(text)
        return self._numbers[text]


def embed_samples(samples: pyarrow.Table, comparison: Comparison) -> Samples:
    """Choose at most ``ITEMS_PER_TASK`` items a task, broken and fixed ones first, and pack them for the page.

    An item counts as broken or fixed when it is so for any subject, and is carried for all of them, so that their
    answers can stand side by side. Among items with one outcome those come first whose right answer lost most
    log-probability; where that is not known, those whose score fell most. Fewer items are carried where texts are
    long or subjects and tasks are many.
    """
    items = _by_item(row for row in samples.to_pylist() if _has_answer(row))
    subjects = _order(
        (row["subject"] for rows in items.values() for row in rows), [c.name for c in comparison.subjects]
    )
    tasks = _order((task for task, _ in items), [task.name for task in comparison.tasks])
    metrics = [name.removesuffix("_base") for name in samples.column_names if _is_metric(name)]
    falling = {found.metric for found in comparison.measurements if found.direction == "lower"}
    pool, packed, left_out = _Pool(), [], []
    per_task = max(50, min(ITEMS_PER_TASK, ANSWERS_IN_ALL // max(1, len(tasks) * len(subjects))))
    for place, task in enumerate(tasks):
        found = [(item_id, rows) for (name, item_id), rows in items.items() if name == task]
        ranked = sorted(found, key=lambda each: _urgency(each[1], metrics, falling))
        shown, budget = 0, CHARACTERS_IN_ALL * (place + 1) // len(tasks)
        for item_id, rows in ranked[:per_task]:
            if pool.characters > budget:
                break
            packed.append(_packed(item_id, place, rows, subjects, metrics, pool))
            shown += 1
        left_out.append(LeftOut(task, shown, len(found)))
    packed.sort(key=_place)
    data = {"subjects": subjects, "tasks": tasks, "texts": pool.texts, "items": packed}
    found_causes = {answer["cause"] for item in packed for answer in item["answers"] if answer["cause"]}
    return Samples(data, _counts(items), tuple(left_out), tuple(_order(sorted(found_causes), get_args(CauseName))))


def _has_answer(row: Row) -> bool:
    """Whether there is something to show: running text is scored, and answers nothing."""
    return row.get("base_output") is not None or row.get("adapted_output") is not None


def _is_metric(column: str) -> bool:
    return column.endswith("_base") and column != "gold_logprob_base"


def _by_item(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    items: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        items.setdefault((row["task"], row["item_id"]), []).append(row)
    return items


def _order(found: Iterable[str], known: Sequence[str]) -> list[str]:
    """Known names in their own order, then any others in order of appearance."""
    names = dict.fromkeys(found)
    return [name for name in known if name in names] + [name for name in names if name not in known]


def outcome(row: Row) -> Outcome:
    """Say what became of an answer: its flip where answers are right or wrong, else whether the text changed.

    An answer that the base could not give has nothing to be compared with.
    """
    flip = row.get("flip")
    if flip in ("fixed", "broken", "both_wrong", "both_right"):
        return flip  # type: ignore[no-any-return]
    if row.get("base_output") is None:
        return "unpaired"
    return "same" if row.get("base_output") == row.get("adapted_output") else "changed"


def _urgency(rows: Sequence[Row], metrics: Sequence[str], falling: set[str]) -> tuple[int, bool, float]:
    first = min(OUTCOMES.index(outcome(row)) for row in rows)
    changes = [change for row in rows if (change := gold_change(row)) is not None]
    if changes:
        return first, False, min(changes)
    return first, True, min(_worst_change(row, metrics, falling) for row in rows)


def gold_change(row: Row) -> float | None:
    """Change of the right answer's log-probability, adapted minus base (nats); None where one of them is not known."""
    before, after = row.get("gold_logprob_base"), row.get("gold_logprob_adapted")
    change = None if before is None or after is None else after - before
    return None if change is None or math.isnan(change) else change


def _place(item: dict[str, Any]) -> tuple[int, float]:
    """Where a packed item stands in the page: by its worst outcome, then by the largest fall."""
    answers = item["answers"]
    changes = [answer["change"] for answer in answers if answer["change"] is not None]
    return min(OUTCOMES.index(answer["outcome"]) for answer in answers), min(changes, default=float("inf"))


def _worst_change(row: Row, metrics: Sequence[str], falling: set[str]) -> float:
    """Change of the row's first metric that has both values, better positive; 0 places a row without one last."""
    for metric in metrics:
        before, after = _score(row.get(f"{metric}_base")), _score(row.get(f"{metric}_adapted"))
        if before is not None and after is not None:
            change = after - before
            return -change if metric in falling else change
    return 0.0


def _packed(
    item_id: str, task: int, rows: Sequence[Row], subjects: Sequence[str], metrics: Sequence[str], pool: _Pool
) -> dict[str, Any]:
    first = rows[0]
    return {
        "id": item_id,
        "task": task,
        "group": first.get("group"),
        "category": first.get("category"),
        "prompt": pool.number(first.get("prompt")),
        "references": [pool.number(text) for text in _references(first.get("references"))],
        "answers": [_answer(row, subjects.index(row["subject"]), metrics, pool) for row in rows],
    }


def _answer(row: Row, subject: int, metrics: Sequence[str], pool: _Pool) -> dict[str, Any]:
    scores = {}
    for metric in (*metrics, "gold_logprob"):
        pair = [_score(row.get(f"{metric}_base")), _score(row.get(f"{metric}_adapted"))]
        if pair != [None, None]:
            scores[metric] = pair
    return {
        "subject": subject,
        "outcome": outcome(row),
        "base": pool.number(row.get("base_output")),
        "adapted": pool.number(row.get("adapted_output")),
        "scores": scores,
        "change": _score(gold_change(row)),
        "cause": row.get("cause"),
        "evidence": pool.number(row.get("cause_evidence")),
    }


def _score(value: float | None) -> float | None:
    """An item's score; undefined ones are NaN in a column of numbers and None here."""
    return None if value is None or math.isnan(value) else rounded(float(value), 3)


def _references(stored: object) -> list[str]:
    """Accept references as a list, as a list in JSON, or as one string."""
    if stored is None:
        return []
    if isinstance(stored, str):
        try:
            parsed = json.loads(stored) if stored.startswith("[") else stored
        except ValueError:
            parsed = stored
        return [str(each) for each in parsed] if isinstance(parsed, list) else [stored]
    return [str(each) for each in stored] if isinstance(stored, (list, tuple)) else [str(stored)]


def _counts(items: Mapping[tuple[str, str], Sequence[Row]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for rows in items.values():
        for row in rows:
            by_outcome = counts.setdefault(row["subject"], dict.fromkeys(OUTCOMES, 0))
            by_outcome[outcome(row)] += 1
    return counts
