"""From texts to token ids: prompts, chat templates, and the seam between a context and its continuation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from lorascope.engines.holding import Ready
from lorascope.errors import EvaluationError
from lorascope.schema.seams import answer_separator, choice_separator

# What a template can run into: its own refusals, and mistakes in its expressions.
_REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt. A chat's text holds its special tokens already."""

    text: str
    chat: bool


def prompt_of(ready: Ready, text: str | None, messages: Sequence[Mapping[str, str]] | None) -> Prompt:
    """The prompt of an item: its text, or its messages through the tokenizer's chat template.

    Raises:
        EvaluationError: there is no chat template, or it refuses the messages.
    """
    if messages is None:
        return Prompt(text or "", chat=False)
    where = f"the tokenizer of '{ready.subject.name}'"
    if not ready.tokenizer.chat_template:
        raise EvaluationError(
            "the items are chat messages, and the tokenizer has no chat template",
            where=where,
            remedy="give a plain 'prompt' in the suite, or add a chat template to the checkpoint",
        )
    try:
        rendered = ready.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except _REFUSALS as error:
        roles = ", ".join(message["role"] for message in messages)
        raise EvaluationError(f"the chat template refuses messages of {roles}: {error}", where=where) from error
    return Prompt(str(rendered), chat=True)


def choice_delimiter(prompt: Prompt, stated: str | None = None) -> str:
    """What stands between a context and a choice: as ``stated``, else a space, but nothing after a chat or CJK text."""
    if stated is not None:
        return stated
    return "" if prompt.chat else choice_separator(prompt.text)


def reference_separator(prompt: Prompt, reference: str) -> str:
    """What stands between a prompt and its reference when the reference is read as the answer."""
    return "" if prompt.chat else answer_separator(prompt.text, reference)


def encode(ready: Ready, text: str, *, special: bool) -> list[int]:
    """Token ids; an end-of-text token that a decoder's tokenizer puts at the end by itself is taken off.

    A text that begins with the beginning-of-text token in writing gets no second one.
    """
    return encode_all(ready, [text], special=special)[0]


def encode_all(ready: Ready, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    """As :func:`encode`, for texts that begin alike."""
    tokenizer = ready.tokenizer
    begun = bool(tokenizer.bos_token) and all(text.startswith(str(tokenizer.bos_token)) for text in texts)
    special = special and (ready.encoder_decoder or not begun)
    rows = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    found = [[int(token) for token in row] for row in rows]
    if not special or ready.encoder_decoder:
        return found
    end, written = tokenizer.eos_token_id, str(tokenizer.eos_token)
    return [
        ids[:-1] if len(ids) > 1 and ids[-1] == end and not text.endswith(written) else ids
        for ids, text in zip(found, texts, strict=True)
    ]


def start_token(tokenizer: Any) -> int | None:
    """The token that stands before a text without context: beginning of text, else end of text, else none."""
    return next((int(token) for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None), None)


@dataclass(frozen=True, slots=True)
class Pair:
    """Tokens that are given and tokens whose probability is asked; ``cut`` given tokens were lost on the left."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    cut: int = 0


def encode_pair(ready: Ready, prompt: Prompt, continuation: str) -> Pair | None:
    """As :func:`encode_pairs`, for one continuation."""
    return encode_pairs(ready, prompt, [continuation])[0]


def encode_pairs(ready: Ready, prompt: Prompt, continuations: Sequence[str]) -> list[Pair | None]:
    """Context and continuations as lm-evaluation-harness encodes them.

    None where a target exceeds the context, or adds no token to it, so that nothing is left to ask.

    Trailing whitespace of the context moves to the continuation. A decoder's whole string is encoded and cut after as
    many tokens as the context alone has; at least one token is left to predict. An encoder–decoder reads the context in
    its encoder. Without a context the beginning-of-text token (else end-of-text) stands for it. A chat template writes
    its special tokens itself: none are added, where the harness adds a beginning-of-text token that it left out.
    """
    context = prompt.text.rstrip()
    moved = [prompt.text[len(context) :] + continuation for continuation in continuations]
    special = not prompt.chat
    if ready.encoder_decoder:
        given = encode(ready, context, special=special)
        return [_fitted_to_encoder(ready, given, target) for target in encode_all(ready, moved, special=False)]
    if not context:
        return [_after_start(ready, target) for target in encode_all(ready, moved, special=False)]
    given, *wholes = encode_all(ready, [context, *(context + one for one in moved)], special=special)
    return [_split(ready, given, whole) for whole in wholes]


def _split(ready: Ready, context: list[int], whole: list[int]) -> Pair | None:
    if whole == context:
        return None
    given = context if len(context) < len(whole) else whole[:-1]
    return _fitted(ready, given or _start(ready), whole[len(given) :])


def _after_start(ready: Ready, target: list[int]) -> Pair | None:
    given = _start(ready)
    return _fitted(ready, given, target[1:] if target[:1] == given and len(target) > 1 else target)


def _start(ready: Ready) -> list[int]:
    token = start_token(ready.tokenizer)
    if token is None:
        raise EvaluationError(
            "an empty context needs a beginning- or end-of-text token, and the tokenizer has neither",
            where=f"the tokenizer of '{ready.subject.name}'",
            remedy="give the task a prompt",
        )
    return [token]


def _fitted(ready: Ready, context: list[int], target: list[int]) -> Pair | None:
    """The last token of the target is predicted, not read, so one token more than the model's context fits."""
    cut = max(0, len(context) + len(target) - ready.context - 1)
    if not target or cut >= len(context):
        return None
    return Pair(tuple(context[cut:]), tuple(target), cut)


def _fitted_to_encoder(ready: Ready, context: list[int], target: list[int]) -> Pair | None:
    cut = max(0, len(context) - ready.context)
    room = ready.context if ready.writable is None else min(ready.context, ready.writable)
    if not target or not context or len(target) > room:
        return None
    return Pair(tuple(context[cut:]), tuple(target), cut)
