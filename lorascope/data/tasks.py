"""Tasks: what a suite (or ``--data``) asks for, loaded into items."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lorascope.data.few_shot import Asked, draw_examples, put_as_asked
from lorascope.data.forms import infer_kind, items_of
from lorascope.data.readers import EXTENSIONS, is_dataset_name, read_rows
from lorascope.data.suites import load_suite
from lorascope.errors import ConfigError, UsageError
from lorascope.schema.comparison import TaskKind
from lorascope.schema.items import Item, content_id
from lorascope.schema.suite import SuiteTask

__all__ = ["TRAIN", "LoadedTask", "infer_task", "load_suite", "load_task", "sample_items", "task_fingerprint"]

TRAIN = "train"
"""Name of the set that ``train_data`` becomes."""

_Item = TypeVar("_Item", bound=Item)


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task with its items.

    ``items`` are those of all named sets in the order of the suite (``item.split`` names the set; None where the data
    is a single file), sampled. ``train_items`` are the whole training file, unsampled: leak checks need all of it.
    ``tuning_items`` are those that label thresholds are tuned on, sampled. Ids are unique within a set, and an id is
    that of the item's own question: examples and chat turns that a task puts around it do not change it (they change
    the fingerprint). ``own`` tells the question from what stands around it, by ``bare``: plain items by set and id.
    """

    spec: SuiteTask
    kind: TaskKind
    items: tuple[Item, ...]
    train_items: tuple[Item, ...]
    tuning_items: tuple[Item, ...]
    fingerprint: str
    bare: Mapping[tuple[str | None, str], Item] = field(default_factory=dict)

    def own(self, item: Item) -> Item:
        """The item without the examples, the system message and the chat around it: what leak checks compare."""
        return self.bare.get((item.split, item.item_id), item)


def load_task(
    spec: SuiteTask, *, root: Path, limit: int | None = None, fraction: float | None = None, seed: int = 0
) -> LoadedTask:
    """Read a task's data, relative to ``root``, and sample it.

    ``fraction`` (0–1] and then ``limit`` bound each named set by itself, so that small sets stay comparable; a limit
    given here wins over the suite's own. The sample depends on the seed and the items' content alone, not on their
    order or on the rest of the file, and a smaller limit always gives a subset of a larger one.

    Examples before the questions (``few_shot``) are drawn with the seed and are the same for all items, training items
    too, except where an item is itself among them.

    Raises:
        ConfigError: ``tune_on`` names no set, the task's templates are wrong, or there are too few examples.
        DataError: a file cannot be read or a record has not the form that the task needs.
        UsageError: ``limit`` or ``fraction`` is out of range.
    """
    bound = spec.limit if limit is None else limit
    sources = spec.data if isinstance(spec.data, dict) else {None: spec.data}
    items: list[Item] = []
    for name, source in sources.items():
        loaded = _load_set(spec, source, name, root)
        items += sample_items(loaded, limit=bound, fraction=fraction, seed=seed)
    train = _load_set(spec, spec.train_data, TRAIN, root) if spec.train_data else []
    tuning, drawn = _tuning_items(spec, items, train, root)
    examples = _examples(spec, train, root, seed)
    put = put_as_asked(items, spec, examples)
    put_train = put_as_asked(train, spec, examples)
    pairs = zip([*items, *train], [*put, *put_train], strict=True)
    return LoadedTask(
        spec=spec,
        kind=spec.kind,
        items=tuple(put),
        train_items=tuple(put_train),
        tuning_items=tuple(tuning if drawn else sample_items(tuning, limit=bound, fraction=fraction, seed=seed)),
        fingerprint=task_fingerprint(spec, items, examples),
        bare={(item.split, item.item_id): item for item, asked in pairs if asked is not item},
    )


def _examples(spec: SuiteTask, train: Sequence[Item], root: Path, seed: int) -> tuple[Asked, ...]:
    if not spec.few_shot:
        return ()
    if spec.few_shot_data is not None:
        return draw_examples(_load_set(spec, spec.few_shot_data, None, root), spec, seed=seed)
    if not train:
        raise ConfigError(
            f"'few_shot' asks for {spec.few_shot} examples, and nothing says where they come from",
            where=f"task '{spec.name}'",
            remedy="give 'few_shot_data' (or 'train_data')",
        )
    return draw_examples(train, spec, seed=seed)


