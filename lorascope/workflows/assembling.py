"""From answers to a written result, whoever gave them: a checkpoint, a server, or a run of another tool."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lorascope.schema.comparison import (
    CheckpointInfo,
    Comparison,
    Finding,
    Measurement,
    Missing,
    Provenance,
    Series,
    WeightReport,
)
from lorascope.version import __version__
from lorascope.workflows import findings as told
from lorascope.workflows.gate import judge
from lorascope.workflows.measuring import TaskAnswers, adjust_p_values
from lorascope.workflows.noise import Noise
from lorascope.workflows.output import RESULT, SAMPLES, OutputFolder
from lorascope.workflows.provenance import git_state, libraries
from lorascope.workflows.publish import load_result, publish
from lorascope.workflows.samples import sample_rows, write_samples
from lorascope.workflows.scoring import task_info
from lorascope.workflows.telling import tell
from lorascope.workflows.watch import Silent, Watch

SampleColumns = Mapping[tuple[str, str], Mapping[str, Sequence[float | None]]]
"""(task, subject) → column name → one value an item, in the order of the items."""


def assemble(
    base: CheckpointInfo,
    subjects: Sequence[CheckpointInfo],
    answers: Sequence[TaskAnswers],
    *,
    seed: int,
    command: Sequence[str],
    device: str,
    dtype: str,
    engine: str | None,
    timings: Mapping[str, float],
    findings: Sequence[Finding] = (),
    missing: Sequence[Missing] = (),
    notes: Sequence[str] = (),
    measurements: Sequence[Measurement] = (),
    series: Sequence[Series] = (),
    weights: Mapping[str, WeightReport] | None = None,
    reference: str | None = None,
    suite_hash: str | None = None,
    noise: Noise | None = None,
    how_again: str = "",
    watch: Watch | None = None,
) -> Comparison:
    """The result that follows from all checkpoints' answers to all tasks, and from what the caller found besides.

    Each of ``answers`` is read as :func:`~lorascope.workflows.telling.tell` does. ``notes`` are lines that become
    findings of severity info. ``timings`` are seconds by step, to which those of the statistics are added. ``device``
    is "none" where no model was run, ``engine`` what answered, None where nothing was asked. ``noise`` is what asking
    again showed, computed as ``how_again`` says.
    """
    started = time.perf_counter()
    known = {task.task.spec.name: task for task in answers}
    said = tell(
        known,
        base.name,
        [subject.name for subject in subjects],
        reference=reference,
        seed=seed,
        watch=watch or Silent(),
        noise=noise,
        how_again=how_again,
    )
    spent = {**timings, "statistics": time.perf_counter() - started}
    comparison = Comparison(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=list(command),
        seed=seed,
        lorascope_version=__version__,
        provenance=Provenance(
            libraries=libraries(),
            git=git_state(),
            device=device,
            dtype=dtype,
            engine=engine,
            timings={name: round(seconds, 3) for name, seconds in spent.items()},
            suite_hash=suite_hash,
        ),
        checkpoints=[base, *subjects],
        tasks=[task_info(task.task, next(iter(task.asked.values()), None)) for task in answers],
        measurements=adjust_p_values([*said.measurements, *measurements]),
        weights=dict(weights or {}),
        series=[*series, *said.series],
        flips=said.flips,
        missing=list(missing),
    )
    every = [*findings, *said.findings, *told.find(comparison, answers, notes)]
    return comparison.model_copy(update={"findings": told.by_severity(every)})


def write_assembled(
    comparison: Comparison,
    answers: Sequence[TaskAnswers],
    folder: OutputFolder,
    *,
    keep_samples: bool = True,
    columns: SampleColumns | None = None,
    gates: Path | None = None,
) -> Path:
    """Write samples (with ``columns`` besides the metrics' own), result and report; hold the result to ``gates``.

    Returns the path of ``result.json``.
    """
    if keep_samples and answers:
        rows = _rows(comparison, answers, columns or {})
        folder.write_with(SAMPLES, lambda part: write_samples(rows, part))
    comparison = keep_human(comparison, folder)
    publish(comparison, folder)
    result = folder.path / RESULT
    if gates is not None:
        publish(comparison.model_copy(update={"gates": judge(result, gates)}), folder)
    return result


def keep_human(comparison: Comparison, folder: OutputFolder) -> Comparison:
    """What raters said of the same answers stays: running the same command again must not lose a study."""
    earlier = folder.path / RESULT
    if not (folder.resumed and earlier.is_file()):
        return comparison
    known = load_result(earlier)
    rated = [found for found in known.measurements if found.area == "human"]
    return comparison.model_copy(update={"human": known.human, "measurements": [*comparison.measurements, *rated]})


def _rows(comparison: Comparison, answers: Sequence[TaskAnswers], columns: SampleColumns) -> list[dict[str, Any]]:
    base = comparison.base.name
    rows: list[dict[str, Any]] = []
    for task in answers:
        for subject in comparison.subjects:
            if subject.name not in task.asked:
                continue
            found = sample_rows(task.task, subject.name, task.asked.get(base), task.asked[subject.name])
            for name, values in columns.get((task.task.spec.name, subject.name), {}).items():
                for row, value in zip(found, values, strict=True):
                    row[name] = value
            rows += found
    return rows
