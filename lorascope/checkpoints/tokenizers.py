"""Differences between two checkpoints' tokenizers that change what a comparison means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.schema.comparison import Finding

# Vocabularies of tokenizers from before tokenizer.json.
_VOCABULARIES = ("tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model")


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer of its own."""
    return any((folder / name).is_file() for name in ("tokenizer.json", *_VOCABULARIES))


def tokenizer_findings(subject: OpenCheckpoint, base: OpenCheckpoint) -> list[Finding]:
    """Findings for another vocabulary, other merges or another chat template; none where the subject brings none."""
    if not has_tokenizer(subject.path) or not has_tokenizer(base.path):
        return []
    findings = []
    ours, theirs = _model_of(subject.path), _model_of(base.path)
    if ours is not None and theirs is not None:
        if ours != theirs:
            findings.append(_vocabulary(subject, f"{_size(ours)} entries against {_size(theirs)} in the base"))
    elif _other_files(subject.path, base.path):
        findings.append(_vocabulary(subject, f"{', '.join(_other_files(subject.path, base.path))} differ"))
    mine, original = chat_template(subject.path), chat_template(base.path)
    if mine != original:
        findings.append(_template(subject, mine, original))
    return findings


def chat_template(folder: Path) -> str | None:
    """The chat template's text, from ``chat_template.jinja`` or ``tokenizer_config.json``; None where there is none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    value = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(value, list):
        # Several named templates; without a choice transformers renders the one called "default".
        named = {entry["name"]: entry["template"] for entry in value if isinstance(entry, dict) and "name" in entry}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _model_of(folder: Path) -> Any:
    """The part of ``tokenizer.json`` that turns text into ids (vocabulary, merges, added tokens)."""
    whole = _json(folder / "tokenizer.json")
    return (whole.get("model"), whole.get("added_tokens")) if whole else None


def _other_files(ours: Path, theirs: Path) -> list[str]:
    """Vocabulary files that both folders have, with other bytes."""
    both = [name for name in _VOCABULARIES if (ours / name).is_file() and (theirs / name).is_file()]
    return [name for name in both if (ours / name).read_bytes() != (theirs / name).read_bytes()]


def _size(model: Any) -> int:
    vocabulary = (model[0] or {}).get("vocab") or []
    return len(vocabulary)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _vocabulary(subject: OpenCheckpoint, evidence: str) -> Finding:
    return Finding(
        id=f"tokenizer:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title="The adapted checkpoint brings another tokenizer than the base",
        evidence=[f"{evidence} (where sizes are equal: other merges or special tokens)"],
        advice="Each checkpoint is asked with its own tokenizer; likelihoods per token are not comparable.",
    )


def _template(subject: OpenCheckpoint, mine: str | None, original: str | None) -> Finding:
    absent = "the base has none" if original is None else "the adapted checkpoint has none"
    return Finding(
        id=f"chat-template:{subject.name}",
        severity="warning",
        area="checkpoint",
        subject=subject.name,
        title="The adapted checkpoint brings another chat template than the base",
        evidence=[absent if mine is None or original is None else "the two templates differ"],
        advice="Chat prompts are rendered by each checkpoint's own template; part of a difference may be the template.",
    )
