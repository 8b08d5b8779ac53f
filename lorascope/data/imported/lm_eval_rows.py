"""Fields of one lm-eval sample: what was asked, what was answered, and the scores of its metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lorascope.data.imported.runs import Score, number, numbered_keys
from lorascope.data.readers import Row
from lorascope.errors import DataError

Form = Literal["generate_until", "multiple_choice", "loglikelihood", "loglikelihood_rolling"]
NEEDED = ("doc", "target", "arguments", "resps", "filtered_resps", "doc_hash")
_NO_METRIC = {"doc_id", *NEEDED, "filter", "metrics", "prompt_hash", "target_hash"}
_MOST_UNITS = 2**53
"""Bytes or words of one text; above it floats do not count one by one."""
_PAIRS = {"word_perplexity", "byte_perplexity", "bits_per_byte"}


def form_of(row: Row) -> Form:
    """What was asked of the model: generation has settings beside the prompt, a choice has several continuations."""
    arguments = arguments_of(row)
    if len(arguments[0]) == 1:
        return "loglikelihood_rolling"
    if isinstance(arguments[0][1], Mapping):
        return "generate_until"
    return "multiple_choice" if len(arguments) > 1 else "loglikelihood"


def arguments_of(row: Row) -> list[list[Any]]:
    """Arguments of each request; early versions wrote lists, later ones ``{"gen_args_0": {"arg_0": …}}``."""
    given = row.fields["arguments"]
    requests = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(requests, list) or not requests:
        raise DataError("the sample has no arguments", where=row.place)
    read = [list(one.values()) if isinstance(one, Mapping) else one for one in requests]
    if not all(isinstance(one, list) and one and isinstance(one[0], str) for one in read):
        raise DataError("the sample's arguments are not texts", where=row.place)
    return read


def keys_of(rows: Sequence[Row]) -> list[str]:
    """The hash of the document; documents that stand twice in the data are told apart, by their number in the data.

    One number twice means that two runs were written into one file.
    """
    seen: dict[str, str] = {}
    for row in rows:
        document = str(row.fields.get("doc_id", row.place))
        if document in seen:
            raise DataError(
                f"doc_id {document} stands twice",
                where=f"{row.place} (first: {seen[document]})",
                remedy="the file holds two runs: run lm_eval again into an empty folder",
            )
        seen[document] = row.place
    order = sorted(range(len(rows)), key=lambda index: (str(rows[index].fields["doc_hash"]), _document(rows[index])))
    unique = numbered_keys([str(rows[index].fields["doc_hash"])[:16] for index in order])
    keys = [""] * len(rows)
    for index, key in zip(order, unique, strict=True):
        keys[index] = key
    return keys


def _document(row: Row) -> int:
    found = row.fields.get("doc_id")
    return found if isinstance(found, int) else 0


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Names of the metrics of a task's samples; early versions do not list them, and they are what else is there."""
    named = rows[0].fields.get("metrics")
    names = named if isinstance(named, list) else [name for name in rows[0].fields if name not in _NO_METRIC]
    return [str(name) for name in names]


def scores_of(row: Row) -> dict[str, Score]:
    """Numbers of this one item by metric. Bits per byte are (bits, bytes), perplexities (nats, words or bytes)."""
    found: dict[str, Score] = {}
    for name in metric_names([row]):
        value = row.fields.get(name)
        pair = [number(part, row.place) for part in value] if isinstance(value, list) and len(value) == 2 else []
        single = number(value, row.place)
        if single is not None:
            found[name] = (single, 1.0)
        elif name in _PAIRS and len(pair) == 2:
            total, weight = pair
            if total is not None and weight is not None and 0 < weight <= _MOST_UNITS:
                found[name] = (_bits(total), weight) if name == "bits_per_byte" else (total, weight)
    return found


def _bits(nats: float) -> float:
    return -nats / math.log(2)


def logprob(value: Any, row: Row) -> float:
    """A log-probability; it is written as text, alone or with whether greedy decoding would have said the same."""
    written = value[0] if isinstance(value, list) and value else value
    try:
        found = number(float(written), row.place)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None:
        raise DataError(f"{written!r} is no finite log-probability", where=row.place, remedy="run the task again")
    return found
