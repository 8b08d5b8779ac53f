"""What the answers alone say: measurements, flips, leaks and label diagnosis of every task, however it was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorascope.schema.comparison import Finding, Measurement, Series
from lorascope.schema.flips import FlipLedger
from lorascope.workflows.answer_findings import find_in_answers
from lorascope.workflows.findings import flip_findings
from lorascope.workflows.flips import flip_ledgers
from lorascope.workflows.label_diagnosis import diagnose_labels
from lorascope.workflows.leaks import measure_leaks
from lorascope.workflows.measuring import Pair, TaskAnswers, measure_task, plan_pairs
from lorascope.workflows.noise import Noise, noise_measurements, with_noise
from lorascope.workflows.watch import Watch


@dataclass
class Told:
    """Everything that was read from the answers."""

    measurements: list[Measurement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    flips: list[FlipLedger] = field(default_factory=list)


def tell(
    tasks: Mapping[str, TaskAnswers],
    base: str,
    subjects: Sequence[str],
    *,
    reference: str | None,
    seed: int,
    watch: Watch,
    noise: Noise | None = None,
    how_again: str = "",
) -> Told:
    """Measure every task for every pair of checkpoints; see :func:`~lorascope.workflows.measuring.plan_pairs`.

    ``noise`` is what repeating the run showed, computed as ``how_again`` says.
    """
    told = Told()
    with watch.stage("Statistics") as report:
        for done, answers in enumerate(tasks.values(), 1):
            pairs = plan_pairs(base, subjects, reference, base in answers.asked)
            told.measurements += measure_task(answers, pairs, seed=seed)
            _explain(answers, pairs, told, seed)
            told.findings += find_in_answers([answers], pairs)
            if noise is not None:
                told.measurements += noise_measurements(noise, answers, pairs, how_again, seed=seed)
            report(done, len(tasks))
    if noise is not None:
        told.flips = with_noise(told.flips, noise, tasks)
    told.findings += flip_findings(told.flips, told.measurements)
    return told


def _explain(answers: TaskAnswers, pairs: Sequence[Pair], told: Told, seed: int) -> None:
    answered = [pair for pair in pairs if {pair.subject, pair.reference} <= set(answers.asked)]
    told.flips += flip_ledgers(answers, answered)
    leaks = measure_leaks(answers, pairs, seed=seed)
    told.measurements += leaks.measurements
    told.findings += leaks.findings
    if answers.task.kind == "labels":
        diagnosis = diagnose_labels(answers, pairs, seed=seed)
        told.measurements += diagnosis.measurements
        told.findings += diagnosis.findings
        told.series += diagnosis.series
