"""One stage of a sequence as a whole model, for the next one to start from: an adapter is merged into its base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lorascope.checkpoints.changes import AdapterChanges, BaseModules, changes_of
from lorascope.checkpoints.new_folder import RECORD, new_checkpoint, write_record
from lorascope.checkpoints.opening import open_checkpoint
from lorascope.checkpoints.saving import save_merged
from lorascope.data.recipes import base_path
from lorascope.errors import LorascopeError
from lorascope.schema.recipe import Recipe
from lorascope.version import __version__
from lorascope.workflows.training_data import load_training_data
from lorascope.workflows.watch import Watch


@dataclass(frozen=True)
class Stage:
    """A finished run, the model that it was trained from, and its recipe with the folder of the recipe's paths."""

    base: Path
    run: Path
    recipe: Recipe
    root: Path


def merged_stage(stage: Stage, *, watch: Watch) -> Path:
    """The run as a whole model: itself after a full fine-tune, else ``<run>-merged``, written where it is not there.

    Raises:
        LorascopeError: the adapter does not fit its base, or cannot be merged or written.
    """
    subject = open_checkpoint(str(stage.run), name=stage.run.name)
    if subject.adapter is None:
        return stage.run
    target = stage.run.with_name(f"{stage.run.name}-merged")
    if _made_from(target) == subject.content_hash:
        return target
    base = open_checkpoint(base_path(str(stage.base), stage.root), name="base")
    modules = BaseModules(base, task_type=subject.adapter.task_type)
    changes = changes_of(subject, modules)
    if not isinstance(changes, AdapterChanges):
        raise LorascopeError("an adapter was expected", where=str(stage.run))
    with (
        watch.stage(f"Merge {stage.run.name}"),
        new_checkpoint(target, sources=[subject.path, base.path], overwrite=True) as part,
    ):
        save_merged(changes, (), lambda name: modules.weight(name), part)
        _name_labels(part, stage)
        adapted = {"path": str(stage.run), "content_hash": subject.content_hash, "method": subject.adapter.method}
        record = {"lorascope_version": __version__, "option": "merge", "adapted": adapted}
        write_record(part, record, f"{stage.run.name} merged into its base with lorascope {__version__}.")
    return target


def _made_from(folder: Path) -> str | None:
    """The content hash of the adapter that an earlier merge is of."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return str(record["adapted"]["content_hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _name_labels(folder: Path, stage: Stage) -> None:
    """Give the head's outputs their names, which an adapter does not carry: the next stage knows its head by them."""
    if stage.recipe.task.kind not in ("labels", "tokens"):
        return
    labels = load_training_data(stage.recipe, stage.root).data.labels
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["id2label"] = {str(place): label for place, label in enumerate(labels)}
    config["label2id"] = {label: place for place, label in enumerate(labels)}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
