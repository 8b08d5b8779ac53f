"""Training curves: found beside a checkpoint or named, read, and turned into series, measurements and findings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lorascope.data.logs import Curve, TrainingLog, find_logs, read_log
from lorascope.errors import DataError
from lorascope.measures.curve_points import cleaned
from lorascope.measures.curve_validation import change_since
from lorascope.measures.curves import (
    FLAT_CHANGE,
    CurveReading,
    TrainingReading,
    read_curves,
    read_training,
    read_validation,
)
from lorascope.measures.registry import MEASURES, find_spec
from lorascope.schema.comparison import Finding, Measurement, Missing, Series, Slice
from lorascope.schema.values import Estimate
from lorascope.workflows.curve_findings import SetCase, validation_findings
from lorascope.workflows.curve_forgetting import forgetting_curves, forgetting_findings, without_longer_training
from lorascope.workflows.curve_training_findings import training_findings

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
                remedy="give a folder with trainer_state.json, trainer_log.jsonl or logging.jsonl, or the log itself",
            )
        path = logs[0]
    return read(subject, subject, read_log(path))


def read_folder(subject: str, base: str, folder: Path) -> CurveOutcome:
    """Read the training log that belongs to a checkpoint's folder; without one, the outcome says so."""
    try:
        logs = find_logs(folder)
        if not logs:
            reason = "no training log (trainer_state.json, trainer_log.jsonl, logging.jsonl) in the checkpoint's folder"
            return CurveOutcome(missing=[Missing(area="curves", subject=subject, reason=reason)])
        return read(subject, base, read_log(logs[0]))
    except DataError as error:
        return CurveOutcome(missing=[Missing(area="curves", subject=subject, reason=str(error).replace("\n", ";"))])


def read(subject: str, base: str, log: TrainingLog, *, plateau_loss: float | None = None) -> CurveOutcome:
    """Series, measurements and findings of one log.

    ``plateau_loss``: the training loss of a model that knows the label frequencies alone, for label tasks; None: what
    the record of the run beside the log says, if there is one.
    """
    if plateau_loss is None:
        plateau_loss = _recorded_plateau(log.source)
    outcome = CurveOutcome(series=_series(subject, log))
    training = read_training(
        _known(log.train),
        gradient_norm=_logged(log.grad_norm),
        learning_rate=_logged(log.learning_rate),
        epochs=_logged(log.epochs),
        plateau_loss=plateau_loss,
    )
    cases = [
        _case(subject, name, curve, log, training.divergence is not None) for name, curve in _evaluations(log).items()
    ]
    for case in cases:
        split = None if len(cases) == 1 else case.split
        outcome.measurements += _measurements(subject, base, case.curve, split, str(log.source.name))
    outcome.findings += training_findings(
        subject,
        training,
        still_learning=any(_learns_on(case, training) for case in cases),
        carried_over=_carries_over(cases, log, training),
    )
    outcome.findings += [found for case in cases for found in validation_findings(case)]
    if training.divergence is None:  # what diverged has lost everything else as well
        outcome.findings = without_longer_training([*outcome.findings, *forgetting_findings(subject, log)])
    if not log.eval:
        reason = "the log holds no validation loss: over-fitting cannot be seen in it"
        outcome.missing.append(Missing(area="curves", subject=subject, reason=reason))
    return outcome


def _recorded_plateau(source: Path) -> float | None:
    """The plateau that a run of ``lorascope train`` has worked out of its own loss and labels."""
    try:
        record = json.loads((source.parent / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = record.get("plateau_loss") if isinstance(record, dict) else None
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def _evaluations(log: TrainingLog) -> dict[str, Curve]:
    return log.eval or {"eval": Curve((), ())}


def _case(subject: str, split: str, curve: Curve, log: TrainingLog, diverged: bool) -> SetCase:
    metric = task_metric(log.metrics.get(split, {}))
    reading = read_validation(
        _known(log.train),
        _known(curve),
        metric=None if metric is None else _known(metric.curve),
        higher_is_better=metric is None or metric.higher_is_better,
    )
    read_beside = read_curves(_known(log.train), _known(curve), gradient_norm=_logged(log.grad_norm))
    return SetCase(subject, split, read_beside, reading, None if metric is None else metric.name, diverged)


def _learns_on(case: SetCase, training: TrainingReading) -> bool:
    """Whether validation gets better after the training loss has come to stand still."""
    return training.standstill is not None and (
        case.metric_improves or (case.reading.change is not None and case.reading.change < -FLAT_CHANGE)
    )


def _carries_over(cases: Sequence[SetCase], log: TrainingLog, training: TrainingReading) -> bool:
    """Whether half of the late fall of the training loss, at least, is seen in every validation set that tells."""
    if training.low_rate is None or any(case.reading.overfitting is not None for case in cases):
        return False
    step, needed = training.low_rate.half_step, training.low_rate.late_fall / 2
    changes = [change_since(cleaned(_known(curve), "validation"), step) for curve in log.eval.values()]
    return all(change is None or change <= -needed for change in changes)


class TaskMetric(NamedTuple):
    """A metric of a validation set whose direction is known."""

    name: str
    curve: Curve
    higher_is_better: bool


_OTHER_NAMES = {
    "f1": True,
    "micro_f1": True,
    "macro_f1": True,
    "precision": True,
    "recall": True,
    "rouge-1": True,
    "rouge-2": True,
    "rouge-l": True,
    "bleu-4": True,
    "token_acc": True,
    "mean_token_accuracy": True,
    "matthews_correlation": True,
    "wer": False,
    "mae": False,
    "rmse": False,
}


def task_metric(metrics: Mapping[str, Curve]) -> TaskMetric | None:
    """The first metric of the log that says which direction is better: a measure of lorascope, or a common name.

    Perplexity and bits per byte are the loss once more and are passed over, as are names that are not known.
    """
    for name, curve in metrics.items():
        spec = MEASURES.get(name)
        if spec is not None and "likelihood" not in spec.kinds and spec.direction != "none":
            return TaskMetric(name, curve, spec.direction == "higher")
        if name in _OTHER_NAMES:
            return TaskMetric(name, curve, _OTHER_NAMES[name])
    return None


def _logged(curve: Curve) -> tuple[list[float], list[float]] | None:
    return _known(curve) if curve.steps else None


def _known(curve: Curve) -> tuple[list[float], list[float]]:
    pairs = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True)]
    return [float(step) for step, _ in pairs], [float("nan") if value is None else value for _, value in pairs]


def _series(subject: str, log: TrainingLog) -> list[Series]:
    named = {"train_loss": log.train, "grad_norm": log.grad_norm, "learning_rate": log.learning_rate}
    named |= {f"eval_loss:{name}": curve for name, curve in log.eval.items()} | forgetting_curves(log)
    return [
        Series(
            subject=subject,
            name=name,
            x_name=log.x_name,
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
