"""From a log to findings: ids, severities, one change to make, and which finding silences which."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lorascope.data.logs import Curve, TrainingLog
from lorascope.schema.comparison import Finding
from lorascope.workflows.curves import read, task_metric

NONE = Curve((), ())
STEPS = np.arange(1, 201) * 10
NOISE = np.exp(np.random.default_rng(0).normal(0, 0.02, 200))
FALLING = (1 + 2 * (1 + STEPS / 100) ** -0.7) * NOISE


def curve(steps: np.ndarray, values: np.ndarray | list[float]) -> Curve:
    known = (float(value) if math.isfinite(value) else None for value in values)
    return Curve(tuple(int(step) for step in steps), tuple(known))


def log(
    train: np.ndarray,
    losses: list[float] | np.ndarray = (),  # type: ignore[assignment]
    metrics: dict[str, list[float]] | None = None,
    **curves: Curve,
) -> TrainingLog:
    at = np.linspace(2000 / max(len(losses), 1), 2000, len(losses)).astype(int)
    named = {name: curve(at, values) for name, values in (metrics or {}).items()}
    return TrainingLog(
        source=Path("trainer_state.json"),
        train=curve(STEPS, train),
        eval={"val": curve(at, losses)} if len(losses) else {},
        grad_norm=NONE,
        learning_rate=curves.get("learning_rate", NONE),
        epochs=curves.get("epochs", NONE),
        metrics={"val": named},
    )


def findings(training_log: TrainingLog, plateau_loss: float | None = None) -> dict[str, Finding]:
    return {found.id: found for found in read("run", "base", training_log, plateau_loss=plateau_loss).findings}


OVERFIT = [2.0, 1.5, 1.2, 1.0, 1.03, 1.1, 1.2, 1.3]


def test_overfitting_names_criteria_steps_and_one_change() -> None:
    found = findings(log(FALLING, OVERFIT))["overfit:val:run"]
    assert (found.severity, found.reference) == ("warning", "Prechelt 1998")
    evidence = " ".join(found.evidence)
    assert "GL above 5 % from step 1500" in evidence
    assert "three successive rises (UP3) from step 1750" in evidence
    assert "does not mean" in evidence
    assert found.advice is not None
    assert "step 1000" in found.advice


def test_a_metric_that_improves_decides() -> None:
    rising = findings(log(FALLING, OVERFIT, {"accuracy": [0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65]}))
    found = rising["overfit:val:run"]
    assert found.severity == "info"
    assert "while accuracy improves" in found.title
    assert found.advice is not None
    assert "step 2000" in found.advice
    assert "keep the checkpoint of step 2000" in rising["checkpoint:val:run"].title
    assert "The validation loss alone would keep step 1000." in rising["checkpoint:val:run"].evidence
    falling = findings(log(FALLING, OVERFIT, {"accuracy": [0.2, 0.3, 0.4, 0.45, 0.44, 0.44, 0.43, 0.4]}))
    assert falling["overfit:val:run"].severity == "warning"


def test_divergence_silences_what_repeats_it() -> None:
    train = FALLING.copy()
    train[120:] = 6.0 * NOISE[120:]
    found = findings(log(train, [2.0, 1.5, 1.3, 1.2, 5.0, 6.0, 6.0, 6.0]))
    assert set(found) == {"divergence:train:run", "checkpoint:val:run"}
    assert found["divergence:train:run"].severity == "critical"
    train[150:] = np.nan
    title = findings(log(train))["divergence:train:run"].title
    assert "no number from step 1510" in title


def test_one_spike_that_came_back_is_information_and_three_are_a_warning() -> None:
    train = FALLING.copy()
    train[60] *= 3
    once = findings(log(train))["spikes:train:run"]
    assert once.severity == "info"
    assert "and comes back" in once.title
    assert "Step 610" in once.evidence[0]
    train[[100, 150]] *= 3
    assert findings(log(train))["spikes:train:run"].severity == "warning"


def test_the_base_rate_is_named_only_where_it_is_given() -> None:
    flat = (0.2 + 0.5 * np.exp(-STEPS / 20)) * NOISE
    assert "base_rate:train:run" in findings(log(flat), plateau_loss=0.2)
    found = findings(log(flat))
    assert found["standstill:train:run"].severity == "warning"
    assert "base_rate:train:run" not in found


def test_a_flat_training_loss_beside_a_metric_that_improves_is_no_standstill() -> None:
    flat = (0.2 + 0.5 * np.exp(-STEPS / 20)) * NOISE
    falling = np.linspace(0.5, 0.2, 10)
    assert "standstill:train:run" not in findings(log(flat, falling))


def test_longer_training_is_not_advised_where_validation_does_not_follow() -> None:
    straight = (1 - 0.4 * STEPS / 2000) * NOISE
    assert "learning_rate_low:train:run" in findings(log(straight, np.linspace(0.97, 0.6, 10)))
    assert "learning_rate_low:train:run" not in findings(log(straight, [1, 0.9, 0.88, 0.87, 0.87, 0.87, 0.87, 0.87]))
    assert "learning_rate_low:train:run" not in findings(log(straight, OVERFIT))


def test_a_validation_loss_that_never_fell_while_training_did() -> None:
    found = findings(log(FALLING, [1.5, 1.501, 1.499, 1.5, 1.502, 1.5]))["no_fall:val:run"]
    assert found.severity == "warning"
    assert found.advice is not None
    assert "format" in found.advice


def test_stairs_are_information() -> None:
    epochs = STEPS / 500
    train = 2.0 * 0.7 ** np.floor(epochs - 1e-9) * NOISE
    found = findings(log(train, epochs=curve(STEPS, epochs)))["staircase:train:run"]
    assert found.severity == "info"
    assert "step 510" in " ".join(found.evidence)


@pytest.mark.parametrize(("losses", "severity"), [([2.0, 1.5, 1.2, 1.1], "good"), ([2.0, 1.0, 1.2], "info")])
def test_the_checkpoint_to_keep_is_always_named(losses: list[float], severity: str) -> None:
    assert findings(log(FALLING, losses))["checkpoint:val:run"].severity == severity


def test_every_finding_has_evidence_and_a_unique_id() -> None:
    train = FALLING.copy()
    train[60] *= 3
    found = read("run", "base", log(train, OVERFIT)).findings
    assert len({entry.id for entry in found}) == len(found)
    assert all(entry.evidence and entry.area == "curves" and entry.subject == "run" for entry in found)


def test_metrics_without_a_known_direction_are_not_consulted() -> None:
    some = curve(STEPS[:3], [0.1, 0.2, 0.3])
    assert task_metric({"strange": some, "perplexity": some, "kl_to_base": some}) is None
    assert task_metric({"strange": some, "hamming_loss": some}) == ("hamming_loss", some, False)
    assert task_metric({"rouge-l": some}) == ("rouge-l", some, True)
