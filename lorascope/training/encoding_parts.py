"""What every kind of training row shares: its form, its length limit, and the account of what became of the items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lorascope.errors import ConfigError, DataError
from lorascope.schema.recipe import RecipeTask

IGNORED = -100
"""The label that transformers' losses leave out."""

Row = dict[str, Any]
TooLong = Literal["cut", "leave_out", "refuse"]
_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Encoded:
    """The rows of one data set.

    ``tokens`` is what the model reads of them in one pass. ``supervised`` counts the labels that enter the loss: tokens
    that are predicted, words that are tagged, else rows. ``cut`` and ``left_out`` count items; ``kept`` has the place
    of each row's item (from 0), by which weights of items follow. ``notes`` are sentences for the run's log.
    """

    rows: list[Row]
    tokens: int
    supervised: int
    cut: int
    left_out: int
    kept: tuple[int, ...]
    notes: tuple[str, ...] = ()


def place_of(name: str, number: int) -> str:
    """Where the item with this number (from 0) of a data set stands; people count from 1."""
    return f"{name}, item {number + 1}"


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a row may be, in tokens, what becomes of a longer item, and the data set that is spoken of."""

    tokens: int
    rule: TooLong
    name: str
    by_model: bool = False

    def place(self, number: int) -> str:
        """As :func:`place_of`."""
        return place_of(self.name, number)

    @property
    def words(self) -> str:
        """The limit in a sentence."""
        return f"the model's context of {self.tokens} tokens" if self.by_model else f"max_length = {self.tokens}"

    def remedy(self, needed: int) -> str:
        """What lets an item of ``needed`` tokens in."""
        if self.by_model:
            return "shorten or split the items, or take a base with a longer context"
        return f"set task.max_length to {needed} or more, or shorten the items"

    def refuse(self, number: int, length: int, what: str = "the item") -> DataError:
        """The error for an item that is too long where none may be."""
        return DataError(
            f"{what} has {length} tokens, more than {self.words}",
            where=self.place(number),
            remedy=f"{self.remedy(length)}, or set task.too_long to cut or leave_out",
        )


def limit_of(task: RecipeTask, context_length: int | None, name: str) -> tuple[Limit, tuple[str, ...]]:
    """The smaller of ``task.max_length`` and the model's context; a note where the model's is the smaller one."""
    if context_length is None or task.max_length <= context_length:
        return Limit(task.max_length, task.too_long, name), ()
    note = f"max_length {task.max_length} is above the model's context; {context_length} tokens hold"
    return Limit(context_length, task.too_long, name, by_model=True), (note,)


@dataclass(frozen=True, slots=True)
class Piece:
    """What became of one item: its row, or the reason why there is none. ``length`` is that of the whole item.

    ``limit`` is the one that it is above, where that left it out.
    """

    row: Row | None
    length: int
    cut: bool = False
    reason: str = ""
    limit: Limit | None = None


def too_long(length: int, limit: Limit) -> Piece:
    """An item that is left out for its length."""
    return Piece(None, length, reason=f"longer than {limit.words}", limit=limit)


def answer_too_long(length: int, limit: Limit) -> Piece:
    """An item that is left out because no cut of its prompt would let its answer in."""
    return Piece(None, length, reason=f"their answer alone fills {limit.words}", limit=limit)


def nothing_to_learn(length: int) -> Piece:
    """An item that is left out because no token of it has a label."""
    return Piece(None, length, reason="no token of theirs could be predicted or tagged")


@dataclass(slots=True)
class Account:
    """Gathers the pieces of a data set, item by item."""

    limit: Limit
    encoder_decoder: bool = False
    pieces: list[Piece] = field(default_factory=list)

    def closed(self, notes: Sequence[str] = ()) -> Encoded:
        """All rows and counts.

        Raises:
            DataError: no item has become a row.
        """
        kept = [(number, piece.row) for number, piece in enumerate(self.pieces) if piece.row is not None]
        if not kept:
            raise self._nothing_left()
        rows = [row for _, row in kept]
        cut = sum(piece.cut for piece in self.pieces)
        return Encoded(
            rows=rows,
            tokens=sum(row_tokens(row, encoder_decoder=self.encoder_decoder) for row in rows),
            supervised=sum(supervised_labels(row) for row in rows),
            cut=cut,
            left_out=len(self.pieces) - len(rows),
            kept=tuple(number for number, _ in kept),
            notes=(*notes, *self._notes(cut)),
        )

    def _notes(self, cut: int) -> Iterator[str]:
        total = len(self.pieces)
        if cut:
            yield f"{self.limit.name}: {cut} of {total} items are longer than {self.limit.words} and were cut"
        reasons = [piece.reason for piece in self.pieces if piece.row is None]
        for reason in dict.fromkeys(reasons):
            yield f"{self.limit.name}: {reasons.count(reason)} of {total} items were left out: {reason}"

    def _nothing_left(self) -> DataError:
        shortest = min((piece for piece in self.pieces if piece.limit), key=lambda piece: piece.length, default=None)
        if shortest is None or shortest.limit is None:
            return DataError(
                f"none of the {len(self.pieces)} items has a token to learn from",
                where=self.limit.name,
                remedy="check that the tokenizer belongs to the base and that the texts are not empty",
            )
        return DataError(
            f"all {len(self.pieces)} items are too long for {shortest.limit.words}; "
            f"the shortest has {shortest.length} tokens",
            where=self.limit.name,
            remedy=shortest.limit.remedy(shortest.length),
        )


def row_tokens(row: Row, *, encoder_decoder: bool = False) -> int:
    """How many tokens the model reads of a row; an encoder–decoder reads its answer as well."""
    return len(row["input_ids"]) + (len(row["labels"]) if encoder_decoder else 0)


def supervised_labels(row: Row) -> int:
    """How many labels of a row enter the loss: tokens of texts and tags, else the row's one target."""
    labels = row["labels"]
    if not isinstance(labels, list) or (labels and isinstance(labels[0], float)):
        return 1
    return sum(label != IGNORED for label in labels)


def in_parts(count: int) -> Iterator[slice]:
    """Slices that bound what a tokenizer holds at a time."""
    for begin in range(0, count, _TEXTS_AT_ONCE):
        yield slice(begin, min(count, begin + _TEXTS_AT_ONCE))


def refuse_nothing(count: int, name: str) -> None:
    """A DataError where a data set has no items."""
    if not count:
        raise DataError("there is nothing to train or validate on", where=name, remedy="give at least one item")


def refuse_no_room(tokenizer: Any, limit: Limit, *, pair: bool) -> None:
    """A ConfigError where the tokenizer's own tokens fill a row."""
    added = int(tokenizer.num_special_tokens_to_add(pair=pair))
    if added >= limit.tokens:
        raise ConfigError(
            f"{limit.words} leaves no room for text beside the {added} special tokens of the tokenizer",
            where="task.max_length",
            remedy=f"set task.max_length above {added}",
        )
