"""Items to training rows: token ids and what the loss is taken of, for every kind of task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lorascope.schema.items import Item
from lorascope.schema.recipe import RecipeTask
from lorascope.training.encoding_heads import label_targets, score_targets, tag_pieces, text_pieces
from lorascope.training.encoding_parts import (
    IGNORED,
    Account,
    Encoded,
    Limit,
    Piece,
    Row,
    limit_of,
    refuse_nothing,
    row_tokens,
    supervised_labels,
)
from lorascope.training.encoding_passages import Passage, passages_of
from lorascope.training.encoding_texts import decoder_pieces, encoder_decoder_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORED", "Encoded", "Row", "encode_items", "encode_passages", "row_tokens", "supervised_labels"]


def encode_items(
    items: Sequence[Item],
    task: RecipeTask,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    labels: Sequence[str] = (),
    multi_label: bool = False,
    encoder_decoder: bool = False,
    context_length: int | None = None,
    target_length: int | None = None,
) -> Encoded:
    """The rows of a data set, in the order of its items.

    A row has ``input_ids`` (with ``token_type_ids`` where the model takes them) and ``labels``: token ids, ``IGNORED``
    where nothing is predicted, for tasks of kind generate; a class number or a list of 0.0 and 1.0 for labels; a float
    for scores; a number for each token for tags. The mask of padding is the collator's.

    Tasks of kind generate learn the answer and the end of text, with ``answer_only: false`` the prompt as well; choice
    items learn the right choice, running text all of it. An encoder–decoder always learns the answer alone.

    Longer items are cut as ``task.too_long`` says. Prompts lose their beginning, answers nothing: an item whose answer
    alone is too long is left out. Texts and pairs of tasks with a head are cut by the tokenizer, running text at its
    end. ``context_length`` is the model's (without virtual tokens), ``target_length`` what an encoder–decoder can
    write; None is no limit. ``name`` is that of the data set in messages.

    Raises:
        DataError: no items, an empty answer, a label that is not in ``labels``, or no item that is short enough.
        ConfigError: ``max_length`` has no room for text.
        CheckpointError: the tokenizer cannot do what the task needs.
    """
    refuse_nothing(len(items), name)
    limit, notes = limit_of(task, context_length, name)
    if task.kind == "generate":
        passages = passages_of(items, tokenizer, limit)
        return encode_passages(
            passages,
            task,
            tokenizer,
            name=name,
            encoder_decoder=encoder_decoder,
            context_length=context_length,
            target_length=target_length,
        )
    return _closed(_head_pieces(items, task, tokenizer, limit, labels, multi_label=multi_label), limit, notes)


def _head_pieces(
    items: Sequence[Item],
    task: RecipeTask,
    tokenizer: PreTrainedTokenizerBase,
    limit: Limit,
    labels: Sequence[str],
    *,
    multi_label: bool,
) -> Iterable[Piece]:
    if task.kind == "tokens":
        return tag_pieces(items, tokenizer, labels, limit)
    if task.kind == "labels":
        targets = label_targets(items, labels, limit, multi_label=multi_label)
    else:
        targets = score_targets(items, limit)
    return text_pieces(items, targets, tokenizer, limit)  # type: ignore[arg-type]  # the targets' making has checked it


def encode_passages(
    passages: Sequence[Passage],
    task: RecipeTask,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    encoder_decoder: bool = False,
    context_length: int | None = None,
    target_length: int | None = None,
) -> Encoded:
    """As :func:`encode_items`, for texts of a language model that are passages already."""
    refuse_nothing(len(passages), name)
    limit, notes = limit_of(task, context_length, name)
    notes = (*notes, *_text_notes(tokenizer, task, passages, encoder_decoder=encoder_decoder))
    if not encoder_decoder:
        return _closed(decoder_pieces(passages, tokenizer, limit, answer_only=task.answer_only), limit, notes)
    answers, _ = limit_of(task, context_length if target_length is None else target_length, name)
    pieces = encoder_decoder_pieces(passages, tokenizer, limit, answers=answers)
    return _closed(pieces, limit, notes, encoder_decoder=True)


def _text_notes(
    tokenizer: PreTrainedTokenizerBase, task: RecipeTask, passages: Sequence[Passage], *, encoder_decoder: bool
) -> list[str]:
    notes = []
    if tokenizer.eos_token_id is None and any(passage.end for passage in passages):
        notes.append("the tokenizer has no end-of-text token, so the model does not learn where an answer ends")
    if encoder_decoder and not task.answer_only:
        notes.append("answer_only: false changes nothing for an encoder–decoder, whose loss is over the answer")
    return notes


def _closed(pieces: Iterable[Piece], limit: Limit, notes: Sequence[str], *, encoder_decoder: bool = False) -> Encoded:
    account = Account(limit, encoder_decoder)
    account.pieces.extend(pieces)
    return account.closed(notes)
