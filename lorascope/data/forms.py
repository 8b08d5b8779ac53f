"""Rows into items, for every form of record that is accepted.

A suite says the task's kind; only ``--data`` without a suite infers it, from the names of the fields. A row that fits
two forms, or none, is refused, and so is a file whose form changes on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorascope.data import fields
from lorascope.data.few_shot import with_one_system
from lorascope.data.readers import Row
from lorascope.data.templates import render, render_messages
from lorascope.errors import ConfigError, DataError
from lorascope.schema.comparison import TaskKind
from lorascope.schema.items import (
    ChoiceItem,
    GenerateItem,
    Item,
    LabelsItem,
    LikelihoodItem,
    ScoreItem,
    TokensItem,
    content_id,
)
from lorascope.schema.suite import SuiteTask

QUESTION_TEMPLATE = "Question: {question}\nAnswer:"
QUESTION_TEMPLATE_ZH = "问题：{question}\n答案："
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}


@dataclass(frozen=True, slots=True)
class Form:
    """A shape of record: it is present when all of ``needs`` and, where given, one of ``one_of`` are fields."""

    name: str
    kind: TaskKind
    needs: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()

    def present_in(self, record: Mapping[str, Any]) -> bool:
        """Whether the record has this form's fields."""
        some = not self.one_of or any(name in record for name in self.one_of)
        return some and all(name in record for name in self.needs)


PROMPT = Form("prompt and reference", "generate", ("prompt",), ("reference", "references"))
ALPACA = Form("instruction and output", "generate", ("instruction", "output"))
CHAT = Form("messages", "generate", (), ("messages", "conversations"))
LABELS = Form("text and labels", "labels", ("text", "labels"))
LABEL = Form("text and label", "labels", ("text", "label"))
SCORE = Form("text and numeric label", "score", ("text", "label"))
TOKENS = Form("tokens and tags", "tokens", ("tokens", "tags"))
CHOICE = Form("question, choices and answer", "choice", ("question", "choices", "answer"))
TEXT = Form("text", "likelihood", ("text",))
_BY_FIELDS = (PROMPT, ALPACA, CHAT, LABELS, LABEL, TOKENS, CHOICE)


def infer_kind(rows: Sequence[Row]) -> TaskKind:
    """The kind of task that all rows' field names say.

    Raises:
        DataError: a row of no known form or of several, or the first row whose form differs from the rows before.
    """
    first = form_of(rows[0])
    for row in rows[1:]:
        form = form_of(row)
        if form != first:
            raise DataError(
                f"the form of the records changes from '{first.name}' to '{form.name}'",
                where=row.place,
                remedy="keep one form per file, or describe the task in a suite",
            )
    return first.kind


def form_of(row: Row) -> Form:
    """The one form that a row has by the names of its fields (and the type of ``label``)."""
    found = [form for form in _BY_FIELDS if form.present_in(row.fields)]
    if TEXT.present_in(row.fields) and not {LABELS, LABEL} & set(found):
        found.append(TEXT)
    if len(found) != 1:
        names = " or ".join(f"'{form.name}'" for form in found)
        problem = f"could be {names}" if found else f"has no known form; its fields are {', '.join(row.fields)}"
        raise DataError(f"the record {problem}", where=row.place, remedy="name the kind and the fields in a suite")
    return _label_form(row) if found[0] is LABEL else found[0]


def _label_form(row: Row) -> Form:
    value = row.fields["label"]
    if isinstance(value, str) and not (row.untyped and _looks_numeric(value)):
        return LABEL
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return SCORE
    raise DataError(
        f"the label {value!r} could be a class or a score",
        where=row.place,
        remedy="write a suite with kind: labels or kind: score",
    )


