"""Items of tasks with a head into rows: labels, scores, tags. Texts are cut as the evaluation of heads cuts them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorascope.errors import CheckpointError, DataError
from lorascope.schema.items import Item, LabelsItem, ScoreItem, TokensItem
from lorascope.schema.suite import labels_in_words, right_labels
from lorascope.training.encoding_parts import (
    IGNORED,
    Limit,
    Piece,
    Row,
    in_parts,
    nothing_to_learn,
    refuse_no_room,
    too_long,
)

Target = int | float | list[float]


def label_targets(items: Sequence[Item], labels: Sequence[str], limit: Limit, *, multi_label: bool) -> list[Target]:
    """The class number of each item, or with ``multi_label`` 0 or 1 for each label, in the order of ``labels``.

    Raises:
        DataError: an item of another kind, labels that the list does not have, or other than one label where each
            item has exactly one.
    """
    order = {name: index for index, name in enumerate(labels)}
    own = [_of_kind(item, LabelsItem, limit.place(number)) for number, item in enumerate(items)]
    _refuse_unknown([item.labels for item in own], labels, limit)
    if multi_label:
        return [_vector([order[name] for name in item.labels], len(labels)) for item in own]
    for number, item in enumerate(own):
        if len(item.labels) != 1:
            raise DataError(
                f"the item has {len(item.labels)} labels, and the task has exactly one for each",
                where=limit.place(number),
                remedy="set task.multi_label: true",
            )
    return [order[item.labels[0]] for item in own]


def _vector(positive: Sequence[int], length: int) -> list[float]:
    vector = [0.0] * length
    for index in positive:
        vector[index] = 1.0
    return vector


def _of_kind(item: Item, kind: type[Any], place: str) -> Any:
    if not isinstance(item, kind):
        raise DataError(
            f"a {type(item).__name__} stands where the task needs a {kind.__name__}",
            where=place,
            remedy="give task.kind the kind of the data",
        )
    return item


def _refuse_unknown(named: Sequence[Sequence[str]], labels: Sequence[str], limit: Limit) -> None:
    known = set(labels)
    unknown = {name: number for number, names in reversed([*enumerate(named)]) for name in names if name not in known}
    if unknown:
        first = min(unknown, key=lambda name: unknown[name])
        raise DataError(
            f"the list of labels does not have {labels_in_words(sorted(unknown))}",
            where=limit.place(unknown[first]),
            remedy=f"{first}: {right_labels(first, labels)}",
        )


def score_targets(items: Sequence[Item], limit: Limit) -> list[Target]:
    """The score of each item; a DataError where it is not a finite number."""
    scores: list[Target] = []
    for number, item in enumerate(items):
        score = float(_of_kind(item, ScoreItem, limit.place(number)).score)
        if not math.isfinite(score):
            raise DataError(f"the score is {score}", where=limit.place(number), remedy="give a finite number")
        scores.append(score)
    return scores


def text_pieces(
    items: Sequence[LabelsItem | ScoreItem], targets: Sequence[Target], tokenizer: Any, limit: Limit
) -> Iterator[Piece]:
    """Texts or pairs with their target. The tokenizer cuts: of a pair always the longer one.

    Raises:
        ConfigError: no room beside the special tokens.
        DataError: a text without tokens, or one that is too long where none may be.
    """
    for paired in {item.text_pair is not None for item in items}:
        refuse_no_room(tokenizer, limit, pair=paired)
    for part in in_parts(len(items)):
        encoded = _texts(tokenizer, items[part])
        for number, row in enumerate(encoded, start=part.start):
            yield _text_piece(items[number], {**row, "labels": targets[number]}, tokenizer, limit, number)


def _texts(tokenizer: Any, items: Sequence[LabelsItem | ScoreItem]) -> list[Row]:
    """Pairs and single texts in one batch each."""
    found: list[Row] = [{} for _ in items]
    for paired in (False, True):
        places = [place for place, item in enumerate(items) if (item.text_pair is not None) is paired]
        if not places:
            continue
        pairs = [items[place].text_pair for place in places] if paired else None
        batch = tokenizer([items[place].text for place in places], pairs, verbose=False)
        for index, place in enumerate(places):
            found[place] = _model_inputs(tokenizer, batch, index)
    return found


def _model_inputs(tokenizer: Any, batch: Mapping[str, Any], index: int) -> Row:
    """What the model reads; the mask of padding is the collator's."""
    names = [name for name in tokenizer.model_input_names if name in batch and name != "attention_mask"]
    return {name: list(batch[name][index]) for name in names}


def _text_piece(item: LabelsItem | ScoreItem, row: Row, tokenizer: Any, limit: Limit, number: int) -> Piece:
    length = len(row["input_ids"])
    if not length:
        raise DataError("the text is empty", where=limit.place(number), remedy="fill it in or leave the item out")
    if length <= limit.tokens:
        return Piece(row, length)
    if limit.rule == "refuse":
        raise limit.refuse(number, length)
    if limit.rule == "leave_out":
        return too_long(length, limit)
    pairs = None if item.text_pair is None else [item.text_pair]
    shortened = tokenizer([item.text], pairs, truncation=True, max_length=limit.tokens, verbose=False)
    return Piece({**_model_inputs(tokenizer, shortened, 0), "labels": row["labels"]}, length, cut=True)


def tag_pieces(items: Sequence[Item], tokenizer: Any, labels: Sequence[str], limit: Limit) -> Iterator[Piece]:
    """Words with their tags. A word's first sub-token carries its tag, as evaluation reads it there.

    Further sub-tokens and special tokens have no label. A word that the tokenizer drops, or that is cut away, is not
    learned.

    Raises:
        CheckpointError: the tokenizer cannot say which word a sub-token belongs to.
        DataError: an item of another kind, tags that the list does not have, or an item that is too long where none
            may be.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            "tagging needs a tokenizer that maps sub-tokens to words", remedy="take a base with a fast tokenizer"
        )
    own: list[TokensItem] = [_of_kind(item, TokensItem, limit.place(number)) for number, item in enumerate(items)]
    _refuse_unknown([item.tags for item in own], labels, limit)
    refuse_no_room(tokenizer, limit, pair=False)
    order = {name: index for index, name in enumerate(labels)}
    for part in in_parts(len(own)):
        batch = tokenizer([list(item.tokens) for item in own[part]], is_split_into_words=True, verbose=False)
        for index, item in enumerate(own[part]):
            tags = [order[tag] for tag in item.tags]
            row = _tagged(tokenizer, batch, index, tags)
            yield _tag_piece(item, tags, row, tokenizer, limit, part.start + index)


def _tagged(tokenizer: Any, batch: Any, index: int, tags: Sequence[int]) -> Row:
    row = _model_inputs(tokenizer, batch, index)
    labels, seen = [], -1
    for word in batch.word_ids(index):
        fresh = word is not None and word > seen
        labels.append(tags[word] if fresh else IGNORED)
        seen = word if fresh else seen
    return {**row, "labels": labels}


def _tag_piece(item: TokensItem, tags: Sequence[int], row: Row, tokenizer: Any, limit: Limit, number: int) -> Piece:
    length = len(row["input_ids"])
    cut = length > limit.tokens
    if cut and limit.rule == "refuse":
        raise limit.refuse(number, length)
    if cut and limit.rule == "leave_out":
        return too_long(length, limit)
    if cut:
        words = [list(item.tokens)]
        batch = tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit.tokens, verbose=False)
        row = _tagged(tokenizer, batch, 0, tags)
    if all(label == IGNORED for label in row["labels"]):
        return nothing_to_learn(length)
    return Piece(row, length, cut)
