"""``samples.parquet``: every item with both answers, so that any number in the report can be traced to its texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.data.tasks import LoadedTask
from lorascope.measures.core import Scored
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    ChoiceItem,
    GenerateAnswer,
    GenerateItem,
    Item,
    LabelsAnswer,
    LabelsItem,
    LikelihoodItem,
    ScoreAnswer,
    ScoreItem,
    TokensAnswer,
    TokensItem,
)
from lorascope.workflows.flips import chat_text, chosen_labels, explain
from lorascope.workflows.scoring import Asked, score

if TYPE_CHECKING:
    import pyarrow

_TEXT_COLUMNS = ("subject", "task", "item_id", "group", "category", "prompt")


def sample_rows(task: LoadedTask, subject: str, base: Asked | None, adapted: Asked) -> list[dict[str, Any]]:
    """One row an item. Columns of the base are null where the base cannot do the task.

    ``cause`` and ``cause_evidence`` are given for broken items alone, ``gold_logprob_change`` (nats, adapted minus
    base) where both log-probabilities are known.
    """
    metrics = _columns(score(task, adapted), "adapted") | _columns(score(task, base) if base else {}, "base")
    explained = explain(task, base, adapted) if base else None
    causes = (explained.causes if explained else None) or {}
    rows = []
    for index, item in enumerate(adapted.items):
        answer = adapted.answers[index]
        original = base.answers[index] if base else None
        golds = gold_logprob(item, original) if original else None, gold_logprob(item, answer)
        cause = causes.get(index)
        row: dict[str, Any] = {
            "subject": subject,
            "task": task.spec.name,
            "item_id": item.item_id,
            "group": item.group,
            "category": item.category,
            "prompt": asked_text(item),
            "references": references_of(item),
            "base_output": said_text(item, original, adapted.labels) if original else None,
            "adapted_output": said_text(item, answer, adapted.labels),
            "gold_logprob_base": golds[0],
            "gold_logprob_adapted": golds[1],
            "flip": explained.flips[index] if explained else None,
            "cause": cause.name if cause else None,
            "cause_evidence": explained.evidence.get(index) if explained else None,
            "gold_logprob_change": _change(*golds),
        }
        rows.append(row | {name: column[index] for name, column in metrics.items()})
    return rows


def write_samples(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows as Parquet; metric columns of other tasks are null."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(sample_table(rows), path, compression="zstd")


def sample_table(rows: Sequence[dict[str, Any]]) -> pyarrow.Table:
    """The rows as a table with the contract's columns, in its order, and two more at the end."""
    import pyarrow

    names = sorted({name for row in rows for name in row if name.endswith(("_base", "_adapted"))})
    metrics = [name for name in names if not name.startswith("gold_logprob")]
    schema = pyarrow.schema(
        [(name, pyarrow.string()) for name in _TEXT_COLUMNS]
        + [("references", pyarrow.list_(pyarrow.string()))]
        + [("base_output", pyarrow.string()), ("adapted_output", pyarrow.string())]
        + [(name, pyarrow.float64()) for name in metrics]
        + [("gold_logprob_base", pyarrow.float64()), ("gold_logprob_adapted", pyarrow.float64())]
        + [("flip", pyarrow.string()), ("cause", pyarrow.string())]
        + [("cause_evidence", pyarrow.string()), ("gold_logprob_change", pyarrow.float64())]
    )
    return pyarrow.Table.from_pylist(list(rows), schema=schema)


def asked_text(item: Item) -> str:
    """What the item asks, as text."""
    match item:
        case GenerateItem(prompt=str(prompt)):
            return prompt
        case GenerateItem(messages=messages) | ChoiceItem(messages=[*_] as messages):
            return chat_text(messages or ())
        case ChoiceItem():
            return item.context
        case LabelsItem() | ScoreItem():
            return item.text if item.text_pair is None else f"{item.text}\n{item.text_pair}"
        case TokensItem():
            return " ".join(item.tokens)
        case LikelihoodItem():
            return item.text
    raise TypeError(f"no text for {type(item).__name__}")


def references_of(item: Item) -> list[str]:
    """The right answers, as texts."""
    match item:
        case GenerateItem():
            return list(item.references)
        case ChoiceItem():
            return [item.choices[item.answer]]
        case LabelsItem():
            return [", ".join(sorted(item.labels))]
        case ScoreItem():
            return [f"{item.score:g}"]
        case TokensItem():
            return [" ".join(item.tags)]
    return []


def said_text(item: Item, answer: Answer, labels: Sequence[str]) -> str | None:
    """The answer as text: the generated text, the likeliest choice, the labels at threshold 0.5, the tags."""
    match answer:
        case GenerateAnswer():
            return answer.text
        case ChoiceAnswer() if isinstance(item, ChoiceItem):
            return item.choices[max(range(len(answer.logprobs)), key=answer.logprobs.__getitem__)]
        case LabelsAnswer() if isinstance(item, LabelsItem):
            return ", ".join(chosen_labels(item, answer, labels))
        case ScoreAnswer():
            return f"{answer.value:.4g}"
        case TokensAnswer():
            return " ".join(answer.tags)
    return None


def gold_logprob(item: Item, answer: Answer) -> float | None:
    """Log-probability (nats) of the right answer; None where the kind of task has none."""
    match answer:
        case GenerateAnswer():
            return answer.gold_logprob
        case ChoiceAnswer() if isinstance(item, ChoiceItem):
            return answer.logprobs[item.answer]
    return None


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _columns(scored: dict[str, Scored], side: str) -> dict[str, list[float | None]]:
    """Per-item values by column name; null where one item alone has no value."""
    return {
        f"{name}_{side}": [None if math.isnan(value) else float(value) for value in metric.item_values()]
        for name, metric in scored.items()
        if metric.measure.additive
    }
