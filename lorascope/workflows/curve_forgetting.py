"""Forgetting seen while a model is trained: the built-in probe's accuracy falls, or the model leaves its base far."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lorascope.data.logs import Curve, TrainingLog
from lorascope.schema.comparison import Finding, Severity
from lorascope.workflows.curve_training_findings import finding

ANY_SET = "eval"
"""The name under which a log holds what belongs to no validation set."""
KL_TO_BASE = "kl_to_base"
SURE_DROP = 0.05
"""The log does not say of how many items a probe's accuracy is: a fixed drop stands for its noise."""
_CHANCE = 0.25
_FAR = 1.0
_PROBE_ACCURACY = re.compile(r"probe_(?P<language>en|zh)_accuracy")
_TRAIN_ON = ("learning_rate_low", "still_falling")

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Fall:
    """A probe's accuracy (0–1) at the first and the last evaluation, and the step from which it stays below.

    ``margin``: the gold answer's lead in log-probability at the same ends, None where it is not logged.
    """

    language: str
    first: tuple[int, float]
    last: tuple[int, float]
    since: int
    margin: tuple[float, float] | None

    @property
    def lost(self) -> float:
        """How much accuracy fell, above 0."""
        return self.first[1] - self.last[1]

    @property
    def share(self) -> float:
        """The share lost of what stood above chance; 1 and more is chance and below."""
        return self.lost / (self.first[1] - _CHANCE)

    @property
    def most_is_lost(self) -> bool:
        """Whether more than half is; twice the fixed drop keeps a few items of a weak model from saying so."""
        return self.share > 0.5 and self.lost >= 2 * SURE_DROP


def forgetting_findings(subject: str, log: TrainingLog) -> list[Finding]:
    """At most one finding, ``forgetting:train:<subject>``, from what ``lorascope train`` logs at its evaluations.

    Warning where the probe's accuracy ends 5 points or more below its first evaluation, critical where more than half
    of what stood above chance (1 in 4) is lost and ten points at least. A probe that starts within 5 points of chance
    has nothing to lose and is passed over, as is one with a single evaluation. Where no probe says that general answers
    were lost, KL(adapted‖base) is told of as info, and as a warning above 1 nat a token if no probe was asked.
    """
    metrics = log.metrics.get(ANY_SET, {})
    matches = [matched for name in metrics if (matched := _PROBE_ACCURACY.fullmatch(name))]
    languages = [matched["language"] for matched in matches]
    falls = [fall for language in languages if (fall := _fall(language, log)) is not None]
    if falls:
        return [_probe_fell(subject, falls, log)]
    return _far_from_base(subject, log, held=[name for name in languages if _could_fall(name, log)])


