"""Keys of answers: a hash of everything that an answer depends on, and of nothing else.

In a key: the bytes of the weights (of an adapter and of its base) and of the tokenizer with its chat template, the
question as it is put (examples and system message with it), the kind of task and its decoding, the data type, the kind
of device, whether adapters may be merged, and the engine with its libraries' versions. Not in a key: names, paths,
batch sizes and everything about scoring (metrics, margins, extraction, right answers that a model is not shown), so
that scoring again asks no model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorascope.engines.base import ENGINE_VERSION, Subject
from lorascope.engines.cache import Context
from lorascope.schema.comparison import TaskKind
from lorascope.schema.items import GenerateItem, Item, content_id
from lorascope.schema.suite import SuiteTask
from lorascope.version import __version__

_LIBRARIES: dict[str, tuple[str, ...]] = {"transformers": ("torch", "transformers")}
_ADAPTER_LIBRARY = "peft"

_SETTINGS: dict[TaskKind, set[str]] = {
    "generate": {"max_new_tokens", "stop", "sampling"},
    "choice": {"delimiter"},
    "labels": {"labels", "multi_label"},
    "tokens": {"labels"},
    "score": set(),
    "likelihood": set(),
}
"""What of a task decides its answers, by kind. Prompt, chat and examples are in the items, as they are put."""

_PLACE = {"item_id", "group", "category", "split"}
_NOT_SHOWN = {"ChoiceItem": {"question", "answer"}, "ScoreItem": {"score"}}
"""Fields that no model sees. True labels and tags stay in: the head is checked to know them."""

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How an engine answers: its name, the data type and kind of device, and what it does with adapters.

    ``merge`` counts for adapters alone: "auto" where they may be merged into the base, "never" where not.
    """

    engine: str
    dtype: str
    device: str
    merge: str = "never"


def answer_keys(
    subject: Subject,
    task: SuiteTask,
    items: Sequence[Item],
    setting: Setting,
    *,
    beside: Mapping[str, Any] | None = None,
) -> list[str]:
    """One key per item, 64 hexadecimal digits, in the order of the items.

    ``beside`` names what else an outcome depends on (JSON values): the checkpoint that a divergence is taken from, for
    example. With it the whole item counts, its right answer too.
    """
    shared = {
        "engine": [setting.engine, ENGINE_VERSION, _versions(setting.engine, subject)],
        "weights": [subject.content_hash, subject.base_hash],
        "tokenizer": tokenizer_hash(subject.tokenizer_path),
        "head": [subject.labels, subject.num_labels, subject.model_class],
        "kind": task.kind,
        "settings": task.model_dump(mode="json", include=_SETTINGS[task.kind]),
        "dtype": setting.dtype,
        "device": setting.device,
        "merge": setting.merge if subject.kind == "adapter" else None,
        "beside": None if beside is None else dict(beside),
    }
    start = hashlib.sha256(json.dumps(shared, sort_keys=True, ensure_ascii=False).encode("utf-8"))
    keys = []
    for item in items:
        digest = start.copy()
        digest.update(_asked(item, whole=beside is not None).encode("ascii"))
        keys.append(digest.hexdigest())
    return keys


def context_of(subject: Subject, task: SuiteTask, setting: Setting) -> Context:
    """What the cache notes beside the answers, for people."""
    return Context(
        engine=setting.engine,
        subject=subject.name,
        content_hash=subject.content_hash,
        base_hash=subject.base_hash,
        task=task.name,
        kind=task.kind,
        dtype=setting.dtype,
        device=setting.device,
        version=__version__,
    )


def _asked(item: Item, *, whole: bool) -> str:
    """Hash of what an item asks, without its place in a set and, unless ``whole``, without what no model is shown."""
    kind = type(item).__name__
    hidden = _PLACE if whole else _PLACE | _NOT_SHOWN.get(kind, set())
    content = {field.name: getattr(item, field.name) for field in dataclasses.fields(item) if field.name not in hidden}
    if isinstance(item, GenerateItem) and not whole:
        # The log-probability of the first reference is part of the answer; the others are for scoring alone.
        content["references"] = item.references[:1]
    return content_id({"type": kind, **content})


def _versions(engine: str, subject: Subject) -> dict[str, str | None]:
    """A library's next version may compute otherwise, and base and adapted must come from the same one."""
    names = _LIBRARIES.get(engine, ())
    if names and subject.kind == "adapter":
        names = (*names, _ADAPTER_LIBRARY)
    return {name: _version(name) for name in names}


@cache
def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 over the tokenizer's files in a folder, chat template included, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
