"""Training curves: found beside a checkpoint or named, read, and turned into series, measurements and findings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorascope.data.logs import Curve, TrainingLog, find_logs, read_log
from lorascope.errors import DataError
from lorascope.measures.curves import CurveReading, read_curves
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Estimate, Finding, Measurement, Missing, Series, Slice

_READINGS = ("final_gap", "best_step", "overfit_step", "spikes")


@dataclass
class CurveOutcome:
    """What the logs of all subjects say."""

    series: list[Series] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    def document(self) -> dict[str, list[dict[str, Any]]]:
        """The same as plain data, in the forms of ``result.json``."""
        return {
            "series": [entry.model_dump(mode="json") for entry in self.series],
            "measurements": [entry.model_dump(mode="json") for entry in self.measurements],
            "findings": [entry.model_dump(mode="json") for entry in self.findings],
            "missing": [entry.model_dump(mode="json") for entry in self.missing],
        }


def read_path(subject: str, path: Path) -> CurveOutcome:
    """Read a log file, or the log of a run folder; raises :class:`DataError` where there is none."""
    if path.is_dir():
        logs = find_logs(path)
        if not logs:
            raise DataError(
                "the folder holds no training log",
                where=str(path),
                remedy="give a folder with trainer_state.json or trainer_log.jsonl, or the log itself",
            )
        path = logs[0]
    return read(subject, subject, read_log(path))


def read_folder(subject: str, base: str, folder: Path) -> CurveOutcome:
    """Read the training log that belongs to a checkpoint's folder; without one, the outcome says so."""
    try:
        logs = find_logs(folder)
        if not logs:
            reason = "no trainer_state.json or trainer_log.jsonl in the checkpoint's folder"
            return CurveOutcome(missing=[Missing(area="curves", subject=subject, reason=reason)])
        return read(subject, base, read_log(logs[0]))
    except DataError as error:
        return CurveOutcome(missing=[Missing(area="curves", subject=subject, reason=str(error).replace("\n", ";"))])


def read(subject: str, base: str, log: TrainingLog) -> CurveOutcome:
    """Series, measurements and findings of one log."""
    outcome = CurveOutcome(series=_series(subject, log))
    norms = _known(log.grad_norm) if log.grad_norm.steps else None
    sets: dict[str, Curve] = log.eval or {"eval": Curve((), ())}
    for name, curve in sets.items():
        reading = read_curves(_known(log.train), _known(curve), gradient_norm=norms)
        alone = len(sets) == 1
        outcome.measurements += _measurements(subject, base, reading, None if alone else name, str(log.source.name))
        outcome.findings += _findings(subject, name, reading)
    if not log.eval:
        reason = "the log holds no validation loss: over-fitting cannot be seen in it"
        outcome.missing.append(Missing(area="curves", subject=subject, reason=reason))
    return outcome


def _known(curve: Curve) -> tuple[list[float], list[float]]:
    pairs = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True)]
    return [float(step) for step, _ in pairs], [float("nan") if value is None else value for _, value in pairs]


def _series(subject: str, log: TrainingLog) -> list[Series]:
    named = {"train_loss": log.train, "grad_norm": log.grad_norm, "learning_rate": log.learning_rate}
    named |= {f"eval_loss:{name}": curve for name, curve in log.eval.items()}
    return [
        Series(
            subject=subject,
            name=name,
            x_name="step",
            x=[float(step) for step in curve.steps],
            y=list(curve.values),
        )
        for name, curve in named.items()
        if curve.steps
    ]


def _measurements(subject: str, base: str, reading: CurveReading, split: str | None, source: str) -> list[Measurement]:
    values: dict[str, float | None] = {
        "final_gap": reading.final_gap,
        "best_step": reading.best_step,
        "overfit_step": reading.overfit_step,
        "spikes": None if reading.spikes is None else float(len(reading.spikes)),
    }
    found = []
    for metric in _READINGS:
        spec, value = find_spec(metric), values[metric]
        nothing_found = metric == "overfit_step" and reading.overfit is False
        reason = (
            "no over-fitting seen: the validation loss does not rise to stay" if nothing_found else "too few points"
        )
        found.append(
            Measurement(
                subject=subject,
                reference=base,
                area="curves",
                slice=Slice(by="split", value=split) if split else None,
                metric=metric,
                unit=spec.unit,
                scale=spec.scale,
                direction=spec.direction,
                adapted=None if value is None else Estimate(value=value, n=1, method="none"),
                signature=f"{metric}|{source}",
                missing_reason=reason if value is None else "of the subject's own training: the base has none here",
            )
        )
    return found


def _findings(subject: str, split: str, reading: CurveReading) -> list[Finding]:
    found = []
    if reading.overfit:
        found.append(
            Finding(
                id=f"overfit:{split}:{subject}",
                severity="warning",
                area="curves",
                subject=subject,
                title=f"{subject} over-fits from step {reading.overfit_step} on ({split})",
                evidence=list(reading.evidence),
                advice=f"Keep the checkpoint of step {reading.best_step}, the lowest validation loss; check the task "
                "metric there as well, it can still rise while the loss does.",
                reference="Prechelt 1998 (generalisation loss)",
            )
        )
    if reading.spikes:
        steps = ", ".join(str(step) for step in reading.spikes[:8])
        found.append(
            Finding(
                id=f"spikes:{split}:{subject}",
                severity="warning",
                area="curves",
                subject=subject,
                title=f"{subject}: the training loss jumps at step {steps}",
                evidence=list(reading.evidence),
                advice="Lower the learning rate, clip gradients, or look at the batches of those steps.",
            )
        )
    if reading.plateau and not reading.overfit:
        found.append(
            Finding(
                id=f"plateau:{split}:{subject}",
                severity="info",
                area="curves",
                subject=subject,
                title=f"{subject}: the validation loss stands still over the last third ({split})",
                evidence=list(reading.evidence),
            )
        )
    return found
