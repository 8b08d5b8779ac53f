"""Solved examples before a question, and a prompt as a chat.

Both stand around an item's own question and leave its ``item_id`` alone, so that a sample holds the same questions with
any number of examples. The task's fingerprint changes with all that stands around them: answers to the same question
after other examples are told apart by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lorascope.errors import ConfigError, DataError
from lorascope.schema.items import ChoiceItem, GenerateItem, Item
from lorascope.schema.seams import answer_separator, choice_separator
from lorascope.schema.suite import SuiteTask

Asked = GenerateItem | ChoiceItem
Turns = tuple[Mapping[str, str], ...]

_BETWEEN = "\n\n"


def draw_examples(pool: Sequence[Item], spec: SuiteTask, *, seed: int) -> tuple[Asked, ...]:
    """The examples that all items of a task share: ``few_shot`` of different questions, and one to spare.

    The spare one takes a place where an item is itself among the examples. Which ones are drawn, and their order,
    depends on the seed and the examples' content alone. The draw is not that of :func:`sample_items`, so that a limit
    on a file does not pick the very examples that were drawn from it.
    """
    usable = [item for item in pool if isinstance(item, GenerateItem | ChoiceItem)]
    drawn: list[Asked] = []
    choices: dict[str, list[set[str]]] = {}
    for item in sorted(usable, key=lambda item: _rank(seed, item.item_id.split("#")[0])):
        if len(drawn) > spec.few_shot:
            break
        known = choices.setdefault(_question(item), [])
        if not any(_meet(_choices(item), other) for other in known):
            drawn.append(item)
        known.append(_choices(item))
    return tuple(drawn)


def _rank(seed: int, item_id: str) -> str:
    return hashlib.sha256(f"{seed}:example:{item_id}".encode()).hexdigest()


def put_as_asked(items: Sequence[Item], spec: SuiteTask, examples: Sequence[Asked]) -> list[Item]:
    """The items as a model is asked them: after ``few_shot`` of the examples, and as a chat where ``chat`` says so.

    As plain text, an example is its prompt, the separator that also stands before a scored answer (for choices the
    task's ``delimiter``) and its first reference or right choice; blank lines stand between, as in
    lm-evaluation-harness. In a chat every example is a user's and an assistant's turn, after the system message.
    An example with an item's own question is passed over. Without ``few_shot``, ``chat`` and ``system`` items stay as
    they are.

    Raises:
        ConfigError: too few examples, or chats that cannot take examples.
    """
    return [_put(item, spec, examples) if isinstance(item, GenerateItem | ChoiceItem) else item for item in items]


def _put(item: Asked, spec: SuiteTask, examples: Sequence[Asked]) -> Asked:
    if not spec.few_shot and spec.system is None and (item.messages is not None or not spec.chat):
        return item
    chosen = _others(item, spec, examples)
    if item.messages is None and not spec.chat:
        before = "".join(_solved(example, spec) + _BETWEEN for example in chosen)
        return _with_text(item, before + _text(item))
    messages = (*_system(item, spec, chosen), *_turns(chosen, spec), *_own_turns(item))
    if isinstance(item, GenerateItem):
        return replace(item, prompt=None, messages=messages)
    return replace(item, context="", messages=messages)


def _others(item: Asked, spec: SuiteTask, examples: Sequence[Asked]) -> list[Asked]:
    chosen = [example for example in examples if not _same_question(example, item)][: spec.few_shot]
    if len(chosen) < spec.few_shot:
        raise ConfigError(
            f"'few_shot' asks for {spec.few_shot} examples, and the data has {len(chosen)} of other questions",
            where=f"task '{spec.name}'",
            remedy="lower it, or give a larger file as 'few_shot_data'",
        )
    return chosen


def _same_question(one: Asked, other: Asked) -> bool:
    return _question(one) == _question(other) and _meet(_choices(one), _choices(other))


def _question(item: Asked) -> str:
    """What two items have in common that ask the same, whatever their references or the order of their choices.

    A system message, white space, and whether it is put as a chat make no other question. Of a choice's text only the
    signs count, not their order, for it may list the choices.
    """
    text = "".join("".join(turn["content"] for turn in _own_turns(item)).split())
    return "".join(sorted(text)) if isinstance(item, ChoiceItem) else text


def _choices(item: Asked) -> set[str]:
    return {choice.strip() for choice in item.choices} if isinstance(item, ChoiceItem) else set()


def _meet(one: set[str], other: set[str]) -> bool:
    """Whether two items with the same text may be one question: they share a choice, or are no choices.

    "Which sentence is right?" is another question with each other set of sentences.
    """
    return not one or not other or bool(one & other)


def _text(item: Asked) -> str:
    return (item.prompt or "") if isinstance(item, GenerateItem) else item.context


def _with_text(item: Asked, text: str) -> Asked:
    return replace(item, prompt=text) if isinstance(item, GenerateItem) else replace(item, context=text)


def _solution(item: Asked) -> str:
    return item.references[0] if isinstance(item, GenerateItem) else item.choices[item.answer]


def _solved(example: Asked, spec: SuiteTask) -> str:
    text, solution = _text(example), _solution(example)
    if isinstance(example, GenerateItem):
        return text + answer_separator(text, solution) + solution
    return text + (choice_separator(text) if spec.delimiter is None else spec.delimiter) + solution


def _own_turns(item: Asked) -> Turns:
    if item.messages is None:
        return ({"role": "user", "content": _text(item)},)
    return tuple(turn for turn in item.messages if turn["role"] != "system")


def _turns(examples: Sequence[Asked], spec: SuiteTask) -> list[Mapping[str, str]]:
    turns: list[Mapping[str, str]] = []
    for example in examples:
        own = _own_turns(example)
        if own[-1]["role"] == "assistant":
            raise ConfigError(
                "an example's messages end with the assistant's turn, which leaves no place for its answer",
                where=f"task '{spec.name}'",
                remedy="end 'messages' with the user's turn, or leave 'few_shot' out",
            )
        turns += [*own, {"role": "assistant", "content": _solution(example)}]
    return turns


def _system(item: Asked, spec: SuiteTask, examples: Sequence[Asked]) -> Turns:
    """The one system message: the task's, or the item's own; an example's must be the same, for there is one place."""
    said = _said_by_system(item) if spec.system is None else spec.system
    others = {own for own in map(_said_by_system, examples) if own is not None}
    if others - {said}:
        raise ConfigError(
            "an example has a system message of its own, and a chat has one place for such",
            where=f"task '{spec.name}'",
            remedy="give 'few_shot_data' without system messages, or leave 'few_shot' out",
        )
    return () if said is None else ({"role": "system", "content": said},)


def _said_by_system(item: Asked) -> str | None:
    return next((turn["content"] for turn in item.messages or () if turn["role"] == "system"), None)


def with_one_system(messages: Turns, spec: SuiteTask, *, place: str) -> Turns:
    """The messages of the record at ``place``, which may have a system message where the task does not bring one.

    Where examples or the task's system message are put before them, it must be the first of them and the only one.

    Raises:
        DataError: there is a second system message, or one that is not the first.
    """
    places = [index for index, turn in enumerate(messages) if turn["role"] == "system"]
    if spec.system is not None and places:
        raise DataError(
            "the record has a system message, and the suite gives 'system' too",
            where=place,
            remedy="leave 'system' out of the suite, or out of the data and 'messages'",
        )
    if spec.few_shot and (places not in ([], [0]) or len(messages) == len(places)):
        raise DataError(
            "a chat with examples has one system message at most, at its start, and a turn after it",
            where=place,
            remedy="merge the system messages into one, at the start, or leave 'few_shot' out",
        )
    return messages