def _load_set(spec: SuiteTask, source: str, name: str | None, root: Path) -> list[Item]:
    return items_of(read_rows(source, root=root), spec, split=name)


def _tuning_items(spec: SuiteTask, items: list[Item], train: list[Item], root: Path) -> tuple[list[Item], bool]:
    """``tune_on`` names a set of ``data``, or the training data, or else a file of its own.

    The second value is True where the items are a sample already.
    """
    if spec.tune_on is None:
        return [], True
    sets = list(spec.data) if isinstance(spec.data, dict) else []
    if spec.tune_on in sets:
        return [item for item in items if item.split == spec.tune_on], True
    if spec.tune_on == TRAIN and train:
        return train, False
    if is_dataset_name(spec.tune_on) or Path(spec.tune_on).suffix.lower() in EXTENSIONS:
        return _load_set(spec, spec.tune_on, "tuning", root), False
    known = [*sets, *([TRAIN] if train else [])]
    raise ConfigError(
        f"tune_on names '{spec.tune_on}', which is no set of the task and no data file",
        where=f"task '{spec.name}'",
        remedy=f"use one of {', '.join(known)}" if known else "give a file, or name the sets in 'data'",
    )


def sample_items(
    items: Sequence[_Item], *, limit: int | None = None, fraction: float | None = None, seed: int = 0
) -> list[_Item]:
    """At most ``limit`` of the given fraction of the items, in their own order; at least one.

    Each item's place in the draw is the hash of the seed and its id, so the same item is drawn again whatever stands
    beside it.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} leaves no items", remedy="give 1 or more")
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"a fraction of {fraction} is out of range", remedy="give a number above 0, up to 1")
    wanted = len(items) if fraction is None else max(1, round(fraction * len(items)))
    if limit is not None:
        wanted = min(wanted, limit)
    if wanted >= len(items):
        return list(items)
    ranked = sorted(range(len(items)), key=lambda index: _rank(seed, items[index].item_id))
    return [items[index] for index in sorted(ranked[:wanted])]


def _rank(seed: int, item_id: str) -> str:
    return hashlib.sha256(f"{seed}:{item_id}".encode()).hexdigest()


def task_fingerprint(spec: SuiteTask, items: Sequence[Item], examples: Sequence[Item] = ()) -> str:
    """16 hexadecimal digits that change with the items, what stands around them, the decoding or the scoring of a task.

    ``examples`` are those drawn for ``few_shot``: answers after other examples must not be paired. The task's name, its
    margin and the order of the items do not count, nor does a key that is left at its default where it came later than
    the others: a fingerprint taken before there was such a key still fits.
    """
    asked = spec.model_dump(mode="json", include=_ALWAYS)
    asked |= spec.model_dump(mode="json", include=_WHERE_SET, exclude_defaults=True)
    if examples:
        asked["examples"] = [item.item_id.split("#")[0] for item in examples]
    ids = sorted([item.split or "", item.item_id] for item in items)
    return content_id({**asked, "items": ids})


_ALWAYS = {
    "kind", "prompt", "messages", "references", "labels", "multi_label", "max_new_tokens", "stop", "metrics",
}  # fmt: skip
_WHERE_SET = {"chat", "system", "few_shot", "delimiter", "sampling", "extract"}


def infer_task(source: str | Path, *, root: Path | None = None) -> SuiteTask:
    """The task that a data file stands for when no suite describes it: named after the file, kind from its fields.

    Raises:
        DataError: the records have no known form, fit several, or change form (the line is named).
    """
    text = str(source)
    rows = read_rows(text, root=root or Path())
    return SuiteTask(name=_task_name(text), kind=infer_kind(rows), data=text)


def _task_name(source: str) -> str:
    stem = source.removeprefix("hf:").split("@")[0] if is_dataset_name(source) else Path(source).stem
    return re.sub(r"[@:*\s/]+", "-", stem).strip("-") or "data"
