"""``recipe.yaml`` into a validated :class:`Recipe`, and back: ``recipe.lock.yaml`` with all of it resolved.

A lock is a recipe that says what it was made from: under ``lock`` stand hashes and versions that a recipe written by
hand has not. Read again, its data files are proven to be those of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field

from lorascope.data.documents import Document, overlaid, read_document, read_settings, validate, write_yaml
from lorascope.data.readers import is_dataset_name
from lorascope.data.renamed_keys import RENAMED
from lorascope.data.suites import HOW_LABELS, put_labels
from lorascope.errors import ConfigError
from lorascope.schema.model import Model
from lorascope.schema.recipe import LOW_RANK, Recipe

LOCK_NAME = "recipe.lock.yaml"
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "datasets", "numpy")
_START = "give 'version: 1', 'base', 'out' and 'task'"


class Lock(Model):
    """What a run was made from: versions, the base's content hash, SHA-256 of the data files by path, other facts."""

    lorascope: str | None = None
    libraries: dict[str, str] = Field(default_factory=dict)
    base: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)


class _LockedRecipe(Recipe):
    """A recipe, or a lock."""

    lock: Lock | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRecipe:
    """A recipe, and the folder that its paths are relative to.

    ``text_hash`` is of the file as it stands; ``settings`` are what was laid over it. ``lock`` is there where the
    file is a lock; ``notes`` say what differs from the run that wrote it.
    """

    recipe: Recipe
    path: Path
    root: Path
    text_hash: str
    settings: tuple[str, ...] = ()
    lock: Lock | None = None
    notes: tuple[str, ...] = ()


def load_recipe(path: Path, settings: Iterable[str] = ()) -> LoadedRecipe:
    """The recipe of a YAML file with ``settings`` (``a.b=value``, the value in YAML) laid over it.

    ``task.labels`` may be the path of a list of labels; paths are relative to the recipe's folder, in settings too.

    Raises:
        ConfigError: the file is missing or no YAML, or a key or value is wrong: the message names key, line or
            setting, and what the key is called here. Or a data file is not the one that a lock was made from.
    """
    document = read_document(path, what="recipe", start=_START)
    return recipe_of(overlaid(document, read_settings(settings)))


def recipe_of(document: Document) -> LoadedRecipe:
    """The recipe of a document that is read already, with what was laid over it; errors as in :func:`load_recipe`."""
    document = replace(document, raw=deepcopy(document.raw))
    task = document.raw.get("task") if isinstance(document.raw, dict) else None
    if isinstance(task, dict):
        put_labels(task, document, ("task", "labels"))
    how = {"labels": f"{HOW_LABELS}{document.what}"}
    found = validate(document, _LockedRecipe, renamed=RENAMED, how=how)
    recipe = Recipe.model_validate(found.model_dump(exclude={"lock"}))
    root = document.path.parent
    if found.lock is not None:
        _prove_files(recipe, root, found.lock, document)
    return LoadedRecipe(
        recipe=recipe,
        path=document.path,
        root=root,
        text_hash=document.text_hash,
        settings=tuple(setting.origin for setting in document.settings),
        lock=found.lock,
        notes=tuple(_other_libraries(found.lock)) if found.lock else (),
    )


def data_path(source: str, root: Path) -> str:
    """A data source with its path made absolute; a dataset's name (``hf:…``) stays as it is."""
    return source if is_dataset_name(source) else str((root / Path(source).expanduser()).absolute())


def base_path(base: str, root: Path) -> str:
    """The base as an absolute path where there is such a folder or file, else the name on the hub as it stands."""
    place = root / Path(base).expanduser()
    return str(place.absolute()) if place.exists() else base


