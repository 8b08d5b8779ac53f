"""A small result with one base and one adapted checkpoint, built to measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
import pytest

from lorascope.data.tasks import LoadedTask, task_fingerprint
from lorascope.schema.comparison import CheckpointInfo, Comparison, Measurement, ParameterCounts, Provenance, TaskInfo
from lorascope.schema.items import Answer, Item
from lorascope.schema.suite import SuiteTask
from lorascope.schema.values import Delta, Estimate
from lorascope.workflows.measuring import Pair, TaskAnswers, measure_task
from lorascope.workflows.samples import sample_rows, sample_table
from lorascope.workflows.scoring import Asked, task_info

Build = Callable[..., Measurement]


@dataclass(frozen=True)
class Run:
    """A result with the samples that a comparison would have written beside it."""

    comparison: Comparison
    samples: pyarrow.Table


@pytest.fixture(scope="session")
def run() -> Callable[..., Run]:
    """A result measured by the real scorers from items and answers of a base and of adapted checkpoints.

    ``adapted`` maps names to answers; ``task`` are settings of the suite's task; ``fields`` go into the comparison.
    """

    def build(
        kind: str,
        items: Sequence[Item],
        base: Sequence[Answer],
        adapted: dict[str, Sequence[Answer]],
        *,
        labels: tuple[str, ...] = (),
        task: dict[str, Any] | None = None,
        hashes: dict[str, str] | None = None,
        provenance: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Run:
        spec = SuiteTask.model_validate({"name": "support", "kind": kind, "data": "x.jsonl", **(task or {})})
        loaded = LoadedTask(spec, spec.kind, tuple(items), (), (), task_fingerprint(spec, items))
        answers = TaskAnswers(loaded, labels)
        answers.asked = {name: Asked(items, said, labels) for name, said in {"base": base, **adapted}.items()}
        known = {"base": "h-base", **{name: f"h-{name}" for name in adapted}, **(hashes or {})}
        comparison = Comparison(
            created="2025-01-01T00:00:00Z",
            command=["lorascope", "compare"],
            seed=0,
            lorascope_version="0",
            provenance=Provenance.model_validate(
                {"libraries": {}, "device": "cpu", "dtype": "float32", "timings": {}, **(provenance or {})}
            ),
            checkpoints=[_checkpoint(name, known[name]) for name in ("base", *adapted)],
            tasks=[task_info(loaded, answers.asked["base"])],
            measurements=measure_task(answers, [Pair(name, "base") for name in adapted], seed=0),
            **fields,
        )
        rows = [
            row for name in adapted for row in sample_rows(loaded, name, answers.asked["base"], answers.asked[name])
        ]
        return Run(comparison, sample_table(rows))

    return build


def _checkpoint(name: str, content_hash: str) -> CheckpointInfo:
    return CheckpointInfo(
        name=name,
        path=name,
        role="base" if name == "base" else "adapted",
        kind="model",
        architecture="LlamaForCausalLM",
        dtype="float32",
        content_hash=content_hash,
        parameters=ParameterCounts(total=10),
        generation_ready=True,
    )


@pytest.fixture
def measured() -> Build:
    """A measurement; ``delta`` is (value, low, high) and ``own`` the adapted estimate's, two-sided 95 %."""

    def build(
        metric: str = "accuracy",
        *,
        delta: Sequence[float | None] | None = None,
        own: Sequence[float | None] | None = (0.7, 0.66, 0.74),
        n: int = 500,
        subject: str = "lora",
        reference: str = "base",
        **fields: object,
    ) -> Measurement:
        settings: dict[str, object] = {
            "area": "task", "task": "support", "direction": "higher", "unit": "fraction", "scale": "0-1",
        } | fields  # fmt: skip
        estimate = None if own is None else Estimate(value=own[0], low=own[1], high=own[2], n=n, method="bootstrap")
        change = None if delta is None else Delta(value=delta[0], low=delta[1], high=delta[2], n=n)
        return Measurement(
            subject=subject, reference=reference, metric=metric, adapted=estimate,
            base=estimate if change else None, delta=change, signature="test", **settings,
        )  # fmt: skip

    return build


@pytest.fixture
def result() -> Callable[..., Comparison]:
    """A comparison of measurements; ``hashes`` maps adapted checkpoints to their content hashes."""

    def build(
        *measurements: Measurement, hashes: dict[str, str] | None = None, fingerprint: str = "f1", **fields: object
    ) -> Comparison:
        subjects = {"lora": "h-lora"} if hashes is None else hashes
        checkpoints = [_checkpoint("base", "h-base"), *(_checkpoint(*each) for each in subjects.items())]
        task = TaskInfo(
            name="support", kind="choice", role="target", items=500, fingerprint=fingerprint, metrics=["accuracy"]
        )
        return Comparison(
            created="2025-01-01T00:00:00Z",
            command=["lorascope", "compare"],
            seed=0,
            lorascope_version="0",
            provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
            checkpoints=checkpoints,
            tasks=[task],
            measurements=list(measurements),
            **fields,
        )

    return build


@pytest.fixture
def scored() -> Callable[..., pyarrow.Table]:
    """Samples with one score an item of the adapted checkpoint."""

    def build(scores: Sequence[float | None], *, subject: str = "lora", metric: str = "accuracy") -> pyarrow.Table:
        rows = [
            {
                "subject": subject,
                "task": "support",
                "item_id": f"i{place}",
                "group": None,
                "category": "even" if place % 2 == 0 else "odd",
                f"{metric}_base": 0.0,
                f"{metric}_adapted": math.nan if score is None else score,
            }
            for place, score in enumerate(scores)
        ]
        return pyarrow.Table.from_pylist(rows)

    return build
