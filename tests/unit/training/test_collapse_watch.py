from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lorascope.training.collapse import CollapseNotice
from lorascope.training.collapse_watch import CollapseWatch


class Alarm:
    """Remembers what it is fed, and says what it was told to."""

    def __init__(self, *notices: CollapseNotice | None) -> None:
        self.losses: list[tuple[int, float]] = []
        self.evaluations: list[tuple[int, Any, Any]] = []
        self._notices = list(notices)

    def _next(self) -> CollapseNotice | None:
        return self._notices.pop(0) if self._notices else None

    def train_loss(self, step: int, loss: float) -> CollapseNotice | None:
        self.losses.append((step, loss))
        return self._next()

    def evaluation(self, step: int, probabilities: Any, targets: Any) -> CollapseNotice | None:
        self.evaluations.append((step, probabilities, targets))
        return self._next()


def watch(alarm: Alarm, said: list[str], *, multi: bool = True) -> CollapseWatch:
    return CollapseWatch(alarm, multi=multi, labels=3, plateau=0.6, say=said.append)  # type: ignore[arg-type]


def test_the_task_loss_of_a_training_row_is_fed_alone() -> None:
    alarm = Alarm()
    watched = watch(alarm, [])
    state = SimpleNamespace(global_step=6)
    watched.on_log(None, state, None, {"loss": 3.0, "loss_task": 0.5, "loss_penalty": 2.5})
    watched.on_log(None, state, None, {"loss": 0.4})
    watched.on_log(None, state, None, {"eval_first_loss": 0.7})
    assert alarm.losses == [(6, 0.5), (6, 0.4)]


def resumed(rows: list[dict[str, float]], **saved: Any) -> Any:
    return SimpleNamespace(global_step=4, log_history=rows, stateful_callbacks=saved)


ROWS = [{"step": 2, "loss": 0.3}, {"step": 2, "eval_first_loss": 0.3}, {"step": 4, "loss": 0.2}]
PLATEAU = CollapseNotice(kind="collapse", step=2, text="It sits on the plateau", advice="Raise the rate.")
SAID = "It sits on the plateau. Raise the rate."


def test_a_resumed_run_hears_its_log_first_and_says_nothing_twice() -> None:
    alarm, said = Alarm(PLATEAU, PLATEAU), list[str]()
    watched = watch(alarm, said)
    watched.on_train_begin(None, resumed(ROWS), None)
    assert alarm.losses == [(2, 0.3), (4, 0.2)]
    assert said == watched.notes == [SAID]


def test_notes_of_the_sittings_before_are_kept_and_not_said_again() -> None:
    first = watch(Alarm(PLATEAU), [])
    first.on_log(None, SimpleNamespace(global_step=2), None, {"loss": 0.3})
    alarm, said = Alarm(PLATEAU, None), list[str]()
    watched = watch(alarm, said)
    watched.on_train_begin(None, resumed(ROWS, CollapseWatch=first.state()), None)
    assert alarm.losses == [(2, 0.3), (4, 0.2)]
    assert watched.notes == [SAID]
    assert said == []


@pytest.mark.parametrize("multi", [True, False])
def test_logits_become_probabilities_and_targets_a_matrix(multi: bool) -> None:
    alarm = Alarm()
    watched = watch(alarm, [], multi=multi)
    watched.on_step_end(None, SimpleNamespace(global_step=8), None)
    logits = np.array([[0.0, 2.0, -2.0], [1.0, 1.0, 1.0]], dtype=np.float32)
    targets = np.array([[0, 1, 0], [0, 0, 1]], dtype=np.float32) if multi else np.array([1, 2])
    watched.evaluated(logits, targets)
    step, probabilities, truth = alarm.evaluations[0]
    raised = np.exp(logits.astype(float))
    expected = raised / (1 + raised) if multi else raised / raised.sum(axis=1, keepdims=True)
    assert step == 8
    assert np.allclose(probabilities, expected)
    assert truth.tolist() == [[False, True, False], [False, False, True]]
