"""What every reader of another tool's files gives: the items that a run asked, its answers, and the tool's own scores.

``key`` is what an item pairs by: the tool's own id, or the hash of the item's content where the tool has no id. The
tool's scores stay beside ours, so that both can be compared item by item.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lorascope.errors import DataError
from lorascope.schema.comparison import TaskKind
from lorascope.schema.items import Answer, ChoiceItem, GenerateItem, Item, LikelihoodItem, content_id
from lorascope.schema.model import Direction

Tool = Literal["lm-eval", "inspect", "lighteval", "llamafactory", "files"]
Score = tuple[float, float]
"""(sum, weight) of one item: a plain number has weight 1, the log-likelihood of a text the number of its words."""
Strictness = Literal["refuse", "warn"]
_OVERLAP = re.compile(r"(^|_)(rouge|bleu|sacrebleu|chrf|ter$|meteor|bert_?score)")


@dataclass(frozen=True, slots=True)
class ToolMetric:
    """A per-item number of the tool.

    ``ours`` is our metric that should have the same value for each item, ``why`` how the two may still differ. ``form``
    says how items make one value: the weighted mean, or ``exp`` of its negative (a perplexity). ``share``: the value of
    one answer says how right it is, from 0 to 1, whole numbers or not.
    """

    direction: Direction = "none"
    ours: str | None = None
    why: str | None = None
    form: Literal["mean", "exp"] = "mean"
    share: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run was made. Runs that differ in one to ``refuse`` were not asked or scored alike."""

    value: str
    strictness: Strictness = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedItem:
    """One item with the run's answer; ``place`` is the file and line that it stands in.

    ``first`` are the scores of the first answer where ``scores`` are means over several, ``turns`` the numbers that the
    tool gives to the answers (epochs), in their order.
    """

    key: str
    item: Item
    answer: Answer
    scores: Mapping[str, Score] = field(default_factory=dict)
    place: str
    first: Mapping[str, Score] | None = None
    turns: tuple[int, ...] = ()

    def verdict(self, name: str, metric: ToolMetric) -> bool | None:
        """Whether the tool's ``metric`` called the first answer right; None where it says more than right or wrong.

        Of a metric of shares only 1 is right: partly right is not.
        """
        value, weight = (self.scores if self.first is None else self.first).get(name, (math.nan, 1.0))
        telling = 0.0 <= value <= 1.0 if metric.share else value in (0.0, 1.0)
        return value == 1.0 if telling and weight == 1.0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedTask:
    """One task of a run. ``usable`` are our metrics that mean something here (None: all), ``primary`` the one to quote.

    Keys are unique; ``by_place`` says that they are no more than places in the file. ``dropped`` says which items of
    the run are not here, and why.
    """

    name: str
    kind: TaskKind
    items: tuple[ImportedItem, ...]
    settings: Mapping[str, Setting] = field(default_factory=dict)
    metrics: Mapping[str, ToolMetric] = field(default_factory=dict)
    usable: tuple[str, ...] | None = None
    primary: str | None = None
    by_place: bool = False
    dropped: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImportedRun:
    """What one checkpoint's files hold. ``left_out`` says why a task could not be taken in."""

    files: tuple[Path, ...]
    tasks: Mapping[str, ImportedTask]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dtype: str | None = None
    parameters: int | None = None


def generate_item(
    prompt: str | None,
    references: Sequence[str],
    *,
    messages: Sequence[Mapping[str, str]] | None = None,
    group: str | None = None,
    category: str | None = None,
) -> GenerateItem:
    """The item with the id that the same question has in a suite."""
    turns = None if messages is None else tuple(dict(turn) for turn in messages)
    content = {"kind": "generate", "prompt": prompt, "messages": turns, "references": list(references)}
    return GenerateItem(
        item_id=content_id(content), prompt=prompt, messages=turns, references=tuple(references), group=group,
        category=category,
    )  # fmt: skip


def choice_item(context: str, choices: Sequence[str], answer: int) -> ChoiceItem:
    """The item with the id that the same question has in a suite."""
    content = {"kind": "choice", "context": context, "messages": None, "choices": list(choices), "answer": answer}
    return ChoiceItem(
        item_id=content_id(content), question=context, context=context, choices=tuple(choices), answer=answer
    )


def likelihood_item(text: str) -> LikelihoodItem:
    """The item with the id that the same text has in a suite."""
    return LikelihoodItem(item_id=content_id({"kind": "likelihood", "text": text}), text=text)


def with_unique_ids(items: Sequence[ImportedItem]) -> tuple[ImportedItem, ...]:
    """Give items of equal content the ids ``#2``, ``#3`` …, as in a suite's data."""
    seen: dict[str, int] = {}
    unique = []
    for one in items:
        name = one.item.item_id
        seen[name] = seen.get(name, 0) + 1
        count = seen[name]
        unique.append(one if count == 1 else replace(one, item=replace(one.item, item_id=f"{name}#{count}")))
    return tuple(unique)


def refuse_doubled(items: Sequence[ImportedItem], what: str) -> None:
    """Raise DataError for a key that two items have: nothing says which of the two pairs."""
    places: dict[str, str] = {}
    for one in items:
        if one.key in places:
            raise DataError(
                f"{what} {one.key} stands twice",
                where=f"{one.place} (first: {places[one.key]})",
                remedy="keep one of them; a file that two runs were appended to holds each item twice",
            )
        places[one.key] = one.place


def numbered_keys(keys: Sequence[str]) -> list[str]:
    """Keys made of content alone: equal contents are told apart by ``#2``, ``#3`` … in their order."""
    seen: dict[str, int] = {}
    unique = []
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        unique.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return unique


def number(value: Any, place: str) -> float | None:
    """A finite number or truth value as a float; None for anything else.

    DataError with ``place`` for a whole number that no float can hold.
    """
    if not isinstance(value, bool | int | float):
        return None
    try:
        found = float(value)
    except OverflowError as error:
        raise DataError("a number is too large to be a score", where=place, remedy="run the task again") from error
    return found if math.isfinite(found) else None


def section(document: object, *names: str) -> Mapping[str, Any]:
    """The mapping below ``names`` in a document of another tool; an empty one where it is missing or no mapping."""
    found = document
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The mappings in a list of another tool's document; none where it is missing or no list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def shown(value: object) -> str:
    """A setting as one line of text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def text_metrics(known: Iterable[str], *, extracted: bool = False) -> tuple[str, ...] | None:
    """Our metrics for a generation task of a tool with the metrics ``known``.

    All of them (None) where the tool measures overlap too; a task that is only right or wrong has short answers, to
    which ROUGE and BLEU say nothing. An ``extracted`` answer is right or wrong and no more.
    """
    if any(_OVERLAP.search(name.lower()) for name in known):
        return None
    return ("exact_match",) if extracted else ("exact_match", "token_f1")


def kept_metrics(items: Sequence[ImportedItem], known: Mapping[str, ToolMetric]) -> dict[str, ToolMetric]:
    """The metrics that every item has a number for; those with holes would be means over different items."""
    return {name: metric for name, metric in known.items() if items and all(name in one.scores for one in items)}
