"""Which modules an adapter's configuration chooses, by PEFT's own rule, held against the tensors in its file."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorascope.checkpoints.adapters import is_shared, method_module, plain_name
from lorascope.checkpoints.changes import AdapterChanges
from lorascope.checkpoints.modules import Skeleton, quiet_transformers
from lorascope.checkpoints.opening import OpenCheckpoint

# Heads that PEFT adds to modules_to_save by the task, whether the model has them or not.
_ADDED_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
# Trained token rows are chosen by trainable_token_indices, not by target_modules.
_TOKEN_MARKS = (".token_adapter.", ".trainable_tokens_")


@dataclass(frozen=True)
class Targeting:
    """Where configuration, model and file disagree.

    ``refusal`` is what PEFT says against the configuration; nothing else is known then. ``unmatched`` holds
    ``field: entry`` for entries that choose no module, ``ignored`` modules with tensors that loading leaves out,
    ``absent`` sentences about tensors that the configuration asks for. Keys of ``rank_pattern`` and ``alpha_pattern``
    are not among them: they choose no modules.
    """

    refusal: str | None = None
    unmatched: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def targeting(subject: OpenCheckpoint, changes: AdapterChanges) -> Targeting:
    """Compare what the configuration chooses with the model's modules and the file's tensors; reads no tensor."""
    config = _peft_config(subject)
    if isinstance(config, str):
        return Targeting(refusal=config)
    try:
        return _compared(config, subject, changes)
    except re.error as error:
        return Targeting(refusal=f"{error.pattern!r} is no regular expression: {error}")


def own_modules(subject: OpenCheckpoint, changes: AdapterChanges) -> list[str]:
    """Names, as in the file, of the modules that the method's own tensors belong to."""
    keys = [key for key in subject.tensors.specs if not is_shared(key)]
    found = {
        method_module(key, changes.config.peft_type) for key in keys if not any(mark in key for mark in _TOKEN_MARKS)
    }
    return sorted(name for name in found if name)


def whole_modules(subject: OpenCheckpoint, changes: AdapterChanges) -> set[str]:
    """Modules of tensors that are saved under their own names, and the modules around them."""
    found = set()
    for key in subject.tensors.specs:
        if method_module(key, changes.config.peft_type) is None:
            parts = plain_name(key).split(".")
            found |= {".".join(parts[:end]) for end in range(1, len(parts))}
    return found


def _compared(config: Any, subject: OpenCheckpoint, changes: AdapterChanges) -> Targeting:
    own, whole, built = own_modules(subject, changes), whole_modules(subject, changes), changes.skeleton
    names = sorted({*built.module_names, *own, *whole})
    unmatched = [*_unmatched_targets(config, names), *_unmatched_others(config, names, built)]
    ignored = [name for name in own if not _is_target(config, name)] if _names_targets(config) else []
    absent = [*_absent_modules(config, built, own), *_absent_heads(config, built, whole)]
    return Targeting(None, unmatched, ignored, [*absent, *_absent_biases(config, subject, built, own)])


def _peft_config(subject: OpenCheckpoint) -> Any:
    """PEFT's own reading of the configuration, or what it says against it."""
    from peft import PeftConfig

    with quiet_transformers():
        try:
            return PeftConfig.from_pretrained(str(subject.path))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"


def _names_targets(config: Any) -> bool:
    """Whether ``target_modules`` alone says which modules are meant, not the model's or the layers' type."""
    targets = getattr(config, "target_modules", None)
    by_type = isinstance(targets, str) and targets.lower() == "all-linear"
    return bool(targets) and not by_type and not getattr(config, "target_parameters", None)


def _is_target(config: Any, name: str) -> bool:
    from peft.tuners.tuners_utils import check_target_module_exists

    return bool(check_target_module_exists(config, name))


def _but(config: Any, **entries: Any) -> Any:
    other = copy.copy(config)
    for name, value in entries.items():
        setattr(other, name, value)
    return other


def _entries(config: Any, name: str) -> list[Any]:
    """The entries of a setting that may be one value, several, or none."""
    value = getattr(config, name, None)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int) else sorted(set(value))


