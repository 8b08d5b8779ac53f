"""General data of a recipe: replay, prompts for texts that the base writes, and what elastic weights are read from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorascope.data import fields
from lorascope.data.few_shot import put_as_asked
from lorascope.data.forms import infer_kind, items_of
from lorascope.data.readers import Row, read_rows
from lorascope.errors import DataError
from lorascope.schema.items import GenerateItem, Item, content_id
from lorascope.schema.recipe import RecipeTask
from lorascope.schema.suite import SuiteTask

_FORMS = "give questions with answers (prompt and reference, instruction and output, messages) or plain 'text'"
_PROMPTS = ("prompt", "instruction", "question", "text")


def read_general(source: str, task: RecipeTask, spec: SuiteTask, *, root: Path, name: str) -> list[Item]:
    """Items of a general data set called ``name``: questions with their answers, or running text.

    A file has one of the known forms by itself; a file without one is read by the templates of the recipe's own task,
    ``spec``. Questions are put as a chat where the task is one.

    Raises:
        DataError: the file cannot be read, or its records have no form that can be trained on.
    """
    rows = read_rows(source, root=root)
    general = _spec(rows, task, spec, name)
    return put_as_asked(items_of(rows, general, split=name), general, ())


def _spec(rows: Sequence[Row], task: RecipeTask, spec: SuiteTask, name: str) -> SuiteTask:
    try:
        kind = infer_kind(rows)
    except DataError as error:
        if task.prompt is None and task.messages is None:
            raise DataError(f"{name}: {error.problem}", where=error.where, remedy=_FORMS) from error
        return spec
    if kind not in ("generate", "likelihood"):
        problem = f"{name}: the records are of kind {kind}, which teaches no text"
        raise DataError(problem, where=rows[0].place, remedy=_FORMS)
    chat = kind == "generate" and task.chat
    return SuiteTask(name=name, kind=kind, data=name, chat=chat, system=task.system if chat else None)


def read_prompts(source: str, task: RecipeTask, *, root: Path) -> list[GenerateItem]:
    """Prompts that the base goes on from, without references: of records with a prompt, an instruction, a question or
    a text, or of conversations, their turns before the last answer.

    Raises:
        DataError: the file cannot be read, or a record has none of these.
    """
    rows = read_rows(source, root=root)
    spec = SuiteTask(name="prompts", kind="generate", data=source, chat=task.chat, system=task.system)
    found = [_prompt(row, spec) for row in rows]
    return [item for item in put_as_asked(found, spec, ()) if isinstance(item, GenerateItem)]


def _prompt(row: Row, spec: SuiteTask) -> GenerateItem:
    if any(name in row.fields for name in ("messages", "conversations")):
        item = items_of([row], spec.model_copy(update={"chat": False, "system": None}), split=None)[0]
        assert isinstance(item, GenerateItem)
        return GenerateItem(item_id=item.item_id, prompt=item.prompt, messages=item.messages, references=())
    name = next((name for name in _PROMPTS if name in row.fields), None)
    if name is None:
        raise DataError(
            f"the record has no prompt; its fields are {', '.join(row.fields)}",
            where=row.place,
            remedy=f"give one of {', '.join(_PROMPTS)}, or messages",
        )
    extra = fields.optional_text(row, "input") if name == "instruction" else None
    text = "\n".join(filter(None, (fields.text(row, name), extra)))
    return GenerateItem(item_id=content_id({"kind": "prompt", "prompt": text}), prompt=text, references=())
