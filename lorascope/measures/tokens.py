"""Named-entity F1 by seqeval's rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import Scored, same_length
from lorascope.measures.label_sums import f1_from_totals
from lorascope.measures.registry import define


def score_entities(predicted: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> dict[str, Scored]:
    """``entity_f1`` (0–1, higher is better): an entity counts as right when its span and its type are.

    Tags are ``O`` or ``B-``, ``I-``, ``E-``, ``S-`` with a type, read as seqeval's default mode reads them (a stray
    ``I-`` opens an entity). Undefined (None) when there is no entity on either side. The statistics of a sentence are
    its right, predicted and true entities, so that the F1 is the micro F1 over all sentences.

    Raises DataError for sentences of different lengths and for tags of another form.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    same_length(predicted=predicted, truth=truth)
    rows = np.zeros((len(truth), 3))
    for index, (tags, gold) in enumerate(zip(predicted, truth, strict=True)):
        _check_tags(index, tags, gold)
        found, actual = set(get_entities(list(tags))), set(get_entities(list(gold)))
        rows[index] = len(found & actual), len(found), len(actual)
    return {"entity_f1": Scored(define("entity_f1", f1_from_totals), rows, "entity_f1|seqeval:default|average:micro")}


def _check_tags(index: int, tags: Sequence[str], gold: Sequence[str]) -> None:
    if isinstance(tags, str) or isinstance(gold, str) or len(tags) != len(gold):
        raise DataError(
            f"{len(tags)} predicted tags for {len(gold)} words", where=f"sentence {index}",
            remedy="give one tag per word on both sides",
        )  # fmt: skip
    for tag in (*tags, *gold):
        if tag != "O" and not tag.startswith(("B-", "I-", "E-", "S-")):
            raise DataError(
                f"{tag!r} is not an entity tag", where=f"sentence {index}", remedy="use O, B-TYPE, I-TYPE …"
            )