def _unmatched_targets(config: Any, names: Sequence[str]) -> Iterator[str]:
    """Entries that, each alone, choose none of ``names``."""
    if not _names_targets(config):
        return
    as_pattern = isinstance(config.target_modules, str)
    # "all-linear" is saved as the list of all layers, those included that exclude_modules then takes out again.
    free = _but(config, exclude_modules=None, modules_to_save=None, layers_to_transform=None)
    for entry in _entries(config, "target_modules"):
        if not _chooses(_but(free, target_modules=entry if as_pattern else {entry}), names):
            yield f"target_modules: {entry}"
    layers = _entries(config, "layers_to_transform")
    for number in layers:
        if not _chooses(_but(config, layers_to_transform=[number]), names):
            yield f"layers_to_transform: {number}"
    for entry in _entries(config, "layers_pattern") if layers else []:
        if not _chooses(_but(config, layers_pattern=[entry]), names):
            yield f"layers_pattern: {entry}"


def _unmatched_others(config: Any, names: Sequence[str], built: Skeleton) -> Iterator[str]:
    as_pattern = isinstance(getattr(config, "exclude_modules", None), str)
    for entry in _entries(config, "exclude_modules"):
        # With a pattern that chooses every module, only what the entry excludes is left out.
        alone = entry if as_pattern else [entry]
        others = _but(config, exclude_modules=alone, modules_to_save=None, target_modules="(?s:.*)")
        if all(_is_target(others, name) for name in names):
            yield f"exclude_modules: {entry}"
    added = _ADDED_HEADS.get(str(getattr(config.task_type, "value", config.task_type)), ())
    for entry in _entries(config, "modules_to_save"):
        if entry not in added and not any(name.endswith(entry) for name in names):
            yield f"modules_to_save: {entry}"
    for entry in _entries(config, "target_parameters"):
        if not any(name == entry or name.endswith(f".{entry}") for name in built.parameter_names):
            yield f"target_parameters: {entry}"


def _chooses(config: Any, names: Sequence[str]) -> bool:
    return any(_is_target(config, name) for name in names)


def _absent_modules(config: Any, built: Skeleton, own: Sequence[str]) -> Iterator[str]:
    if not _names_targets(config):
        return
    held = {built.module_named(name) for name in own}
    absent = [name for name in (*built.linear, *built.tied) if name not in held and _is_target(config, name)]
    if absent:
        yield f"target_modules names {len(absent)} modules without tensors, the first is {absent[0]}"


def _absent_heads(config: Any, built: Skeleton, whole: set[str]) -> Iterator[str]:
    held = {built.module_named(name) for name in whole}
    absent = [name for name in _saved_modules(config, built) if name not in held]
    if absent:
        yield f"modules_to_save names {len(absent)} modules without tensors, the first is {absent[0]}"


def _absent_biases(config: Any, subject: OpenCheckpoint, built: Skeleton, own: Sequence[str]) -> Iterator[str]:
    setting = getattr(config, "bias", "none")
    if setting == "all":
        wanted = any(name.endswith(".bias") for name in built.parameter_names)
    else:
        wanted = str(setting).endswith("_only") and any(built.has_parameter(f"{name}.bias") for name in own)
    saved = _saved_modules(config, built)
    for key in subject.tensors.specs:
        module = built.module_named(plain_name(key).removesuffix(".bias").removesuffix(".base_layer"))
        wanted = wanted and (not key.endswith(".bias") or module is None or module in saved)
    if wanted:
        yield f"bias is {setting}, but the file holds no bias of the model"


def _saved_modules(config: Any, built: Skeleton) -> list[str]:
    """Modules with parameters that ``modules_to_save`` names, and those inside them."""
    entries = tuple(_entries(config, "modules_to_save"))
    named = [name for name in built.module_names if entries and name.endswith(entries)]
    owners = {name.rpartition(".")[0] for name in built.parameter_names}
    return sorted(owner for owner in owners if any(owner == name or owner.startswith(f"{name}.") for name in named))