def _looks_numeric(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def items_of(rows: Iterable[Row], spec: SuiteTask, *, split: str | None) -> list[Item]:
    """One item per row, in order, with ids that are unique within these rows (a repeated content gets ``#2`` …).

    Raises:
        ConfigError: the suite's task asks for something its kind does not have.
        DataError: a row does not have the form that the task's kind needs.
    """
    _check_templates(spec)
    build = _BUILDERS[spec.kind]
    seen: dict[str, int] = {}
    items = []
    form: Form | None = None
    for row in rows:
        form = _same_form(row, spec, form)
        item = replace(
            build(row, spec),
            group=fields.optional_text(row, "group"),
            category=fields.optional_text(row, "category"),
            split=split,
        )
        seen[item.item_id] = seen.get(item.item_id, 0) + 1
        count = seen[item.item_id]
        items.append(item if count == 1 else replace(item, item_id=f"{item.item_id}#{count}"))
    return items


def _check_templates(spec: SuiteTask) -> None:
    where = f"task '{spec.name}'"
    if spec.messages is not None and spec.kind not in {"generate", "choice"}:
        raise ConfigError(f"tasks of kind '{spec.kind}' take no 'messages'", where=where, remedy="use 'prompt'")
    if spec.prompt is not None and spec.kind == "tokens":
        raise ConfigError("tasks of kind 'tokens' take no 'prompt'", where=where, remedy="remove it")
    if spec.references is not None and spec.kind == "likelihood":
        raise ConfigError("tasks of kind 'likelihood' have no references", where=where, remedy="remove the key")


def _same_form(row: Row, spec: SuiteTask, before: Form | None) -> Form | None:
    """Generation records without a template come in three forms; a file keeps to one of them."""
    if spec.kind != "generate" or spec.prompt is not None or spec.messages is not None:
        return None
    form = _generate_form(row, spec)
    if before is not None and form != before:
        raise DataError(
            f"the form of the records changes from '{before.name}' to '{form.name}'",
            where=row.place,
            remedy="keep one form per file",
        )
    return form


def _generate_form(row: Row, spec: SuiteTask) -> Form:
    prompt = PROMPT if spec.references is None else Form(PROMPT.name, "generate", ("prompt", spec.references))
    found = [form for form in (prompt, ALPACA, CHAT) if form.present_in(row.fields)]
    if len(found) == 1:
        return found[0]
    names = " or ".join(f"'{form.name}'" for form in found)
    problem = f"could be {names}" if found else f"has no prompt; its fields are {', '.join(row.fields)}"
    raise DataError(f"the record {problem}", where=row.place, remedy="give 'prompt' and 'references' in the suite")


def _generate(row: Row, spec: SuiteTask) -> GenerateItem:
    prompt, messages, references = _question(row, spec)
    content = {"kind": "generate", "prompt": prompt, "messages": messages, "references": references}
    return GenerateItem(item_id=content_id(content), prompt=prompt, messages=messages, references=references)


Messages = tuple[Mapping[str, str], ...]


def _question(row: Row, spec: SuiteTask) -> tuple[str | None, Messages | None, tuple[str, ...]]:
    if spec.prompt is not None:
        return render(spec.prompt, row.fields, place=row.place), None, _references(row, spec)
    if spec.messages is not None:
        messages = render_messages(spec.messages, row.fields, place=row.place)
        return None, with_one_system(messages, spec, place=row.place), _references(row, spec)
    form = _generate_form(row, spec)
    if form is CHAT:
        turns, references = _conversation(row, spec)
        return None, with_one_system(turns, spec, place=row.place), references
    if form is ALPACA:
        return _alpaca_prompt(row), None, _references(row, spec)
    return fields.text(row, "prompt"), None, _references(row, spec)


def _references(row: Row, spec: SuiteTask) -> tuple[str, ...]:
    if spec.references is not None:
        return fields.references(row, spec.references)
    present = [name for name in ("references", "reference", "output") if name in row.fields]
    if len(present) != 1:
        problem = (
            f"has several: {', '.join(present)}" if present else f"has none; its fields are {', '.join(row.fields)}"
        )
        raise DataError(
            f"which field holds the reference is not clear: the record {problem}",
            where=row.place,
            remedy="name it with 'references' in the suite",
        )
    return fields.references(row, present[0])


def _alpaca_prompt(row: Row) -> str:
    """Instruction and, on the next line, its input; turns kept in other fields would be lost and are refused."""
    for name in ("history", "system"):
        if row.fields.get(name):
            raise DataError(
                f"the instruction record has a '{name}', which a plain prompt cannot hold",
                where=row.place,
                remedy="convert it to messages, or give 'messages' templates in the suite",
            )
    instruction, extra = fields.text(row, "instruction"), fields.optional_text(row, "input")
    return instruction if extra is None else f"{instruction}\n{extra}"


def _conversation(row: Row, spec: SuiteTask) -> tuple[Messages, tuple[str, ...]]:
    """The turns before the last assistant turn are the prompt, that turn is the reference; later turns are left out.

    With a ``references`` field named by the suite, all turns are the prompt.
    """
    name = "messages" if "messages" in row.fields else "conversations"
    turns = [_turn(one, row, name) for one in fields.array(row, name)]
    system = fields.optional_text(row, "system")
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    if spec.references is not None:
        return tuple(turns), fields.references(row, spec.references)
    last = max((index for index, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
    if last == 0 or not turns[last]["content"].strip():
        raise DataError(
            f"'{name}' has no assistant turn with text after the first turn",
            where=row.place,
            remedy="the last assistant turn is the reference answer",
        )
    return tuple(turns[:last]), (turns[last]["content"],)


def _turn(value: Any, row: Row, name: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise DataError(f"'{name}' holds a {type(value).__name__}, not a turn", where=row.place, remedy="use objects")
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    if role not in _ROLES:
        raise DataError(f"{role!r} is no known role", where=row.place, remedy=f"known roles: {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"a turn's content is a {type(content).__name__}, not text", where=row.place)
    return {"role": _ROLES[role], "content": content}


def _text(row: Row, spec: SuiteTask) -> str:
    return fields.text(row, "text") if spec.prompt is None else render(spec.prompt, row.fields, place=row.place)


def _text_pair(row: Row, spec: SuiteTask) -> str | None:
    return fields.optional_text(row, "text_pair") if spec.prompt is None else None


def _labels(row: Row, spec: SuiteTask) -> LabelsItem:
    name = spec.references or ("labels" if "labels" in row.fields else "label")
    if name not in row.fields:
        raise DataError(
            f"the record has no labels: the field '{name}' is missing, and its fields are {', '.join(row.fields)}",
            where=row.place,
            remedy="give 'label' (one label) or 'labels' (a list), or name the field with 'references' in the suite",
        )
    value = row.fields[name]
    if name == "labels" and isinstance(value, str) and not row.untyped:
        raise DataError(
            "the field 'labels' must be a list, not str",
            where=row.place,
            remedy='write "labels": ["first", "second"], or "label": "first" where every item has exactly one',
        )
    listed = name == "labels" or isinstance(value, (list, tuple)) or (row.untyped and spec.multi_label is True)
    values = fields.array(row, name) if listed else [value]
    labels = tuple(dict.fromkeys(fields.class_name(row, name, one, spec.labels) for one in values))
    multi = listed if spec.multi_label is None else spec.multi_label
    if not multi and len(labels) != 1:
        raise DataError(
            f"a task with one label per item has {len(labels)} in the field '{name}'",
            where=row.place,
            remedy="give multi_label: true",
        )
    text, pair = _text(row, spec), _text_pair(row, spec)
    content = {"kind": "labels", "text": text, "text_pair": pair, "labels": sorted(labels), "multi": multi}
    return LabelsItem(item_id=content_id(content), text=text, text_pair=pair, labels=labels, multi=multi)


def _score(row: Row, spec: SuiteTask) -> ScoreItem:
    text, pair = _text(row, spec), _text_pair(row, spec)
    score = fields.number(row, spec.references or "label")
    content = {"kind": "score", "text": text, "text_pair": pair, "score": score}
    return ScoreItem(item_id=content_id(content), text=text, text_pair=pair, score=score)


def _tokens(row: Row, spec: SuiteTask) -> TokensItem:
    name = spec.references or "tags"
    tokens = fields.texts(row, "tokens")
    tags = tuple(fields.class_name(row, name, one, spec.labels) for one in fields.array(row, name))
    if len(tokens) != len(tags) or not tokens:
        raise DataError(f"{len(tokens)} tokens have {len(tags)} tags", where=row.place, remedy="give one tag per token")
    return TokensItem(item_id=content_id({"kind": "tokens", "tokens": tokens, "tags": tags}), tokens=tokens, tags=tags)


def _choice(row: Row, spec: SuiteTask) -> ChoiceItem:
    choices = fields.texts(row, "choices")
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise DataError(f"the {len(choices)} choices must be two or more, none empty", where=row.place)
    answer = fields.answer_index(row, spec.references or "answer", choices)
    messages: Messages | None = None
    context = ""
    if spec.messages is not None:
        messages = with_one_system(render_messages(spec.messages, row.fields, place=row.place), spec, place=row.place)
    else:
        context = render(spec.prompt or _question_template(row), row.fields, place=row.place)
    question = fields.optional_text(row, "question") or context
    content = {"kind": "choice", "context": context, "messages": messages, "choices": choices, "answer": answer}
    return ChoiceItem(
        item_id=content_id(content),
        question=question,
        context=context,
        messages=messages,
        choices=choices,
        answer=answer,
    )


def _question_template(row: Row) -> str:
    """Without a template, a question with Chinese characters and no kana is asked in Chinese, others in English."""
    question = fields.text(row, "question")
    chinese = any("\u4e00" <= sign <= "\u9fff" for sign in question)
    kana = any("\u3040" <= sign <= "\u30ff" for sign in question)
    return QUESTION_TEMPLATE_ZH if chinese and not kana else QUESTION_TEMPLATE


def _likelihood(row: Row, spec: SuiteTask) -> LikelihoodItem:
    text = _text(row, spec)
    return LikelihoodItem(item_id=content_id({"kind": "likelihood", "text": text}), text=text)


_BUILDERS: dict[TaskKind, Callable[[Row, SuiteTask], Item]] = {
    "generate": _generate,
    "labels": _labels,
    "score": _score,
    "tokens": _tokens,
    "choice": _choice,
    "likelihood": _likelihood,
}
