"""Which checkpoints belong to one training run, and at which step each was saved: read, never guessed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lorascope.checkpoints.locate import checkpoint_kind
from lorascope.checkpoints.opening import split_name
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


def saved_steps(run: str) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints in a run folder that say their step, the earliest first."""
    found = ((run_step(folder), folder) for folder in Path(run).expanduser().glob("checkpoint-*"))
    return sorted((step.step, folder) for step, folder in found if step is not None)


def checkpoints_of(run: str) -> list[str]:
    """The checkpoint folders of a run in the order of their steps, as arguments (``NAME=`` before them is kept).

    Raises :class:`UsageError` where the folder has none that says its step, or is a checkpoint itself.
    """
    name, path = split_name(run)
    steps = saved_steps(path)
    if not steps:
        raise _no_run(path)
    return [str(folder) if name is None else f"{name}-{step}={folder}" for step, folder in steps]


def _no_run(path: str) -> UsageError:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return UsageError("--checkpoints: no such folder", where=path, remedy="check the path; give a run folder")
    if checkpoint_kind(folder) is not None:
        parent = folder.resolve().parent
        return UsageError(
            "--checkpoints: this is one checkpoint, not a run that holds several",
            where=path,
            remedy=f"drop --checkpoints, or give its parent ({parent})"
            if saved_steps(str(parent))
            else "drop --checkpoints, or give the run folder",
        )
    return UsageError(
        "--checkpoints: the folder has no checkpoint-* with a trainer_state.json that says its step",
        where=path,
        remedy="give a run folder of transformers' Trainer, or name the checkpoints one by one",
    )