def data_sources(recipe: Recipe) -> tuple[str, ...]:
    """All data that the recipe names, as it names them, each once."""
    replay, ewc = recipe.replay, recipe.optim.ewc
    named = [recipe.task.train, *recipe.validation_sets.values()]
    named += [source for source in (replay and replay.data, replay and replay.prompts, ewc and ewc.data) if source]
    return tuple(dict.fromkeys(named))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a run computes, of those that are installed."""
    return dict(_installed(_LIBRARIES))


def _installed(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _prove_files(recipe: Recipe, root: Path, lock: Lock, document: Document) -> None:
    for source in data_sources(recipe):
        path = data_path(source, root)
        wanted = lock.files.get(path)
        if wanted is None or is_dataset_name(source) or not Path(path).is_file():
            continue
        if file_hash(Path(path)) != wanted:
            raise ConfigError(
                f"the file {path} is not the one that the run was made from: its content changed",
                where=document.where(("lock", "files", path)),
                remedy="restore it, or delete its line under 'lock' to train on it as it is now",
            )


def prove_base(loaded: LoadedRecipe, content: str) -> None:
    """Compare the base's content hash with the one in a lock; nothing where there is none, or where a setting names
    another base.

    Raises:
        ConfigError: the base is not the one that the run was made from.
    """
    wanted = loaded.lock.base if loaded.lock else None
    others = {setting.removeprefix("--set ").partition("=")[0].strip() for setting in loaded.settings}
    if wanted is None or wanted == content or "base" in others:
        return
    raise ConfigError(
        f"the base {loaded.recipe.base} is not the one that the run was made from: its content changed",
        where=read_document(loaded.path, what="recipe").where(("lock", "base")),
        remedy="restore it, or delete its line under 'lock' to train it as it is now",
    )


def _other_libraries(lock: Lock) -> Iterator[str]:
    here = dict(_installed(lock.libraries))
    for name, then in lock.libraries.items():
        if here.get(name) != then:
            yield f"the lock was made with {name} {then}; here it is {here.get(name, 'not installed')}"


def resolved_recipe(recipe: Recipe, root: Path, *, chosen: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with nothing left to its defaults' reading: absolute paths, alpha, AdaLoRA's target rank, the loss,
    the structured dropout's preset written out.

    ``chosen`` lays over it, by dotted key, what is known only where data or device are: ``task.labels``,
    ``task.multi_label``, ``optim.precision``.
    """
    plain = recipe.model_dump()
    for key, value in (chosen or {}).items():
        _put(plain, key, value)
    task, method = plain["task"], plain["method"]
    plain["base"], plain["out"] = base_path(recipe.base, root), data_path(recipe.out, root)
    task["train"] = data_path(task["train"], root)
    sets = task["validation"]
    named = {name: data_path(source, root) for name, source in recipe.validation_sets.items()}
    task["validation"] = data_path(sets, root) if isinstance(sets, str) else named
    for block, key in ((plain["replay"], "data"), (plain["replay"], "prompts"), (plain["optim"]["ewc"], "data")):
        if block and block[key]:
            block[key] = data_path(block[key], root)
    if recipe.method.name in LOW_RANK and not recipe.method.rank_pattern:  # with one, alpha is each module's own
        method["alpha"] = recipe.method.scaling_alpha
    if recipe.method.name == "adalora":
        method["target_rank"] = method["target_rank"] or max(method["rank"] // 2, 1)
    plain["loss"]["name"] = plain["loss"]["name"] or _usual_loss(recipe.task.kind, task["multi_label"])
    if recipe.structured_dropout is not None:
        plain["structured_dropout"] = recipe.structured_dropout.resolved().model_dump()
    return Recipe.model_validate(plain)


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        plain = plain[part]
    plain[last] = value


def _usual_loss(kind: str, multi_label: bool | None) -> str | None:
    """The loss that null stands for; None for labels while it is not known how many an item has."""
    if kind == "labels" and multi_label is None:
        return None
    return "bce" if kind == "labels" and multi_label else "mse" if kind == "score" else "cross_entropy"


def write_lock(recipe: Recipe, lock: Lock) -> str:
    """The text of a lock: the recipe, best a resolved one, and under ``lock`` what it was made from.

    Read again it is the same recipe; another ``out`` runs it anew.
    """
    plain = recipe.model_dump(mode="json")
    plain["lock"] = lock.model_dump(mode="json", exclude_none=True)
    head = "# The whole recipe of this run, resolved. To run it again: lorascope train THIS_FILE --out OTHER_FOLDER\n"
    return head + write_yaml(plain)
