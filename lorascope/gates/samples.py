"""``samples.parquet`` as numbers by item."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from lorascope.errors import LorascopeError
from lorascope.gates.labelled import LabelSets, read_sets
from lorascope.gates.scores import FLIPS, ItemTable
from lorascope.measures.core import FloatArray, IntArray
from lorascope.measures.extraction import extract_answer
from lorascope.measures.text import score_text
from lorascope.measures.tokens import score_entities
from lorascope.schema.comparison import Comparison
from lorascope.schema.suite import Extract

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")
Side = Literal["base", "adapted"]
_TEXTS = frozenset({"bleu", "chrf", "bleu_nltk"})
_EXTRACT = re.compile(r"\|extract:(first|last)(,ignore-case)?:(.+)\Z", flags=re.DOTALL)


def item_table(
    samples: pyarrow.Table, comparison: Comparison, subject: str, task: str, side: Side = "adapted"
) -> ItemTable | None:
    """The items of one subject and task in the order of their ids; None where the samples have none by id.

    ``side`` is whose answers are meant: the subject's own, or those of the base it was compared with.
    """
    import pyarrow.compute

    if not {"subject", "task", "item_id"} <= set(samples.column_names):
        return None
    own = pyarrow.compute.and_(
        pyarrow.compute.equal(samples["subject"], subject), pyarrow.compute.equal(samples["task"], task)
    )
    table = samples.filter(own)
    if not table.num_rows or table["item_id"].null_count:
        return None
    scores = _score_columns(table, side)
    said = _said(table, side)
    order, keys = _ordered(table["item_id"].to_pylist(), scores, said.outputs)
    scores = {name: values[order] for name, values in scores.items()}
    said = said.taken(order)
    return ItemTable(
        keys=keys,
        groups=tuple(_texts(table, "group", order)),
        categories=tuple(_texts(table, "category", order)),
        scores=scores,
        counts=cache(lambda metric, signature: _counts(metric, signature, said, scores)),
        labels=cache(lambda: _label_sets(comparison, task, said)),
        flips=_flips(table, order),
        reference=comparison.base.name,
        answers=_digest(keys, said.outputs, scores),
    )


@dataclass(frozen=True)
class _Said:
    """Texts of the items; None where the samples keep none."""

    prompts: Sequence[str | None]
    references: Sequence[Sequence[str] | None]
    outputs: Sequence[str | None]

    def taken(self, order: Sequence[int]) -> _Said:
        return _Said(_at(self.prompts, order), _at(self.references, order), _at(self.outputs, order))


def _at(values: Sequence[T], order: Sequence[int]) -> list[T]:
    return [values[place] for place in order]


def _said(table: pyarrow.Table, side: Side) -> _Said:
    every = range(table.num_rows)
    prompts, outputs = _texts(table, "prompt", every), _texts(table, f"{side}_output", every)
    known = table["references"].to_pylist() if "references" in table.column_names else [None] * table.num_rows
    return _Said(prompts, known, outputs)


def _texts(table: pyarrow.Table, name: str, order: Sequence[int]) -> list[str | None]:
    if name not in table.column_names:
        return [None] * len(order)
    values = table[name].to_pylist()
    return [None if values[place] is None else str(values[place]) for place in order]


def _score_columns(table: pyarrow.Table, side: Side) -> dict[str, FloatArray]:
    """Item values by metric, NaN where undefined, without those that are undefined throughout."""

    found: dict[str, FloatArray] = {}
    for name in table.column_names:
        metric = name.removesuffix(f"_{side}")
        if metric == name or not _is_number(table.schema.field(name).type):
            continue
        values = np.array([math.nan if value is None else value for value in table[name].to_pylist()], dtype=np.float64)
        if not np.isnan(values).all():
            found[metric] = values
    return found


def _is_number(kind: pyarrow.DataType) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind))


def _ordered(
    ids: Sequence[str], scores: Mapping[str, FloatArray], outputs: Sequence[str | None]
) -> tuple[list[int], tuple[str, ...]]:
    """Places by id, and by what was said where ids are equal, so that the order of the rows does not matter."""
    columns = [scores[name].tolist() for name in sorted(scores)]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    if len(set(ids)) < len(ids):
        order.sort(key=lambda place: (ids[place], outputs[place] or "", [repr(column[place]) for column in columns]))
    seen: Counter[str] = Counter()
    keys = []
    for place in order:
        seen[ids[place]] += 1
        keys.append(ids[place] if seen[ids[place]] == 1 else f"{ids[place]}\n{seen[ids[place]]}")
    return order, tuple(keys)


def _flips(table: pyarrow.Table, order: Sequence[int]) -> IntArray | None:
    names = _texts(table, "flip", order)
    if all(name is None for name in names):
        return None
    return np.array([FLIPS.index(name) + 1 if name in FLIPS else 0 for name in names], dtype=np.int64)


def _digest(keys: Sequence[str], outputs: Sequence[str | None], scores: Mapping[str, FloatArray]) -> str:
    """SHA-256 of all that was said and scored, to the bit."""
    digest = hashlib.sha256()
    for key, text in zip(keys, outputs, strict=True):
        digest.update(hashlib.sha256(f"{key}\0{text}".encode("utf-8", "surrogatepass")).digest())
    for name in sorted(scores):
        digest.update(name.encode("utf-8") + b"\0" + scores[name].tobytes())
    return digest.hexdigest()


def _label_sets(comparison: Comparison, task: str, said: _Said) -> LabelSets | str:
    own = [found for found in comparison.measurements if found.task == task]
    rules = {"argmax" in found.signature for found in own if "|decision:" in found.signature}
    texts = [None if references is None or len(references) != 1 else references[0] for references in said.references]
    if len(rules) != 1 or any(text is None for text in (*texts, *said.outputs)):
        return "cannot be paired: the samples do not keep the labels of all items"
    known = [found.slice.value for found in own if found.slice is not None and found.slice.by == "label"]
    return read_sets(
        [text or "" for text in texts], [text or "" for text in said.outputs], multi=not rules.pop(), known=known
    )


def _counts(metric: str, signature: str, said: _Said, scores: Mapping[str, FloatArray]) -> FloatArray | str:
    """The rows whose sums give a corpus metric, or why there are none."""
    if metric in ("bits_per_byte", "perplexity"):
        return _likelihood(metric, said, scores)
    references, outputs = said.references, said.outputs
    if any(text is None for text in outputs) or any(not accepted for accepted in references):
        return "cannot be paired: the samples do not keep answers and references of all items"
    answers, accepted = [text or "" for text in outputs], [list(texts or ()) for texts in references]
    if metric == "score":
        return _predictions(answers, [texts[0] for texts in accepted], scores)
    try:
        if metric == "entity_f1":
            tags = [text.split(" ") for text in answers], [texts[0].split(" ") for texts in accepted]
            return score_entities(*tags)[metric].statistics
        return _of_texts(metric, signature, answers, accepted)
    except (LorascopeError, ValueError) as error:  # a pattern in a damaged signature is a ValueError
        reason = error.problem if isinstance(error, LorascopeError) else error
        return f"cannot be rebuilt from the samples: {reason}"


def _of_texts(metric: str, signature: str, answers: list[str], accepted: list[list[str]]) -> FloatArray | str:
    if "|samples:" in signature:
        return "cannot be paired: the samples keep one of several answers to each item"
    if (rule := _EXTRACT.search(signature)) is not None:
        read = Extract(pattern=rule[3], match="last" if rule[1] == "last" else "first", ignore_case=bool(rule[2]))
        answers = [extract_answer(text, read) or "" for text in answers]
    assert metric in _TEXTS
    return score_text(answers, accepted, [metric], chinese_words="cjk=jieba" in signature)[metric].statistics


def _predictions(
    outputs: Sequence[str], references: Sequence[str], scores: Mapping[str, FloatArray]
) -> FloatArray | str:
    """Predicted and true scores. Written ones have four digits; the squared error gives the others back."""
    try:
        said, true = (np.array([float(text) for text in texts]) for texts in (outputs, references))
    except ValueError:
        return "cannot be paired: the samples keep no numbers as answers"
    errors = scores.get("mse")
    if errors is not None and np.isfinite(errors).all():
        exact = true + np.sign(said - true) * np.sqrt(errors)
        # Nine digits are more than a model's numbers have, and make equal ones equal again.
        said = np.array([float(f"{value:.9g}") for value in exact])
    return np.stack([said, true], axis=1)


def _likelihood(metric: str, said: _Said, scores: Mapping[str, FloatArray]) -> FloatArray | str:
    """Bits and bytes, or nats and tokens, of each text: its bytes are those of the prompt, which is the whole text."""
    bits, perplexity = scores.get("bits_per_byte"), scores.get("perplexity")
    if bits is None or any(text is None for text in said.prompts):
        return "cannot be paired: the samples do not keep bits per byte and text of all items"
    sizes = np.array([len((text or "").encode("utf-8")) for text in said.prompts], dtype=np.float64)
    if metric == "bits_per_byte":
        return np.stack([bits * sizes, sizes], axis=1)
    if perplexity is None or not (perplexity > 1).all():
        return "cannot be paired: tokens cannot be counted from the samples"
    nats = bits * sizes * math.log(2)
    return np.stack([nats, np.rint(nats / np.log(perplexity))], axis=1)
