"""The proof that comes before a comparison of served models: that each is there, applied, and what the folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing

from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Subject as Asker
from lorascope.engines.openai_engine import OpenAIEngine
from lorascope.engines.server_check import CHECK_ITEMS, ServerCheck, check_server
from lorascope.engines.server_memory import forget_changed
from lorascope.schema.comparison import Finding
from lorascope.schema.items import ChoiceItem, GenerateItem, Item, LikelihoodItem
from lorascope.workflows.watch import Watch

_PROMPT_SIGNS, _REFERENCE_SIGNS = 200, 100


def check_served(
    engine: OpenAIEngine,
    known: Sequence[Asker],
    tasks: Sequence[LoadedTask],
    *,
    device: str,
    dtype: str,
    watch: Watch,
) -> list[Finding]:
    """Ask each of ``known`` (the base first) 16 questions of the tasks, and say what was found.

    Subjects whose ``path`` is a folder are asked there too, on ``device``. No findings where no task has a question
    that a server could answer. Answers that the engine's cache keeps of an unfinished run are dropped where the model
    is another one now, or where no question could show it; the engine's ``notes`` say so.

    Raises:
        EvaluationError: the server cannot be reached, does not answer for a name, or gives the base's log-probabilities
            under an adapted model's name.
    """
    items = check_items(tasks)
    check = _checked(engine, known, items, device=device, dtype=dtype, watch=watch) if items else None
    if check is not None:
        check.refuse_unapplied()
    notes = forget_changed(engine, known, items, check)
    for note in notes:
        watch.say(note)
    engine.notes += notes
    return [] if check is None else check.findings


def _checked(
    engine: OpenAIEngine,
    known: Sequence[Asker],
    items: Sequence[GenerateItem],
    *,
    device: str,
    dtype: str,
    watch: Watch,
) -> ServerCheck:
    folders = {asker.name: asker for asker in known if _at_hand(asker)}
    base, *adapted = known
    with watch.stage("Checking the server") as report:
        if not folders:
            return check_server(engine, base, adapted, items, on_progress=report)
        from lorascope.engines.transformers_engine import TransformersEngine

        with closing(TransformersEngine(device=device, dtype=dtype)) as local:
            return check_server(engine, base, adapted, items, local=local, folders=folders, on_progress=report)


def _at_hand(asker: Asker) -> bool:
    """Whether the checkpoint can be asked locally: its folder is there and, for an adapter, that of its base."""
    return asker.path.is_dir() and (asker.kind == "model" or asker.base_path is not None)


def check_items(tasks: Sequence[LoadedTask]) -> list[GenerateItem]:
    """Up to 16 prompts with a reference each, of the target tasks before the others, each question once.

    All are plain prompts or all are chats, as the first of them is: a server may know one of the two alone.
    """
    ordered = sorted(tasks, key=lambda task: task.spec.role != "target")
    found = {item.item_id: item for task in ordered for item in _prompts(task.items)}
    items = list(found.values())
    if not items:
        return []
    chat = items[0].messages is not None
    return [item for item in items if (item.messages is not None) == chat][:CHECK_ITEMS]


def _prompts(items: Iterable[Item]) -> Iterable[GenerateItem]:
    """The items as prompts to be continued, each with a text whose log-probability can be asked for."""
    for item in items:
        match item:
            case GenerateItem():
                yield item
            case ChoiceItem(messages=None) if item.context.strip():
                gold = item.choices[item.answer]
                yield GenerateItem(item_id=item.item_id, prompt=item.context, references=(gold,))
            case LikelihoodItem() if len(item.text) > _PROMPT_SIGNS:
                begun, rest = item.text[:_PROMPT_SIGNS], item.text[_PROMPT_SIGNS:][:_REFERENCE_SIGNS]
                yield GenerateItem(item_id=item.item_id, prompt=begun, references=(rest,))
