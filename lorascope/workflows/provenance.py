"""Where a result comes from: library versions and the state of the repository it was made in."""

from __future__ import annotations

import subprocess
from importlib import metadata

_NAMED = ("torch", "transformers", "peft", "tokenizers", "numpy", "scikit-learn", "sacrebleu", "rouge-score", "nltk",
          "seqeval", "evaluate", "datasets")  # fmt: skip


def libraries() -> dict[str, str]:
    """Versions of the installed libraries that numbers depend on."""
    found = {}
    for name in _NAMED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> str | None:
    """Commit of the repository in the current folder, ``+changes`` behind it when it is not clean; None outside one."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}+changes" if _git("status", "--porcelain") else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
