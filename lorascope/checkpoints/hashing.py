"""Content hashes: what a cache, a baseline and a reader may rely on to tell two checkpoints apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lorascope.checkpoints.tensors import weight_files

_CONFIGS = ("config.json", "adapter_config.json", "generation_config.json")


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of the weights, their indices and configurations, as 64 hexadecimal digits."""
    return _digest([*weight_files(folder), *folder.glob("*.index.json"), *(folder / name for name in _CONFIGS)])


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in sorted(files):
        if file.is_file():
            with file.open("rb") as stream:
                total.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
