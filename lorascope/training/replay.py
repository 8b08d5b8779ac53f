"""Replay: general texts among the training rows, against forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lorascope.errors import ConfigError
from lorascope.schema.items import Item
from lorascope.schema.recipe import RecipeTask
from lorascope.training.encoding import Encoded, encode_items, encode_passages
from lorascope.training.encoding_parts import Row
from lorascope.training.replay_writing import ReplayText, replay_passages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME = "replay"


def encode_replay(
    general: Sequence[Item] | Sequence[ReplayText],
    task: RecipeTask,
    tokenizer: PreTrainedTokenizerBase,
    *,
    encoder_decoder: bool = False,
    context_length: int | None = None,
    target_length: int | None = None,
) -> Encoded:
    """General items, or what the base wrote, as rows: of questions the answer is learned, of running text all of it.

    Texts that are too long are cut whatever ``task.too_long`` says, for nothing of general data has to be kept whole.
    The errors are those of :func:`encode_items`.
    """
    own = task.model_copy(update={"answer_only": True, "too_long": "cut"})
    written = [one for one in general if isinstance(one, ReplayText)]
    if written:
        return encode_passages(
            replay_passages(written, tokenizer),
            own,
            tokenizer,
            name=_NAME,
            encoder_decoder=encoder_decoder,
            context_length=context_length,
            target_length=target_length,
        )
    return encode_items(
        [one for one in general if isinstance(one, Item)],
        own,
        tokenizer,
        name=_NAME,
        encoder_decoder=encoder_decoder,
        context_length=context_length,
        target_length=target_length,
    )


@dataclass(frozen=True, slots=True)
class Mixed:
    """Training rows and replay in one drawn order.

    ``origins`` has for each row its place among the training rows, or None for replay: weights of items follow it.
    ``replayed`` counts the replay rows.
    """

    rows: list[Row]
    origins: tuple[int | None, ...]
    replayed: int
    notes: tuple[str, ...]


def mix_replay(rows: Sequence[Row], replay_rows: Sequence[Row], ratio: float, seed: int) -> Mixed:
    """All training rows and so many replay rows that ``ratio`` of all rows is replay (at least one, to the nearest).

    Replay is drawn without repetition as far as it goes, then again from all of it. The order is drawn, so that replay
    is spread evenly; the same seed gives the same rows in the same order.

    Raises:
        ConfigError: there are no replay rows.
    """
    if not replay_rows:
        raise ConfigError("there is nothing to replay", where="replay", remedy="give replay.data with texts in it")
    draws = np.random.default_rng(seed)
    count = max(1, round(len(rows) * ratio / (1 - ratio)))
    rounds = -(-count // len(replay_rows))
    order = np.concatenate([draws.permutation(len(replay_rows)) for _ in range(rounds)])[:count]
    together = [*rows, *(replay_rows[int(place)] for place in order)]
    shuffled = [int(place) for place in draws.permutation(len(together))]
    return Mixed(
        rows=[together[place] for place in shuffled],
        origins=tuple(place if place < len(rows) else None for place in shuffled),
        replayed=count,
        notes=_notes(len(rows), len(replay_rows), count),
    )


def _notes(trained: int, available: int, count: int) -> tuple[str, ...]:
    mixed = f"replay: {count} general texts among {trained + count} rows ({count / (trained + count):.1%})"
    if count <= available:
        return (mixed,)
    return mixed, f"replay: only {available} different texts, so each is used {count / available:.1f} times an epoch"
