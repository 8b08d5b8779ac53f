"""What a recipe trains on, read by the forms of a suite: items, labels, weights, and what to know before training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from pydantic import ValidationError

from lorascope.data import fields
from lorascope.data.few_shot import put_as_asked
from lorascope.data.forms import items_of
from lorascope.data.readers import Row, is_dataset_name, read_rows
from lorascope.data.recipes import data_path, data_sources, file_hash
from lorascope.data.tasks import TRAIN, sample_items
from lorascope.errors import ConfigError, DataError, InputError
from lorascope.measures.tokens import score_entities
from lorascope.schema.items import Item, LabelsItem, TokensItem
from lorascope.schema.recipe import Recipe, RecipeTask
from lorascope.schema.suite import SuiteTask, labels_in_words, right_labels
from lorascope.training.data import TrainingData
from lorascope.workflows.general_data import read_general, read_prompts
from lorascope.workflows.training_scores import check_metric

_VALIDATION_SEED = 0
"""Validation items are the same whatever the run's seed, so that runs with several seeds are judged on the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedData:
    """A recipe's data.

    ``notes`` are sentences to show before training; ``files`` is the SHA-256 of every data file by its absolute path
    (of a dataset by its name: of its rows). ``train_total`` counts the training items before sampling.
    """

    data: TrainingData
    notes: tuple[str, ...]
    files: Mapping[str, str]
    train_total: int = 0


@dataclass(frozen=True, slots=True)
class _Set:
    """One data file: ``items`` are its plain items, one a row."""

    name: str
    source: str
    rows: Sequence[Row]
    items: Sequence[Item]


def load_training_data(recipe: Recipe, root: Path) -> LoadedData:
    """Read and check everything that the recipe names, relative to ``root``.

    The labels are ``task.labels``, else those of all the training data, sorted, those outside of a sample too: a sample
    has the same head. ``task.fraction`` and ``limit`` draw training items with the recipe's seed, validation items are
    drawn alike for every seed.

    Raises:
        ConfigError: the task's templates or labels cannot be used, the data has but one label, or
            ``evaluation.metric`` is nothing that is measured of this task.
        DataError: a file or record cannot be used; labels in validation that the training data has not, unless
            ``task.labels`` names them; items with one label among items with several; a weight that is none.
    """
    task = recipe.task
    with _in_words_of_a_recipe():
        spec = task_spec(task)
        train = _read(spec, TRAIN, task.train, root)
        sets = [_read(spec, name, source, root) for name, source in recipe.validation_sets.items()]
    multi = _one_kind_of_labels([train, *sets])
    labels = _label_list(task, train, sets, multi)
    drawn = sample_items(train.items, limit=task.limit, fraction=task.fraction, seed=recipe.seed)
    chosen = {part.name: sample_items(part.items, limit=task.validation_limit, seed=_VALIDATION_SEED) for part in sets}
    with _in_words_of_a_recipe():
        data = TrainingData(
            train=tuple(put_as_asked(drawn, spec, ())),
            validation={name: tuple(put_as_asked(items, spec, ())) for name, items in chosen.items()},
            labels=labels,
            multi_label=multi,
            replay=_replay(recipe, spec, root),
            general=_elastic(recipe, spec, root),
            prompts=_prompts(recipe, root),
            weights=_weights(recipe, train, drawn),
        )
    check_metric(recipe, data)
    return LoadedData(
        data=data,
        notes=tuple(_notes(recipe, train, drawn, chosen, labels)),
        files=_hashes(recipe, root),
        train_total=len(train.items),
    )


def task_spec(task: RecipeTask) -> SuiteTask:
    """The task as one of a suite, by which its data are read.

    Raises:
        ConfigError: what it asks for does not go together.
    """
    kept = ("kind", "prompt", "messages", "references", "labels", "multi_label", "chat", "system")
    try:
        return SuiteTask(name="training", data=task.train, **{name: getattr(task, name) for name in kept})
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(said, where="task", remedy="change these keys of 'task' in the recipe") from error


@contextmanager
def _in_words_of_a_recipe() -> Iterator[None]:
    """Readers of suites advise keys of a suite's task; in a recipe the same keys stand under ``task``."""
    try:
        yield
    except InputError as error:
        said = (error.remedy or "").replace("in the suite (else --labels)", "in the suite")
        said = said.replace("in the suite", "under 'task' in the recipe")
        error.remedy = said.replace("relative to the suite", "relative to the recipe") or None
        raise


