"""Passages into rows: for decoders prompt and answer in one row, for encoder–decoders a row of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from lorascope.errors import DataError
from lorascope.training.encoding_parts import (
    IGNORED,
    Limit,
    Piece,
    Row,
    answer_too_long,
    in_parts,
    nothing_to_learn,
    too_long,
)
from lorascope.training.encoding_passages import Passage


def decoder_pieces(passages: Sequence[Passage], tokenizer: Any, limit: Limit, *, answer_only: bool) -> Iterator[Piece]:
    """Prompt and answer as one text, and the end of text.

    The prompt's part is what both that text and the prompt alone begin with: a token that reaches over the border
    belongs to the answer, as it could not be there when the model is asked. Without a prompt, the beginning-of-text
    token (else end-of-text) stands before the text, as evaluation has it. The first token of a row is never predicted,
    so its label is left out.
    """
    for part in in_parts(len(passages)):
        some = passages[part]
        alone = _tokenised(tokenizer, [one.prompt for one in some], some)
        wholes = _tokenised(tokenizer, [one.prompt + one.answer for one in some], some)
        for number, (passage, given, whole) in enumerate(zip(some, alone, wholes, strict=True), start=part.start):
            ids = _started(tokenizer, _ended(tokenizer, whole, passage), passage)
            shared = min(_common(given, ids), max(0, len(ids) - 1))
            fitted = _Split(passage, ids, shared, _lead(tokenizer, ids, passage))
            yield _decoder_piece(fitted, limit, number, answer_only=answer_only)


def _tokenised(tokenizer: Any, texts: Sequence[str], passages: Sequence[Passage]) -> list[list[int]]:
    """Token ids with the tokenizer's own special tokens, but for texts that hold theirs in writing."""
    begin = str(tokenizer.bos_token) if tokenizer.bos_token else None
    bare = [
        passage.chat or (begin is not None and text.startswith(begin))
        for text, passage in zip(texts, passages, strict=True)
    ]
    found: list[list[int]] = [[] for _ in texts]
    for special in (True, False):
        places = [place for place, written in enumerate(bare) if written is not special]
        if places:
            ids = token_ids(tokenizer, [texts[place] for place in places], special=special)
            for place, row in zip(places, ids, strict=True):
                found[place] = row
    return found


