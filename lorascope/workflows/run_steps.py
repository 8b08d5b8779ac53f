"""Which checkpoints belong to one training run, and at which step each was saved: read, never guessed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lorascope.errors import UsageError

_STATE = "trainer_state.json"


@dataclass(frozen=True)
class RunStep:
    """A run (its folder) and the optimiser step of one checkpoint in it."""

    run: Path
    step: int


def run_step(checkpoint: Path) -> RunStep | None:
    """Where a checkpoint stands in its run: ``global_step`` of the trainer's state beside its weights.

    None for a folder without one, or that is not called ``checkpoint-…``: then it is no checkpoint of a run.
    """
    if not checkpoint.name.startswith("checkpoint-"):
        return None
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    step = state.get("global_step") if isinstance(state, dict) else None
    if isinstance(step, bool) or not isinstance(step, int):
        return None
    return RunStep(checkpoint.resolve().parent, step)


def checkpoints_of(run: str) -> list[str]:
    """The checkpoint folders of a run in the order of their steps, as arguments (``NAME=`` before them is kept).

    Raises :class:`UsageError` where the folder has none that says its step.
    """
    name, equals, path = run.rpartition("=")
    steps = {folder: run_step(folder) for folder in Path(path).glob("checkpoint-*")}
    known = sorted((step.step, folder) for folder, step in steps.items() if step is not None)
    if not known:
        raise UsageError(
            "--checkpoints: the folder has no checkpoint-* with a trainer_state.json that says its step",
            where=path,
            remedy="give a run folder of transformers' Trainer, or name the checkpoints one by one",
        )
    return [f"{name}-{step}={folder}" if equals else str(folder) for step, folder in known]
