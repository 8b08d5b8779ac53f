"""Content hashes: what a cache, a baseline and a reader may rely on to tell two checkpoints apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lorascope.checkpoints.tensors import weight_files

_CONFIGS = ("config.json", "adapter_config.json", "generation_config.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of the weights and configurations, as 64 hexadecimal digits."""
    return _digest([*weight_files(folder), *(folder / name for name in _CONFIGS)])


def tokenizer_hash(folder: Path) -> str | None:
    """SHA-256 over the tokenizer's files; None where the folder has no tokenizer."""
    files = [folder / name for name in _TOKENIZER if (folder / name).is_file()]
    return _digest(files) if files else None


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in sorted(files):
        if file.is_file():
            with file.open("rb") as stream:
                total.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
