"""From what the user typed to one folder that holds one checkpoint; several candidates are named, never ranked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorascope.errors import AmbiguousCheckpoint, CheckpointError, UnsupportedFormat

CheckpointKind = Literal["model", "adapter"]

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_MODEL_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# PEFT's name of an adapter that was given none; saved in the folder itself.
_DEFAULT = "default"
_TRAINER_CHECKPOINT = re.compile(r"^checkpoint-\d+$")
_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
_FOREIGN = {
    ".gguf": "GGUF weights are already quantised and reordered for llama.cpp; give the checkpoint they were made from",
    ".onnx": "ONNX graphs hold no named weights; give the transformers checkpoint they were exported from",
}


@dataclass(frozen=True)
class Located:
    """A folder with one checkpoint. ``note`` says how it was found when it is not simply the folder that was given."""

    path: Path
    kind: CheckpointKind
    note: str | None = None
    revision: str | None = None


def locate(given: str) -> Located:
    """Find the checkpoint that ``given`` (a folder, or a name on the hub) means.

    A folder that holds a checkpoint is that checkpoint. A training run folder that holds exactly one below it (at most
    two levels down) is that one; with several, :class:`AmbiguousCheckpoint` names them. So it does for a folder to
    which PEFT has saved several adapters, the one named ``default`` in the folder itself and the others below it;
    ``FOLDER/NAME`` chooses one, ``FOLDER/default`` too.
    """
    try:
        path = Path(given).expanduser()
        if path.exists():
            return _on_disk(path)
        if path.name == _DEFAULT and _is_several(path.parent):
            return Located(path.parent, "adapter", f"the adapter named {_DEFAULT} of {path.parent}")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the folder cannot be read: {error}", where=given, remedy="check the path and its permissions"
        ) from error
    return _from_hub(given)


def checkpoint_kind(folder: Path) -> CheckpointKind | None:
    """What the folder itself holds, from the names of its files; None when it is no checkpoint."""
    has_adapter = (folder / ADAPTER_CONFIG).is_file() and any((folder / name).is_file() for name in _ADAPTER_WEIGHTS)
    has_model = (folder / "config.json").is_file() and any((folder / name).is_file() for name in _MODEL_WEIGHTS)
    if has_adapter and has_model:
        raise AmbiguousCheckpoint(
            "the folder holds both a PEFT adapter and full model weights",
            where=str(folder),
            remedy=f"move one of them into a folder of its own: {ADAPTER_CONFIG} with its weights, or config.json "
            "with its weights",
        )
    if has_adapter:
        return "adapter"
    return "model" if has_model else None


def _on_disk(path: Path) -> Located:
    if path.is_file():
        raise _not_a_folder(path)
    kind = checkpoint_kind(path)
    if kind is None:
        return _inside_run_folder(path)
    others = _named_adapters(path) if kind == "adapter" else []
    if others:
        named = ", ".join(str(path / name) for name in (_DEFAULT, *others))
        raise AmbiguousCheckpoint(
            f"the folder holds {1 + len(others)} adapters and none was named: {', '.join((_DEFAULT, *others))}",
            where=str(path),
            remedy=f"give one of them: {named}",
        )
    return Located(path, kind, _unused_candidates(path))


def _named_adapters(folder: Path) -> list[str]:
    """Adapters that PEFT has saved below the one in ``folder``, by their names; a trainer's checkpoints are none."""
    return [
        child.name
        for child in sorted((path for path in folder.iterdir() if path.is_dir()), key=_order)
        if not _TRAINER_CHECKPOINT.match(child.name) and checkpoint_kind(child) == "adapter"
    ]


def _is_several(folder: Path) -> bool:
    return folder.is_dir() and checkpoint_kind(folder) == "adapter" and bool(_named_adapters(folder))


def _unused_candidates(folder: Path) -> str | None:
    below = _candidates(folder)
    if not below:
        return None
    return f"took the weights in the folder itself, not those in {_names(below, folder)}"


def _inside_run_folder(folder: Path) -> Located:
    candidates = _candidates(folder)
    if len(candidates) == 1:
        found, kind = candidates[0]
        return Located(found, kind, f"{folder} holds one checkpoint, {found.relative_to(folder)}, which was taken")
    if candidates:
        raise AmbiguousCheckpoint(
            f"the folder holds {len(candidates)} checkpoints and none was named",
            where=str(folder),
            remedy=f"give one of them: {_names(candidates, folder)}",
        )
    raise _nothing_found(folder)


def _candidates(folder: Path) -> list[tuple[Path, CheckpointKind]]:
    found = []
    children = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_dir())
    for child in sorted(children, key=_order):
        kind = checkpoint_kind(child)
        if kind is not None:
            found.append((child, kind))
    return found


def _order(path: Path) -> list[tuple[str, int]]:
    """Folders by name, numbers in it by their size: ``checkpoint-40`` stands before ``checkpoint-120``."""
    return [(text, int(number or 0)) for text, number in re.findall(r"([^0-9]*)([0-9]*)", str(path))]


def _names(candidates: list[tuple[Path, CheckpointKind]], folder: Path) -> str:
    shown = [f"{path.relative_to(folder)} ({kind})" for path, kind in candidates[:12]]
    more = len(candidates) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _not_a_folder(path: Path) -> CheckpointError:
    if path.suffix.lower() in _FOREIGN:
        return UnsupportedFormat(
            f"{path.suffix[1:].upper()} files are not read", where=str(path), remedy=_FOREIGN[path.suffix.lower()]
        )
    return CheckpointError(
        "a checkpoint is a folder, but this is a file",
        where=str(path),
        remedy=f"give the folder that holds it: {path.parent}",
    )


def _nothing_found(folder: Path) -> CheckpointError:
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if Path(name).suffix.lower() in _FOREIGN:
            return _not_a_folder(folder / name)
    if not names:
        return CheckpointError("the folder is empty", where=str(folder), remedy="give a folder that holds a checkpoint")
    if ADAPTER_CONFIG in names:
        return CheckpointError(
            f"{ADAPTER_CONFIG} is there, but no adapter weights",
            where=str(folder),
            remedy="copy adapter_model.safetensors beside it (model.save_pretrained writes both)",
        )
    if "config.json" in names:
        return CheckpointError(
            "config.json is there, but no weights",
            where=str(folder),
            remedy="copy model.safetensors (or its index and all shards) beside it",
        )
    listing = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return CheckpointError(
        "no checkpoint found in the folder or up to two levels below it",
        where=f"{folder} (it holds {listing})",
        remedy=f"give a folder with config.json and weights, or with {ADAPTER_CONFIG} and adapter weights",
    )


def _from_hub(given: str) -> Located:
    if not _HUB_NAME.match(given):
        raise CheckpointError("no such folder", where=given, remedy="check the path; hub names look like owner/name")
    name, _, revision = given.partition("@")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "no such folder here, and the hub could not deliver a checkpoint of that name",
            where=f"{given} ({type(error).__name__})",
            remedy="check the spelling, the network, and HF_TOKEN for gated models",
        ) from error
    # A name on the hub has no place for an adapter's name: the adapter in the folder itself is meant.
    kind = checkpoint_kind(folder)
    located = Located(folder, kind) if kind is not None else _inside_run_folder(folder)
    return Located(located.path, located.kind, f"{given} from the hub, {folder.name[:12]}", revision=folder.name)
