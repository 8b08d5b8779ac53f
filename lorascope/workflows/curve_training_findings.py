"""Findings on the training loss: each with its steps, its numbers, one change to make, and what it does not mean."""

from __future__ import annotations

from collections.abc import Iterator

from lorascope.measures.curve_training import Divergence
from lorascope.measures.curves import TrainingReading
from lorascope.schema.comparison import Finding, Severity

_SHOWN = 5
_EARLY_SHARE = 0.15
_SETTLED = 0.9
_SEVERAL = 3


def finding(
    kind: str,
    split: str,
    subject: str,
    severity: Severity,
    title: str,
    evidence: list[str],
    advice: str | None,
    reference: str | None = None,
) -> Finding:
    """A finding of the area ``curves``; ``kind`` and ``split`` (``train`` or a validation set) make its id."""
    return Finding(
        id=f"{kind}:{split}:{subject}",
        severity=severity,
        area="curves",
        subject=subject,
        title=title,
        evidence=evidence,
        advice=advice,
        reference=reference,
    )


def training_findings(
    subject: str, reading: TrainingReading, *, still_learning: bool, carried_over: bool
) -> list[Finding]:
    """Findings of one run's training loss.

    A cause silences what only repeats it: a run that diverged is not also called restless or standing still, a jump
    that the warm-up explains is no spike. ``still_learning``: a validation loss or a task metric goes on improving, so
    that a flat training loss is no standstill; ``carried_over``: validation falls beside training at the end (or is not
    known), so that more training is worth it.
    """
    if reading.divergence is not None:
        spikes = _spikes(subject, reading, until=reading.divergence.step)
        return [_divergence(subject, reading.divergence), *spikes]
    found = [*_warm_up(subject, reading), *_spikes(subject, reading, until=None)]
    if reading.warm_up is None:
        found += _high_rate(subject, reading)
    if reading.high_rate is None:
        found += _fluctuation(subject, reading)
    if not still_learning:
        found += _standstill(subject, reading)
    causes = (reading.standstill, reading.high_rate, reading.stairs, reading.warm_up)
    if carried_over and all(cause is None for cause in causes):
        found += _low_rate(subject, reading)
    return [*found, *_stairs(subject, reading)]


def _divergence(subject: str, seen: Divergence) -> Finding:
    evidence = []
    if seen.ends_broken:
        title = f"{subject}: the training loss is no number from step {seen.step} on"
        evidence.append(f"{len(seen.broken)} logged losses are NaN or infinite, the last ones among them.")
    else:
        title = f"{subject}: the training loss diverges from step {seen.step} on"
        evidence.append(f"The training loss was {_number(seen.lowest)} and ends at {_number(seen.final)}; it stays up.")
    evidence.append("A change of the data on the way (a curriculum, another mix) can raise the loss as well.")
    advice = (
        f"Lower the learning rate to a third and start again from a checkpoint before step {seen.step}: a step too "
        "large is by far the commonest cause."
    )
    return finding("divergence", "train", subject, "critical", title, evidence, advice)


def _spikes(subject: str, reading: TrainingReading, until: int | None) -> Iterator[Finding]:
    spikes = [spike for spike in reading.spikes or () if until is None or spike.step < until]
    if reading.warm_up is not None:
        hump = reading.warm_up
        spikes = [spike for spike in spikes if not hump.peak_step <= spike.step <= hump.recovered]
    if not spikes:
        return
    open_ended = [spike for spike in spikes if spike.recovered is None]
    steps = ", ".join(str(spike.step) for spike in spikes[:_SHOWN]) + (" …" if len(spikes) > _SHOWN else "")
    evidence = [
        f"Step {spike.step}: loss {spike.loss:.4g}, {spike.height:.2f} times its trend; "
        + ("not back by the end." if spike.recovered is None else f"back by step {spike.recovered}.")
        for spike in spikes[:_SHOWN]
    ]
    evidence.append("A jump that came back has cost a few steps and, by itself, does not make the checkpoint worse.")
    harmless = not open_ended and len(spikes) < _SEVERAL
    yield finding(
        "spikes",
        "train",
        subject,
        "info" if harmless else "warning",
        f"{subject}: the training loss jumps at step {steps}" + (", and comes back" if not open_ended else ""),
        evidence,
        "Look at the batches of those steps; nothing has to change while the loss comes back."
        if harmless
        else "Clip gradients lower (max_grad_norm 0.3): jumps that repeat or stay come from single steps too large.",
    )


def _warm_up(subject: str, reading: TrainingReading) -> Iterator[Finding]:
    seen = reading.warm_up
    if seen is None:
        return
    evidence = [
        f"The learning rate is at its peak from step {seen.peak_step}; the loss rises from {seen.before:.4g} to "
        f"{seen.jump:.4g} at step {seen.jump_step} and is back at step {seen.recovered}.",
        "The run recovered: this does not mean that its result is bad, only that the first steps were wasted.",
    ]
    if seen.gradient is not None:
        evidence.insert(1, f"The gradient norm was {seen.gradient:.1f} times its later median there.")
    yield finding(
        "warm_up",
        "train",
        subject,
        "warning",
        f"{subject}: the warm-up is too short, the loss jumps at step {seen.jump_step}",
        evidence,
        "Double the warm-up: the loss falls at small rates and jumps when the full rate arrives.",
    )