def _read(spec: SuiteTask, name: str, source: str, root: Path) -> _Set:
    rows = read_rows(_expanded(source), root=root)
    if spec.kind == "generate" and spec.prompt is None and spec.messages is None:
        _refuse_missing_references(rows, spec.references)
    return _Set(name, source, rows, items_of(rows, spec, split=name))


def _refuse_missing_references(rows: Sequence[Row], named: str | None) -> None:
    """A record with a prompt and no answer, said as such."""
    fields_of_answers = (named,) if named else ("reference", "references")
    for row in rows:
        known = {*fields_of_answers, "instruction", "messages", "conversations"}
        if "prompt" in row.fields and not known & row.fields.keys():
            raise DataError(
                f"the record has a prompt and no reference to learn; its fields are {', '.join(row.fields)}",
                where=row.place,
                remedy=f"add the field '{fields_of_answers[0]}', or name the field that holds it with 'references' "
                "under 'task' in the recipe",
            )


def _expanded(source: str) -> str:
    return source if is_dataset_name(source) else str(Path(source).expanduser())


def _one_kind_of_labels(sets: Sequence[_Set]) -> bool:
    """Whether items have several labels; False for tasks without labels."""
    first: bool | None = None
    for part in sets:
        for row, item in zip(part.rows, part.items, strict=True):
            if not isinstance(item, LabelsItem):
                return False
            first = item.multi if first is None else first
            if item.multi != first:
                one, other = ("one label", "a list of labels") if item.multi else ("a list of labels", "one label")
                raise DataError(
                    f"the items before this one have {one}, this one has {other}",
                    where=row.place,
                    remedy="write all in one form, or give 'multi_label: true' under 'task' where one label is a list "
                    "of one",
                )
    return bool(first)


def _names(item: Item) -> tuple[str, ...]:
    if isinstance(item, LabelsItem):
        return item.labels
    return item.tags if isinstance(item, TokensItem) else ()


def _label_list(task: RecipeTask, train: _Set, sets: Sequence[_Set], multi: bool) -> tuple[str, ...]:
    if task.kind not in ("labels", "tokens"):
        return ()
    labels = tuple(task.labels) if task.labels is not None else _found_labels(train, sets)
    if len(set(labels)) != len(labels):
        raise ConfigError("'task.labels' names a label twice", where="task.labels", remedy="name each label once")
    fewest = 1 if multi else 2
    if len(labels) < fewest:
        problem = f"the task has {len(labels)} label{'s' if len(labels) != 1 else ''}; there is nothing to learn"
        where = train.source if task.labels is None else "task.labels"
        raise ConfigError(problem, where=where, remedy=f"give data with {fewest} labels or more")
    return labels


def _found_labels(train: _Set, sets: Sequence[_Set]) -> tuple[str, ...]:
    """Labels of the training data, sorted; one that validation alone has is refused."""
    known = sorted({name for item in train.items for name in _names(item)})
    for part in sets:
        places: dict[str, str] = {}
        for row, item in zip(part.rows, part.items, strict=True):
            for name in _names(item):
                if name not in known:
                    places.setdefault(name, row.place)
        if places:
            several = len(places) > 1
            raise DataError(
                f"the validation set '{part.name}' has {len(places)} label{'s' if several else ''} that no training "
                f"item has: {labels_in_words(sorted(places))}",
                where=next(iter(places.values())),
                remedy=f"{right_labels(next(iter(places)), known)}; where it is right, list all labels in 'labels' "
                "under 'task' in the recipe",
            )
    return tuple(known)


def _replay(recipe: Recipe, spec: SuiteTask, root: Path) -> tuple[Item, ...]:
    source = recipe.replay.data if recipe.replay else None
    return tuple(read_general(_expanded(source), recipe.task, spec, root=root, name="replay")) if source else ()


def _prompts(recipe: Recipe, root: Path) -> tuple[Item, ...]:
    source = recipe.replay.prompts if recipe.replay else None
    return tuple(read_prompts(_expanded(source), recipe.task, root=root)) if source else ()


