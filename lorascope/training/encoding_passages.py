"""Items of a language model's task as passages: what is given, and what the model is to write after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from lorascope.errors import DataError
from lorascope.schema.items import ChoiceItem, GenerateItem, Item, LikelihoodItem
from lorascope.schema.seams import answer_separator, choice_separator
from lorascope.training.encoding_parts import Limit

Messages = Sequence[Mapping[str, str]]
_REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_STAND_IN = "[the assistant's answer stands here]"


@dataclass(frozen=True, slots=True)
class Passage:
    """``answer`` follows ``prompt`` without anything between them; ``plain_answer`` is the same without its seam.

    ``chat``: the chat template wrote the special tokens. ``end``: the end-of-text token is to follow. ``running`` text
    is an ``answer`` without a prompt.
    """

    prompt: str
    answer: str
    plain_answer: str
    chat: bool = False
    end: bool = True
    running: bool = False


def passages_of(items: Sequence[Item], tokenizer: Any, limit: Limit) -> list[Passage]:
    """One passage an item; a question's first reference is its answer, a choice's the right one.

    Raises:
        DataError: an empty answer or text, messages that the chat template refuses, or an item that is no text.
    """
    chat = Chat(tokenizer)
    return [_passage(item, chat, limit.place(number)) for number, item in enumerate(items)]


def _passage(item: Item, chat: Chat, place: str) -> Passage:
    if isinstance(item, GenerateItem):
        answer = item.references[0]
        if item.messages is None:
            prompt = item.prompt or ""
            return joined(prompt, answer_separator(prompt, answer), answer, place)
        return chat.passage(item.messages, answer, place)
    if isinstance(item, ChoiceItem):
        answer = item.choices[item.answer]
        if item.messages is None:
            return joined(item.context.rstrip(), choice_separator(item.context), answer, place)
        return chat.passage(item.messages, answer, place)
    if isinstance(item, LikelihoodItem):
        return running_text(item.text, place)
    raise DataError(
        f"a {type(item).__name__} holds no text to write", where=place, remedy="train it with its own kind of task"
    )


def joined(prompt: str, seam: str, answer: str, place: str, *, end: bool = True) -> Passage:
    """A plain prompt and its answer; a DataError where the answer is empty."""
    _refuse_empty(answer, "the answer", place)
    return Passage(prompt, seam + answer, answer, end=end)


def running_text(text: str, place: str, *, end: bool = True) -> Passage:
    """Text that is learned as a whole; a DataError where it is empty."""
    _refuse_empty(text, "the text", place)
    return Passage("", text, text, end=end, running=True)


def _refuse_empty(text: str, what: str, place: str) -> None:
    if not text.strip():
        raise DataError(f"{what} is empty", where=place, remedy="fill it in or leave the item out")


class Chat:
    """Conversations through a tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        """Use the template of ``tokenizer``; that it has one is asked for with the first conversation."""
        self._tokenizer = tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        self._closing = tuple(token for token in {*tokenizer.all_special_tokens, *added} if token)

    def passage(self, messages: Messages, answer: str, place: str, *, end: bool = True) -> Passage:
        """A conversation and the assistant's turn after it, as the template writes both, with the template's own end.

        The prompt is the one that evaluation asks with. A turn that the template closes with a special token ends
        there: whitespace behind it is left out, and no end of text follows. Without ``end`` the turn stops with the
        answer's last word, as where a text was broken off.

        Raises:
            DataError: an empty answer, no chat template, or one that refuses the messages or rewrites answers.
        """
        _refuse_empty(answer, "the answer", place)
        prompt = self.written(messages, place, ask=True)
        whole = self.written([*messages, {"role": "assistant", "content": _STAND_IN}], place, ask=False)
        before, found, closing = whole.rpartition(_STAND_IN)
        if not found:
            raise DataError(
                "the chat template does not write the assistant's last turn as it stands",
                where=place,
                remedy="use a template that does, or a plain 'prompt' in the recipe",
            )
        # A template may write something before an answer; where it changes earlier turns, the asked form holds.
        said = (before[len(prompt) :] if before.startswith(prompt) else "") + answer.strip()
        if not end:
            return Passage(prompt, said, answer, chat=True, end=False)
        if closing.rstrip().endswith(self._closing):
            return Passage(prompt, said + closing.rstrip(), answer, chat=True, end=False)
        return Passage(prompt, said + closing, answer, chat=True)

    def written(self, messages: Messages, place: str, *, ask: bool) -> str:
        """The messages as text; with ``ask`` the assistant is to go on."""
        if not self._tokenizer.chat_template:
            raise DataError(
                "the items are chat messages, and the tokenizer has no chat template",
                where=place,
                remedy="give a plain 'prompt' in the recipe, or add a chat template to the base",
            )
        turns = [dict(message) for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask))
        except (MemoryError, OverflowError) as error:
            raise DataError(
                "the chat template asks for more than fits into memory",
                where=place,
                remedy="mend the chat template of the base's tokenizer",
            ) from error
        except _REFUSALS as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(f"the chat template refuses messages of {roles}: {error}", where=place) from error