def _high_rate(subject: str, reading: TrainingReading) -> Iterator[Finding]:
    seen = reading.high_rate
    if seen is None:
        return
    evidence = [
        f"While the rate was near its peak ({seen.rate:.3g}, until step {seen.until}) the loss changed by "
        f"{100 * seen.high_change:+.1f} %; as the rate decayed it changed by {100 * seen.decay_change:+.1f} %."
    ]
    if seen.noise_ratio is not None:
        evidence.append(f"Noise between rows was {seen.noise_ratio:.1f} times that at low rates.")
    evidence.append(
        "Some fall in the decay is normal, and large with a constant rate followed by a decay; here the high phase "
        "gained nothing by itself."
    )
    yield finding(
        "learning_rate_high",
        "train",
        subject,
        "warning",
        f"{subject}: the learning rate is too high, the loss falls only as it decays",
        evidence,
        "Divide the learning rate by three: the steps at its peak did not lower the loss.",
    )


def _fluctuation(subject: str, reading: TrainingReading) -> Iterator[Finding]:
    seen = reading.fluctuation
    if seen is None or not seen.unruly:
        return
    yield finding(
        "fluctuation",
        "train",
        subject,
        "warning",
        f"{subject}: the training loss fluctuates by {100 * seen.noise:.0f} % about its course",
        [
            f"Between means over a hundredth of the run the loss varies by {100 * seen.noise:.0f} % (robust standard "
            f"deviation); its course changed by {100 * _share(-seen.progress):+.0f} % in all.",
            "Noise of the training loss is no harm by itself where few rows are averaged: the validation loss decides.",
        ],
        "Double the effective batch (gradient accumulation): the steps follow noise more than the gradient.",
    )


def _share(logarithm: float) -> float:
    from math import expm1

    return expm1(logarithm)


def _standstill(subject: str, reading: TrainingReading) -> Iterator[Finding]:
    seen = reading.standstill
    if seen is None:
        return
    evidence = [
        f"From step {seen.step} ({100 * seen.share:.0f} % of the run) to the end the loss stays at {seen.level:.4g} "
        f"({100 * _share(seen.change):+.1f} %); before, it had fallen by {100 * seen.fallen:.0f} %."
    ]
    if seen.base_rate:
        evidence.append("That is the loss of a model that knows the label frequencies and nothing of the texts.")
        evidence.append("Metrics that do not use the threshold 0.5 can still be above chance: look at the ranking.")
        yield finding(
            "base_rate",
            "train",
            subject,
            "warning",
            f"{subject}: the training loss stands on the base-rate plateau from step {seen.step} on",
            evidence,
            "Raise the learning rate of the head tenfold: it has to leave the label frequencies first.",
        )
        return
    stuck = seen.share <= _EARLY_SHARE and seen.fallen < _SETTLED
    evidence.append("A loss that has reached what the data allows stands still too: compare the task metric.")
    yield finding(
        "standstill",
        "train",
        subject,
        "warning" if stuck else "info",
        f"{subject}: the training loss stands still from step {seen.step} on",
        evidence,
        "Raise the learning rate threefold and watch whether the level moves: nearly all of the run changed nothing."
        if stuck
        else "Train fewer steps: the later ones did not lower the training loss.",
    )


def _low_rate(subject: str, reading: TrainingReading) -> Iterator[Finding]:
    seen = reading.low_rate
    if seen is None:
        return
    yield finding(
        "learning_rate_low",
        "train",
        subject,
        "warning",
        f"{subject}: the training loss falls steadily to the end: a low learning rate or a short run",
        [
            f"Per unit of learning rate spent, the second half lowered the loss by {100 * seen.steadiness:.0f} % of "
            f"what the first half did; in all it fell by {100 * seen.fallen:.0f} %, to {seen.loss:.4g}.",
            "This does not say which of the two it is, nor that longer training would not over-fit: watch validation.",
        ],
        "Raise the learning rate threefold, or train twice as long: the loss has not begun to settle.",
    )


def _stairs(subject: str, reading: TrainingReading) -> Iterator[Finding]:
    seen = reading.stairs
    if seen is None:
        return
    steps = ", ".join(
        f"{step} ({100 * _share(-drop):+.0f} %)"
        for step, drop in list(zip(seen.steps, seen.drops, strict=True))[:_SHOWN]
    )
    yield finding(
        "staircase",
        "train",
        subject,
        "info",
        f"{subject}: the training loss falls in stairs at epoch borders (memorisation)",
        [
            f"At the borders it changes by {100 * _share(-seen.excess):+.0f} % more than within epochs: step {steps}.",
            "Items seen again are remembered: these falls are no progress on new texts, and flat treads between them "
            "are no convergence. By itself this does not mean that validation suffers.",
        ],
        "Take the number of epochs from the validation loss or the task metric, not from this curve.",
    )


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"