def without_longer_training(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, without those that ask for a higher rate or more steps where forgetting is a warning or worse."""
    forgot = any(one.id.startswith("forgetting:") and one.severity in ("critical", "warning") for one in findings)
    return [one for one in findings if not (forgot and one.id.split(":")[0] in _TRAIN_ON)]


def forgetting_curves(log: TrainingLog) -> dict[str, Curve]:
    """What was logged of the base's distance and of the probe, by the names in the log."""
    named = log.metrics.get(ANY_SET, {})
    return {
        f"eval_{name}": curve for name, curve in named.items() if name == KL_TO_BASE or _PROBE_ACCURACY.fullmatch(name)
    }


def _points(log: TrainingLog, name: str) -> Points:
    curve = log.metrics.get(ANY_SET, {}).get(name, Curve((), ()))
    return [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if value is not None]


def _could_fall(language: str, log: TrainingLog) -> bool:
    points = _points(log, f"probe_{language}_accuracy")
    return len(points) > 1 and points[0][1] - _CHANCE >= SURE_DROP - 1e-9


def _fall(language: str, log: TrainingLog) -> Fall | None:
    if not _could_fall(language, log):
        return None
    points = _points(log, f"probe_{language}_accuracy")
    first, last = points[0], points[-1]
    below = [first[1] - value >= SURE_DROP - 1e-9 for _, value in points]
    if not below[-1]:
        return None
    above = max(place for place, low in enumerate(below) if not low)
    margins = _points(log, f"probe_{language}_gold_margin")
    margin = (margins[0][1], margins[-1][1]) if len(margins) > 1 else None
    return Fall(language, first, last, points[above + 1][0], margin)


def _probe_fell(subject: str, falls: Sequence[Fall], log: TrainingLog) -> Finding:
    worst = max(falls, key=lambda fall: (fall.most_is_lost, fall.lost))
    severity: Severity = "critical" if worst.most_is_lost else "warning"
    evidence = [text for fall in falls for text in _described(fall)]
    if worst.first[0] > 0:
        evidence.append(f"The first evaluation is at step {worst.first[0]}: what was lost before is not seen.")
    distance = [point for point in _points(log, KL_TO_BASE) if point[0] > 0]
    if distance:
        evidence.append(f"KL to the base is {distance[-1][1]:.3g} nats a token at step {distance[-1][0]}.")
    evidence.append(
        f"{100 * SURE_DROP:.0f} points are a fixed bound, since the log does not say how many items were asked: of 60 "
        "they are three answers. It does not say what else was lost, nor that the step that is kept lost as much."
    )
    return finding(
        "forgetting",
        "train",
        subject,
        severity,
        f"{subject} forgets as it is trained: the {worst.language} probe's accuracy falls from "
        f"{100 * worst.first[1]:.0f} % to {100 * worst.last[1]:.0f} %",
        evidence,
        _ADVICE,
        "arXiv 2502.06042 (replay)",
    )


_ADVICE = (
    "Mix 5 % general data into training (replay), or lower the learning rate to a third where that is done already or "
    "no texts are trained on: one of the two."
)


def _described(fall: Fall) -> list[str]:
    said = [
        f"Accuracy on the {fall.language} probe: {fall.first[1]:.3f} at step {fall.first[0]}, {fall.last[1]:.3f} at "
        f"step {fall.last[0]}; below the first by {100 * SURE_DROP:.0f} points and more from step {fall.since} on. "
        f"Of what stood above chance ({_CHANCE:g}), {min(100.0, 100 * fall.share):.0f} % is lost."
    ]
    if fall.margin is not None and fall.margin[1] < fall.margin[0]:
        said.append(f"The gold answer's margin falls with it, from {fall.margin[0]:.3g} to {fall.margin[1]:.3g}.")
    elif fall.margin is not None:
        said.append(
            f"The gold answer's margin does not fall ({fall.margin[0]:.3g} to {fall.margin[1]:.3g}): "
            "few items may have tipped over."
        )
    return said


def _far_from_base(subject: str, log: TrainingLog, *, held: Sequence[str]) -> list[Finding]:
    points = _points(log, KL_TO_BASE)
    if not points or points[-1][0] <= 0:
        return []
    (first_step, first), (step, last) = points[0], points[-1]
    warned = last > _FAR and not held
    evidence = [f"KL(adapted‖base) on the validation texts: {first:.3g} at step {first_step}, {last:.3g} at {step}."]
    if last > _FAR:
        near = max((place for place, (_, value) in enumerate(points) if value <= _FAR), default=-1)
        evidence.append(f"It is above {_FAR:g} nat from step {points[near + 1][0]} on.")
    if held:
        evidence.append(f"The probe's accuracy ({', '.join(held)}) does not fall by {100 * SURE_DROP:.0f} points.")
    evidence.append(
        "It grows with what is learned of the task as well: it says how far the model has moved on these texts, and "
        "not that anything was forgotten."
    )
    return [
        finding(
            "forgetting",
            "train",
            subject,
            "warning" if warned else "info",
            f"{subject} has moved {last:.2g} nats a token from its base" + (", which is far" if warned else ""),
            evidence,
            _ADVICE if warned else None,
        )
    ]
