"""Feeds the collapse alarm from a run's log and evaluations, and passes on what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from lorascope.training.collapse import CollapseAlarm, CollapseNotice


class CollapseWatch(TrainerCallback, ExportableState):  # type: ignore[misc]  # untyped bases
    """``notes`` collects what was said, each once.

    They are saved in each checkpoint: a resumed run has them, reads its log first, and says nothing twice.
    """

    def __init__(
        self, alarm: CollapseAlarm, *, multi: bool, labels: int, plateau: float, say: Callable[[str], None]
    ) -> None:
        """``labels`` is the width of the head, ``plateau`` the loss of the label frequencies alone.

        ``say`` is told at once what is noticed.
        """
        self.plateau = plateau
        self._alarm, self._multi, self._labels, self._say = alarm, multi, labels, say
        self._step = 0
        self.notes: list[str] = []

    def state(self) -> dict[str, Any]:
        """The notes, in the form that the trainer saves."""
        return {"args": {}, "attributes": {"notes": list(self.notes)}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the notes of the sittings before, and read their log, in which evaluations left no outputs."""
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        self.notes += [note for note in (saved or {}).get("attributes", {}).get("notes", []) if note not in self.notes]
        for row in state.log_history:
            notice = self._alarm.train_loss(int(row["step"]), _task_loss(row)) if "loss" in row else None
            if saved is None:
                self._heard(notice)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember the step, for the evaluation that may follow."""
        self._step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Feed a training row."""
        if logs and "loss" in logs:
            self._heard(self._alarm.train_loss(state.global_step, _task_loss(logs)))

    def evaluated(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Feed the outputs of a validation set, as logits and the targets that the trainer has."""
        logits = logits.astype(np.float64)
        if self._multi:
            given, truth = expit(logits), targets > 0.5
        else:
            given, truth = (
                softmax(logits, axis=1),
                np.eye(self._labels, dtype=bool)[targets.astype(np.int64).reshape(-1)],
            )
        self._heard(self._alarm.evaluation(self._step, given, truth))

    def _heard(self, notice: CollapseNotice | None) -> None:
        if notice is None:
            return
        text = notice.text if notice.advice is None else f"{notice.text}. {notice.advice}"
        if text not in self.notes:
            self.notes.append(text)
            self._say(text)


def _task_loss(row: Mapping[str, float]) -> float:
    """The task's part of a training row's loss, without penalties and consistency terms."""
    return float(row.get("loss_task", row["loss"]))
