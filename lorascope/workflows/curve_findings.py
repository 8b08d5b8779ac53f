"""Findings on validation: over-fitting, no fall, the gap, a plateau, the checkpoint to keep, by set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lorascope.measures.curve_validation import Checkpoint, Overfitting
from lorascope.measures.curves import FLAT_CHANGE, CurveReading, ValidationReading
from lorascope.schema.comparison import Finding
from lorascope.workflows.curve_training_findings import finding

_STILL_FALLING = 0.02
_PRECHELT = "Prechelt 1998"


@dataclass(frozen=True)
class SetCase:
    """One validation set of one subject: its readings, and the name of the task metric that was read with it."""

    subject: str
    split: str
    curve: CurveReading
    reading: ValidationReading
    metric: str | None
    diverged: bool

    @property
    def metric_improves(self) -> bool:
        """Whether the task metric still improved after the lowest validation loss."""
        course = self.reading.metric_course
        return course is not None and course.improved


def validation_findings(case: SetCase) -> list[Finding]:
    """Findings of one validation set; after a divergence only the checkpoint to keep is left to say."""
    if case.diverged:
        return [*_checkpoint(case)]
    found: list[Finding] = []
    if case.reading.overfitting is not None:
        found += _overfitting(case, case.reading.overfitting)
    else:
        found += [*_no_fall(case), *_gap(case), *_plateau(case), *_still_falling(case)]
    return [*found, *_checkpoint(case)]


def _overfitting(case: SetCase, seen: Overfitting) -> Iterator[Finding]:
    criteria = {
        "GL above 5 %": seen.generalisation_loss,
        "PQ above 2": seen.progress_quotient,
        "three successive rises (UP3)": seen.rises,
    }
    says = [f"{name} from step {step}" for name, step in criteria.items() if step is not None]
    silent = [name for name, step in criteria.items() if step is None]
    evidence = [*case.curve.evidence, "Criteria: " + "; ".join(says + [f"{name}: no" for name in silent]) + "."]
    gap = case.reading.gap
    if gap is not None:
        evidence.append(
            f"The training loss lies below the validation loss from step {gap.since} on, by {100 * gap.share:.0f} % "
            "at the end."
        )
    evidence += _metric_sentences(case)
    evidence.append("A rising loss can come from surer wrong answers alone: it does not mean that more are wrong.")
    best = case.reading.metric_checkpoint
    if case.metric_improves and best is not None:
        advice = (
            f"Choose by {case.metric}: keep the checkpoint of step {best.step}, since it improves while the loss rises."
        )
    else:
        advice = f"Keep the checkpoint of step {seen.best_step}, the lowest validation loss" + (
            "." if case.reading.metric_course else "; check the task metric there as well, it can still rise."
        )
    yield finding(
        "overfit",
        case.split,
        case.subject,
        "info" if case.metric_improves else "warning",
        f"{case.subject} over-fits from step {seen.step} on ({case.split})"
        + (f", while {case.metric} improves" if case.metric_improves else ""),
        evidence,
        advice,
        _PRECHELT,
    )


def _metric_sentences(case: SetCase) -> list[str]:
    course = case.reading.metric_course
    if course is None:
        return []
    verdict = "improves" if course.improved else "does not improve"
    return [
        f"{case.metric} {verdict} after the lowest loss: {course.at_best_loss:.4g} there, "
        f"{course.at_end:.4g} at the end."
    ]


def _no_fall(case: SetCase) -> Iterator[Finding]:
    seen = case.reading.no_fall
    if seen is None or case.metric_improves:
        return
    evidence = [
        f"From step {seen.first_step} ({seen.first_loss:.4g}) to step {seen.last_step} ({seen.last_loss:.4g}) the "
        f"validation loss changes by {100 * seen.change:+.1f} % (robust line)."
    ]
    learns = seen.train_change is not None and seen.train_change < -0.05
    if seen.train_change is not None:
        evidence.append(f"The training loss changes by {100 * seen.train_change:+.1f} % over the same steps.")
    evidence.append("A fall before the first evaluation is not seen: evaluate at step 0 to know.")
    yield finding(
        "no_fall",
        case.split,
        case.subject,
        "warning",
        f"{case.subject}: the validation loss does not fall ({case.split})",
        evidence,
        "Check that validation has the format, template and labels of training: what is learned does not show there."
        if learns
        else "Raise the learning rate threefold: neither loss shows that anything is learned.",
    )


def _gap(case: SetCase) -> Iterator[Finding]:
    seen = case.reading.gap
    if seen is None or not seen.wide:
        return
    yield finding(
        "gap",
        case.split,
        case.subject,
        "info",
        f"{case.subject}: a gap of {100 * seen.share:.0f} % between training and validation loss ({case.split})",
        [
            f"The training loss lies below the validation loss from step {seen.since} on, by {seen.final:.4g} "
            "at the end.",
            "The validation loss does not rise: the gap is memorisation beside learning and no over-fitting yet. "
            "Dropout and added loss terms raise the training loss and make a gap look smaller.",
        ],
        "Add dropout or data before training longer: more of what is learned should carry over.",
    )


def _plateau(case: SetCase) -> Iterator[Finding]:
    change = case.reading.change
    if change is None or abs(change) >= FLAT_CHANGE or case.reading.no_fall is not None:
        return
    yield finding(
        "plateau",
        case.split,
        case.subject,
        "info",
        f"{case.subject}: the validation loss stands still over the last third ({case.split})",
        [*case.curve.evidence, "A learning rate that decays to 0 flattens every curve: this is no proof of a limit."],
        None,
    )


def _still_falling(case: SetCase) -> Iterator[Finding]:
    change, kept = case.reading.change, case.reading.checkpoint
    if change is None or change > -_STILL_FALLING or kept is None or kept.step != kept.last_step:
        return
    yield finding(
        "still_falling",
        case.split,
        case.subject,
        "info",
        f"{case.subject}: the validation loss still falls at the end ({case.split})",
        [
            f"Over its last third it changes by {100 * change:+.1f} % (robust line), and "
            "the last evaluation is the best.",
            "This does not say how much lower it would get.",
        ],
        "Train longer (half as many epochs again): the best step lies beyond the end.",
    )


def _checkpoint(case: SetCase) -> Iterator[Finding]:
    by_metric = case.reading.metric_checkpoint
    kept, name = (by_metric, case.metric) if by_metric is not None else (case.reading.checkpoint, "validation loss")
    if kept is None:
        return
    evidence = [f"{name}: {kept.value:.4g} at step {kept.step}, best {kept.best_value:.4g} at step {kept.best_step}."]
    evidence += _sureness(kept)
    other = case.reading.checkpoint
    if by_metric is not None and other is not None and other.step != kept.step:
        evidence.append(f"The validation loss alone would keep step {other.step}.")
    evidence.append("The best of several evaluations looks better than it is; report it on items not used to choose.")
    yield finding(
        "checkpoint",
        case.split,
        case.subject,
        "good" if kept.step == kept.last_step else "info",
        f"{case.subject}: keep the checkpoint of step {kept.step} ({case.split}, by {name})",
        evidence,
        f"Keep the checkpoint of step {kept.step}: the earliest that no later one beats by more than the noise.",
        "Breiman et al. 1984 (one-standard-error rule)",
    )


def _sureness(kept: Checkpoint) -> list[str]:
    if kept.noise is None:
        return ["Too few evaluations to know their noise: the best value is taken as it is."]
    if kept.noise == 0:
        return ["The course is smooth: no noise of an evaluation is seen in it."]
    if kept.within_noise == 1:
        return [f"No other evaluation comes within the noise of one evaluation ({kept.noise:.2g})."]
    return [f"{kept.within_noise} evaluations lie within the noise of one evaluation ({kept.noise:.2g}) of the best."]