def token_ids(tokenizer: Any, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    """The tokens of all texts, in one batch."""
    batch = tokenizer(
        list(texts),
        add_special_tokens=special,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return [list(row) for row in batch["input_ids"]]


def prompt_ids(tokenizer: Any, text: str, *, chat: bool, encoder_decoder: bool) -> list[int]:
    """The tokens of a prompt that is asked; a decoder goes on from it, so an end of text behind it is taken off."""
    passage = Passage("", text, text, chat=chat, end=False)
    (ids,) = _tokenised(tokenizer, [text], [passage])
    return ids if encoder_decoder else _ended(tokenizer, ids, passage)


def _ended(tokenizer: Any, ids: list[int], passage: Passage) -> list[int]:
    """With the end-of-text token exactly where it belongs, whatever the tokenizer does by itself."""
    end = tokenizer.eos_token_id
    if end is None or (passage.chat and not passage.end):
        return ids
    written = passage.answer.endswith(str(tokenizer.eos_token))
    if passage.end:
        return ids if ids and ids[-1] == end else [*ids, end]
    return ids[:-1] if len(ids) > 1 and ids[-1] == end and not written else ids


def _started(tokenizer: Any, ids: list[int], passage: Passage) -> list[int]:
    if passage.prompt:
        return ids
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return ids if start is None or ids[:1] == [start] else [start, *ids]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    if second[: len(first)] == first:
        return len(first)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _lead(tokenizer: Any, ids: Sequence[int], passage: Passage) -> int:
    """How many tokens at the start stay when a prompt is cut: the tokenizer's own, of a chat the start of text."""
    kept = {tokenizer.bos_token_id} if passage.chat else set(tokenizer.all_special_ids)
    return sum(1 for _ in takewhile(kept.__contains__, ids))


class _Split:
    """A decoder's row before it is fitted: kept start, rest of the prompt, answer."""

    def __init__(self, passage: Passage, ids: list[int], shared: int, lead: int) -> None:
        lead = min(lead, shared)
        self.ids, self.shared = ids, shared
        self.lead, self.given, self.answer = ids[:lead], ids[lead:shared], ids[shared:]
        self.running = passage.running

    def shortened(self, tokens: int) -> tuple[list[int], int] | None:
        """At most ``tokens`` ids and how many of them are the prompt's; None where the answer leaves it no room.

        Running text loses its end. A prompt loses its beginning behind the kept start.
        """
        if self.running:
            return self.ids[:tokens], self.shared
        room = tokens - len(self.lead) - len(self.answer)
        if room < 0 or (room == 0 and not self.lead):
            return None
        given = [*self.lead, *(self.given[-room:] if room else [])]
        return [*given, *self.answer], len(given)


def _decoder_piece(split: _Split, limit: Limit, number: int, *, answer_only: bool) -> Piece:
    length = len(split.ids)
    ids, shared, cut = split.ids, split.shared, length > limit.tokens
    if cut:
        if limit.rule == "refuse":
            raise limit.refuse(number, length)
        if limit.rule == "leave_out":
            return too_long(length, limit)
        shortened = split.shortened(limit.tokens)
        if shortened is None:
            return answer_too_long(length, limit)
        ids, shared = shortened
    ignored = max(1, shared if answer_only else 0)
    if ignored >= len(ids):
        return nothing_to_learn(length)
    row: Row = {"input_ids": ids, "labels": [IGNORED] * ignored + ids[ignored:]}
    return Piece(row, length, cut)


def encoder_decoder_pieces(
    passages: Sequence[Passage], tokenizer: Any, limit: Limit, *, answers: Limit
) -> Iterator[Piece]:
    """The prompt for the encoder, the answer and the end of text as labels; each has its own limit.

    Raises:
        DataError: running text, which has no prompt for the encoder, or an item that is too long where none may be.
    """
    for part in in_parts(len(passages)):
        some = passages[part]
        for number, passage in enumerate(some, start=part.start):
            if passage.running:
                raise DataError(
                    "running text cannot be learned by an encoder–decoder, which answers a prompt",
                    where=limit.place(number),
                    remedy="give items with a prompt and a reference",
                )
        prompts = _tokenised(tokenizer, [one.prompt for one in some], some)
        targets = tokenizer(text_target=[one.plain_answer for one in some], verbose=False)["input_ids"]
        for number, (passage, prompt, answer) in enumerate(zip(some, prompts, targets, strict=True), start=part.start):
            labels = _ended(tokenizer, list(answer), Passage("", passage.plain_answer, "", end=passage.end))
            yield _encoder_decoder_piece(tokenizer, prompt, labels, limit, answers, number)


def _encoder_decoder_piece(
    tokenizer: Any, prompt: list[int], labels: list[int], limit: Limit, answers: Limit, number: int
) -> Piece:
    length = max(len(prompt), len(labels))
    long_answer, long_prompt = len(labels) > answers.tokens, len(prompt) > limit.tokens
    if long_answer and limit.rule == "refuse":
        raise answers.refuse(number, len(labels), "the answer")
    if long_prompt and limit.rule == "refuse":
        raise limit.refuse(number, len(prompt), "the prompt")
    if long_answer:
        return answer_too_long(len(labels), answers)
    if long_prompt and limit.rule == "leave_out":
        return too_long(len(prompt), limit)
    ids = _without_beginning(tokenizer, prompt, limit.tokens) if long_prompt else prompt
    if not ids or not labels:
        return nothing_to_learn(length)
    return Piece({"input_ids": ids, "labels": labels}, length, long_prompt)


def _without_beginning(tokenizer: Any, ids: Sequence[int], tokens: int) -> list[int]:
    """The last of the ids, at most ``tokens``; special tokens at both ends stay."""
    special = set(tokenizer.all_special_ids)
    first = sum(1 for _ in takewhile(special.__contains__, ids))
    last = sum(1 for _ in takewhile(special.__contains__, reversed(ids)))
    room = tokens - first - last
    middle = list(ids[first : len(ids) - last])
    return [*ids[:first], *(middle[-room:] if room > 0 else []), *ids[len(ids) - last :]]