def _elastic(recipe: Recipe, spec: SuiteTask, root: Path) -> tuple[Item, ...]:
    """General data for the Fisher information: for a task with a head, items of the task's own kind."""
    ewc = recipe.optim.ewc
    if ewc is None:
        return ()
    if recipe.task.kind == "generate":
        items = read_general(_expanded(ewc.data), recipe.task, spec, root=root, name="ewc")
    else:
        items = list(_read(spec, "ewc", ewc.data, root).items)
    return tuple(sample_items(items, limit=ewc.items, seed=recipe.seed))


def _weights(recipe: Recipe, train: _Set, drawn: Sequence[Item]) -> tuple[float, ...] | None:
    name = recipe.loss.sample_weights
    if name is None:
        return None
    weights: dict[str, float] = {}
    for row, item in zip(train.rows, train.items, strict=True):
        weights[item.item_id] = fields.number(row, name)
        if weights[item.item_id] < 0:
            raise DataError(
                f"the weight in the field '{name}' is {weights[item.item_id]:g}, below 0",
                where=row.place,
                remedy="give 0 or more; 0 leaves the item out",
            )
    found = tuple(weights[item.item_id] for item in drawn)
    if not any(found):
        problem = f"all weights in the field '{name}' are 0: nothing would be learned"
        raise DataError(problem, where=train.source, remedy="give some items a weight above 0")
    return found


def _notes(
    recipe: Recipe, train: _Set, drawn: Sequence[Item], chosen: Mapping[str, Sequence[Item]], labels: Sequence[str]
) -> Iterator[str]:
    task = recipe.task
    if len(drawn) < len(train.items):
        yield f"training: {len(drawn)} of {len(train.items)} items, drawn with seed {recipe.seed}"
    taught = {name for item in drawn for name in _names(item)}
    untaught = [name for name in labels if name not in taught]
    if untaught:
        has = "has" if len(untaught) == 1 else "have"
        yield f"{len(untaught)} of {len(labels)} labels {has} no training item: {labels_in_words(untaught)}"
    for name, items in chosen.items():
        asked = {label for item in items for label in _names(item)} & set(untaught)
        if asked:
            yield f"validation '{name}' has labels without a training item: {labels_in_words(sorted(asked))}"
    yield from _leaks(drawn, chosen)
    if task.kind == "tokens":
        yield from _no_entities(train)
    if task.prompt is not None and not any(field is not None for _, field, _, _ in Formatter().parse(task.prompt)):
        yield "warning: 'task.prompt' has no placeholder such as {question}: every item gets the same prompt"


def _leaks(drawn: Sequence[Item], chosen: Mapping[str, Sequence[Item]]) -> Iterator[str]:
    trained = {item.item_id.split("#")[0] for item in drawn}
    for name, items in chosen.items():
        count = sum(item.item_id.split("#")[0] in trained for item in items)
        if count:
            yield (
                f"warning: {count} of {len(items)} items of validation '{name}' ({count / len(items):.1%}) are "
                "training items, word for word; what is measured on them is memory"
            )


def _no_entities(train: _Set) -> Iterator[str]:
    tags = [item.tags for item in train.items if isinstance(item, TokensItem)]
    try:
        score_entities(tags, tags)
    except InputError as error:
        yield f"the tags are no IOB tags, so that entities cannot be scored: {error.problem}"


def _hashes(recipe: Recipe, root: Path) -> dict[str, str]:
    found = {}
    for source in data_sources(recipe):
        path = data_path(source, root)
        found[path] = _rows_hash(source, root) if is_dataset_name(source) else file_hash(Path(path))
    return found


def _rows_hash(source: str, root: Path) -> str:
    total = hashlib.sha256()
    for row in read_rows(source, root=root):
        total.update(json.dumps(row.fields, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8"))
    return total.hexdigest()


def sizes(loaded: LoadedData) -> dict[str, int | None]:
    """How much of what there is, in words that a reader can print; None where the recipe names none of it."""
    data = loaded.data
    return {
        "training items": len(data.train),
        **{f"validation '{name}'": len(items) for name, items in data.validation.items()},
        "labels": len(data.labels) or None,
        "replay items": len(data.replay) or None,
        "replay prompts": len(data.prompts) or None,
        "items for elastic weights": len(data.general) or None,
    }
