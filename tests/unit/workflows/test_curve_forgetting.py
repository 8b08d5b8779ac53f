"""Forgetting during training: from the probe and KL rows of a log to one finding, and what it silences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lorascope.data.logs import Curve, TrainingLog, read_log
from lorascope.schema.comparison import Finding
from lorascope.workflows.curve_forgetting import forgetting_findings
from lorascope.workflows.curves import read

NONE = Curve((), ())
ID = "forgetting:train:run"


def curve(values: list[float | None], first: int = 0, every: int = 100) -> Curve:
    return Curve(tuple(range(first, first + every * len(values), every)), tuple(values))


def log(train: Curve = NONE, eval_loss: Curve | None = None, **metrics: Curve) -> TrainingLog:
    return TrainingLog(
        source=Path("trainer_state.json"),
        train=train,
        eval={} if eval_loss is None else {"val": eval_loss},
        grad_norm=NONE,
        learning_rate=NONE,
        epochs=NONE,
        metrics={"eval": metrics},
    )


def accuracy(*values: float | None, **more: Curve) -> TrainingLog:
    return log(probe_en_accuracy=curve(list(values)), **more)


def only(found: list[Finding]) -> Finding:
    (one,) = found
    assert (one.id, one.area, one.subject) == (ID, "curves", "run")
    return one


def test_a_falling_probe_is_a_warning_with_steps_numbers_and_one_change() -> None:
    made = accuracy(
        0.75, 0.6, 0.75, 0.65, 0.6, probe_en_gold_margin=curve([1.5, 1.0, 0.5, 0.4, 0.2]), kl_to_base=curve([0.0, 0.8])
    )
    found = only(forgetting_findings("run", made))
    assert found.severity == "warning"
    assert found.title == "run forgets as it is trained: the en probe's accuracy falls from 75 % to 60 %"
    evidence = " ".join(found.evidence)
    assert "0.750 at step 0, 0.600 at step 400" in evidence
    assert "and more from step 300 on" in evidence  # step 100 was low as well, and came back
    assert "30 % is lost" in evidence
    assert "from 1.5 to 0.2" in evidence
    assert "0.8 nats a token at step 100" in evidence
    assert "does not say" in evidence
    assert found.advice is not None
    assert found.advice.startswith("Mix 5 %")


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        ((0.75, 0.49), "critical"),
        ((0.75, 0.51), "warning"),
        ((0.75, 0.2), "critical"),
        ((0.33, 0.27), "warning"),  # most of the little above chance, and but a few items
        ((0.75, 0.70), "warning"),
        ((None, 0.75, None, 0.70, None), "warning"),
    ],
)
def test_severity(values: tuple[float | None, ...], severity: str) -> None:
    assert only(forgetting_findings("run", accuracy(*values))).severity == severity


@pytest.mark.parametrize(
    "values",
    [
        (0.75, 0.71),
        (0.75, 0.4, 0.75),
        (0.75,),
        (None, None),
        (0.6, 0.8),
        (0.28, 0.1),  # near chance there is nothing to lose
    ],
)
def test_nothing_is_said_within_noise_without_a_second_evaluation_or_near_chance(
    values: tuple[float | None, ...],
) -> None:
    assert forgetting_findings("run", accuracy(*values)) == []


def test_the_worst_language_names_it_and_all_that_fell_are_evidence() -> None:
    found = only(forgetting_findings("run", accuracy(0.8, 0.7, probe_zh_accuracy=curve([0.7, 0.4]))))
    assert (found.severity, "the zh probe" in found.title) == ("critical", True)
    assert [text[:22] for text in found.evidence[:2]] == ["Accuracy on the en pro", "Accuracy on the zh pro"]


def test_a_margin_that_holds_is_told_of() -> None:
    found = only(forgetting_findings("run", accuracy(0.75, 0.65, probe_en_gold_margin=curve([1.0, 1.1]))))
    assert any("margin does not fall (1 to 1.1)" in text for text in found.evidence)


def test_a_late_first_evaluation_is_named() -> None:
    found = only(forgetting_findings("run", log(probe_en_accuracy=curve([0.75, 0.6], first=50))))
    assert any("first evaluation is at step 50" in text for text in found.evidence)


def test_the_distance_alone() -> None:
    near = only(forgetting_findings("run", log(kl_to_base=curve([0.0, 0.2, 0.31]))))
    assert (near.severity, near.advice) == ("info", None)
    assert "0.31 nats a token" in near.title
    assert any("not that anything was forgotten" in text for text in near.evidence)
    far = only(forgetting_findings("run", log(kl_to_base=curve([0.0, 1.2, 0.9, 1.1, 1.6]))))
    assert (far.severity, far.advice is not None) == ("warning", True)
    assert "It is above 1 nat from step 300 on." in far.evidence
    held = only(forgetting_findings("run", accuracy(0.75, 0.74, kl_to_base=curve([0.0, 1.6]))))
    assert held.severity == "info"
    assert any("(en) does not fall by 5 points" in text for text in held.evidence)
    blind = only(forgetting_findings("run", accuracy(0.26, 0.25, kl_to_base=curve([0.0, 1.6]))))
    assert blind.severity == "warning"
    assert forgetting_findings("run", log(kl_to_base=curve([0.0]))) == []
    assert forgetting_findings("run", log()) == []


STEPS = np.arange(1, 201) * 10
SLOW = Curve(tuple(STEPS.tolist()), tuple((3 * np.exp(-STEPS / 4000)).tolist()))
FALLING = Curve(tuple(range(250, 2001, 250)), tuple((3 * np.exp(-np.arange(250, 2001, 250) / 4000)).tolist()))


def kinds(made: TrainingLog) -> set[str]:
    return {found.id.split(":")[0] for found in read("run", "base", made).findings}


def test_longer_training_is_not_asked_of_a_run_that_forgets() -> None:
    longer = {"learning_rate_low", "still_falling"}
    forgot, kept = curve([0.75, 0.5], every=2000), curve([0.75, 0.75], every=2000)
    assert longer <= kinds(log(SLOW, FALLING, probe_en_accuracy=kept, kl_to_base=curve([0.0, 0.2])))
    found = kinds(log(SLOW, FALLING, probe_en_accuracy=forgot))
    assert "forgetting" in found
    assert not found & longer


def test_divergence_is_the_cause_of_all_that_follows() -> None:
    broken = Curve(SLOW.steps, SLOW.values[:150] + (None,) * 50)
    found = kinds(log(broken, FALLING, probe_en_accuracy=curve([0.75, 0.25], every=2000)))
    assert "divergence" in found
    assert "forgetting" not in found


def test_from_a_trainers_log(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 3 - step / 100} for step in range(10, 101, 10)]
    for step, value in ((0, 0.75), (50, 0.6), (100, 0.45)):
        rows.append({"step": step, "eval_val1_loss": 2.0 - step / 100, "eval_val1_accuracy": 0.5})
        rows.append({"step": step, "eval_val2_loss": 2.0 - step / 100, "eval_kl_to_base": step / 80,
                     "eval_probe_en_accuracy": value, "eval_probe_en_gold_margin": value})  # fmt: skip
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": rows}), encoding="utf-8")
    outcome = read("run", "base", read_log(tmp_path / "trainer_state.json"))
    found = next(one for one in outcome.findings if one.id == ID)
    assert found.severity == "critical"
    series = {one.name: (one.x, one.y) for one in outcome.series}
    assert series["eval_probe_en_accuracy"] == ([0, 50, 100], [0.75, 0.6, 0.45])
    assert series["eval_kl_to_base"][1][-1] == 1.25
