"""What each adapted checkpoint changes in the base: linear modules one at a time, all else by name."""

from __future__ import annotations

from lorascope.checkpoints.adapter_changes import HEAD_TASKS, AdapterChanges, right_base
from lorascope.checkpoints.base_modules import BaseModules, Factors, ModuleChange, named_tensors, oriented
from lorascope.checkpoints.model_changes import ModelChanges, text_config
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.others import OtherChange

__all__ = [
    "HEAD_TASKS",
    "AdapterChanges",
    "BaseModules",
    "Changes",
    "Factors",
    "ModelChanges",
    "ModuleChange",
    "OtherChange",
    "changes_of",
    "named_tensors",
    "oriented",
    "right_base",
    "text_config",
]

Changes = AdapterChanges | ModelChanges


def changes_of(subject: OpenCheckpoint, base: BaseModules) -> Changes:
    """The reader of a subject's changes."""
    return AdapterChanges(subject, base) if subject.kind == "adapter" else ModelChanges(subject, base)
