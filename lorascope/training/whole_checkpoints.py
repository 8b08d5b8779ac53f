"""Whether a checkpoint of the trainer has all that a run needs to go on from it exactly, before anything loads it."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

STATE = "trainer_state.json"
_METHOD_FILES = {"adalora": "adalora.safetensors", "p-tuning": "prompt_encoder.safetensors"}
"""What callbacks of these methods write beside the trainer's files."""
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_INDEX = "model.safetensors.index.json"
_SHARDED_OPTIMIZER = ("optimizer.bin", "optimizer_0")
"""FSDP's own: one file, or a folder of parts."""
_DAMAGED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error,
)  # fmt: skip
"""What reading an arbitrary file as a pickle of plain values comes to."""


def fault_of(checkpoint: Path, *, method: str | None) -> str | None:
    """What is missing from a checkpoint or damaged, in words; None where it is whole.

    Weights are opened (their header, which says how long the file is), the trainer's files read as plain values and
    tensors: a pickle of anything else is damaged, and is not run. ``method`` is the recipe's, for the files it has of
    its own. Where a run keeps the best weights, those of the best step have to be there too.
    """
    return next(_faults(checkpoint, method), None)


def _faults(checkpoint: Path, method: str | None) -> Iterator[str]:
    state = read_object(checkpoint / STATE)
    if state is None or checkpoint.name != f"checkpoint-{state.get('global_step')}":
        yield f"{STATE} cannot be read"
        return
    yield from _weight_faults(checkpoint)
    yield from _pickle_faults(checkpoint)
    own = _METHOD_FILES.get(method or "")
    if own is not None and not _opens(checkpoint / own):
        yield f"{own} is missing or damaged"
    best = state.get("best_model_checkpoint")
    if best is not None:
        yield from (f"of the best weights, {fault}" for fault in _weight_faults(checkpoint.parent / Path(best).name))


def read_object(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds; None where it is missing, damaged or anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _weight_faults(folder: Path) -> Iterator[str]:
    index = read_object(folder / _INDEX)
    if index is not None and isinstance(index.get("weight_map"), dict):
        names = sorted({str(name) for name in index["weight_map"].values()})
    else:
        names = [name for name in _WEIGHTS if (folder / name).exists()]
    if not names and not list(folder.glob("pytorch_model_fsdp*")):
        yield "the weights are missing"
    for name in names:
        if not _opens(folder / name):
            yield f"{name} is missing or damaged"


def _opens(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _pickle_faults(checkpoint: Path) -> Iterator[str]:
    needed: dict[str, tuple[str, ...]] = {"scheduler.pt": ("last_epoch",)}
    if not any((checkpoint / name).exists() for name in _SHARDED_OPTIMIZER):
        needed["optimizer.pt"] = ("state", "param_groups")
    generators = sorted(path.name for path in checkpoint.glob("rng_state*.pth"))
    needed |= dict.fromkeys(generators or ["rng_state.pth"], ("python", "numpy", "cpu"))
    if (checkpoint / "scaler.pt").exists():
        needed["scaler.pt"] = ()
    for name, keys in needed.items():
        value = _tensors(checkpoint / name)
        if value is None or not all(key in value for key in keys):
            yield f"{name} is missing or damaged"


def _tensors(path: Path) -> Mapping[str, Any] | None:
    """The values of a file of torch's, its tensors left on the disk; None where it is no such file."""
    try:
        with safe_globals():
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _DAMAGED:
        return None
    return value if isinstance(value, Mapping) else None
