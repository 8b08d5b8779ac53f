"""``lorascope demo`` from end to end: make three checkpoints, then compare them as a user would."""

from __future__ import annotations

from pathlib import Path

from lorascope.workflows.compare import CompareOptions, compare
from lorascope.workflows.demo import one_thread, prepare_demo
from lorascope.workflows.tasks import Questions
from lorascope.workflows.watch import Silent, Watch


def run_demo(folder: Path, *, seed: int = 0, overwrite: bool = False, watch: Watch | None = None) -> Path:
    """Train the base, the LoRA and the full fine-tune in ``folder``, compare both with the base and with each other.

    Returns the path of ``result.json`` in ``folder/comparison``. What is finished there is not made again.
    """
    watch = watch or Silent()
    files = prepare_demo(folder, seed=seed, watch=watch, overwrite=overwrite)
    options = CompareOptions(
        base=f"base={files.base}",
        adapted=(f"lora={files.lora}", f"full={files.full}"),
        questions=Questions(suite=files.suite_path, probe=("en",), seed=seed),
        reference="full",
        out=folder / "comparison",
        overwrite=overwrite,
        command=("lorascope", "demo", "--out", str(folder), "--seed", str(seed)),
    )
    with one_thread():  # models this small lose more by sharing their work than they gain
        return compare(options, watch)
