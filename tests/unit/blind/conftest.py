"""A result whose checkpoints gave answers, and its samples: what studies are made from."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow
import pytest

from lorascope.schema.comparison import CheckpointInfo, Comparison, ParameterCounts, Provenance, TaskInfo

Comparisons = Callable[..., Comparison]
Samples = Callable[..., pyarrow.Table]


def _checkpoint(name: str) -> CheckpointInfo:
    return CheckpointInfo(
        name=name,
        path=f"models/{name}",
        role="base" if name == "tinybase" else "adapted",
        kind="model",
        architecture="LlamaForCausalLM",
        dtype="float32",
        content_hash=f"hash-of-{name}",
        parameters=ParameterCounts(total=10),
        generation_ready=True,
    )


@pytest.fixture
def compared() -> Comparisons:
    """A comparison of the base and the named adapted checkpoints, on tasks of given kinds."""

    def build(*subjects: str, tasks: Mapping[str, str] | None = None) -> Comparison:
        kinds = {"support": "generate", "quiz": "choice"} if tasks is None else tasks
        return Comparison(
            created="2025-01-01T00:00:00Z",
            command=["lorascope", "compare"],
            seed=0,
            lorascope_version="0",
            provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
            checkpoints=[_checkpoint("tinybase"), *map(_checkpoint, subjects or ("tuned-7",))],
            tasks=[
                TaskInfo(name=name, kind=kind, role="target", items=4, fingerprint=f"print-of-{name}", metrics=["m"])
                for name, kind in kinds.items()
            ],
        )

    return build


@pytest.fixture
def sampled() -> Samples:
    """Samples of ``items`` items a task, the first ``identical`` of them with one answer but for white space.

    Each text says who wrote it, to which question; every third item is long. ``flip`` decides each item's flip.
    """

    def build(
        items: int = 40,
        identical: int = 0,
        subjects: tuple[str, ...] = ("tuned-7",),
        tasks: tuple[str, ...] = ("support",),
        flip: Callable[[int], str | None] = lambda place: None,
        seed: int = 0,
    ) -> pyarrow.Table:
        rows: list[dict[str, Any]] = []
        chance = random.Random(seed)
        for task in tasks:
            for place in range(items):
                padding = " word" * chance.randrange(1, 12)
                base = f"tinybase|{task}|{place:03}{padding}"
                for subject in subjects:
                    said = f"  {base}\r\n" if place < identical else f"{subject}|{task}|{place:03}{padding} "
                    texts = {"prompt": f"question {task} {place:03}", "base_output": base, "adapted_output": said}
                    place_of = {"subject": subject, "task": task, "item_id": f"i{place:03}"}
                    rows.append(place_of | texts | {"flip": flip(place)})
        strings = pyarrow.string()
        names = ("subject", "task", "item_id", "prompt", "base_output", "adapted_output", "flip")
        return pyarrow.Table.from_pylist(rows, schema=pyarrow.schema([(name, strings) for name in names]))

    return build
